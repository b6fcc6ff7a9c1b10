"""Fits the verification of finds and the score threshold of a model on annotated images.

Images are searched for the categories that are in them and for some that are not. Half of the images fit the weights of
score and similarity (`ops.similarity`) and the threshold; the metrics of the other half are held out.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from ..config import Config
from ..data.custom import indexed_dataset
from ..data.dataset import Dataset, IndexedCocoDataset
from ..data.references import cut_reference, draw_reference, has_reference
from ..io.errors import InputError
from ..ops import similarity
from ..ops.similarity import Verification
from ..predictor import EncodedScenes, ReferenceEmbedding, SiamesePredictor
from ..weights.thresholds import Calibration
from .analysis import IGNORED, IOU_THRESHOLDS, TRUE_POSITIVE, ImageTruth, match_outcomes
from .coco_scores import results_of
from .presence import auroc, ratio, silent_above
from .queries import queries_of, with_absent
from .references import Queries, RandomReferenceSampler
from .settings import DEFAULT_THRESHOLD, EvaluationSettings, require_counts, versions

_HALVES = 2
_BATCH = 12  # queries matched at once
_REFERENCES = 1200  # of all classes together, for the statistics of embeddings; of each class one or more
MIN_SEARCHES = 10  # of images for categories that are in them, in each half; below, shares mean little
METRICS = {
    "precision": "precision of instances",
    "recall": "recall of instances",
    "F1": "F1 of instances",
    "found": "present queries with a right detection",
    "present_firing": "present queries that show a detection",
    "absent_firing": "absent queries that show a detection",
    "false_detections": "false detections per absent query (number)",
    "AUROC": "AUROC of presence",
}


@dataclasses.dataclass(frozen=True)
class CalibrationSettings:
    """What a calibration asks for.

    Attributes:
        class_ids: [n] to search for; None: the data set's ACTIVE_CLASSES.
        limit: use the first `limit` images; None: all.
        absent: number of classes of each image that are not in it, or "all" of them.
        runs: searches for each class in an image, with references of their own.
        seed: of all draws.
        false_alarms: maximum share of absent queries that show a detection; None: the threshold with the best F1.
        verify: fit a verification; if not, the threshold is for the network's scores.
        references: maximum number of references of each class for the statistics of embeddings; fewer of many classes.
        views: of each crop that verification compares, 1, 2 or 8 (`similarity.views_of`).

    Raises:
        ValueError: names the setting.
    """

    class_ids: Sequence[int] | None = None
    limit: int | None = None
    absent: int | str = "all"
    runs: int = 1
    seed: int = 0
    false_alarms: float | None = None
    verify: bool = True
    references: int = 50
    views: int = 2

    def __post_init__(self) -> None:
        require_counts(limit=self.limit, runs=self.runs, references=self.references)
        EvaluationSettings(absent=self.absent)
        if self.limit == 1:
            raise InputError("limit = 1: expected 2 or more, half of the images are held out")
        if self.views not in similarity.VIEWS:
            raise InputError(f"views = {self.views}: expected one of {', '.join(map(str, similarity.VIEWS))}")
        if self.false_alarms is not None and not 0 <= self.false_alarms < 1:
            raise InputError(f"false_alarms = {self.false_alarms}: expected a share from 0 to below 1")

    @property
    def rule(self) -> str:
        """How the threshold is chosen."""
        return "best F1" if self.false_alarms is None else f"false alarms {self.false_alarms:g}"


@dataclasses.dataclass(frozen=True)
class SearchedQuery:
    """The finds of one query, in descending order of score.

    Attributes:
        image: number of the image in the order of the search.
        scores: [n], of the network.
        similarities: [n] to the reference; 0 without a verification.
        overlaps: IoU [n, g] with the annotations of the category in the image.
        crowds: bool [g].
    """

    image: int
    scores: np.ndarray
    similarities: np.ndarray
    overlaps: np.ndarray
    crowds: np.ndarray

    @property
    def num_instances(self) -> int:
        """Instances of the category in the image; 0 of an absent one."""
        return int((~self.crowds).sum())

    def outcomes(self, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(scores [n] in descending order, their outcomes int8 [n] at IoU 0.5, as of `analysis.match_outcomes`)."""
        order = np.argsort(-scores, kind="stable")
        return scores[order], match_outcomes(self.overlaps[order], self.crowds, IOU_THRESHOLDS[0])


def calibrate(
    predictor: SiamesePredictor,
    dataset: Dataset,
    settings: CalibrationSettings | None = None,
    *,
    weights_sha256: str,
    progress: bool = True,
) -> Calibration:
    """Fit verification and threshold.

    Args:
        predictor: with the weights; its own threshold and verification are not used.
        dataset: with indices built, or of your own class (`data.custom`); references are drawn from all of it.
        weights_sha256: checksum of the weight file (`io.files.checksum`).

    Raises:
        ValueError: fewer than two images, no usable reference, or nothing right or wrong was found to fit with.
    """
    dataset, settings = indexed_dataset(dataset, progress=progress), settings or CalibrationSettings()
    class_ids = [int(one) for one in (dataset.ACTIVE_CLASSES if settings.class_ids is None else settings.class_ids)]
    asked, verification = queries_to_ask(predictor.config, dataset, class_ids, settings), None
    if settings.verify:
        found = reference_embeddings(predictor, dataset, class_ids, settings, asked[1::_HALVES], progress=progress)
        verification = similarity.fit_statistics(found, views=settings.views)
    queries = search(_searching(predictor, verification), dataset, asked, settings, progress=progress)
    verification, threshold, metrics = _fit(queries, verification, settings)
    about = _about(dataset, class_ids, settings, queries)
    return Calibration(weights_sha256, threshold, settings.rule, verification, about, metrics)


# ---- statistics of embeddings -------------------------------------------------------------------------------------
def reference_embeddings(
    predictor: SiamesePredictor,
    dataset: IndexedCocoDataset,
    class_ids: Sequence[int],
    settings: CalibrationSettings,
    held_out: Sequence[tuple[int, list[int]]] = (),
    *,
    progress: bool = True,
) -> np.ndarray:
    """Embeddings [n, levels, channels] of up to `settings.references` instances of each class.

    None of them is in the images that are `held_out`.
    """
    vectors, avoided = [], {image_id for image_id, _ in held_out}
    for class_id in tqdm(class_ids, desc="references", unit="category", disable=not progress):
        if not has_reference(dataset, class_id, predictor.config):
            continue
        key: dict[str, Any] = {"seed": settings.seed, "run": 0, "image_id": 0, "config": predictor.config}
        # of one query; an instance that is drawn again counts once
        shots = range(min(settings.references, max(_REFERENCES // len(class_ids), 1)))
        drawn = sorted({draw_reference(dataset, class_id, shot=shot, **key) for shot in shots})
        drawn = [reference for reference in drawn if reference[0] not in avoided]
        if not drawn:
            continue
        crops = [cut_reference(dataset, predictor.config, *reference) for reference in drawn]
        vectors.append(predictor.encode_views(crops, settings.views))
    if not vectors:
        raise InputError(f"{dataset.set_name}: none of the categories {list(class_ids)} has a usable reference")
    return np.concatenate(vectors)


# ---- the search --------------------------------------------------------------------------------------------------
def _searching(predictor: SiamesePredictor, verification: Verification | None) -> SiamesePredictor:
    """A predictor with the same weights, without masks, that keeps everything that a threshold may be chosen from."""
    config: Config = predictor.config.replace(VERIFY_DETECTIONS=verification is not None)
    config = config.replace(DETECTION_MIN_CONFIDENCE=config.VERIFY_MIN_CONFIDENCE)
    return predictor.without_masks(config, verification)


def queries_to_ask(
    config: Config, dataset: IndexedCocoDataset, class_ids: Sequence[int], settings: CalibrationSettings
) -> Queries:
    """The images to search, each for classes that are in it and for absent ones; every second image is held out.

    Raises:
        ValueError: fewer than two images have such a query.
    """
    image_ids = dataset.image_ids.tolist()[: settings.limit]
    chosen: dict[str, Any] = {"image_ids": image_ids, "class_ids": class_ids, "seed": settings.seed}
    present = [query for query in queries_of(dataset, class_ids) if query[0] in set(image_ids)]
    asked = with_absent(dataset, present, settings.absent, config=config, **chosen)
    if len(asked) < _HALVES:
        raise InputError(f"{dataset.set_name}: {len(asked)} images to search, expected 2 or more")
    return asked


def search(
    predictor: SiamesePredictor,
    dataset: IndexedCocoDataset,
    asked: Queries,
    settings: CalibrationSettings,
    *,
    progress: bool = True,
) -> list[SearchedQuery]:
    """Search images for classes, with one reference each, from another image where the class has one."""
    key: dict[str, Any] = {"config": predictor.config, "seed": settings.seed}
    samplers = [RandomReferenceSampler(dataset, **key, exclude_query_image=other) for other in (False, True)]
    found: list[SearchedQuery] = []
    embeddings: dict[tuple[int, int], ReferenceEmbedding] = {}
    for number, (image_id, classes) in enumerate(tqdm(asked, desc="search", unit="image", disable=not progress)):
        scene = predictor.encode_scenes([dataset.load_image(image_id)])
        predictor.share(scene)
        asks = list(itertools.product(range(settings.runs), classes))
        for start in range(0, len(asks), _BATCH):
            queries, truths = list[ReferenceEmbedding](), list[ImageTruth]()
            for run, class_id in asks[start : start + _BATCH]:
                reference = samplers[len(dataset.images_of(class_id)) > 1](image_id, class_id, run, 1)[0]
                if reference not in embeddings:
                    crop = cut_reference(dataset, predictor.config, *reference)
                    embeddings[reference] = predictor.encode_references([crop])
                queries.append(embeddings[reference])
                truths.append(_truth(dataset, image_id, class_id))
            found += _searched(predictor, scene.for_queries(len(queries)), queries, truths, number)
    return found


def _truth(dataset: IndexedCocoDataset, image_id: int, class_id: int) -> ImageTruth:
    info, category_id = dataset.image_info[image_id], dataset.class_info[class_id]["id"]
    return ImageTruth([entry for entry in info["annotations"] if entry["category_id"] == category_id], info, "bbox")


def _searched(
    predictor: SiamesePredictor,
    scenes: EncodedScenes,
    queries: Sequence[ReferenceEmbedding],
    truths: Sequence[ImageTruth],
    number: int,
) -> list[SearchedQuery]:
    """The finds of queries in one image, number `number`: `scenes` are it, for each of them."""
    outputs = predictor.match(scenes, queries, masks=False)
    found = predictor.unmold(scenes, outputs)
    every = predictor.similarities(scenes, outputs, queries) if predictor.verifies else [None] * len(found)
    searched = []
    for one, similarities, truth in zip(found, every, truths, strict=True):
        scores = np.asarray(one["scores"], np.float64)
        boxes = [result["bbox"] for result in results_of(0, 0, one["rois"], scores, None)]
        # `unmold` drops finds without a similarity, too
        known = np.zeros(len(scores)) if similarities is None else similarities[np.isfinite(similarities)]
        overlaps = truth.overlaps(boxes).reshape(len(boxes), len(truth.crowds))  # without instances it is flat
        searched.append(SearchedQuery(number, scores, known, overlaps, truth.crowds.astype(bool)))
    return searched


# ---- the fit -----------------------------------------------------------------------------------------------------
def _fit(
    queries: Sequence[SearchedQuery], verification: Verification | None, settings: CalibrationSettings
) -> tuple[Verification | None, float, dict[str, dict[str, float | None]]]:
    """(`verification` with weights, threshold, metrics): fitted on the images with even numbers, held out on others."""
    fitting, others = ([query for query in queries if query.image % _HALVES == half] for half in range(_HALVES))
    if verification is not None:
        verification = _weighted(verification, fitting)
    fitted, held_out = ([_verified(query, verification) for query in half] for half in (fitting, others))
    threshold = choose_threshold(fitted, fitting, settings.false_alarms)
    metrics = {
        "fitted": metrics_at(threshold, fitted, fitting),
        "held_out": metrics_at(threshold, held_out, others),
        "published": metrics_at(DEFAULT_THRESHOLD, [query.scores for query in others], others),
    }
    return verification, threshold, metrics


def _weighted(verification: Verification, queries: Sequence[SearchedQuery]) -> Verification:
    """`verification` with the weights that fit the finds of these queries."""
    outcomes = _joined([query.outcomes(query.scores)[1] for query in queries])
    scores, similarities = (_joined([getattr(query, name) for query in queries]) for name in ("scores", "similarities"))
    counted = outcomes != IGNORED
    is_right = outcomes[counted] == TRUE_POSITIVE
    return similarity.fit_weights(verification, scores[counted], similarities[counted], is_right)


def _verified(query: SearchedQuery, verification: Verification | None) -> np.ndarray:
    return query.scores if verification is None else verification.rescore(query.scores, query.similarities)


def choose_threshold(
    scores: Sequence[np.ndarray], queries: Sequence[SearchedQuery], false_alarms: float | None = None
) -> float:
    """The threshold of the scores of queries, each [n].

    Args:
        false_alarms: maximum share of absent queries that show a detection; None: the threshold with the best F1.

    Returns:
        the middle between the lowest score that is kept and the next one.

    Raises:
        ValueError: no query for an absent class to count false alarms in, or nothing was found.
    """
    ranked = [query.outcomes(one) for query, one in zip(queries, scores, strict=True)]
    every, outcomes = (_joined([one[part] for one in ranked]) for part in (0, 1))
    if not every.size:
        raise InputError("nothing was found: there are no scores to choose a threshold from")
    if false_alarms is None:
        counted = outcomes != IGNORED
        values, is_right = every[counted], outcomes[counted] == TRUE_POSITIVE
        order = np.argsort(-values, kind="stable")
        values, right = values[order], np.cumsum(is_right[order])
        total = sum(query.num_instances for query in queries)
        f1 = 2 * right / (np.arange(1, len(values) + 1) + total)
        f1[:-1][values[:-1] == values[1:]] = -1  # a threshold does not part equal scores
        lowest = float(values[f1.argmax()]) if values.size else 1.0
    else:
        absent = [one.max(initial=0.0) for query, one in zip(queries, scores, strict=True) if not query.num_instances]
        silent = silent_above(absent, false_alarms)
        if silent is None:
            raise InputError(f"false alarms {false_alarms:g}: no image was searched for a category that is not in it")
        lowest = float(every[every > silent].min(initial=1.0))
    return (lowest + float(every[every < lowest].max(initial=0.0))) / 2


def metrics_at(
    threshold: float, scores: Sequence[np.ndarray], queries: Sequence[SearchedQuery]
) -> dict[str, float | None]:
    """METRICS of queries, with boxes at IoU 0.5, and how many queries of each kind there are.

    `scores` are [n] of each query. A metric without anything to count is None.
    """
    ranked = [query.outcomes(one) for query, one in zip(queries, scores, strict=True)]
    shown = [outcomes[(values >= threshold) & (outcomes != IGNORED)] for values, outcomes in ranked]
    is_present = np.array([query.num_instances > 0 for query in queries], bool)
    right = np.array([(one == TRUE_POSITIVE).sum() for one in shown], int)
    counts, best = np.array([len(one) for one in shown], int), np.array([one.max(initial=0.0) for one in scores])
    total = sum(query.num_instances for query in queries)
    return {
        "precision": ratio(right.sum(), counts.sum()),
        "recall": ratio(right.sum(), total),
        "F1": ratio(2 * right.sum(), counts.sum() + total),
        "found": ratio((right[is_present] > 0).sum(), is_present.sum()),
        "present_firing": ratio((best[is_present] >= threshold).sum(), is_present.sum()),
        "absent_firing": ratio((best[~is_present] >= threshold).sum(), (~is_present).sum()),
        "false_detections": ratio(counts[~is_present].sum(), (~is_present).sum()),
        "AUROC": auroc(best[is_present], best[~is_present]),
        "num_present": int(is_present.sum()),
        "num_absent": int((~is_present).sum()),
    }


def doubts(calibration: Calibration) -> list[str]:
    """Why the threshold and the metrics of a calibration mean little, in words; empty if there is no reason."""
    fitted, held_out = (calibration.metrics[half] for half in ("fitted", "held_out"))
    counts = [int(half["num_present"] or 0) // calibration.about["runs"] for half in (fitted, held_out)]
    found = []
    if min(counts) < MIN_SEARCHES:
        found.append(
            f"{counts[0]} for fitting and {counts[1]} held out are too few searches of images for categories that are "
            f"in them, expected {MIN_SEARCHES} of each or more: threshold and metrics mean little"
        )
    if counts[1] and not held_out["found"]:
        found.append("nothing right is found in the images that are held out")
    return found


def _about(
    dataset: IndexedCocoDataset,
    class_ids: Sequence[int],
    settings: CalibrationSettings,
    queries: Sequence[SearchedQuery],
) -> dict[str, Any]:
    """Data, settings and versions, for the file."""
    names = ("limit", "absent", "runs", "seed", "false_alarms", "references", "views")
    return {
        "dataset": dataset.set_name,
        "categories": [dataset.class_info[class_id]["name"] for class_id in class_ids],
        "num_images": len({query.image for query in queries}),
        **{name: getattr(settings, name) for name in names},
        "versions": versions(),
    }


def _joined(parts: Sequence[npt.ArrayLike]) -> np.ndarray:
    return np.concatenate([np.zeros(0), *map(np.asarray, parts)])
