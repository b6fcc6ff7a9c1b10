"""What a file that holds no Keras weights is, and what to do with it, in words.

Only first bytes, names and the keys of JSON are looked at; nothing is unpickled.
"""

import json
import pathlib
import shlex

from ..config import Config
from ..io.archives import member_names
from ..io.errors import InputError

_NO_CONVERSION = (
    "its layers differ from the siamese network's; start from a backbone instead: leave --model out of train"
)
_PYTORCH = f"a PyTorch checkpoint: {_NO_CONVERSION}"
_TENSORFLOW = f"a part of a TensorFlow checkpoint: {_NO_CONVERSION}"
_SAVED_MODEL = f"a TensorFlow graph or SavedModel: {_NO_CONVERSION}"
_INDEX = ".index"  # what TensorFlow appends to the name of a checkpoint
_KERAS_SUFFIXES = (".h5", ".hdf5", ".keras")
_NAMES_SHOWN = 3
_SIGNATURES = {  # first bytes -> what it is
    b"\x89PNG": "a PNG image, which goes to --image or --reference",
    b"\xff\xd8\xff": "a JPEG image, which goes to --image or --reference",
    b"version https://git-lfs": "a pointer of Git LFS, not the file itself: fetch it with git lfs pull",
    b"\x1f\x8b": "a gzip archive: unpack it first",
    b"\x80": "a Python pickle, as of old PyTorch or Detectron: " + _NO_CONVERSION,
    b"<": "a web page or XML, not weights: download the file again, by the address of the file itself",
}
_READ = 64 * 2**20  # bytes of a JSON file that are looked at


def describe_foreign(path: pathlib.Path, head: bytes) -> str:
    """What the file at `path` is, that begins with `head` and is no weight file."""
    if not head:
        return "an empty file"
    name = path.name.lower()
    if name == "checkpoint" or name.endswith((".index", ".meta")) or ".data-0" in name:
        return _TENSORFLOW
    if name.endswith(".pb"):
        return _SAVED_MODEL
    if name.endswith(".onnx"):
        return f"an ONNX model: {_NO_CONVERSION}"
    if head.startswith(b"PK"):
        return _describe_zip(path)
    if head[8:10] == b'{"' and name.endswith(".safetensors"):
        return f"a safetensors file: {_NO_CONVERSION}"
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text[:1] in (b"{", b"["):
        return _describe_json(path)
    known = next((what for first, what in _SIGNATURES.items() if text.startswith(first)), None)
    return known or f"not a weight file (it begins {head[:16]!r})"


def describe_missing(path: pathlib.Path) -> str | None:
    """What a name without a file stands for, such as that of a TensorFlow checkpoint; None for nothing."""
    is_checkpoint = path.name and path.with_name(f"{path.name}{_INDEX}").is_file()
    return f"the name of a TensorFlow checkpoint: {_NO_CONVERSION}" if is_checkpoint else None


def describe_folder(folder: pathlib.Path) -> str:
    """What to do with a folder that holds no checkpoint of a finished epoch."""
    if not folder.is_dir():
        return "there is no such folder"
    if (folder / "saved_model.pb").is_file():
        return _SAVED_MODEL
    if begun := sorted(folder.glob("resume_*.weights.h5")):
        again = f"siamese-mrcnn train --resume {shlex.quote(str(folder))}"
        return f"its first epoch is not finished: continue with {again}, or use --model {shlex.quote(str(begun[-1]))}"
    if found := sorted((path for path in folder.iterdir() if _is_keras_file(path)), key=_age):
        more = f" (or another of its {len(found)} weight files)" if len(found) > 1 else ""
        return f"name the file: --model {shlex.quote(str(found[-1]))}{more}"
    if any(folder.glob(f"*{_INDEX}")):
        return f"it holds a TensorFlow checkpoint: {_NO_CONVERSION}"
    names = sorted(path.name for path in folder.iterdir())
    return f"expected a training run; it holds {', '.join(names[:_NAMES_SHOWN]) or 'nothing'}"


def _is_keras_file(path: pathlib.Path) -> bool:
    return path.is_file() and path.name.lower().endswith(_KERAS_SUFFIXES)


def _age(path: pathlib.Path) -> tuple[bool, int]:
    """Sorts weight files: the newest last, after those with optimizer state."""
    return not path.name.endswith(".weights.h5"), path.stat().st_mtime_ns


def _describe_zip(path: pathlib.Path) -> str:
    try:
        names = member_names(path)
    except InputError as error:
        return str(error).removeprefix(f"{path}: ")
    if any(name.endswith("data.pkl") for name in names):
        return _PYTORCH
    inside = [name for name in names if name.endswith((".h5", ".keras"))]
    if inside:
        return f"a zip archive that holds {inside[0]}: unpack it, and use that file"
    return f"a zip archive that holds no weights ({', '.join(names[:3]) or 'nothing'})"


def _describe_json(path: pathlib.Path) -> str:
    try:
        if path.stat().st_size > _READ:
            return "a large JSON file, perhaps annotations, which go to --annotations (with --images)"
        content = json.loads(path.read_bytes().decode("utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return "a text file that begins as JSON"
    keys = set(content) if isinstance(content, dict) else set()
    if {"images", "annotations", "categories"} <= keys:
        return "an annotation file in COCO format, which goes to --annotations (with --images)"
    if keys and all(key == "BASE" or hasattr(Config, key) for key in keys):
        return "a configuration, which goes to --config"
    if "arguments" in keys or {"epoch", "weights"} <= keys:
        return f"a file of a training run: use its folder, --model {path.parent}"
    if "weight_map" in keys:
        return "the index of weights in several files: save them as one, without max_shard_size"
    if {"class_name", "config"} <= keys:
        return "the architecture of a Keras model, without weights"
    return "a JSON file, no weights"
