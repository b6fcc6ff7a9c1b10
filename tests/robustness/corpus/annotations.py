"""COCO annotation files: every key with values that it cannot have, masks, sizes, ids, names; three readers."""

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import coco_tree

from ..case import EITHER, ERROR, FINDS, WORKS, Case

Change = Callable[[dict], object]
_CHECK = ("check", "--dataset", "set", "--subset", "val", "--samples", "0", "--out", "drawn")
_EVALUATE = ("evaluate", "--model", "random-boxes", "--dataset", "set", "--runs", "1", "--out", "out")
_TRAIN = ("train", "--config", "{base}/micro.json", "--model", "untrained", "--stages", "shapes", "--epochs", "1")
_CONVERT = ("convert", "set/annotations/instances_val2017.json", "--images", "set/val2017", "--out", "out")
DIGITS = int("7" * 400)
_VALUES: dict[str, Any] = {
    "null": None,
    "text": "three",
    "digits_as_text": "3",
    "nan": float("nan"),
    "infinite": float("-inf"),
    "negative": -7,
    "fraction": 1.5,
    "digits": DIGITS,
    "list": [],
    "object": {},
    "true": True,
    "surrogate": "\ud800",
}
_KEYS: dict[tuple[str, str], set[str]] = {  # and the values that they may have
    ("images", "id"): set(),
    ("images", "height"): set(),
    ("images", "width"): set(),
    ("images", "file_name"): {"text", "digits_as_text"},
    ("annotations", "id"): set(),
    ("annotations", "image_id"): set(),
    ("annotations", "category_id"): set(),
    ("annotations", "iscrowd"): {"true"},
    ("annotations", "bbox"): set(),
    ("annotations", "area"): {"fraction"},
    ("annotations", "segmentation"): {"list"},
    ("categories", "id"): set(),
    ("categories", "name"): {"text", "digits_as_text"},
}
_MISSING_IS_FINE = {"area", "iscrowd", "bbox", "segmentation"}


def _changed(change: Change) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        content = coco_tree.write_tree(folder / "set")
        change(content)
        coco_tree.write_annotations(folder / "set", content)

    return make


def _raw(content: bytes) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        coco_tree.write_tree(folder / "set")
        (folder / "set" / "annotations" / "instances_val2017.json").write_bytes(content)

    return make


def _readers(name: str, change: Change, mentions: tuple[str, ...], *, raw: bytes | None = None) -> Iterator[Case]:
    """A wrong file for `check`, `evaluate`, `train` and `convert`."""
    make = _changed(change) if raw is None else _raw(raw)
    yield Case(f"annotations/check/{name}", _CHECK, FINDS, mentions, make)
    mentions = ("instances_val2017.json", *mentions)
    yield Case(f"annotations/evaluate/{name}", _EVALUATE, ERROR, mentions, make)
    yield Case(f"annotations/convert/{name}", _CONVERT, ERROR, mentions, make)


def _set(section: str, key: str, value: Any, index: int = 0) -> Change:
    return lambda content: content[section][index].__setitem__(key, copy.deepcopy(value))


def cases() -> Iterator[Case]:
    """All of this family."""
    for (section, key), allowed in _KEYS.items():
        for label, value in _VALUES.items():
            if label not in allowed:
                yield from _readers(f"{section}.{key}={label}", _set(section, key, value), (key,))
        if key not in _MISSING_IS_FINE:
            drop = lambda content, section=section, key=key: content[section][0].pop(key)  # noqa: E731
            yield from _readers(f"{section}.{key}_missing", drop, (key,))
    for name, (change, key) in _masks().items():
        yield from _readers(f"mask/{name}", change, (key,))
    make = _changed(_set("annotations", "bbox", [5, 5, -20, 20]))  # repaired: the mask's box is used
    yield Case("annotations/check/mask/box_negative", _CHECK, FINDS, ("contradict their masks",), make)
    yield Case("annotations/evaluate/mask/box_negative", _EVALUATE, WORKS, (), make, fault=_tells_of_boxes)
    yield Case("annotations/convert/mask/box_negative", _CONVERT, WORKS, (), make, fault=_keeps_the_box)
    for name, (change, words) in _sizes().items():
        yield from _readers(f"size/{name}", change, words)
    for name, content in _files().items():
        yield from _readers(f"file/{name}", lambda content: None, ("instances_val2017.json",), raw=content)
    yield from _structure()
    yield from _names()
    yield from _training()


def _tells_of_boxes(folder: Path, output: str) -> str | None:
    return None if "boxes that contradict their masks" in output else "no word of the wrong box"


def _keeps_the_box(folder: Path, output: str) -> str | None:
    """A COCO file is taken over as it is: who reads the copy is told."""
    content = json.loads((folder / "out" / "annotations" / "instances_val2017.json").read_bytes())
    boxes = [annotation["bbox"] for annotation in content["annotations"]]
    return None if [5, 5, -20, 20] in boxes else f"other boxes: {boxes[:3]}"


def _masks() -> dict[str, tuple[Change, str]]:
    def polygons(value: Any) -> tuple[Change, str]:
        return _set("annotations", "segmentation", value), "segmentation"

    def rle(value: Any) -> tuple[Change, str]:
        return _set("annotations", "segmentation", value, 1), "segmentation"

    def box(value: Any) -> tuple[Change, str]:
        return _set("annotations", "bbox", value), "bbox"

    size = list(coco_tree.SIZE)
    square = [5.0, 5.0, 20.0, 5.0, 20.0, 20.0]
    return {
        "polygon_of_null": polygons([[None] * 6]),
        "polygon_of_text": polygons([["5", "5", "20", "5", "20", "20"]]),
        "polygon_of_nan": polygons([[*square[:5], float("nan")]]),
        "polygon_infinite": polygons([[*square[:5], float("inf")]]),
        "polygon_far": polygons([[*square[:5], 1e300]]),
        "polygon_1e7": polygons([[*square[:5], 1e7]]),
        "polygon_digits": polygons([[*square[:5], DIGITS]]),
        "polygon_odd": polygons([square[:5]]),
        "polygon_of_lists": polygons([[[[1, 2]], [[3, 4]], [[5, 6]]]]),
        "polygon_of_objects": polygons([[{}] * 6]),
        "polygon_true": polygons([[True] * 6]),
        "polygon_text": polygons(["1,2,3,4,5,6"]),
        "polygons_null": polygons([None]),
        "polygons_number": polygons([5]),
        "polygon_surrogate": polygons([["\ud800"] * 6]),
        "rle_no_counts": rle({"size": size}),
        "rle_no_size": rle({"counts": [96 * 128]}),
        "rle_size_null": rle({"size": None, "counts": [96 * 128]}),
        "rle_size_text": rle({"size": "96x128", "counts": [96 * 128]}),
        "rle_size_three": rle({"size": [96, 128, 3], "counts": [96 * 128 * 3]}),
        "rle_size_other": rle({"size": [128, 96], "counts": [96 * 128]}),
        "rle_size_negative": rle({"size": [-96, -128], "counts": [96 * 128]}),
        "rle_counts_null": rle({"size": size, "counts": None}),
        "rle_counts_number": rle({"size": size, "counts": 5}),
        "rle_counts_empty": rle({"size": size, "counts": []}),
        "rle_counts_short": rle({"size": size, "counts": [5, 5]}),
        "rle_counts_long": rle({"size": size, "counts": [5, 10**6]}),
        "rle_counts_negative": rle({"size": size, "counts": [96 * 128 + 5, -5]}),
        "rle_counts_nan": rle({"size": size, "counts": [float("nan"), 5]}),
        "rle_counts_null_in": rle({"size": size, "counts": [None, 96 * 128]}),
        "rle_counts_text_in": rle({"size": size, "counts": ["5", 96 * 128 - 5]}),
        "rle_counts_digits": rle({"size": size, "counts": [DIGITS]}),
        "rle_counts_fraction": rle({"size": size, "counts": [0.5, 96 * 128 - 0.5]}),
        "rle_text_empty": rle({"size": size, "counts": ""}),
        "rle_text_garbage": rle({"size": size, "counts": "not a mask at all"}),
        "rle_text_cut": rle({"size": size, "counts": "`"}),
        "rle_text_unending": rle({"size": size, "counts": "o" * 5000}),
        "rle_text_not_ascii": rle({"size": size, "counts": "Käfer\u2603"}),
        "rle_text_surrogate": rle({"size": size, "counts": "\ud800"}),
        "rle_text_nul": rle({"size": size, "counts": "\0" * 9}),
        "box_short": box([1, 2, 3]),
        "box_long": box([1, 2, 3, 4, 5]),
        "box_nan": box([5, 5, float("nan"), 20]),
        "box_infinite": box([5, 5, float("inf"), 20]),
        "box_null": box([5, 5, None, 20]),
        "box_text": box(["5", "5", "9", "9"]),
        "box_digits": box([5, 5, DIGITS, 20]),
        "box_lists": box([[5], [5], [9], [9]]),
        "box_true": box([True] * 4),
    }


def _sizes() -> dict[str, tuple[Change, tuple[str, ...]]]:
    def sized(height: Any, width: Any, segmentation: Any = None) -> Change:
        def change(content: dict) -> None:
            content["images"][0] |= {"height": height, "width": width}
            del content["annotations"][2]  # the crowd, whose mask has another size
            if segmentation == "polygons":
                del content["annotations"][1]
            if segmentation == "rle":
                content["annotations"][1]["segmentation"] = {"size": [height, width], "counts": [height * width]}

        return change

    found: dict[str, tuple[Change, tuple[str, ...]]] = {
        f"{side}_{kind}": (sized(side, side, kind), ("height|width",))
        for side in (65_536, 200_000, 10**9, 2**31, 2**63, DIGITS)
        for kind in ("polygons", "rle")
    }
    found["long_strip"] = sized(1, 2**31, "rle"), ("height|width",)
    found["zero"] = sized(0, 0), ("height",)
    return found


def _files() -> dict[str, bytes]:
    good = json.dumps({"images": [], "annotations": [], "categories": []}).encode()
    entry = b'{"images": [], "annotations": [%s], "categories": []}'
    return {
        "empty": b"",
        "cut": good[:-20],
        "text": b"these are no annotations",
        "list": b"[]",
        "null": b"null",
        "number": b"7",
        "nul_bytes": bytes(200),
        "not_utf8": good.replace(b"images", b"im\xe9ges"),
        "utf16": good.decode().encode("utf-16"),
        "deep_list": b"[" * 200_000 + b"]" * 200_000,
        "deep_object": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        "deep_entry": entry % (b"[" * 5000 + b"]" * 5000),
        "deep_segmentation": entry % (b'{"id": 1, "segmentation": ' + b"[" * 900 + b"]" * 900 + b"}"),
        "digits": entry % (b'{"id": ' + b"9" * 5000 + b"}"),
        "exponent": entry % b'{"id": 1e999999}',
        "no_images": b'{"annotations": [], "categories": []}',
        "images_object": b'{"images": {}, "annotations": [], "categories": []}',
        "images_of_null": b'{"images": [null], "annotations": [], "categories": []}',
        "images_of_lists": b'{"images": [[]], "annotations": [], "categories": []}',
        "annotations_of_text": entry % b'"a"',
        "categories_of_numbers": b'{"images": [], "annotations": [], "categories": [1]}',
        "trailing": good + b"}",
        "xml": b"<annotations/>",
        "zip": b"PK\x03\x04" + bytes(40),
    }


def _structure() -> Iterator[Case]:
    twice = {
        "image_twice": (lambda content: content["images"].append(dict(content["images"][0])), ("id",)),
        "annotation_twice": (lambda content: content["annotations"].append(dict(content["annotations"][0])), ("id",)),
        "category_twice": (lambda content: content["categories"].append(dict(content["categories"][0])), ("id",)),
        "image_unknown": (_set("annotations", "image_id", 99), ("image_id",)),
        "category_unknown": (_set("annotations", "category_id", 99), ("category_id",)),
        "id_2_63": (_set("images", "id", 2**63), ("id",)),
        "crowd_two": (_set("annotations", "iscrowd", 2), ("iscrowd",)),
        "name_up": (_set("images", "file_name", "../../../etc/passwd"), ("file_name|passwd",)),
        "name_absolute": (_set("images", "file_name", "/etc/passwd"), ("file_name|passwd",)),
        "name_nul": (_set("images", "file_name", "a\0b.png"), ("file_name|a\0b|a\\x00b",)),
        "name_empty": (_set("images", "file_name", ""), ("file_name",)),
        "name_dots": (_set("images", "file_name", ".."), ("file_name|..",)),
        "name_long": (_set("images", "file_name", "n" * 5000), ("file_name|nnn",)),
        "name_folder": (_set("images", "file_name", "."), ("file_name|.",)),
    }
    for name, (change, mentions) in twice.items():
        yield Case(f"annotations/structure/check/{name}", _CHECK, FINDS, mentions, _changed(change))
        expected = EITHER if name.startswith("name") and name != "name_empty" else ERROR  # random boxes read no image
        yield Case(f"annotations/structure/evaluate/{name}", _EVALUATE, expected, mentions, _changed(change))
    bare = {
        "nothing_annotated": lambda content: content["annotations"].clear(),
        "no_images": lambda content: (content["annotations"].clear(), content["images"].clear()),
        "no_categories": lambda content: (content["annotations"].clear(), content["categories"].clear()),
        "all_crowds": lambda content: [one.update(iscrowd=1) for one in content["annotations"]],
        "no_masks": lambda content: [one.update(segmentation=[]) for one in content["annotations"]],
        "points": lambda content: [one.update(segmentation=[[5, 5, 5, 5, 5, 5]]) for one in content["annotations"]],
        "one_point": lambda content: [one.update(segmentation=[[5, 5]]) for one in content["annotations"]],
        "outside": lambda content: [
            one.update(segmentation=[[900, 900, 950, 900, 950, 950]]) for one in content["annotations"]
        ],
        "zero_boxes": lambda content: [
            one.update(bbox=[5, 5, 0, 0], segmentation=[]) for one in content["annotations"]
        ],
        "zero_area": lambda content: [one.update(area=0) for one in content["annotations"]],
    }
    for name, change in bare.items():
        yield Case(f"annotations/bare/check/{name}", _CHECK, EITHER, (), _changed(change))
        yield Case(
            f"annotations/bare/evaluate/{name}", _EVALUATE, EITHER, ("instances_val2017|set|val",), _changed(change)
        )
        words = ("check", "--dataset", "set", "--subset", "val", "--samples", "2", "--out", "drawn")
        if name in ("nothing_annotated", "no_images", "all_crowds"):
            yield Case(f"annotations/bare/samples/{name}", words, FINDS, (), _changed(change))
    yield Case("annotations/good/check", _CHECK, WORKS, (), _changed(lambda content: None))
    yield Case("annotations/good/evaluate", _EVALUATE, WORKS, (), _changed(lambda content: None))


NAMES = {
    "formula": "$\\frac{$",
    "dollars": "a$b$c",
    "caret": "a^{b",
    "backslash": "\\alpha",
    "long": "n" * 3000,
    "chinese": "螺栓",
    "emoji": "🔩",
    "arabic": "مسمار",
    "new_line": "two\nlines",
    "tab": "a\tb",
    "bar": "a|b",
    "markup": "<script>alert(1)</script>",
    "markdown": "*a* [b](c) `d`",
    "quotes": "\"'",
    "slash": "a/b",
    "up": "../up",
    "nul": "a\0b",
    "empty": "",
    "space": " ",
    "percent": "%s%n",
    "comma": "a,b;c",
    "formula_of_tables": "=1+1",
    "surrogate": "\udc80x",
    "underscore": "_hidden",
    "combining": "e\u0301" * 40,
}


def _names() -> Iterator[Case]:
    """Names of categories are text: an evaluation with any of them works, or the name is refused at once."""
    for label, name in NAMES.items():
        expected = EITHER if label in ("nul", "empty", "space", "surrogate") else WORKS
        make = _changed(_set("categories", "name", name))
        yield Case(f"annotations/names/evaluate/{label}", _EVALUATE, expected, ("name",), make, fault=_report_is_text)
        words = ("check", "--dataset", "set", "--subset", "val", "--samples", "1", "--out", "drawn")
        yield Case(f"annotations/names/check/{label}", (*words, "--set", "IMAGE_MAX_DIM=128"), EITHER, ("name",), make)

    def same(content: dict) -> None:
        for category in content["categories"]:
            category["name"] = "bolt"

    yield Case("annotations/names/check/all_alike", _CHECK, EITHER, ("bolt",), _changed(same))
    yield Case("annotations/names/evaluate/all_alike", _EVALUATE, EITHER, ("bolt",), _changed(same))


def _report_is_text(folder: Path, output: str) -> str | None:
    """No name may become markup in the page of an evaluation."""
    page = folder / "out" / "report.html"
    if not page.is_file():
        return "no report.html"
    return "a name is markup in report.html" if "<script>alert(1)" in page.read_text(encoding="utf-8") else None


def _training() -> Iterator[Case]:
    """What `train` says of a set that it cannot use, before it writes anything."""
    words = (*_TRAIN, "--dataset", "set", "--logs", "logs", "--val-images", "0")
    for name, change in {
        "polygon_of_null": _set("annotations", "segmentation", [[None] * 6]),
        "height_digits": _set("images", "height", DIGITS),
        "nothing_annotated": lambda content: content["annotations"].clear(),
        "image_gone": _set("images", "file_name", "gone.png"),
    }.items():

        def make(folder: Path, change: Change = change) -> None:
            content = coco_tree.write_tree(folder / "set", subset="train")
            change(content)
            coco_tree.write_annotations(folder / "set", content, subset="train")

        mention = "gone.png" if name == "image_gone" else "instances_train2017|set"
        touches = ("logs",) if name == "image_gone" else ()
        yield Case(f"annotations/train/{name}", words, ERROR, (mention,), make, ("micro.json",), touches=touches)
