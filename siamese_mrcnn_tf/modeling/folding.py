"""Batch normalization folded into convolutions: the same network for inference, in fewer operations.

A folded convolution multiplies its kernel, or its output where that is smaller, by the scale of the normalization that
follows it, each time it is called. So it has no weights of its own, follows every change of the network's weights, and
saves passes over its output.
"""

import dataclasses
import math
from typing import Any

import keras
from keras import layers as KL
from keras import ops

from ..ops.box_ops import Tensor
from ..ops.kernels import add_bias
from ..ops.tracing import detecting
from .backbone import BatchNorm
from .network import SharedLayers
from .roi_heads import Layers


class FoldedConv(KL.Layer):
    """A convolution and the normalization of its output by moving statistics, as one convolution.

    Args:
        convolution: a built KL.Conv2D with a bias.
        norm: the built normalization.
    """

    def __init__(self, convolution: KL.Conv2D, norm: BatchNorm, **kwargs: Any) -> None:
        # no mixed policy, and no autocast: weights are read in float32 also in mixed precision
        super().__init__(dtype=convolution.compute_dtype, autocast=False, **kwargs)
        self.convolution, self.norm = convolution, norm

    def call(self, inputs: Tensor) -> Tensor:
        convolution, norm = self.convolution, self.norm
        inputs, kernel = ops.cast(inputs, self.compute_dtype), convolution.kernel.value
        scale = norm.gamma.value * ops.rsqrt(norm.moving_variance.value + norm.epsilon)
        bias = ops.cast((convolution.bias.value - norm.moving_mean.value) * scale + norm.beta.value, self.compute_dtype)
        if self._scales_outputs(inputs):
            outputs = convolution.convolution_op(inputs, ops.cast(kernel, self.compute_dtype))
            return outputs * ops.cast(scale, self.compute_dtype) + bias
        outputs = convolution.convolution_op(inputs, ops.cast(kernel * scale, self.compute_dtype))
        return add_bias(outputs, bias)

    def _scales_outputs(self, inputs: Tensor) -> bool:
        """Whether the map is smaller than the kernel, so that it takes less time to multiply the map by the scale.

        Exported graphs fold all kernels: other runtimes do so once.
        """
        if not detecting.is_on:
            return False
        shape = self.compute_output_shape((1, *inputs.shape[1:]))
        return None not in shape and math.prod(shape) < math.prod(self.convolution.kernel.shape)

    def compute_output_shape(self, input_shape: Any) -> tuple:
        return self.convolution.compute_output_shape(input_shape)


def folded_layers(layers: SharedLayers) -> SharedLayers:
    """The layers with normalizations folded into the convolutions before them; their weights are shared.

    Those of the class and box head stay: they are fast, and a second copy of its first kernel would take memory.
    """
    return dataclasses.replace(
        layers,
        resnet_model=folded_model(layers.resnet_model),
        mask=_folded_head(layers.mask),
    )


def folded_model(model: keras.Model) -> keras.Model:
    """A model that shares the layers of a functional `model`, with each normalization folded that can be.

    That is one whose input is a convolution's output without an activation, which nothing else reads.
    """
    folded: dict[str, KL.Layer] = {}
    for layer in model.layers:
        if not isinstance(layer, BatchNorm):
            continue
        tensor = layer.input
        source = tensor._keras_history.operation
        readers = sum(node.operation in model.operations for node in source._outbound_nodes)
        readers += sum(tensor is output for output in model.outputs)
        linear = getattr(source, "activation", None) in (None, keras.activations.linear)
        if isinstance(source, KL.Conv2D) and source.use_bias and linear and readers == 1:
            folded[source.name] = FoldedConv(source, layer, name=source.name)
            folded[layer.name] = _identity(layer)

    def call(layer: KL.Layer, *args: Any, **kwargs: Any) -> Tensor:  # a normalization was also called with a mask
        return layer(args[0]) if layer.name in folded else layer(*args, **kwargs)

    return keras.models.clone_model(
        model, clone_function=lambda layer: folded.get(layer.name, layer), call_function=call
    )


def _folded_head(head: Layers) -> Layers:
    """A head's layers by name, with the convolution NAME_convN and the normalization NAME_bnN as one."""
    folded = dict(head)
    for name, norm in head.items():
        if isinstance(norm, BatchNorm):
            convolution = name.replace("_bn", "_conv")
            folded[convolution] = FoldedConv(head[convolution], norm, name=convolution)
            folded[name] = _identity(norm)
    return folded


def _identity(layer: KL.Layer) -> KL.Layer:
    return KL.Identity(dtype=layer.dtype_policy, name=layer.name)
