"""The layers that Keras lacks: matching, proposals, RoI pooling, detections.

Each class unpacks its inputs and delegates to a `*_graph` function on plain tensors. Boxes are normalized
(y1, x1, y2, x2); the shapes of inputs and outputs are static but for the batch.
"""

import math

import keras
import numpy as np
from keras import ops

from .box_ops import (
    apply_box_deltas_graph,
    clip_boxes_graph,
    gather_rows,
    norm_boxes_graph,
)
from .image_meta import parse_image_meta
from .kernels import non_max_suppression, pyramid_crop_and_resize

_register = keras.saving.register_keras_serializable(package="siamese_mrcnn_tf")
_COARSEST_POOLED, _FINEST_POOLED, _CANONICAL_POOLED = 5, 2, 4  # pyramid levels that rois are pooled from


@_register
class MatchingLayer(keras.layers.Layer):
    """Compares one level of the scene's pyramid with the reference's average at that level.

    The matched map is a 1x1 convolution, without activation, of the scene's map beside its absolute difference from the
    reference (paper, section 4.1; `fpn_distance_P2` .. `P6` in weight files).

    Args:
        filters: channels of the matched map.
    """

    def __init__(self, filters, **kwargs):
        super().__init__(**kwargs)
        self.filters = filters

    def build(self, input_shape):
        channels = input_shape[0][-1]
        self.kernel = self.add_weight(name="kernel", shape=(1, 1, 2 * channels, self.filters))
        self.bias = self.add_weight(name="bias", shape=(self.filters,), initializer="zeros")

    def call(self, inputs):
        """inputs: scene map [batch, h, w, channels], reference [batch, channels] -> [batch, h, w, filters]."""
        return matching_graph(*inputs, self.kernel, self.bias)

    def compute_output_shape(self, input_shape):
        return (*input_shape[0][:-1], self.filters)

    def get_config(self):
        return {**super().get_config(), "filters": self.filters}


def matching_graph(scene_map, reference, kernel, bias):
    """concat([P, |P - t|]) through a 1x1 convolution.

    Args:
        scene_map: P [batch, h, w, channels].
        reference: t [batch, channels].
        kernel: [1, 1, 2 * channels, filters].
        bias: [filters].

    Returns:
        [batch, h, w, filters].
    """
    # The convolution of each half on its own: the concatenated map, twice the scene's, is never made.
    channels = scene_map.shape[-1]
    difference = ops.abs(scene_map - reference[:, None, None, :])
    return ops.conv(scene_map, kernel[:, :, :channels]) + bias + ops.conv(difference, kernel[:, :, channels:])


@_register
class MeanOverReferences(keras.layers.Layer):
    """Embedding of a K-shot query: the mean of its references' embeddings."""

    def call(self, inputs):
        """inputs: embeddings [batch * K, levels, channels], references [batch, K, h, w, 3]
        -> [batch, levels, channels]."""
        embeddings, references = inputs
        shape = (-1, ops.shape(references)[1], *embeddings.shape[1:])
        return ops.mean(ops.reshape(embeddings, shape), axis=1)

    def compute_output_shape(self, input_shape):
        return (input_shape[1][0], *input_shape[0][1:])


@_register
class AnchorLayer(keras.layers.Layer):
    """The anchors of a configuration, once for each image of a batch.

    Args:
        anchors: [anchors, (y1, x1, y2, x2)] normalized.
    """

    def __init__(self, anchors, **kwargs):
        super().__init__(**{"dtype": "float32", **kwargs})
        self.anchors = np.asarray(anchors, np.float32)

    def call(self, images):
        """images: [batch, ...] -> [batch, anchors, (y1, x1, y2, x2)] normalized."""
        return ops.broadcast_to(ops.convert_to_tensor(self.anchors)[None], (ops.shape(images)[0], *self.anchors.shape))

    def compute_output_shape(self, input_shape):
        return (input_shape[0], *self.anchors.shape)

    def get_config(self):
        return {**super().get_config(), "anchors": self.anchors.tolist()}


@_register
class ProposalLayer(keras.layers.Layer):
    """Proposals from the RPN's scores and deltas (`ROI` in the original).

    Args:
        proposal_count: rows of the result.
        nms_threshold: overlap above which the lesser of two proposals is dropped.
        pre_nms_limit: best anchors that enter non-maximum suppression.
        bbox_std_dev: 4 numbers that the deltas were divided by in training.
    """

    def __init__(self, proposal_count, nms_threshold, pre_nms_limit, bbox_std_dev, **kwargs):
        super().__init__(**{"dtype": "float32", **kwargs})  # boxes bear no less
        self.proposal_count = proposal_count
        self.nms_threshold = nms_threshold
        self.pre_nms_limit = pre_nms_limit
        self.bbox_std_dev = list(bbox_std_dev)

    def call(self, inputs):
        """inputs: rpn_class [batch, anchors, 2], rpn_bbox [batch, anchors, 4], anchors [batch, anchors, 4]
        -> [batch, proposal_count, (y1, x1, y2, x2)] normalized, zero-padded."""
        return proposal_graph(
            *inputs,
            proposal_count=self.proposal_count,
            nms_threshold=self.nms_threshold,
            pre_nms_limit=self.pre_nms_limit,
            bbox_std_dev=self.bbox_std_dev,
        )

    def compute_output_shape(self, input_shape):
        return (input_shape[0][0], self.proposal_count, 4)

    def get_config(self):
        names = ("proposal_count", "nms_threshold", "pre_nms_limit", "bbox_std_dev")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


def proposal_graph(rpn_class, rpn_bbox, anchors, *, proposal_count, nms_threshold, pre_nms_limit, bbox_std_dev):
    """Best anchors, moved by their deltas, clipped to the image, without near duplicates.

    Args:
        rpn_class: [batch, anchors, (background, foreground)] probabilities.
        rpn_bbox: [batch, anchors, (dy, dx, log(dh), log(dw))].
        anchors: [batch, anchors, (y1, x1, y2, x2)] normalized.
        proposal_count, nms_threshold, pre_nms_limit, bbox_std_dev: see `ProposalLayer`.

    Returns:
        [batch, proposal_count, (y1, x1, y2, x2)] normalized, zero-padded.
    """
    candidates = refined_anchors_graph(
        rpn_class, rpn_bbox, anchors, pre_nms_limit=pre_nms_limit, bbox_std_dev=bbox_std_dev
    )
    proposals, scores = candidates["refined_anchors_clipped"], candidates["pre_nms_scores"]
    kept, valid = non_max_suppression(proposals, scores, max_output_size=proposal_count, iou_threshold=nms_threshold)
    return ops.where(valid[..., None], gather_rows(proposals, kept), 0.0)


@_register
class RefinedAnchorsLayer(keras.layers.Layer):
    """What enters the non-maximum suppression of `ProposalLayer`, for a look inside.

    Args:
        pre_nms_limit, bbox_std_dev: see `ProposalLayer`.
    """

    def __init__(self, pre_nms_limit, bbox_std_dev, **kwargs):
        super().__init__(**{"dtype": "float32", **kwargs})  # boxes bear no less
        self.pre_nms_limit = pre_nms_limit
        self.bbox_std_dev = list(bbox_std_dev)

    def call(self, inputs):
        """inputs: as in `ProposalLayer.call` -> dict of `refined_anchors_graph`."""
        return refined_anchors_graph(*inputs, pre_nms_limit=self.pre_nms_limit, bbox_std_dev=self.bbox_std_dev)

    def compute_output_shape(self, input_shape):
        batch, count = input_shape[0][:2]
        limit = count and min(count, self.pre_nms_limit)
        boxes = {name: (batch, limit, 4) for name in ("pre_nms_anchors", "refined_anchors", "refined_anchors_clipped")}
        return {"pre_nms_scores": (batch, limit), **boxes}

    def get_config(self):
        return {**super().get_config(), "pre_nms_limit": self.pre_nms_limit, "bbox_std_dev": self.bbox_std_dev}


def refined_anchors_graph(rpn_class, rpn_bbox, anchors, *, pre_nms_limit, bbox_std_dev):
    """Best anchors, and where their deltas move them.

    Args:
        rpn_class, rpn_bbox, anchors, pre_nms_limit, bbox_std_dev: see `proposal_graph`.

    Returns:
        dict, rows by falling score: pre_nms_scores [batch, n]; pre_nms_anchors, refined_anchors and
        refined_anchors_clipped (to the image), each [batch, n, (y1, x1, y2, x2)] normalized; n is pre_nms_limit, or the
        number of anchors if that is less.
    """
    # The number of anchors is unknown beforehand in the resize modes whose result depends on the picture.
    anchor_count = rpn_class.shape[1] or ops.shape(rpn_class)[1]
    limit = min(pre_nms_limit, anchor_count) if rpn_class.shape[1] else ops.minimum(pre_nms_limit, anchor_count)
    scores, best = ops.top_k(rpn_class[:, :, 1], limit)
    deltas = gather_rows(rpn_bbox, best) * ops.convert_to_tensor(bbox_std_dev, dtype="float32")
    chosen = gather_rows(anchors, best)
    refined = apply_box_deltas_graph(chosen, deltas)
    clipped = clip_boxes_graph(refined, ops.convert_to_tensor([[0.0, 0.0, 1.0, 1.0]]))
    return {
        "pre_nms_scores": scores,
        "pre_nms_anchors": chosen,
        "refined_anchors": refined,
        # weights that diverged give boxes that are no numbers, which non-maximum suppression refuses
        "refined_anchors_clipped": ops.where(ops.isfinite(clipped), clipped, 0.0),
    }


@_register
class PyramidROIAlign(keras.layers.Layer):
    """Pools rois from the pyramid level that fits their size (Matterport's rule, not torchvision's RoIAlign).

    Args:
        pool_shape: (height, width) of the pooled maps.
        canonical_size: side in pixels of a roi that is pooled from P4.
    """

    def __init__(self, pool_shape, canonical_size=224, **kwargs):
        super().__init__(**{"dtype": "float32", **kwargs})  # boxes bear no less
        self.pool_shape = tuple(pool_shape)
        self.canonical_size = canonical_size

    def call(self, inputs):
        """inputs: rois [batch, n, 4], image_meta [batch, meta], maps P2..P5 -> [batch, n, *pool_shape, channels]."""
        rois, image_meta, *feature_maps = inputs
        levels = roi_levels_graph(rois, image_meta, canonical_size=self.canonical_size)
        return pyramid_roi_align_graph(rois, levels, feature_maps, pool_shape=self.pool_shape)

    def compute_output_shape(self, input_shape):
        return (*input_shape[0][:2], *self.pool_shape, input_shape[2][-1])

    def get_config(self):
        return {**super().get_config(), "pool_shape": self.pool_shape, "canonical_size": self.canonical_size}


def roi_levels_graph(rois, image_meta, *, canonical_size):
    """Pyramid level of each roi: clip(4 + round(log2(sqrt(h w) / (canonical_size / sqrt(H W)))), 2, 5).

    Args:
        rois: [batch, n, (y1, x1, y2, x2)] normalized.
        image_meta: [batch, meta]; the molded shape gives H and W.
        canonical_size: pixels.

    Returns:
        int32 [batch, n]; rois without area go to level 2.
    """
    shape = parse_image_meta(image_meta)["image_shape"][:, None]
    height, width = rois[..., 2] - rois[..., 0], rois[..., 3] - rois[..., 1]
    relative_size = ops.sqrt(height * width) / (float(canonical_size) / ops.sqrt(shape[..., 0] * shape[..., 1]))
    # log(0) is -inf, which the clip turns into the finest level
    offset = ops.round(ops.log(relative_size) / math.log(2.0))
    offset = ops.clip(offset, _FINEST_POOLED - _CANONICAL_POOLED, _COARSEST_POOLED - _CANONICAL_POOLED)
    # clipped again: a roi that is not a number must have a level too, or rows would go missing
    return ops.clip(ops.cast(offset, "int32") + _CANONICAL_POOLED, _FINEST_POOLED, _COARSEST_POOLED)


def pyramid_roi_align_graph(rois, levels, feature_maps, *, pool_shape):
    """Crop each roi from the map of its level, one bilinear sample a cell.

    Args:
        rois: [batch, n, (y1, x1, y2, x2)] normalized.
        levels: int32 [batch, n], 2 for the first map.
        feature_maps: P2.. [batch, h, w, channels], coarser one by one.
        pool_shape: (height, width).

    Returns:
        [batch, n, height, width, channels].
    """
    batch, count = ops.shape(rois)[0], rois.shape[1]
    boxes = ops.stop_gradient(ops.reshape(rois, (-1, 4)))
    box_levels = ops.reshape(levels, (-1,))
    image_of_box = ops.repeat(ops.arange(batch, dtype="int32"), count)
    pooled = pyramid_crop_and_resize(feature_maps, boxes, image_of_box, box_levels - _FINEST_POOLED, pool_shape)
    return ops.reshape(pooled, (-1, count, *pool_shape, feature_maps[0].shape[-1]))


@_register
class DetectionLayer(keras.layers.Layer):
    """Detections from classified proposals (`mrcnn_detection` in the original).

    Args:
        max_instances: rows of the result.
        min_confidence: least score of a detection.
        nms_threshold: overlap above which the lesser of two detections is dropped.
        bbox_std_dev: 4 numbers that the deltas were divided by in training.
        argmax: whether a match must be likelier than background; False leaves that to min_confidence.
    """

    def __init__(self, max_instances, min_confidence, nms_threshold, bbox_std_dev, argmax=True, **kwargs):
        super().__init__(**{"dtype": "float32", **kwargs})  # boxes bear no less
        self.max_instances = max_instances
        self.min_confidence = min_confidence
        self.nms_threshold = nms_threshold
        self.bbox_std_dev = list(bbox_std_dev)
        self.argmax = argmax

    def call(self, inputs):
        """inputs: rois [batch, n, 4], mrcnn_class [batch, n, 2], mrcnn_bbox [batch, n, 4], image_meta [batch, meta]
        -> [batch, max_instances, (y1, x1, y2, x2, class_id, score)] normalized, zero-padded."""
        rois, probabilities, deltas, image_meta = inputs
        return refine_detections_graph(
            rois,
            probabilities,
            deltas * ops.convert_to_tensor(self.bbox_std_dev, dtype="float32"),
            window_norm_graph(image_meta),
            max_instances=self.max_instances,
            min_confidence=self.min_confidence,
            nms_threshold=self.nms_threshold,
            argmax=self.argmax,
        )

    def compute_output_shape(self, input_shape):
        return (input_shape[0][0], self.max_instances, 6)

    def get_config(self):
        names = ("max_instances", "min_confidence", "nms_threshold", "bbox_std_dev", "argmax")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


def refine_detections_graph(
    rois, probabilities, deltas, window, *, max_instances, min_confidence, nms_threshold, argmax=True
):
    """Matches with a sufficient score, moved by their deltas, clipped, without near duplicates, best first.

    Args:
        rois: [batch, n, (y1, x1, y2, x2)] normalized.
        probabilities: [batch, n, (background, match)].
        deltas: [batch, n, (dy, dx, log(dh), log(dw))].
        window: [batch, (y1, x1, y2, x2)] normalized, the image without its padding.
        max_instances, min_confidence, nms_threshold, argmax: see `DetectionLayer`.

    Returns:
        [batch, max_instances, (y1, x1, y2, x2, class_id, score)] normalized, zero-padded.
    """
    candidates = probabilities if argmax else probabilities * ops.convert_to_tensor([0.0, 1.0])
    class_ids = ops.argmax(candidates, axis=-1)
    scores = ops.max(candidates, axis=-1)
    boxes = refined_rois_graph(rois, deltas, window)
    eligible = (class_ids > 0) & (scores >= min_confidence) & ops.all(ops.isfinite(boxes), axis=-1)
    boxes = ops.where(ops.isfinite(boxes), boxes, 0.0)
    kept, valid = non_max_suppression(
        boxes,
        ops.where(eligible, scores, -1.0),
        max_output_size=max_instances,
        iou_threshold=nms_threshold,
        score_threshold=-0.5,  # between the mark of an ineligible row and the least probability
    )
    rows = ops.concatenate([boxes, ops.cast(class_ids, "float32")[..., None], scores[..., None]], axis=-1)
    return ops.where(valid[..., None], gather_rows(rows, kept), 0.0)


def refined_rois_graph(rois, deltas, window):
    """Rois moved by their deltas and clipped to the picture; arguments as in `refine_detections_graph`."""
    return clip_boxes_graph(apply_box_deltas_graph(rois, deltas), window)


def window_norm_graph(image_meta):
    """Where the pictures are inside their padding: [batch, (y1, x1, y2, x2)] normalized."""
    meta = parse_image_meta(image_meta)
    return norm_boxes_graph(meta["window"], meta["image_shape"][:, :2])


def inner_graph(tensors, anchors, image_meta, *, pre_nms_limit, rpn_bbox_std_dev, bbox_std_dev, canonical_size):
    """What the layers compute on the way to their results, for a look inside.

    Args:
        tensors: dict with rpn_class and rpn_bbox [batch, anchors, ...], ROI and mrcnn_bbox [batch, n, 4].
        anchors: [batch, anchors, (y1, x1, y2, x2)] normalized.
        image_meta: [batch, meta].
        pre_nms_limit, rpn_bbox_std_dev: of `ProposalLayer`.
        bbox_std_dev: of `DetectionLayer`.
        canonical_size: of `PyramidROIAlign`.

    Returns:
        dict: those of `refined_anchors_graph`; roi_levels int32 [batch, n], the pyramid level that each row of ROI is
        pooled from; refined_rois [batch, n, (y1, x1, y2, x2)] normalized, moved by mrcnn_bbox and clipped.
    """
    candidates = RefinedAnchorsLayer(pre_nms_limit, rpn_bbox_std_dev, name="refined_anchors")
    deltas = tensors["mrcnn_bbox"] * ops.convert_to_tensor(bbox_std_dev, dtype="float32")
    return {
        **candidates([tensors["rpn_class"], tensors["rpn_bbox"], anchors]),
        "roi_levels": roi_levels_graph(tensors["ROI"], image_meta, canonical_size=canonical_size),
        "refined_rois": refined_rois_graph(tensors["ROI"], deltas, window_norm_graph(image_meta)),
    }
