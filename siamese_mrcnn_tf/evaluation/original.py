"""`evaluate_dataset`: the original's function of that name, for code and notebooks written for it.

One run with references drawn as the original draws them. `protocol.evaluate` is the protocol with its runs, records
and intervals.
"""

import contextlib
import io
import time

import numpy as np
from tqdm import tqdm

from ..data.references import get_one_target
from .coco_scores import IOU_TYPES, coco_evaluation, coco_stats, results_of
from .queries import queries_of


def evaluate_dataset(
    model,
    dataset,
    dataset_object,
    eval_type="bbox",
    dataset_type="coco",
    limit=0,
    image_ids=None,
    class_index=None,
    verbose=1,
    random_detections=False,
    return_results=False,
    *,
    rng=None,
):
    """Search each image for each active class in it, references drawn by `get_one_target`, and score with COCOeval.

    Args:
        model: SiameseMaskRCNN in inference mode; queries have its config's NUM_TARGETS references.
        dataset: IndexedCocoDataset with indices built; its ACTIVE_CLASSES are searched for.
        dataset_object: the `pycocotools.coco.COCO` of its annotation file.
        eval_type: "bbox" or "segm", or a list of both.
        dataset_type: "coco".
        limit: only the first so many images; 0 takes all.
        image_ids: image ids [n] of the data set; None takes all.
        class_index: places of the categories whose metrics are averaged, from 0 in order of category id (class ids
            less 1); None takes all.
        verbose: 1 writes COCOeval's tables and the times to standard output, 2 shows progress too, 0 neither.
        random_detections: shift the detections at random (`SiameseMaskRCNN.detect`).
        return_results: return the COCOeval.
        rng: `numpy.random.Generator` of references and shifts; None starts a fresh one.

    Returns:
        With `return_results` the `pycocotools.cocoeval.COCOeval` of the last of `eval_type`, whose `stats` float64 [12]
        are those of `class_index` and whose `eval` arrays have all categories of `dataset_object`; otherwise None.

    Raises:
        ValueError: an unknown type or index, nothing to search for, or a class without a usable reference.
    """
    eval_types = [eval_type] if isinstance(eval_type, str) else list(eval_type)
    categories = sorted(dataset_object.cats)
    class_index = None if class_index is None else np.atleast_1d(np.asarray(class_index, int))
    _check(eval_types, dataset_type, class_index, len(categories))
    rng = np.random.default_rng() if rng is None else rng
    image_ids = [int(image_id) for image_id in (dataset.image_ids if image_ids is None else image_ids)]
    image_ids = image_ids[:limit] if limit else image_ids
    start = time.perf_counter()
    results, seconds = _search(model, dataset, image_ids, random_detections, rng, progress=verbose > 1)
    chosen = {"image_ids": [dataset.image_info[image_id]["id"] for image_id in image_ids], "category_ids": categories}
    for name in eval_types:
        evaluation, table = coco_evaluation(dataset_object, results, iou_type=name, **chosen), io.StringIO()
        coco_stats(evaluation, class_index=class_index, out=table)
        if verbose:
            tqdm.write(table.getvalue().rstrip("\n"))
    if verbose:
        each = seconds / max(len(image_ids), 1)
        tqdm.write(
            f"Prediction time: {seconds:.1f} s, {each:.2f} s an image; in all {time.perf_counter() - start:.1f} s"
        )
    return evaluation if return_results else None


def _search(model, dataset, image_ids, random_detections, rng, *, progress):
    """(COCO results of all queries, seconds spent in the network)."""
    present, results, seconds = dict(queries_of(dataset)), [], 0.0
    for image_id in tqdm(image_ids, desc="evaluate", unit="image", disable=not progress):
        if image_id not in present:
            continue
        image, coco_id = dataset.load_image(image_id), dataset.image_info[image_id]["id"]
        for class_id in present[image_id]:
            targets = [
                get_one_target(class_id, dataset, model.config, rng=rng) for _ in range(model.config.NUM_TARGETS)
            ]
            start = time.perf_counter()
            with _naming(dataset, image_id, class_id):
                found = model.detect([targets], [image], random_detections=random_detections, rng=rng)[0]
            seconds += time.perf_counter() - start
            masks = found["masks"] if model.config.MODEL == "mrcnn" else None
            results += results_of(coco_id, dataset.class_info[class_id]["id"], found["rois"], found["scores"], masks)
    return results, seconds


@contextlib.contextmanager
def _naming(dataset, image_id, class_id):
    """Context whose errors name image and class: a failed query must not pass in silence."""
    try:
        yield
    except Exception as error:
        where = f"{dataset.image_reference(image_id)}, category {dataset.class_names[class_id]!r}"
        raise RuntimeError(f"{where}: the query failed ({error})") from error


def _check(eval_types, dataset_type, class_index, num_categories):
    unknown = [name for name in eval_types if name not in IOU_TYPES]
    if unknown or not eval_types:
        raise ValueError(f"eval_type = {eval_types}: expected {' or '.join(IOU_TYPES)}, or a list of both")
    if dataset_type != "coco":
        raise ValueError(f"dataset_type = {dataset_type!r}: expected 'coco'")
    if class_index is not None and not ((class_index >= 0) & (class_index < num_categories)).all():
        raise ValueError(f"class_index = {class_index.tolist()}: expected numbers in 0..{num_categories - 1}")
