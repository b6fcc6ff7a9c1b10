"""The one-shot protocol: every category that is in an image is searched for, given references drawn from the whole set.

Paper, Algorithm 1; design section 7. `evaluate` makes its runs, or goes on with them after a stop; `rescore` scores
what it left in a folder, without the model; `merge` joins the parts that several processes or machines made.
"""

import collections
import dataclasses
import itertools
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..io import files
from .coco_scores import AREAS, EvaluationScores, results_of, score_records
from .queries import OneShotDetector, Query, queries_of
from .records import Records, RecordWriter, complete_settings, merge_records, read_records
from .references import MismatchedReferenceSampler, RandomReferenceSampler

SCORES_FILE = "scores.json"


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What an evaluation found.

    Attributes:
        records: records.Records, with the settings; `records.results(run)` are a run's COCO results.
        scores: EvaluationScores, None for one of several shards.
    """

    records: Records
    scores: EvaluationScores | None


def evaluate(
    predictor,
    dataset,
    coco,
    *,
    class_ids=None,
    shots=1,
    seed=0,
    runs=5,
    limit=None,
    area="mask",
    exclude_query_image=False,
    control=None,
    sampler=None,
    folder=None,
    resume=False,
    shard=(1, 1),
    about=None,
    weights=None,
    batch=1,
    workers=1,
    progress=True,
):
    """Search each image for each category in it, in several runs with references of their own, and score.

    A scene is encoded once for all its categories and runs, a reference once for all queries. Results depend on
    neither `limit`, shards, nor stops.

    Args:
        predictor: SiamesePredictor; or a searcher with config, name, needs_references and search, such as
            queries.RandomBoxes.
        dataset: IndexedCocoDataset with indices built, references are drawn from all of it.
        coco: the `pycocotools.coco.COCO` of its annotation file.
        class_ids: class ids [n] to evaluate; the data set's ACTIVE_CLASSES by default. Others count as background.
        shots: references of a query.
        seed: with run, image, class and shot the key of each draw.
        runs: how often each query is repeated with fresh references.
        limit: evaluate only the first so many images that have one of the classes.
        area: "mask" or "box", what the results give as area (`coco_scores.results_of`).
        exclude_query_image: draw references from other images than the query's alone.
        control: "present" or "absent", see `references.MismatchedReferenceSampler`: queries with references of the wrong
            category. Images that leave no choice are left out.
        sampler: function (image id, class id, run, shots) -> references, each (image id, annotation index) or a crop
            uint8 [h, w, RGB]; takes the place of the random draws (`references.ReplayReferenceSampler`).
        folder: where settings, records and scores go; None keeps them in memory.
        resume: go on with what is in `folder`, if anything is.
        shard: (i, n), evaluate the part i of n, from 1; `merge` joins the parts.
        about: dict of what else is to stand in the settings, in plain values: protocol, split, subset, year, ...
        weights: path of the weight file, for its checksum in the settings.
        batch: queries matched at once, see `OneShotDetector`.
        workers: images searched at once, by threads: one reads pictures and encodes masks while the network runs for
            another. Records do not depend on it.
        progress: show a progress bar with the time left.

    Returns:
        Evaluation.

    Raises:
        ValueError: nothing to evaluate, a class without a usable reference, a picture that is missing, or a folder
            that holds something else.
        RuntimeError: a query failed; names image and category.
    """
    _check_numbers(shots=shots, runs=runs, limit=limit, batch=batch, workers=workers)
    _check_choices(area, shard, folder)
    queries, references = queries_of(dataset, class_ids), "drawn" if sampler is None else "given"
    searcher = predictor if hasattr(predictor, "search") else OneShotDetector(predictor, batch=batch)
    if control is not None:
        if sampler is not None or exclude_query_image:
            raise ValueError(
                f"control = {control!r}: has draws of its own, expected no sampler, no exclude_query_image"
            )
        if not searcher.needs_references:
            raise ValueError(f"control = {control!r}: {searcher.name} takes no references")
        sampler = MismatchedReferenceSampler(dataset, searcher.config, seed=seed, control=control)
        queries = sampler.possible(queries)
    queries = queries[:limit]
    if not queries:
        raise ValueError(f"{dataset.set_name}: no image has an instance of the categories to evaluate")
    _check_pictures(dataset, queries)
    protocol = {"seed": seed, "runs": runs, "shots": shots, "limit": limit, "area": area}
    protocol["exclude_query_image"] = exclude_query_image
    protocol["references"] = references
    if control is not None:
        protocol["control"] = control
    if sampler is None:
        sampler = RandomReferenceSampler(dataset, searcher.config, seed=seed, exclude_query_image=exclude_query_image)
        if searcher.needs_references:
            sampler.check(queries)
    described = {"model": searcher.name, **(about or {}), **protocol} | _described(dataset, queries, class_ids)
    settings = complete_settings(described | {"config": searcher.config.to_dict()}, weights=weights)
    engine = _Engine(searcher, dataset, sampler, settings)
    records = _recorded(engine, queries, settings, folder, resume, shard, workers, progress)
    return Evaluation(records, _scored(records, coco, folder) if shard[1] == 1 else None)


def rescore(folder, coco, dataset=None):
    """Score the evaluation in a folder again, without its model; writes scores.json.

    Args:
        folder: of a whole evaluation, in one or several records files; or one of its files.
        coco: the `pycocotools.coco.COCO` of its annotation file.
        dataset: IndexedCocoDataset with indices built, to check that its categories were asked for; None leaves that
            check out.

    Returns:
        Evaluation.

    Raises:
        ValueError: no evaluation there, images are missing in it, or it is of another set.
    """
    folder = Path(folder).parent if Path(folder).is_file() else Path(folder)
    records = read_records(folder)
    records.require_complete()
    _require_set_of(records.settings, coco, folder)
    for record in records:
        _require_queries_of(record, records.settings, dataset, folder)
    return Evaluation(records, _scored(records, coco, folder))


def merge(folders, folder, coco, dataset=None):
    """Join the parts (`evaluate` with a shard) in `folders` to one evaluation in the new folder `folder`; score it.

    Arguments, result and errors as of `rescore`; parts that are missing, overlap, or belong to different evaluations
    are refused too, and nothing is written then.
    """
    merge_records(folders, folder)
    return rescore(folder, coco, dataset)


# ---- the work --------------------------------------------------------------------------------------------------------


class _Engine:
    """Makes what the record of an image holds."""

    def __init__(self, searcher, dataset, sampler, settings):
        self._searcher, self._dataset, self._sampler, self._settings = searcher, dataset, sampler, settings

    def entries(self, image_id, present):
        """The queries of an image's record (see `evaluation_records`): the classes `present`, in all runs."""
        queries = [
            Query(self._settings["seed"], run, class_id, self._references(image_id, class_id, run))
            for run in range(self._settings["runs"])
            for class_id in present
        ]
        found = self._searcher.search(self._dataset, image_id, queries)
        return [self._entry(image_id, query, one) for query, one in zip(queries, found, strict=True)]

    def _references(self, image_id, class_id, run):
        if not self._searcher.needs_references:
            return ()
        references = self._sampler(image_id, class_id, run, self._settings["shots"])
        if len(references) != self._settings["shots"]:
            where = f"image {self._coco_id(image_id)}, class {class_id}, run {run}"
            raise ValueError(
                f"sampler: expected {self._settings['shots']} references for {where}, got {len(references)}"
            )
        return tuple(tuple(map(int, each)) if np.ndim(each) == 1 else each for each in references)

    def _entry(self, image_id, query, found):
        category = self._dataset.class_info[query.class_id]["id"]
        masks = found["masks"] if self._searcher.config.MODEL == "mrcnn" else None
        keys = (self._coco_id(image_id), category)
        return {
            "run": query.run,
            "category_id": category,
            "references": [self._coco_reference(reference) for reference in query.references],
            "detections": results_of(*keys, found["rois"], found["scores"], masks, area=self._settings["area"]),
        }

    def _coco_reference(self, reference):
        """[COCO image id, COCO annotation id] of an instance, None for a crop."""
        if not isinstance(reference, tuple):
            return None
        image_id, index = reference
        return [self._coco_id(image_id), self._dataset.image_info[image_id]["annotations"][index]["id"]]

    def _coco_id(self, image_id):
        return self._dataset.image_info[image_id]["id"]


def _recorded(engine, queries, settings, folder, resume, shard, workers, progress):
    """The Records of a shard, made now as far as `folder` does not have them."""
    index, count = shard
    mine = list(zip(settings["images"], queries, strict=True))[index - 1 :: count]
    if folder is None:
        return Records(settings, dict(_made(engine, mine, {}, workers, progress)))
    with RecordWriter(folder, settings, shard, resume=resume) as writer:
        for _, record in _made(engine, mine, writer.done, workers, progress):
            writer.append(record)
    return read_records(folder)


def _made(engine, queries, done, workers, progress):
    """Yield (COCO image id, record) of the images that are not done, in their order."""
    todo = [(coco_id, query) for coco_id, query in queries if coco_id not in done]
    bar = {"desc": "evaluate", "unit": "image", "initial": len(queries) - len(todo), "total": len(queries)}
    pool, waiting = ThreadPoolExecutor(workers, "evaluation"), iter(todo)
    start = time.perf_counter()
    try:
        ahead = collections.deque()
        for coco_id, _ in tqdm(todo, disable=not progress, **bar):
            for _, query in itertools.islice(waiting, 2 * workers - len(ahead)):
                ahead.append(pool.submit(engine.entries, *query))
            entries = ahead.popleft().result()
            end = time.perf_counter()
            yield coco_id, {"image_id": coco_id, "seconds": round(end - start, 4), "queries": entries}
            start = end
    finally:
        pool.shutdown(cancel_futures=True)


def _scored(records, coco, folder):
    scores = score_records(coco, records, has_masks=records.settings["config"]["MODEL"] == "mrcnn")
    if folder is not None:
        files.write_json(Path(folder) / SCORES_FILE, scores.to_dict(), indent=1)
    return scores


def _described(dataset, queries, class_ids):
    """What the settings say of the data: images and categories, by their COCO ids."""
    classes = sorted({int(class_id) for class_id in (dataset.ACTIVE_CLASSES if class_ids is None else class_ids)})
    return {
        "set": dataset.set_name,
        "categories": [{key: dataset.class_info[class_id][key] for key in ("id", "name")} for class_id in classes],
        "images": [dataset.image_info[image_id]["id"] for image_id, _ in queries],
    }


# ---- checks ----------------------------------------------------------------------------------------------------------


def _check_numbers(**numbers):
    for name, value in numbers.items():
        if value is not None and (not isinstance(value, int) or value < 1):
            raise ValueError(f"{name} = {value!r}: expected a whole number of 1 or more")


def _check_choices(area, shard, folder):
    if area not in AREAS:
        raise ValueError(f"area = {area!r}: expected one of {', '.join(AREAS)}")
    index, count = shard
    if not 1 <= index <= count:
        raise ValueError(f"shard = {index}/{count}: expected i/n with i in 1..n")
    if count > 1 and folder is None:
        raise ValueError(f"shard = {index}/{count}: a part needs a folder, from which merge takes it")


def _check_pictures(dataset, queries):
    """Find a missing picture before hours of work, not after."""
    for image_id, _ in queries:
        path = dataset.image_info[image_id]["path"]
        if not os.path.isfile(path):
            raise ValueError(f"{path}: no such picture, though the annotation file lists it")


def _require_set_of(settings, coco, folder):
    """Refuse results of another set."""
    categories = [category["id"] for category in settings["categories"]]
    for known, ids, what in ((coco.imgs, settings["images"], "image"), (coco.cats, categories, "category")):
        unknown = [i for i in ids if i not in known]
        if unknown:
            raise ValueError(
                f"{folder}: is an evaluation of another set ({settings['set']}); the annotation file does not have "
                f"{len(unknown)} of its {len(ids)} {what} ids, the first is {unknown[0]}"
            )


def _require_queries_of(record, settings, dataset, folder):
    """Refuse a record that lacks a run of a category, or, given the data set, has others than are in the image."""
    asked = sorted((query["run"], query["category_id"]) for query in record["queries"])
    categories = sorted({category for _, category in asked})
    unknown = set(categories) - {category["id"] for category in settings["categories"]}
    if unknown:
        where = f"{folder}: image {record['image_id']}"
        raise ValueError(f"{where} was searched for category {min(unknown)}, which its settings lack")
    if dataset is not None:
        categories = _present(dataset, record["image_id"], settings)
    if asked != [(run, category) for run in range(settings["runs"]) for category in categories]:
        raise ValueError(
            f"{folder}: image {record['image_id']} was searched for other categories than are in it, or not in all "
            f"{settings['runs']} runs; expected {categories} in each"
        )


def _present(dataset, coco_image_id, settings):
    """COCO ids of the evaluated categories that are in an image, ascending."""
    source = dataset.image_info[0]["source"]
    image_id = dataset.image_from_source_map.get(f"{source}.{coco_image_id}")
    if image_id is None:
        raise ValueError(f"{dataset.set_name}: image {coco_image_id} of the records is not in this set")
    evaluated = {category["id"] for category in settings["categories"]}
    present = (dataset.class_info[class_id]["id"] for class_id in dataset.image_category_index[image_id])
    return sorted(evaluated.intersection(present))
