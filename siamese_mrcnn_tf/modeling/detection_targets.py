"""Detection targets: which proposals train the heads, and towards what.

The layer unpacks its inputs and delegates to `detection_targets_graph`. Boxes are normalized (y1, x1, y2, x2); shapes
are static but for the batch: sampling marks and ranks rows, it does not remove any.
"""

import keras
import numpy as np
from keras import ops

from ..ops.box_ops import box_refinement_graph, gather_batched, overlaps_graph
from ..ops.kernels import crop_and_resize

_POSITIVE_OVERLAP = 0.5  # with a ground truth box, for a roi that is to match
_CROWD_OVERLAP = 0.001  # with a crowd, up to which a roi may serve as background
_JITTER = 0.2  # of a side: how far jittered boxes are moved, and stretched; most overlap by half or more
_VALIDATION_SEED = 0
_SEED_STATE = "seed_state"


@keras.saving.register_keras_serializable(package="siamese_mrcnn_tf")
class DetectionTargetLayer(keras.layers.Layer):
    """Samples proposals for training and gives them their targets (`proposal_targets` in the original).

    Args:
        rois_per_image: rows of the result.
        positive_ratio: largest share of positive rows.
        bbox_std_dev: 4 numbers to divide the deltas by.
        mask_shape: (height, width) of the target masks.
        mini_masks: whether masks come cut to their boxes (USE_MINI_MASK).
        shuffle: False takes the first positives and negatives in proposal order, instead of random ones.
        seed: of the random choice.
        jittered: rows of further proposals, ground truth boxes moved and stretched at random.
        fill_negatives: whether negatives fill all rows.
    """

    def __init__(
        self,
        rois_per_image,
        positive_ratio,
        bbox_std_dev,
        mask_shape,
        mini_masks,
        shuffle=True,
        seed=None,
        jittered=0,
        fill_negatives=False,
        **kwargs,
    ):
        super().__init__(**{"dtype": "float32", **kwargs})  # boxes bear no less
        self.rois_per_image = rois_per_image
        self.positive_ratio = positive_ratio
        self.bbox_std_dev = list(bbox_std_dev)
        self.mask_shape = tuple(mask_shape)
        self.mini_masks = mini_masks
        self.shuffle = shuffle
        self.seed = seed
        self.jittered = jittered
        self.fill_negatives = fill_negatives
        self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, inputs, training=None):
        """inputs: proposals [batch, n, 4], gt_class_ids int [batch, g], gt_boxes [batch, g, 4],
        gt_masks [batch, h, w, g] -> dict of `detection_targets_graph`.

        With `training` False, in validation, the random choice is the same each time.
        """
        proposals, gt_class_ids, gt_boxes, gt_masks = inputs
        seed = _VALIDATION_SEED if training is False else self.seed_generator
        if self.jittered:
            noise = keras.random.uniform((ops.shape(gt_boxes)[0], self.jittered, 5), seed=seed)
            proposals = ops.concatenate([jittered_boxes_graph(gt_boxes, noise), proposals], axis=1)
        shape = ops.shape(proposals)[:2]
        return detection_targets_graph(
            proposals,
            gt_class_ids,
            gt_boxes,
            gt_masks,
            priority=keras.random.uniform(shape, seed=seed) if self.shuffle else None,
            rois_per_image=self.rois_per_image,
            positive_ratio=self.positive_ratio,
            bbox_std_dev=self.bbox_std_dev,
            mask_shape=self.mask_shape,
            mini_masks=self.mini_masks,
            fill_negatives=self.fill_negatives,
        )

    def save_own_variables(self, store):
        """With the state of the random choice, which Keras leaves out: a resumed run goes on with it."""
        store[_SEED_STATE] = np.asarray(self.seed_generator.state)

    def load_own_variables(self, store):
        self.seed_generator.state.assign(store[_SEED_STATE])

    def get_config(self):
        names = ("rois_per_image", "positive_ratio", "bbox_std_dev", "mask_shape", "mini_masks")
        names += ("shuffle", "seed", "jittered", "fill_negatives")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


def jittered_boxes_graph(boxes, noise):
    """Random boxes of those given, moved by up to a fifth of their sides and stretched by up to a fifth.

    Args:
        boxes: [batch, g, (y1, x1, y2, x2)] normalized, zero-padded.
        noise: [batch, n, 5] in 0..1: which box, its move (y, x), and the change of its height and width.

    Returns:
        [batch, n, (y1, x1, y2, x2)] in 0..1; zeros where there is no box.
    """
    count = ops.sum(ops.cast(ops.any(boxes != 0, axis=-1), "float32"), axis=-1)[:, None]
    chosen = gather_batched(boxes, ops.cast(ops.minimum(noise[..., 0] * count, ops.maximum(count - 1, 0)), "int32"))
    change = _JITTER * (2 * noise[..., 1:] - 1)
    size = chosen[..., 2:] - chosen[..., :2]
    centre, half = (chosen[..., :2] + chosen[..., 2:]) / 2 + change[..., :2] * size, size * (1 + change[..., 2:]) / 2
    return ops.clip(ops.concatenate([centre - half, centre + half], axis=-1), 0.0, 1.0)


def detection_targets_graph(
    proposals,
    gt_class_ids,
    gt_boxes,
    gt_masks,
    *,
    priority,
    rois_per_image,
    positive_ratio,
    bbox_std_dev,
    mask_shape,
    mini_masks,
    fill_negatives=False,
):
    """Rois for training: positives first, then int(positives / ratio) - positives negatives, then zeros.

    Args:
        proposals: [batch, n, (y1, x1, y2, x2)] normalized, zero-padded.
        gt_class_ids: int [batch, g], negative for crowds, zero-padded.
        gt_boxes: [batch, g, (y1, x1, y2, x2)] normalized, zero-padded.
        gt_masks: [batch, h, w, g], whole masks or mini masks.
        priority: [batch, n] in [0, 1), the highest are taken; None takes proposals in their order.
        rois_per_image, positive_ratio, bbox_std_dev, mask_shape, mini_masks, fill_negatives: see
            `DetectionTargetLayer`.

    Returns:
        dict: rois [batch, rois_per_image, (y1, x1, y2, x2)] normalized, target_class_ids int32 [batch, rois_per_image]
        (0 for negatives and padding), target_deltas [batch, rois_per_image, (dy, dx, log(dh), log(dw))] and
        target_masks [batch, rois_per_image, *mask_shape] of 0 and 1 (both 0 but for positives).
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


def _sample_rois(is_positive, is_negative, priority, rois_per_image, positive_ratio, fill_negatives):
    """Proposals to train on: (int32 [batch, rois_per_image], -1 where there is none; whether it is positive)."""
    most_positives = int(rois_per_image * positive_ratio)
    per_positive = np.float32(1.0 / positive_ratio)  # the original counts in float32
    most_negatives = int(per_positive * np.float32(most_positives)) - most_positives
    most_negatives = min(rois_per_image if fill_negatives else most_negatives, is_positive.shape[1])
    most_positives = min(most_positives, is_positive.shape[1])
    positive_score, positives = ops.top_k(ops.where(is_positive, priority, -1.0), most_positives)
    negative_score, negatives = ops.top_k(ops.where(is_negative, priority, -1.0), most_negatives)
    count = ops.sum(ops.cast(positive_score >= 0, "int32"), axis=-1, keepdims=True)
    allowed = rois_per_image if fill_negatives else ops.cast(per_positive * ops.cast(count, "float32"), "int32")
    allowed = allowed - count
    taken = ops.concatenate(
        [positive_score >= 0, (negative_score >= 0) & (ops.arange(most_negatives)[None] < allowed)], axis=-1
    )
    candidates = ops.where(taken, ops.cast(ops.concatenate([positives, negatives], axis=-1), "int32"), -1)
    padding = max(rois_per_image - candidates.shape[1], 0)
    candidates = ops.pad(candidates, ((0, 0), (0, padding)), constant_values=-1)
    # those taken to the front, order kept: top_k prefers the lower index among equals
    _, front = ops.top_k(ops.cast(candidates >= 0, "int32"), rois_per_image)
    sampled = gather_batched(candidates, front)
    return sampled, ops.arange(rois_per_image)[None] < count


def _target_masks(rois, boxes, assigned, gt_masks, mask_shape, mini_masks):
    """What each roi [batch, r, 4] shows of its object's mask: 0 and 1, [batch, r, *mask_shape]."""
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
