"""RoI heads: the class and box head, and the mask head.

Each head has a builder, which makes its layers under the names of the original weight files, and graph functions,
which apply them: training, inference and predictor share the layers. Rois are folded into the batch axis.
"""

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import keras
from keras import layers as KL
from keras import ops

from ..ops.box_ops import Tensor
from ..ops.kernels import is_exporting
from ..ops.tracing import detecting
from .backbone import BatchNorm
from .roi_align import PyramidROIAlign

_MASK_CONVS = 4

Layers: TypeAlias = dict[str, KL.Layer]  # by name


@keras.saving.register_keras_serializable(package="siamese_mrcnn_tf")
class WholeMapConv(KL.Conv2D):
    """A convolution whose kernel has the size of its maps: [n, side, side, channels] -> [n, 1, 1, filters]."""

    def convolution_op(self, inputs: Tensor, kernel: Tensor) -> Tensor:
        if not (is_exporting() or detecting.is_on):
            return super().convolution_op(inputs, kernel)
        # the same as one matrix product, which is much faster on CPUs
        matrix = ops.reshape(kernel, (-1, self.filters))
        return ops.reshape(ops.matmul(ops.reshape(inputs, (-1, matrix.shape[0])), matrix), (-1, 1, 1, self.filters))


def build_classifier_layers(
    pool_size: int, num_classes: int, *, train_bn: bool | None = False, fc_layers_size: int = 1024
) -> Layers:
    """Layers of the class and box head by name."""
    layers = (
        WholeMapConv(fc_layers_size, pool_size, name="mrcnn_class_conv1"),
        BatchNorm(train_bn, name="mrcnn_class_bn1"),
        WholeMapConv(fc_layers_size, 1, name="mrcnn_class_conv2"),
        BatchNorm(train_bn, name="mrcnn_class_bn2"),
        KL.Dense(num_classes, dtype="float32", name="mrcnn_class_logits"),
        KL.Dense(4, dtype="float32", name="mrcnn_bbox_fc"),
    )
    return {layer.name: layer for layer in layers}


def fpn_classifier_graph(
    rois: Tensor,
    maps: list[Tensor],
    image_meta: Tensor,
    layers: Layers | Callable[[Tensor], dict[str, Tensor]],
    *,
    pool_size: int,
    canonical_size: int = 224,
    prefix: str = "",
) -> dict[str, Tensor]:
    """Class and box of each roi.

    Args:
        rois: [batch, n, (y1, x1, y2, x2)] normalized.
        maps: matched P2..P5 [batch, h, w, channels].
        image_meta: [batch, meta].
        layers: of `build_classifier_layers`, or a function of pooled maps [n, pool, pool, channels] that returns the
            outputs of `class_head_graph` or some of them, logits and deltas among them.
        pool_size: side of the pooled maps.
        canonical_size: pixels, see `PyramidROIAlign`.
        prefix: of the names of layers without weights, where the head is applied again.

    Returns:
        dict: roi_align_classifier [batch, n, pool, pool, channels], mrcnn_class_bn1 and mrcnn_class_bn2
        [batch, n, 1, 1, fc] before ReLU, mrcnn_class_logits and mrcnn_class [batch, n, classes],
        mrcnn_bbox [batch, n, (dy, dx, log(dh), log(dw))].
    """
    count = rois.shape[1]
    align = PyramidROIAlign((pool_size,) * 2, canonical_size, name=f"{prefix}roi_align_classifier")
    pooled = align([rois, image_meta, *maps])
    folded = fold_rois(pooled)
    outputs = layers(folded) if callable(layers) else class_head_graph(folded, layers)
    deltas = UnfoldRois(count, name=f"{prefix}mrcnn_bbox")(outputs.pop("mrcnn_bbox"))
    tensors = {name: unfold_rois(values, count) for name, values in outputs.items()}
    probabilities = KL.Activation("softmax", name=f"{prefix}mrcnn_class")(tensors["mrcnn_class_logits"])
    return {"roi_align_classifier": pooled, **tensors, "mrcnn_class": probabilities, "mrcnn_bbox": deltas}


def class_head_graph(pooled: Tensor, layers: Layers) -> dict[str, Tensor]:
    """The class and box head: pooled maps [n, pool, pool, channels] -> mrcnn_class_bn1, mrcnn_class_bn2,
    mrcnn_class_logits and mrcnn_bbox of `fpn_classifier_graph` for n rois."""
    bn1 = layers["mrcnn_class_bn1"](layers["mrcnn_class_conv1"](pooled))
    bn2 = layers["mrcnn_class_bn2"](layers["mrcnn_class_conv2"](ops.relu(bn1)))
    shared = KL.Flatten()(ops.relu(bn2))
    logits, deltas = layers["mrcnn_class_logits"](shared), layers["mrcnn_bbox_fc"](shared)
    return {"mrcnn_class_bn1": bn1, "mrcnn_class_bn2": bn2, "mrcnn_class_logits": logits, "mrcnn_bbox": deltas}


def build_mask_layers(*, train_bn: bool | None = False, channels: int = 256) -> Layers:
    """Layers of the mask head by name."""
    layers = []
    for index in range(1, _MASK_CONVS + 1):
        layers.append(KL.Conv2D(channels, 3, padding="same", name=f"mrcnn_mask_conv{index}"))
        layers.append(BatchNorm(train_bn, name=f"mrcnn_mask_bn{index}"))
    layers.append(KL.Conv2DTranspose(channels, 2, strides=2, activation="relu", name="mrcnn_mask_deconv"))
    layers.append(KL.Conv2D(1, 1, activation="sigmoid", dtype="float32", name="mrcnn_mask"))
    return {layer.name: layer for layer in layers}


def build_fpn_mask_graph(
    rois: Tensor, maps: list[Tensor], image_meta: Tensor, layers: Layers, *, pool_size: int, canonical_size: int = 224
) -> dict[str, Tensor]:
    """Mask of each roi; arguments as in `fpn_classifier_graph`, with `layers` of `build_mask_layers`.

    Returns:
        dict: roi_align_mask [batch, n, pool, pool, channels], mrcnn_mask_bn1..4 [batch, n, pool, pool, channels] before
        ReLU, mrcnn_mask_deconv [batch, n, 2 pool, 2 pool, channels], mrcnn_mask [batch, n, 2 pool, 2 pool].
    """
    count = rois.shape[1]
    align = PyramidROIAlign((pool_size, pool_size), canonical_size, name="roi_align_mask")
    pooled = align([rois, image_meta, *maps])
    outputs = mask_head_graph(fold_rois(pooled), layers)
    return {"roi_align_mask": pooled, **{name: unfold_rois(values, count) for name, values in outputs.items()}}


def mask_head_graph(pooled: Tensor, layers: Layers) -> dict[str, Tensor]:
    """The mask head: pooled maps [n, pool, pool, channels] -> the outputs of `build_fpn_mask_graph` for n rois."""
    outputs, x = {}, pooled
    for index in range(1, _MASK_CONVS + 1):
        x = layers[f"mrcnn_mask_bn{index}"](layers[f"mrcnn_mask_conv{index}"](x))
        outputs[f"mrcnn_mask_bn{index}"] = x
        x = ops.relu(x)
    outputs["mrcnn_mask_deconv"] = x = layers["mrcnn_mask_deconv"](x)
    outputs["mrcnn_mask"] = layers["mrcnn_mask"](x)[..., 0]
    return outputs


def build_chain(layers: Iterable[KL.Layer], shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
    """Create the weights of layers that follow each other; the shape of the last one's output, [n, ...]."""
    for layer in layers:
        layer.build(shape)
        shape = layer.compute_output_shape(shape)
    return shape


def fold_rois(x: Tensor) -> Tensor:
    """[batch, n, ...] -> [batch * n, ...]."""
    return ops.reshape(x, (-1, *x.shape[2:]))


def unfold_rois(x: Tensor, count: int) -> Tensor:
    """[batch * n, ...] -> [batch, n, ...] with n = count."""
    return ops.reshape(x, (-1, count, *x.shape[1:]))


@keras.saving.register_keras_serializable(package="siamese_mrcnn_tf")
class UnfoldRois(KL.Layer):
    """`unfold_rois` as a layer, which gives its output a name; `count`: rois per image."""

    def __init__(self, count: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.count = count

    def call(self, x: Tensor) -> Tensor:
        return unfold_rois(x, self.count)

    def compute_output_shape(self, input_shape: Any) -> tuple:
        return (None, self.count, *input_shape[1:])
