"""Region proposal network: from the matched maps to class-agnostic proposals.

One small convolutional model, shared by all levels, scores every anchor and predicts its box deltas; `ProposalLayer`
moves the best anchors, clips them and suppresses near-duplicates. Boxes are normalized (y1, x1, y2, x2).
"""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from keras import layers as KL
from keras import ops

from ..config import Config
from ..ops import bands, winograd
from ..ops.box_ops import Tensor, apply_box_deltas_graph, clip_boxes_graph, gather_batched
from ..ops.kernels import is_exporting, non_max_suppression
from ..ops.tracing import detecting
from .backbone import MapConv

RPN_CONV, RPN_CLASS, RPN_BBOX = "rpn_conv_shared", "rpn_class_raw", "rpn_bbox_pred"  # layers of `rpn_model`
_PROPOSAL_SETTINGS = ("proposal_count", "nms_threshold", "pre_nms_limit", "bbox_std_dev")


def build_rpn_model(anchor_stride: int, anchors_per_location: int, depth: int, conv_channels: int = 512) -> keras.Model:
    """The region proposal network as a model `rpn_model`: map [batch, h, w, depth] -> dict of `rpn_graph`.

    Args:
        anchor_stride: cells between anchors, 1 or 2.
        anchors_per_location: number of ratios.
        depth: channels of the maps.
        conv_channels: channels of the shared convolution.
    """
    feature_map = keras.Input((None, None, depth), name="input_rpn_feature_map")
    outputs = rpn_graph(feature_map, anchors_per_location, anchor_stride, conv_channels=conv_channels)
    return keras.Model(feature_map, outputs, name="rpn_model")


def rpn_graph(
    feature_map: Tensor, anchors_per_location: int, anchor_stride: int, *, conv_channels: int = 512
) -> dict[str, Tensor]:
    """Scores and deltas of the anchors of one level.

    Args:
        feature_map: [batch, h, w, channels].
        anchors_per_location, anchor_stride, conv_channels: see `build_rpn_model`.

    Returns:
        dict: rpn_class_logits and rpn_class [batch, anchors, (background, foreground)],
        rpn_bbox [batch, anchors, (dy, dx, log(dh), log(dw))].
    """
    convolution = {"padding": "same", "activation": "relu", "strides": anchor_stride, "name": RPN_CONV}
    shared = MapConv(conv_channels, 3, **convolution)(feature_map)
    # outputs are float32, also under mixed precision
    logits = KL.Conv2D(2 * anchors_per_location, 1, dtype="float32", name=RPN_CLASS)
    deltas = KL.Conv2D(4 * anchors_per_location, 1, dtype="float32", name=RPN_BBOX)
    return anchor_outputs_graph(logits(shared), deltas(shared))


class RPNHead(KL.Layer):
    """`rpn_model` for inference: the same outputs with the same weights, but for rounding.

    Its convolution has more channels than any other large map. Where `ops.winograd` computes it, only a band of it is
    in memory at a time.

    Args:
        rpn_model: of `build_rpn_model`.
    """

    def __init__(self, rpn_model: keras.Model, **kwargs: Any) -> None:
        convolution = rpn_model.get_layer(RPN_CONV)
        super().__init__(dtype=convolution.compute_dtype, autocast=False, **kwargs)  # weights are read in float32
        self.rpn_model, self.convolution = rpn_model, convolution
        self.built = True  # it has no weights of its own
        self._heads = [rpn_model.get_layer(name) for name in (RPN_CLASS, RPN_BBOX)]

    def call(self, level_map: Tensor) -> dict[str, Tensor]:
        """Map [batch, h, w, channels] -> dict of `rpn_graph`."""
        convolution = self.convolution
        kernel, bias = (ops.cast(weight.value, self.compute_dtype) for weight in (convolution.kernel, convolution.bias))
        return self.outputs(ops.cast(level_map, self.compute_dtype), kernel, bias)

    def outputs(self, level_map: Tensor, kernel: Tensor, term: Tensor) -> dict[str, Tensor]:
        """`call` with another kernel, and what is added before the ReLU: [filters], or a map [1, h, w, filters]."""
        convolution = self.convolution
        if convolution.strides == (1, 1) and bands.applies_in_int8(level_map):
            return self._banded_outputs(level_map, kernel, term)
        if not (detecting.is_on and winograd.applies(level_map, kernel, convolution.strides)):
            shared = ops.relu(convolution.convolution_op(level_map, kernel) + term)
            return anchor_outputs_graph(*(head(shared) for head in self._heads))
        kernels, biases = ([getattr(head, name).value for head in self._heads] for name in ("kernel", "bias"))
        sizes = [bias.shape[0] for bias in biases]
        pointwise, bias = ops.concatenate(kernels, axis=-1)[0, 0], ops.concatenate(biases)

        def finish(values: Tensor, band: int) -> Tensor:
            added = term if len(term.shape) == 1 else winograd.band_of(term, band)
            return ops.matmul(ops.relu(values + added), pointwise) + bias

        found = winograd.convolve_then(level_map, kernel, sum(sizes), finish)
        return anchor_outputs_graph(found[..., : sizes[0]], found[..., sizes[0] :])

    def _banded_outputs(self, level_map: Tensor, kernel: Tensor, term: Tensor) -> dict[str, Tensor]:
        """`outputs` with the convolution of `bands.convolved_bands`."""
        found = []
        for number, values in enumerate(bands.convolved_bands(level_map, kernel)):
            first = number * bands.ROWS
            added = term if len(term.shape) == 1 else term[:, first : first + bands.ROWS]
            found.append([head(ops.relu(values + added)) for head in self._heads])
        return anchor_outputs_graph(*(ops.concatenate(parts, axis=1) for parts in zip(*found, strict=True)))

    def compute_output_shape(self, input_shape: Any) -> dict[str, Sequence[int | None]]:
        return self.rpn_model.compute_output_shape(input_shape)


def anchor_outputs_graph(logits: Tensor, deltas: Tensor) -> dict[str, Tensor]:
    """The outputs of the convolutions RPN_CLASS and RPN_BBOX, each [batch, h, w, channels] -> dict of `rpn_graph`."""
    logits, deltas = (KL.Reshape((-1, size), dtype="float32")(maps) for size, maps in ((2, logits), (4, deltas)))
    probabilities = KL.Activation("softmax", dtype="float32", name="rpn_class_xxx")(logits)
    return {"rpn_class_logits": logits, "rpn_class": probabilities, "rpn_bbox": deltas}


def all_anchors_graph(by_level: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The outputs of `rpn_graph` for matched P2..P6 as those of all anchors: rpn_class_logits and rpn_class
    [batch, anchors, 2], rpn_bbox [batch, anchors, 4]."""
    return {
        name: KL.Concatenate(axis=1, name=name)([outputs[name] for outputs in by_level])
        for name in ("rpn_class_logits", "rpn_class", "rpn_bbox")
    }


def propose_graph(
    tensors: dict[str, Tensor], anchors: Tensor, proposal_count: int, config: Config
) -> dict[str, Tensor]:
    """The proposals, added to scores and deltas of the anchors of all levels.

    Args:
        tensors: of `all_anchors_graph`.
        anchors: [batch, anchors, (y1, x1, y2, x2)] normalized.
        proposal_count: rows of ROI.
        config: reads RPN_NMS_THRESHOLD, PRE_NMS_LIMIT and RPN_BBOX_STD_DEV.

    Returns:
        dict: `tensors`, and ROI [batch, proposal_count, 4] normalized.
    """
    propose = ProposalLayer(
        proposal_count, config.RPN_NMS_THRESHOLD, config.PRE_NMS_LIMIT, config.RPN_BBOX_STD_DEV, name="ROI"
    )
    return {**tensors, "ROI": propose([tensors["rpn_class"], tensors["rpn_bbox"], anchors])}


@keras.saving.register_keras_serializable(package="siamese_mrcnn_tf")
class AnchorLayer(KL.Layer):
    """`anchors` [anchors, (y1, x1, y2, x2)] normalized, repeated for each image of a batch."""

    def __init__(self, anchors: npt.ArrayLike, **kwargs: Any) -> None:
        super().__init__(**{"dtype": "float32", **kwargs})  # box coordinates need float32
        self.anchors = np.asarray(anchors, np.float32)

    def call(self, images: Tensor) -> Tensor:
        """images: [batch, ...] -> [batch, anchors, (y1, x1, y2, x2)] normalized."""
        return ops.broadcast_to(ops.convert_to_tensor(self.anchors)[None], (ops.shape(images)[0], *self.anchors.shape))

    def compute_output_shape(self, input_shape: Any) -> tuple:
        return (input_shape[0], *self.anchors.shape)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "anchors": self.anchors.tolist()}


@keras.saving.register_keras_serializable(package="siamese_mrcnn_tf")
class ProposalLayer(KL.Layer):
    """Proposals from the scores and deltas of the RPN (`ROI` in the original).

    Args:
        proposal_count: rows of the result.
        nms_threshold: of two proposals with a higher overlap, drop the one with the lower score.
        pre_nms_limit: number of best anchors that enter non-maximum suppression.
        bbox_std_dev: 4 numbers that the deltas were divided by in training.
    """

    def __init__(
        self,
        proposal_count: int,
        nms_threshold: float,
        pre_nms_limit: int,
        bbox_std_dev: Sequence[float],
        **kwargs: Any,
    ) -> None:
        super().__init__(**{"dtype": "float32", **kwargs})  # box coordinates need float32
        self.proposal_count, self.nms_threshold, self.pre_nms_limit = proposal_count, nms_threshold, pre_nms_limit
        self.bbox_std_dev = list(bbox_std_dev)

    def call(self, inputs: list[Tensor]) -> Tensor:
        """inputs: rpn_class [batch, anchors, (background, foreground)] probabilities, rpn_bbox [batch, anchors,
        (dy, dx, log(dh), log(dw))], anchors [batch, anchors, (y1, x1, y2, x2)] normalized
        -> [batch, proposal_count, (y1, x1, y2, x2)] normalized, zero-padded."""
        return proposal_graph(*inputs, **{name: getattr(self, name) for name in _PROPOSAL_SETTINGS})

    def compute_output_shape(self, input_shape: Any) -> tuple:
        return (input_shape[0][0], self.proposal_count, 4)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), **{name: getattr(self, name) for name in _PROPOSAL_SETTINGS}}


def proposal_graph(
    rpn_class: Tensor,
    rpn_bbox: Tensor,
    anchors: Tensor,
    *,
    proposal_count: int,
    nms_threshold: float,
    pre_nms_limit: int,
    bbox_std_dev: Sequence[float],
) -> Tensor:
    """The best anchors, moved by their deltas, clipped to the image, without near-duplicates; see `ProposalLayer`."""
    if is_exporting():
        chosen = anchors, rpn_bbox * ops.convert_to_tensor(bbox_std_dev, dtype="float32")
        boxes, scores = _clipped_graph(apply_box_deltas_graph(*chosen)), rpn_class[:, :, 1]
        kept, valid = non_max_suppression(boxes, scores, max_output_size=proposal_count, iou_threshold=nms_threshold)
        best = ops.where(valid, gather_batched(scores[..., None], kept)[..., 0], float("-inf"))
        valid = ops.arange(proposal_count)[None] < _count_within(scores, best, pre_nms_limit)[:, None]
        return ops.where(valid[..., None], gather_batched(boxes, kept), 0.0)
    candidates = refined_anchors_graph(
        rpn_class, rpn_bbox, anchors, pre_nms_limit=pre_nms_limit, bbox_std_dev=bbox_std_dev
    )
    proposals, scores = candidates["refined_anchors_clipped"], candidates["pre_nms_scores"]
    kept, valid = non_max_suppression(proposals, scores, max_output_size=proposal_count, iou_threshold=nms_threshold)
    return ops.where(valid[..., None], gather_batched(proposals, kept), 0.0)


def _count_within(scores: Tensor, best: Tensor, limit: int) -> Tensor:
    """How many of the `best` are among the `limit` highest scores: int32 [batch], by bisection.

    It stands in for a choice of the highest scores before suppression, at which other runtimes are slow. Anchors of
    lower scores suppress none of higher ones.

    Args:
        scores: [batch, anchors].
        best: [batch, n], some of the scores in descending order.
    """
    number = best.shape[1]
    count = ops.zeros_like(best[:, 0], dtype="int32")
    for power in reversed(range(number.bit_length())):
        tried = count + 2**power
        last = gather_batched(best[..., None], ops.minimum(tried, number)[:, None] - 1)[..., 0]
        rank = ops.sum(ops.cast(scores > last, "int32"), axis=1)
        count = ops.where((tried <= number) & (rank < limit), tried, count)
    return count


@keras.saving.register_keras_serializable(package="siamese_mrcnn_tf")
class RefinedAnchorsLayer(KL.Layer):
    """The candidates of `ProposalLayer`, whose arguments it has, before non-maximum suppression, for visualization."""

    def __init__(self, pre_nms_limit: int, bbox_std_dev: Sequence[float], **kwargs: Any) -> None:
        super().__init__(**{"dtype": "float32", **kwargs})  # box coordinates need float32
        self.pre_nms_limit = pre_nms_limit
        self.bbox_std_dev = list(bbox_std_dev)

    def call(self, inputs: list[Tensor]) -> dict[str, Tensor]:
        """inputs: as in `ProposalLayer.call` -> dict of `refined_anchors_graph`."""
        return refined_anchors_graph(*inputs, pre_nms_limit=self.pre_nms_limit, bbox_std_dev=self.bbox_std_dev)

    def compute_output_shape(self, input_shape: Any) -> dict[str, tuple]:
        batch, count = input_shape[0][:2]
        limit = count and min(count, self.pre_nms_limit)
        boxes = {name: (batch, limit, 4) for name in ("pre_nms_anchors", "refined_anchors", "refined_anchors_clipped")}
        return {"pre_nms_scores": (batch, limit), **boxes}

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "pre_nms_limit": self.pre_nms_limit, "bbox_std_dev": self.bbox_std_dev}


def refined_anchors_graph(
    rpn_class: Tensor, rpn_bbox: Tensor, anchors: Tensor, *, pre_nms_limit: int, bbox_std_dev: Sequence[float]
) -> dict[str, Tensor]:
    """The best anchors before and after their deltas are applied; arguments as in `ProposalLayer`.

    Returns:
        dict, rows in descending order of score: pre_nms_scores [batch, n]; pre_nms_anchors, refined_anchors and
        refined_anchors_clipped (to the image), each [batch, n, (y1, x1, y2, x2)] normalized; n is the minimum of
        pre_nms_limit and the number of anchors.
    """
    # the number of anchors is static only if all images have one shape
    anchor_count = rpn_class.shape[1] or ops.shape(rpn_class)[1]
    limit = min(pre_nms_limit, anchor_count) if rpn_class.shape[1] else ops.minimum(pre_nms_limit, anchor_count)
    scores, best = ops.top_k(rpn_class[:, :, 1], limit)
    deltas = gather_batched(rpn_bbox, best) * ops.convert_to_tensor(bbox_std_dev, dtype="float32")
    chosen = gather_batched(anchors, best)
    refined = apply_box_deltas_graph(chosen, deltas)
    return {
        "pre_nms_scores": scores,
        "pre_nms_anchors": chosen,
        "refined_anchors": refined,
        "refined_anchors_clipped": _clipped_graph(refined),
    }


def _clipped_graph(boxes: Tensor) -> Tensor:
    """Boxes clipped to the image. Diverged weights give NaN boxes, which non-maximum suppression refuses: 0 instead."""
    clipped = clip_boxes_graph(boxes, ops.convert_to_tensor([[0.0, 0.0, 1.0, 1.0]]))
    return ops.where(ops.isfinite(clipped), clipped, 0.0)
