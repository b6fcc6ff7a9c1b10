"""References: drawing the instance that serves as reference, and cutting its crop."""

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from ..config import Config
from ..io.errors import InputError
from . import molding
from .custom import indexed_dataset
from .dataset import Dataset, IndexedCocoDataset

Rng = np.random.Generator


class NoReferenceError(InputError):
    """A class has no instance that could be a reference."""


def draw_reference(
    dataset: Dataset,
    class_id: int,
    *,
    seed: int,
    run: int,
    image_id: int,
    shot: int,
    config: Config | None = None,
    exclude_query_image: bool = False,
) -> tuple[int, int]:
    """Draw (image_id, annotation_index) of the instance that is reference `shot` of a class for a query image.

    First an image of the class is drawn uniformly, then one of its instances; crowds and empty masks are left out. The
    draw is reproducible: it depends only on the set and on (seed, run, COCO id of the query image, class id, shot).

    Args:
        image_id: the query image.
        config: if given, instances whose mask is empty at the size of its scenes are left out too.
        exclude_query_image: draw from the other images only.

    Raises:
        NoReferenceError: there is no instance to draw from.
        ValueError: a negative number in the key; an annotation that cannot be read.
    """
    dataset = indexed_dataset(dataset)
    key = [seed, run, dataset.image_info[image_id]["id"], class_id, shot]
    if any(part < 0 for part in key):
        raise InputError(f"(seed, run, image, class, shot) = {tuple(key)}: expected no negative number")
    rng = np.random.default_rng([int(part) for part in key])
    return _draw_instance(dataset, class_id, rng, config, exclude=image_id if exclude_query_image else None)


def absent_classes(dataset: IndexedCocoDataset, image_id: int, class_ids: Iterable[int]) -> list[int]:
    """Those of some class ids without any annotation in an image, also none of a crowd; in their order."""
    categories = {annotation["category_id"] for annotation in dataset.image_info[image_id]["annotations"]}
    return [one for one in class_ids if dataset.class_info[one]["id"] not in categories]


def has_reference(dataset: IndexedCocoDataset, class_id: int, config: Config) -> bool:
    """Whether `draw_reference` finds an instance of a class at the size of the configuration's scenes."""
    try:
        _draw_instance(dataset, class_id, np.random.default_rng(0), config)
    except NoReferenceError:
        return False
    return True


def choose_references(
    dataset: IndexedCocoDataset, class_id: int, count: int, config: Config, *, seed: int = 0
) -> list[tuple[int, int]]:
    """(image_id, annotation_index) of `count` different instances of a class, fewer if it has fewer.

    They are drawn at random, reproducibly by `seed`, from as many different images as there are.

    Raises:
        NoReferenceError: the class has no instance that could be a reference.
    """
    rng = np.random.default_rng([seed, class_id])
    images = [
        _usable_instances(dataset, int(image_id), class_id, config, rng)
        for image_id in rng.permutation(dataset.images_of(class_id))
    ]
    found = list(itertools.islice(_alternating(images), count))
    if not found:
        raise NoReferenceError(_no_instance(dataset, class_id))
    return found


def cut_reference(dataset: Dataset, config: Config, image_id: int, annotation_index: int) -> np.ndarray:
    """An instance as reference: uint8 [TARGET_MAX_DIM, TARGET_MAX_DIM, 3], RGB, the mean not subtracted.

    As in the original, the box is taken from the scene after that was resized and padded for the network.
    """
    dataset = indexed_dataset(dataset)
    mask = dataset.instance_mask(image_id, annotation_index)
    return molding.reference_from_mask(dataset.load_image(image_id), mask, config)


def get_one_target(
    category: int,
    dataset: Dataset,
    config: Config,
    augmentation: None = None,
    target_size_limit: int = 0,
    max_attempts: int = 10,
    return_all: bool = False,
    return_original_size: bool = False,
    rng: Rng | None = None,
) -> Any:
    """A random reference of a class, as the original's function of this name; `augmentation` is refused.

    It is uint8 [TARGET_MAX_DIM, TARGET_MAX_DIM, 3], RGB, the mean not subtracted.

    Args:
        category: class id.
        target_size_limit: minimum of the crop's smaller side, in pixels of the resized scene. Smaller crops are drawn
            again, `max_attempts` times in all; the last one is taken as it is.
        return_all: return (target, window, scale, padding, crop) of the resizing.
        return_original_size: return (target, shape of the crop in the resized scene).
    """
    if augmentation is not None:
        raise InputError("augmentation of references is not supported here: expected None")
    dataset, rng = indexed_dataset(dataset), np.random.default_rng() if rng is None else rng
    for _ in range(max(max_attempts, 1)):
        image_id, index = _draw_instance(dataset, category, rng, config)
        y1, x1, y2, x2 = molding.box_in_scene(dataset.instance_mask(image_id, index), config).tolist()
        shape = (y2 - y1, x2 - x1, 3)
        if min(shape[:2]) >= target_size_limit:
            break
    target = cut_reference(dataset, config, image_id, index)
    if return_all:
        return target, *molding.resize_reference(np.zeros(shape, np.uint8), config)[1:]
    return (target, shape) if return_original_size else target


def _draw_instance(
    dataset: IndexedCocoDataset, class_id: int, rng: Rng, config: Config | None, exclude: int | None = None
) -> tuple[int, int]:
    """(image_id, annotation_index), not from image `exclude`; looks at each image and instance once at most."""
    for image_id in rng.permutation(dataset.images_of(class_id)):
        if image_id == exclude:
            continue
        found = next(_usable_instances(dataset, int(image_id), class_id, config, rng), None)
        if found is not None:
            return found
    raise NoReferenceError(_no_instance(dataset, class_id, exclude))


def _usable_instances(
    dataset: IndexedCocoDataset, image_id: int, class_id: int, config: Config | None, rng: Rng
) -> Iterator[tuple[int, int]]:
    """(image_id, annotation_index) of the instances of a class in an image that can be references, in random order."""
    for index in rng.permutation(dataset.instances_of(image_id, class_id)):
        mask = dataset.instance_mask(image_id, index)
        if mask.any() and (config is None or molding.box_in_scene(mask, config).any()):
            yield image_id, int(index)


def _alternating(images: list[Iterator[tuple[int, int]]]) -> Iterator[tuple[int, int]]:
    """The first instance of each image, then the second of each, and so on."""
    while images:
        left = []
        for instances in images:
            if (found := next(instances, None)) is not None:
                left.append(instances)
                yield found
        images = left


def _no_instance(dataset: IndexedCocoDataset, class_id: int, exclude: int | None = None) -> str:
    named = f"class {class_id} ({dataset.class_names[class_id]})"
    text = f"{named} has no instance in {dataset.set_name}"
    if exclude is None:
        return f"{text} that could be a reference"
    advice = "annotate it in another image, or take references from the searched image, too"
    return f"{text} outside {dataset.image_reference(exclude)} that could be a reference; {advice}"
