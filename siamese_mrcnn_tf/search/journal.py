"""The folder of a search: what was searched with, and the results so far, so that a stopped search can be resumed.

`search.json` has the settings; `journal.jsonl` a line for each image, written as soon as its files are. A last line
that a kill tore is dropped, and its image searched again. In a finished search the lines are in the order of the
images, and a last one says so.
"""

import dataclasses
import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import msgspec

from ..io import schemas
from ..io.errors import InputError
from ..io.files import (
    StrPath,
    atomic_path,
    is_empty,
    json_text,
    make_folder,
    remove_temporaries,
    writable_folder,
    write_errors,
)
from .frames import Frame, size_of
from .journal_files import DECODER, Line, ResultEntry, SearchFile, is_consistent
from .results import ImageResult

SETTINGS_FILE, JOURNAL_FILE = "search.json", "journal.jsonl"
FORMAT = 1
_SHOWN = 3  # items in a message
_VALUE_WIDTH = 40  # characters of a value in a message


@dataclasses.dataclass(frozen=True)
class Entry:
    """A line of the journal."""

    offset: int  # of the line in the file, in bytes
    length: int
    name: str  # of the image
    source: str
    size: int | None  # of the file in bytes, when it was searched
    num_finds: int
    error: str | None


class JournalResults(Sequence[ImageResult]):
    """The results in a journal, in the order of the images; each is read from the file when it is asked for."""

    def __init__(self, path: Path, entries: Sequence[Entry]) -> None:
        self._path, self.entries = path, entries

    def __len__(self) -> int:
        return len(self.entries)

    @overload
    def __getitem__(self, index: int) -> ImageResult: ...

    @overload
    def __getitem__(self, index: slice) -> "JournalResults": ...

    def __getitem__(self, index: int | slice) -> "ImageResult | JournalResults":
        if isinstance(index, slice):
            return JournalResults(self._path, self.entries[index])
        entry = self.entries[index]
        with open(self._path, "rb") as file:
            file.seek(entry.offset)
            return ImageResult.from_record(json.loads(file.read(entry.length))["result"])


class Journal:
    """The journal of a search in a folder: `create` begins one, `resume` opens that of a stopped search."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / JOURNAL_FILE
        self._entries: dict[int, Entry] = {}  # by image id
        self._is_finished = False
        self._end = 0  # bytes of the file
        self._num_categories: int | None = None  # of each result; None: not known

    @classmethod
    def create(
        cls, folder: StrPath, settings: Mapping[str, Any], *, force: bool = False, inputs: Iterable[StrPath] = ()
    ) -> "Journal":
        """Begin a search in a folder; `force` removes the search that is there.

        Raises:
            ValueError: as `require_free`, or one of the inputs of the search is in a folder that is to be cleared.
        """
        journal = cls(Path(folder))
        require_free(folder, force=force)
        if force:
            require_outside(folder, inputs)
        make_folder(journal.folder)
        remove_temporaries(journal.folder)
        with write_errors(journal.folder):
            for path in journal.folder.iterdir():
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
            journal.path.touch()
        schemas.write_plain(journal.folder / SETTINGS_FILE, {"format": FORMAT, **settings}, SearchFile)
        return journal

    @classmethod
    def resume(cls, folder: StrPath, settings: Mapping[str, Any]) -> "Journal":
        """Open the search in a folder.

        Raises:
            ValueError: there is none, it is damaged, or it was begun with other settings; names all that differ.
        """
        journal = cls(Path(folder))
        path = journal.folder / SETTINGS_FILE
        before, now = schemas.read_plain(path, SearchFile), json.loads(json_text(path, {"format": FORMAT, **settings}))
        if different := differences(before, now):
            begun = f"{folder}: --resume continues with the settings of the stopped search, but these differ"
            raise InputError(f"{begun}: {'; '.join(different)}")
        remove_temporaries(journal.folder)
        if "category names" in settings:
            journal._num_categories = len(settings["category names"])
        journal._read()
        return journal

    def has(self, frame: Frame) -> bool:
        """Whether the result of an image is there, and the file is of the size that it had then."""
        entry = self._entries.get(frame.image_id)
        return entry is not None and entry.error is None and (entry.name, entry.size) == (frame.name, frame.size)

    def append(self, result: ImageResult, size: int | None) -> None:
        """Add the result of an image whose files are written; it is on the disk then.

        Raises:
            ValueError: a result that could not be read back, or the file cannot be written.
        """
        if self._is_finished:
            self._rewrite(sorted(self._entries))
            self._is_finished = False
        line = _line(result, size, self.path)
        with write_errors(self.path), open(self.path, "ab") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        num_finds = sum(map(len, result.finds))
        self._entries[result.image_id] = Entry(
            self._end, len(line), result.name, result.source, size, num_finds, result.error
        )
        self._end += len(line)

    @property
    def has_results(self) -> bool:
        """Whether any image was searched."""
        return any(entry.error is None for entry in self._entries.values())

    def results(self) -> JournalResults:
        """The results so far."""
        return JournalResults(self.path, [self._entries[image_id] for image_id in sorted(self._entries)])

    def whole_results(self) -> JournalResults | None:
        """All results, if the search was finished, no image failed, and no file has changed its size since."""
        entries = self._entries.values()
        sizes = {entry.source: entry.size for entry in entries}
        is_whole = self._is_finished and not any(entry.error for entry in entries)
        return self.results() if is_whole and all(size_of(path) == sizes[path] for path in sizes) else None

    def sort(self, image_ids: Iterable[int]) -> JournalResults:
        """Bring the lines of these images into their order, and drop the others."""
        if not self._is_finished:
            self._rewrite(sorted(image_ids))
        return self.results()

    def finish(self) -> None:
        """Note that all images were searched and all files are written."""
        if not self._is_finished:
            with write_errors(self.path), open(self.path, "ab") as file:
                file.write(json.dumps({"finished": len(self._entries)}).encode() + b"\n")
            self._is_finished = True

    def discard(self) -> None:
        """Remove the search, in which no image could be read; the folder, too, if nothing else is in it."""
        for path in (self.path, self.folder / SETTINGS_FILE):
            path.unlink(missing_ok=True)
        if not any(self.folder.iterdir()):
            self.folder.rmdir()

    def _read(self) -> None:
        """Read the lines, and cut what follows the last whole one."""
        self.path.touch()
        with open(self.path, "rb") as file:
            for line in file:
                try:
                    line.decode()  # msgspec passes over texts that it does not need
                    content = DECODER.decode(line)
                except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
                    break
                if content.result is None:
                    self._is_finished = line.endswith(b"\n") and content.finished == len(self._entries)
                    break
                if not line.endswith(b"\n") or not is_consistent(content.result, self._num_categories):
                    break
                self._entries[content.result.image_id] = _entry(self._end, len(line), content.result, content.size)
                self._end += len(line)
        if not self._is_finished:
            os.truncate(self.path, self._end)

    def _rewrite(self, image_ids: Iterable[int]) -> None:
        """Write the file anew with the lines of these images."""
        kept, end = {}, 0
        with open(self.path, "rb") as old, atomic_path(self.path) as temporary, open(temporary, "wb") as new:
            for image_id in image_ids:
                entry = self._entries[image_id]
                old.seek(entry.offset)
                new.write(old.read(entry.length))
                kept[image_id] = dataclasses.replace(entry, offset=end)
                end += entry.length
        self._entries, self._end = kept, end


def require_free(
    folder: StrPath, *, resume: bool = False, force: bool = False, ways: str = "--resume continues it"
) -> None:
    """Raise ValueError unless a search can use a folder: an empty or a new one, or that of another search.

    The latter only to `resume` it or, with `force`, to clear it. A folder that no search has written is never cleared.

    Args:
        ways: what the command offers beside --force, for the message.
    """
    folder = writable_folder(folder)
    if not folder.is_dir() or is_empty(folder):
        return
    if not (folder / SETTINGS_FILE).is_file():
        raise InputError(f"{folder}: has files of its own, expected an empty folder or that of an earlier search")
    if not (resume or force):
        raise InputError(f"{folder}: has a search already; {ways}, --force clears the folder")


def require_outside(folder: StrPath, inputs: Iterable[StrPath]) -> None:
    """Raise ValueError if one of the inputs of a search is in a folder that is to be cleared."""
    cleared = Path(folder).resolve()
    inside = next((path for path in inputs if cleared in Path(path).resolve().parents), None)
    if inside is not None:
        raise InputError(f"{folder}: --force would remove {inside}, which is searched or searched with")


def can_resume(folder: StrPath) -> bool:
    """Whether there is a search in a folder."""
    return (Path(folder) / SETTINGS_FILE).is_file()


def differences(before: Any, now: Any, name: str = "") -> list[str]:
    """What differs between two values of JSON, each in a few words."""
    if before == now:
        return []
    if isinstance(before, dict) and isinstance(now, dict):
        keys = dict.fromkeys([*before, *now])
        parts = (differences(before.get(key), now.get(key), f"{name}.{key}" if name else key) for key in keys)
        return [text for part in parts for text in part]
    if isinstance(before, list) and isinstance(now, list):
        changes = (("without", _missing(before, now)), ("new", _missing(now, before)))
        texts = [f"{word} {_few(items)}" for word, items in changes if items]
        return [f"{name}: {', '.join(texts) or 'another order'}"]
    return [f"{name}: {_short(before)} then, {_short(now)} now"]


def _missing(items: Sequence[Any], others: Sequence[Any]) -> list[Any]:
    """The items that are not among the others."""
    known = set(map(json.dumps, others))
    return [item for item in items if json.dumps(item) not in known]


def _few(items: Sequence[Any]) -> str:
    shown = ", ".join(_short(item) for item in items[:_SHOWN])
    return shown + (f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else "")


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= _VALUE_WIDTH else f"{text[: _VALUE_WIDTH - 3]}..."


def _line(result: ImageResult, size: int | None, path: Path) -> bytes:
    """The line of a result; ValueError for one that `Journal.resume` would not read."""
    content = {"result": result.to_record(), "size": size}
    where = f"{path}: image {result.name}"
    line = json_text(where, content).encode()
    try:
        read = DECODER.decode(line)
    except msgspec.MsgspecError:
        schemas.convert(content, Line, where)  # says more
        raise
    if read.result is None or not is_consistent(read.result):
        raise InputError(f"{where}: boxes, scores and masks do not go together")
    return line


def _entry(offset: int, length: int, result: ResultEntry, size: int | None) -> Entry:
    num_finds = sum(len(finds.scores) for finds in result.finds)
    return Entry(offset, length, result.name, result.source, size, num_finds, result.error)
