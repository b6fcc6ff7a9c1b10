"""Training samples: a scene, a target category, reference crops, and the RPN and head targets.

Samples are numbered. Sample n of a run depends only on the data set, the configuration, the seed and n: not on other
samples, on workers or on where the run was resumed. Nothing here imports Keras, so that worker processes start fast.
Boxes are (y1, x1, y2, x2) in pixels of the molded scene, y2 and x2 exclusive.
"""

import dataclasses
import enum
import itertools
import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import numpy as np

from ..config import Config
from ..io.errors import InputError, StateError
from ..ops.anchors import pyramid_anchors
from ..ops.boxes import extract_bboxes
from ..ops.image_meta import compose_image_meta
from . import molding, resize
from .annotations import CROWDS_OPTION
from .augmentation import Augmentation, as_augmentation, fliplr
from .custom import indexed_dataset
from .dataset import Dataset, IndexedCocoDataset
from .references import absent_classes, cut_reference, draw_reference, has_reference
from .rpn_targets import build_rpn_targets

logger = logging.getLogger(__name__)

Rng = np.random.Generator
Resizing = tuple[float, resize.Padding, resize.Crop | None]  # of a scene: arguments of `resize.resize_mask`

_INPUTS = "image image_meta target rpn_match rpn_bbox gt_class_ids gt_boxes gt_masks"
INPUT_NAMES = tuple(f"input_{name}" for name in _INPUTS.split())  # in the order of the training model's inputs
TARGET_CLASS = "input_target_class"  # a further input, with REFERENCE_CLASSES
_MATCH = 1  # class id of objects of the target category
_OTHER = 0  # class id of other objects: background, like the padding
_LOST_SIDE = 2  # pixels of the crowd that stands for an instance without a pixel in the scene

# the purpose of a random number, a part of its key
_Draw = enum.IntEnum("_Draw", "ORDER CLASS AUGMENTATION RPN_TARGETS INSTANCES CROP ABSENT ABSENT_CLASS")


@dataclasses.dataclass(frozen=True)
class Sample:
    """One training sample.

    Attributes:
        class_id: the target category, which the references show; it may be absent from the scene.
        references: [(image id, annotation index)] of the K references.
        image: uint8 [height, width, 3], the resized and padded scene, the mean not subtracted.
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
    references: list[tuple[int, int]]
    image: np.ndarray
    image_meta: np.ndarray
    targets: np.ndarray
    rpn_match: np.ndarray
    rpn_bbox: np.ndarray
    gt_class_ids: np.ndarray
    gt_boxes: np.ndarray
    gt_masks: np.ndarray


class TrainingSamples:
    """The numbered samples of a data set: `samples[number]`.

    A pass visits the images with an instance of an active class (crowds do not count) once, each pass in a new random
    order. The target category of a sample is a random active class of its image; instances of other classes are
    background. With QUERIES_PER_IMAGE = n, samples n * i to n * i + n - 1 share one image and take different classes
    while it has them. `len(samples)` is the length of a pass and a loop ends after one, but numbers go on: sample
    `len(samples)` is the first one of the second pass.

    In a share ABSENT_REFERENCE_RATIO of the samples the target category is a random active class that is not in the
    image, not even as a crowd: all anchors and rois are negative. Samples that share an image are drawn independently.
    An image with all active classes gives a usual sample instead.

    Args:
        dataset: with indices built; its ACTIVE_CLASSES are trained.
        augmentation: see the module `augmentation`; applied to the resized scene and its masks.
        shuffle: False visits the images in their order.
        purpose: names the samples in the warning about unusable classes.

    Attributes:
        class_ids: the active classes with at least one instance that can be a reference.
        image_ids: the images of a pass.

    Raises:
        ValueError: nothing to train on, or a negative seed.
    """

    def __init__(
        self,
        dataset: Dataset,
        config: Config,
        *,
        seed: int = 0,
        augmentation: Augmentation | None = None,
        shuffle: bool = True,
        purpose: str = "training",
    ) -> None:
        if seed < 0:
            raise InputError(f"seed = {seed}: expected 0 or more")
        dataset = indexed_dataset(dataset)
        self.dataset, self.config, self.seed = dataset, config, seed
        self.augmentation, self.shuffle = augmentation, shuffle
        self.class_ids = _usable_classes(dataset, config, purpose)
        has_class = [not set(self.class_ids).isdisjoint(classes) for classes in dataset.image_category_index]
        self.image_ids = np.flatnonzero(has_class)
        self.anchors = np.asfortranarray(pyramid_anchors(config, config.IMAGE_SHAPE))  # by column for `rpn_targets`
        self._order = -1, self.image_ids  # pass, its permutation of image_ids
        self._reported: set[int] = set()  # images without a usable instance that the log has named

    def image_of(self, number: int) -> int:
        """Image id of sample `number`."""
        run, place = divmod(number // self.config.QUERIES_PER_IMAGE, len(self.image_ids))
        last, order = self._order if self.shuffle else (run, self.image_ids)
        if run != last:
            order = np.random.default_rng([self.seed, run, _Draw.ORDER]).permutation(self.image_ids)
            self._order = run, order
        return int(order[place])

    def __len__(self) -> int:
        return len(self.image_ids) * self.config.QUERIES_PER_IMAGE

    def __iter__(self) -> Iterator[Sample]:
        return map(self.__getitem__, range(len(self)))

    def __getitem__(self, number: int) -> Sample:
        """Sample `number`, 0 or more, of any pass.

        Raises:
            IndexError: a negative number.
            RuntimeError: the sample could not be made; names the image.
        """
        if number < 0:
            raise IndexError(f"training sample {number}: expected 0 or more")
        image_id = self.image_of(number)
        place, query = divmod(number, self.config.QUERIES_PER_IMAGE)
        try:
            return self._make(image_id, place // len(self.image_ids), query)
        except Exception as error:  # decoders and augmenters raise anything; the message names the image
            reference = self.dataset.image_reference(image_id)
            raise StateError(f"training sample {number}, image {reference}: {error}") from error

    __call__ = __getitem__  # as in version 0.1

    def _make(self, image_id: int, run: int, query: int) -> Sample:
        dataset, config = self.dataset, self.config
        coco_id = dataset.image_info[image_id]["id"]

        def rng(purpose: int, *further: int) -> Rng:
            return np.random.default_rng([self.seed, run, coco_id, purpose, *further])

        original, args = dataset.load_image(image_id), molding.scene_resize_args(config)
        scene, window, scale, padding, crop = resize.resize_image(original, *args, rng=rng(_Draw.CROP))
        meta = compose_image_meta(coco_id, original.shape, scene.shape, window, scale, np.ones(config.NUM_CLASSES))
        resizing = scale, padding, crop
        class_id, scene, masks, gt_class_ids = self._choose_class(image_id, query, scene, resizing, rng)
        references = [
            draw_reference(dataset, class_id, seed=self.seed, run=run, image_id=image_id, shot=shot, config=config)
            for shot in range(query * config.NUM_TARGETS, (query + 1) * config.NUM_TARGETS)
        ]
        targets = np.stack([_cut(dataset, config, reference) for reference in references])
        boxes, own = extract_bboxes(masks), (query,) if query else ()
        rpn_rng = rng(_Draw.RPN_TARGETS, *own)
        rpn = build_rpn_targets(scene.shape, self.anchors, gt_class_ids, boxes, config, rng=rpn_rng)
        chosen = _chosen_instances(gt_class_ids, config.MAX_GT_INSTANCES, rng(_Draw.INSTANCES, *own))
        gt_class_ids, boxes, masks = gt_class_ids[chosen], boxes[chosen], _instances(masks, chosen)
        if config.USE_MINI_MASK:
            masks = resize.minimize_mask(boxes, masks, config.MINI_MASK_SHAPE)
        return Sample(image_id, class_id, references, scene, meta, targets, *rpn, gt_class_ids, boxes, masks)

    def _choose_class(
        self, image_id: int, query: int, scene: np.ndarray, resizing: Resizing, rng: Callable[..., Rng]
    ) -> tuple[int, np.ndarray, np.ndarray, np.ndarray]:
        """The target class, the scene, its masks [height, width, n] and 1, -1 (crowds) or 0 for each of them.

        Another class is tried if no instance of the first has a pixel left at this size. Instances of the target class
        without a pixel are neutral: a crowd of 2 x 2 pixels in their place.
        """
        active, absent_id = set(self.class_ids), self._absent_class(image_id, query, rng)
        present = [int(class_id) for class_id in self.dataset.image_category_index[image_id] if class_id in active]
        in_order = [absent_id] if absent_id else np.roll(rng(_Draw.CLASS).permutation(present), -query).tolist()
        for class_id in in_order:
            others = active - {class_id} if self.config.USE_HARD_NEGATIVES else set()
            masks, matches = _load_instances(self.dataset, image_id, class_id, others)
            masks, matches = _resized(masks, matches, resizing)
            image = scene
            if self.augmentation is not None:
                image, masks = self.augmentation(scene, np.ascontiguousarray(masks), rng(_Draw.AUGMENTATION))
            kept = np.flatnonzero(masks.any(axis=(0, 1)))
            masks, matches = _instances(masks, kept), matches[kept]
            if absent_id or (matches > 0).any():
                break
        else:
            if image_id not in self._reported:
                message = (
                    "%s: none of its instances has a pixel left in the network's scene; they are neutral in training"
                )
                logger.warning(message, self.dataset.image_reference(image_id))
            self._reported.add(image_id)
        return class_id, image, masks, matches

    def _absent_class(self, image_id: int, query: int, rng: Callable[..., Rng]) -> int | None:
        """A class to search in vain, if the sample is one of ABSENT_REFERENCE_RATIO; else None.

        Queries of an image decide one by one, and take different classes while there are enough.
        """
        ratio = self.config.ABSENT_REFERENCE_RATIO
        if not ratio or rng(_Draw.ABSENT, query).random() >= ratio:
            return None
        absent = absent_classes(self.dataset, image_id, self.class_ids)
        return int(np.roll(rng(_Draw.ABSENT_CLASS).permutation(absent), -query)[0]) if absent else None


def collate(samples: Sequence[Sample], config: Config) -> dict[str, np.ndarray]:
    """A batch of samples as the training model takes it.

    Returns:
        dict by INPUT_NAMES: input_image float32 [batch, h, w, 3] and input_target float32 [batch, K, T, T, 3], the mean
        subtracted from both; input_image_meta float32 [batch, meta]; input_rpn_match int32 [batch, anchors, 1];
        input_rpn_bbox float32 [batch, rows, 4]; zero-padded to MAX_GT_INSTANCES: input_gt_class_ids int32 [batch, g],
        input_gt_boxes float32 [batch, g, (y1, x1, y2, x2)] in pixels, input_gt_masks bool [batch, h, w, g]. With
        REFERENCE_CLASSES also TARGET_CLASS int32 [batch], the class ids of the references.

    Raises:
        ValueError: QUERIES_PER_IMAGE samples in a row, which share the first one's features, differ in their scene.
    """
    queries, count, rows = config.QUERIES_PER_IMAGE, len(samples), config.MAX_GT_INSTANCES
    class_ids, boxes = np.zeros((count, rows), np.int32), np.zeros((count, rows, 4), np.float32)
    masks = np.zeros((count, *samples[0].gt_masks.shape[:2], rows), bool)
    for index, sample in enumerate(samples):
        first = index - index % queries
        if first < index and not np.array_equal(sample.image, samples[first].image):
            raise InputError(
                f"samples {first} and {index} of a batch differ in their scene, but QUERIES_PER_IMAGE = {queries} in a "
                "row share one: the batch begins between them, or an augmentation draws random numbers of its own"
            )
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
    batch = dict(zip(INPUT_NAMES, values, strict=True))
    return batch | {TARGET_CLASS: _target_classes(samples, config)} if config.REFERENCE_CLASSES else batch


def _target_classes(samples: Sequence[Sample], config: Config) -> np.ndarray:
    class_ids = np.array([sample.class_id for sample in samples], np.int32)
    if class_ids.max() >= config.REFERENCE_CLASSES:
        expected = f"expected more than the highest class id, {class_ids.max()}"
        raise InputError(f"REFERENCE_CLASSES = {config.REFERENCE_CLASSES}: {expected}")
    return class_ids


def siamese_data_generator(
    dataset: Dataset,
    config: Config,
    shuffle: bool = True,
    augmentation: Any = None,
    random_rois: int = 0,
    batch_size: int = 1,
    detection_targets: bool = False,
    diverse: float = 0,
    *,
    seed: int = 0,
) -> Iterator[tuple[list[np.ndarray], list[Any]]]:
    """Batches without end, as the original's function of that name: ([the inputs of `collate`], []) each.

    Args:
        dataset, config, seed, shuffle: of `TrainingSamples`.
        augmentation: see `augmentation.as_augmentation`; the original mirrors half of the images by default.
        random_rois, detection_targets, diverse: refused unless they are 0, as in the original's training.

    Raises:
        ValueError: one of these; a batch that splits the QUERIES_PER_IMAGE samples of a scene; as `TrainingSamples`.
    """
    for name, value in {"random_rois": random_rois, "detection_targets": detection_targets, "diverse": diverse}.items():
        if value:
            raise InputError(f"{name} = {value!r}: not supported here, expected {type(value)()!r}")
    augmentation = as_augmentation(augmentation)
    samples = TrainingSamples(dataset, config, seed=seed, augmentation=augmentation, shuffle=shuffle)
    for first in itertools.count(step=batch_size):
        batch = collate([samples[number] for number in range(first, first + batch_size)], config)
        yield list(batch.values()), []


def load_image_gt(
    dataset: Dataset,
    config: Config,
    image_id: int,
    augment: bool = False,
    augmentation: Any = None,
    use_mini_mask: bool = False,
    *,
    rng: Rng | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """An image with all of its instances, as Matterport's function of that name.

    Args:
        augment: mirror the image with probability 0.5 (Matterport's older way to say it).
        augmentation: see `augmentation.as_augmentation`; applied to the resized image and masks.
        use_mini_mask: cut masks to their boxes and resize them to MINI_MASK_SHAPE.
        rng: numpy.random.Generator; None starts a fresh one.

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
    args = molding.scene_resize_args(config)
    image, window, scale, padding, crop = resize.resize_image(original, *args, rng=rng)
    mask = np.ascontiguousarray(resize.resize_mask(mask, scale, padding, crop))
    if augment:
        image, mask = fliplr()(image, mask, rng)
    if (change := as_augmentation(augmentation)) is not None:
        image, mask = change(image, mask, rng)
    kept = mask.any(axis=(0, 1))
    mask, class_ids = mask[..., kept], np.asarray(class_ids)[kept]
    bbox = extract_bboxes(mask)
    sources = "", dataset.image_info[image_id]["source"]
    active = np.array([info["source"] in sources for info in dataset.class_info], float)
    if use_mini_mask:
        mask = resize.minimize_mask(bbox, mask, config.MINI_MASK_SHAPE)
    meta = compose_image_meta(image_id, original.shape, image.shape, window, scale, active)
    return image, meta, class_ids, bbox, mask


def _usable_classes(dataset: IndexedCocoDataset, config: Config, purpose: str) -> list[int]:
    """Active classes with an instance that can be a reference; the log names the others."""
    active = dataset.ACTIVE_CLASSES.tolist()
    usable = [class_id for class_id in active if has_reference(dataset, class_id, config)]
    unusable = [dataset.class_names[class_id] for class_id in active if class_id not in usable]
    if not usable:
        classes = f"none of its {len(active)} active classes"
        crowds = f"; {dataset.crowds_advice}" if dataset.crowds_advice else ""
        raise InputError(f"{dataset.set_name}: {classes} has an instance that could be a reference{crowds}")
    if unusable:
        classes = f"{len(unusable)} of {len(active)} classes"
        message = "%s, images of %s: %s have no instance that could be a reference and are left out: %s%s"
        names = _crowds_only(dataset, set(active) - set(usable))
        advice = f"; only crowds: {', '.join(names)} ({CROWDS_OPTION})" if names else ""
        logger.warning(message, dataset.set_name, purpose, classes, ", ".join(unusable), advice)
    return usable


def _crowds_only(dataset: IndexedCocoDataset, class_ids: Collection[int]) -> list[str]:
    """Names of the classes whose annotations are crowds, all of them."""
    names = {dataset.class_info[class_id]["id"]: dataset.class_names[class_id] for class_id in class_ids}
    entries = [(a["category_id"], a["iscrowd"]) for info in dataset.image_info for a in info["annotations"]]
    with_crowds, others = ({one for one, crowd in entries if bool(crowd) is is_crowd} for is_crowd in (True, False))
    return [name for category, name in names.items() if category in with_crowds - others]


def _cut(dataset: IndexedCocoDataset, config: Config, reference: tuple[int, int]) -> np.ndarray:
    """`references.cut_reference`; an error names the image that the reference is cut from."""
    try:
        return cut_reference(dataset, config, *reference)
    except ValueError as error:
        raise InputError(f"reference from {dataset.image_reference(reference[0])}: {error}") from error


def _load_instances(
    dataset: IndexedCocoDataset, image_id: int, class_id: int, other_ids: Collection[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Masks bool [height, width, n] and matches int32 [n]: 1 or -1 (crowds) for a class, then 0 for the other ones."""
    category, others = dataset.class_info[class_id]["id"], {dataset.class_info[other]["id"] for other in other_ids}
    entries = [(i, a["category_id"], a["iscrowd"]) for i, a in enumerate(dataset.image_info[image_id]["annotations"])]
    found = [(index, -_MATCH if crowd else _MATCH) for index, owner, crowd in entries if owner == category]
    found += [(index, _OTHER) for index, owner, crowd in entries if owner in others and not crowd]
    masks = [dataset.instance_mask(image_id, index) for index, _ in found]
    shape = dataset.image_info[image_id]["height"], dataset.image_info[image_id]["width"], 0
    matches = np.array([match for _, match in found], np.int32)
    return _stacked(masks) if masks else np.zeros(shape, bool), matches


def _stacked(masks: Sequence[np.ndarray]) -> np.ndarray:
    """Masks [height, width] as a view [height, width, n] of an array with one after the other, each by column."""
    return np.stack([mask.T for mask in masks]).T


def _instances(masks: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Those of the masks [height, width, n] with these indices; the array itself where these are all."""
    is_all = np.array_equal(chosen, np.arange(masks.shape[-1]))
    return masks if is_all else np.moveaxis(np.moveaxis(masks, -1, 0)[chosen], 0, -1)


def _resized(masks: np.ndarray, matches: np.ndarray, resizing: Resizing) -> tuple[np.ndarray, np.ndarray]:
    """Masks [height, width, n] in the scene; those of the target class that lose all pixels become small crowds.

    These have `_LOST_SIDE` pixels a side: a single one would be less than 0.001 of the smallest anchors, which is the
    share from which a crowd makes anchors and rois neutral. Objects that a crop cuts off are not in the scene.
    """
    scale, padding, crop = resizing
    small = resize.resize_mask(masks, *resizing)
    if crop is not None:
        return small, matches
    lost = np.flatnonzero(masks.any(axis=(0, 1)) & ~small.any(axis=(0, 1)) & (matches != _OTHER))
    matches = matches.copy()
    for index in lost.tolist():
        middle = np.argwhere(masks[..., index]).mean(axis=0)
        shape = small.shape[:2]
        y, x = (min(int((middle[axis] + 0.5) * scale) + padding[axis][0], shape[axis] - 1) for axis in (0, 1))
        small[max(y + 1 - _LOST_SIDE, 0) : y + 1, max(x + 1 - _LOST_SIDE, 0) : x + 1, index] = True
        matches[index] = -_MATCH
    return small, matches


def _chosen_instances(gt_class_ids: np.ndarray, maximum: int, rng: Rng) -> np.ndarray:
    """Indices of at most `maximum` random instances; objects of other classes are dropped first."""
    if len(gt_class_ids) <= maximum:
        return np.arange(len(gt_class_ids))
    matching, others = np.flatnonzero(gt_class_ids != _OTHER), np.flatnonzero(gt_class_ids == _OTHER)
    if len(matching) >= maximum:
        return rng.choice(matching, maximum, replace=False)
    return np.concatenate([matching, rng.choice(others, maximum - len(matching), replace=False)])
