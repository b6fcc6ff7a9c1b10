"""Files that the program wrote itself, damaged: state.json, run.json, thresholds, exports; and own_records.py."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..case import EITHER, ERROR, Case
from . import own_records
from .damage import FILES, VALUES, copied, files, json_changed, key_removed, values, written
from .formats import set_at


def cases() -> Iterator[Case]:
    """All of this family."""
    yield from _runs()
    yield from own_records.cases()
    yield from _thresholds()
    yield from _exports()


_STATE: dict[tuple, set[str]] = {
    ("epoch",): set(),
    ("step",): set(),
    ("stage",): {"null"},
    ("stage", "index"): set(),
    ("stage", "layers"): set(),
    ("stage", "learning_rate"): set(),
    ("metrics",): {"object"},
    ("history",): set(),
    ("history", 0): set(),
    ("history", 0, "epoch"): set(),
    ("history", 0, "loss"): {"negative", "huge", "null"},  # null: not measured
    ("settings",): set(),
    ("settings", "seed"): set(),
    ("settings", "batch_size"): set(),
    ("weights",): set(),
}


def _runs() -> Iterator[Case]:
    resume = ("train", "--resume", "own", "--epochs", "3")
    needs = ("run", "set", "micro.json")
    for name in ("state.json", "run.json", "config.json"):
        yield from files("resume", "run", name, resume, needs, skip=("object",) if name == "config.json" else ())
    yield from values("resume", "run", "state.json", _STATE, resume, needs)
    yield from values(
        "resume",
        "run",
        "run.json",
        {("arguments",): set(), ("arguments", 0): set(), ("command",): {"text"}},
        resume,
        needs,
    )
    yield from values(
        "resume",
        "run",
        "config.json",
        {("IMAGE_MAX_DIM",): set(), ("BACKBONE_WIDTHS",): set(), ("NAME",): {"text"}},
        resume,
        needs,
    )
    for key in ("epoch", "step", "history", "settings", "weights", "stage"):
        make = copied("run", key_removed("state.json", key))
        expected = EITHER if key == "stage" else ERROR
        yield Case(
            f"own_files/resume/state.json/{key}_missing",
            resume,
            expected,
            ("state.json",),
            make,
            needs,
            touches=("own",),
        )
    further: dict[str, tuple[Callable[[Path], Any], str]] = {
        "epoch_10_30": (json_changed("state.json", ("epoch",), 10**30), "state.json"),
        "epoch_beyond_history": (json_changed("state.json", ("epoch",), 500), "state.json"),
        "step_beyond_epoch": (json_changed("state.json", ("step",), 10**6), "state.json"),
        "weights_away": (json_changed("state.json", ("weights",), "../../../etc/passwd"), "state.json|passwd"),
        "weights_gone": (json_changed("state.json", ("weights",), "gone.weights.h5"), "gone.weights.h5"),
        "weights_legacy": (json_changed("state.json", ("weights",), "siamese_mrcnn_0002.h5"), "siamese_mrcnn_0002.h5"),
        "weights_empty": (written("siamese_mrcnn_0002.weights.h5", b""), "siamese_mrcnn_0002.weights.h5"),
        "weights_text": (written("siamese_mrcnn_0002.weights.h5", b"text" * 99), "siamese_mrcnn_0002.weights.h5"),
        "weights_cut": (_cut("siamese_mrcnn_0002.weights.h5"), "siamese_mrcnn_0002.weights.h5"),
        "weights_without_optimizer": (_without_optimizer, "siamese_mrcnn_0002.weights.h5"),
        "weights_nan": (_with_nan, "siamese_mrcnn_0002.weights.h5"),
        "unknown_key": (json_changed("state.json", ("frob",), 1), "state.json"),
        "arguments_frob": (json_changed("run.json", ("arguments",), ["train", "--frob"]), "run.json|--frob"),
        "arguments_command": (json_changed("run.json", ("arguments",), ["shapes", "--out", "x"]), "run.json"),
        "arguments_recursive": (json_changed("run.json", ("arguments",), ["train", "--resume", "own"]), "run.json"),
    }
    for name, (change, mention) in further.items():
        make = copied("run", change)
        yield Case(f"own_files/resume/{name}", resume, ERROR, (mention,), make, needs, touches=("own",))
    words = ("weights", "own")
    for path, allowed in _STATE.items():
        if path[0] == "history":
            for label, value in VALUES.items():
                if label not in allowed:
                    make = copied("run", json_changed("state.json", path, value))
                    key = ".".join(map(str, path))
                    yield Case(f"own_files/weights/{key}={label}", words, EITHER, ("state.json",), make, ("run",))
    predict = (
        "predict",
        "--image",
        "{base}/scene.png",
        "--reference",
        "{base}/crop.png",
        "--out",
        "out",
        "--model",
        "own",
    )
    for label, content in FILES.items():
        if label != "object":
            for name in ("state.json", "config.json"):
                make = copied("run", written(name, content))
                yield Case(
                    f"own_files/predict/{name}/{label}", predict, ERROR, (name,), make, ("run", "scene.png", "crop.png")
                )


def _cut(name: str) -> Callable[[Path], Any]:
    def change(own: Path) -> None:
        content = (own / name).read_bytes()
        (own / name).write_bytes(content[: len(content) // 2])

    return change


def _without_optimizer(own: Path) -> None:
    import h5py

    with h5py.File(own / "siamese_mrcnn_0002.weights.h5", "r+") as file:
        del file["optimizer"]


def _with_nan(own: Path) -> None:
    import h5py
    import numpy as np

    done: list[str] = []

    def fill(name: str, item: Any) -> None:
        if not done and isinstance(item, h5py.Dataset) and item.ndim == 4:
            item[...] = np.nan
            done.append(name)

    with h5py.File(own / "siamese_mrcnn_0002.weights.h5", "r+") as file:
        file.visititems(fill)


_THRESHOLD: dict[tuple, set[str]] = {
    ("format",): set(),
    ("threshold",): set(),
    ("weights_sha256",): set(),
    ("verification",): {"null"},
    ("metrics",): {"object"},
    ("about",): set(),
    ("verification", "views"): set(),
}


def _bundled(own: Path) -> None:
    import siamese_mrcnn_tf.shapes

    source = Path(siamese_mrcnn_tf.shapes.__file__).parent
    for suffix in (".h5", ".threshold.json"):
        shutil.copy(source / f"siamese_mrcnn_shapes_s1{suffix}", own / f"w{suffix}")


def _thresholds() -> Iterator[Case]:
    words = ("weights", "own/w.h5")
    for label, content in FILES.items():

        def damage(own: Path, content: bytes = content) -> None:
            _bundled(own)
            (own / "w.threshold.json").write_bytes(content)

        make = copied("crop.png", damage)
        yield Case(f"own_files/threshold/{label}", words, ERROR, ("w.threshold.json",), make, ("crop.png",))
    extra: dict[tuple, set[str]] = {
        ("verification", key): {"negative"} if key == "scale" else set()  # a fit may turn the order of scores
        for key in (
            "weights",
            "mean",
            "deviation",
            "similarity_weight",
            "score_weight",
            "bias",
            "center",
            "scale",
            "intercept",
        )
    }
    for path, allowed in {**_THRESHOLD, **extra}.items():
        for label, value in VALUES.items():
            if label in allowed:
                continue

            def change(own: Path, path: tuple = path, value: Any = value) -> None:
                _bundled(own)
                content = json.loads((own / "w.threshold.json").read_bytes())
                if path[-1] in (content.get("verification") or {}) or len(path) == 1:
                    set_at(content, path, value)
                else:
                    content["verification"] = value
                (own / "w.threshold.json").write_text(json.dumps(content))

            key = ".".join(path)
            expected = EITHER if path == ("about",) or label in ("true", "null") else ERROR
            make = copied("crop.png", change)
            yield Case(
                f"own_files/threshold/{key}={label}", words, expected, ("w.threshold.json",), make, ("crop.png",)
            )


def _exports() -> Iterator[Case]:
    words = (
        "predict",
        "--model",
        "own",
        "--image",
        "{base}/scene.png",
        "--reference",
        "{base}/crop.png",
        "--out",
        "out",
    )
    needs = ("exported", "scene.png", "crop.png")
    yield from files("export", "exported", "export.json", words, needs)
    keys = {
        ("format",): set(),
        ("config",): set(),
        ("weights_sha256",): {"null"},
        ("files",): set(),
        ("formats",): set(),
    }
    yield from values("export", "exported", "export.json", keys, words, needs)

    def onnx(content: bytes | None) -> Callable[[Path], Any]:
        def change(own: Path) -> None:
            for path in (own / "onnx").iterdir():
                path.write_bytes(path.read_bytes()[:100] if content is None else content)

        return change

    for label, content in {"empty": b"", "text": b"text", "cut": None}.items():
        make = copied("exported", onnx(content))
        yield Case(f"own_files/export/onnx/{label}", words, ERROR, ("onnx|own",), make, needs)
    make = copied("exported", lambda own: shutil.rmtree(own / "onnx"))
    yield Case("own_files/export/onnx/gone", words, ERROR, ("onnx|own",), make, needs)
