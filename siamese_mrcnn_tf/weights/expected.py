"""The weights that a network has, by name, to say what a file lacks. Nothing here needs Keras."""

from collections.abc import Collection, Iterator, Mapping

from .identify import WeightsInfo, residual_blocks
from .legacy_h5 import Shape, is_network_layer

_OUTPUTS = {"mrcnn_mask_deconv": -2}  # axis of the kernel with the outputs, where it is not the last
_CONV, _NORM = ("kernel", "bias"), ("gamma", "beta", "moving_mean", "moving_variance")


def missing_weights(keys: Collection[str], info: WeightsInfo) -> list[str]:
    """Names of the weights that a file lacks, in the order of the network; none for an unknown network.

    Args:
        keys: canonical names of the weights in the file.
        info: of `identify_weights`.
    """
    return [key for key in _expected(keys, info) if key not in keys]


def misshapen(shapes: Mapping[str, Shape]) -> str | None:
    """What is wrong with the first weight that no network can have, by its shape alone; None if nothing is."""
    for key, shape in shapes.items():
        layer, _, weight = key.rpartition("/")
        if not is_network_layer(layer):
            continue
        if weight == "kernel":
            if len(shape) not in (2, 4) or not all(shape):
                return f"{key} is of shape {list(shape)}, expected 2 or 4 axes, none of them empty"
            continue
        kernel, scale = shapes.get(f"{layer}/kernel"), shapes.get(f"{layer}/gamma", shape)
        channels = kernel[_OUTPUTS.get(layer, -1)] if kernel and len(kernel) in (2, 4) else scale[-1] if scale else 0
        if shape != (channels,) or not channels:
            return f"{key} is of shape {list(shape)}, expected [{channels or 'channels'}]"
    return None


def _expected(keys: Collection[str], info: WeightsInfo) -> Iterator[str]:
    """The weights of the parts that a file of this kind has; a mask head or a presence output if any of it is there."""
    if info.kind == "unknown":
        return
    yield from _backbone(keys, has_biases=info.has_biases or info.kind != "backbone")
    if info.kind == "siamese" or info.has_pyramid:
        yield from _named([f"fpn_c{level}p{level}" for level in range(5, 1, -1)], _CONV)
        yield from _named([f"fpn_p{level}" for level in range(2, 6)], _CONV)
    if info.kind != "siamese":
        return
    yield from _named([f"fpn_distance_P{level}" for level in range(2, 7)], _CONV)
    yield from _named(["rpn_conv_shared", "rpn_class_raw", "rpn_bbox_pred", "mrcnn_class_conv1"], _CONV)
    yield from _named(["mrcnn_class_bn1"], _NORM)
    yield from _named(["mrcnn_class_conv2"], _CONV)
    yield from _named(["mrcnn_class_bn2"], _NORM)
    yield from _named(["mrcnn_bbox_fc", "mrcnn_class_logits"], _CONV)
    if any(key.startswith("mrcnn_mask") for key in keys):
        for index in range(1, 5):
            yield from _named([f"mrcnn_mask_conv{index}"], _CONV)
            yield from _named([f"mrcnn_mask_bn{index}"], _NORM)
        yield from _named(["mrcnn_mask_deconv", "mrcnn_mask"], _CONV)
    if any(key.startswith("presence_") for key in keys):
        yield from _named(["presence_fc", "presence_logit"], _CONV)


def _backbone(keys: Collection[str], *, has_biases: bool) -> Iterator[str]:
    """The weights of a ResNet of the stages and blocks that are there, and of the blocks between them."""
    weights = _CONV if has_biases else _CONV[:1]
    yield from _named(["conv1"], weights)
    yield from _named(["bn_conv1"], _NORM)
    blocks = residual_blocks(keys)
    for stage in range(2, 6):
        last = max((letter for of_stage, letter in blocks if of_stage == stage), default="a")
        for letter in map(chr, range(ord("a"), ord(last) + 1)):
            for part in ("2a", "2b", "2c", *(["1"] if letter == "a" else [])):
                yield from _named([f"res{stage}{letter}_branch{part}"], weights)
                yield from _named([f"bn{stage}{letter}_branch{part}"], _NORM)


def _named(layers: list[str], weights: tuple[str, ...]) -> Iterator[str]:
    return (f"{layer}/{weight}" for layer in layers for weight in weights)
