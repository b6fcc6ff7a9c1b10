"""Annotations of Label Studio: its JSON export, a list of tasks.

The format is described in labelstud.io, "Export annotations". Coordinates are in percent of the image. The runs of a
brush mask are packed in bits; their layout is that of `brush.py` in github.com/HumanSignal/label-studio-sdk
(label_studio_sdk/converter).
"""

import logging
import math
import re
import reprlib
import urllib.parse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ...io import decoding, files
from ...io.errors import InputError
from ...io.images import read_image
from ..layouts import find_image
from .common import (
    ImportedImage,
    ImportedObject,
    checked_number,
    checked_points,
    ellipse_outline,
    log_left_out,
    rectangle_outline,
    required,
    rotated,
)

logger = logging.getLogger(__name__)

_LABELS = ("polygonlabels", "rectanglelabels", "ellipselabels", "brushlabels")
_PLAIN = ("polygon", "rectangle", "ellipse", "brush")  # shapes whose label is a result of its own, with the same id
_BITMASKS = ("bitmasklabels", "bitmask")
_WITHOUT_AREA = ("keypointlabels", "keypoint", "vectorlabels", "vector", "videorectangle", "cuboidlabels")
_CHANNELS = 4  # of the pixels in a brush mask; the last is the mask


def read_label_studio(paths: Iterable[Path], image_dir: Path | None = None) -> list[ImportedImage]:
    """The images of the tasks. Of several annotations of a task the first that is not cancelled is taken.

    Results without the size of their image take it from the image file in `image_dir`.

    Raises:
        ValueError: names the file, the task, the result, the key and the value.
    """
    images, several, left_out, bare = [], list[str](), list[str](), list[str]()
    for path in paths:
        tasks: Any = files.read_json(path)
        if not isinstance(tasks, list):
            raise InputError(f"{path}: expected a list of tasks, as the export 'JSON' of Label Studio has it")
        for number, task in enumerate(tasks, 1):
            images.append(_image(task, path, number, image_dir, (several, left_out, bare)))
    if several:
        logger.warning("tasks with several annotations, of which the first is taken: %s", "; ".join(several[:5]))
    if bare:
        words = "tasks without an annotation, or with cancelled ones alone; taken as images without objects"
        logger.warning("%d %s: %s", len(bare), words, "; ".join(bare[:5]))
    log_left_out(left_out, "key points, vectors, and shapes without a label", "they are no objects")
    return images


def image_names(name: str) -> Iterable[str]:
    """Names that an image of Label Studio may have on disk: a local file, an upload, or this without its prefix."""
    try:
        parsed = urllib.parse.urlparse(name)
    except ValueError:  # an address that is none
        yield name
        return
    local = urllib.parse.parse_qs(parsed.query).get("d")
    yield local[0] if local else name
    last = re.split(r"[\\/]", urllib.parse.unquote(local[0] if local else parsed.path))[-1]
    yield last
    yield re.sub(r"^[0-9a-f]{8}-", "", last)


def _image(
    task: Any, path: Path, number: int, image_dir: Path | None, told: tuple[list[str], list[str], list[str]]
) -> ImportedImage:
    """The image of a task; `told` gets the places of tasks and results to warn of."""
    several, left_out, bare = told
    place = f"{path}: task {task.get('id', number) if isinstance(task, dict) else number}"
    data = required(task, "data", dict, place)
    names = [value for value in data.values() if isinstance(value, str) and _looks_like_image(value)]
    names = [data["image"]] if isinstance(data.get("image"), str) else names
    if len(names) != 1:
        raise InputError(f"{place}: data = {reprlib.repr(data)}, expected one image")
    key = "annotations" if "annotations" in task else "completions"  # as in versions before 1.0
    made = required(task, key, list, place)
    kept = [one for one in made if isinstance(one, dict) and not one.get("was_cancelled")]
    several += [place] if len(kept) > 1 else []
    bare += [] if kept else [place]
    results = required(kept[0], "result", list, place) if kept else []
    objects = []
    labelled = {
        str(result.get("id")) for result in results if isinstance(result, dict) and result.get("type") == "labels"
    }
    for index, result in enumerate(results, 1):
        where, kind = f"{place}, result {index}", required(result, "type", str, f"{place}, result {index}")
        shape = kind if kind in _LABELS else _shape_of_labels(result) if kind == "labels" else ""
        if shape:
            objects.append(_object(result | _missing_size(result, names[0], image_dir), kind, shape, where))
        elif kind in _BITMASKS:
            raise InputError(f"{where}: type = {kind!r}, which is not read; export the project as COCO, or use a brush")
        elif kind in (*_WITHOUT_AREA, "labels") or (kind in _PLAIN and str(result.get("id")) not in labelled):
            left_out.append(where)
    return ImportedImage(names[0], place, tuple(objects))


def _missing_size(result: dict[str, Any], name: str, image_dir: Path | None) -> dict[str, int]:
    """The size of the image file for a result without one; empty if it is not needed or not known."""
    if image_dir is None or {"original_width", "original_height"} <= result.keys():
        return {}
    found = (find_image(one, image_dir) for one in image_names(name))
    file = next((one for one in found if one is not None), None)
    if file is None:
        return {}
    height, width = read_image(files.inside(image_dir, file)).shape[:2]
    return {"original_width": width, "original_height": height}


def _looks_like_image(value: str) -> bool:
    return any(name.lower().endswith(files.IMAGE_SUFFIXES) for name in image_names(value)) or "?d=" in value


def _shape_of_labels(result: dict[str, Any]) -> str:
    """One of _LABELS for a result of the tag Labels, by the keys of its shape; empty for others, such as points."""
    value = result.get("value")
    keys = value.keys() if isinstance(value, dict) else set()
    needed = (("points",), ("x", "y", "width", "height"), ("x", "y", "radiusX", "radiusY"), ("rle",))
    return next((kind for kind, wanted in zip(_LABELS, needed, strict=True) if keys >= set(wanted)), "")


def _object(result: dict[str, Any], label_key: str, kind: str, place: str) -> ImportedObject:
    """The object of a result with a shape of a kind, one of _LABELS, and its label under a key."""
    value = required(result, "value", dict, place)
    labels = required(value, label_key, list, place)
    if len(labels) != 1 or not isinstance(labels[0], str):
        raise InputError(f"{place}: {label_key} = {reprlib.repr(labels)}, expected one label")
    keys = ("original_width", "original_height")
    width, height = (checked_number(result.get(key), f"{place}: {key}", is_size=True) for key in keys)
    decoding.require_pixels(round(height), round(width), f"{place}: original_height and original_width")
    scale = np.array([width, height]) / 100
    found: dict[str, Any] = {"place": place, "category": labels[0]}
    if kind == "brushlabels":
        return ImportedObject(mask=_brush_mask(value, round(width), round(height), place), **found)
    if kind == "polygonlabels":
        return ImportedObject(outlines=(checked_points(value.get("points"), place) * scale,), **found)
    angle = math.radians(checked_number(value.get("rotation", 0), f"{place}: rotation"))
    corner = np.array([checked_number(value.get(key), f"{place}: {key}") for key in ("x", "y")]) * scale
    keys = ("width", "height") if kind == "rectanglelabels" else ("radiusX", "radiusY")
    size = np.array([checked_number(value.get(key), f"{place}: {key}", is_size=True) for key in keys]) * scale
    if kind == "ellipselabels":
        return ImportedObject(outlines=(ellipse_outline(corner, size.tolist(), angle),), **found)
    outline = rotated(rectangle_outline(0, 0, *size), angle) + corner  # turned around its first corner
    return ImportedObject(outlines=(outline,), **found)


# ---- brush masks ---------------------------------------------------------------------------------------------------
def _brush_mask(value: dict[str, Any], width: int, height: int, place: str) -> np.ndarray:
    if value.get("format") != "rle" or not isinstance(value.get("rle"), list):
        raise InputError(f"{place}: format = {value.get('format')!r}, expected 'rle' with a list 'rle'")
    try:
        pixels = decode_runs(value["rle"], width * height * _CHANNELS)
    except (IndexError, MemoryError, OverflowError, TypeError, ValueError) as error:
        expected = f"expected the runs of a brush mask, {_CHANNELS} values for each of {width} x {height} pixels"
        raise InputError(f"{place}: rle = {reprlib.repr(value['rle'])}, {expected} ({error})") from error
    return np.asarray(pixels.reshape(height, width, _CHANNELS)[..., -1] > 0)


def decode_runs(numbers: list[int], count: int) -> np.ndarray:
    """The `count` values uint8 [count] of packed runs, a list of bytes.

    The bits are: n in 32; the bits of a value less 1 in 5; the bits of four kinds of lengths less 1, each in 4; then
    runs: 1 and the kind in 2 bits, the length less 1, and one value; or the same beginning with 0, and all values.
    """
    bits = np.unpackbits(np.array(numbers, np.uint8))
    position = 0

    def read(count: int) -> int:
        nonlocal position
        if position + count > bits.size:
            raise IndexError("the bits end too early")
        value = 0
        for bit in bits[position : position + count].tolist():
            value = value << 1 | bit
        position += count
        return value

    total, word = read(32), read(5) + 1
    if total != count or word > 8:
        raise InputError(f"it has {total} values of {word} bits")
    lengths = [read(4) + 1 for _ in range(4)]
    values, done = np.zeros(total, np.uint8), 0
    while done < total:
        is_run = read(1)
        end = min(done + 1 + read(lengths[read(2)]), total)
        if is_run:
            values[done:end] = read(word)
        else:
            values[done:end] = [read(word) for _ in range(end - done)]
        done = end
    return values
