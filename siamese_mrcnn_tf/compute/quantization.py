"""int8: the parts that take most of the time, quantized after training on scenes of the user's own.

The result is kept beside the weights: NAME.int8/ beside NAME.h5, one OpenVINO model a part, and quantized.json. NNCF
observes the inputs of each part during searches in float32 and chooses the ranges of all activations.
"""

import contextlib
import importlib.metadata
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..config import Config
from ..io import schemas
from ..io.cache import cache_folder
from ..io.errors import InputError
from ..io.files import StrPath, atomic_folder, is_empty
from ..io.packages import require
from ..weights.pretrained import bundled_weights
from .model_files import find_part, save_part
from .openvino_parts import Arrays, OpenVinoParts, network_settings

SUFFIX = ".int8"
# the class head takes a twentieth of the time, and costs half of the loss of AP50
PARTS = ("scene_encoder", "matcher", "scene_terms", "shared_matcher")
_MANIFEST = "quantized.json"
_MAX_BYTES = 2_000_000_000  # of the recorded inputs of a part
_FEW_CHANNELS = 16  # of the input of the first convolution, and of outputs that are scores or deltas

Samples = dict[str, list[Arrays]]  # recorded inputs by part, each by name


class QuantizedFile(schemas.OwnFile, kw_only=True):
    """The format of quantized.json.

    Attributes:
        weights_sha256, network: checksum of the weights, and settings of the network.
        parts: number of recorded inputs of each part.
        about, versions: of the inputs and of the programs.
    """

    weights_sha256: schemas.Sha256
    network: dict[str, Any]
    parts: dict[Literal["scene_encoder", "matcher", "scene_terms", "shared_matcher"], schemas.Positive]
    about: dict[str, Any]
    versions: dict[str, str]


def require_nncf() -> Any:
    """The package nncf; ValueError names the extra that installs it."""
    logging.getLogger("nncf").setLevel(logging.ERROR)
    return require("nncf", "quantize", "quantizes to int8")


def quantized_folder(weights: StrPath) -> Path:
    """NAME.int8 beside NAME.h5; for the bundled weights in the user's folder of caches."""
    path = Path(weights)
    if path.resolve() == bundled_weights().resolve():
        path = cache_folder() / path.name
    return path.with_suffix(SUFFIX)


def find_quantized(folder: Path, weights_sha256: str, config: Config, command: str) -> dict[str, Path]:
    """The .xml files of quantized parts by name.

    Args:
        folder: of `quantized_folder`.
        weights_sha256, config: what they must be of.
        command: makes them, for messages.

    Raises:
        ValueError: there are none, they are of other weights or another network, or a file is damaged.
    """
    if not (folder / _MANIFEST).is_file():
        raise InputError(f"{folder}: no such folder, precision int8 needs quantized weights; {command} makes it")
    try:
        manifest = schemas.read(folder / _MANIFEST, QuantizedFile)
    except InputError as error:
        raise InputError(f"{error}; {command} makes it anew") from error
    if manifest.weights_sha256 != weights_sha256:
        raise InputError(f"{folder / _MANIFEST}: of other weights; {command} makes it anew")
    if manifest.network != network_settings(config):
        raise InputError(f"{folder / _MANIFEST}: of other settings of the network; {command} makes it anew")
    paths = {name: find_part(folder / name) for name in manifest.parts}
    if damaged := [name for name, path in paths.items() if path is None]:
        raise InputError(f"{folder / damaged[0]}: missing or damaged; {command} makes it anew")
    return {name: path for name, path in paths.items() if path is not None}


def require_free(folder: Path) -> None:
    """Raise ValueError unless a quantization can be written to a folder: a new one, or that of an earlier one."""
    if folder.exists() and not (folder.is_dir() and (is_empty(folder) or (folder / _MANIFEST).is_file())):
        raise InputError(f"{folder}: is in use, expected a new folder, or that of an earlier quantization")


@contextlib.contextmanager
def recorded_inputs(parts: OpenVinoParts) -> Iterator[Samples]:
    """Context in which the inputs of PARTS are recorded, up to a size in memory."""
    samples: Samples = {name: [] for name in PARTS}
    sizes = dict.fromkeys(PARTS, 0)

    def record(name: str, inputs: Arrays) -> None:
        if name in samples and (size := sum(one.nbytes for one in inputs.values())) + sizes[name] <= _MAX_BYTES:
            samples[name].append({key: np.array(one) for key, one in inputs.items()})
            sizes[name] += size

    parts.on_inputs = record
    try:
        yield samples
    finally:
        parts.on_inputs = None


def quantize_parts(
    parts: OpenVinoParts, samples: Samples, folder: Path, *, weights_sha256: str, config: Config, about: dict[str, Any]
) -> None:
    """Quantize what was recorded, and write the folder, whole or not at all.

    Args:
        parts: in float32.
        samples: of `recorded_inputs`; a part without any stays in floating point.
        folder: of `quantized_folder`; one of an earlier quantization is replaced.
        weights_sha256, config: of `parts`.
        about: what the inputs are of, as plain values.

    Raises:
        ValueError: nncf is not installed, or `folder` holds something else.
    """
    nncf = require_nncf()
    require_free(folder)
    chosen = [name for name in PARTS if samples[name]]
    with atomic_folder(folder, replace=True) as temporary:
        for name in chosen:
            save_part(quantized(nncf, name, parts.model_for_int8(name), samples[name]), temporary / name)
        versions = {"nncf": importlib.metadata.version("nncf"), "openvino": importlib.metadata.version("openvino")}
        manifest = {"weights_sha256": weights_sha256, "network": network_settings(config), "about": about}
        manifest |= {"parts": {name: len(samples[name]) for name in chosen}, "versions": versions}
        schemas.write_plain(temporary / _MANIFEST, manifest, QuantizedFile)


def quantized(nncf: Any, name: str, model: Any, samples: Sequence[Arrays]) -> Any:
    """An openvino.Model of a part with its convolutions and matrix products in int8, but those of `kept`.

    Sums are in int8 in the scene encoder alone: those of matching take longer in int8 than in float32.
    """
    sums = [] if name == "scene_encoder" else ["Add"]
    ignored = nncf.IgnoredScope(names=kept(model), types=sums, validate=False)
    settings = {"preset": nncf.QuantizationPreset.MIXED, "subset_size": len(samples), "ignored_scope": ignored}
    return nncf.quantize(model, nncf.Dataset(list(samples)), **settings)


def kept(model: Any) -> list[str]:
    """The names of operations that stay in floating point: the first convolution, and the last ones of heads.

    They have few channels: colors, or scores and deltas, whose rounding moves boxes and changes their order.
    """
    names = []
    for operation in model.get_ordered_ops():
        if operation.get_type_name() == "Convolution":
            channels = list(operation.input(1).get_shape())[:2]
        elif operation.get_type_name() == "MatMul":
            channels = [operation.get_output_partial_shape(0)[-1].get_length()]
        else:
            continue
        if min(channels) < _FEW_CHANNELS:
            names.append(operation.get_friendly_name())
    return names
