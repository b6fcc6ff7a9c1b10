"""The training losses and the weight decay; each function returns a scalar.

Shapes are static: rows that do not count are masked, not removed. A loss over an empty selection is 0, and so is its
gradient. All losses are computed in float32, also under mixed precision.
"""

import keras
from keras import ops

from ..ops.box_ops import Tensor, gather_batched

_EPSILON = 1e-7  # keeps logarithms of probabilities finite, as in Keras
_UNDECAYED = ("gamma", "beta")  # weights of batch normalization


def rpn_class_loss_graph(rpn_match: Tensor, rpn_class_logits: Tensor) -> Tensor:
    """Cross-entropy of positive and negative anchors.

    Args:
        rpn_match: [batch, anchors, 1], 1 positive, -1 negative, 0 neutral.
        rpn_class_logits: [batch, anchors, (background, foreground)].
    """
    match = ops.cast(rpn_match[..., 0], "int32")
    return masked_mean(_cross_entropy(ops.cast(match == 1, "int32"), rpn_class_logits), match != 0)


def rpn_bbox_loss_graph(target_bbox: Tensor, rpn_match: Tensor, rpn_bbox: Tensor) -> Tensor:
    """Smooth L1 of the deltas of positive anchors.

    Args:
        target_bbox: [batch, rows, (dy, dx, log(dh), log(dw))], one row per positive anchor, in their order.
        rpn_match: [batch, anchors, 1], 1 positive, -1 negative, 0 neutral.
        rpn_bbox: [batch, anchors, (dy, dx, log(dh), log(dw))].
    """
    positive = ops.cast(rpn_match[..., 0], "int32") == 1
    row = ops.cumsum(ops.cast(positive, "int32"), axis=1) - 1
    targets = gather_batched(target_bbox, ops.clip(row, 0, ops.shape(target_bbox)[1] - 1))
    return masked_mean(smooth_l1(targets, rpn_bbox), positive[..., None])


def mrcnn_class_loss_graph(target_class_ids: Tensor, pred_class_logits: Tensor) -> Tensor:
    """Cross-entropy of class ids int [batch, rois] and logits [batch, rois, (background, match)].

    All rois count, zero-padded rows as background.
    """
    return ops.mean(_cross_entropy(ops.cast(target_class_ids, "int32"), pred_class_logits))


def presence_loss_graph(target_presence: Tensor, presence_logit: Tensor) -> Tensor:
    """Binary cross-entropy of presence: bool [batch, 1] and logits [batch, 1]."""
    logits = ops.cast(presence_logit, "float32")
    return ops.mean(ops.softplus(logits) - ops.cast(target_presence, "float32") * logits)


def reference_loss_graph(class_ids: Tensor, logits: Tensor) -> Tensor:
    """Cross-entropy of the class ids int [batch] of references and logits [batch, classes]."""
    return ops.mean(_cross_entropy(ops.cast(class_ids, "int32"), logits))


def mrcnn_bbox_loss_graph(target_bbox: Tensor, target_class_ids: Tensor, pred_bbox: Tensor) -> Tensor:
    """Smooth L1 of the deltas of positive rois.

    Args:
        target_bbox, pred_bbox: [batch, rois, (dy, dx, log(dh), log(dw))].
        target_class_ids: int [batch, rois], above 0 for positive rois.
    """
    return masked_mean(smooth_l1(target_bbox, pred_bbox), (target_class_ids > 0)[..., None])


def mrcnn_mask_loss_graph(target_masks: Tensor, target_class_ids: Tensor, pred_masks: Tensor) -> Tensor:
    """Binary cross-entropy of the masks of positive rois.

    Args:
        target_masks: [batch, rois, height, width] of 0 and 1.
        target_class_ids: int [batch, rois], above 0 for positive rois.
        pred_masks: [batch, rows, height, width], probabilities; rows beyond the last positive roi may be missing.
    """
    rows = pred_masks.shape[1]
    targets = ops.cast(target_masks[:, :rows], "float32")
    predicted = ops.clip(ops.cast(pred_masks, "float32"), _EPSILON, 1.0 - _EPSILON)
    loss = -(targets * ops.log(predicted) + (1.0 - targets) * ops.log(1.0 - predicted))
    return masked_mean(loss, (target_class_ids[:, :rows] > 0)[..., None, None])


def weight_decay_graph(variables: list[keras.Variable], weight_decay: float) -> Tensor:
    """weight_decay * sum(w^2) / size(w), summed over the trainable `variables` except gamma and beta."""
    decayed = [variable for variable in variables if variable.name not in _UNDECAYED]
    if not decayed:
        return ops.zeros(())
    return weight_decay * ops.sum(ops.stack([ops.mean(ops.square(variable.value)) for variable in decayed]))


def smooth_l1(target: Tensor, predicted: Tensor) -> Tensor:
    """0.5 d^2 where |d| < 1, else |d| - 0.5, element by element."""
    distance = ops.abs(ops.cast(target, "float32") - ops.cast(predicted, "float32"))
    return ops.where(distance < 1.0, 0.5 * ops.square(distance), distance - 0.5)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of `values` where `mask` (broadcast) is True, 0 if it is True nowhere."""
    weights = ops.broadcast_to(ops.cast(mask, "float32"), ops.shape(values))
    # where, not a product: masked values may be infinite
    return ops.sum(ops.where(weights > 0, values, 0.0)) / ops.maximum(ops.sum(weights), 1.0)


def _cross_entropy(class_ids: Tensor, logits: Tensor) -> Tensor:
    """Cross-entropy [...] of class ids int [...] and logits [..., 2]."""
    log_probabilities = ops.log_softmax(ops.cast(logits, "float32"), axis=-1)
    return -ops.sum(ops.one_hot(class_ids, logits.shape[-1]) * log_probabilities, axis=-1)
