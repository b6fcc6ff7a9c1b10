"""Presence: whether a scene shows the category of the reference at all (USE_PRESENCE).

One probability per scene and reference, from the matched maps P2..P5. It multiplies the scores of all rois, so that a
query for an absent category finds nothing: the idea of the presence head of SAM 3 (arXiv 2511.16719). The
original has no such output.
"""

from keras import layers as KL
from keras import ops

from ..ops.box_ops import Tensor
from .roi_heads import Layers

_LEVELS, _POOLS = 4, 2  # P2..P5, maximum and average


def build_presence_layers(channels: int, fc_layers_size: int) -> Layers:
    """Layers of the presence output by name, with their weights; the initial presence is 0.5 for every query.

    Args:
        channels: of the matched maps.
        fc_layers_size: units of the hidden layer.
    """
    hidden = KL.Dense(fc_layers_size, activation="relu", dtype="float32", name="presence_fc")
    hidden.build((None, _LEVELS * _POOLS * channels))
    logit = KL.Dense(1, kernel_initializer="zeros", dtype="float32", name="presence_logit")
    logit.build((None, fc_layers_size))
    return {layer.name: layer for layer in (hidden, logit)}


def presence_graph(maps: list[Tensor], layers: Layers) -> dict[str, Tensor]:
    """Presence from the maximum and the average of each map, in float32.

    Args:
        maps: matched P2..P5 [batch, h, w, channels].
        layers: of `build_presence_layers`.

    Returns:
        dict: presence_logit and presence [batch, 1], the second a probability.
    """
    pools = (KL.GlobalMaxPooling2D(dtype="float32"), KL.GlobalAveragePooling2D(dtype="float32"))
    pooled = ops.concatenate([pool(level) for level in maps for pool in pools], axis=-1)
    logit = layers["presence_logit"](layers["presence_fc"](pooled))
    return {"presence_logit": logit, "presence": KL.Activation("sigmoid", dtype="float32", name="presence")(logit)}


def gated_graph(probabilities: Tensor, presence: Tensor) -> Tensor:
    """Class probabilities [batch, n, (background, match)], those of a match multiplied by presence [batch, 1]."""
    match = probabilities[..., 1:] * presence[:, None]
    return ops.concatenate([1.0 - match, match], axis=-1)
