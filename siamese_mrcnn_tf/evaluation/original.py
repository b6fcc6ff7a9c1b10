"""`evaluate_dataset` and what belongs to it: the original's names, for code and notebooks written for it.

One run with references drawn as in the original. `protocol.evaluate` is the protocol with runs, records and intervals.
"""

import io
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from tqdm import tqdm

from ..data.custom import indexed_dataset
from ..data.dataset import Dataset, IndexedCocoDataset
from ..data.references import get_one_target
from ..io.errors import InputError, StateError
from .coco_scores import IOU_TYPES, Result, coco_evaluation, coco_stats, results_of
from .queries import queries_of

if TYPE_CHECKING:
    from ..model import SiameseMaskRCNN


def evaluate_dataset(
    model: "SiameseMaskRCNN",
    dataset: Dataset,
    dataset_object: COCO,
    eval_type: str | Sequence[str] = "bbox",
    dataset_type: str = "coco",
    limit: int = 0,
    image_ids: Iterable[int] | None = None,
    class_index: npt.ArrayLike | None = None,
    verbose: int = 1,
    random_detections: bool = False,
    return_results: bool = False,
    *,
    rng: np.random.Generator | None = None,
) -> COCOeval | None:
    """Search each image for each active class in it, references drawn by `get_one_target`, and score with COCOeval.

    Args:
        model: in inference mode; queries have its config's NUM_TARGETS references.
        dataset: with indices built, or of your own class (`data.custom`); its ACTIVE_CLASSES are searched for.
        dataset_object: of its annotation file; of your own class that of `custom.ground_truth`.
        eval_type: "bbox" or "segm", or a list of both.
        dataset_type: "coco".
        limit: only the first `limit` images; 0: all.
        image_ids: image ids [n] of the data set; None: all.
        class_index: indices of the categories to average over, from 0 in order of category id; None: all.
        verbose: 1 writes COCOeval's tables and the times to standard output, 2 shows progress too, 0 neither.
        random_detections: shift the detections at random (`SiameseMaskRCNN.detect`).
        return_results: return the COCOeval.
        rng: of references and shifts; None starts a fresh one.

    Returns:
        With `return_results` the COCOeval of the last of `eval_type`, whose `stats` float64 [12]
        are those of `class_index` and whose `eval` arrays have all categories of `dataset_object`; otherwise None.

    Raises:
        ValueError: an unknown type or index, nothing to search for, or a class without a usable reference.
        RuntimeError: a query failed; names image and category.
    """
    dataset = indexed_dataset(dataset, progress=verbose > 1)
    eval_types = [eval_type] if isinstance(eval_type, str) else list(eval_type)
    categories = sorted(dataset_object.cats)
    chosen = None if class_index is None else np.atleast_1d(np.asarray(class_index, int))
    _check(eval_types, dataset_type, chosen, len(categories))
    rng = np.random.default_rng() if rng is None else rng
    images = [int(image_id) for image_id in (dataset.image_ids if image_ids is None else image_ids)][: limit or None]
    start = time.perf_counter()
    results, seconds = _search(model, dataset, images, random_detections, rng, progress=verbose > 1)
    coco_ids = [dataset.image_info[image_id]["id"] for image_id in images]
    for name in eval_types:
        chosen_ids = {"image_ids": coco_ids, "category_ids": categories}
        evaluation = coco_evaluation(dataset_object, results, iou_type=name, **chosen_ids)
        table = io.StringIO()
        coco_stats(evaluation, class_index=chosen, out=table)
        if verbose:
            tqdm.write(table.getvalue().rstrip("\n"))
    if verbose:
        each, total = seconds / max(len(images), 1), time.perf_counter() - start
        tqdm.write(f"Prediction time: {seconds:.1f} s, {each:.2f} s an image; in all {total:.1f} s")
    return evaluation if return_results else None


def evaluate_coco(
    model: "SiameseMaskRCNN",
    dataset: Dataset,
    coco_object: COCO,
    eval_type: str | Sequence[str] = "bbox",
    limit: int = 0,
    image_ids: Iterable[int] | None = None,
    class_index: npt.ArrayLike | None = None,
    verbose: int = 1,
    return_results: bool = False,
) -> COCOeval | None:
    """`evaluate_dataset` under its older name, which Matterport's code has too."""
    chosen: dict[str, Any] = {"limit": limit, "image_ids": image_ids, "class_index": class_index}
    return evaluate_dataset(
        model, dataset, coco_object, eval_type, verbose=verbose, return_results=return_results, **chosen
    )


def build_coco_results(
    dataset: Dataset,
    image_ids: Iterable[int],
    rois: npt.ArrayLike,
    class_ids: Sequence[int] | np.ndarray,
    scores: npt.ArrayLike,
    masks: np.ndarray,
) -> list[Result]:
    """Detections of one image as COCO results; `image_ids` are COCO ids, each of which gets all of them."""
    ids = [dataset.get_source_class_id(int(class_id), "coco") for class_id in class_ids]
    rois, scores = np.asarray(rois).reshape(-1, 4), np.asarray(scores).reshape(-1)
    rows = [(ids[i], rois[i : i + 1], scores[i : i + 1], masks[..., i : i + 1]) for i in range(len(ids))]
    return [result for image_id in image_ids for row in rows for result in results_of(int(image_id), *row)]


class customCOCOeval(COCOeval):  # the original's name
    """COCOeval whose summary averages over chosen categories."""

    def summarize(self, class_index: npt.ArrayLike | None = None, verbose: int = 1) -> None:
        """Fill `stats`, and write its table if `verbose`; `class_index` as in `evaluate_dataset`."""
        plain, out = COCOeval(iouType=self.params.iouType), io.StringIO()
        plain.params, plain.eval = self.params, self.eval
        self.stats = coco_stats(plain, class_index=class_index, out=out)
        if verbose:
            tqdm.write(out.getvalue().rstrip("\n"))


def _search(
    model: "SiameseMaskRCNN",
    dataset: IndexedCocoDataset,
    image_ids: list[int],
    random_detections: bool,
    rng: np.random.Generator,
    *,
    progress: bool,
) -> tuple[list[Result], float]:
    """(COCO results of all queries, seconds spent in the network)."""
    present, seconds = dict(queries_of(dataset)), 0.0
    results: list[Result] = []
    for image_id in tqdm(image_ids, desc="evaluate", unit="image", disable=not progress):
        if image_id not in present:
            continue
        image = dataset.load_image(image_id)
        for class_id in present[image_id]:
            shots = range(model.config.NUM_TARGETS)
            targets = [get_one_target(class_id, dataset, model.config, rng=rng) for _ in shots]
            start = time.perf_counter()
            try:
                found: Any = model.detect([targets], [image], random_detections=random_detections, rng=rng)[0]
            except Exception as error:  # whatever the backend raises, a failed query must not go unnoticed
                where = f"{dataset.image_reference(image_id)}, category {dataset.class_names[class_id]!r}"
                raise StateError(f"{where}: the query failed ({error})") from error
            seconds += time.perf_counter() - start
            masks = found["masks"] if model.config.MODEL == "mrcnn" else None
            ids = dataset.image_info[image_id]["id"], dataset.class_info[class_id]["id"]
            results += results_of(*ids, found["rois"], found["scores"], masks)
    return results, seconds


def _check(eval_types: list[str], dataset_type: str, class_index: np.ndarray | None, num_categories: int) -> None:
    unknown = [name for name in eval_types if name not in IOU_TYPES]
    if unknown or not eval_types:
        raise InputError(f"eval_type = {eval_types}: expected {' or '.join(IOU_TYPES)}, or a list of both")
    if dataset_type != "coco":
        raise InputError(f"dataset_type = {dataset_type!r}: expected 'coco'")
    if class_index is not None and not ((class_index >= 0) & (class_index < num_categories)).all():
        raise InputError(f"class_index = {class_index.tolist()}: expected numbers in 0..{num_categories - 1}")
