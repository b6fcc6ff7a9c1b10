"""What a search reads: image files, folders, patterns, videos and webcams, in one order and with unique names."""

import collections
import dataclasses
import functools
import glob
import itertools
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from ..io.errors import InputError
from ..io.files import IMAGE_SUFFIXES, is_companion, is_text
from ..io.images import HEIF_EXTRA, HEIF_SUFFIXES, can_read, read_image
from ..io.intensity import find_ranges
from .names import file_stem, number_repeated
from .video import VIDEO_EXTRA, has_av, require_av

VIDEO_SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv"),
    *(".3gp", ".mts", ".m2ts", ".ogv"),
)
WEBCAM = "webcam:"  # how the path of a webcam begins
_WEBCAM = re.compile(r"webcam(?::([0-9]{1,4}))?")
_FRAME_DIGITS = 6
_FRAME_END = re.compile(rf"(.+)-\d{{{_FRAME_DIGITS},}}")  # of names of frames
_NOT_REGULAR, _NOT_READABLE = "not regular files", "folders that cannot be read"
_NOT_TEXT = "names with bytes that are no characters"

ImageReading = Callable[[Path], np.ndarray]  # path to uint8 [height, width, RGB]


@dataclasses.dataclass(frozen=True)
class Source:
    """An image file, a video file or a webcam."""

    path: str  # as the user named it, with the folder in which it was found; "webcam:0"
    kind: str  # "image", "video" or "webcam"
    name: str  # unique among the sources, for names of files

    def frame_name(self, number: int) -> str:
        """The name of frame `number`, from 0 on, of a video or a webcam."""
        return f"{self.name}-{number:0{_FRAME_DIGITS}d}"

    @property
    def device(self) -> int:
        """The number of a webcam."""
        return int(self.path.partition(":")[2])


@dataclasses.dataclass(frozen=True)
class FoundSources:
    """Sources in the order of the search, and how many files in their folders are of no use, by suffix."""

    sources: list[Source]
    skipped: collections.Counter[str]

    def skipped_text(self) -> str:
        """What was skipped, such as "skipped 3 files: .txt 2, .pdf 1"; empty for nothing."""
        if not self.skipped:
            return ""
        count = self.skipped.total()
        text = f"skipped {count} file{'s' if count > 1 else ''}: "
        ordered = sorted(self.skipped.items(), key=lambda item: (-item[1], item[0]))
        text += ", ".join(f"{suffix} {number}" for suffix, number in ordered)
        for suffixes, extra in ((HEIF_SUFFIXES, HEIF_EXTRA), (VIDEO_SUFFIXES, VIDEO_EXTRA)):
            readable = [suffix for suffix in suffixes if suffix in self.skipped]
            text += f" ({extra} reads {', '.join(readable)})" if readable else ""
        return text


def image_reader(paths: Iterable[str | Path], orientation: str = "obey", *, progress: bool = True) -> ImageReading:
    """A function that reads images and references by one rule; `paths` are all that it will be asked for.

    Those above 8 bits are scaled to 8 by the range of all of them together.
    """
    ranges = find_ranges(paths, progress=progress)
    return functools.partial(read_image, rule=orientation, ranges=ranges)


def find_images(sources: Iterable[str | Path], *, recursive: bool = False) -> list[Path]:
    """Image files named by files, folders (all images directly in them) and glob patterns, each once, in order.

    In folders and patterns hidden files and those of operating systems are passed over (`io.files.is_companion`).

    Raises:
        ValueError: a source that names no image.
    """
    return _find(sources, recursive, IMAGE_SUFFIXES, collections.Counter())


def find_sources(
    sources: Iterable[str | Path], *, recursive: bool = False, out: str | Path | None = None
) -> FoundSources:
    """As `find_images`, with video files, and "webcam" or "webcam:1" for the frames of a webcam, which come last.

    `recursive` searches the folders below a folder, too; those that are hidden or links are passed over, and so is what
    is in the folder `out`. Names and order depend on the sources and the files in their folders alone.

    Raises:
        ValueError: a source that names nothing to search.
    """
    skipped: collections.Counter[str] = collections.Counter()
    named: dict[str, str] = {}  # path or webcam -> kind
    for source in map(str, sources):
        webcam = None if os.path.exists(source) else _WEBCAM.fullmatch(source)
        if webcam:
            named[f"{WEBCAM}{int(webcam[1] or 0)}"] = "webcam"
            continue
        for path in _find([source], recursive, (*IMAGE_SUFFIXES, *(VIDEO_SUFFIXES if has_av() else ())), skipped):
            if out is not None and Path(out).resolve() in path.resolve().parents and str(path) != source:
                continue
            named[str(path)] = "video" if path.suffix.lower() in VIDEO_SUFFIXES else "image"
    kept = {os.path.realpath(path) if kind != "webcam" else path: path for path, kind in reversed(named.items())}
    first = set(kept.values())
    if video := next((path for path in named if named[path] == "video"), None):
        require_av(video)
    chosen = sorted((path for path in named if path in first), key=lambda path: named[path] == "webcam")
    stems = [path.replace(":", "-") if named[path] == "webcam" else Path(path).stem for path in chosen]
    names = _unique_sources(stems, [named[path] != "image" for path in chosen])
    return FoundSources([Source(path, named[path], name) for path, name in zip(chosen, names, strict=True)], skipped)


def _unique_sources(stems: list[str], has_frames: list[bool]) -> list[str]:
    """Unique names of sources that are no names of frames of the others, either; those with frames are named first."""
    stems = list(map(file_stem, stems))
    moving = number_repeated(itertools.compress(stems, has_frames), lambda name: not _FRAME_END.fullmatch(name))
    known = {name.casefold() for name in moving}

    def is_free(name: str) -> bool:
        frame = _FRAME_END.fullmatch(name.casefold())
        return name.casefold() not in known and not (frame and frame[1] in known)

    still = iter(number_repeated((stem for stem, moves in zip(stems, has_frames, strict=True) if not moves), is_free))
    numbered = iter(moving)
    return [next(numbered if moves else still) for moves in has_frames]


def _find(
    sources: Iterable[str | Path], recursive: bool, suffixes: tuple[str, ...], skipped: collections.Counter[str]
) -> list[Path]:
    """The files that sources name, each once; counts those in folders that have none of the suffixes."""
    found: dict[str, Path] = {}
    for source in sources:
        if not str(source).strip():
            raise InputError(f"{str(source)!r}: expected an image, a folder or a pattern, got an empty text")
        path = Path(source)
        if os.path.isfile(path):
            paths = [path]
        elif os.path.isdir(path):
            paths = _files_in(path, recursive, suffixes, skipped)
            if not paths:
                below = "" if recursive or not any(map(Path.is_dir, path.iterdir())) else "; --recursive looks below it"
                raise InputError(f"{source}: no image ({', '.join(suffixes)}) in this folder{below}")
        else:
            paths = _matches(source, recursive, suffixes, skipped)
        for path in paths:
            if not is_text(str(path)):
                raise InputError(f"{str(path)!r}: a name with bytes that are no characters; rename the file")
            found.setdefault(os.path.realpath(path), path)
    return list(found.values())


def _matches(
    pattern: str | Path, recursive: bool, suffixes: tuple[str, ...], skipped: collections.Counter[str]
) -> list[Path]:
    """The files that match a pattern, sorted; where it matches folders alone, the files in these.

    Raises:
        ValueError: there are none.
    """
    if os.path.exists(pattern):
        raise InputError(f"{pattern}: not a regular file, expected an image, a folder or a pattern")
    matches = sorted(path for path in map(Path, glob.glob(str(pattern), recursive=True)) if not is_companion(path))
    paths = [path for path in matches if path.is_file()]
    if not paths:
        folders = [path for path in matches if path.is_dir()]
        paths = [path for folder in folders for path in _files_in(folder, recursive, suffixes, skipped)]
    if not paths:
        raise InputError(f"{pattern}: no such file, folder or match")
    return paths


def _files_in(
    folder: Path, recursive: bool, suffixes: tuple[str, ...], skipped: collections.Counter[str]
) -> list[Path]:
    """The files with one of the suffixes in a folder, sorted; counts the others, hidden ones left out."""
    known = {*suffixes, *(suffix for suffix in HEIF_SUFFIXES if can_read(suffix))}
    found = []
    for path in _walk(folder, recursive, skipped):
        suffix = path.suffix.lower()
        if not is_text(path.name):
            skipped[_NOT_TEXT] += 1
        elif not path.is_file():
            skipped[_NOT_REGULAR] += 1
        elif suffix in known:
            found.append(path)
        else:
            skipped[suffix or "without a suffix"] += 1
    return sorted(found)


def _walk(folder: Path, recursive: bool, skipped: collections.Counter[str]) -> Iterator[Path]:
    """What is in a folder and is no folder; without what is hidden, or left there by an operating system."""

    def count(error: OSError) -> None:
        skipped[_NOT_READABLE] += 1

    for place, folders, files in os.walk(folder, onerror=count):
        folders[:] = [name for name in folders if recursive and not is_companion(Path(place, name))]
        yield from (path for path in (Path(place, name) for name in files) if not is_companion(path))
