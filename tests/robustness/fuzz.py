"""Fuzzing of readers: valid files, mutated in their values and in their bytes, for a bounded time.

Only InputError may come out. Each round is a forked process, so that a crash of a library is a finding, too.
"""

import dataclasses
import functools
import json
import os
import random
import shutil
import signal
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
from hypothesis import strategies as st

from . import base
from .corpus import formats, weights
from .corpus.formats import leaves, set_at

_ROUND = 40  # inputs of a process
_HANG = 90  # seconds of a round


@dataclasses.dataclass(frozen=True)
class Target:
    """A reader.

    Attributes:
        name: of what is read.
        make: writes a valid input below a folder and returns the file that is mutated.
        read: reads it, given the folder and that file.
        is_json: whether its values are mutated, and not only its bytes.
        needs: good inputs.
    """

    name: str
    make: Callable[[Path, Path], Path]
    read: Callable[[Path, Path], Any]
    is_json: bool = True
    needs: tuple[str, ...] = ()


# ---- readers ---------------------------------------------------------------------------------------------------------
def _set(folder: Path, root: Path) -> Path:
    base.write_set(folder / "set")
    return folder / "set" / "annotations" / "instances_val2017.json"


def _read_set(folder: Path, path: Path) -> None:
    from siamese_mrcnn_tf.data.annotations import load_annotations

    load_annotations(path)


def _export(kind: str, folder: Path, root: Path) -> Path:
    formats.write(kind, folder)
    return formats.first_file(kind, folder)


def _read_export(kind: str, folder: Path, path: Path) -> None:
    from siamese_mrcnn_tf.data.formats.convert import convert

    with tempfile.TemporaryDirectory() as other:
        paths, images = formats.write(kind, Path(other))
        given = [folder / one.relative_to(other) for one in paths]
        convert(given, images and folder / images.relative_to(other), folder / "out")


def _config(folder: Path, root: Path) -> Path:
    path = folder / "own.json"
    shutil.copy(root / "base" / "micro.json", path)
    return path


def _read_config(folder: Path, path: Path) -> None:
    from siamese_mrcnn_tf.config import load_config

    load_config(path).validate()


def _copied(good: str, name: str, folder: Path, root: Path) -> Path:
    shutil.copytree(root / "base" / good, folder / "own")
    return folder / "own" / name


def _read_records(folder: Path, path: Path) -> None:
    from siamese_mrcnn_tf.evaluation.records import read_records

    for _ in read_records(path.parent):
        pass


def _read_state(folder: Path, path: Path) -> None:
    from siamese_mrcnn_tf.training.checkpoints import CheckpointManager
    from siamese_mrcnn_tf.weights.runs import find_run_weights

    find_run_weights(path.parent)
    CheckpointManager(path.parent, None, keep=1).load_state()


def _threshold(folder: Path, root: Path) -> Path:
    import siamese_mrcnn_tf.shapes

    source = Path(siamese_mrcnn_tf.shapes.__file__).parent / "siamese_mrcnn_shapes_s1.threshold.json"
    shutil.copy(source, folder / "w.threshold.json")
    return folder / "w.threshold.json"


def _read_threshold(folder: Path, path: Path) -> None:
    from siamese_mrcnn_tf.weights.thresholds import read_thresholds

    read_thresholds(path)


def _weights(folder: Path, root: Path) -> Path:
    return weights.good(folder / "w.h5")


def _read_weights(folder: Path, path: Path) -> None:
    from siamese_mrcnn_tf.weights.loading import describe_weights

    describe_weights(path)


def _embedding(folder: Path, root: Path) -> Path:
    import numpy as np

    weights.npz(folder / "r.npz", vectors=np.ones((1, 5, 16), np.float32), name="bolt", threshold=0.5)
    return folder / "r.npz"


def _read_embedding(folder: Path, path: Path) -> None:
    from siamese_mrcnn_tf.data.embeddings import ReferenceEmbedding

    ReferenceEmbedding.load(path)


def _image(suffix: str, folder: Path, root: Path) -> Path:
    from .corpus.images import photo

    photo().save(folder / f"image.{suffix}")
    return folder / f"image.{suffix}"


def _read_image(folder: Path, path: Path) -> None:
    from siamese_mrcnn_tf.io.images import read_image

    read_image(path)


def targets() -> list[Target]:
    """All readers."""
    found = [
        Target("annotations", _set, _read_set),
        Target("settings", _config, _read_config, needs=("micro.json",)),
        Target(
            "records",
            functools.partial(_copied, "evaluation", "records-0001-of-0001.jsonl"),
            _read_records,
            False,
            ("evaluation",),
        ),
        Target(
            "settings of an evaluation",
            functools.partial(_copied, "evaluation", "settings.json"),
            _read_records,
            True,
            ("evaluation",),
        ),
        Target("state of a run", functools.partial(_copied, "run", "state.json"), _read_state, True, ("run",)),
        Target("thresholds", _threshold, _read_threshold),
        Target("weights", _weights, _read_weights, False),
        Target("embeddings", _embedding, _read_embedding, False),
    ]
    for kind in ("labelme", "cvat", "label_studio", "via2", "via2_table", "via3", "yolo", "supervisely", "coco"):
        make, read = functools.partial(_export, kind), functools.partial(_read_export, kind)
        found.append(Target(kind, make, read, kind not in ("cvat", "via2_table", "yolo")))
    found += [
        Target(f"{suffix} images", functools.partial(_image, suffix), _read_image, False)
        for suffix in ("png", "jpg", "tif", "gif", "webp", "bmp")
    ]
    return found


# ---- mutations -------------------------------------------------------------------------------------------------------
_NASTY = st.sampled_from(
    [
        None,
        "",
        "x",
        "\ud800",
        "a\0b",
        "../..",
        -1,
        0,
        2**31,
        2**63,
        -(2**63),
        int("9" * 400),
        1.5,
        1e308,
        True,
        [],
        {},
        [[]],
        "9" * 5000,
    ]
    + [float(word) for word in ("nan", "inf", "-inf")]
)
_JSON = st.recursive(
    _NASTY | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=8,
)


@st.composite
def changed_values(draw: Any, content: bytes) -> bytes:
    """A JSON document with one to three values changed."""
    document = json.loads(content)
    for _ in range(draw(st.integers(1, 3))):
        paths = list(leaves(document))
        if not paths:
            break
        path = draw(st.sampled_from(paths))
        try:
            set_at(document, path, draw(_JSON))
        except (TypeError, KeyError, IndexError):  # an earlier change has removed the place
            break
    return json.dumps(document).encode()


@st.composite
def changed_bytes(draw: Any, content: bytes) -> bytes:
    """Bytes with one to eight places changed, removed, repeated or cut off."""
    data = bytearray(content)
    for _ in range(draw(st.integers(1, 8))):
        place = draw(st.integers(0, max(len(data) - 1, 0)))
        kind = draw(st.sampled_from(("set", "flip", "remove", "repeat", "cut", "insert")))
        length = draw(st.integers(1, 16))
        if not data:
            break
        if kind == "set":
            data[place] = draw(st.sampled_from((0, 1, 127, 128, 255)))
        elif kind == "flip":
            data[place] ^= 1 << draw(st.integers(0, 7))
        elif kind == "remove":
            del data[place : place + length]
        elif kind == "repeat":
            data[place:place] = data[place : place + length]
        elif kind == "insert":
            data[place:place] = draw(st.binary(max_size=16))
        elif place > len(data) // 2:
            del data[place:]
    return bytes(data)


# ---- rounds ----------------------------------------------------------------------------------------------------------
def fuzz(target: Target, root: Path, seconds: float, seed: int) -> dict[str, Any]:
    """Mutate the input of a reader for a time: {inputs, seconds, and what came out that is no InputError}."""
    for need in target.needs:
        base.make(need, root)
    began, tried, found, number = time.monotonic(), 0, dict[str, str](), 0
    while time.monotonic() - began < seconds:
        round_seed = seed * 1_000_003 + number
        count, fault = _round(target, root, round_seed)
        tried, number = tried + count, number + 1
        if fault:
            found.setdefault(fault.partition(":")[0] + fault[-80:], f"round {round_seed}: {fault}")
        if len(found) >= 8:
            break
    return {
        "reader": target.name,
        "seed": seed,
        "inputs": tried,
        "seconds": round(time.monotonic() - began, 1),
        "wrong": list(found.values()),
    }


def _round(target: Target, root: Path, seed: int) -> tuple[int, str]:
    """(inputs tried, what was wrong) of a forked process."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz-", dir=root))
    pid = os.fork()
    if not pid:
        try:
            os.setsid()
            _tries(target, root, folder, seed)
        finally:
            os._exit(0)
    end, status = time.monotonic() + _HANG, None
    while status is None and time.monotonic() < end:
        done, found = os.waitpid(pid, os.WNOHANG)
        status = found if done else None
        time.sleep(0.005)
    fault = ""
    if status is None:
        os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        fault = f"hang: {_HANG} s"
    elif os.WIFSIGNALED(status):
        fault = f"death: signal {os.WTERMSIG(status)}"
    tried = (folder / "tried").stat().st_size if (folder / "tried").exists() else 0
    text = (folder / "fault").read_text(errors="replace") if (folder / "fault").exists() else fault
    shutil.rmtree(folder, ignore_errors=True)
    return tried, text


def _tries(target: Target, root: Path, folder: Path, seed: int) -> None:
    """Read mutated inputs; a byte for each goes to "tried", the first fault to "fault"."""
    import logging

    from siamese_mrcnn_tf.io.errors import InputError

    logging.disable(logging.CRITICAL)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1), os.dup2(null, 2)
    (folder / "good").mkdir()
    good = target.make(folder / "good", root)
    content, place = good.read_bytes(), good.relative_to(folder / "good")
    mutated = changed_bytes(content)
    if target.is_json and seed % 3:
        mutated = changed_values(content)
    tried = open(folder / "tried", "ab", buffering=0)

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=_ROUND,
        deadline=None,
        database=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
        verbosity=hypothesis.Verbosity.quiet,
    )
    @hypothesis.given(mutated)
    def read(data: bytes) -> None:
        tried.write(b".")
        work = folder / "work"
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(folder / "good", work)
        (work / place).write_bytes(data)
        try:
            target.read(work, work / place)
        except InputError:
            pass
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            text = f"{type(error).__name__}: {str(error)[:150]} ({Path(last.filename).name}, line {last.lineno})"
            (folder / "fault").write_text(text, errors="replace")
            raise

    try:
        read()
    except BaseException:
        pass


def shuffled(seed: int) -> list[Target]:
    """All readers, in an order that a seed decides."""
    found = targets()
    random.Random(seed).shuffle(found)
    return found
