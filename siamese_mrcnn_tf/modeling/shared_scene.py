"""One scene and several references: what does not depend on the reference is computed once.

Matching is W_P P + W_D |P - t| + b for a scene's map P and an embedding t, and the RPN's convolution is linear in it up
to its ReLU. So the terms of P are computed once a scene, for matched maps and RPN. A reference adds those of |P - t|,
for the RPN with one 3x3 kernel, which composes W_D and the RPN's: it reads 256 channels instead of the 384 of a matched
map. The sums are the same as one by one, borders included, but for rounding.
"""

from typing import Any

from keras import layers as KL
from keras import ops

from ..ops.box_ops import Tensor
from .backbone import LEVELS
from .matching import MatchingLayer
from .network import POOLED_LEVELS, SharedLayers
from .rpn import RPNHead


class _SharedLayer(KL.Layer):
    """A layer without weights of its own over matching and RPN of `layers`."""

    def __init__(self, layers: SharedLayers, **kwargs: Any) -> None:
        rpn = RPNHead(layers.rpn_model)
        super().__init__(dtype=rpn.compute_dtype, autocast=False, **kwargs)  # weights are read in float32
        self.matching, self.rpn = [layers.matching[level] for level in LEVELS], rpn


class SceneTerms(_SharedLayer):
    """The terms of a scene."""

    def call(self, scene: list[Tensor]) -> list[Tensor]:
        """scene: [P2..P6] of one scene, each [1, h, w, channels] -> the list of its `terms`, then of `kernels`."""
        return [*self.terms(scene, self.scene_kernels()), *self.kernels()]

    def terms(self, scene: list[Tensor], kernels: list[tuple[Tensor, Tensor]]) -> list[Tensor]:
        """For P2..P5 the matched maps without their reference's term [1, h, w, filters]; for P2..P6 the input of the
        RPN's ReLU without it [1, h, w, rpn channels]. `kernels`: of `scene_kernels`."""
        matched, shared = list[Tensor](), list[Tensor]()
        for level_map, layer, (of_scene, of_bias) in zip(scene, self.matching, kernels, strict=True):
            if len(matched) < len(POOLED_LEVELS):
                matched.append(ops.conv(level_map, self._cast(_kernels(layer)[0])) + self._cast(layer.bias.value))
            # the bias of matching is not there outside of the map: a convolution of a map of ones
            ones = self._cast(ops.ones_like(level_map[..., :1]))
            term = self._convolve(level_map, of_scene) + self._convolve(ones, of_bias)
            shared.append(term + self._cast(self.rpn.convolution.bias.value))
        return [*matched, *shared]

    def scene_kernels(self) -> list[tuple[Tensor, Tensor]]:
        """For P2..P6 the composed kernels of P [3, 3, channels, rpn channels] and of the bias of matching
        [3, 3, 1, rpn channels]."""
        kernel = self.rpn.convolution.kernel.value
        return [
            (
                _composed(kernel, _kernels(layer)[0]),
                ops.einsum("yxfo,f->yxo", kernel, layer.bias.value)[:, :, None],
            )
            for layer in self.matching
        ]

    def kernels(self) -> list[Tensor]:
        """For P2..P6 the composed kernel of |P - t| [3, 3, channels, rpn channels]."""
        kernel = self.rpn.convolution.kernel.value
        return [self._cast(_composed(kernel, _kernels(layer)[1])) for layer in self.matching]

    def _convolve(self, level_map: Tensor, kernel: Tensor) -> Tensor:
        return self.rpn.convolution.convolution_op(level_map, self._cast(kernel))

    def _cast(self, values: Tensor) -> Tensor:
        return ops.cast(values, self.compute_dtype)


class SharedMatching(_SharedLayer):
    """The terms of references, added to those of their scene."""

    def call(self, inputs: list[Tensor]) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
        """inputs: [P2..P6] of one scene, the list of `SceneTerms`, embeddings [batch, levels, channels]
        -> (matched P2..P5 [batch, h, w, filters]; for P2..P6 the dict of `rpn.rpn_graph`)."""
        *given, embeddings = inputs
        levels, pooled = len(LEVELS), len(POOLED_LEVELS)
        scene, given = given[:levels], given[levels:]
        of_scene, shared, kernels = given[:pooled], given[pooled : pooled + levels], given[pooled + levels :]
        matched, found = [], []
        for index, (level_map, layer) in enumerate(zip(scene, self.matching, strict=True)):
            reference = ops.cast(embeddings[:, index], self.compute_dtype)
            difference = ops.abs(level_map - reference[:, None, None, :])
            if index < pooled:
                kernel = ops.cast(_kernels(layer)[1], self.compute_dtype)
                matched.append(of_scene[index] + ops.conv(difference, kernel))
            found.append(self.rpn.outputs(difference, kernels[index], shared[index]))
        return matched, found


def _kernels(layer: MatchingLayer) -> tuple[Tensor, Tensor]:
    """Kernels [1, 1, channels, filters] of the scene's map and of the difference."""
    kernel = layer.kernel.value
    channels = kernel.shape[2] // 2
    return kernel[:, :, :channels], kernel[:, :, channels:]


def _composed(kernel: Tensor, pointwise: Tensor) -> Tensor:
    """Of a 1x1 convolution [1, 1, channels, filters] and the kernel [y, x, filters, outputs] that follows it:
    one kernel [y, x, channels, outputs]."""
    return ops.einsum("yxfo,cf->yxco", kernel, pointwise[0, 0])
