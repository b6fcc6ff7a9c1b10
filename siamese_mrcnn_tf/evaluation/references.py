"""The queries of the one-shot protocol: what is asked of an image, with which references, and the search itself.

A reference is an instance, (image id, annotation index), or a crop uint8 [h, w, RGB] where a sampler gives one.
"""

import numpy as np

from ..data.references import NoReferenceError, draw_reference, has_reference

CONTROLS = ("present", "absent")


# ---- samplers: (image id, class id, run, K) -> K references ----------------------------------------------------------


class RandomReferenceSampler:
    """References drawn at random from the whole set; each depends on (seed, run, image, class, shot) alone.

    Args:
        dataset: IndexedCocoDataset with indices built.
        config: that of the model, its scenes' size decides which instances are too small.
        seed: of the draws.
        exclude_query_image: draw from the other images alone.
    """

    def __init__(self, dataset, config, *, seed, exclude_query_image=False):
        self._dataset, self._seed = dataset, seed
        self._settings = {"config": config, "exclude_query_image": exclude_query_image}

    def __call__(self, image_id, class_id, run, shots):
        key = {"seed": self._seed, "run": run, "image_id": image_id}
        return [draw_reference(self._dataset, class_id, shot=shot, **key, **self._settings) for shot in range(shots)]

    def check(self, queries):
        """Find classes without a usable reference before hours of work; `queries` as of `queries_of`.

        Raises:
            NoReferenceError: names the class.
        """
        first = {}
        for image_id, present in queries:
            for class_id in present:
                first.setdefault(class_id, image_id)
                self._check_images(image_id, class_id)
        for class_id, image_id in first.items():
            self(image_id, class_id, 0, 1)

    def _check_images(self, image_id, class_id):
        if self._settings["exclude_query_image"] and len(self._dataset.images_of(class_id)) == 1:
            name, coco_id = self._dataset.class_names[class_id], self._dataset.image_info[image_id]["id"]
            raise NoReferenceError(
                f"class {class_id} ({name}) is in image {coco_id} of {self._dataset.set_name} alone: there is no "
                "reference for it in other images; leave the class out, or take references from the query image too"
            )


class MismatchedReferenceSampler:
    """References of the wrong category: what a model finds with them it does not owe to the reference.

    Each depends on (seed, run, image, class, shot) alone.

    Args:
        dataset: IndexedCocoDataset with indices built.
        config: that of the model.
        seed: of the draws.
        control: "present", of another category that is in the image; or "absent", of one that is not, not even as a
            crowd.
    """

    def __init__(self, dataset, config, *, seed, control):
        if control not in CONTROLS:
            raise ValueError(f"control = {control!r}: expected one of {', '.join(CONTROLS)}")
        self._dataset, self._config, self._seed, self._control = dataset, config, seed, control
        self._usable = [one for one in map(int, dataset.class_ids[1:]) if has_reference(dataset, one, config)]

    def others(self, image_id, class_id):
        """Class ids that the reference may be of, ascending."""
        if self._control == "present":
            present = {int(other) for other in self._dataset.image_category_index[image_id]}
            return [other for other in self._usable if other in present - {class_id}]
        categories = {annotation["category_id"] for annotation in self._dataset.image_info[image_id]["annotations"]}
        return [other for other in self._usable if self._dataset.class_info[other]["id"] not in categories]

    def __call__(self, image_id, class_id, run, shots):
        key = {"seed": self._seed, "run": run, "image_id": image_id, "config": self._config}
        coco_id = self._dataset.image_info[image_id]["id"]
        rng = np.random.default_rng([self._seed, run, coco_id, class_id, CONTROLS.index(self._control)])
        other = int(rng.choice(self.others(image_id, class_id)))
        return [draw_reference(self._dataset, other, shot=shot, **key) for shot in range(shots)]

    def possible(self, queries):
        """Those of `queries` (see `queries_of`) whose image leaves a choice.

        Raises:
            NoReferenceError: none does.
        """
        kept = [(image_id, classes) for image_id, classes in queries if all(self.others(image_id, c) for c in classes)]
        if queries and not kept:
            raise NoReferenceError(f"{self._dataset.set_name}: no image has another category that is {self._control}")
        return kept


class ReplayReferenceSampler:
    """References of a recorded evaluation, to ask the same again.

    Args:
        dataset: IndexedCocoDataset of the same annotation file.
        records: iterable of image records (`evaluation_records`), or of any dicts with image_id and queries: [{run,
            category_id, references: [[COCO image id, COCO annotation id], ...]}, ...].
    """

    def __init__(self, dataset, records):
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

    def __call__(self, image_id, class_id, run, shots):
        key = (self._dataset.image_info[image_id]["id"], self._dataset.class_info[class_id]["id"], run)
        recorded = self._recorded.get(key)
        named = f"image {key[0]}, category {key[1]}, run {run}"
        if recorded is None or len(recorded) != shots:
            found = "none" if recorded is None else len(recorded)
            raise NoReferenceError(f"{named}: expected {shots} recorded references, got {found}")
        unknown = [reference for reference in recorded if reference is None or reference[1] not in self._places]
        if unknown:
            raise NoReferenceError(f"{named}: the recorded reference {unknown[0]} is not in {self._dataset.set_name}")
        return [self._places[annotation] for _, annotation in recorded]
