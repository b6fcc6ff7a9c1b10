"""Writers of the formats: each takes a `Graph` and the path that `manifest.model_path` gives."""

import gc
import importlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tensorflow as tf

from ..compute.conversion import to_openvino
from ..compute.model_files import write_model
from ..io.errors import InputError
from ..runtime.sessions import require
from .graphs import Graph

_OPSET = 18


def write_onnx(graph: Graph, path: Path) -> None:
    """Write an .onnx file."""
    tf2onnx = _require_tf2onnx()
    for name in ("tf2onnx", "tf2onnx.tfonnx"):  # tells of every step
        logging.getLogger(name).setLevel(logging.ERROR)
    function = graph.portable[1]
    inputs, outputs = (
        [one.name for one in ends if one.dtype != tf.resource] for ends in (function.inputs, function.outputs)
    )
    names = {tensor.name: name for name, tensor in function.structured_outputs.items()}
    with tf.device("/cpu:0"):
        frozen = tf2onnx.tf_loader.from_function(function, inputs, outputs)
        with tf.Graph().as_default() as constant:
            tf.import_graph_def(frozen, name="")
            names |= dict(zip(inputs, graph.inputs, strict=True))
            converted = tf2onnx.tfonnx.process_tf_graph(
                constant, opset=_OPSET, input_names=inputs, output_names=outputs, tensors_to_rename=names
            )
    # Each optimization would copy all weights into messages, whose memory protobuf keeps: gigabytes. `make_model` does
    # it once. Optimizations that catch errors would copy the graph, too.
    converted.update_proto = lambda *_: None
    converted = tf2onnx.optimizer.optimize_graph(converted, catch_errors=False)
    vars(converted).pop("update_proto", None)
    tf2onnx.utils.save_protobuf(str(path), converted.make_model(graph.name))
    del converted, frozen, constant
    gc.collect()  # their nodes point at each other


def write_openvino(graph: Graph, path: Path) -> None:
    """Write an .xml file and the .bin file of its weights, in float32."""
    require("openvino")
    write_model(to_openvino(graph.portable[1]), path)


def write_saved_model(graph: Graph, path: Path) -> None:
    """Write the folder of a SavedModel; inputs and outputs of its signature "serving_default" are by name."""
    module = tf.Module()
    module.weights = graph.variables
    module.run, concrete = graph.native
    try:
        tf.saved_model.save(module, str(path), signatures={"serving_default": concrete})
    except tf.errors.OpError as error:
        raise InputError(f"{path}: cannot be written ({error.message})") from error


FORMATS: dict[str, Callable[[Graph, Path], None]] = {  # "keras" is written by the exporter, as one model
    "onnx": write_onnx,
    "openvino": write_openvino,
    "savedmodel": write_saved_model,
}


def check_packages(formats: list[str]) -> None:
    """Check that what writes and runs the formats is installed; ValueError names the extra that installs it."""
    if "onnx" in formats:
        require("onnx")
        _require_tf2onnx()
    if "openvino" in formats:
        require("openvino")


def _require_tf2onnx() -> Any:
    try:
        importlib.import_module("tf2onnx.convert")  # reaches the other modules
        return importlib.import_module("tf2onnx")
    except ImportError as error:
        extra = 'pip install "siamese-mrcnn-tf[onnx]"'
        raise InputError(f"tf2onnx is not installed, which writes ONNX files: {extra} ({error})") from error
