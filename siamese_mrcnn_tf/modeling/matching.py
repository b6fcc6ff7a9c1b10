"""The layers that Keras lacks: matching, proposals, RoI pooling, detections.

Each class unpacks its inputs and delegates to a `*_graph` function on plain tensors. Boxes are normalized
(y1, x1, y2, x2); the shapes of inputs and outputs are static but for the batch.
"""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="siamese_mrcnn_tf")
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


@keras.saving.register_keras_serializable(package="siamese_mrcnn_tf")
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
