"""What the files of a whole search need of each result, collected result by result."""

import dataclasses
from collections.abc import Mapping, Sequence

from . import formats
from .gallery import Tile
from .names import source_stem
from .results import Category, ImageResult


@dataclasses.dataclass(frozen=True)
class Frame:
    """A searched frame of a video."""

    name: str
    seconds: float | None
    scores: Mapping[int, Sequence[float]]  # category id -> scores; only categories with finds

    @property
    def best(self) -> float:
        """The best score; 0 without finds."""
        return max((max(scores) for scores in self.scores.values()), default=0.0)


class Summary:
    """Collects results; their masks are not kept.

    Attributes:
        images, results: COCO's records.
        detections, counts: rows of the tables.
        tiles: of the gallery.
        frames: of each video, by its source.
        skipped: (source, why) of images that could not be read.
    """

    def __init__(self, categories: Sequence[Category]) -> None:
        self.categories = categories
        self.images: list[formats.Record] = []
        self.results: list[formats.Record] = []
        self.detections: list[list[object]] = []
        self.counts: list[list[object]] = []
        self.tiles: list[Tile] = []
        self.frames: dict[str, list[Frame]] = {}
        self.skipped: list[tuple[str, str]] = []

    def add(self, result: ImageResult) -> None:
        """Collect a result."""
        self.counts.append(formats.count_row(result, self.categories))
        if result.error is not None:
            self.skipped.append((result.source, result.error))
            return
        self.images.append(formats.coco_image(result))
        found = formats.coco_results([result], self.categories)
        self.results += found
        self.detections += formats.detection_rows(result, found, self.categories)
        if result.frame is not None:
            frame = Frame(result.name, result.seconds, scores_of(result, self.categories))
            self.frames.setdefault(result.source, []).append(frame)

    def add_tile(self, result: ImageResult, link: str, thumb: str) -> None:
        """Add an image to the gallery."""
        scores = scores_of(result, self.categories)
        self.tiles.append(Tile(result.name, result.source, scores, link, thumb, result.width / result.height))


def scores_of(result: ImageResult, categories: Sequence[Category]) -> dict[int, list[float]]:
    """The scores of the categories with finds in an image, by category id."""
    pairs = zip(categories, result.finds, strict=True)
    return {category.id: [float(score) for score in finds.scores] for category, finds in pairs if len(finds)}


def video_tile(source: str, frames: Sequence[Frame], link: str, poster: str) -> Tile:
    """The tile of a video, with the best score of each category in each frame."""
    ids = sorted({category_id for frame in frames for category_id in frame.scores})
    best = {key: [max(frame.scores[key]) for frame in frames if key in frame.scores] for key in ids}
    return Tile(source_stem(source), source, best, link, poster, 1.0, frames=len(frames))
