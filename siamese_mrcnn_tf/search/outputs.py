"""Writes what a search found: overlays, masks, tables, annotations of other tools, annotated videos, a page.

`Outputs.add` writes the files of one image, `Outputs.finish` those of the whole search. The files depend on the results
alone: a search that is resumed writes the same ones, byte for byte.
"""

import contextlib
import csv
import glob
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..io.decoding import open_image
from ..io.errors import InputError
from ..io.files import atomic_path, writable_folder, write_json
from ..visualize.margin import add_margin
from ..visualize.overlays import Drawing, Legend, draw_finds, overlay_scale
from ..visualize.palette import category_colors
from . import formats, video_files
from .gallery import PAGE_FILE, Gallery, Tile, write_gallery
from .names import file_stems, source_stem
from .results import Category, Finds, ImageResult
from .summary import Frame, Summary, video_tile

logger = logging.getLogger(__name__)

KINDS = ("overlays", "masks", "coco", "csv", "cutouts", "labelmap", "labelme", "video", "page")
DEFAULT_KINDS = ("overlays", "masks", "coco", "csv", "video", "page")

RESULTS_FILE, IMAGES_FILE, ANNOTATIONS_FILE = "results.json", "images.json", "annotations.json"
DETECTIONS_FILE, COUNTS_FILE = "detections.csv", "counts.csv"
OVERLAYS, MASKS, CUTOUTS, LABELMAPS = "overlays", "masks", "cutouts", "labelmaps"
LABELME, VIDEOS, THUMBNAILS = "labelme", "videos", "thumbnails"
_FRAMES = "frames"  # in VIDEOS, while a search is under way

_THUMBNAIL_SIDE, _THUMBNAIL_QUALITY = 480, 85  # pixels, of JPEG
_SUFFIXES = {".png", ".jpg"}  # of overlays


class Outputs:
    """Writes the files of a search into a folder.

    Args:
        out: the folder; made if it is missing.
        kinds: some of KINDS.
        categories: of the search.
        about: what else the page tells of the search, such as {"model": "shapes"}.

    Raises:
        ValueError: an unknown kind, no category, or a folder that cannot be written to.
    """

    def __init__(
        self, out: Path, kinds: Collection[str], categories: Sequence[Category], about: Mapping[str, str]
    ) -> None:
        unknown = [kind for kind in kinds if kind not in KINDS]
        if unknown:
            raise InputError(f"save = {', '.join(unknown)}: expected some of {', '.join(KINDS)}")
        if not categories:
            raise InputError("categories: expected at least one, got none")
        self.out, self.kinds = writable_folder(out), frozenset(kinds)
        self.categories, self.about = tuple(categories), dict(about)
        colors = category_colors([category.references for category in categories])
        self.legends = [
            Legend(category.name, color, category.threshold, tuple(category.references))
            for category, color in zip(categories, colors, strict=True)
        ]
        self._stems = file_stems(category.name for category in categories)

    # ---- one image -----------------------------------------------------------------------------------------------
    def add(self, result: ImageResult, pixels: np.ndarray) -> None:
        """Write the files of one image; those of an earlier search of it are replaced.

        Args:
            pixels: uint8 [height, width, RGB].

        Raises:
            ValueError: pixels of another size than the result has.
        """
        if result.error is not None:
            return
        if pixels.shape != (result.height, result.width, 3):
            expected = f"uint8 [{result.height}, {result.width}, 3]"
            raise InputError(f"{result.source}: expected pixels {expected}, got shape {pixels.shape}")
        if self.kinds & {"overlays", "page"} or self._is_filmed(result):
            self._add_overlay(result, pixels)
        writers: dict[str, Callable[[ImageResult, np.ndarray], None]] = {
            "masks": self._add_masks,
            "cutouts": self._add_cutouts,
            "labelmap": self._add_label_map,
            "labelme": self._add_labelme,
        }
        for kind, write in writers.items():
            if kind in self.kinds:
                write(result, pixels)

    def _add_overlay(self, result: ImageResult, pixels: np.ndarray) -> None:
        drawing = draw_finds(pixels, self.legends, result.finds)
        if self._is_filmed(result):
            _write_image(self._frame_path(result.name), add_margin(drawing, self.legends))
            return
        if "overlays" in self.kinds:
            path = self.out / self._overlay(result)
            _write_image(path, add_margin(drawing, self.legends))
            for other in _SUFFIXES - {path.suffix}:
                path.with_suffix(other).unlink(missing_ok=True)
        if "page" in self.kinds:
            _write_thumbnail(self.out / _thumbnail(result.name), drawing)

    def _add_masks(self, result: ImageResult, pixels: np.ndarray) -> None:
        masks = ((where, mask.astype(np.uint8) * 255) for where, mask in self._instances(result))
        self._write_instances(MASKS, result, masks)

    def _add_cutouts(self, result: ImageResult, pixels: np.ndarray) -> None:
        self._write_instances(CUTOUTS, result, self._cutouts(result, pixels))

    def _cutouts(self, result: ImageResult, pixels: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        """(name of the file, uint8 [h, w, RGBA]) of each find with pixels, cut tight."""
        for where, mask in self._instances(result):
            rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
            if not len(rows):
                continue
            part = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
            yield where, np.dstack([pixels[part], mask[part].astype(np.uint8) * 255])

    def _instances(self, result: ImageResult) -> Iterator[tuple[str, np.ndarray]]:
        """("CATEGORY.NUMBER", mask bool [height, width]) of each find, best first."""
        for stem, finds in zip(self._stems, result.finds, strict=True):
            for index in range(len(finds)):
                yield f"{stem}.{index + 1:03d}", _mask(finds, index, result)

    def _write_instances(self, folder: str, result: ImageResult, instances: Iterable[tuple[str, np.ndarray]]) -> None:
        """Write NAME.CATEGORY.NUMBER.png for each find; those of an earlier search of the image are removed."""
        for earlier in (self.out / folder).glob(f"{glob.escape(result.name)}.*.png"):  # names have no dots
            earlier.unlink()
        for where, image in instances:
            _write_image(self.out / folder / f"{result.name}.{where}.png", image)

    def _add_label_map(self, result: ImageResult, pixels: np.ndarray) -> None:
        ids, records = formats.label_map(result, self.categories)
        _write_image(self.out / LABELMAPS / f"{result.name}.png", ids)
        write_json(self.out / LABELMAPS / f"{result.name}.json", records, indent=1)

    def _add_labelme(self, result: ImageResult, pixels: np.ndarray) -> None:
        content = formats.labelme_json(result, self.categories, pixels)
        write_json(self.out / LABELME / f"{result.name}.json", content, indent=1)

    # ---- the whole search ----------------------------------------------------------------------------------------
    def finish(self, results: Iterable[ImageResult]) -> None:
        """Write the files of all results: COCO, tables, annotated videos and the page.

        `results` are read once, in order, so that they may be decoded one after the other.
        """
        summary = Summary(self.categories)
        for result in results:
            if result.error is None and not self._is_filmed(result):
                thumb = _thumbnail(result.name)
                summary.add_tile(result, self._overlay(result) if "overlays" in self.kinds else thumb, thumb)
            summary.add(result)
        if "coco" in self.kinds:
            content = formats.annotation_file(summary.images, summary.results, self.categories)
            write_json(self.out / IMAGES_FILE, content | {"annotations": []}, indent=1)
            write_json(self.out / RESULTS_FILE, summary.results)
            write_json(self.out / ANNOTATIONS_FILE, content)
        if "csv" in self.kinds:
            names = [category.name for category in self.categories]
            _write_table(self.out / DETECTIONS_FILE, formats.DETECTION_HEADS, summary.detections)
            _write_table(self.out / COUNTS_FILE, (*formats.COUNT_HEADS, *names, "error"), summary.counts)
        videos = self._write_videos(summary) if "video" in self.kinds else []
        if "page" in self.kinds:
            self._write_page(summary, videos)

    def _write_videos(self, summary: Summary) -> list[Tile]:
        """Write the annotated videos; the frames with the best finds are their posters."""
        tiles, stems = [], file_stems(map(source_stem, summary.frames))
        for stem, (source, frames) in zip(stems, summary.frames.items(), strict=True):
            path, poster = self.out / VIDEOS / f"{stem}.mp4", _thumbnail(f"{stem}.video")
            present = [frame for frame in frames if self._frame_path(frame.name).is_file()]
            if present and len(present) < len(frames):
                logger.warning("%s: only %d of %d frames are there", path, len(present), len(frames))
            if present:
                self._write_video(path, present, self.out / poster)
            if path.is_file():
                tiles.append(video_tile(source, frames, f"{VIDEOS}/{stem}.mp4", poster))
        with contextlib.suppress(OSError):  # there is none, or it has other frames
            (self.out / VIDEOS / _FRAMES).rmdir()
        return tiles

    def _write_video(self, path: Path, frames: Sequence[Frame], poster: Path) -> None:
        """Write a video from the images of its frames, which are removed then."""
        seconds = [frame.seconds for frame in frames]
        rate = video_files.frame_rate(seconds)
        images = (_read(self._frame_path(frame.name)) for frame in frames)
        video_files.write_video(path, zip(video_files.frame_positions(seconds, rate), images, strict=True), rate)
        if "page" in self.kinds:
            best = max(frames, key=lambda frame: frame.best)
            _write_image(poster, _read(self._frame_path(best.name)))
        for frame in frames:
            self._frame_path(frame.name).unlink()

    def _write_page(self, summary: Summary, videos: Sequence[Tile]) -> None:
        written = {"coco": (RESULTS_FILE, ANNOTATIONS_FILE), "csv": (DETECTIONS_FILE, COUNTS_FILE)}
        files = [name for kind, names in written.items() if kind in self.kinds for name in names]
        shown = summary.tiles, videos, summary.skipped
        gallery = Gallery(self.categories, self.legends, *shown, about=self.about, files=files)
        write_gallery(self.out / PAGE_FILE, gallery)

    # ---- paths ---------------------------------------------------------------------------------------------------
    def _is_filmed(self, result: ImageResult) -> bool:
        """Whether a result becomes a frame of an annotated video."""
        return result.frame is not None and "video" in self.kinds

    def _frame_path(self, name: str) -> Path:
        return self.out / VIDEOS / _FRAMES / f"{name}.jpg"

    def _overlay(self, result: ImageResult) -> str:
        """The path of an overlay below `out`; its suffix depends on the size of the image alone."""
        scale = overlay_scale(result.height, result.width)
        return f"{OVERLAYS}/{result.name}.{formats.image_format(result.height * scale, result.width * scale)}"


def _thumbnail(name: str) -> str:
    return f"{THUMBNAILS}/{name}.jpg"


def _mask(finds: Finds, index: int, result: ImageResult) -> np.ndarray:
    """The mask bool [height, width] of a find, its box for a model without masks."""
    if finds.masks is not None:
        return np.asarray(finds.masks[:, :, index], bool)
    mask = np.zeros((result.height, result.width), bool)
    y1, x1, y2, x2 = np.maximum(finds.boxes[index], 0)
    mask[y1:y2, x1:x2] = True
    return mask


def _write_image(path: Path, pixels: np.ndarray, **options: Any) -> None:
    """Write an image in the format of the path's suffix; `options` as of Pillow."""
    with atomic_path(path) as temporary:
        formats.save_image(Image.fromarray(pixels), temporary, path.suffix[1:], **options)


def _write_thumbnail(path: Path, drawing: Drawing) -> None:
    image = Image.fromarray(drawing.pixels)
    image.thumbnail((_THUMBNAIL_SIDE, _THUMBNAIL_SIDE), Image.Resampling.LANCZOS)
    _write_image(path, np.array(image), quality=_THUMBNAIL_QUALITY, subsampling="4:2:0")


def _read(path: Path) -> np.ndarray:
    with open_image(path) as image:
        return np.array(image)


def _write_table(path: Path, heads: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(heads)
        writer.writerows(rows)
