"""Average precision of the detections in one image, with the names of Matterport's Mask R-CNN.

It is the area below the curve of precision over recall, all classes together, at one overlap. The published metrics are
those of `coco_scores`, over all images and for each category.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from ..ops.boxes import compute_overlaps, match_greedily, trim_zeros
from ..visualize.stages import mask_overlaps

_RANGE = np.linspace(0.5, 0.95, 10)  # COCO's overlaps


def compute_matches(
    gt_boxes: npt.ArrayLike,
    gt_class_ids: npt.ArrayLike,
    gt_masks: npt.ArrayLike,
    pred_boxes: npt.ArrayLike,
    pred_class_ids: npt.ArrayLike,
    pred_scores: npt.ArrayLike,
    pred_masks: npt.ArrayLike,
    iou_threshold: float = 0.5,
    score_threshold: float = 0.0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Match detections, in descending order of score, to instances of their class by the overlaps of masks.

    Args:
        gt_boxes: [instances, (y1, x1, y2, x2)], zero-padded or not; gt_class_ids [instances];
            gt_masks [height, width, instances].
        pred_boxes, pred_class_ids, pred_scores, pred_masks: the same of n detections.
        iou_threshold: minimum overlap of a match.
        score_threshold: minimum overlap too, as in Matterport's code.

    Returns:
        gt_match: int [instances], the detection of each, -1 for none.
        pred_match: int [n], the instance of each detection, -1 for none.
        overlaps: [n, instances]. Detections are in descending order of score in all three.
    """
    count, found = len(trim_zeros(gt_boxes)), len(trim_zeros(pred_boxes))
    order = np.argsort(-np.asarray(pred_scores, float)[:found], kind="stable")
    overlaps = mask_overlaps(np.asarray(pred_masks)[..., order], np.asarray(gt_masks)[..., :count])
    is_same = np.asarray(pred_class_ids)[order][:, None] == np.asarray(gt_class_ids)[None, :count]
    minimum = max(iou_threshold, score_threshold)
    pred_match = match_greedily(np.where(is_same, overlaps, -1.0), minimum) if count else np.full(found, -1)
    gt_match = np.full(count, -1)
    gt_match[pred_match[pred_match >= 0]] = np.flatnonzero(pred_match >= 0)
    return gt_match, pred_match, overlaps


def compute_ap(
    gt_boxes: npt.ArrayLike,
    gt_class_ids: npt.ArrayLike,
    gt_masks: npt.ArrayLike,
    pred_boxes: npt.ArrayLike,
    pred_class_ids: npt.ArrayLike,
    pred_scores: npt.ArrayLike,
    pred_masks: npt.ArrayLike,
    iou_threshold: float = 0.5,
) -> tuple[float, np.ndarray, np.ndarray, np.ndarray]:
    """Average precision at one overlap; arguments as in `compute_matches`.

    Returns:
        (AP, precisions [n + 2], recalls [n + 2], overlaps [n, instances]). The precision at a recall is the maximum at
        this or a higher recall; both arrays have one value before and one after those of the n detections.
    """
    truth, found = (gt_boxes, gt_class_ids, gt_masks), (pred_boxes, pred_class_ids, pred_scores, pred_masks)
    gt_match, pred_match, overlaps = compute_matches(*truth, *found, iou_threshold)
    hits = np.cumsum(pred_match >= 0)
    precisions = np.concatenate([[0.0], hits / np.arange(1, len(hits) + 1), [0.0]])
    recalls = np.concatenate([[0.0], hits / max(len(gt_match), 1), [1.0]])
    precisions = np.maximum.accumulate(precisions[::-1])[::-1]
    return float(np.diff(recalls) @ precisions[1:]), precisions, recalls, overlaps


def compute_ap_range(
    gt_box: npt.ArrayLike,
    gt_class_id: npt.ArrayLike,
    gt_mask: npt.ArrayLike,
    pred_box: npt.ArrayLike,
    pred_class_id: npt.ArrayLike,
    pred_score: npt.ArrayLike,
    pred_mask: npt.ArrayLike,
    iou_thresholds: Sequence[float] | np.ndarray | None = None,
    verbose: int = 1,
) -> float:
    """Mean of `compute_ap` over overlaps, by default 0.5, 0.55, ..., 0.95; `verbose` = 1 writes each of them."""
    thresholds = np.asarray(_RANGE if iou_thresholds is None else iou_thresholds, float)
    truth, found = (gt_box, gt_class_id, gt_mask), (pred_box, pred_class_id, pred_score, pred_mask)
    values = [compute_ap(*truth, *found, float(threshold))[0] for threshold in thresholds]
    mean = float(np.mean(values))
    if verbose:
        lines = [f"AP at {threshold:.2f}: {value:.3f}" for threshold, value in zip(thresholds, values, strict=True)]
        tqdm.write("\n".join([*lines, f"AP at {thresholds[0]:.2f} to {thresholds[-1]:.2f}: {mean:.3f}"]))
    return mean


def compute_recall(pred_boxes: npt.ArrayLike, gt_boxes: npt.ArrayLike, iou: float) -> tuple[float, np.ndarray]:
    """Share of instances that boxes, such as anchors or proposals, overlap by `iou` or more.

    A box counts for the instance that it overlaps most.

    Args:
        pred_boxes, gt_boxes: [n, (y1, x1, y2, x2)] and [instances, (y1, x1, y2, x2)], in the same unit.

    Returns:
        (recall, indices [p] of the boxes that overlap an instance by `iou` or more).
    """
    overlaps = compute_overlaps(pred_boxes, gt_boxes)
    if not overlaps.size:
        return 0.0, np.zeros(0, int)
    positive = np.flatnonzero(overlaps.max(axis=1) >= iou)
    return len(set(overlaps[positive].argmax(axis=1).tolist())) / overlaps.shape[1], positive
