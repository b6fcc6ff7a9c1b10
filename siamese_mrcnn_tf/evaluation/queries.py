"""The queries of the one-shot protocol: what is asked of an image, with which references, and the search itself.

A reference is an instance, (image id, annotation index), or a crop uint8 [h, w, RGB] where a sampler gives one.
"""

import collections
import dataclasses
import threading

import keras
import numpy as np

from ..config import Config
from ..data.references import cut_reference
from ..ops.boxes import extract_bboxes

# MERGED DOC: """Baselines that go through the one-shot protocol in the place of a model."""
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


# ---- search ----------------------------------------------------------------------------------------------------------


class OneShotDetector:
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


_LOWEST_SCORE = 0.8


class RandomBoxes:
    """The paper's random boxes: ground truth of the category, shifted at random inside the image with its masks.

    It knows which categories are there, how many instances, and their sizes and outlines, but not the places.
    Confidences are uniform in [0.8, 1]. What is found depends on (seed, run, image, class) alone.

    Args:
        config: a Config, kept with the records.
    """

    needs_references = False
    name = "random-boxes"

    def __init__(self, config=None):
        self.config = Config() if config is None else config

    def search(self, dataset, image_id, queries):
        """Detections of all queries of one image, as `queries.OneShotDetector.search` gives them."""
        return [self._shifted(dataset, image_id, query) for query in queries]

    def _shifted(self, dataset, image_id, query):
        key = (query.seed, query.run, dataset.image_info[image_id]["id"], query.class_id)
        rng = np.random.default_rng(key)
        masks = [dataset.instance_mask(image_id, index) for index in dataset.instances_of(image_id, query.class_id)]
        masks = [shifted_mask(mask, rng) for mask in masks if mask.any()]
        info = dataset.image_info[image_id]
        masks = np.stack(masks, axis=-1) if masks else np.zeros((info["height"], info["width"], 0), bool)
        scores = rng.uniform(_LOWEST_SCORE, 1, masks.shape[-1])
        order = np.argsort(-scores)
        scores, masks = scores[order], masks[..., order]
        class_ids = np.ones(len(scores), np.int32)
        return {"rois": extract_bboxes(masks), "class_ids": class_ids, "scores": scores, "masks": masks}


def shifted_mask(mask, rng):
    """A mask [height, width] at a random place, all places at which its box is inside the image alike: bool."""
    y1, x1, y2, x2 = extract_bboxes(mask[..., None])[0].tolist()
    height, width = y2 - y1, x2 - x1
    top = int(rng.integers(0, mask.shape[0] - height, endpoint=True))
    left = int(rng.integers(0, mask.shape[1] - width, endpoint=True))
    shifted = np.zeros(mask.shape, bool)
    shifted[top : top + height, left : left + width] = mask[y1:y2, x1:x2]
    return shifted
