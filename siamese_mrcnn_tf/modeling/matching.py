"""Matching: the siamese part of the network, between the feature pyramid and the RPN.

Scene and reference pass through the same backbone and pyramid. The reference is reduced to an embedding, the average of
each of its levels; a matching layer per level compares the scene's map with that average: concat([P, |P - t|]) through
a 1x1 convolution (paper, section 4.1). RPN and heads see only the matched maps and know no categories.
"""

from typing import Any

import keras
from keras import layers as KL
from keras import ops

from ..ops import bands
from ..ops.box_ops import Tensor
from ..ops.kernels import add_bias
from .backbone import LEVELS


@keras.saving.register_keras_serializable(package="siamese_mrcnn_tf")
class MatchingLayer(KL.Layer):
    """Compares one level of the scene's pyramid with the average of the reference at that level.

    The weights are those of a 1x1 convolution without activation, `fpn_distance_P2` .. `P6` in weight files.

    Args:
        filters: channels of the matched map.
    """

    def __init__(self, filters: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.filters = filters

    def build(self, input_shape: Any) -> None:
        channels = input_shape[0][-1]
        self.kernel = self.add_weight(name="kernel", shape=(1, 1, 2 * channels, self.filters))
        self.bias = self.add_weight(name="bias", shape=(self.filters,), initializer="zeros")

    def call(self, inputs: list[Tensor]) -> Tensor:
        """inputs: scene map [batch, h, w, channels], reference [batch, channels] -> [batch, h, w, filters]."""
        scene_map, reference = inputs
        if bands.applies(scene_map):
            return banded_matching_graph(scene_map, reference, self.kernel, self.bias)
        return matching_graph(scene_map, reference, self.kernel, self.bias)

    def compute_output_shape(self, input_shape: Any) -> tuple:
        return (*input_shape[0][:-1], self.filters)


def matching_graph(scene_map: Tensor, reference: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
    """concat([P, |P - t|]) through a 1x1 convolution: P [batch, h, w, channels], t [batch, channels],
    kernel [1, 1, 2 * channels, filters], bias [filters] -> [batch, h, w, filters]."""
    # convolving the two halves separately avoids building the concatenated map, twice as large as the scene's
    channels = scene_map.shape[-1]
    difference = ops.abs(scene_map - reference[:, None, None, :])
    return add_bias(ops.conv(scene_map, kernel[:, :, :channels]), bias) + ops.conv(difference, kernel[:, :, channels:])


def banded_matching_graph(scene_map: Tensor, reference: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
    """`matching_graph` where `ops.bands.applies`: of |P - t| only a band is in memory at a time."""
    height, width = scene_map.shape[1:3]

    def compute(index: Tensor | int, band: int) -> Tensor:
        rows = scene_map[index, band * bands.ROWS : (band + 1) * bands.ROWS]
        return matching_graph(rows[None], reference[index][None], kernel, bias)[0]

    return bands.in_bands(scene_map, height // bands.ROWS, (bands.ROWS, width, kernel.shape[-1]), compute)


def match_graph(scene: list[Tensor], embedding: Tensor, layers: Any) -> dict[str, Tensor]:
    """Matches all levels: scene [P2..P6], embedding [batch, levels, channels], layers with
    `matching`, a MatchingLayer a level -> dict matched_P2..matched_P6, each [batch, h, w, filters]."""
    return {
        f"matched_{level}": layers.matching[level]([level_map, embedding[:, index]])
        for index, (level, level_map) in enumerate(zip(LEVELS, scene, strict=True))
    }


def embedding_graph(reference_maps: dict[str, Tensor]) -> Tensor:
    """Embeddings [n, levels, channels] of references: the averages of P2..P6 [n, h, w, channels], padding included."""
    averages = [KL.GlobalAveragePooling2D(dtype="float32")(reference_maps[level]) for level in LEVELS]
    return ops.stack(averages, axis=1)


@keras.saving.register_keras_serializable(package="siamese_mrcnn_tf")
class MeanOverReferences(KL.Layer):
    """Embedding of a K-shot query: the mean of the embeddings of its references."""

    def call(self, inputs: list[Tensor]) -> Tensor:
        """inputs: embeddings [batch * K, levels, channels], references [batch, K, h, w, 3]
        -> [batch, levels, channels]."""
        embeddings, references = inputs
        shape = (-1, ops.shape(references)[1], *embeddings.shape[1:])
        return ops.mean(ops.reshape(embeddings, shape), axis=1)

    def compute_output_shape(self, input_shape: Any) -> tuple:
        return (input_shape[1][0], *input_shape[0][1:])
