"""Commands that write, as the tests of kills, disks and two processes run them, and what they leave."""

import dataclasses
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np

LEFTOVER = re.compile(r"\.[0-9a-f]{8}-.+|.+\.(part|lock|tmp)|resume_.*|core(\.\d+)?")
_TIMES = re.compile(r"\d+(\.\d+)? s\b|\d\d:\d\d(:\d\d)?|\d{4}-\d\d-\d\d")
_VOLATILE = {"seconds", "date", "time", "created", "out", "command", "arguments", "fingerprint", "work"}
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
    """

    name: str
    words: tuple[str, ...]
    needs: tuple[str, ...] = ()
    again: tuple[str, ...] = ()
    compares: str = "byte by byte"
    is_cheap: bool = True
    out: str = "out"
    resumed: tuple[str, ...] = ()

    def first(self, root: Path, work: Path, out: Path | None = None) -> list[str]:
        """The command line."""
        return _filled(self.words, root, out or work / self.out)

    def second(self, root: Path, work: Path) -> list[str]:
        """The command line after a kill."""
        return _filled(self.resumed or (*self.words, *self.again), root, work / self.out)


def _filled(words: tuple[str, ...], root: Path, out: Path) -> list[str]:
    return [word.replace("{base}", str(root / "base")).replace("{out}", str(out)) for word in words]


_SET = ("--dataset", "{base}/set")
_MICRO = ("--config", "{base}/micro.json")
_SEARCH = ("predict", "--model", "{base}/exported", "--image", "{base}/set/train2017", "{base}/set/val2017", "--quiet")
_TRAIN = ("train", *_SET, *_MICRO, "--model", "untrained", "--stages", "shapes", "--epochs", "3", "--batch", "2")
RECIPES = (
    Recipe("shapes", ("shapes", "--out", "{out}", "--train", "120", "--val", "30", "--size", "192", "--workers", "2")),
    Recipe(
        "convert",
        ("convert", "{base}/large/annotations/instances_train2017.json", "--out", "{out}", "--val-share", "0.3"),
        ("large",),
        ("--force",),
    ),
    Recipe("check", ("check", *_SET, "--subset", "val", "--out", "{out}"), ("set",)),
    Recipe(
        "evaluate",
        ("evaluate", "--model", "random-boxes", *_SET, "--subset", "train", "--runs", "5", "--out", "{out}"),
        ("set",),
        ("--resume",),
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
        (
            "calibrate",
            "--model",
            "{base}/micro.h5",
            *_MICRO,
            *_SET,
            "--limit",
            "3",
            "--absent",
            "1",
            "--out",
            "{out}/t.json",
        ),
        ("micro.h5", "micro.json", "set"),
        is_cheap=False,
    ),
    Recipe(
        "export",
        ("export", "--model", "{base}/micro.h5", *_MICRO, "--format", "onnx", "--out", "{out}"),
        ("micro.h5", "micro.json"),
        ("--force",),
        "names and sizes of the files, and the manifest",
        is_cheap=False,
    ),
    Recipe(
        "pretrain",
        (
            "pretrain",
            *_SET,
            *_MICRO,
            "--epochs",
            "2",
            "--steps",
            "2",
            "--batch",
            "4",
            "--out",
            "{out}",
            "--workers",
            "1",
        ),
        ("set", "micro.json"),
        ("--resume",),
        "weights and losses, number by number",
        is_cheap=False,
    ),
)
NOT_KILLED = {
    "demo": "it runs shapes, pretrain, train, calibrate and evaluate, which are here",
    "example": "it runs shapes and predict, which are here",
    "quantize": "needs nncf; it replaces its folder as export does",
    "app": "writes when it is asked to, by the functions of predict",
    "weights": "writes downloads alone, which tests/test_fetching.py stops",
}


def by_name(names: tuple[str, ...] = ()) -> list[Recipe]:
    """The recipes with these names, or all."""
    return [recipe for recipe in RECIPES if not names or recipe.name in names]


def contents(folder: Path) -> dict[str, Any]:
    """What is in a result, by the name of the file, so that two of equal results are equal."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and not any(part in name for part in _SKIPPED) and not LEFTOVER.fullmatch(path.name):
            found[name] = _content(path)
    return found


def _content(path: Path) -> Any:
    if path.suffix == ".h5":
        return _arrays(path)
    if path.suffix == ".onnx":
        return path.stat().st_size
    data = path.read_bytes()
    if path.suffix == ".json":
        return _plain(json.loads(data))
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


def _arrays(path: Path) -> dict[str, str]:
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
