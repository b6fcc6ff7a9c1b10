"""Checks that stored records are those of an evaluation: its set, its queries and its references."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pycocotools.coco import COCO

from ..data.dataset import IndexedCocoDataset
from ..io.errors import InputError
from .queries import OneShotDetector
from .records import Folder, Record, Records, Settings, read_records
from .references import classes_in
from .settings import SETTINGS_FILE, read_settings, require_same


def check_records(
    records: Records, folder: Folder, coco: COCO, dataset: IndexedCocoDataset | None, threshold: float | None
) -> None:
    """Raise ValueError if records of `folder` cannot be scored with this annotation file, data set and threshold."""
    folder = Path(folder)
    for name in ("categories", "config", "set", "shots"):
        if name not in records.settings:
            raise InputError(f"{folder / SETTINGS_FILE}: the key {name!r} is missing")
    _require_set_of(records.settings, coco, folder)
    require_absent(records.settings, threshold, folder)
    expected = None
    for record in records:
        _require_queries_of(record, records.settings, dataset, folder)
        if expected is None:
            expected = _num_references(records.settings, record)
        _require_references_of(record, expected, coco, folder)


def check_resumed(
    folder: Folder,
    settings: Settings,
    queries: Sequence[Any],
    dataset: IndexedCocoDataset,
    coco: COCO,
    *,
    num_references: int,
) -> None:
    """Refuse the records of a stopped evaluation that are not those that it would write.

    `queries` are (COCO image id, (image id, class ids)) of the shard, `settings` those of this evaluation, and
    `num_references` those of a query.
    """
    folder = Path(folder)
    if not (folder / SETTINGS_FILE).is_file():
        return
    require_same(settings, read_settings(folder), folder)
    asked = {coco_id: [int(dataset.class_info[one]["id"]) for one in class_ids] for coco_id, (_, class_ids) in queries}
    for record in read_records(folder):
        _require_queries_of(record, settings, dataset, folder)
        _require_references_of(record, num_references, coco, folder)
        expected = list(itertools.product(range(settings["runs"]), asked.get(record["image_id"], ())))
        found = [(query["run"], query["category_id"]) for query in record["queries"]]
        if record["image_id"] in asked and found != expected:  # others are of another shard
            searched = f"image {record['image_id']} was searched for (run, category) {found}, expected {expected}"
            raise InputError(f"{folder}: {searched}; remove its line from the records")


def require_absent(settings: Settings, threshold: float | None, folder: Folder) -> None:
    """Refuse a threshold for an evaluation without absent categories."""
    if threshold is not None and "absent" not in settings:
        raise InputError(f"{folder}: threshold = {threshold}: no absent category was searched there, it has no use")


def category_ids(settings: Settings) -> list[int]:
    return [category["id"] for category in settings["categories"]]


def _require_set_of(settings: Settings, coco: COCO, folder: Path) -> None:
    """Refuse results of another set."""
    images, categories = settings["images"], category_ids(settings)
    for known, ids, what in ((coco.imgs, images, "image"), (coco.cats, categories, "category")):
        unknown = [i for i in ids if i not in known]
        if unknown:
            lacking = f"lacks {len(unknown)} of its {len(ids)} {what} ids, the first is {unknown[0]}"
            raise InputError(f"{folder}: is of another set ({settings['set']}); the annotation file {lacking}")


def _num_references(settings: Settings, record: Record) -> int:
    """References of a query: a detector of another kind than `OneShotDetector` may need none."""
    needs_them = settings.get("model") == OneShotDetector.name or any(one["references"] for one in record["queries"])
    return settings["shots"] if needs_them else 0


def _require_references_of(record: Record, expected: int, coco: COCO, folder: Folder) -> None:
    """Refuse a record with references that the annotation file lacks, or another number of them than expected."""
    for query in record["queries"]:
        where = f"{folder}: image {record['image_id']}, category {query['category_id']}, run {query['run']}"
        if len(query["references"]) != expected:
            raise InputError(f"{where}: {len(query['references'])} references, expected {expected}")
        for reference in query["references"]:
            if reference is not None and coco.anns.get(reference[1], {}).get("image_id") != reference[0]:
                place = f"annotation {reference[1]} in image {reference[0]}"
                raise InputError(f"{where}: the reference, {place}, is not in the annotation file")


def _require_queries_of(record: Record, settings: Settings, dataset: IndexedCocoDataset | None, folder: Path) -> None:
    """Refuse a record that lacks a run of a category, or, given the data set, has other categories than the image."""
    coco_id, evaluated = record["image_id"], set(category_ids(settings))
    asked: dict[bool, list[tuple[int, int]]] = {False: [], True: []}
    for query in record["queries"]:
        asked[bool(query.get("absent"))].append((query["run"], query["category_id"]))
    present, absent = (sorted({category for _, category in asked[one]}) for one in (False, True))
    unknown = {*present, *absent} - evaluated
    if unknown:
        raise InputError(f"{folder}: image {coco_id} was searched for category {min(unknown)}, which its settings lack")
    wrong: set[int] = set()
    if dataset is not None:
        image_id = dataset.image_from_source_map.get(f"{dataset.image_info[0]['source']}.{coco_id}")
        if image_id is None:
            raise InputError(f"{dataset.set_name}: image {coco_id} of the records is not in this set")
        present = sorted(evaluated & {dataset.class_info[one]["id"] for one in classes_in(dataset, image_id)})
        wrong = set(absent) & {entry["category_id"] for entry in dataset.image_info[image_id]["annotations"]}
    if sorted(asked[False]) != list(itertools.product(range(settings["runs"]), present)):
        raise InputError(
            f"{folder}: image {coco_id} was searched for other categories than are in it, or not in all "
            f"{settings['runs']} runs; expected {present} in each"
        )
    asked_absent = settings.get("absent", 0)
    limit = len(evaluated) if asked_absent == "all" else int(asked_absent)
    if wrong or len(absent) > limit or sorted(asked[True]) != list(itertools.product(range(settings["runs"]), absent)):
        raise InputError(
            f"{folder}: image {coco_id} was searched for absent categories {absent}, expected at most {limit} that are "
            f"not in it, in all {settings['runs']} runs"
        )
