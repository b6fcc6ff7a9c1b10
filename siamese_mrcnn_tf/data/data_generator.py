"""Training samples: a scene, one of its classes, references of that class, and what the network is to make of them.

Samples are numbered. Sample n of a run depends on the data set, the configuration, the seed and n alone: not on other
samples, workers or where the run was resumed. Nothing here imports Keras, so that worker processes start fast. Boxes
are (y1, x1, y2, x2) in pixels of the molded scene, y2 and x2 exclusive.
"""

import dataclasses
import enum
import itertools
import logging
from collections.abc import Iterator

import numpy as np

from ..ops.anchors import pyramid_anchors
from ..ops.boxes import extract_bboxes
from ..ops.image_meta import compose_image_meta
from . import molding, resize
from .augmentation import as_augmentation, fliplr
from .references import cut_reference, draw_reference, has_reference
from .rpn_targets import build_rpn_targets

logger = logging.getLogger(__name__)

INPUT_NAMES = (  # of a batch, in the order of the training model's inputs
    *("input_image", "input_image_meta", "input_target", "input_rpn_match", "input_rpn_bbox"),
    *("input_gt_class_ids", "input_gt_boxes", "input_gt_masks"),
)
_MATCH = 1  # the class of all ground truth: what looks like the references
_OTHER = 0  # of an object of another class: background, like the padding


# what a random number is for: a part of its key
_Draw = enum.IntEnum("_Draw", ["ORDER", "CLASS", "AUGMENTATION", "RPN_TARGETS", "INSTANCES", "CROP"])


@dataclasses.dataclass(frozen=True)
class Sample:
    """One training sample.

    Attributes:
        image_id, class_id: of the data set.
        references: [(image id, annotation index)] of the K references.
        image: uint8 [height, width, 3], the molded scene, the mean not subtracted.
        image_meta: float64 [IMAGE_META_SIZE].
        targets: uint8 [K, TARGET_MAX_DIM, TARGET_MAX_DIM, 3], the mean not subtracted.
        rpn_match: int32 [anchors], 1 positive, -1 negative, 0 neutral.
        rpn_bbox: float64 [RPN_TRAIN_ANCHORS_PER_IMAGE, (dy, dx, log(dh), log(dw))].
        gt_class_ids: int32 [instances], 1, or -1 for crowds; with USE_HARD_NEGATIVES 0 for objects of other classes.
        gt_boxes: int32 [instances, (y1, x1, y2, x2)].
        gt_masks: bool [h, w, instances], mini masks or whole ones as the configuration says.
    """

    image_id: int
    class_id: int
    references: list
    image: np.ndarray
    image_meta: np.ndarray
    targets: np.ndarray
    rpn_match: np.ndarray
    rpn_bbox: np.ndarray
    gt_class_ids: np.ndarray
    gt_boxes: np.ndarray
    gt_masks: np.ndarray


class TrainingSamples:
    """Makes the numbered samples of a data set.

    The images that have an instance of an active class, crowds aside, are gone through in a new random order each pass.
    Of each a random active class in it is searched for; the instances of other classes are background. With
    QUERIES_PER_IMAGE = n, the samples n * i to n * i + n - 1 search one image, for classes that differ if it has as
    many.

    Args:
        dataset: IndexedCocoDataset with indices built; its ACTIVE_CLASSES are trained.
        config: a Config.
        seed: a number from 0 on.
        augmentation: as in the module of that name, applied to the resized scene and its masks; None leaves them.
        shuffle: False goes through the images in their order.
        purpose: what the samples are for; said of the classes that cannot be used.

    Attributes:
        class_ids: the classes that are trained: active, with at least one instance that can be a reference.
        image_ids: the images of a pass.

    Raises:
        ValueError: nothing to train on, or a negative seed.
    """

    def __init__(self, dataset, config, *, seed=0, augmentation=None, shuffle=True, purpose="training"):
        if seed < 0:
            raise ValueError(f"seed = {seed}: expected 0 or more")
        self.dataset, self.config, self.seed, self.augmentation = dataset, config, seed, augmentation
        self.shuffle = shuffle
        self.class_ids = _usable_classes(dataset, config, purpose)
        wanted = set(self.class_ids)
        present = [wanted.intersection(map(int, classes)) for classes in dataset.image_category_index]
        self.image_ids = np.flatnonzero([bool(classes) for classes in present])
        self.anchors = pyramid_anchors(config, config.IMAGE_SHAPE)
        self._order = None, None  # pass, its permutation of image_ids
        self._reported = set()  # images without a usable instance that were told of

    def image_of(self, number):
        """Image id of sample `number`."""
        run, place = divmod(number // self.config.QUERIES_PER_IMAGE, len(self.image_ids))
        if not self.shuffle:
            return int(self.image_ids[place])
        last, order = self._order
        if run != last:
            order = np.random.default_rng([self.seed, run, _Draw.ORDER]).permutation(self.image_ids)
            self._order = run, order
        return int(order[place])

    def __len__(self) -> int:
        """Samples of one pass; larger numbers belong to later passes."""
        return len(self.image_ids) * self.config.QUERIES_PER_IMAGE

    def __iter__(self) -> Iterator[Sample]:
        """The samples of the first pass."""
        return map(self.__getitem__, range(len(self)))

    def __getitem__(self, number: int) -> Sample:
        """Sample `number`, from 0 on; numbers do not end with the pass.

        Raises:
            IndexError: a negative number.
            RuntimeError: the sample could not be made; names the image.
        """
        if number < 0:
            raise IndexError(f"training sample {number}: expected a number from 0 on")
        image_id = self.image_of(number)
        place, query = divmod(number, self.config.QUERIES_PER_IMAGE)
        try:
            return self._make(image_id, place // len(self.image_ids), query)
        except Exception as error:  # whatever decoders and augmenters raise: without the name it cannot be mended
            reference = self.dataset.image_reference(image_id)
            raise RuntimeError(f"training sample {number}, image {reference}: {error}") from error

    def _make(self, image_id, run, query):
        dataset, config = self.dataset, self.config
        coco_id = dataset.image_info[image_id]["id"]

        def rng(purpose, *further):
            return np.random.default_rng([self.seed, run, coco_id, purpose, *further])

        original = dataset.load_image(image_id)
        scene, window, scale, *rule = resize.resize_image(
            original, *molding.scene_resize_args(config), rng=rng(_Draw.CROP)
        )
        meta = compose_image_meta(coco_id, original.shape, scene.shape, window, scale, np.ones(config.NUM_CLASSES))
        class_id, scene, masks, gt_class_ids = self._choose_class(image_id, scene, (scale, *rule), rng, query)
        key = {"seed": self.seed, "run": run, "image_id": image_id, "config": config}
        shots = range(query * config.NUM_TARGETS, (query + 1) * config.NUM_TARGETS)
        references = [draw_reference(dataset, class_id, shot=shot, **key) for shot in shots]
        boxes, own = extract_bboxes(masks), (query,) if query else ()
        targets_rng = rng(_Draw.RPN_TARGETS, *own)
        rpn = build_rpn_targets(scene.shape, self.anchors, gt_class_ids, boxes, config, rng=targets_rng)
        chosen = _chosen_instances(gt_class_ids, config.MAX_GT_INSTANCES, rng(_Draw.INSTANCES, *own))
        boxes, masks = boxes[chosen], masks[..., chosen]
        return Sample(
            image_id=image_id,
            class_id=class_id,
            references=references,
            image=scene,
            image_meta=meta,
            targets=np.stack([_cut(dataset, config, reference) for reference in references]),
            rpn_match=rpn[0],
            rpn_bbox=rpn[1],
            gt_class_ids=gt_class_ids[chosen],
            gt_boxes=boxes,
            gt_masks=resize.minimize_mask(boxes, masks, config.MINI_MASK_SHAPE) if config.USE_MINI_MASK else masks,
        )

    def _choose_class(self, image_id, scene, rule, rng, query):
        """The class to search for, the scene, its masks [height, width, n] and 1 or -1 (crowds) for each of them.

        Another class is tried where nothing is left of the instances of the first at this size.
        """
        wanted = set(self.class_ids)
        present = [int(class_id) for class_id in self.dataset.image_category_index[image_id] if class_id in wanted]
        for class_id in np.roll(rng(_Draw.CLASS).permutation(present), -query).tolist():
            others = wanted - {class_id} if self.config.USE_HARD_NEGATIVES else set()
            masks, matches = _load_instances(self.dataset, image_id, class_id, others)
            masks, picture = resize.resize_mask(masks, *rule), scene
            if self.augmentation is not None:
                picture, masks = self.augmentation(scene, masks, rng(_Draw.AUGMENTATION))
            kept = masks.any(axis=(0, 1))
            masks, matches = masks[..., kept], matches[kept]
            if (matches > 0).any():
                break
        else:
            self._report(image_id)
        return class_id, picture, masks, matches

    def _report(self, image_id):
        if image_id not in self._reported:
            self._reported.add(image_id)
            logger.warning(
                "%s: none of its instances has a pixel left in the network's scene; it is trained on as background",
                self.dataset.image_reference(image_id),
            )


def collate(samples, config):
    """Samples as the training model takes them.

    Args:
        samples: sequence of Sample.
        config: a Config.

    Returns:
        dict by INPUT_NAMES: input_image float32 [batch, h, w, 3] and input_target float32 [batch, K, T, T, 3], the mean
        subtracted from both; input_image_meta float32 [batch, meta]; input_rpn_match int32 [batch, anchors, 1];
        input_rpn_bbox float32 [batch, rows, 4]; zero-padded to MAX_GT_INSTANCES: input_gt_class_ids int32 [batch, g],
        input_gt_boxes float32 [batch, g, (y1, x1, y2, x2)] in pixels, input_gt_masks bool [batch, h, w, g].

    Raises:
        ValueError: QUERIES_PER_IMAGE samples in a row, of which the first one's scene is encoded, show several.
    """
    _check_groups(samples, config.QUERIES_PER_IMAGE)
    count, rows = len(samples), config.MAX_GT_INSTANCES
    class_ids, boxes = np.zeros((count, rows), np.int32), np.zeros((count, rows, 4), np.float32)
    masks = np.zeros((count, *samples[0].gt_masks.shape[:2], rows), bool)
    for index, sample in enumerate(samples):
        found = len(sample.gt_class_ids)
        class_ids[index, :found], boxes[index, :found] = sample.gt_class_ids, sample.gt_boxes
        masks[index, ..., :found] = sample.gt_masks
    values = (
        np.stack([molding.mold_image(sample.image, config) for sample in samples]),
        np.stack([sample.image_meta for sample in samples]).astype(np.float32),
        np.stack([molding.mold_image(sample.targets, config) for sample in samples]),
        np.stack([sample.rpn_match for sample in samples])[..., None],
        np.stack([sample.rpn_bbox for sample in samples]).astype(np.float32),
        class_ids,
        boxes,
        masks,
    )
    return dict(zip(INPUT_NAMES, values, strict=True))


def _check_groups(samples, queries):
    for index, sample in enumerate(samples):
        first = index - index % queries
        if first < index and not np.array_equal(sample.image, samples[first].image):
            raise ValueError(
                f"samples {first} and {index} of a batch differ in their scene, but QUERIES_PER_IMAGE = {queries} in a "
                "row share one: the batch begins between them, or an augmentation draws random numbers of its own"
            )


def siamese_data_generator(
    dataset,
    config,
    shuffle=True,
    augmentation=None,
    random_rois=0,
    batch_size=1,
    detection_targets=False,
    diverse=0,
    *,
    seed=0,
):
    """Batches without end, as the original's function of that name: ([the eight inputs], []) by turns.

    Args:
        dataset, config, seed, shuffle: of `TrainingSamples`.
        augmentation: see `augmentation.as_augmentation`; the original's default was to mirror half of the images.
        batch_size: samples of a batch.
        random_rois, detection_targets, diverse: refused unless they are 0, what training always used.

    Raises:
        ValueError: one of these; batches that part the QUERIES_PER_IMAGE samples of a scene; or as `TrainingSamples`.
    """
    for name, value in {"random_rois": random_rois, "detection_targets": detection_targets, "diverse": diverse}.items():
        if value:
            raise ValueError(f"{name} = {value!r}: not supported here, expected {type(value)()!r}")
    augmentation = as_augmentation(augmentation)
    maker = TrainingSamples(dataset, config, seed=seed, augmentation=augmentation, shuffle=shuffle)
    for first in itertools.count(step=batch_size):
        samples = [maker[number] for number in range(first, first + batch_size)]
        yield list(collate(samples, config).values()), []


def load_image_gt(dataset, config, image_id, augment=False, augmentation=None, use_mini_mask=False, *, rng=None):
    """An image with all of its instances, as Matterport's function of that name.

    Args:
        dataset: a Dataset.
        config: a Config.
        image_id: of the data set.
        augment: mirror the image with probability 0.5 (Matterport's older way to say it).
        augmentation: see `augmentation.as_augmentation`; it is given the resized image and masks.
        use_mini_mask: cut masks to their boxes and resize them to MINI_MASK_SHAPE.
        rng: numpy.random.Generator of all chance; None starts a fresh one.

    Returns:
        image: uint8 [height, width, 3], resized and padded, the mean not subtracted.
        image_meta: float64 [12 + classes of the data set].
        class_ids: int32 [instances], negative for crowds.
        bbox: int32 [instances, (y1, x1, y2, x2)].
        mask: bool [height, width, instances], or [*MINI_MASK_SHAPE, instances].
    """
    rng = np.random.default_rng() if rng is None else rng
    original = dataset.load_image(image_id)
    mask, class_ids = dataset.load_mask(image_id)
    image, window, scale, *rule = resize.resize_image(original, *molding.scene_resize_args(config), rng=rng)
    mask = resize.resize_mask(mask, scale, *rule)
    if augment:
        image, mask = fliplr()(image, mask, rng)
    augmentation = as_augmentation(augmentation)
    if augmentation is not None:
        image, mask = augmentation(image, mask, rng)
    kept = mask.any(axis=(0, 1))
    mask, class_ids = mask[..., kept], np.asarray(class_ids)[kept]
    bbox = extract_bboxes(mask)
    active = np.zeros(dataset.num_classes)
    source = dataset.image_info[image_id]["source"]
    active[[info["source"] in ("", source) for info in dataset.class_info]] = 1
    if use_mini_mask:
        mask = resize.minimize_mask(bbox, mask, config.MINI_MASK_SHAPE)
    meta = compose_image_meta(image_id, original.shape, image.shape, window, scale, active)
    return image, meta, class_ids, bbox, mask


def _usable_classes(dataset, config, purpose):
    """Active classes with an instance that can be a reference; tells of the others."""
    usable = [class_id for class_id in map(int, dataset.ACTIVE_CLASSES) if has_reference(dataset, class_id, config)]
    unusable = [dataset.class_names[class_id] for class_id in dataset.ACTIVE_CLASSES if class_id not in usable]
    if not usable:
        raise ValueError(
            f"{dataset.set_name}: none of its {len(unusable)} active classes has an instance that could be a reference"
        )
    if unusable:
        logger.warning(
            "%s, images of %s: %d of %d classes have no instance that could be a reference and are left out: %s",
            *(dataset.set_name, purpose, len(unusable), len(unusable) + len(usable), ", ".join(unusable)),
        )
    return usable


def _cut(dataset, config, reference):
    """`references.cut_reference`; an error names the image that the reference is cut from."""
    try:
        return cut_reference(dataset, config, *reference)
    except ValueError as error:
        raise ValueError(f"reference from {dataset.image_reference(reference[0])}: {error}") from error


def _load_instances(dataset, image_id, class_id, others):
    """Masks bool [height, width, n] of a class, 1 or -1 (crowds) for each int32 [n]; then those of `others`, with 0."""
    category, others = dataset.class_info[class_id]["id"], {dataset.class_info[other]["id"] for other in others}
    found = []
    for index, annotation in enumerate(dataset.image_info[image_id]["annotations"]):
        if annotation["category_id"] == category:
            found.append((-_MATCH if annotation["iscrowd"] else _MATCH, index))
        elif annotation["category_id"] in others and not annotation["iscrowd"]:
            found.append((_OTHER, index))
    found.sort(key=lambda one: one[0] == _OTHER)
    masks = [dataset.instance_mask(image_id, index) for _, index in found]
    return np.stack(masks, axis=-1), np.array([match for match, _ in found], np.int32)


def _chosen_instances(gt_class_ids, most, rng):
    """Indices of `most` of the instances, or of all; objects of other classes leave first."""
    if len(gt_class_ids) <= most:
        return np.arange(len(gt_class_ids))
    wanted, others = np.flatnonzero(gt_class_ids != _OTHER), np.flatnonzero(gt_class_ids == _OTHER)
    if len(wanted) >= most:
        return rng.choice(wanted, most, replace=False)
    return np.concatenate([wanted, rng.choice(others, most - len(wanted), replace=False)])
