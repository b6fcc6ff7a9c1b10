"""The layers that Keras lacks: matching, proposals, RoI pooling, detections.

Each class unpacks its inputs and delegates to a `*_graph` function on plain tensors. Boxes are normalized
(y1, x1, y2, x2); the shapes of inputs and outputs are static but for the batch.
"""

import keras
import numpy as np
from keras import layers as KL
from keras import ops

from ..ops.box_ops import apply_box_deltas_graph, clip_boxes_graph, gather_batched
from ..ops.kernels import non_max_suppression

# MERGED DOC: """The heads: region proposal network, box and class head, mask head.
#
# Builders make a head's layers once, by the names of the original files; graph functions apply them, so that the training
# model, the inference model and the parts of the predictor share them. Rois are folded into the batch axis.
# """


@keras.saving.register_keras_serializable(package="siamese_mrcnn_tf")
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


@keras.saving.register_keras_serializable(package="siamese_mrcnn_tf")
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
    return ops.where(valid[..., None], gather_batched(proposals, kept), 0.0)


@keras.saving.register_keras_serializable(package="siamese_mrcnn_tf")
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
    deltas = gather_batched(rpn_bbox, best) * ops.convert_to_tensor(bbox_std_dev, dtype="float32")
    chosen = gather_batched(anchors, best)
    refined = apply_box_deltas_graph(chosen, deltas)
    clipped = clip_boxes_graph(refined, ops.convert_to_tensor([[0.0, 0.0, 1.0, 1.0]]))
    return {
        "pre_nms_scores": scores,
        "pre_nms_anchors": chosen,
        "refined_anchors": refined,
        # weights that diverged give boxes that are no numbers, which non-maximum suppression refuses
        "refined_anchors_clipped": ops.where(ops.isfinite(clipped), clipped, 0.0),
    }


def build_rpn_model(anchor_stride, anchors_per_location, depth, conv_channels=512):
    """The region proposal network as a model `rpn_model`, shared by all levels.

    Args:
        anchor_stride: cells between anchors, 1 or 2.
        anchors_per_location: ratios.
        depth: channels of the maps.
        conv_channels: channels of the shared convolution.

    Returns:
        model: map [batch, h, w, depth] -> dict of `rpn_graph`.
    """
    feature_map = keras.Input((None, None, depth), name="input_rpn_feature_map")
    outputs = rpn_graph(feature_map, anchors_per_location, anchor_stride, conv_channels=conv_channels)
    return keras.Model(feature_map, outputs, name="rpn_model")


def rpn_graph(feature_map, anchors_per_location, anchor_stride, *, conv_channels=512):
    """Scores and deltas of the anchors of one level.

    Args:
        feature_map: [batch, h, w, channels].
        anchors_per_location, anchor_stride, conv_channels: see `build_rpn_model`.

    Returns:
        dict: rpn_class_logits and rpn_class [batch, anchors, (background, foreground)],
        rpn_bbox [batch, anchors, (dy, dx, log(dh), log(dw))].
    """
    shared = KL.Conv2D(
        conv_channels, 3, padding="same", activation="relu", strides=anchor_stride, name="rpn_conv_shared"
    )(feature_map)
    # what leaves the network is float32, whatever the precision inside
    logits = KL.Conv2D(2 * anchors_per_location, 1, dtype="float32", name="rpn_class_raw")(shared)
    logits = KL.Reshape((-1, 2), dtype="float32")(logits)
    deltas = KL.Conv2D(4 * anchors_per_location, 1, dtype="float32", name="rpn_bbox_pred")(shared)
    deltas = KL.Reshape((-1, 4), dtype="float32")(deltas)
    probabilities = KL.Activation("softmax", dtype="float32", name="rpn_class_xxx")(logits)
    return {"rpn_class_logits": logits, "rpn_class": probabilities, "rpn_bbox": deltas}
