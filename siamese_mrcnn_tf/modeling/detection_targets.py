"""Detection targets: samples proposals to train the heads on, and assigns their classes, box deltas and masks.

Boxes are normalized (y1, x1, y2, x2). Shapes are static except for the batch: sampling ranks and masks rows, it does
not remove any.
"""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from ..ops.box_ops import Tensor, box_refinement_graph, gather_batched, overlaps_graph
from ..ops.kernels import crop_and_resize

_POSITIVE_OVERLAP = 0.5  # minimum with a ground truth box for a positive roi
_CROWD_OVERLAP = 0.001  # maximum with a crowd for a negative roi
_JITTER = 0.2  # of a side: maximum shift and stretch of jittered boxes, most of which still overlap by half or more
_VALIDATION_SEED = 0
_GRAPH_SETTINGS = ("rois_per_image", "positive_ratio", "bbox_std_dev", "mask_shape", "mini_masks", "fill_negatives")
_SEED_STATE = "seed_state"


@keras.saving.register_keras_serializable(package="siamese_mrcnn_tf")
class DetectionTargetLayer(keras.layers.Layer):
    """Samples proposals for training and assigns their targets (`proposal_targets` in the original).

    Args:
        rois_per_image: rows of the result.
        positive_ratio: maximum share of positive rows.
        bbox_std_dev: 4 numbers to divide the deltas by.
        mask_shape: (height, width) of the target masks.
        mini_masks: whether masks are cropped to their boxes (USE_MINI_MASK).
        shuffle: sample at random; False takes the first positives and negatives in proposal order.
        seed: of the sampling.
        jittered: number of additional proposals, ground truth boxes moved and stretched at random.
        fill_negatives: whether negatives fill all rows.
    """

    def __init__(
        self,
        rois_per_image: int,
        positive_ratio: float,
        bbox_std_dev: Sequence[float],
        mask_shape: Sequence[int],
        mini_masks: bool,
        shuffle: bool = True,
        seed: int | None = None,
        jittered: int = 0,
        fill_negatives: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**{"dtype": "float32", **kwargs})  # box coordinates need float32
        self.rois_per_image, self.positive_ratio, self.bbox_std_dev = rois_per_image, positive_ratio, list(bbox_std_dev)
        self.mask_shape, self.mini_masks, self.fill_negatives = tuple(mask_shape), mini_masks, fill_negatives
        self.shuffle, self.seed, self.jittered = shuffle, seed, jittered
        self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, inputs: list[Tensor], training: bool | None = None) -> dict[str, Tensor]:
        """inputs: proposals [batch, n, 4], gt_class_ids int [batch, g], gt_boxes [batch, g, 4],
        gt_masks [batch, h, w, g] -> dict of `detection_targets_graph`.

        With `training` False, in validation, the sampling is the same each time.
        """
        proposals, gt_class_ids, gt_boxes, gt_masks = inputs
        seed = _VALIDATION_SEED if training is False else self.seed_generator
        if self.jittered:
            noise = keras.random.uniform((ops.shape(gt_boxes)[0], self.jittered, 5), seed=seed)
            proposals = ops.concatenate([jittered_boxes_graph(gt_boxes, noise), proposals], axis=1)
        priority = keras.random.uniform(ops.shape(proposals)[:2], seed=seed) if self.shuffle else None
        settings = {name: getattr(self, name) for name in _GRAPH_SETTINGS}
        return detection_targets_graph(proposals, gt_class_ids, gt_boxes, gt_masks, priority=priority, **settings)

    def save_own_variables(self, store: Any) -> None:
        """Save the state of the random generator too, which Keras leaves out: a resumed run continues with it."""
        store[_SEED_STATE] = np.asarray(self.seed_generator.state)

    def load_own_variables(self, store: Any) -> None:
        self.seed_generator.state.assign(store[_SEED_STATE])

    def get_config(self) -> dict[str, Any]:
        names = (*_GRAPH_SETTINGS, "shuffle", "seed", "jittered")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


def jittered_boxes_graph(boxes: Tensor, noise: Tensor) -> Tensor:
    """Boxes [batch, n, 4] chosen at random, shifted and stretched by up to a fifth of their sides, clipped to 0..1.

    Args:
        boxes: [batch, g, (y1, x1, y2, x2)] normalized, zero-padded; without any the result is zeros.
        noise: [batch, n, 5] in 0..1: choice of the box, shift (y, x), change of height and width.
    """
    count = ops.sum(ops.cast(ops.any(boxes != 0, axis=-1), "float32"), axis=-1)[:, None]
    chosen = gather_batched(boxes, ops.cast(ops.minimum(noise[..., 0] * count, ops.maximum(count - 1, 0)), "int32"))
    change = _JITTER * (2 * noise[..., 1:] - 1)
    size = chosen[..., 2:] - chosen[..., :2]
    center, half = (chosen[..., :2] + chosen[..., 2:]) / 2 + change[..., :2] * size, size * (1 + change[..., 2:]) / 2
    return ops.clip(ops.concatenate([center - half, center + half], axis=-1), 0.0, 1.0)


def detection_targets_graph(
    proposals: Tensor,
    gt_class_ids: Tensor,
    gt_boxes: Tensor,
    gt_masks: Tensor,
    *,
    priority: Tensor | None,
    rois_per_image: int,
    positive_ratio: float,
    bbox_std_dev: Sequence[float],
    mask_shape: tuple[int, int],
    mini_masks: bool,
    fill_negatives: bool = False,
) -> dict[str, Tensor]:
    """Rois for training: positives first, then int(positives / ratio) - positives negatives, then zeros.

    Args:
        proposals: [batch, n, (y1, x1, y2, x2)] normalized, zero-padded.
        gt_class_ids: int [batch, g], negative for crowds, zero-padded.
        gt_boxes: [batch, g, (y1, x1, y2, x2)] normalized, zero-padded.
        gt_masks: [batch, h, w, g], full masks or mini masks.
        priority: [batch, n] in [0, 1), of the sampling; None samples proposals in order.
        rois_per_image, positive_ratio, bbox_std_dev, mask_shape, mini_masks, fill_negatives: see
            `DetectionTargetLayer`.

    Returns:
        dict: rois [batch, rois_per_image, (y1, x1, y2, x2)] normalized, target_class_ids int32 [batch, rois_per_image]
        (0 for negatives and padding), target_deltas [batch, rois_per_image, (dy, dx, log(dh), log(dw))] and
        target_masks [batch, rois_per_image, *mask_shape] of 0 and 1 (both 0 except for positives).
    """
    real = ops.any(proposals != 0, axis=-1)
    overlaps = overlaps_graph(proposals, gt_boxes)
    with_object = ops.where((gt_class_ids > 0)[:, None], overlaps, -1.0)
    crowd_overlap = ops.max(ops.where((gt_class_ids < 0)[:, None], overlaps, 0.0), axis=-1)
    best_overlap = ops.max(with_object, axis=-1)
    is_positive = real & (best_overlap >= _POSITIVE_OVERLAP)
    is_negative = real & (best_overlap < _POSITIVE_OVERLAP) & (crowd_overlap < _CROWD_OVERLAP)
    if priority is None:
        count = proposals.shape[1]
        priority = ops.broadcast_to(1.0 - ops.arange(count, dtype="float32")[None] / count, ops.shape(real))
    sampled, positive = _sample_rois(is_positive, is_negative, priority, rois_per_image, positive_ratio, fill_negatives)
    chosen, positive = ops.maximum(sampled, 0), positive[..., None]
    rois = ops.where((sampled >= 0)[..., None], gather_batched(proposals, chosen), 0.0)
    assigned = gather_batched(ops.argmax(with_object, axis=-1), chosen)
    boxes = gather_batched(gt_boxes, assigned)
    unit = ops.convert_to_tensor([0.0, 0.0, 1.0, 1.0])  # keeps logarithms of rows without a target finite
    deltas = box_refinement_graph(ops.where(positive, rois, unit), ops.where(positive, boxes, unit))
    masks = _target_masks(rois, boxes, assigned, gt_masks, mask_shape, mini_masks)
    return {
        "rois": rois,
        "target_class_ids": ops.where(positive[..., 0], gather_batched(ops.cast(gt_class_ids, "int32"), assigned), 0),
        "target_deltas": ops.where(positive, deltas / ops.convert_to_tensor(bbox_std_dev, dtype="float32"), 0.0),
        "target_masks": ops.where(positive[..., None], masks, 0.0),
    }


def _sample_rois(
    is_positive: Tensor, is_negative: Tensor, priority: Tensor, rois_per_image: int, positive_ratio: float, fill: bool
) -> tuple[Tensor, Tensor]:
    """Proposals to train on: (index int32 [batch, rois_per_image], -1 for none; bool [...], whether it is positive)."""
    max_positives = int(rois_per_image * positive_ratio)
    per_positive = np.float32(1.0 / positive_ratio)  # the original counts in float32
    max_negatives = int(per_positive * np.float32(max_positives)) - max_positives
    max_negatives = min(rois_per_image if fill else max_negatives, is_positive.shape[1])
    max_positives = min(max_positives, is_positive.shape[1])
    positive_score, positives = ops.top_k(ops.where(is_positive, priority, -1.0), max_positives)
    negative_score, negatives = ops.top_k(ops.where(is_negative, priority, -1.0), max_negatives)
    count = ops.sum(ops.cast(positive_score >= 0, "int32"), axis=-1, keepdims=True)
    allowed = rois_per_image if fill else ops.cast(per_positive * ops.cast(count, "float32"), "int32")
    taken_negatives = (negative_score >= 0) & (ops.arange(max_negatives)[None] < allowed - count)
    taken = ops.concatenate([positive_score >= 0, taken_negatives], axis=-1)
    candidates = ops.where(taken, ops.cast(ops.concatenate([positives, negatives], axis=-1), "int32"), -1)
    padding = max(rois_per_image - candidates.shape[1], 0)
    candidates = ops.pad(candidates, ((0, 0), (0, padding)), constant_values=-1)
    # move sampled rows to the front, in order: top_k prefers the lower index among equals
    _, front = ops.top_k(ops.cast(candidates >= 0, "int32"), rois_per_image)
    sampled = gather_batched(candidates, front)
    return sampled, ops.arange(rois_per_image)[None] < count


def _target_masks(
    rois: Tensor, boxes: Tensor, assigned: Tensor, gt_masks: Tensor, mask_shape: tuple[int, int], mini_masks: bool
) -> Tensor:
    """The mask of each roi's object, cropped to the roi: 0 and 1, [batch, r, *mask_shape]."""
    batch, count = ops.shape(rois)[0], rois.shape[1]
    if mini_masks:
        height, width = boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1]
        origin = ops.take(boxes, [0, 1, 0, 1], axis=-1)
        size = ops.stack([height, width, height, width], axis=-1)
        rois = (rois - origin) / ops.where(size > 0, size, 1.0)
    instances = gt_masks.shape[-1] or ops.shape(gt_masks)[-1]
    by_instance = ops.cast(ops.transpose(gt_masks, (0, 3, 1, 2)), "float32")
    by_instance = ops.reshape(by_instance, (-1, *gt_masks.shape[1:3], 1))
    which = ops.arange(batch, dtype="int32")[:, None] * instances + ops.cast(assigned, "int32")
    crops = crop_and_resize(by_instance, ops.reshape(rois, (-1, 4)), ops.reshape(which, (-1,)), mask_shape)
    return ops.round(ops.reshape(crops, (-1, count, *mask_shape)))
