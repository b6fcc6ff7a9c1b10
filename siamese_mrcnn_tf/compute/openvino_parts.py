"""`OpenVinoParts`: the dense parts compiled by OpenVINO, their models kept in the user's folder of caches."""

import functools
import hashlib
import json
import logging
import math
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..config import Config
from ..io.cache import cache_folder
from ..io.errors import InputError
from ..io.processor import multiplies
from ..modeling.network import SharedLayers
from .conversion import DensePart, require_openvino
from .dense import DenseParts
from .model_files import find_or_save_part

logger = logging.getLogger(__name__)

_EXACT = ("presence",)  # parts that are computed in float32 in every precision
_FREE_SETTINGS = ("DETECTION_", "VERIFY_", "MOLD_", "NAME", "EXPERIMENT", "CHECKPOINT_DIR", "PRECISION")

ALIGNMENT = 64  # bytes; TensorFlow reads arrays that begin there where they are

Arrays = dict[str, np.ndarray]


class OpenVinoParts:
    """Runs the dense parts by name. Each is converted, or read from the cache, when it is first used.

    Args:
        config: of the network.
        layers: returns its layers, of `network.build_layers` in float32; called where the cache lacks a part.
        weights_sha256: returns what identifies the weights of `layers`; called at the first use.
        precision: "float32", "bfloat16" or "int8".
        quantized: .xml files of the parts that are computed in int8, by name.

    Attributes:
        on_inputs: called with the name and the inputs of each part that runs; None: nothing is.

    Raises:
        ValueError: openvino is not installed.
    """

    def __init__(
        self,
        config: Config,
        layers: Callable[[], SharedLayers],
        weights_sha256: Callable[[], str],
        precision: str = "float32",
        quantized: dict[str, Path] | None = None,
    ) -> None:
        openvino = require_openvino()
        self._config, self._layers, self._quantized = config, layers, quantized or {}
        self._dense: DenseParts | None = None
        self._core, self._precision = openvino.Core(), precision
        self._lock, self._models, self._requests = threading.Lock(), dict[str, Any](), dict[str, list[_Request]]()
        self._weights_sha256 = weights_sha256
        self.on_inputs: Callable[[str, Arrays], None] | None = None

    @functools.cached_property
    def folder(self) -> Path:
        """The folder of the cache."""
        return cache_folder() / "openvino" / fingerprint(self._weights_sha256(), self._config)[:32]

    def __call__(self, name: str, *arrays: np.ndarray) -> Arrays:
        """The outputs of a part by name, for its inputs in order, in the memory that OpenVINO wrote them to."""
        model, names = self._compiled(name)
        lease = _Lease(self._take_request(name) or _Request(model), self._requests[name])
        # contiguous arrays are read where they are
        inputs = {one: np.ascontiguousarray(value, np.float32) for one, value in zip(names, arrays, strict=True)}
        if self.on_inputs is not None:
            self.on_inputs(name, inputs)
        lease.request.of_openvino.infer(inputs, share_inputs=True)
        return {port.any_name: np.asarray(_Output(lease, port)) for port in model.outputs}

    def model_for_int8(self, name: str) -> Any:
        """A part as an openvino.Model in float32, to be quantized."""
        return self._dense_part(name).to_openvino(int8=True)

    def _take_request(self, name: str) -> "_Request | None":
        """A request that no other thread uses; None if there is none."""
        try:
            return self._requests[name].pop()  # lists are safe between threads
        except IndexError:
            return None

    def _compiled(self, name: str) -> tuple[Any, list[str]]:
        """(the compiled model of a part, the names of its inputs in order)."""
        with self._lock:
            if name not in self._models:
                path = self._quantized.get(name) or self._path(name)
                try:
                    model = self._core.compile_model(path, "CPU", self._settings(name))
                except RuntimeError as error:
                    raise InputError(f"{path}: cannot be opened by openvino ({str(error).strip()})") from error
                # OpenVINO has them in an order of its own
                names = sorted((port.any_name for port in model.inputs), key=_rank)
                self._models[name], self._requests[name] = (model, names), []
            return self._models[name]

    def _path(self, name: str) -> Path:
        return find_or_save_part(self.folder / name, lambda: self._dense_part(name).to_openvino())

    def _dense_part(self, name: str) -> DensePart:
        if self._dense is None:
            logger.info("OpenVINO models are made in %s", self.folder)
            self._dense = DenseParts(self._config, self._layers())
        return self._dense.part(name)

    def _settings(self, name: str) -> dict[str, str]:
        # int8 leaves a part of the work to floating point
        low = self._precision != "float32" and name not in _EXACT and (self._precision != "int8" or _has_bfloat16())
        # without CACHE_DIR: OpenVINO's own files save a tenth of a second, and a damaged one gives wrong results
        return {"INFERENCE_PRECISION_HINT": "bf16" if low else "f32", "PERFORMANCE_HINT": "LATENCY"}


class _Request:
    """A request of a compiled model; its outputs of a fixed size are aligned."""

    def __init__(self, model: Any) -> None:
        openvino = require_openvino()
        self.of_openvino = model.create_infer_request()
        fixed = [port for port in model.outputs if port.partial_shape.is_static]
        self._memory = [_aligned(list(port.shape)) for port in fixed]  # OpenVINO's tensors do not keep it
        for port, array in zip(fixed, self._memory, strict=True):
            self.of_openvino.set_tensor(port, openvino.Tensor(array, shared_memory=True))


def _aligned(shape: Sequence[int]) -> np.ndarray:
    """An array float32 without values."""
    size = math.prod(shape) * np.dtype(np.float32).itemsize
    memory = np.empty(size + ALIGNMENT, np.uint8)
    first = -memory.ctypes.data % ALIGNMENT
    return memory[first : first + size].view(np.float32).reshape(shape)


class _Lease:
    """A request whose outputs are in use; it returns to the free ones when the last of them is dropped."""

    def __init__(self, request: _Request, free: list[_Request]) -> None:
        self.request, self._free = request, free

    def __del__(self) -> None:
        self._free.append(self.request)


class _Output:
    """An output of a request as numpy sees it; an array of it keeps the lease."""

    def __init__(self, lease: _Lease, port: Any) -> None:
        self._lease = lease
        self.__array_interface__ = lease.request.of_openvino.get_tensor(port).data.__array_interface__


def _rank(name: str) -> tuple[bool, str]:
    """The order of a part's inputs: maps P2..P6 and terms by name, then the embedding."""
    return name == "embedding", name


def _has_bfloat16() -> bool:
    return multiplies("bfloat16")


def fingerprint(weights_sha256: str, config: Config) -> str:
    """SHA-256 of what the dense parts depend on: weights, settings of the network, versions of the programs."""
    openvino = require_openvino()
    about = [weights_sha256, network_settings(config), __version__, openvino.__version__]
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def network_settings(config: Config) -> dict[str, Any]:
    """The settings that the dense parts may depend on, as they are in a JSON file."""
    settings = {name: value for name, value in config.to_dict().items() if not name.startswith(_FREE_SETTINGS)}
    content: dict[str, Any] = json.loads(json.dumps(settings, default=repr))
    return content


def checksum_of_layers(layers: SharedLayers) -> str:
    """SHA-256 of the weights of layers that are not of a file."""
    digest = hashlib.sha256()
    for layer in layers.layers:
        for values in layer.get_weights():
            digest.update(values.tobytes())
    return digest.hexdigest()
