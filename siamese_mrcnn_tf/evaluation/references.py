"""Samplers of references: (image id, class id, run, K) -> K references.

A reference is an instance, (image id, annotation index). A user's sampler may also return crops uint8 [h, w, RGB].
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from ..config import Config
from ..data.dataset import IndexedCocoDataset
from ..data.references import NoReferenceError, absent_classes, draw_reference, has_reference
from ..io.errors import InputError, StateError

Reference = tuple[int, int] | np.ndarray
Sampler = Callable[[int, int, int, int], Sequence[Reference]]
Queries = list[tuple[int, list[int]]]  # (image id, [class ids to search it for])

CONTROLS = ("present", "absent")
_SHOWN = 5  # categories in a message


def classes_in(dataset: IndexedCocoDataset, image_id: int) -> list[int]:
    """Class ids with an instance in an image that is not a crowd; RuntimeError if `dataset` has no indices."""
    if dataset.image_category_index is None:
        raise StateError("the data set has no indices: call build_indices() first")
    return [int(class_id) for class_id in dataset.image_category_index[image_id]]


class RandomReferenceSampler:
    """Draws references at random from the whole set; a draw depends only on (seed, run, image, class, shot).

    Args:
        dataset: with indices built.
        config: of the model; instances that vanish at the size of its scenes are not drawn.
        exclude_query_image: draw from other images than the query's only.
    """

    def __init__(
        self, dataset: IndexedCocoDataset, config: Config, *, seed: int, exclude_query_image: bool = False
    ) -> None:
        self._dataset, self._exclude = dataset, exclude_query_image
        self._fixed: dict[str, Any] = {"config": config, "seed": seed, "exclude_query_image": exclude_query_image}

    def __call__(self, image_id: int, class_id: int, run: int, shots: int) -> list[tuple[int, int]]:
        key = self._fixed | {"run": run, "image_id": image_id}
        return [draw_reference(self._dataset, class_id, shot=shot, **key) for shot in range(shots)]

    def check(self, queries: Queries) -> None:
        """Raise NoReferenceError early if a class of `queries` (see `queries_of`) has no usable reference."""
        first = {class_id: image_id for image_id, present in reversed(queries) for class_id in present}
        alone = [one for one in first if self._exclude and len(self._dataset.images_of(one)) == 1]
        if alone:
            raise NoReferenceError(self._in_one_image({one: first[one] for one in alone}))
        for class_id, image_id in first.items():
            self(image_id, class_id, 0, 1)

    def _in_one_image(self, alone: dict[int, int]) -> str:
        """Text of the error for classes without a reference beside the query image; `alone` has their only images."""
        names = [f"{self._dataset.class_names[one]} ({self._dataset.image_reference(alone[one])})" for one in alone]
        shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
        return (
            f"{self._dataset.set_name}: categories in one image alone, so no other image has a reference: {shown}. "
            "Annotate each in a second image, or evaluate without --exclude-query-image"
        )


class MismatchedReferenceSampler:
    """Draws references of the wrong category: a model that ignores the reference scores as well with these.

    A draw depends only on (seed, run, image, class, shot).

    Args:
        dataset: with indices built.
        config: of the model.
        control: "present", another category that is in the image; "absent", one that is not in it, not even as a crowd.
    """

    def __init__(self, dataset: IndexedCocoDataset, config: Config, *, seed: int, control: str) -> None:
        if control not in CONTROLS:
            raise InputError(f"control = {control!r}: expected one of {', '.join(CONTROLS)}")
        self._dataset, self._config, self._seed, self._control = dataset, config, seed, control
        self._usable = [one for one in map(int, dataset.class_ids[1:]) if has_reference(dataset, one, config)]

    def others(self, image_id: int, class_id: int) -> list[int]:
        """Class ids to choose from, ascending."""
        if self._control == "present":
            present = set(classes_in(self._dataset, image_id))
            return [other for other in self._usable if other in present - {class_id}]
        return absent_classes(self._dataset, image_id, self._usable)

    def __call__(self, image_id: int, class_id: int, run: int, shots: int) -> list[tuple[int, int]]:
        key: dict[str, Any] = {"seed": self._seed, "run": run, "image_id": image_id, "config": self._config}
        coco_id, control = self._dataset.image_info[image_id]["id"], CONTROLS.index(self._control)
        rng = np.random.default_rng([self._seed, run, coco_id, class_id, control])
        other = int(rng.choice(self.others(image_id, class_id)))
        return [draw_reference(self._dataset, other, shot=shot, **key) for shot in range(shots)]

    def possible(self, queries: Queries) -> Queries:
        """The queries of the images in which every class has others to choose from; NoReferenceError without any."""
        kept = [(image_id, classes) for image_id, classes in queries if all(self.others(image_id, c) for c in classes)]
        if queries and not kept:
            raise NoReferenceError(f"{self._dataset.set_name}: no image has another category that is {self._control}")
        return kept


class ReplayReferenceSampler:
    """Returns the references of a recorded evaluation.

    Args:
        dataset: of the same annotation file.
        records: `records.Records`, or dicts with image_id and queries: [{run, category_id, references: [[COCO image id,
            COCO annotation id], ...]}, ...].
    """

    def __init__(self, dataset: IndexedCocoDataset, records: Iterable[dict[str, Any]]) -> None:
        self._places = {
            annotation["id"]: (image_id, index)
            for image_id, info in enumerate(dataset.image_info)
            for index, annotation in enumerate(info["annotations"])
        }
        self._dataset = dataset
        self._recorded = {
            (record["image_id"], query["category_id"], query["run"]): query["references"]
            for record in records
            for query in record["queries"]
        }

    def __call__(self, image_id: int, class_id: int, run: int, shots: int) -> list[tuple[int, int]]:
        coco_id, category_id = self._dataset.image_info[image_id]["id"], self._dataset.class_info[class_id]["id"]
        recorded = self._recorded.get((coco_id, category_id, run), [])
        named = f"image {coco_id}, category {category_id}, run {run}"
        if len(recorded) != shots:
            raise NoReferenceError(f"{named}: expected {shots} recorded references, got {len(recorded) or 'none'}")
        unknown = [reference for reference in recorded if reference is None or reference[1] not in self._places]
        if unknown:
            raise NoReferenceError(f"{named}: the recorded reference {unknown[0]} is not in {self._dataset.set_name}")
        return [self._places[annotation] for _, annotation in recorded]
