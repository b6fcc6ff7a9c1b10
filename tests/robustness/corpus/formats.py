"""Annotations of other tools for `convert`: damaged texts and archives, and each key with values it cannot have."""

import functools
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import format_samples
import via_samples

from ..case import EITHER, ERROR, WORKS, Case

DIGITS = int("7" * 400)
_EVERY = 6  # of the product of keys and values, one of so many is tried
VALUES: dict[str, Any] = {
    "null": None,
    "text": "x",
    "negative": -1,
    "huge": 1e308,
    "nan": float("nan"),
    "digits": DIGITS,
    "list": [],
    "object": {},
    "surrogate": "\ud800",
}


def _via(form: str) -> Callable[[Path, Any], tuple[list[Path], Path]]:
    def write(root: Path, drawn: Any) -> tuple[list[Path], Path]:
        format_samples.write_images(root / "photos")
        images = {
            name: [via_samples.region(shape, kind="bolt") for shape in via_samples.SHAPES.values()]
            for name in format_samples.SUBSETS
        }
        return [via_samples.write(root / "via.json", images, form)], root / "photos"

    return write


def _masked(write: Callable) -> Callable:
    return functools.partial(write, masks=True)


WRITERS: dict[str, Callable[..., Any]] = {
    "labelme": format_samples.labelme,
    "labelme_masks": _masked(format_samples.labelme),
    "cvat": format_samples.cvat,
    "cvat_masks": _masked(format_samples.cvat),
    "label_studio": format_samples.label_studio,
    "label_studio_masks": _masked(format_samples.label_studio),
    "via1": _via("json1"),
    "via1_table": _via("csv1"),
    "via2": _via("json2"),
    "via2_project": _via("project2"),
    "via2_table": _via("csv2"),
    "via3": format_samples.via3,
    "voc": format_samples.voc,
    "yolo": format_samples.yolo,
    "supervisely": format_samples.supervisely,
    "supervisely_masks": _masked(format_samples.supervisely),
    "coco": format_samples.coco,
}
_SIMPLE = {"via1", "via1_table", "via2", "via2_project", "via2_table", "via3", "yolo"}  # no parts, no holes


def write(kind: str, root: Path) -> tuple[list[Path], Path | None]:
    """A good export of a tool below `root`: (annotations, image folder or None)."""
    simple = kind in _SIMPLE
    drawn = format_samples.objects(parts=not simple, holes=not simple)
    return WRITERS[kind](root, drawn)


def first_file(kind: str, root: Path) -> Path:
    """The annotation file of an export that is damaged."""
    found = {
        "labelme": "labelme/one.json",
        "labelme_masks": "labelme/one.json",
        "cvat": "annotations.xml",
        "cvat_masks": "annotations.xml",
        "label_studio": "project.json",
        "label_studio_masks": "project.json",
        "via1": "via.json",
        "via1_table": "via.csv",
        "via2": "via.json",
        "via2_project": "via.json",
        "via2_table": "via.csv",
        "via3": "via3.json",
        "voc": "voc/labelmap.txt",
        "yolo": "yolo/labels/train/one.txt",
        "supervisely": "supervisely/train/ann/one.png.json",
        "supervisely_masks": "supervisely/train/ann/one.png.json",
        "coco": "annotations/instances_default.json",
    }
    return root / found[kind]


def _words(kind: str) -> tuple[str, ...]:
    with tempfile.TemporaryDirectory() as folder:
        paths, images = write(kind, Path(folder))
        words = ["convert", *(str(path.relative_to(folder)) for path in paths), "--out", "out"]
        if images is not None:
            words += ["--images", str(images.relative_to(folder))]
    return tuple(words)


def _damaged(kind: str, damage: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        write(kind, folder)
        path = first_file(kind, folder)
        path.write_bytes(damage(path.read_bytes()))

    return make


_DAMAGES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda content: b"", EITHER),
    "half": (lambda content: content[: len(content) // 2], EITHER),
    "not_utf8": (lambda content: b"\xff\xfe\xe9" + content, ERROR),
    "nul_bytes": (lambda content: bytes(500), EITHER),
    "text": (lambda content: b"nothing of the kind\n" * 10, EITHER),
    "utf16": (lambda content: content.decode("utf-8").encode("utf-16"), EITHER),
    "deep": (lambda content: b"[" * 100_000, EITHER),
    "deep_objects": (lambda content: b'{"shapes":' * 50_000, EITHER),
    "doubled": (lambda content: content + content, EITHER),
    "long_line": (lambda content: content + b"," + b"9" * 1_000_000, EITHER),
}


def cases() -> Iterator[Case]:
    """All of this family."""
    for kind in WRITERS:
        words = _words(kind)
        stem = kind.partition("_masks")[0]
        name = first_file(kind, Path(".")).name
        make = functools.partial(write, kind)
        yield Case(f"formats/{kind}/good", words, WORKS, (), make, fault=_has_instances)
        if "masks" in kind:
            if stem != "cvat":
                yield from _values(kind, words, name)
            continue
        for damage, (change, expected) in _DAMAGES.items():
            mention = (name,) if kind not in ("voc", "yolo") else ()
            yield Case(f"formats/{kind}/{damage}", words, expected, mention, _damaged(kind, change))
        if stem not in ("cvat", "voc", "yolo") and "table" not in kind:
            yield from _values(kind, words, name)
    yield from _xml()
    yield from _yolo()
    yield from _tables()
    yield from _archives()


def _has_instances(folder: Path, output: str, minimum: int = 4) -> str | None:
    found = list((folder / "out" / "annotations").glob("*.json"))
    numbers = [len(json.loads(path.read_bytes())["annotations"]) for path in found]
    return None if sum(numbers) >= minimum else f"{sum(numbers)} instances"


def _has_train_instances(folder: Path, output: str) -> str | None:
    return _has_instances(folder, output, minimum=3)  # of the images of train, the subset that the file names


def leaves(content: Any, path: tuple = ()) -> Iterator[tuple]:
    """Paths to the values below a JSON document, the first for each sequence of keys."""
    if isinstance(content, dict):
        for key, value in content.items():
            yield (*path, key)
            yield from leaves(value, (*path, key))
    elif isinstance(content, list) and content:
        yield (*path, 0)
        yield from leaves(content[0], (*path, 0))


def set_at(content: Any, path: tuple, value: Any) -> None:
    """Set the value at a path of a JSON document."""
    for key in path[:-1]:
        content = content[key]
    content[path[-1]] = value


def _values(kind: str, words: tuple[str, ...], name: str) -> Iterator[Case]:
    """Every key of a JSON export with every value: it is not used, or refused with the name of the file."""
    with tempfile.TemporaryDirectory() as folder:
        write(kind, Path(folder))
        content = json.loads(first_file(kind, Path(folder)).read_bytes())
    seen = set()
    for path in leaves(content):
        key = ".".join("0" if part == 0 else str(part) for part in path)[-60:]
        if key in seen:
            continue
        seen.add(key)
        for number, (label, value) in enumerate(VALUES.items()):
            if (len(seen) + number) % _EVERY:
                continue

            def make(folder: Path, path: tuple = path, value: Any = value) -> None:
                write(kind, folder)
                file = first_file(kind, folder)
                content = json.loads(file.read_bytes())
                set_at(content, path, value)
                file.write_text(json.dumps(content))

            mention = f"{name}|{'.'.join(name.split('.')[:1])}|out"
            yield Case(f"formats/{kind}/{key}={label}", words, EITHER, (mention,), make)


def _xml() -> Iterator[Case]:
    words = _words("cvat")

    def text(content: str) -> Callable[[Path], None]:
        def make(folder: Path) -> None:
            write("cvat", folder)
            (folder / "annotations.xml").write_text(content, encoding="utf-8")

        return make

    def changed(old: str, new: str) -> Callable[[Path], None]:
        def make(folder: Path) -> None:
            write("cvat", folder)
            path = folder / "annotations.xml"
            found = path.read_text(encoding="utf-8")
            if old not in found:
                raise AssertionError(f"{old!r} is not in the sample")
            path.write_text(found.replace(old, new, 1), encoding="utf-8")

        return make

    laughs = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10 if n else "ha" * 10}">' for n in range(10))
    outside = '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>'
    yield Case(
        "formats/xml/laughs",
        words,
        ERROR,
        ("annotations.xml",),
        text(f"<!DOCTYPE a [{laughs}]><annotations>&l9;</annotations>"),
    )
    yield Case(
        "formats/xml/external_entity",
        words,
        ERROR,
        ("annotations.xml",),
        text(f"{outside}<annotations>&x;</annotations>"),
    )
    yield Case("formats/xml/deep", words, ERROR, ("annotations.xml",), text("<annotations>" + "<a>" * 100_000))
    yield Case("formats/xml/no_images", words, ERROR, ("annotations.xml",), text("<annotations></annotations>"))
    yield Case("formats/xml/other_root", words, ERROR, ("annotations.xml",), text("<html></html>"))
    sizes = ("0", "-5", "x", "", "1e400", "NaN", "9" * 400, "65536", "2147483648")
    for value in sizes:
        label = value[:12] or "empty"
        yield Case(
            f"formats/xml/width={label}",
            words,
            ERROR,
            ("annotations.xml|one.png",),
            changed('width="160"', f'width="{value}"'),
        )
    points = (
        "",
        "x",
        "1,2",
        "1,2;3",
        "nan,nan;1,1;2,2",
        "1e308,1;2,2;3,3",
        "1,2;3,4;5,6,7",
        "9" * 400 + ",1;2,2;3,3",
        ";;;",
    )
    for number, value in enumerate(points):
        make = changed('points="20.00,20.00;60.00,20.00;60.00,60.00;40.00,30.00;20.00,60.00"', f'points="{value}"')
        yield Case(f"formats/xml/points_{number}", words, ERROR, ("annotations.xml",), make)
    masked = _words("cvat_masks")
    for number, (key, value) in enumerate(
        [(k, v) for k in ("left", "top", "width", "height") for v in ("-9", "x", "1e9", "99999999", "")]
    ):

        def make(folder: Path, key: str = key, value: str = value) -> None:
            import re

            write("cvat_masks", folder)
            path = folder / "annotations.xml"
            start, mask, rest = path.read_text(encoding="utf-8").partition("<mask")
            path.write_text(start + mask + re.sub(rf'{key}="\d+"', f'{key}="{value}"', rest, count=1), encoding="utf-8")

        is_clipped = value == "-9" and key in ("left", "top")  # the mask reaches out of its image
        expected, fault = (WORKS, _tells_of_clipping) if is_clipped else (ERROR, None)
        yield Case(f"formats/xml/mask_{number}_{key}", masked, expected, ("annotations.xml",), make, fault=fault)


def _tells_of_clipping(folder: Path, output: str) -> str | None:
    return None if "clipped" in output else "no word of the part outside the image"


def _yolo() -> Iterator[Case]:
    words = _words("yolo")
    lines = {
        "class_text": "bolt 0.1 0.1 0.5 0.1 0.5 0.5",
        "class_negative": "-1 0.1 0.1 0.5 0.1 0.5 0.5",
        "class_unknown": "99 0.1 0.1 0.5 0.1 0.5 0.5",
        "class_digits": "9" * 400 + " 0.1 0.1 0.5 0.1 0.5 0.5",
        "class_fraction": "0.5 0.1 0.1 0.5 0.1 0.5 0.5",
        "nan": "0 nan 0.1 0.5 0.1 0.5 0.5",
        "infinite": "0 inf 0.1 0.5 0.1 0.5 0.5",
        "far": "0 1e308 0.1 0.5 0.1 0.5 0.5",
        "odd": "0 0.1 0.1 0.5 0.1 0.5",
        "two": "0 0.1 0.1",
        "text": "0 a b c d e f",
    }
    for name, line in lines.items():
        make = _damaged("yolo", lambda content, line=line: line.encode())
        yield Case(f"formats/yolo/line_{name}", words, ERROR, ("one.txt",), make)
    heads = {
        "python_tag": "names: !!python/object/apply:os.system ['true']\n",
        "laughs": "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}' if n else 'ha'] * 9)}]\n" for n in range(9))
        + "names: *a8\n",
        "cut": "names: [a, b\n",
        "list": "- a\n- b\n",
        "no_names": "train: images/train\n",
        "names_null": "train: images/train\nnames: null\n",
        "names_number": "train: images/train\nnames: 3\n",
        "names_gap": "train: images/train\nnames: {0: a, 5: b}\n",
        "names_digits": f"train: images/train\nnames: {{{'9' * 400}: a}}\n",
        "path_away": "path: /etc\ntrain: images/train\nnames: [a, b, c]\n",
        "train_number": "path: .\ntrain: 5\nnames: [a, b, c]\n",
        "train_away": "path: .\ntrain: ../../../../etc\nnames: [a, b, c]\n",
        "deep": "a: " + "[" * 20_000,
        "nul": "names: [\0]\n",
        "not_utf8": None,
        "loop": "names: &a [*a]\ntrain: images/train\n",
    }
    for name, text in heads.items():

        def make(folder: Path, text: str | None = text) -> None:
            write("yolo", folder)
            content = b"names: [caf\xe9]\n" if text is None else text.encode()
            (folder / "yolo" / "data.yaml").write_bytes(content)

        # folders that are not there, as in a file of another machine: those beside the file are taken
        expected = {"path_away": WORKS, "train_away": EITHER}.get(name, ERROR)
        fault = _has_train_instances if expected != ERROR else None
        yield Case(f"formats/yolo/yaml_{name}", words, expected, ("data.yaml|yolo",), make, fault=fault)


def _tables() -> Iterator[Case]:
    words = _words("via2_table")
    head = via_samples.CSV_HEADER
    shape = '"{""name"":""rect"",""x"":1,""y"":2,""width"":30,""height"":20}"'
    rows = {
        "long_field": f'one.png,1,"{{}}",1,0,{shape},"{{""kind"":""{"b" * 200_000}""}}"',
        "long_points": 'one.png,1,"{}",1,0,"{""name"":""polygon"",""all_points_x"":['
        + "1," * 90_000
        + '1],""all_points_y"":[1]}","{}"',
        "open_quote": 'one.png,1,"{}",1,0,"{',
        "no_json": 'one.png,1,"{}",1,0,"nothing","{}"',
        "few_columns": "one.png,1",
        "deep": f'one.png,1,"{{}}",1,0,"{"[" * 50_000}","{{}}"',
        "nul": "one\0.png,1",
        "number": 'one.png,1,"{}",1,0,"5","{}"',
    }
    for name, row in rows.items():
        make = _damaged("via2_table", lambda content, row=row: f"{head}\n{row}\n".encode())
        expected = EITHER if name == "long_field" else ERROR
        yield Case(f"formats/table/{name}", words, expected, ("via.csv",), make)


def _archives() -> Iterator[Case]:
    for suffix in (".zip", ".tar", ".gz", ".txt", ".csv", ".xml", ".json", ".yaml", ".parquet"):
        name = f"given{suffix}"
        make = lambda folder, name=name: (folder / name).write_bytes(b"PK\x03\x04" + bytes(30))  # noqa: E731
        yield Case(f"formats/other/{name}", ("convert", name, "--out", "out"), ERROR, (name,), make)
    make = lambda folder: (folder / "empty").mkdir()  # noqa: E731
    yield Case("formats/other/empty_folder", ("convert", "empty", "--out", "out"), ERROR, ("empty",), make)
    yield Case("formats/other/missing", ("convert", "gone", "--out", "out"), ERROR, ("gone",))
    words = ("convert", "fifo.json", "--out", "out")
    import os

    yield Case("formats/other/fifo", words, ERROR, ("fifo.json",), lambda folder: os.mkfifo(folder / "fifo.json"))
