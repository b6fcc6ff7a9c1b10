"""Commands that write, as the tests of kills, disks and two processes run them, and what they leave."""

import collections
import dataclasses
import hashlib
import importlib.util
import io
import json
import re
import shutil
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from . import base

LEFTOVER = re.compile(r"\.[0-9a-f]{8}-.+|.+\.(part|lock|tmp)|resume_.*|core(\.\d+)?")
_TIMES = re.compile(r"\d+(\.\d+)? s\b|\d\d:\d\d(:\d\d)?|\d{4}-\d\d-\d\d")
_VOLATILE = {"seconds", "date", "time", "created", "out", "command", "arguments", "fingerprint", "work", "folder"}
_SKIPPED = ("tensorboard/", "run.json")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A command that writes.

    Attributes:
        name: of the command.
        words: with {out} for what it writes and {base} for the folder of good inputs.
        needs: good inputs.
        again: words added to run it again after a kill.
        compares: how its result is compared, in words.
        is_cheap: whether it takes about a second and no TensorFlow.
        out: name of what it writes below the working folder.
        resumed: the words in place of `words` and `again`, if they are others.
        copies: good inputs that are copied to the working folder, {work}.
    """

    name: str
    words: tuple[str, ...]
    needs: tuple[str, ...] = ()
    again: tuple[str, ...] = ()
    compares: str = "byte by byte"
    is_cheap: bool = True
    out: str = "out"
    resumed: tuple[str, ...] = ()
    copies: tuple[str, ...] = ()

    def make_needs(self, root: Path) -> None:
        """Make the good inputs that are missing."""
        for need in (*self.needs, *self.copies):
            base.make(need, root)

    def first(self, root: Path, work: Path) -> list[str]:
        """The command line."""
        return self._filled(self.words, root, work)

    def second(self, root: Path, work: Path) -> list[str]:
        """The command line after a kill."""
        return self._filled(self.resumed or (*self.words, *self.again), root, work)

    def _filled(self, words: tuple[str, ...], root: Path, work: Path) -> list[str]:
        places = {"base": root / "base", "work": work, "out": work / self.out}
        return [word.format(**places) for word in words]


def work_folder(recipe: Recipe, root: Path, path: Path) -> Path:
    """A working folder of a command, made if it is missing."""
    path.mkdir(parents=True, exist_ok=True)
    for name in recipe.copies:
        shutil.copyfile(root / "base" / name, path / name)
    return path


_SET = ("--dataset", "{base}/set")
_MICRO = ("--config", "{base}/micro.json")
_SEARCH = ("predict", "--model", "{base}/exported", "--image", "{base}/set/train2017", "{base}/set/val2017", "--quiet")
_EVALUATE = ("evaluate", "--model", "random-boxes", *_SET, "--subset", "train")
_TRAIN = ("train", *_SET, *_MICRO, "--model", "untrained", "--stages", "shapes", "--epochs", "3", "--batch", "2")
_CALIBRATION = ("--subset", "val", "--limit", "4", "--absent", "1", "--views", "1")
_PRETRAINING = ("--epochs", "2", "--steps", "2", "--batch", "4")
RECIPES = (
    Recipe("shapes", ("shapes", "--out", "{out}", "--train", "120", "--val", "30", "--size", "192", "--workers", "2")),
    Recipe(
        "convert",
        ("convert", "{base}/large/annotations/instances_train2017.json", "--out", "{out}", "--val-share", "0.3"),
        ("large",),
        ("--force",),
    ),
    Recipe("check", ("check", *_SET, "--subset", "val", "--samples", "3", "--out", "{out}"), ("set",)),
    Recipe(
        "evaluate",
        (*_EVALUATE, "--runs", "5", "--out", "{out}"),
        ("set",),
        ("--resume",),
        "records without their seconds, scores and tables",
    ),
    Recipe(
        "evaluate-part",
        (*_EVALUATE, "--shard", "2/2", "--runs", "20", "--out", "{out}"),
        ("set",),
        ("--resume",),
        "records without their seconds",
    ),
    Recipe(
        "evaluate-merge",
        ("evaluate", "--merge", "{base}/parts", *_SET, "--subset", "train", "--out", "{out}"),
        ("parts", "set"),
        (),
        "records without their seconds, scores and tables",
    ),
    Recipe(
        "predict",
        (*_SEARCH, "--reference", "{base}/crop.png", "--save", "all", "--out", "{out}"),
        ("exported", "set", "crop.png"),
        ("--resume",),
        "byte by byte, pages without their times",
    ),
    Recipe(
        "train",
        (*_TRAIN, "--save-every", "1", "--logs", "{out}", "--workers", "1"),
        ("set", "micro.json"),
        (),
        "weights and losses, number by number",
        is_cheap=False,
        resumed=("train", "--resume", "{out}/siamese_mrcnn_tiny_default"),
    ),
    Recipe(
        "calibrate",
        ("calibrate", "--model", "shapes", "--dataset", "{base}/shapes", *_CALIBRATION, "--out", "{out}/t.json"),
        ("shapes",),
        is_cheap=False,
    ),
    Recipe(
        "export",
        ("export", "--model", "{base}/micro.h5", *_MICRO, "--format", "keras", "--out", "{out}"),
        ("micro.h5", "micro.json"),
        ("--force",),
        "weights, number by number, names of the files, and the manifest",
        is_cheap=False,
    ),
    Recipe(
        "pretrain",
        ("pretrain", *_SET, *_MICRO, *_PRETRAINING, "--out", "{out}", "--workers", "1"),
        ("set", "micro.json"),
        (),
        "weights and losses, number by number",
        is_cheap=False,
        resumed=("pretrain", "--resume", "{out}"),
    ),
    Recipe(
        "example",
        ("example", "--scenes", "3", "--size", "64", "--out", "{out}"),
        (),
        ("--force",),
        "byte by byte, pages without their times",
        is_cheap=False,
    ),
    Recipe(
        "quantize",
        ("quantize", "--model", "{work}/micro.h5", *_MICRO, *_SET, "--limit", "2"),
        ("set", "micro.json"),
        (),
        "weights, kinds of layers, and the manifest without checksums",
        is_cheap=False,
        out="micro.int8",
        copies=("micro.h5",),
    ),
)
NOT_KILLED = {
    "demo": "it runs shapes, pretrain, train, calibrate and evaluate, which are here",
    "app": "writes when it is asked to, by the functions of predict",
    "weights": "writes downloads alone, which tests/test_fetching.py stops",
}


def by_name(names: tuple[str, ...] = ()) -> list[Recipe]:
    """The recipes with these names, or all."""
    found = [recipe for recipe in RECIPES if not names or {recipe.name, recipe.name.partition("-")[0]} & set(names)]
    return [recipe for recipe in found if recipe.name != "quantize" or _has_quantization()]


def _has_quantization() -> bool:
    return all(map(importlib.util.find_spec, ("openvino", "nncf")))


def contents(folder: Path) -> dict[str, Any]:
    """What is in a result, by the name of the file, so that two of equal results are equal."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and not any(part in name for part in _SKIPPED) and not LEFTOVER.fullmatch(path.name):
            found[name] = _content(path, folder.parent)
    return found


def _content(path: Path, work: Path) -> Any:
    if path.suffix == ".h5":
        return _arrays(path)
    if path.suffix == ".keras":
        with zipfile.ZipFile(path) as archive:
            return _arrays(io.BytesIO(archive.read("model.weights.h5")))
    data = path.read_bytes().replace(bytes(work), b"{work}")
    if path.suffix == ".xml":  # of OpenVINO, which numbers its layers in any order
        return collections.Counter(re.findall(rb'type="(\w+)"', data))
    if path.name == "sums.json":
        return sorted(json.loads(data))
    if path.suffix == ".json":
        content = _plain(json.loads(data))
        return content | {"files": sorted(content["files"])} if path.name == "export.json" else content
    if path.suffix == ".jsonl":
        return [_plain(json.loads(line)) for line in data.splitlines()]
    if path.suffix in (".html", ".md", ".csv"):
        return _TIMES.sub("", data.decode("utf-8"))
    return hashlib.sha256(data).hexdigest()


def _plain(value: Any) -> Any:
    """JSON without what a clock, or the place of the folder, decides."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items() if key not in _VOLATILE and "second" not in key}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def _arrays(path: Path | io.BytesIO) -> dict[str, str]:
    found: dict[str, str] = {}

    def add(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            found[name] = hashlib.sha256(np.asarray(item).tobytes()).hexdigest()

    with h5py.File(path) as file:
        file.visititems(add)
    return found


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Names of files that differ, or that one alone has."""
    return [name for name in sorted({*one, *other}) if one.get(name, ...) != other.get(name, ...)]


def leftovers(folder: Path) -> list[str]:
    """Temporary and lock files below a folder."""
    return [path.relative_to(folder).as_posix() for path in folder.rglob("*") if LEFTOVER.fullmatch(path.name)]
