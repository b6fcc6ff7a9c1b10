"""Data sets: COCO-format trees, their indices, category splits and the choice of references.

`Dataset` is Matterport's container; `CocoDataset` reads `annotations/instances_{subset}{year}.json` with the pictures
in `{subset}{year}/`; `IndexedCocoDataset` also knows which class is in which image. Image ids are 0..N-1 and class ids
1..N (0 is background); the numbers that stand in the annotation file are called COCO ids.
"""

import numpy as np

from ..ops.boxes import extract_bboxes
from . import molding, resize


class NoReferenceError(ValueError):
    """A class has no instance that could be a reference."""


def draw_reference(dataset, class_id, *, seed, run, image_id, shot, config=None, exclude_query_image=False):
    """Choose the instance that serves as reference `shot` of a class for a query image.

    An image of the class uniformly, then one of its instances uniformly; crowds and empty masks are left out. The
    choice depends on the set and on (seed, run, COCO id of the query image, class id, shot) alone.

    Args:
        dataset: an `IndexedCocoDataset`.
        image_id: the query image.
        config: given, instances are left out too whose mask is empty at the size of its scenes.
        exclude_query_image: choose from the other images alone.

    Returns:
        image_id, annotation_index: for `cut_reference`.

    Raises:
        NoReferenceError: there is no instance to choose from.
        ValueError: a negative number in the key; an annotation that cannot be read.
    """
    key = [seed, run, dataset.image_info[image_id]["id"], class_id, shot]
    if any(part < 0 for part in key):
        raise ValueError(f"(seed, run, image, class, shot) = {tuple(key)}: expected no negative number")
    rng = np.random.default_rng([int(part) for part in key])
    return _draw_instance(dataset, class_id, rng, config, exclude=image_id if exclude_query_image else None)


def has_reference(dataset, class_id, config):
    """Whether a class has an instance that `draw_reference` can choose at the size of the configuration's scenes."""
    images = dataset.images_of(class_id)
    try:
        return bool(
            len(images)
            and draw_reference(dataset, class_id, seed=0, run=0, image_id=int(images[0]), shot=0, config=config)
        )
    except NoReferenceError:
        return False


def cut_reference(dataset, config, image_id, annotation_index):
    """An instance as reference: uint8 [TARGET_MAX_DIM, TARGET_MAX_DIM, 3], RGB, the mean not subtracted.

    As the original does, the box is taken from the scene after that was resized and padded for the network.
    """
    mask = dataset.instance_mask(image_id, annotation_index)
    return molding.reference_from_mask(dataset.load_image(image_id), mask, config)


def get_one_target(
    category,
    dataset,
    config,
    augmentation=None,
    target_size_limit=0,
    max_attempts=10,
    return_all=False,
    return_original_size=False,
    rng=None,
):
    """A random reference of a class, as the original's function of this name.

    Args:
        category: class id.
        augmentation: None; others are refused.
        target_size_limit: the crop's smaller side in pixels of the resized scene that is drawn for up to `max_attempts`
            times; the last draw is taken as it is.
        return_all: return (target, window, scale, padding, crop) of the resizing.
        return_original_size: return (target, shape of the crop in the resized scene).
        rng: `numpy.random.Generator`; None starts a fresh one.

    Returns:
        target: uint8 [TARGET_MAX_DIM, TARGET_MAX_DIM, 3], RGB, the mean not subtracted.
    """
    if augmentation is not None:
        raise ValueError("augmentation of references is not supported here: expected None")
    rng = np.random.default_rng() if rng is None else rng
    for _ in range(max(max_attempts, 1)):
        image_id, index = _draw_instance(dataset, category, rng, config)
        y1, x1, y2, x2 = _box_in_scene(dataset.instance_mask(image_id, index), config).tolist()
        shape = (y2 - y1, x2 - x1, 3)
        if min(shape[:2]) >= target_size_limit:
            break
    target = cut_reference(dataset, config, image_id, index)
    if return_all:
        return target, *molding.resize_reference(np.zeros(shape, np.uint8), config)[1:]
    return (target, shape) if return_original_size else target


def _draw_instance(dataset, class_id, rng, config, exclude=None):
    """(image_id, annotation_index), not from image `exclude`: each image and instance is looked at once at most."""
    for image_id in rng.permutation(dataset.images_of(class_id)):
        if image_id == exclude:
            continue
        for index in rng.permutation(dataset.instances_of(image_id, class_id)):
            mask = dataset.instance_mask(image_id, index)
            if mask.any() and (config is None or _box_in_scene(mask, config).any()):
                return int(image_id), int(index)
    named = f"class {class_id} ({dataset.class_names[class_id]})"
    beside = "" if exclude is None else f" beside image {dataset.image_info[exclude]['id']}"
    raise NoReferenceError(f"{named} has no instance in {dataset.set_name}{beside} that could be a reference")


def _box_in_scene(mask, config):
    """Box (y1, x1, y2, x2) of a mask [height, width] in pixels of the resized scene without padding; 0 if empty."""
    scale, _ = molding.resized_scene_shape(mask.shape, config)
    return extract_bboxes(resize.resize_mask(mask[..., None], scale, [(0, 0)] * 3))[0]
