"""What evaluations are of, in words: weights, data set, numbers of images and categories."""

from collections.abc import Iterable, Sequence
from typing import Any

from .markup import code, escaped
from .published import RANDOM_BOXES

Settings = dict[str, Any]  # the content of settings.json

_SHOWN = 3  # weight files that are named in a sentence
_SUFFIXES = (".h5", ".keras")


def about(settings: Sequence[Settings]) -> dict[str, Any]:
    """The weights, the data set, and the numbers of images, categories and runs, of evaluations of one data set."""
    return {
        "weights": list(dict.fromkeys(map(weights_name, settings))),
        "data": data_name(settings[0]),
        "images": _count(one.get("images", ()) for one in settings),
        "categories": _count([entry["id"] for entry in one.get("categories", ())] for one in settings),
        "runs": max(one.get("runs", 0) for one in settings),
    }


def about_text(settings: Sequence[Settings]) -> str:
    """`about` as a sentence: "`last.h5` on mine (val2017): 8 images, 3 categories, 5 runs."."""
    found = about(settings)
    weights, counts = found["weights"], [(found["images"], "image"), (found["categories"], "category")]
    named = ", ".join(code(name) if name.endswith(_SUFFIXES) else escaped(name) for name in weights)
    named = named if len(weights) <= _SHOWN else f"{len(weights)} weight files"
    texts = [counted(number, noun) for number, noun in [*counts, (found["runs"], "run")] if number]
    return f"{named[0].upper() + named[1:]} on {escaped(found['data'])}{': ' if texts else ''}{', '.join(texts)}."


def data_name(settings: Settings) -> str:
    """The name of the data set: "COCO val2017", or the folder or annotation file with the subset, "mine (val2017)"."""
    if settings.get("coco"):
        return f"COCO {settings['coco']}"
    source, subset = settings.get("dataset"), settings.get("set")
    return f"{source} ({subset})" if source and subset and source != subset else source or subset or "a data set"


def weights_name(settings: Settings) -> str:
    """The name of the weight file, or what was evaluated without one."""
    if settings.get("model") == RANDOM_BOXES:
        return "random boxes"
    return settings.get("weights_file") or "a model without a weight file"


def counted(number: int, noun: str) -> str:
    """Such as "1 image", "3 categories", "5,000 images"."""
    plural = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{number:,} {noun if number == 1 else plural}"


def _count(lists: Iterable[Iterable[int]]) -> int:
    return len({entry for entries in lists for entry in entries})
