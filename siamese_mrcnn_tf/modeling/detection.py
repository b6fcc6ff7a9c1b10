"""The layers that Keras lacks: matching, proposals, RoI pooling, detections.

Each class unpacks its inputs and delegates to a `*_graph` function on plain tensors. Boxes are normalized
(y1, x1, y2, x2); the shapes of inputs and outputs are static but for the batch.
"""

import keras
from keras import ops

from ..ops.box_ops import apply_box_deltas_graph, clip_boxes_graph, gather_batched, norm_boxes_graph
from ..ops.image_meta import parse_image_meta
from ..ops.kernels import non_max_suppression
from .roi_align import roi_levels_graph
from .rpn import RefinedAnchorsLayer


@keras.saving.register_keras_serializable(package="siamese_mrcnn_tf")
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
    return ops.where(valid[..., None], gather_batched(rows, kept), 0.0)


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
