"""The five losses of training, and the weight decay (design section 6).

Everything has static shapes: what a loss leaves out is masked, not removed. A loss over an empty selection is 0, and so
is its gradient. All of them are computed in float32, whatever the layers compute in.
"""

from keras import ops

from ..ops.box_ops import gather_batched

_EPSILON = 1e-7  # keeps logarithms of probabilities finite, as in Keras
_UNDECAYED = ("gamma", "beta")  # weights of batch normalization


def rpn_class_loss_graph(rpn_match, rpn_class_logits):
    """Cross-entropy of the anchors that are not neutral.

    Args:
        rpn_match: [batch, anchors, 1], 1 positive, -1 negative, 0 neutral.
        rpn_class_logits: [batch, anchors, (background, foreground)].

    Returns:
        Scalar.
    """
    match = ops.cast(rpn_match[..., 0], "int32")
    return masked_mean(_cross_entropy(ops.cast(match == 1, "int32"), rpn_class_logits), match != 0)


def rpn_bbox_loss_graph(target_bbox, rpn_match, rpn_bbox):
    """Smooth L1 of the deltas of positive anchors.

    Args:
        target_bbox: [batch, rows, (dy, dx, log(dh), log(dw))]; the first rows belong to the positive anchors, in their
            order.
        rpn_match: [batch, anchors, 1], 1 positive, -1 negative, 0 neutral.
        rpn_bbox: [batch, anchors, (dy, dx, log(dh), log(dw))].

    Returns:
        Scalar.
    """
    positive = ops.cast(rpn_match[..., 0], "int32") == 1
    row = ops.cumsum(ops.cast(positive, "int32"), axis=1) - 1
    targets = gather_batched(target_bbox, ops.clip(row, 0, ops.shape(target_bbox)[1] - 1))
    return masked_mean(smooth_l1(targets, rpn_bbox), positive[..., None])


def mrcnn_class_loss_graph(target_class_ids, pred_class_logits):
    """Cross-entropy of all rois, the zero-padded ones included as background.

    Args:
        target_class_ids: int [batch, rois].
        pred_class_logits: [batch, rois, (background, match)].

    Returns:
        Scalar.
    """
    return ops.mean(_cross_entropy(ops.cast(target_class_ids, "int32"), pred_class_logits))


def mrcnn_bbox_loss_graph(target_bbox, target_class_ids, pred_bbox):
    """Smooth L1 of the deltas of positive rois.

    Args:
        target_bbox: [batch, rois, (dy, dx, log(dh), log(dw))].
        target_class_ids: int [batch, rois], positive where a roi is to match.
        pred_bbox: [batch, rois, (dy, dx, log(dh), log(dw))].

    Returns:
        Scalar.
    """
    return masked_mean(smooth_l1(target_bbox, pred_bbox), (target_class_ids > 0)[..., None])


def mrcnn_mask_loss_graph(target_masks, target_class_ids, pred_masks):
    """Binary cross-entropy of the masks of positive rois.

    Args:
        target_masks: [batch, rois, height, width] of 0 and 1.
        target_class_ids: int [batch, rois], positive where a roi is to match.
        pred_masks: [batch, rows, height, width], probabilities; rows beyond the last positive roi may be missing.

    Returns:
        Scalar.
    """
    rows = pred_masks.shape[1]
    targets = ops.cast(target_masks[:, :rows], "float32")
    predicted = ops.clip(ops.cast(pred_masks, "float32"), _EPSILON, 1.0 - _EPSILON)
    loss = -(targets * ops.log(predicted) + (1.0 - targets) * ops.log(1.0 - predicted))
    return masked_mean(loss, (target_class_ids[:, :rows] > 0)[..., None, None])


def weight_decay_graph(variables, weight_decay):
    """weight_decay * sum(w^2) / size(w), summed over the weights that are not gamma or beta.

    Args:
        variables: Keras variables, those that train.
        weight_decay: number.

    Returns:
        Scalar.
    """
    decayed = [variable for variable in variables if variable.name not in _UNDECAYED]
    if not decayed:
        return ops.zeros(())
    return weight_decay * ops.sum(ops.stack([ops.mean(ops.square(variable.value)) for variable in decayed]))


def smooth_l1(target, predicted):
    """0.5 d^2 where |d| < 1, else |d| - 0.5, element by element."""
    distance = ops.abs(ops.cast(target, "float32") - ops.cast(predicted, "float32"))
    return ops.where(distance < 1.0, 0.5 * ops.square(distance), distance - 0.5)


def masked_mean(values, mask):
    """Mean of the `values` where `mask`, which is broadcast, holds; 0 where it holds nowhere."""
    weights = ops.broadcast_to(ops.cast(mask, "float32"), ops.shape(values))
    # where, not a product: what is left out may be infinite
    return ops.sum(ops.where(weights > 0, values, 0.0)) / ops.maximum(ops.sum(weights), 1.0)


def _cross_entropy(class_ids, logits):
    """Of class ids int [...] and logits [..., 2]: [...]."""
    log_probabilities = ops.log_softmax(ops.cast(logits, "float32"), axis=-1)
    return -ops.sum(ops.one_hot(class_ids, logits.shape[-1]) * log_probabilities, axis=-1)
