"""The network and its three parts as TensorFlow functions of fixed shapes, for a batch of 1."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from ..config import Config
from ..modeling import network
from ..modeling.backbone import LEVELS
from ..modeling.parts import MATCHED, PredictorParts
from ..ops.anchors import pyramid_anchors
from ..ops.box_ops import Tensor
from ..ops.tracing import exportable
from ..runtime.manifest import NETWORK, PARTS, Interface

_OUTPUTS = ("mrcnn_detection", "mrcnn_mask", "presence")  # of the detector, as far as the network has them


@dataclasses.dataclass(frozen=True)
class Graph:
    """A model to export.

    Attributes:
        name: one of PARTS, or NETWORK.
        inputs: names and shapes, in order; all float32.
        function: tensors in the order of `inputs` -> outputs by name.
        models: the Keras models that hold its weights.
    """

    name: str
    inputs: dict[str, list[int]]
    function: Callable[..., dict[str, Tensor]]
    models: list[keras.Model]

    @property
    def signature(self) -> list[tf.TensorSpec]:
        return [tf.TensorSpec(shape, tf.float32, name=name) for name, shape in self.inputs.items()]

    @functools.cached_property
    def native(self) -> tuple[Any, Any]:
        """(tf.function, its concrete function) with TensorFlow's own operations."""
        function = tf.function(self.function, input_signature=self.signature)
        return function, function.get_concrete_function()

    @functools.cached_property
    def portable(self) -> tuple[Any, Any]:
        """`native` with operations that other runtimes have, too."""
        function = tf.function(self.function, input_signature=self.signature)
        with exportable():
            return function, function.get_concrete_function()

    @functools.cached_property
    def interface(self) -> Interface:
        """Names and shapes of inputs and outputs."""
        outputs = self.portable[1].structured_outputs.items()
        return Interface(self.inputs, {name: tensor.shape.as_list() for name, tensor in outputs})

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs of `native` by name. At fixed shapes TensorFlow rounds otherwise than for batches of any size."""
        outputs = self.native[1](*(tf.constant(inputs[name], tf.float32) for name in self.inputs))
        return {name: value.numpy() for name, value in outputs.items()}

    @property
    def variables(self) -> list[tf.Variable]:
        """The variables that hold the weights."""
        return list({id(one.value): one.value for model in self.models for one in model.variables}.values())


def open_config(config: Config) -> Config:
    """The configuration of an exported detector: finds of every score, the threshold is applied to its outputs."""
    return config.replace(DETECTION_MIN_CONFIDENCE=0.0, DETECTION_ARGMAX=False, VERIFY_DETECTIONS=False)


def build_graphs(config: Config, layers: network.SharedLayers, *, shots: int = 1) -> dict[str, Graph]:
    """The parts and the network by name.

    Args:
        config: of `layers`, in which images have one shape.
        layers: of `network.build_layers`.
        shots: references that the network takes.
    """
    parts = PredictorParts(open_config(config), layers)
    height, width = config.IMAGE_SHAPE[:2]
    image, reference = [1, height, width, 3], [1, *config.TARGET_SHAPE]
    maps = {f"scene_{name}": [1, *_static(shape)] for name, shape in _map_shapes(parts).items()}
    about = {
        "input_image_meta": [1, config.IMAGE_META_SIZE],
        "input_anchors": [1, len(pyramid_anchors(config, config.IMAGE_SHAPE)), 4],
    }
    embedding = {"target_embedding": [1, len(LEVELS), config.FPN_FEATUREMAPS]}
    encode_scene, encode_reference, detect = functions = _functions(parts)

    def run_network(image: Tensor, references: Tensor, image_meta: Tensor, anchors: Tensor) -> dict[str, Tensor]:
        scene = encode_scene(image).values()
        mean = tf.reduce_mean(encode_reference(references[0])["embedding"], axis=0, keepdims=True)
        return detect(*scene, mean, image_meta, anchors)

    heads = [model for model in (parts.detector, parts.segmenter) if model is not None]
    models = [[parts.scene_encoder], [parts.reference_encoder], heads]
    inputs = [{"input_image": image}, {"input_references": reference}, maps | embedding | about]
    graphs = [
        Graph(name, given, function, own)
        for name, given, function, own in zip(PARTS, inputs, functions, models, strict=True)
    ]
    whole = {"input_image": image, "input_references": [1, shots, *config.TARGET_SHAPE], **about}
    return {graph.name: graph for graph in [*graphs, Graph(NETWORK, whole, run_network, sum(models, []))]}


def _functions(parts: PredictorParts) -> tuple[Callable[..., dict[str, Tensor]], ...]:
    """The parts as functions with outputs by name."""

    def encode_scene(image: Tensor) -> dict[str, Tensor]:
        return dict(zip(LEVELS, parts.scene_encoder(image, training=False), strict=True))

    def encode_reference(references: Tensor) -> dict[str, Tensor]:
        return {"embedding": parts.reference_encoder(references, training=False)}

    def detect(*inputs: Tensor) -> dict[str, Tensor]:
        outputs = parts.detector(list(inputs), training=False)
        if parts.segmenter is not None:
            boxes = outputs["mrcnn_detection"][0, :, :4]
            given = [boxes, tf.zeros(len(boxes), tf.int32), inputs[-2], *(outputs[name] for name in MATCHED)]
            outputs["mrcnn_mask"] = parts.segmenter(given, training=False)[None]
        return {name: outputs[name] for name in _OUTPUTS if name in outputs}

    return encode_scene, encode_reference, detect


def _map_shapes(parts: PredictorParts) -> dict[str, Any]:
    return dict(zip(LEVELS, (tensor.shape for tensor in parts.scene_encoder.outputs), strict=True))


def _static(shape: Any) -> list[int]:
    """A shape without its batch axis, all of it known."""
    return [int(side) for side in shape[1:]]
