"""The records of an evaluation, records-####-of-####.jsonl: each finished image appends a line.

A records file starts with a header line. Each following line is the record of an image, in order of id:

    {"image_id": COCO id, "seconds": s, "queries": [{"run": 0, "category_id": COCO id,
     "references": [[COCO image id, COCO annotation id], ...], "detections": [COCO result, ...]}, ...]}

A reference that was given as a crop is null. A query for a category that is not in the image has "absent": true, and
the key is left out of the others. A line that was cut short is dropped, and its image is done again.
"""

import contextlib
import dataclasses
import json
import logging
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from ..io import files
from ..io.errors import InputError
from ..io.locks import exclusive
from ..io.schemas import convert, write_plain
from .record_files import HeaderEntry, RecordEntry, SettingsFile, foreign_detection
from .settings import SETTINGS_FILE, read_settings, require_same

logger = logging.getLogger(__name__)

Folder = str | os.PathLike
Settings = dict[str, Any]  # the content of settings.json
Record = dict[str, Any]  # of an image
Shard = tuple[int, int]  # (i, n), the part i of n, from 1

_DECODER = msgspec.json.Decoder(RecordEntry)
_RECORDS_NAME = re.compile(r"records-(\d{4,})-of-(\d{4,})\.jsonl")


# ---- writing ---------------------------------------------------------------------------------------------------------


class RecordWriter:
    """Appends the records of one shard to its file; a context manager.

    Args:
        folder: of the evaluation.
        settings: of `complete_settings`.
        shard: part i of n, from 1.
        resume: append to an existing file; without it, an existing file is refused.

    Attributes:
        done: COCO ids of the images recorded so far.

    Raises:
        ValueError: the folder holds another evaluation, or this one and `resume` is not set.
    """

    def __init__(self, folder: Folder, settings: Settings, shard: Shard = (1, 1), *, resume: bool = False) -> None:
        self._path = files.writable_folder(folder) / records_name(shard)
        if (self._path.parent / SETTINGS_FILE).exists():
            require_same(settings, read_settings(folder), folder)
            for other in record_files(folder):
                if other.name.partition("-of-")[2] != self._path.name.partition("-of-")[2]:
                    raise InputError(f"{folder}: holds {other.name}; {self._path.name} does not go with it")
        require_free(folder, shard, resume=resume)
        self._sweep(shard)
        header = {"fingerprint": settings["fingerprint"], "shard": list(shard)}
        places, end = _read_places(self._path, header) if self._path.exists() else ({}, 0)
        self.done = set(places)
        self._write_settings(settings, shard)
        with files.write_errors(self._path):
            self._file = open(self._path, "ab")
            self._file.truncate(end)
        if not end:
            self._append(_line(header))

    def _sweep(self, shard: Shard) -> None:
        """Remove what a killed process left half written: of a part its own, others write in the folder, too."""
        files.remove_temporaries(self._path if shard[1] > 1 else self._path.parent, below=False)

    def _write_settings(self, settings: Settings, shard: Shard) -> None:
        """Write settings.json, which all parts in the folder share, if it is missing."""
        path = self._path.parent / SETTINGS_FILE
        with exclusive(path, wait=True) if shard[1] > 1 else contextlib.nullcontext():
            if shard[1] > 1:
                files.remove_temporaries(path)
            if not path.exists():
                write_plain(path, settings, SettingsFile)

    def append(self, record: Record) -> None:
        """Write one record and flush it to the disk; ValueError for one that could not be read back."""
        line = _line(record)
        _image_id(line, f"{self._path}: image {record.get('image_id')}")
        self._append(line)

    def _append(self, line: bytes) -> None:
        with files.write_errors(self._path):
            self._file.write(line)
            self._file.flush()
            os.fsync(self._file.fileno())

    def __enter__(self) -> "RecordWriter":
        return self

    def __exit__(self, *error: object) -> None:
        with files.write_errors(self._path):
            self._file.close()


def require_free(folder: Folder, shard: Shard, *, resume: bool = False) -> None:
    """Raise ValueError if the records of a part are in a folder, and are not to be resumed."""
    path = Path(folder) / records_name(shard)
    if path.exists() and not resume:
        raise InputError(f"{path}: is there already; resume that evaluation, or choose another folder")


def read_parts(folders: Sequence[Folder], folder: Folder) -> "Records":
    """The whole evaluation whose parts are in `folders`, to be joined in the folder `folder`.

    That is a new one, or one where the same parts have been joined: a run that was stopped can be repeated.

    Raises:
        ValueError: as `read_records`; an image is missing; `folder` holds another evaluation, or a part.
    """
    records = read_records(*folders)
    records.require_complete()
    target = files.writable_folder(folder)
    found = [path.name for path in record_files(target)] if target.exists() else []
    if (target / SETTINGS_FILE).exists():
        is_joined = read_settings(target)["fingerprint"] == records.settings["fingerprint"]
        if not is_joined or found != [records_name((1, 1))] or _is_among(target, folders):
            raise InputError(f"{target}: holds an evaluation already, choose another folder for the joined one")
    return records


def _is_among(folder: Path, others: Sequence[Folder]) -> bool:
    return any(os.path.samefile(folder, other) for other in others)


def merge_records(records: "Records", folder: Folder) -> None:
    """Write what `read_parts` has found for `folder` there, the images in order."""
    target = Path(folder)
    with files.atomic_path(target / records_name((1, 1))) as temporary, open(temporary, "wb") as file:
        file.write(_line({"fingerprint": records.settings["fingerprint"], "shard": [1, 1]}))
        file.writelines(_line(record) for record in records)
    write_plain(target / SETTINGS_FILE, records.settings, SettingsFile)


def records_name(shard: Shard) -> str:
    """File name of the records of shard (i, n)."""
    return "records-{:04d}-of-{:04d}.jsonl".format(*shard)


def _line(record: Record) -> bytes:
    try:
        return (json.dumps(record, allow_nan=False, separators=(",", ":")) + "\n").encode()
    except (TypeError, ValueError) as error:  # NaN, or a value that JSON does not have
        raise InputError(f"image {record.get('image_id')}: its record cannot be written as JSON ({error})") from error


# ---- reading ---------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Records:
    """The image records of an evaluation, read on demand.

    Attributes:
        settings: of `complete_settings`.
        places: COCO image id -> the record itself, or (path, offset in bytes) of its line.
    """

    settings: Settings
    places: dict[int, Any]

    def __iter__(self) -> Iterator[Record]:
        """The records in the order of the settings' images."""
        with contextlib.ExitStack() as stack:
            opened: dict[Path, BinaryIO] = {}
            for image_id in self.settings["images"]:
                place = self.places.get(image_id)
                if isinstance(place, tuple):
                    path, offset = place
                    if path not in opened:
                        opened[path] = stack.enter_context(open(path, "rb"))
                    opened[path].seek(offset)
                    place = json.loads(opened[path].readline())
                if place is not None:
                    yield place

    def __len__(self) -> int:
        return len(self.places)

    def results(self, run: int, *, absent: bool = False) -> list[dict[str, Any]]:
        """COCO results of one run, from 0: list of dicts image_id, category_id, bbox, score, area, segmentation.

        Those of the categories present, or with `absent` of all queries.
        """
        return [result for query in self.queries(run, absent=absent) for result in query["detections"]]

    def references(self, run: int, *, absent: bool = False) -> list[dict[str, Any]]:
        """`queries` of one run: list of dicts image_id, category_id, references [(image id, annotation id)]."""
        keys = ("image_id", "category_id", "references")
        return [{key: query[key] for key in keys} for query in self.queries(run, absent=absent)]

    def queries(self, run: int, *, absent: bool = False) -> Iterator[dict[str, Any]]:
        """Queries of one run, each with its image_id; with `absent` those for absent categories too."""
        for record in self:
            for query in record["queries"]:
                if query["run"] == run and (absent or not query.get("absent")):
                    yield query | {"image_id": record["image_id"]}

    def require_complete(self) -> None:
        """Raise ValueError unless every image of the settings is recorded."""
        missing = [image_id for image_id in self.settings["images"] if image_id not in self.places]
        if missing:
            what = f"{len(missing)} of {len(self.settings['images'])} images are missing in the records"
            why = "the evaluation was stopped, a file was cut short, or a part is missing; resume it, or add the part"
            raise InputError(f"{what}, the first is {missing[0]}: {why}")


def record_files(folder: Folder) -> list[Path]:
    """Paths of the records files in a folder, in order."""
    return sorted(path for path in Path(folder).iterdir() if _RECORDS_NAME.fullmatch(path.name) and path.is_file())


def read_records(*folders: Folder) -> Records:
    """The records of one evaluation in one or several folders, complete or not.

    Raises:
        ValueError: no evaluation, parts of different evaluations, an image twice, or a line that is not a record.
    """
    if not folders:
        raise InputError("expected at least one folder of an evaluation")
    settings = read_settings(folders[0])
    places: dict[int, tuple[Path, int]] = {}
    for folder in folders:
        require_same(settings, read_settings(folder), folder)
        for path in record_files(folder):
            for image_id, offset in _read_places(path, {"fingerprint": settings["fingerprint"]})[0].items():
                if image_id in places:
                    other = places[image_id][0]
                    raise InputError(f"{path}: image {image_id} is in {other} too; parts must not overlap")
                places[image_id] = (path, offset)
    unknown = set(places) - set(settings["images"])
    if unknown:
        path = places[min(unknown)][0]
        raise InputError(f"{path}: image {min(unknown)} is not among the images of {SETTINGS_FILE}")
    return Records(settings, places)


def _read_places(path: Path, header: dict[str, Any]) -> tuple[dict[int, int], int]:
    """COCO image id -> offset in bytes of each record of a file, and the offset of the end; checks each line."""
    places: dict[int, int] = {}
    end = 0  # of the last whole line
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                logger.warning("%s: line %d was cut short, its image is done again", path, number)
                break
            image_id = None if number == 1 else _image_id(line, f"{path}, line {number}")
            if image_id is None:
                _require_header(line, header, path)
            elif places.setdefault(image_id, end) != end:
                raise InputError(f"{path}, line {number}: image {image_id} was recorded before")
            end += len(line)
    return places, end


def _require_header(line: bytes, header: dict[str, Any], path: Path) -> None:
    content = _parsed(line, f"{path}, line 1")
    if not isinstance(content, dict) or "fingerprint" not in content:
        raise InputError(f"{path}, line 1: not the beginning of the records of an evaluation")
    found = convert(content, HeaderEntry, f"{path}, line 1")
    if any(content.get(key) != value for key, value in header.items()):
        raise InputError(f"{path}: holds records of an evaluation with other settings than {SETTINGS_FILE} beside it")
    if records_name(found.shard) != path.name:
        raise InputError(f"{path}, line 1: shard = {list(found.shard)}, which is not that of its name")


def _image_id(line: bytes, where: str) -> int:
    """The COCO image id of a record; an error that begins with `where` if it is none."""
    try:
        line.decode()  # msgspec passes over texts that it does not need
        record = _DECODER.decode(line)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        convert(_parsed(line, where), RecordEntry, where)  # says more
        raise InputError(f"{where}: not a record of an evaluation ({error})") from error
    if problem := foreign_detection(record):
        raise InputError(f"{where}: {problem}")
    return record.image_id


def _parsed(line: bytes, where: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not a record of an evaluation ({error})") from error
