"""The one-shot protocol: every category that is in an image is searched for, given references drawn from the whole set.

Paper, Algorithm 1; design section 7. `evaluate` makes one run of it.
"""

import dataclasses
import time
from pathlib import Path

from tqdm import tqdm

from .dataset import cut_reference, draw_reference
from .scoring import IOU_TYPES, results_of, score


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """One run of the protocol.

    Attributes:
        results: COCO results of all queries.
        scores: "bbox" and, for a model with masks, "segm" -> scoring.CocoScores.
        references: for each query a dict image_id, category_id (COCO ids) and references: [(COCO image id, COCO
            annotation id)] of the K drawn.
        seconds: time spent in the network, molding included.
    """

    results: list
    scores: dict
    references: list
    seconds: float

    @property
    def num_queries(self):
        return len(self.references)


def evaluate(
    predictor, dataset, coco, *, class_ids=None, shots=1, seed=0, run=0, limit=None, area="mask", progress=True
):
    """Detect and score.

    Args:
        predictor: SiamesePredictor.
        dataset: IndexedCocoDataset with indices built, references are drawn from all of it.
        coco: the `pycocotools.coco.COCO` of its annotation file.
        class_ids: class ids [n] to evaluate; the data set's ACTIVE_CLASSES by default. Others count as background.
        shots: references of a query.
        seed, run: with image, class and shot the key of each draw.
        limit: evaluate only the first so many images that have one of the classes.
        area: "mask" or "box", what the results give as area (`scoring.results_of`).
        progress: show a progress bar.

    Returns:
        Evaluation.

    Raises:
        ValueError: nothing to evaluate, or a class without a usable reference.
        RuntimeError: a query failed; names image and category.
    """
    queries = queries_of(dataset, class_ids)[:limit]
    if not queries:
        raise ValueError(f"{dataset.set_name}: no image has an instance of the categories to evaluate")
    results, references, seconds = [], [], 0.0
    _check_queries(dataset, queries)
    for image_id, present in tqdm(queries, desc="evaluate", unit="image", disable=not progress):
        image = dataset.load_image(image_id)
        start = time.perf_counter()
        scene = predictor.encode_scenes([image])
        seconds += time.perf_counter() - start
        for class_id in present:
            drawn = [
                draw_reference(
                    dataset, class_id, seed=seed, run=run, image_id=image_id, shot=shot, config=predictor.config
                )
                for shot in range(shots)
            ]
            crops = [cut_reference(dataset, predictor.config, *instance) for instance in drawn]
            start = time.perf_counter()
            found = _query(predictor, scene, crops, dataset, image_id, class_id)
            seconds += time.perf_counter() - start
            references.append(_record(dataset, image_id, class_id, drawn))
            masks = found["masks"] if predictor.config.MODEL == "mrcnn" else None
            keys = (references[-1]["image_id"], references[-1]["category_id"])
            results.extend(results_of(*keys, found["rois"], found["scores"], masks, area=area))
    image_ids = [dataset.image_info[image_id]["id"] for image_id, _ in queries]
    categories = sorted({record["category_id"] for record in references})
    scores = {
        iou_type: score(coco, results, iou_type=iou_type, image_ids=image_ids, category_ids=categories)
        for iou_type in IOU_TYPES
        if iou_type == "bbox" or predictor.config.MODEL == "mrcnn"
    }
    return Evaluation(results, scores, references, seconds)


def queries_of(dataset, class_ids=None):
    """What the protocol asks: list of (image id, [class ids present in it]), images without any left out."""
    wanted = {int(class_id) for class_id in (dataset.ACTIVE_CLASSES if class_ids is None else class_ids)}
    queries = []
    for image_id in dataset.image_ids:
        present = [int(class_id) for class_id in dataset.image_category_index[image_id] if class_id in wanted]
        if present:
            queries.append((int(image_id), present))
    return queries


def _check_queries(dataset, queries):
    """Find a missing picture before hours of work, not after."""
    for image_id, _ in queries:
        path = Path(dataset.image_info[image_id]["path"])
        if not path.is_file():
            raise ValueError(f"{path}: no such picture, though the annotation file lists it")


def _query(predictor, scene, crops, dataset, image_id, class_id):
    try:
        return predictor.detect_in(scene, [crops])[0]
    except Exception as error:  # whatever the backend raises: a failed query must not pass in silence
        where = f"{dataset.image_reference(image_id)}, category {dataset.class_names[class_id]!r}"
        raise RuntimeError(f"{where}: the query failed ({error})") from error


def _record(dataset, image_id, class_id, drawn):
    chosen = [
        (dataset.image_info[image]["id"], dataset.image_info[image]["annotations"][index]["id"])
        for image, index in drawn
    ]
    return {
        "image_id": dataset.image_info[image_id]["id"],
        "category_id": dataset.class_info[class_id]["id"],
        "references": chosen,
    }
