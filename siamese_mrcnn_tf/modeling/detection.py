"""Detections: from the class scores and box deltas of the heads to a fixed number of rows per image.

Boxes are normalized (y1, x1, y2, x2); shapes are static except for the batch, and missing detections are zero rows.
"""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from ..ops.box_ops import Tensor, apply_box_deltas_graph, clip_boxes_graph, gather_batched, norm_boxes_graph
from ..ops.image_meta import parse_image_meta
from ..ops.kernels import non_max_suppression

_GRAPH_SETTINGS = ("max_instances", "min_confidence", "nms_threshold", "argmax")


@keras.saving.register_keras_serializable(package="siamese_mrcnn_tf")
class DetectionLayer(keras.layers.Layer):
    """Detections from classified proposals (`mrcnn_detection` in the original).

    Args:
        max_instances: rows of the result.
        min_confidence: minimum score of a detection.
        nms_threshold: of two detections with a higher overlap, drop the one with the lower score.
        bbox_std_dev: 4 numbers that the deltas were divided by in training.
        argmax: whether a match must score above background; if not, only min_confidence counts.
    """

    def __init__(
        self,
        max_instances: int,
        min_confidence: float,
        nms_threshold: float,
        bbox_std_dev: Sequence[float],
        argmax: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**{"dtype": "float32", **kwargs})  # box coordinates need float32
        self.max_instances, self.min_confidence, self.nms_threshold = max_instances, min_confidence, nms_threshold
        self.bbox_std_dev, self.argmax = list(bbox_std_dev), argmax

    def call(self, inputs: list[Tensor]) -> Tensor:
        """inputs: rois [batch, n, 4], mrcnn_class [batch, n, 2], mrcnn_bbox [batch, n, 4], image_meta [batch, meta]
        -> [batch, max_instances, (y1, x1, y2, x2, class_id, score)] normalized, zero-padded."""
        rois, probabilities, deltas, image_meta = inputs
        deltas = deltas * ops.convert_to_tensor(self.bbox_std_dev, dtype="float32")
        settings = {name: getattr(self, name) for name in _GRAPH_SETTINGS}
        return refine_detections_graph(rois, probabilities, deltas, window_norm_graph(image_meta), **settings)

    def compute_output_shape(self, input_shape: Any) -> tuple:
        return (input_shape[0][0], self.max_instances, 6)

    def get_config(self) -> dict[str, Any]:
        names = (*_GRAPH_SETTINGS, "bbox_std_dev")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


def refine_detections_graph(
    rois: Tensor,
    probabilities: Tensor,
    deltas: Tensor,
    window: Tensor,
    *,
    max_instances: int,
    min_confidence: float,
    nms_threshold: float,
    argmax: bool = True,
) -> Tensor:
    """Matches with a sufficient score, moved by their deltas and clipped, without near-duplicates, best first.

    Args:
        rois: [batch, n, (y1, x1, y2, x2)] normalized.
        probabilities: [batch, n, (background, match)].
        deltas: [batch, n, (dy, dx, log(dh), log(dw))].
        window: [batch, (y1, x1, y2, x2)] normalized, the image without its padding.
        max_instances, min_confidence, nms_threshold, argmax: see `DetectionLayer`, also for the result.
    """
    scores = probabilities[..., 1]
    is_match = scores > (probabilities[..., 0] if argmax else 0.0)
    boxes = refined_rois_graph(rois, deltas, window)
    eligible = is_match & (scores >= min_confidence) & ops.all(ops.isfinite(boxes), axis=-1)
    boxes = ops.where(ops.isfinite(boxes), boxes, 0.0)
    kept, valid = non_max_suppression(
        boxes,
        ops.where(eligible, scores, -1.0),
        max_output_size=max_instances,
        iou_threshold=nms_threshold,
        score_threshold=-0.5,  # between the score of ineligible rows and the minimum probability
    )
    rows = ops.concatenate([boxes, ops.ones_like(scores)[..., None], scores[..., None]], axis=-1)
    return ops.where(valid[..., None], gather_batched(rows, kept), 0.0)


def refined_rois_graph(rois: Tensor, deltas: Tensor, window: Tensor) -> Tensor:
    """Rois moved by their deltas and clipped to the image; arguments as in `refine_detections_graph`."""
    return clip_boxes_graph(apply_box_deltas_graph(rois, deltas), window)


def window_norm_graph(image_meta: Tensor) -> Tensor:
    """Boxes of the images inside their padding: [batch, (y1, x1, y2, x2)] normalized."""
    meta = parse_image_meta(image_meta, "window", "image_shape")
    return norm_boxes_graph(meta["window"], meta["image_shape"][:, :2])
