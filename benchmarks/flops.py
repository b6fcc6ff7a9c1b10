"""Operations of the network: multiplications and additions of convolutions and matrix products, by layer.

A product and the addition that follows it are two operations. Normalizations, activations, pooling of rois and
suppression are not counted. Winograd's convolutions count as plain ones, though they compute fewer products.
"""

import math
from collections import Counter
from typing import Any

import keras
from keras import layers as KL

from siamese_mrcnn_tf.config import Config
from siamese_mrcnn_tf.modeling.folding import FoldedConv
from siamese_mrcnn_tf.modeling.matching import MatchingLayer
from siamese_mrcnn_tf.modeling.network import POOLED_LEVELS, SharedLayers, image_shape
from siamese_mrcnn_tf.modeling.parts import PredictorParts
from siamese_mrcnn_tf.modeling.rpn import RPN_BBOX, RPN_CLASS, RPN_CONV, RPNHead
from siamese_mrcnn_tf.modeling.shared_scene import SceneTerms, SharedMatching

PARTS = {  # of the network -> how the names of its layers begin
    "backbone": "resnet_model/",
    "pyramid": "fpn_model/",
    "matching": "fpn_distance_",
    "RPN": "rpn_",
    "class head": ("mrcnn_class_", "mrcnn_bbox_"),
    "mask head": "mrcnn_mask",
}


def count_steps(config: Config, layers: SharedLayers) -> dict[str, Counter[str]]:
    """Operations of a predictor's functions, by the function's name and then by layer.

    These are for one scene, one reference, one query, and one detection (`_segment`).

    Raises:
        ValueError: scenes have no fixed shape (IMAGE_RESIZE_MODE), or a layer is of a kind that is not counted.
    """
    if None in image_shape(config):
        raise ValueError(f"IMAGE_RESIZE_MODE = {config.IMAGE_RESIZE_MODE!r}: expected one with scenes of a fixed shape")
    parts = PredictorParts(config, layers)
    models = {
        "_encode_scene": parts.scene_encoder,
        "_encode_reference": parts.reference_encoder,
        "_detect": parts.detector,
        "_share": parts.scene_terms,
        "_detect_shared": parts.shared_detector,
    }
    if parts.segmenter is not None:
        models["_segment"] = parts.segmenter
    return {name: count_operations(model) for name, model in models.items()}


def by_part(steps: dict[str, Counter[str]]) -> dict[str, float]:
    """GFLOP of the parts of a detection with one reference; of the mask head, for one detection."""
    reference = steps["_encode_reference"].total()
    found = {"reference": reference / 1e9}
    layers = steps["_encode_scene"] + steps["_detect"] + steps.get("_segment", Counter[str]())
    for part, start in PARTS.items():
        found[part] = sum(count for name, count in layers.items() if name.startswith(start)) / 1e9
    return found


def count_operations(model: keras.Model) -> Counter[str]:
    """Operations of a functional model for a batch of 1, by layer; those in a nested model are NAME/LAYER.

    A layer that is called several times counts each time.
    """
    first = [keras.KerasTensor((tensor.shape[0] or 1, *tensor.shape[1:]), tensor.dtype) for tensor in model.inputs]
    return _count(model, first)


def _count(model: keras.Model, tensors: list[Any]) -> Counter[str]:
    """Operations of a functional model with inputs of the shapes of `tensors`, in the order of `model.inputs`."""
    counts: Counter[str] = Counter()

    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        outputs = layer(*args, **kwargs)
        if isinstance(layer, keras.Model):
            nested = _count(layer, keras.tree.flatten(args[0]))
            counts.update({f"{layer.name}/{name}": count for name, count in nested.items()})
        elif getattr(layer, "weights", None):
            counts[layer.name] += layer_operations(layer, args[0], outputs)
        return outputs

    # cloning runs through the graph with other inputs and calls each layer: here with those that it has
    inputs = [keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype) for tensor in tensors]
    given = keras.tree.pack_sequence_as(model.input, inputs)
    keras.models.clone_model(model, input_tensors=given, clone_function=lambda layer: layer, call_function=call)
    return counts


def layer_operations(layer: KL.Layer, inputs: Any, outputs: Any) -> int:
    """Operations of one call of a layer with weights, from the shapes of its symbolic inputs and outputs.

    Raises:
        ValueError: a layer of a kind that is not counted.
    """
    if isinstance(layer, SceneTerms):
        return _scene_terms_operations(layer, inputs, outputs)
    if isinstance(layer, SharedMatching):
        return _shared_matching_operations(layer, *outputs)
    if isinstance(layer, RPNHead):
        return 2 * _rpn_products(layer.rpn_model, inputs.shape[-1], outputs)
    if isinstance(layer, KL.BatchNormalization):
        return 0
    if isinstance(layer, KL.Conv2DTranspose):
        return 2 * _positions(inputs) * math.prod(layer.kernel.shape)
    if isinstance(layer, FoldedConv):
        return 2 * _positions(outputs) * math.prod(layer.convolution.kernel.shape)
    if isinstance(layer, (KL.Conv2D, KL.Dense, MatchingLayer)):
        return 2 * _positions(outputs) * math.prod(layer.kernel.shape)
    raise ValueError(f"{layer.name}: operations of a {type(layer).__name__} are not known here")


def _scene_terms_operations(layer: SceneTerms, scene: list[Any], outputs: list[Any]) -> int:
    """Of the terms of matched maps, those of the RPN, a convolution of ones, and the kernels that are composed."""
    matched, shared = outputs[: len(POOLED_LEVELS)], outputs[len(POOLED_LEVELS) :][: len(scene)]
    channels, filters, features, cells = _sizes(layer)
    total = sum(_positions(tensor) for tensor in matched) * channels * filters
    total += sum(_positions(tensor) for tensor in shared) * cells * (channels + 1) * features
    total += len(scene) * cells * filters * features * (2 * channels + 1)
    return 2 * total


def _shared_matching_operations(layer: SharedMatching, matched: list[Any], rpn: list[dict[str, Any]]) -> int:
    """Of the differences' terms of matched maps, and of the RPN."""
    channels, filters, _, _ = _sizes(layer)
    total = sum(_positions(tensor) for tensor in matched) * channels * filters
    return 2 * (total + sum(_rpn_products(layer.rpn.rpn_model, channels, outputs) for outputs in rpn))


def _rpn_products(rpn_model: keras.Model, channels: int, outputs: dict[str, Any]) -> int:
    """Of the RPN for a map with `channels` channels."""
    convolution, *heads = (rpn_model.get_layer(name) for name in (RPN_CONV, RPN_CLASS, RPN_BBOX))
    products = math.prod(convolution.kernel.shape[:2]) * channels * convolution.filters
    products += sum(math.prod(head.kernel.shape) for head in heads)
    anchors = heads[0].filters // 2  # of a cell
    return _positions(outputs["rpn_class"]) // anchors * products


def _sizes(layer: SceneTerms | SharedMatching) -> tuple[int, int, int, int]:
    """(channels of the scene's maps, of matched maps, of the RPN, cells of its kernel)."""
    height, width, filters, features = layer.rpn.convolution.kernel.shape
    return layer.matching[0].kernel.shape[2] // 2, filters, features, height * width


def _positions(tensor: Any) -> int:
    """Cells of a map, or rows of a matrix, over the whole batch."""
    return math.prod(tensor.shape[:-1])
