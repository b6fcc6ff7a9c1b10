"""The one-shot protocol: every image is searched for each category in it, with references drawn from the whole set.

Paper, Algorithm 1. The open protocol (`EvaluationSettings.absent`) searches it for categories that are not in it, too.
`evaluate` makes the runs, or resumes them after a stop; `rescore` scores the records in a folder without the model;
`merge` joins the parts of several processes or machines.
"""

import collections
import dataclasses
import itertools
import os
import time
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from tqdm import tqdm

from ..data.coco import coco_subset
from ..data.custom import ground_truth, indexed_dataset
from ..data.dataset import Dataset, IndexedCocoDataset, split_classes
from ..data.reading import ReadingRules
from ..io import files, schemas
from ..io.errors import InputError
from ..io.locks import exclusive
from ..predictor import SiamesePredictor
from .analysis import ANALYSIS_FILE, analyse
from .coco_scores import SCORES_FILE, EvaluationScores, ResultError, results_of, score_records
from .presence import PRESENCE_FILE, presence
from .queries import Detections, Detector, OneShotDetector, Query, queries_of, with_absent
from .record_checks import category_ids, check_records, check_resumed, require_absent
from .records import (
    Folder,
    Record,
    Records,
    RecordWriter,
    Settings,
    Shard,
    merge_records,
    read_parts,
    read_records,
    records_name,
)
from .references import MismatchedReferenceSampler, Queries, RandomReferenceSampler, Reference, Sampler, classes_in
from .score_files import AnalysisFile, PresenceFile, ScoresFile
from .settings import FORMAT, EvaluationSettings, complete_settings, read_settings, require_counts


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """A finished evaluation, or one of several shards.

    Attributes:
        records: with the settings.
        scores: None for a shard.
        presence: of `presence.presence`; None for a shard, and without `EvaluationSettings.absent`.
    """

    records: Records
    scores: EvaluationScores | None = None
    presence: dict[str, Any] | None = None


def evaluate(
    detector: Detector | SiamesePredictor,
    dataset: Dataset,
    coco: COCO | None = None,
    settings: EvaluationSettings | None = None,
    *,
    sampler: Sampler | None = None,
    folder: Folder | None = None,
    resume: bool = False,
    shard: Shard = (1, 1),
    weights: str | os.PathLike | None = None,
    batch: int = 1,
    workers: int = 1,
    progress: bool = True,
    **changes: Any,
) -> Evaluation:
    """Search each image for each category in it, in several runs with references of their own, and score.

        evaluate(model.predictor, dataset, coco, EvaluationSettings(shots=5), folder="results")
        evaluate(model.predictor, dataset, coco, shots=5, folder="results")  # the same

    A scene is encoded once for all its categories and runs, a reference once for all queries. Results do not depend on
    `limit`, `batch`, `workers`, shards or stops.

    Args:
        detector: a predictor, or another detector such as `queries.RandomBoxes`.
        dataset: with indices built, or one of your own (`custom.indexed_dataset`); references are drawn from all of it.
        coco: of its annotation file; None for a data set of your own.
        sampler: (image id, class id, run, shots) -> references; replaces the random draws. A reference is
            (image id, annotation index) or a crop uint8 [h, w, RGB].
        folder: for settings, records, COCO results of each run, scores, analysis and presence; None keeps them in
            memory.
        resume: continue the evaluation in `folder`, if there is one.
        shard: (i, n), evaluate part i of n, from 1; `merge` joins the parts.
        weights: path of the weight file, for its checksum in the settings.
        batch: queries matched at once, see `OneShotDetector`.
        workers: threads, each with an image: one reads and encodes masks while the network runs for another.
        changes: fields of EvaluationSettings that replace those of `settings`.

    Raises:
        ValueError: nothing to evaluate, a class without a usable reference, a missing image, or a folder with another
            evaluation.
        RuntimeError: a query failed; names image and category.
    """
    settings = dataclasses.replace(settings or EvaluationSettings(), **changes)
    dataset = indexed_dataset(dataset, progress=progress)
    if coco is None:
        coco = ground_truth(dataset)
    require_counts(batch=batch, workers=workers)
    index, count = shard
    if not 1 <= index <= count:
        raise InputError(f"shard = {index}/{count}: expected i/n with i in 1..n")
    if count > 1 and folder is None:
        raise InputError(f"shard = {index}/{count}: a part needs a folder, from which merge takes it")
    asked: Any = detector if hasattr(detector, "search") else OneShotDetector(detector, batch=batch)
    queries, draw = _queries_and_sampler(settings, asked, dataset, sampler)
    described = {"model": asked.name, **settings.to_dict(), "references": "given" if sampler else "drawn"}
    described |= _data_settings(dataset, queries, settings.class_ids) | {"config": asked.config.to_dict()}
    predictor: Any = getattr(asked, "predictor", None)
    if getattr(predictor, "verifies", False):
        described["verification"] = predictor.verification.checksum()
    content = complete_settings(described, weights=weights)
    mine = list(zip(content["images"], queries, strict=True))[index - 1 :: count]
    recorder = _Recorder(asked, dataset, draw, settings, workers, progress)
    if folder is None:
        records = Records(content, dict(recorder.records(mine)))
        return _scored(records, coco, None, progress)
    with exclusive(folder if count == 1 else Path(folder) / records_name(shard)):
        if resume:
            num_references = settings.shots if asked.needs_references else 0
            check_resumed(folder, content, mine, dataset, coco, num_references=num_references)
        with RecordWriter(folder, content, shard, resume=resume) as writer:
            for _, record in recorder.records(mine, writer.done):
                writer.append(record)
        records = read_records(folder)
        return _scored(records, coco, folder, progress) if count == 1 else Evaluation(records)


def rescore(
    folder: Folder,
    coco: COCO,
    dataset: IndexedCocoDataset | None = None,
    *,
    threshold: float | None = None,
    progress: bool = True,
) -> Evaluation:
    """Score and analyse the evaluation in a folder again, without its model.

    Args:
        folder: of a whole evaluation, in one or several records files; or one of its files.
        coco: of its annotation file.
        dataset: with indices built, to check the categories of the records; None skips the check.
        threshold: minimum score of a detection for the metrics of presence; None: that of the settings.

    Raises:
        ValueError: no evaluation there, images are missing in it, or it is of another set.
    """
    folder = Path(folder).parent if Path(folder).is_file() else Path(folder)
    records = read_records(folder)
    records.require_complete()
    check_records(records, folder, coco, dataset, threshold)
    with exclusive(folder):
        return _scored(records, coco, folder, progress, threshold)


def merge(
    folders: Sequence[Folder],
    folder: Folder,
    coco: COCO,
    dataset: IndexedCocoDataset | None = None,
    *,
    threshold: float | None = None,
    progress: bool = True,
) -> Evaluation:
    """Join the parts (`evaluate` with a shard) in `folders` in the new folder `folder`, and score them.

    Arguments, result and errors as of `rescore`. Parts that are missing, overlap, or belong to different evaluations
    raise ValueError, and nothing is written.
    """
    with exclusive(folder):
        merge_records(check_merge(folders, folder, coco, dataset, threshold=threshold), folder)
        return rescore(folder, coco, dataset, threshold=threshold, progress=progress)


def check_merge(
    folders: Sequence[Folder],
    folder: Folder,
    coco: COCO,
    dataset: IndexedCocoDataset | None = None,
    *,
    threshold: float | None = None,
) -> Records:
    """The records of the parts; ValueError for parts that `merge` refuses."""
    if folders:
        require_absent(read_settings(folders[0]), threshold, folders[0])
    records = read_parts(folders, folder)
    check_records(records, folders[0], coco, dataset, threshold)
    return records


def _queries_and_sampler(
    settings: EvaluationSettings, detector: Detector, dataset: IndexedCocoDataset, sampler: Sampler | None
) -> tuple[Queries, Sampler]:
    queries = queries_of(dataset, settings.class_ids)
    if settings.control is not None:
        if sampler is not None:
            raise InputError(f"control = {settings.control!r}: draws its own references, expected no sampler")
        if not detector.needs_references:
            raise InputError(f"control = {settings.control!r}: {detector.name} takes no references")
        mismatched = MismatchedReferenceSampler(dataset, detector.config, seed=settings.seed, control=settings.control)
        queries, sampler = mismatched.possible(queries), mismatched
    every, queries = queries, queries[: settings.limit]
    if not queries:
        crowds = f"; {dataset.crowds_advice}" if dataset.crowds_advice else ""
        raise InputError(f"{dataset.set_name}: no image has an instance of the categories to evaluate{crowds}")
    if sampler is None:
        exclude = settings.exclude_query_image
        sampler = RandomReferenceSampler(dataset, detector.config, seed=settings.seed, exclude_query_image=exclude)
        if detector.needs_references:
            sampler.check(queries)
    if settings.absent is not None:
        is_cut = settings.limit is not None and settings.limit <= len(every)
        last = queries[-1][0] if is_cut else dataset.image_ids[-1]
        chosen: dict[str, Any] = {"class_ids": settings.class_ids, "seed": settings.seed, "config": detector.config}
        images = [one for one in dataset.image_ids.tolist() if one <= last]
        queries = with_absent(dataset, queries, settings.absent, image_ids=images, **chosen)
    for image_id, _ in queries:
        info = dataset.image_info[image_id]
        if info["path"] and not os.path.isfile(info["path"]):
            listed = f" as {info['listed_as']!r}" if info.get("listed_as") else ""
            raise InputError(f"{info['path']}: no such image, though the annotation file lists it{listed}")
    return queries, sampler


@dataclasses.dataclass(frozen=True)
class _Recorder:
    """Searches images in threads and makes their records."""

    detector: Detector
    dataset: IndexedCocoDataset
    sampler: Sampler
    settings: EvaluationSettings
    workers: int
    progress: bool

    def records(
        self, queries: list[tuple[int, tuple[int, list[int]]]], done: Collection[int] = ()
    ) -> Iterator[tuple[int, Record]]:
        """Yield (COCO image id, record) of the images that are not done, from (COCO image id, query) of all images."""
        todo = [(coco_id, query) for coco_id, query in queries if coco_id not in done]
        bar = {"desc": "evaluate", "unit": "image", "initial": len(queries) - len(todo), "total": len(queries)}
        pool, waiting = ThreadPoolExecutor(self.workers, "evaluation"), iter(todo)
        start = time.perf_counter()
        try:
            ahead: collections.deque = collections.deque()
            for coco_id, _ in tqdm(todo, disable=not self.progress, **bar):
                for _, query in itertools.islice(waiting, 2 * self.workers - len(ahead)):
                    ahead.append(pool.submit(self._entries, *query))
                entries = ahead.popleft().result()
                end = time.perf_counter()
                yield coco_id, {"image_id": coco_id, "seconds": round(end - start, 4), "queries": entries}
                start = end
        finally:
            pool.shutdown(cancel_futures=True)

    def _entries(self, image_id: int, class_ids: list[int]) -> list[dict[str, Any]]:
        """The queries of an image's record (see `records`): some classes in all runs."""
        asked = itertools.product(range(self.settings.runs), class_ids)
        queries = [Query(self.settings.seed, run, one, self._references(image_id, one, run)) for run, one in asked]
        found = self.detector.search(self.dataset, image_id, queries)
        return [self._entry(image_id, query, one) for query, one in zip(queries, found, strict=True)]

    def _references(self, image_id: int, class_id: int, run: int) -> tuple[Reference, ...]:
        if not self.detector.needs_references:
            return ()
        shots = self.settings.shots
        references = self.sampler(image_id, class_id, run, shots)
        if len(references) != shots:
            where = f"image {self._coco_id(image_id)}, class {class_id}, run {run}"
            raise InputError(f"sampler: expected {shots} references for {where}, got {len(references)}")
        return tuple((int(each[0]), int(each[1])) if np.ndim(each) == 1 else each for each in references)

    def _entry(self, image_id: int, query: Query, found: Detections) -> dict[str, Any]:
        coco_id, category_id = self._coco_id(image_id), int(self.dataset.class_info[query.class_id]["id"])
        masks = found["masks"] if self.detector.config.MODEL == "mrcnn" else None
        results = results_of(coco_id, category_id, found["rois"], found["scores"], masks, area=self.settings.area)
        references = [self._coco_reference(reference) for reference in query.references]
        entry = {"run": query.run, "category_id": category_id, "references": references, "detections": results}
        return entry if query.class_id in classes_in(self.dataset, image_id) else entry | {"absent": True}

    def _coco_reference(self, reference: Reference) -> list[int] | None:
        """[COCO image id, COCO annotation id] of an instance, None for a crop."""
        if not isinstance(reference, tuple):
            return None
        image_id, index = reference
        return [self._coco_id(image_id), self.dataset.image_info[image_id]["annotations"][index]["id"]]

    def _coco_id(self, image_id: int) -> int:
        return int(self.dataset.image_info[image_id]["id"])


def _data_settings(dataset: IndexedCocoDataset, queries: Queries, class_ids: Sequence[int] | None) -> dict[str, Any]:
    """The settings that describe the data: images and categories, by their COCO ids.

    Also the names of the data set, as of `CocoDataset.source_names`, and of the subset of COCO if it is one.
    """
    classes = sorted({int(class_id) for class_id in (dataset.ACTIVE_CLASSES if class_ids is None else class_ids)})
    rules = {} if dataset.rules == ReadingRules() else {"rules": dataclasses.asdict(dataset.rules)}
    names = {"dataset": " + ".join(dict.fromkeys(dataset.source_names)), "coco": coco_subset(dataset)}
    return (
        rules
        | names
        | {
            "set": dataset.set_name,
            "categories": [{key: dataset.class_info[class_id][key] for key in ("id", "name")} for class_id in classes],
            "images": [dataset.image_info[image_id]["id"] for image_id, _ in queries],
        }
    )


def _scored(
    records: Records, coco: COCO, folder: Folder | None, progress: bool, threshold: float | None = None
) -> Evaluation:
    """A whole evaluation with its scores; into `folder` go scores, COCO results of each run, analysis and presence."""
    settings = records.settings
    try:
        scores = score_records(coco, records, has_masks=settings["config"]["MODEL"] == "mrcnn")
    except ResultError as error:
        if folder is None:
            raise
        raise InputError(f"{folder}: records: {error}") from error
    found = None
    if "absent" in settings:
        found = presence(coco, records, groups=_category_groups(settings, coco), threshold=threshold)
    if folder is not None:
        schemas.write_plain(Path(folder) / SCORES_FILE, {"format": FORMAT} | scores.to_dict(), ScoresFile)
        for run in range(settings["runs"]):
            files.write_json(Path(folder) / f"results_run_{run}.json", records.results(run))
        runs = (records.results(run) for run in range(settings["runs"]))
        chosen = {"image_ids": settings["images"], "category_ids": category_ids(settings)}
        analysed = analyse(coco, runs, **chosen, iou_types=tuple(scores.mean), progress=progress)
        schemas.write_plain(Path(folder) / ANALYSIS_FILE, {"format": FORMAT} | analysed, AnalysisFile, indent=None)
        if found is not None:
            schemas.write_plain(Path(folder) / PRESENCE_FILE, {"format": FORMAT} | found, PresenceFile)
    return Evaluation(records, scores, found)


def _category_groups(settings: Settings, coco: COCO) -> dict[str, list[int]]:
    """Category ids of "train" and "novel", without empty ones, where all categories of a split were evaluated."""
    split, numbered = settings.get("split"), sorted(coco.cats)  # class k is the k-th of them
    if not split or settings.get("category_set") != "all":
        return {}
    parts = dict(zip(("train", "novel"), split_classes(len(numbered), split), strict=True))
    evaluated = set(category_ids(settings))
    ids = {name: [numbered[one - 1] for one in class_ids] for name, class_ids in parts.items()}
    kept = {name: [one for one in of_name if one in evaluated] for name, of_name in ids.items()}
    return {name: of_name for name, of_name in kept.items() if of_name}
