"""The files of an evaluation: settings.json, and records-####-of-####.jsonl, to which each finished image adds a line.

A records file starts with a header line; then follows a line an image, in order of id, a JSON object

    {"image_id": COCO id, "seconds": s, "queries": [{"run": 0, "category_id": COCO id,
     "references": [[COCO image id, COCO annotation id], ...], "detections": [COCO result, ...]}, ...]}

A reference that was given as a crop is null. A line that a stop cut short is dropped, and its image done again.
"""

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import re
from importlib import metadata
from pathlib import Path

from ..io import files

logger = logging.getLogger(__name__)

FORMAT = 1  # of the files described here
SETTINGS_FILE = "settings.json"
_PACKAGES = ("siamese_mrcnn_tf", "tensorflow", "keras", "numpy", "pycocotools")
_UNBOUND = ("versions", "fingerprint", "weights_file")  # settings that may differ between parts of one evaluation
_RECORDS_NAME = re.compile(r"records-(\d{4,})-of-(\d{4,})\.jsonl")


# ---- settings --------------------------------------------------------------------------------------------------------


def complete_settings(settings, *, weights=None):
    """Settings with format, versions, the weight file's checksum, and the fingerprint of what they say.

    Args:
        settings: dict with at least images: [COCO ids in order] and runs.
        weights: path of the weight file, or None.
    """
    settings = {"format": FORMAT} | settings | {"versions": versions()}
    settings["weights_file"] = None if weights is None else Path(weights).name
    settings["weights_sha256"] = None if weights is None else file_sha256(weights)
    settings = json.loads(json.dumps(settings))  # tuples become lists, as they will be when read
    return settings | {"fingerprint": fingerprint(settings)}


def fingerprint(settings):
    """Checksum of what makes two evaluations the same: all settings but versions and the weight file's name."""
    bound = {key: value for key, value in settings.items() if key not in _UNBOUND}
    return hashlib.sha256(json.dumps(bound, sort_keys=True).encode()).hexdigest()


def versions():
    """Versions of this package and of those that the metrics depend on: name -> version, None where not installed."""
    found = dict.fromkeys(_PACKAGES)
    for name in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def file_sha256(path):
    """Checksum of a file in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_settings(folder):
    """The settings of the evaluation in `folder`.

    Raises:
        ValueError: there is none, or its settings were changed.
    """
    path = Path(folder) / SETTINGS_FILE
    if not path.is_file():
        raise ValueError(f"{folder}: no evaluation there, expected {SETTINGS_FILE} and its records")
    settings = files.read_json(path)
    if not isinstance(settings, dict) or settings.get("format") != FORMAT:
        raise ValueError(f"{path}: not the settings of an evaluation that this version of the program writes")
    if settings.get("fingerprint") != fingerprint(settings):
        raise ValueError(f"{path}: was changed after the evaluation, its fingerprint does not fit any more")
    return settings


def require_same(settings, other, folder):
    """Raise ValueError unless `other`, the settings in `folder`, are of the same evaluation; warn of other versions."""
    names = [name for name in settings | other if name not in _UNBOUND and settings.get(name) != other.get(name)]
    if names:
        changes = "; ".join(_difference(name, other.get(name), settings.get(name)) for name in names)
        raise ValueError(f"{folder}: holds an evaluation with other settings: {changes}")
    if settings["versions"] != other["versions"]:
        logger.warning("%s: was made with other versions, digits may differ: %s", folder, other["versions"])


def _difference(name, there, here):
    if isinstance(there, dict) and isinstance(here, dict):
        keys = [key for key in there | here if there.get(key) != here.get(key)]
        return ", ".join(_difference(f"{name}.{key}", there.get(key), here.get(key)) for key in keys)
    there, here = (f"{len(value)} entries" if isinstance(value, list) else repr(value) for value in (there, here))
    return f"{name} = {there} there and {here} here"


# ---- writing ---------------------------------------------------------------------------------------------------------


class RecordWriter:
    """Appends the records of one shard to its file; a context manager.

    Args:
        folder: of the evaluation.
        settings: of `complete_settings`.
        shard: (i, n), the part i of n, from 1.
        resume: go on with the file that is there; without it, a file with records is refused.

    Attributes:
        done: COCO ids of the images that are recorded already.

    Raises:
        ValueError: the folder holds another evaluation, or this one and `resume` is not set.
    """

    def __init__(self, folder, settings, shard=(1, 1), *, resume=False):
        self._path = files.writable_folder(folder) / records_name(shard)
        if (self._path.parent / SETTINGS_FILE).exists():
            require_same(settings, read_settings(folder), folder)
            _require_shards_of(self._path)
        if self._path.exists() and not resume:
            raise ValueError(f"{self._path}: is there already; resume that evaluation, or choose another folder")
        header = {"fingerprint": settings["fingerprint"], "shard": list(shard)}
        lines = _Lines(self._path, header) if self._path.exists() else None
        self.done = set(lines.places) if lines else set()
        if not (self._path.parent / SETTINGS_FILE).exists():
            files.write_json(self._path.parent / SETTINGS_FILE, settings, indent=1)
        self._file = open(self._path, "ab")
        self._file.truncate(lines.end if lines else 0)
        if not lines or not lines.end:
            self.append(header)

    def append(self, record):
        """Write one record, whole, and see to it that it is on the disk."""
        self._file.write(_line(record))
        self._file.flush()
        os.fsync(self._file.fileno())

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._file.close()


def merge_records(folders, folder):
    """Join the parts of an evaluation in `folders` to one in the new folder `folder`, the images in order.

    Raises:
        ValueError: as `read_records`; an image is missing; `folder` holds an evaluation already.
    """
    records = read_records(*folders)
    records.require_complete()
    folder, shard = files.writable_folder(folder), (1, 1)
    if (folder / SETTINGS_FILE).exists():
        raise ValueError(f"{folder}: holds an evaluation already, choose another folder for the joined one")
    with files.atomic_path(folder / records_name(shard)) as temporary, open(temporary, "wb") as file:
        file.write(_line({"fingerprint": records.settings["fingerprint"], "shard": list(shard)}))
        file.writelines(_line(record) for record in records)
    files.write_json(folder / SETTINGS_FILE, records.settings, indent=1)


def records_name(shard):
    """File name of the records of shard (i, n)."""
    return "records-{:04d}-of-{:04d}.jsonl".format(*shard)


def _line(record):
    return (json.dumps(record, allow_nan=False, separators=(",", ":")) + "\n").encode()


def _require_shards_of(path):
    """Refuse a folder whose evaluation was cut into another number of shards."""
    for other in record_files(path.parent):
        if _RECORDS_NAME.fullmatch(other.name)[2] != _RECORDS_NAME.fullmatch(path.name)[2]:
            raise ValueError(f"{path.parent}: holds {other.name}; {path.name} does not go with it")


# ---- reading ---------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Records:
    """The image records of an evaluation, read when they are asked for.

    Attributes:
        settings: of `complete_settings`.
        places: COCO image id -> the record itself, or (path, offset in bytes) of its line.
    """

    settings: dict
    places: dict

    def __iter__(self):
        """The records in the order of the settings' images."""
        with contextlib.ExitStack() as stack:
            opened = {}
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

    def __len__(self):
        return len(self.places)

    def results(self, run):
        """COCO results of one run, from 0: list of dicts image_id, category_id, bbox, score, area, segmentation."""
        return [result for query in self._queries(run) for result in query["detections"]]

    def references(self, run):
        """What was asked in one run: list of dicts image_id, category_id, references [(image id, annotation id)]."""
        return [
            {"image_id": query["image_id"], "category_id": query["category_id"], "references": query["references"]}
            for query in self._queries(run)
        ]

    def _queries(self, run):
        for record in self:
            for query in record["queries"]:
                if query["run"] == run:
                    yield query | {"image_id": record["image_id"]}

    def require_complete(self):
        """Raise ValueError unless every image of the settings is recorded."""
        missing = [image_id for image_id in self.settings["images"] if image_id not in self.places]
        if missing:
            raise ValueError(
                f"{len(missing)} of {len(self.settings['images'])} images are missing in the records, the first is "
                f"{missing[0]}: the evaluation was stopped, a file was cut short, or a part is missing; resume it, or "
                "add the part"
            )


def record_files(folder):
    """Paths of the records files in a folder, in order."""
    return sorted(path for path in Path(folder).iterdir() if _RECORDS_NAME.fullmatch(path.name))


def read_records(*folders):
    """The records of one evaluation, whose parts may be in several folders: Records, complete or not.

    Raises:
        ValueError: no evaluation there, parts of different evaluations, the same image twice, or a line that is no
            record.
    """
    if not folders:
        raise ValueError("expected at least one folder of an evaluation")
    settings, places = read_settings(folders[0]), {}
    for folder in folders:
        require_same(settings, read_settings(folder), folder)
        for path in record_files(folder):
            for image_id, offset in _Lines(path, {"fingerprint": settings["fingerprint"]}).places.items():
                if image_id in places:
                    raise ValueError(
                        f"{path}: image {image_id} is in {places[image_id][0]} too; parts must not overlap"
                    )
                places[image_id] = (path, offset)
    unknown = set(places) - set(settings["images"])
    if unknown:
        path = places[min(unknown)][0]
        raise ValueError(f"{path}: image {min(unknown)} is not among the images of {SETTINGS_FILE}")
    return Records(settings, places)


class _Lines:
    """Where the records are in a file, each line checked.

    Attributes:
        places: COCO image id -> offset in bytes.
        end: offset behind the last whole line.
    """

    def __init__(self, path, header):
        self.places, self.end = {}, 0
        with open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    logger.warning("%s: line %d was cut short, its image is to be done again", path, number)
                    break
                content = _parsed(line, f"{path}, line {number}")
                if number == 1:
                    _require_header(content, header, path)
                elif self.places.setdefault(_checked(content, f"{path}, line {number}"), self.end) != self.end:
                    raise ValueError(f"{path}, line {number}: image {content['image_id']} was recorded before")
                self.end += len(line)


def _parsed(line, where):
    try:
        return json.loads(line)
    except ValueError as error:
        raise ValueError(f"{where}: not a record of an evaluation ({error})") from error


def _require_header(content, header, path):
    if not isinstance(content, dict) or "fingerprint" not in content:
        raise ValueError(f"{path}, line 1: not the beginning of the records of an evaluation")
    if any(content.get(key) != value for key, value in header.items()):
        raise ValueError(f"{path}: holds records of an evaluation with other settings than {SETTINGS_FILE} beside it")


def _checked(record, where):
    """The image id of a record that has what a record needs."""
    try:
        for query in record["queries"]:
            if not all(isinstance(query[key], int) for key in ("run", "category_id")):
                raise TypeError("run and category_id: expected numbers")
            if not all(isinstance(query[key], list) for key in ("references", "detections")):
                raise TypeError("references and detections: expected lists")
        return int(record["image_id"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{where}: not a record of an evaluation ({error!r})") from error
