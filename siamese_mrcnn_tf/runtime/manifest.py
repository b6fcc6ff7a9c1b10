"""export.json: what is in an exported folder.

An exported folder holds the network and its three parts in one format or several, one folder a format, and the
threshold file of the weights as threshold.json where there is one.
"""

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta

from ..config import FORMER_NAMES, NEW_SETTINGS, Config
from ..io import schemas
from ..io.errors import InputError
from ..io.files import StrPath, checksum, inside, is_companion
from ..io.schemas import OwnFile, Positive, Sha256
from ..weights.thresholds import Calibration, read_thresholds

NAME = "export.json"
THRESHOLD_NAME = "threshold.json"
PARTS = ("scene_encoder", "reference_encoder", "detector")
NETWORK = "network"  # the three parts as one model
RUNTIMES = {
    "onnx": "onnx",
    "openvino": "openvino",
    "tensorflow": "savedmodel",
}  # runtime -> format, fastest start first
SUFFIXES = {"onnx": ".onnx", "openvino": ".xml", "savedmodel": "", "keras": ".keras"}

Shapes = dict[str, list[Positive]]  # by name of the tensor


@dataclasses.dataclass(frozen=True)
class Interface:
    """Inputs and outputs of an exported model by name, in order, with their shapes; all are float32."""

    inputs: Shapes
    outputs: Shapes


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What was exported.

    Attributes:
        config: the configuration of the network; threshold and verification of the threshold file are not in it.
        interfaces: of the parts and of the network, by name.
        formats: "onnx", "openvino", "savedmodel", "keras".
        files: SHA-256 of each file in the folder by its path there, with forward slashes.
        weights: name of the weight file; None for initial weights.
        weights_sha256: its checksum.
        about: versions of the programs, and the differences that were measured after the export.
    """

    config: Config
    interfaces: dict[str, Interface]
    formats: list[str]
    files: dict[str, str]
    weights: str | None = None
    weights_sha256: str | None = None
    about: dict[str, Any] = dataclasses.field(default_factory=dict)


class ManifestFile(OwnFile, kw_only=True):
    """The format of export.json, see `Manifest`."""

    config: dict[str, Any]
    interfaces: dict[str, Interface]
    formats: Annotated[list[Literal["onnx", "openvino", "savedmodel", "keras"]], Meta(min_length=1)]
    files: dict[str, Sha256]
    weights: str | None
    weights_sha256: Sha256 | None
    about: dict[str, Any]


def is_export(path: StrPath) -> bool:
    """Whether `path` is an exported folder."""
    return (Path(path) / NAME).is_file()


def require_free(out: StrPath, *, replace: bool) -> None:
    """Raise ValueError unless an exported folder may be written to `out`: it is new, empty, or one to `replace`."""
    out = Path(out)
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not is_export(out):
        raise InputError(f"{out}: exists and is no exported folder; name another")
    if not replace:
        raise InputError(f"{out}: has an exported network; name another folder, or --force to replace it")


def model_path(folder: StrPath, format_name: str, model: str) -> Path:
    """The file (or for "savedmodel" the folder) of a model: a part, or "network"."""
    return Path(folder) / format_name / f"{model}{SUFFIXES[format_name]}"


def write_manifest(manifest: Manifest, folder: StrPath) -> None:
    """Write export.json to an exported folder, atomically."""
    path, fields = Path(folder) / NAME, dataclasses.fields(manifest)
    content = {field.name: getattr(manifest, field.name) for field in fields} | {"config": manifest.config.to_dict()}
    schemas.write(path, ManifestFile(**content))


def read_export(folder: StrPath) -> Manifest:
    """The content of export.json in an exported folder.

    Raises:
        ValueError: no such file, or not one that this version of the program writes; names the file and the key.
    """
    path = Path(folder) / NAME
    if not path.is_file():
        raise InputError(f"{folder}: no exported network, {NAME} is missing there")
    content = schemas.read(path, ManifestFile)
    if lacking := [name for name in PARTS if name not in content.interfaces]:
        raise InputError(f"{path}: interfaces: the key {lacking[0]!r} is missing")
    fields: dict[str, Any] = {field.name: getattr(content, field.name) for field in dataclasses.fields(Manifest)}
    known = set(Config().names())
    expected = known.difference(NEW_SETTINGS, FORMER_NAMES.values())  # earlier versions lack these
    if lacking := sorted(expected.difference(content.config)):
        raise InputError(f"{path}: config: the key {lacking[0]!r} is missing")
    try:
        config = Config().replace(**{name: value for name, value in content.config.items() if name in known})
        config.validate()
    except ValueError as error:
        raise InputError(f"{path}: config: {error}") from error
    return Manifest(**fields | {"config": config})


def read_calibration(folder: StrPath) -> Calibration | None:
    """The threshold file of an exported folder; None without one."""
    path = Path(folder) / THRESHOLD_NAME
    return read_thresholds(path) if path.is_file() else None


def checksums(folder: StrPath) -> dict[str, str]:
    """SHA-256 of all files below a folder, by path there."""
    folder = Path(folder)
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): checksum(path) for path in paths}


def check_files(folder: StrPath, manifest: Manifest, format_name: str) -> None:
    """Check that the files of a format, and the threshold file, are there and as they were exported, and no others.

    Raises:
        ValueError: names the file.
    """
    for name, expected in manifest.files.items():
        if name != THRESHOLD_NAME and not name.startswith(f"{format_name}/"):
            continue
        path = inside(folder, name)
        if not path.is_file():
            raise InputError(f"{path}: the file is missing; export the network again")
        if checksum(path) != expected:
            raise InputError(f"{path}: the file has changed since it was exported; export the network again")
    for path in [Path(folder) / THRESHOLD_NAME, *sorted((Path(folder) / format_name).rglob("*"))]:
        name = path.relative_to(folder).as_posix()
        is_there = (path.is_symlink() or path.exists()) and not path.is_dir()
        if is_there and name not in manifest.files and not is_companion(path.relative_to(folder)):
            raise InputError(f"{path}: is not among the files of {NAME}; remove it, or export the network again")
