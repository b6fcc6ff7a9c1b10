"""What evaluations and searches wrote, damaged: records, settings, journals."""

import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..case import EITHER, ERROR, WORKS, Case
from .damage import FILES, VALUES, copied, files, values, written
from .formats import set_at

_EVALUATE = ("evaluate", "--model", "random-boxes", "--dataset", "{base}/set", "--runs", "1", "--out", "own")
_PREDICT = (
    "predict",
    "--model",
    "{base}/exported",
    "--image",
    "{base}/scene.png",
    "--reference",
    "{base}/crop.png",
    "--quiet",
)
_PNEEDS = ("exported", "scene.png", "crop.png", "search")


def cases() -> Iterator[Case]:
    """All of them."""
    yield from _evaluations()
    yield from _records()
    yield from _searches()


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
    uses = {
        "resume": (*_EVALUATE, "--resume"),
        "results": (
            "evaluate",
            "--results",
            "own",
            "--dataset",
            "{base}/set",
            "--model",
            "random-boxes",
            "--out",
            "out",
        ),
    }
    for use, words in uses.items():
        yield from files(use, "evaluation", "settings.json", words, needs)
        yield from values(use, "evaluation", "settings.json", _SETTINGS, words, needs)
    yield Case(
        "own_files/evaluation/resume_finished",
        uses["resume"],
        WORKS,
        (),
        copied("evaluation", lambda own: None),
        needs,
    )


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
                make = copied("evaluation", change)
                yield Case(
                    f"own_files/{use}/records/{key}={label}",
                    words,
                    ERROR,
                    ("records|own:",),
                    make,
                    needs,
                    touches=("own",),
                )
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
        "all_empty": (written(name, b""), EITHER),
        "all_text": (written(name, b"text\n"), ERROR),
        "renamed": (lambda own: (own / name).rename(own / "records-0003-of-0002.jsonl"), ERROR),
        "gone": (lambda own: (own / name).unlink(), EITHER),
    }
    for label, (change, expected) in further.items():
        for use, words in (("results", results), ("resume", resume)):
            make = copied("evaluation", change)
            mention = "records|own:" if label != "gone" else "own"
            yield Case(f"own_files/{use}/records/{label}", words, expected, (mention,), make, needs, touches=("own",))
    good = copied("evaluation", lambda own: None)
    yield Case("own_files/results/records/good", results, WORKS, (), good, needs)
    merge = ("evaluate", "--merge", "own", "--dataset", "{base}/set", "--model", "random-boxes", "--out", "out")
    for label in ("query_removed", "category_foreign", "line_list", "header_other"):
        make = copied("evaluation", further[label][0])
        yield Case(f"own_files/merge/{label}", merge, ERROR, ("records",), make, needs)
    compare = ("evaluate", "--compare", "own", "{base}/evaluation")
    for name, content in (
        ("analysis.json", b"[]"),
        ("settings.json", b"{}"),
        ("analysis.json", b"{"),
        ("scores.json", b"5"),
    ):
        make = copied("evaluation", written(name, content))
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
    yield from files("search", "search", "search.json", resume, _PNEEDS)
    keys = {("format",): set(), ("weights",): set(), ("categories",): set(), ("config",): set(), ("images",): set()}
    yield from values("search", "search", "search.json", keys, resume, _PNEEDS)
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

            make = copied("search", change)
            yield Case(
                f"own_files/search/journal/{key}={label}",
                resume,
                EITHER,
                ("journal.jsonl",),
                make,
                _PNEEDS,
                touches=("own",),
            )
    for label, content in (*FILES.items(), ("nul", bytes(100))):
        make = copied("search", written("journal.jsonl", content))
        yield Case(
            f"own_files/search/journal/{label}", resume, EITHER, ("journal.jsonl",), make, _PNEEDS, touches=("own",)
        )
    yield Case("own_files/search/resume_finished", resume, WORKS, (), copied("search", lambda own: None), _PNEEDS)
