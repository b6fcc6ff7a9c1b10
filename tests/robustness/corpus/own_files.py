"""Files that the program wrote itself, damaged: state.json, run.json, records, settings, journals, thresholds, exports."""

import functools
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..case import EITHER, ERROR, WORKS, Case
from .formats import leaves, set_at

DIGITS = int("7" * 400)
VALUES: dict[str, Any] = {
    "null": None,
    "text": "x",
    "negative": -1,
    "huge": 1e30,
    "nan": float("nan"),
    "digits": DIGITS,
    "list": [],
    "object": {},
    "true": True,
}
FILES: dict[str, bytes] = {
    "empty": b"",
    "cut": b'{"format": 1, "epoch"',
    "list": b"[]",
    "null": b"null",
    "number": b"5",
    "object": b"{}",
    "text": b"text",
    "not_utf8": b'{"a": "caf\xe9"}',
    "deep": b"[" * 100_000,
    "later_version": b'{"format": 99, "version": 99}',
}
_EVALUATE = ("evaluate", "--model", "random-boxes", "--dataset", "{base}/set", "--runs", "1", "--out", "own")
_PREDICT = ("predict", "--model", "{base}/exported", "--image", "{base}/scene.png", "--reference", "{base}/crop.png", "--quiet")
_PNEEDS = ("exported", "scene.png", "crop.png", "search")


def cases() -> Iterator[Case]:
    """All of this family."""
    yield from _runs()
    yield from _evaluations()
    yield from _records()
    yield from _searches()
    yield from _thresholds()
    yield from _exports()


def _copied(good: str, change: Callable[[Path], Any]) -> Callable[[Path], None]:
    """A copy of a good folder as "own", changed; the good one is beside the working folder's parent."""

    def make(folder: Path) -> None:
        source = folder.parents[1] / "base" / good
        if source.is_dir():
            shutil.copytree(source, folder / "own", symlinks=True)
        else:
            (folder / "own").mkdir()
            shutil.copy(source, folder / "own" / good)
        change(folder / "own")

    return make


def _written(name: str, content: bytes) -> Callable[[Path], Any]:
    return lambda own: (own / name).write_bytes(content)


def _json_changed(name: str, path: tuple, value: Any) -> Callable[[Path], Any]:
    def change(own: Path) -> None:
        content = json.loads((own / name).read_bytes())
        set_at(content, path, value)
        (own / name).write_text(json.dumps(content))

    return change


def _key_removed(name: str, key: str) -> Callable[[Path], Any]:
    def change(own: Path) -> None:
        content = json.loads((own / name).read_bytes())
        del content[key]
        (own / name).write_text(json.dumps(content))

    return change


def _files(family: str, good: str, name: str, words: tuple[str, ...], needs: tuple[str, ...], *, skip: tuple[str, ...] = ()) -> Iterator[Case]:
    """A file with the contents that none of the program's files has."""
    for label, content in FILES.items():
        if label not in skip:
            make = _copied(good, _written(name, content))
            yield Case(f"own_files/{family}/{name}/{label}", words, ERROR, (name,), make, needs, touches=("own",))


def _values(family: str, good: str, name: str, keys: dict[tuple, set[str]], words: tuple[str, ...], needs: tuple[str, ...]) -> Iterator[Case]:
    """Keys of a JSON file with values that they cannot have; `keys` gives those that they may have."""
    for path, allowed in keys.items():
        key = ".".join(map(str, path))
        for label, value in VALUES.items():
            if label in allowed:
                continue
            make = _copied(good, _json_changed(name, path, value))
            said = next(str(part) for part in reversed(path) if not isinstance(part, int))
            yield Case(f"own_files/{family}/{name}/{key}={label}", words, ERROR, (name, said), make, needs, touches=("own",))


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
    ("history", 0, "loss"): {"negative", "huge"},
    ("settings",): set(),
    ("settings", "seed"): set(),
    ("settings", "batch_size"): set(),
    ("weights",): set(),
}


def _runs() -> Iterator[Case]:
    resume = ("train", "--resume", "own", "--epochs", "3")
    needs = ("run", "set", "micro.json")
    for name in ("state.json", "run.json", "config.json"):
        yield from _files("resume", "run", name, resume, needs, skip=("object",) if name == "config.json" else ())
    yield from _values("resume", "run", "state.json", _STATE, resume, needs)
    yield from _values("resume", "run", "run.json", {("arguments",): set(), ("arguments", 0): set(), ("command",): {"text"}}, resume, needs)
    yield from _values("resume", "run", "config.json", {("IMAGE_MAX_DIM",): set(), ("BACKBONE_WIDTHS",): set(), ("NAME",): {"text"}}, resume, needs)
    for key in ("epoch", "step", "history", "settings", "weights", "stage"):
        make = _copied("run", _key_removed("state.json", key))
        expected = EITHER if key == "stage" else ERROR
        yield Case(f"own_files/resume/state.json/{key}_missing", resume, expected, ("state.json",), make, needs, touches=("own",))
    further: dict[str, tuple[Callable[[Path], Any], str]] = {
        "epoch_10_30": (_json_changed("state.json", ("epoch",), 10**30), "state.json"),
        "epoch_beyond_history": (_json_changed("state.json", ("epoch",), 500), "state.json"),
        "step_beyond_epoch": (_json_changed("state.json", ("step",), 10**6), "state.json"),
        "weights_away": (_json_changed("state.json", ("weights",), "../../../etc/passwd"), "state.json|passwd"),
        "weights_gone": (_json_changed("state.json", ("weights",), "gone.weights.h5"), "gone.weights.h5"),
        "weights_legacy": (_json_changed("state.json", ("weights",), "siamese_mrcnn_0002.h5"), "siamese_mrcnn_0002.h5"),
        "weights_empty": (_written("siamese_mrcnn_0002.weights.h5", b""), "siamese_mrcnn_0002.weights.h5"),
        "weights_text": (_written("siamese_mrcnn_0002.weights.h5", b"text" * 99), "siamese_mrcnn_0002.weights.h5"),
        "weights_cut": (_cut("siamese_mrcnn_0002.weights.h5"), "siamese_mrcnn_0002.weights.h5"),
        "weights_without_optimizer": (_without_optimizer, "siamese_mrcnn_0002.weights.h5"),
        "weights_nan": (_with_nan, "siamese_mrcnn_0002.weights.h5"),
        "unknown_key": (_json_changed("state.json", ("frob",), 1), "state.json"),
        "arguments_frob": (_json_changed("run.json", ("arguments",), ["train", "--frob"]), "run.json|--frob"),
        "arguments_command": (_json_changed("run.json", ("arguments",), ["shapes", "--out", "x"]), "run.json"),
        "arguments_recursive": (_json_changed("run.json", ("arguments",), ["train", "--resume", "own"]), "run.json"),
    }
    for name, (change, mention) in further.items():
        make = _copied("run", change)
        yield Case(f"own_files/resume/{name}", resume, ERROR, (mention,), make, needs, touches=("own",))
    words = ("weights", "own")
    for path, allowed in _STATE.items():
        if path[0] == "history":
            for label, value in VALUES.items():
                if label not in allowed:
                    make = _copied("run", _json_changed("state.json", path, value))
                    key = ".".join(map(str, path))
                    yield Case(f"own_files/weights/{key}={label}", words, EITHER, ("state.json",), make, ("run",))
    predict = ("predict", "--image", "{base}/scene.png", "--reference", "{base}/crop.png", "--out", "out", "--model", "own")
    for label, content in FILES.items():
        if label != "object":
            for name in ("state.json", "config.json"):
                make = _copied("run", _written(name, content))
                yield Case(f"own_files/predict/{name}/{label}", predict, ERROR, (name,), make, ("run", "scene.png", "crop.png"))


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


_SETTINGS: dict[tuple, set[str]] = {
    ("format",): set(),
    ("runs",): set(),
    ("shots",): set(),
    ("seed",): set(),
    ("categories",): set(),
    ("categories", 0): set(),
    ("categories", 0, "id"): set(),
    ("categories", 0, "name"): {"text"},
    ("images",): set(),
    ("images", 0): set(),
    ("fingerprint",): set(),
    ("config",): set(),
    ("model",): {"text"},
}


def _evaluations() -> Iterator[Case]:
    needs = ("set", "evaluation")
    uses = {"resume": (*_EVALUATE, "--resume"), "results": ("evaluate", "--results", "own", "--dataset", "{base}/set", "--model", "random-boxes", "--out", "out")}
    for use, words in uses.items():
        yield from _files(use, "evaluation", "settings.json", words, needs)
        yield from _values(use, "evaluation", "settings.json", _SETTINGS, words, needs)
    yield Case("own_files/evaluation/resume_finished", uses["resume"], WORKS, (), _copied("evaluation", lambda own: None), needs)


def _line_changed(number: int, change: Callable[[Any], Any]) -> Callable[[Path], Any]:
    def apply(own: Path) -> None:
        path = own / "records-0001-of-0001.jsonl"
        lines = path.read_bytes().splitlines()
        content = json.loads(lines[number])
        changed = change(content)
        lines[number] = json.dumps(content if changed is None else changed).encode()
        path.write_bytes(b"\n".join(lines) + b"\n")

    return apply


_RECORD: dict[tuple, set[str]] = {
    ("image_id",): set(),
    ("queries",): set(),
    ("queries", 0): set(),
    ("queries", 0, "run"): set(),
    ("queries", 0, "category_id"): set(),
    ("queries", 0, "references"): {"list"},
    ("queries", 0, "detections"): {"list"},
    ("queries", 0, "detections", 0): set(),
    ("queries", 0, "detections", 0, "image_id"): set(),
    ("queries", 0, "detections", 0, "category_id"): set(),
    ("queries", 0, "detections", 0, "bbox"): set(),
    ("queries", 0, "detections", 0, "score"): set(),
    ("queries", 0, "detections", 0, "segmentation"): set(),
    ("queries", 0, "detections", 0, "segmentation", "size"): set(),
    ("queries", 0, "detections", 0, "segmentation", "counts"): set(),
    ("seconds",): {"huge"},
}


def _records() -> Iterator[Case]:
    needs, name = ("set", "evaluation"), "records-0001-of-0001.jsonl"
    results = ("evaluate", "--results", "own", "--dataset", "{base}/set", "--model", "random-boxes", "--out", "out")
    resume = (*_EVALUATE, "--resume")
    for path, allowed in _RECORD.items():
        key = ".".join(map(str, path))
        for label, value in VALUES.items():
            if label in allowed:
                continue
            change = _line_changed(1, functools.partial(set_at, path=path, value=value))
            for use, words in (("results", results), ("resume", resume)):
                make = _copied("evaluation", change)
                yield Case(f"own_files/{use}/records/{key}={label}", words, ERROR, ("records",), make, needs, touches=("own",))
    further: dict[str, tuple[Callable[[Path], Any], str]] = {
        "query_removed": (_line_changed(1, lambda record: record["queries"].pop()), ERROR),
        "query_twice": (_line_changed(1, lambda record: record["queries"].append(record["queries"][0])), ERROR),
        "category_foreign": (_line_changed(1, lambda record: record["queries"][0].update(category_id=999)), ERROR),
        "image_foreign": (_line_changed(1, lambda record: record.update(image_id=999)), ERROR),
        "run_foreign": (_line_changed(1, lambda record: record["queries"][0].update(run=7)), ERROR),
        "header_other": (_line_changed(0, lambda record: record.update(fingerprint="0" * 64)), ERROR),
        "header_shard": (_line_changed(0, lambda record: record.update(shard=[2, 1])), ERROR),
        "header_null": (_line_changed(0, lambda record: [None]), ERROR),
        "line_list": (_line_changed(1, lambda record: []), ERROR),
        "line_number": (_line_changed(1, lambda record: 5), ERROR),
        "line_deep": (_appended(b"[" * 100_000 + b"\n"), ERROR),
        "line_not_utf8": (_appended(b'{"image_id": "\xe9"}\n'), ERROR),
        "line_nul": (_appended(bytes(300)), EITHER),
        "line_cut": (_appended(b'{"image_id": 5'), EITHER),
        "line_twice": (_doubled, ERROR),
        "all_empty": (_written(name, b""), EITHER),
        "all_text": (_written(name, b"text\n"), ERROR),
        "renamed": (lambda own: (own / name).rename(own / "records-0003-of-0002.jsonl"), ERROR),
        "gone": (lambda own: (own / name).unlink(), EITHER),
    }
    for label, (change, expected) in further.items():
        for use, words in (("results", results), ("resume", resume)):
            make = _copied("evaluation", change)
            mention = "records" if label != "gone" else "own"
            yield Case(f"own_files/{use}/records/{label}", words, expected, (mention,), make, needs, touches=("own",))
    good = _copied("evaluation", lambda own: None)
    yield Case("own_files/results/records/good", results, WORKS, (), good, needs)
    merge = ("evaluate", "--merge", "own", "--dataset", "{base}/set", "--model", "random-boxes", "--out", "out")
    for label in ("query_removed", "category_foreign", "line_list", "header_other"):
        make = _copied("evaluation", further[label][0])
        yield Case(f"own_files/merge/{label}", merge, ERROR, ("records",), make, needs)
    compare = ("evaluate", "--compare", "own", "{base}/evaluation")
    for name, content in (("analysis.json", b"[]"), ("settings.json", b"{}"), ("analysis.json", b"{"), ("scores.json", b"5")):
        make = _copied("evaluation", _written(name, content))
        yield Case(f"own_files/compare/{name}/{content.decode()}", compare, EITHER, (name,), make, needs)


def _appended(content: bytes) -> Callable[[Path], Any]:
    def change(own: Path) -> None:
        with open(own / "records-0001-of-0001.jsonl", "ab") as file:
            file.write(content)

    return change


def _doubled(own: Path) -> None:
    path = own / "records-0001-of-0001.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines, lines[1]]))


_ENTRY: dict[tuple, set[str]] = {
    ("result",): set(),
    ("size",): {"null"},
    ("result", "image_id"): set(),
    ("result", "name"): {"text"},
    ("result", "source"): {"text"},
    ("result", "height"): set(),
    ("result", "width"): set(),
    ("result", "finds"): set(),
    ("result", "finds", 0): set(),
    ("result", "finds", 0, "scores"): set(),
    ("result", "error"): {"null", "text"},
}


def _searches() -> Iterator[Case]:
    resume = (*_PREDICT, "--out", "own", "--resume")
    yield from _files("search", "search", "search.json", resume, _PNEEDS)
    keys = {("format",): set(), ("weights",): set(), ("categories",): set(), ("config",): set(), ("images",): set()}
    yield from _values("search", "search", "search.json", keys, resume, _PNEEDS)
    for path, allowed in _ENTRY.items():
        key = ".".join(map(str, path))
        for label, value in VALUES.items():
            if label in allowed:
                continue

            def change(own: Path, path: tuple = path, value: Any = value) -> None:
                lines = (own / "journal.jsonl").read_bytes().splitlines()
                content = json.loads(lines[0])
                set_at(content, path, value)
                (own / "journal.jsonl").write_bytes(b"\n".join([json.dumps(content).encode(), *lines[1:]]) + b"\n")

            make = _copied("search", change)
            yield Case(f"own_files/search/journal/{key}={label}", resume, EITHER, ("journal.jsonl",), make, _PNEEDS, touches=("own",))
    for label, content in (*FILES.items(), ("nul", bytes(100))):
        make = _copied("search", _written("journal.jsonl", content))
        yield Case(f"own_files/search/journal/{label}", resume, EITHER, ("journal.jsonl",), make, _PNEEDS, touches=("own",))
    yield Case("own_files/search/resume_finished", resume, WORKS, (), _copied("search", lambda own: None), _PNEEDS)


_THRESHOLD: dict[tuple, set[str]] = {
    ("format",): set(),
    ("threshold",): set(),
    ("weights_sha256",): set(),
    ("verification",): {"null"},
    ("metrics",): set(),
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

        make = _copied("crop.png", damage)
        yield Case(f"own_files/threshold/{label}", words, ERROR, ("w.threshold.json",), make, ("crop.png",))
    extra = {
        ("verification", key): set()
        for key in ("weights", "mean", "deviation", "similarity_weight", "score_weight", "bias", "center", "scale", "intercept")
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
            make = _copied("crop.png", change)
            yield Case(f"own_files/threshold/{key}={label}", words, expected, ("w.threshold.json",), make, ("crop.png",))


def _exports() -> Iterator[Case]:
    words = ("predict", "--model", "own", "--image", "{base}/scene.png", "--reference", "{base}/crop.png", "--out", "out")
    needs = ("exported", "scene.png", "crop.png")
    yield from _files("export", "exported", "export.json", words, needs)
    keys = {("format",): set(), ("config",): set(), ("weights_sha256",): {"null"}, ("files",): set(), ("formats",): set()}
    yield from _values("export", "exported", "export.json", keys, words, needs)

    def onnx(content: bytes | None) -> Callable[[Path], Any]:
        def change(own: Path) -> None:
            for path in (own / "onnx").iterdir():
                path.write_bytes(path.read_bytes()[:100] if content is None else content)

        return change

    for label, content in {"empty": b"", "text": b"text", "cut": None}.items():
        make = _copied("exported", onnx(content))
        yield Case(f"own_files/export/onnx/{label}", words, ERROR, ("onnx|own",), make, needs)
    make = _copied("exported", lambda own: shutil.rmtree(own / "onnx"))
    yield Case("own_files/export/onnx/gone", words, ERROR, ("onnx|own",), make, needs)
