"""TensorFlow functions as OpenVINO models. TensorFlow and OpenVINO are imported when a function is called."""

import dataclasses
import tempfile
from collections.abc import Callable
from typing import Any

from ..io.errors import InputError
from ..io.files import write_errors
from ..io.locks import temporary_folder
from ..io.packages import require
from ..ops.box_ops import Tensor
from ..ops.tracing import exportable, quantizable

_PURPOSE = "detects faster on CPUs, in float32, bfloat16 or int8"


def require_openvino() -> Any:
    """The package openvino; ValueError names the extra that installs it, and what it brings."""
    return require("openvino", "openvino", _PURPOSE)


@dataclasses.dataclass(frozen=True)
class DensePart:
    """A function to convert.

    Attributes:
        inputs: names and shapes in order, all float32; None: an axis of any size.
        function: tensors in the order of `inputs` -> outputs by name.
    """

    inputs: dict[str, list[int | None]]
    function: Callable[..., dict[str, Tensor]]

    def to_openvino(self, *, int8: bool = False) -> Any:
        """The part as an openvino.Model with these names; `int8`: in the form that is fastest once it is quantized."""
        import tensorflow as tf

        signature = [tf.TensorSpec(shape, tf.float32, name=name) for name, shape in self.inputs.items()]
        with exportable(), quantizable(int8):
            return to_openvino(tf.function(self.function, input_signature=signature).get_concrete_function())


def to_openvino(concrete: Any) -> Any:
    """An openvino.Model of a concrete TensorFlow function that returns a dict: its weights are constants.

    Inputs have the names of their signature, outputs those in the dict.
    """
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    openvino = require_openvino()
    frozen = convert_variables_to_constants_v2(concrete)
    names = dict(zip([tensor.name for tensor in frozen.outputs], sorted(concrete.structured_outputs), strict=True))
    with write_errors(tempfile.gettempdir()), temporary_folder() as folder:
        try:
            tf.io.write_graph(frozen.graph.as_graph_def(), str(folder), "graph.pb", as_text=False)
        except tf.errors.OpError as error:
            raise InputError(f"{folder}: cannot be written ({error.message})") from error
        model = openvino.convert_model(str(folder / "graph.pb"))
    for port in model.inputs:
        port.get_tensor().set_names({port.any_name.removesuffix(":0")})
    for port in model.outputs:
        port.get_tensor().set_names({names[name] for name in port.names if name in names})
    return model
