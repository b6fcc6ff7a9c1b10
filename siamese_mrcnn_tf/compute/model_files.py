"""OpenVINO models in a folder, one folder a part, with their checksums: whole or not at all."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..io import schemas
from ..io.errors import InputError
from ..io.files import atomic_folder, checksum, is_companion, remove_temporaries
from ..io.locks import locked

_MODEL, _SUMS = "model.xml", "sums.json"


class SumsFile(schemas.OwnFile, kw_only=True):
    """sums.json: the checksum of each file of a part, by its name."""

    files: dict[str, schemas.Sha256]


def save_part(model: Any, folder: Path) -> Path:
    """Write an openvino.Model into a folder of its own; returns the path of the .xml file."""
    with atomic_folder(folder, replace=True) as temporary:
        write_model(model, temporary / _MODEL)
        sums = {path.name: checksum(path) for path in sorted(temporary.iterdir())}
        schemas.write(temporary / _SUMS, SumsFile(files=sums), indent=None)
    return folder / _MODEL


def write_model(model: Any, path: Path) -> None:
    """Write an openvino.Model in float32: an .xml file, and a .bin file with its weights beside it.

    Raises:
        ValueError: the files cannot be written, as on a full disk.
    """
    import openvino

    try:
        openvino.save_model(model, str(path), compress_to_fp16=False)
    except RuntimeError as error:
        raise InputError(f"{path}: cannot be written, the disk may be full ({error})") from error


def find_part(folder: Path) -> Path | None:
    """The .xml file in the folder of a part; None if there is none, or it is damaged."""
    try:
        sums = _read_sums(folder / _SUMS)
        names = {path.name for path in folder.iterdir() if not is_companion(path.name)}
        whole = _MODEL in sums and names == {_SUMS, *sums}
        whole = whole and all(checksum(folder / name) == value for name, value in sums.items())
    except (ValueError, OSError):
        return None
    return folder / _MODEL if whole else None


def _read_sums(path: Path) -> dict[str, str]:
    """The checksums of a part; files of earlier versions hold nothing else."""
    content = schemas.read_plain(path, dict[str, Any])
    if "files" in content:
        return schemas.convert(content, SumsFile, path).files
    return schemas.convert(content, dict[str, schemas.Sha256], path)


def find_or_save_part(folder: Path, make: Callable[[], Any]) -> Path:
    """The .xml file in the folder of a part; `make` gives the openvino.Model where it is missing or damaged.

    One process makes it, others wait for it.
    """
    if found := find_part(folder):
        return found
    with locked(folder.parent / ".lock", f"OpenVINO models in {folder.parent}"):
        remove_temporaries(folder)
        return find_part(folder) or save_part(make(), folder)
