"""The queries of the one-shot protocol: what is asked of an image, with which references, and the search itself.

A reference is an instance, (image id, annotation index), or a crop uint8 [h, w, RGB] where a sampler gives one.
"""

import collections
import dataclasses
import threading

import keras
import numpy as np

from .dataset import NoReferenceError, cut_reference, draw_reference, has_reference

CONTROLS = ("present", "absent")
CACHED_REFERENCES = 50_000  # 5 KB each; COCO's validation images have 36,000 instances


@dataclasses.dataclass(frozen=True)
class Query:
    """One search for a class in an image.

    Attributes:
        seed, run: of the evaluation; the run counts from 0.
        class_id: what is searched for.
        references: K references, empty for a searcher that needs none.
    """

    seed: int
    run: int
    class_id: int
    references: tuple


def queries_of(dataset, class_ids=None):
    """What the protocol asks: list of (image id, [class ids present in it]), images without any left out.

    Args:
        dataset: IndexedCocoDataset with indices built.
        class_ids: class ids [n] that are asked for; the data set's ACTIVE_CLASSES by default.

    Raises:
        ValueError: a class that the data set does not have.
    """
    wanted = {int(class_id) for class_id in (dataset.ACTIVE_CLASSES if class_ids is None else class_ids)}
    unknown = sorted(wanted - set(dataset.class_ids[1:].tolist()))
    if unknown:
        raise ValueError(
            f"class_ids: {unknown} are not in {dataset.set_name}, whose classes are 1..{dataset.num_classes - 1}"
        )
    queries = []
    for image_id in dataset.image_ids:
        present = [int(class_id) for class_id in dataset.image_category_index[image_id] if class_id in wanted]
        if present:
            queries.append((int(image_id), present))
    return queries


# ---- samplers: (image id, class id, run, K) -> K references ----------------------------------------------------------


class DrawnReferences:
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


class ControlReferences:
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


class RecordedReferences:
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


# ---- search ----------------------------------------------------------------------------------------------------------


class ReferenceSearch:
    """Asks a predictor: a scene is encoded once for all its queries, an instance once for all that it is drawn for.

    Every reference is encoded alone, so that its numbers do not depend on what else is asked.

    Args:
        predictor: SiamesePredictor.
        batch: queries that are matched at once. 1 takes the least memory; more pay for narrow networks (the demo's).
        cached: embeddings that are kept, those used longest ago leave first.
    """

    needs_references = True
    name = "siamese"

    def __init__(self, predictor, *, batch=1, cached=CACHED_REFERENCES):
        self.predictor, self.config, self._batch, self._cached = predictor, predictor.config, batch, cached
        self._embeddings, self._lock = collections.OrderedDict(), threading.Lock()

    def search(self, dataset, image_id, queries):
        """Detections of all queries of one image.

        Args:
            dataset: IndexedCocoDataset.
            image_id: of the scene.
            queries: list of Query.

        Returns:
            list with one dict a query, as `SiamesePredictor.detect` returns it.

        Raises:
            RuntimeError: a query failed; names image and class.
        """
        scene, found = self.predictor.encode_scenes([dataset.load_image(image_id)]), []
        for start in range(0, len(queries), self._batch):
            part = queries[start : start + self._batch]
            try:
                embeddings = [self._query_embedding(dataset, query.references) for query in part]
                found += self.predictor.detect_in(_repeated(scene, len(part)), embeddings)
            except Exception as error:  # whatever the backend raises: a failed query must not pass in silence
                names = ", ".join(repr(dataset.class_names[query.class_id]) for query in part)
                where = f"{dataset.image_reference(image_id)}, category {names}"
                raise RuntimeError(f"{where}: the query failed ({error})") from error
        return found

    def _query_embedding(self, dataset, references):
        """The embedding of K references together, each of them encoded before or now."""
        embeddings = [self._embedding(dataset, reference) for reference in references]
        if len(embeddings) == 1:
            return embeddings[0]
        return dataclasses.replace(embeddings[0], vectors=np.concatenate([one.vectors for one in embeddings]))

    def _embedding(self, dataset, reference):
        if not isinstance(reference, tuple):
            return self.predictor.encode_references([reference])
        with self._lock:
            if reference in self._embeddings:
                self._embeddings.move_to_end(reference)
                return self._embeddings[reference]
        crop = cut_reference(dataset, self.config, *reference)
        embedding = self.predictor.encode_references([crop])
        with self._lock:
            self._embeddings[reference] = embedding
            if len(self._embeddings) > self._cached:
                self._embeddings.popitem(last=False)
        return embedding


def _repeated(scene, count):
    """`count` times the scene of an EncodedScenes with one."""
    if count == 1:
        return scene
    return dataclasses.replace(
        scene,
        pyramid=[keras.ops.repeat(level, count, axis=0) for level in scene.pyramid],
        image_metas=np.repeat(scene.image_metas, count, axis=0),
        windows=np.repeat(scene.windows, count, axis=0),
        anchors=np.repeat(scene.anchors, count, axis=0),
        shapes=list(scene.shapes) * count,
    )
