"""One exported model, opened in a runtime: arrays in, arrays by name out."""

import contextlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..io import packages
from ..io.errors import InputError, StateError
from .manifest import Interface

Run = Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]

_PACKAGES = {"onnx": ("onnxruntime", "onnx"), "openvino": ("openvino", "openvino")}  # module, extra


def open_session(runtime: str, path: Path, interface: Interface) -> "Session":
    """Open a model.

    Args:
        runtime: "onnx", "openvino" or "tensorflow".
        path: of the model's file, or folder for "tensorflow".
        interface: its inputs and outputs.

    Raises:
        ValueError: unknown runtime, its package is not installed, or it cannot read the file.
    """
    openers = {"onnx": _open_onnx, "openvino": _open_openvino, "tensorflow": _open_saved_model}
    if runtime not in openers:
        raise InputError(f"runtime {runtime!r}: expected one of {', '.join(openers)}")
    if not path.exists():
        raise InputError(f"{path}: no such file; export the network in this format")
    try:
        run = openers[runtime](path, interface)
    except (RuntimeError, OSError) as error:
        raise InputError(f"{path}: cannot be opened by {runtime} ({str(error).strip()})") from error
    return Session(run, interface)


class Session:
    """A model in a runtime. Calling it takes its inputs in order and returns its outputs by name.

    Args:
        run: computes the outputs of inputs, both by name.
        interface: names and shapes.
    """

    def __init__(self, run: Run, interface: Interface) -> None:
        self.interface = interface
        self._run = run

    def __call__(self, *inputs: np.ndarray) -> dict[str, np.ndarray]:
        """Raises ValueError for an input of another shape than the exported one."""
        named = dict(zip(self.interface.inputs, inputs, strict=True))
        arrays = {name: np.ascontiguousarray(value, np.float32) for name, value in named.items()}
        for name, value in arrays.items():
            if list(value.shape) != self.interface.inputs[name]:
                raise InputError(f"{name}: expected shape {self.interface.inputs[name]}, got {list(value.shape)}")
        return self._run(arrays)


def require(runtime: str) -> Any:
    """The Python package of "onnx" or "openvino"; ValueError names the extra that installs it."""
    module, extra = _PACKAGES[runtime]
    return packages.require(module, extra)


def is_installed(runtime: str) -> bool:
    """Whether the package of a runtime can be found, without importing it."""
    from importlib.util import find_spec

    return find_spec(_PACKAGES.get(runtime, (runtime,))[0]) is not None


def _open_onnx(path: Path, interface: Interface) -> Run:
    onnxruntime = require("onnx")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    options.intra_op_num_threads = available_cores()
    # threads that wait in a loop take the cores from each other where other programs run, too
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions have no common class but this one
        raise StateError(error) from error
    names = list(interface.outputs)
    return lambda inputs: dict(zip(names, session.run(names, dict(inputs)), strict=True))


def _open_openvino(path: Path, interface: Interface) -> Run:
    openvino = require("openvino")
    # without the hint it computes in bfloat16 where the processor can, and boxes move by pixels
    settings = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    request = openvino.Core().compile_model(path, "CPU", settings).create_infer_request()

    def run(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        request.infer(dict(inputs), share_inputs=True)
        return {name: np.array(request.get_tensor(name).data) for name in interface.outputs}

    return run


def _open_saved_model(path: Path, interface: Interface) -> Run:
    from .saved_model import open_saved_model

    return open_saved_model(path, list(interface.outputs))


def available_cores() -> int:
    """Number of processor cores that this process may use."""
    with contextlib.suppress(AttributeError):  # not on every system
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
