"""The queries of the one-shot protocol, and the detectors that answer them: a model, or the paper's random boxes."""

import collections
import dataclasses
import threading
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import numpy as np

from ..config import Config
from ..data.dataset import IndexedCocoDataset
from ..data.references import absent_classes, cut_reference, has_reference
from ..io.errors import InputError, StateError
from ..ops.boxes import extract_bboxes
from ..predictor import ReferenceEmbedding, SiamesePredictor
from .references import Queries, Reference, classes_in

Detections = dict[str, Any]  # of a query: rois, scores, masks, as of `SiamesePredictor.detect`

CACHED_REFERENCES = 50_000  # 5 KB each; COCO's validation images have 36,000 instances
_MIN_RANDOM_SCORE = 0.8


@dataclasses.dataclass(frozen=True)
class Query:
    """One search for a class in an image; runs count from 0, `references` are empty for a detector without any."""

    seed: int
    run: int
    class_id: int
    references: tuple[Reference, ...]


class Detector(Protocol):
    """What `evaluate` needs: a name for the settings, a Config, and `search`, which returns Detections by query."""

    name: str
    config: Config
    needs_references: bool

    def search(self, dataset: IndexedCocoDataset, image_id: int, queries: Sequence[Query]) -> list[Detections]: ...


def queries_of(dataset: IndexedCocoDataset, class_ids: Iterable[int] | None = None) -> Queries:
    """The queries of the protocol: (image id, [class ids present in it]) of each image that has any.

    Args:
        dataset: with indices built.
        class_ids: [n] to search for; the data set's ACTIVE_CLASSES by default.

    Raises:
        ValueError: a class that the data set does not have.
    """
    wanted = _known_classes(dataset, class_ids)
    image_ids = dataset.image_ids.tolist()
    queries = [(i, [one for one in classes_in(dataset, i) if one in wanted]) for i in image_ids]
    return [(image_id, present) for image_id, present in queries if present]


def with_absent(
    dataset: IndexedCocoDataset,
    queries: Queries,
    absent: int | str,
    *,
    image_ids: Iterable[int],
    class_ids: Iterable[int] | None = None,
    seed: int,
    config: Config,
) -> Queries:
    """The queries of the open protocol: those of `queries_of`, and in each image classes that are not in it.

    The choice of an image depends only on (seed, COCO image id) and on the classes that it has to choose from, and the
    N classes are among the N + 1 that a larger `absent` gives.

    Args:
        dataset: with indices built.
        queries: of `queries_of`.
        absent: number of classes, N >= 1, of each image that are not in it, not even as a crowd; or "all" of them.
        image_ids: the images in order; those without any query are left out.
        class_ids: as of `queries_of`; a class without a usable reference is not among the absent ones.
        config: of the model; decides which references are usable (`data.references.has_reference`).

    Returns:
        (image id, [class ids, present and absent, ascending]) of the images in their order.
    """
    usable = [one for one in sorted(_known_classes(dataset, class_ids)) if has_reference(dataset, one, config)]
    present, asked = dict(queries), []
    for image_id in image_ids:
        others = absent_classes(dataset, image_id, usable)
        if absent != "all":
            rng = np.random.default_rng([seed, dataset.image_info[image_id]["id"]])
            others = [others[place] for place in rng.permutation(len(others))[: int(absent)]]
        asked.append((int(image_id), sorted([*present.get(image_id, ()), *others])))
    return [(image_id, classes) for image_id, classes in asked if classes]


def _known_classes(dataset: IndexedCocoDataset, class_ids: Iterable[int] | None) -> set[int]:
    wanted = {int(class_id) for class_id in (dataset.ACTIVE_CLASSES if class_ids is None else class_ids)}
    unknown = sorted(wanted - set(dataset.class_ids[1:].tolist()))
    if unknown:
        last = dataset.num_classes - 1
        raise InputError(f"class_ids: {unknown} are not in {dataset.set_name}, whose classes are 1..{last}")
    return wanted


# ---- the model -------------------------------------------------------------------------------------------------------


class OneShotDetector:
    """Runs a predictor; encodes a scene once for all its queries and caches reference embeddings.

    Each reference is encoded alone, so that results do not depend on the other queries.

    Args:
        batch: queries matched at once. 1 takes the least memory; more are faster for a narrow network (the demo's).
        cached: maximum number of cached embeddings; the least recently used are dropped first.
    """

    needs_references = True
    name = "siamese"

    def __init__(self, predictor: SiamesePredictor, *, batch: int = 1, cached: int = CACHED_REFERENCES) -> None:
        self.predictor, self.config, self._batch, self._cached = predictor, predictor.config, batch, cached
        self._embeddings: collections.OrderedDict[tuple, ReferenceEmbedding] = collections.OrderedDict()
        self._lock = threading.Lock()

    def search(self, dataset: IndexedCocoDataset, image_id: int, queries: Sequence[Query]) -> list[Detections]:
        """Detections of each query of one image, as `SiamesePredictor.detect` returns them.

        Raises:
            RuntimeError: a query failed; names image and class.
        """
        scene = self.predictor.encode_scenes([dataset.load_image(image_id)])
        found: list[Detections] = []
        for start in range(0, len(queries), self._batch):
            part = queries[start : start + self._batch]
            try:
                embeddings = [self._joint_embedding(dataset, query.references) for query in part]
                found += self.predictor.detect_all(scene, embeddings, batch=self._batch, more=len(queries) > 1)
            except Exception as error:  # whatever the backend raises, a failed query must not go unnoticed
                names = ", ".join(repr(dataset.class_names[query.class_id]) for query in part)
                where = f"{dataset.image_reference(image_id)}, category {names}"
                raise StateError(f"{where}: the query failed ({error})") from error
        return found

    def _joint_embedding(self, dataset: IndexedCocoDataset, references: Sequence[Reference]) -> ReferenceEmbedding:
        embeddings = [self._embedding(dataset, reference) for reference in references]
        return embeddings[0] if len(embeddings) == 1 else ReferenceEmbedding.join(embeddings)

    def _embedding(self, dataset: IndexedCocoDataset, reference: Reference) -> ReferenceEmbedding:
        if not isinstance(reference, tuple):
            return self.predictor.encode_references([reference])
        with self._lock:
            if reference in self._embeddings:
                self._embeddings.move_to_end(reference)
                return self._embeddings[reference]
        embedding = self.predictor.encode_references([cut_reference(dataset, self.config, *reference)])
        with self._lock:
            self._embeddings[reference] = embedding
            if len(self._embeddings) > self._cached:
                self._embeddings.popitem(last=False)
        return embedding


# ---- random boxes ----------------------------------------------------------------------------------------------------


class RandomBoxes:
    """The paper's baseline: the ground truth of the category, shifted at random inside the image with its masks.

    It knows the categories, the number of instances, their sizes and outlines, but not their places. Scores are uniform
    in [0.8, 1]; of a category that is not in the image it finds nothing. A result depends only on (seed, run, image,
    class). `config` only goes into the settings.
    """

    needs_references = False
    name = "random-boxes"

    def __init__(self, config: Config | None = None) -> None:
        self.config = Config() if config is None else config

    def search(self, dataset: IndexedCocoDataset, image_id: int, queries: Sequence[Query]) -> list[Detections]:
        """Detections of all queries of one image, in the form of `OneShotDetector.search`."""
        return [self._shifted(dataset, image_id, query) for query in queries]

    def _shifted(self, dataset: IndexedCocoDataset, image_id: int, query: Query) -> Detections:
        info = dataset.image_info[image_id]
        rng = np.random.default_rng((query.seed, query.run, info["id"], query.class_id))
        found = [dataset.instance_mask(image_id, index) for index in dataset.instances_of(image_id, query.class_id)]
        found = [shifted_mask(mask, rng) for mask in found if mask.any()]
        masks = np.stack(found, axis=-1) if found else np.zeros((info["height"], info["width"], 0), bool)
        scores = np.asarray(rng.uniform(_MIN_RANDOM_SCORE, 1, masks.shape[-1]))
        masks = masks[..., np.argsort(-scores)]
        class_ids = np.ones(len(scores), np.int32)
        return {"rois": extract_bboxes(masks), "class_ids": class_ids, "scores": -np.sort(-scores), "masks": masks}


def shifted_mask(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A mask bool [height, width] moved to a place that is uniform among those with its box inside the image."""
    y1, x1, y2, x2 = extract_bboxes(mask[..., None])[0].tolist()
    height, width = y2 - y1, x2 - x1
    top = int(rng.integers(0, mask.shape[0] - height, endpoint=True))
    left = int(rng.integers(0, mask.shape[1] - width, endpoint=True))
    shifted = np.zeros(mask.shape, bool)
    shifted[top : top + height, left : left + width] = mask[y1:y2, x1:x2]
    return shifted
