"""The page of a search: what was searched, and a gallery of the images, those with the best scores first."""

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from ..visualize.overlays import Legend, as_bytes
from ..visualize.pages import Html, folded, image_uri, note, section, table, template_macro, write_page
from .results import Category

PAGE_FILE = "index.html"

_MAX_CROPS, _CROP_SIDE = 3, 140  # references of a category that are shown, and their size in pixels
_MAX_NAMES = 4  # in the title
_ASPECTS = (0.75, 1.6)  # of the images of tiles, lowest and highest


@dataclasses.dataclass(frozen=True)
class Tile:
    """An image of the gallery with the scores of its finds, or a video with the best score of each of its frames."""

    name: str
    source: str
    scores: Mapping[int, Sequence[float]]  # category id -> scores; only categories with finds
    link: str  # path of the overlay, from the page
    thumb: str  # path of the thumbnail; for a video of its poster, or ""
    aspect: float  # width of the image divided by its height
    frames: int = 0  # searched frames of a video; 0 for an image

    @property
    def best(self) -> float:
        """The best score; 0 without finds."""
        return max((max(scores) for scores in self.scores.values()), default=0.0)


@dataclasses.dataclass(frozen=True)
class Gallery:
    """What the page shows."""

    categories: Sequence[Category]
    legends: Sequence[Legend]  # of the categories
    tiles: Sequence[Tile]
    videos: Sequence[Tile] = ()
    skipped: Sequence[tuple[str, str]] = ()  # (source, why)
    about: Mapping[str, str] = dataclasses.field(default_factory=dict)
    files: Sequence[str] = ()  # paths from the page


def write_gallery(path: Path, gallery: Gallery) -> None:
    """Write the page. It links to files beside it by relative paths, so that the folder can be moved."""
    found = sorted((tile for tile in gallery.tiles if tile.scores), key=lambda tile: -tile.best)
    nothing = [tile for tile in gallery.tiles if not tile.scores]
    sections = [_lead(gallery), _wanted(gallery), *_about(gallery)]
    if gallery.videos:
        sections.append(section("Videos", _tiles(gallery, gallery.videos, "videos")))
    if found:
        minimum = f"{math.floor(min(category.threshold for category in gallery.categories) * 100) / 100:.2f}"
        choices = [_choice(category, legend) for category, legend in _pairs(gallery)]
        parts = [_macro("filter")(choices, minimum), _tiles(gallery, found, "")]
        sections.append(section("Images with finds", *parts))
    elif gallery.tiles:
        sections.append(note("Nothing was found in any image."))
    if nothing and found:
        sections.append(folded(f"Images without finds ({len(nothing)})", _tiles(gallery, nothing, "nothing")))
    elif nothing:
        sections.append(section("Images without finds", _tiles(gallery, nothing, "nothing")))
    if gallery.skipped:
        sections.append(section("Skipped", table(["file", "why"], map(_reason, gallery.skipped))))
    write_page(path, _title(gallery.categories), sections, style=_macro("style")(), script=_macro("script")())


def _reason(skipped: tuple[str, str]) -> tuple[str, str]:
    """(source, why) without the source at the beginning of the message."""
    source, why = skipped
    return source, why.removeprefix(f"{source}: ")


def _title(categories: Sequence[Category]) -> str:
    names = [category.name for category in categories]
    more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
    return f"Search: {', '.join(names[:_MAX_NAMES])}{more}"


# ---- the head of the page ----------------------------------------------------------------------------------------
def _lead(gallery: Gallery) -> Html:
    """How many images were searched, and how many have finds."""
    finds = sum(len(scores) for tile in gallery.tiles for scores in tile.scores.values())
    parts = []
    if gallery.tiles or not gallery.videos:
        found = sum(1 for tile in gallery.tiles if tile.scores)
        parts += [[(len(gallery.tiles), "image"), "searched"], [(finds, "find"), "in", (found, "image")]]
    if gallery.videos:
        parts.append([(len(gallery.videos), "video"), "of", (sum(tile.frames for tile in gallery.videos), "frame")])
    if gallery.skipped:
        parts.append([(len(gallery.skipped), "file"), "skipped"])
    return _macro("lead")([[_counted(*one) if isinstance(one, tuple) else one for one in part] for part in parts])


def _wanted(gallery: Gallery) -> Html:
    """A card for each category."""
    cards = []
    for category, legend in _pairs(gallery):
        crops = [image_uri(crop, max_side=_CROP_SIDE, lossless=True) for crop in category.references[:_MAX_CROPS]]
        about = {"threshold": f"{category.threshold:.2f}", "references": len(category.references)}
        cards.append(_choice(category, legend) | about | {"crops": crops, "found": _found(gallery, category.id)})
    return _macro("wanted")(cards)


def _found(gallery: Gallery, category_id: int) -> str:
    """Where a category was found, in words."""
    groups = [tile.scores[category_id] for tile in gallery.tiles if category_id in tile.scores]
    frames = sum(len(tile.scores.get(category_id, ())) for tile in gallery.videos)
    texts = [f"{_words(sum(map(len, groups)), 'find')} in {_words(len(groups), 'image')}"] if groups else []
    texts += [f"in {_words(frames, 'frame')}"] if frames else []
    return " and ".join(texts) or "nothing found"


def _counted(count: int, noun: str) -> tuple[int, str]:
    return count, noun if count == 1 else f"{noun}s"


def _words(count: int, noun: str) -> str:
    return " ".join(map(str, _counted(count, noun)))


def _about(gallery: Gallery) -> list[Html]:
    """What else is known of the search, and the files with its results."""
    parts = [_macro("about")(list(gallery.about.items()))] if gallery.about else []
    links = [(path, quote(path)) for path in gallery.files]
    return parts + ([_macro("files")(links)] if links else [])


# ---- tiles -------------------------------------------------------------------------------------------------------
def _tiles(gallery: Gallery, tiles: Sequence[Tile], kind: str) -> Html:
    """Tiles with room for images of the usual proportions; others have a margin."""
    usual = float(np.clip(np.median([tile.aspect for tile in gallery.tiles or tiles]), *_ASPECTS))
    return _macro("tiles")([_shown(tile, gallery) for tile in tiles], kind, f"{usual:.3f}")


def _shown(tile: Tile, gallery: Gallery) -> dict[str, Any]:
    """What the template needs of a tile."""
    chips = [
        _choice(category, legend) | {"count": len(scores), "best": f"{max(scores):.2f}"}
        for category, legend in _pairs(gallery)
        if (scores := tile.scores.get(category.id))
    ]
    words = "{name} in {count} frames" if tile.frames else "{count} {name}"
    listed = ", ".join(words.format(**chip) for chip in chips) or "nothing found"
    rounded = {str(key): [round(score, 4) for score in scores] for key, scores in tile.scores.items()}
    return {
        "name": f"{tile.name} ({tile.frames} frames)" if tile.frames else tile.name,
        "source": tile.source,
        "alt": f"{tile.name}: {listed}",
        "link": quote(tile.link),
        "thumb": quote(tile.thumb),
        "video": bool(tile.frames),
        "scores": "" if tile.frames or not rounded else json.dumps(rounded, separators=(",", ":")),
        "chips": chips,
    }


def _choice(category: Category, legend: Legend) -> dict[str, Any]:
    return {"id": category.id, "name": category.name, "color": "#{:02x}{:02x}{:02x}".format(*as_bytes(legend.color))}


def _pairs(gallery: Gallery) -> list[tuple[Category, Legend]]:
    return list(zip(gallery.categories, gallery.legends, strict=True))


def _macro(name: str) -> Callable[..., Html]:
    return template_macro(__name__.rpartition(".")[0], "gallery.html", name)
