"""The open protocol's metrics, against hand-made cases and independent computations."""

import itertools
import re

import numpy as np
import pycocotools.mask as coco_mask
import pytest

from siamese_mrcnn_tf.data.annotations import coco_object
from siamese_mrcnn_tf.evaluation import coco_scores
from siamese_mrcnn_tf.evaluation.presence import (
    INSTANCE_METRICS,
    QUERIES,
    QUERY_METRICS,
    auroc,
    matthews,
    presence,
    silent_above,
    table,
)
from siamese_mrcnn_tf.evaluation.records import Records

SIDE = 64
NUM_IMAGES, CATEGORIES = 8, (2, 5, 9)


def rle_of(box):
    x, y, width, height = box
    mask = np.zeros((SIDE, SIDE), np.uint8, order="F")
    mask[y : y + height, x : x + width] = 1
    rle = coco_mask.encode(mask)
    return {"size": rle["size"], "counts": rle["counts"].decode()}


def annotation(number, image_id, category_id, box, iscrowd=0):
    about = {"id": number, "image_id": image_id, "category_id": category_id, "iscrowd": iscrowd}
    return about | {"bbox": box, "area": box[2] * box[3], "segmentation": rle_of(box)}


def coco_of(annotations, *, num_images=NUM_IMAGES, category_ids=CATEGORIES):
    images = [{"id": i, "width": SIDE, "height": SIDE, "file_name": f"{i}.png"} for i in range(1, num_images + 1)]
    categories = [{"id": i, "name": f"category {i}"} for i in category_ids]
    return coco_object({"images": images, "annotations": annotations, "categories": categories})


def random_box(rng):
    x, y = rng.integers(0, 30, 2).tolist()
    width, height = rng.integers(8, 30, 2).tolist()
    return [x, y, width, height]


@pytest.fixture
def coco():
    """Eight images; each has one or two of three categories, once or twice, and a crowd is in the first."""
    rng, entries = np.random.default_rng(0), []
    for image_id in range(1, NUM_IMAGES + 1):
        for category in rng.choice(CATEGORIES, rng.integers(1, 3), replace=False).tolist():
            for _ in range(rng.integers(1, 3)):
                entries.append(annotation(len(entries) + 1, image_id, category, random_box(rng)))
    first = next(entry for entry in entries if entry["image_id"] == 1)
    entries.append(annotation(len(entries) + 1, 1, first["category_id"], [0, 0, 60, 20], iscrowd=1))
    return coco_of(entries)


def detection(image_id, category_id, box, score):
    about = {"image_id": image_id, "category_id": category_id, "bbox": box, "score": float(score)}
    return about | {"area": float(box[2] * box[3]), "segmentation": rle_of(box)}


def records_of(coco, detect, *, runs=1, model="mrcnn", **settings):
    """The records of an evaluation of every category in every image; `detect` gives [(box, score)] of a query.

    Categories in an image as a crowd alone are not asked.
    """
    places = {}
    for image_id in coco.imgs:
        entries, queries = coco.imgToAnns[image_id], []
        for run, category in itertools.product(range(runs), sorted(coco.cats)):
            truth = [one["bbox"] for one in entries if one["category_id"] == category and not one["iscrowd"]]
            found = [detection(image_id, category, *each) for each in detect(run, image_id, category, truth)]
            query = {"run": run, "category_id": category, "references": [], "detections": found}
            queries.append(query if truth else query | {"absent": True})
        places[image_id] = {"image_id": image_id, "seconds": 1.0, "queries": queries}
    config = {"MODEL": model, "DETECTION_MIN_CONFIDENCE": 0.05}
    categories = [{"id": i, "name": one["name"]} for i, one in coco.cats.items()]
    about = {"images": list(coco.imgs), "categories": categories, "runs": runs, "config": config, "absent": "all"}
    return Records(about | settings, places)


def noisy(run, image_id, category, truth):
    """Shifted instances with higher scores, and false detections with lower ones."""
    rng = np.random.default_rng([run, image_id, category])
    shifted = [[max(0, int(side + rng.integers(-2, 3))) for side in box] for box in truth]
    false = [(random_box(rng), rng.uniform(0.05, 0.9)) for _ in range(rng.integers(0, 4))]
    return [(box, rng.uniform(0.3, 1)) for box in shifted] + false


def silent_where_absent(run, image_id, category, truth):
    return [(box, 0.9) for box in truth]


def nothing(run, image_id, category, truth):
    return []


# ---- parts -----------------------------------------------------------------------------------------------------------


def test_auroc_equals_the_count_of_ordered_pairs():
    rng = np.random.default_rng(1)
    present, absent = rng.integers(0, 8, 30) / 8, rng.integers(0, 6, 40) / 8  # with ties
    wins = sum((p > a) + 0.5 * (p == a) for p in present for a in absent)
    assert auroc(present, absent) == pytest.approx(wins / (30 * 40), abs=1e-12)
    assert auroc([0.0, 0.0], [0.0]) == 0.5 and auroc([1], [0.2, 0.4]) == 1 and auroc([0.1], [0.2]) == 0
    assert auroc([], [0.5]) is None and auroc([0.5], []) is None


def test_matthews_is_the_correlation_of_the_two_answers():
    tp, fp, fn, tn = 7, 3, 2, 11
    truth = [1] * tp + [0] * fp + [1] * fn + [0] * tn
    shown = [1] * (tp + fp) + [0] * (fn + tn)
    assert matthews(tp, fp, fn, tn) == pytest.approx(np.corrcoef(truth, shown)[0, 1], abs=1e-12)
    assert matthews(5, 0, 0, 5) == 1 and matthews(0, 5, 5, 0) == -1
    assert matthews(5, 5, 0, 0) == 0  # always shows something


def test_silent_above_lets_no_more_through_than_its_rate():
    absent = [0.9, 0.1, 0.5, 0.5, 0.0, 0.3, 0.2, 0.7, 0.0, 0.0]
    assert silent_above(absent, 0.1) == 0.7 and silent_above(absent, 0.05) == 0.9
    assert silent_above(absent, 0.3) == 0.5  # the two of 0.5 are 40% together with those above
    assert silent_above(absent, 1.0) == 0 and silent_above([], 0.1) is None
    for rate in np.linspace(0, 1, 21):
        assert np.mean(np.array(absent) > silent_above(absent, rate)) <= rate + 1e-9


# ---- whole evaluations -----------------------------------------------------------------------------------------------


def test_a_perfect_detector_that_is_silent_where_the_category_is_absent(coco):
    found = presence(coco, records_of(coco, silent_where_absent, runs=2))
    queries = found["mean"][QUERIES]
    assert queries["AUROC"] == queries["IL_MCC"] == queries["present_firing"] == queries["present_at_5"] == 1
    assert queries["absent_firing"] == queries["false_detections"] == 0
    for kind in ("bbox", "segm"):
        mean = found["mean"][kind]
        assert mean["AP"] == pytest.approx(1) and mean["cgF1"] == pytest.approx(100)
        ones = ("precision", "recall", "F1", "positive_F1", "found", "recall_at_5", "recall_at_10")
        assert [mean[name] for name in ones] == [1] * len(ones)
        assert found["interval"][kind]["cgF1"] == 0
        assert found["curve"][kind] == [1.0]
    assert found["curve"]["thresholds"] == [0.9] and found["curve"]["false_detections"] == [0.0]


def test_a_detector_that_finds_nothing(coco, caplog):
    found = presence(coco, records_of(coco, nothing))
    queries, boxes = found["mean"][QUERIES], found["mean"]["bbox"]
    assert queries["AUROC"] == 0.5 and queries["IL_MCC"] == 0 and queries["present_firing"] == 0
    assert boxes["AP"] == boxes["recall"] == boxes["precision"] == boxes["F1"] == boxes["cgF1"] == 0
    assert found["curve"]["thresholds"] == found["curve"]["bbox"] == []
    assert found["histogram"]["present"][0] == found["histogram"]["absent"][0] == 1


def test_a_case_by_hand():
    """Two images; category 2 is in the first, 5 in the second, twice."""
    truth = [
        annotation(1, 1, 2, [0, 0, 20, 20]),
        annotation(2, 2, 5, [0, 0, 10, 10]),
        annotation(3, 2, 5, [30, 30, 10, 10]),
    ]
    coco = coco_of(truth, num_images=2, category_ids=(2, 5))
    answers = {
        (1, 2): [([0, 0, 20, 14], 0.8), ([40, 40, 10, 10], 0.75)],  # IoU 0.7, and a false one
        (1, 5): [([5, 5, 10, 10], 0.9), ([5, 5, 20, 10], 0.3)],  # absent, and fires
        (2, 5): [([0, 0, 10, 10], 0.7), ([30, 30, 10, 10], 0.6)],  # the second is below the threshold
        (2, 2): [],  # absent, and silent
    }
    found = presence(coco, records_of(coco, lambda run, image, category, _: answers[image, category]))
    assert (found["num_images"], found["num_present"], found["num_absent"]) == (2, 2, 2)
    queries, boxes = found["runs"][0][QUERIES], found["runs"][0]["bbox"]
    assert queries["AUROC"] == 0.5  # 0.8 and 0.7 against 0.9 and 0
    assert queries["IL_MCC"] == pytest.approx((2 * 1 - 1 * 0) / np.sqrt(3 * 2 * 2 * 1))
    assert queries["present_firing"] == 1 and queries["absent_firing"] == 0.5 and queries["false_detections"] == 0.5
    assert boxes["precision"] == 2 / 4 and boxes["recall"] == 2 / 3 and boxes["F1"] == pytest.approx(4 / 7)
    assert boxes["found"] == 1
    # present queries alone show 3 detections, of 3 instances; one has an IoU of 1, one of 0.7 (right up to 0.7)
    counts = [2 if iou <= 0.7 + 1e-9 else 1 for iou in np.linspace(0.5, 0.95, 10)]
    positive = np.mean([2 * count / (3 + 3) for count in counts])
    assert boxes["positive_F1"] == pytest.approx(positive)
    assert boxes["cgF1"] == pytest.approx(100 * positive * 2 / np.sqrt(12))
    assert found["interval"]["bbox"]["F1"] is None  # of a single run


def cg_f1_of_sam3(coco, records, kind, threshold):
    """cgF1 as in sam3/eval/cgf1_eval.py, each query an image of its own, by trying every assignment."""
    ious = np.linspace(0.5, 0.95, 10)
    right, false, missed, answers = np.zeros(10), np.zeros(10), np.zeros(10), np.zeros((2, 2), int)
    shape = "bbox" if kind == "bbox" else "segmentation"
    for query in records.queries(0, absent=True):
        entries = coco.imgToAnns[query["image_id"]]
        truth = [e[shape] for e in entries if e["category_id"] == query["category_id"] and not e["iscrowd"]]
        found = [one[shape] for one in query["detections"] if one["score"] >= threshold]
        answers[int(bool(truth)), int(bool(found))] += 1
        if truth:
            overlaps = np.array(coco_mask.iou(found, truth, [0] * len(truth))).reshape(len(found), len(truth))
            size = max(overlaps.shape)
            square = np.zeros((size, size))
            square[: len(found), : len(truth)] = overlaps
            orders = itertools.permutations(range(size))
            best = max((square[np.arange(size), list(order)] for order in orders), key=np.sum)
            count = (best >= ious[:, None]).sum(axis=1)
            right, false, missed = right + count, false + len(found) - count, missed + len(truth) - count
    precision, recall = right / (right + false), right / (right + missed)
    (tn, fp), (fn, tp) = answers
    correlation = (tp * tn - fp * fn) / np.sqrt(float((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)))
    harmonic = 2 * precision * recall / np.maximum(precision + recall, 1e-9)
    return 100 * np.mean(harmonic) * correlation


@pytest.mark.parametrize("kind", ["bbox", "segm"])
@pytest.mark.parametrize("threshold", [0.2, 0.5])
def test_cg_f1_equals_the_published_definition(coco, kind, threshold):
    records = records_of(coco, noisy)
    expected = cg_f1_of_sam3(coco, records, kind, threshold)
    found = presence(coco, records, threshold=threshold)
    assert found["runs"][0][kind]["cgF1"] == pytest.approx(expected) and expected != 0


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_coco_metrics_count_the_absent_queries(coco, kind):
    records = records_of(coco, noisy)
    chosen = {"iou_type": kind, "image_ids": coco.imgs, "category_ids": CATEGORIES}
    expected = coco_scores.score(coco, records.results(0, absent=True), **chosen).stats
    mean = presence(coco, records)["mean"][kind]
    assert [mean[name] for name in coco_scores.METRICS if expected[name] >= 0] == pytest.approx(
        [value for value in expected.values() if value >= 0]
    )
    assert mean["AP"] < coco_scores.score(coco, records.results(0), **chosen).stats["AP"]


def test_recall_and_false_detections_along_the_curve(coco):
    records = records_of(coco, noisy, runs=2)
    found = presence(coco, records)
    curve, expected = found["curve"], {"recall": [], "false": [], "firing": []}
    for threshold in curve["thresholds"]:
        at = presence(coco, records, threshold=threshold)["mean"]
        expected["recall"].append(at["bbox"]["recall"])
        expected["false"].append(at[QUERIES]["false_detections"])
        expected["firing"].append(at[QUERIES]["absent_firing"])
    assert curve["bbox"] == pytest.approx(expected["recall"])
    assert curve["false_detections"] == pytest.approx(expected["false"])
    assert curve["absent_firing"] == pytest.approx(expected["firing"])
    assert curve["thresholds"] == sorted(curve["thresholds"], reverse=True) and 10 < len(curve["thresholds"]) <= 200


def test_recall_where_few_absent_queries_show_a_detection(coco):
    records = records_of(coco, noisy)
    found = presence(coco, records)
    best = [max([0, *(one["score"] for one in query["detections"])]) for query in records.queries(0, absent=True)]
    is_absent = np.array([bool(query.get("absent")) for query in records.queries(0, absent=True)])
    best = np.array(best)
    allowed = [t for t in np.unique(best) + 1e-9 if np.mean(best[is_absent] >= t) <= 0.1]
    expected = presence(coco, records, threshold=min(allowed))["mean"]
    assert found["mean"][QUERIES]["present_at_10"] == expected[QUERIES]["present_firing"] > 0
    assert found["mean"]["segm"]["recall_at_10"] == expected["segm"]["recall"] > 0


def test_detections_in_crowds_are_no_false_ones():
    crowd = annotation(2, 1, 2, [30, 0, 30, 30], iscrowd=1)
    coco = coco_of([annotation(1, 1, 2, [0, 0, 20, 20]), crowd], num_images=2, category_ids=(2,))
    answers = {1: [([0, 0, 20, 20], 0.9), ([35, 5, 10, 10], 0.8)], 2: []}
    found = presence(coco, records_of(coco, lambda run, image, *_: answers[image]))["mean"]
    assert found["bbox"]["precision"] == found["bbox"]["recall"] == 1


def test_some_categories_and_groups_are_measured_apart(coco):
    records = records_of(coco, noisy, runs=2)
    together = presence(coco, records, groups={"train": [2, 5], "novel": [9]})
    for name, ids in (("train", [2, 5]), ("novel", [9])):
        apart = presence(coco, records, category_ids=ids)
        assert apart.pop("groups") == {}
        assert together["groups"][name] == apart and apart["category_ids"] == ids
    of_groups = together["groups"].values()
    assert sum(one["num_absent"] for one in of_groups) == together["num_absent"]
    with pytest.raises(ValueError, match=r"category ids \[7\]"):
        presence(coco, records, category_ids=[7])


def test_means_of_runs_and_negative_correlations(coco):
    def wrong(run, image_id, category, truth):
        """Silent where the category is present, and the other way round in the last run."""
        return [([0, 0, 9, 9], 0.9)] if bool(truth) == (run == 2) else []

    found = presence(coco, records_of(coco, wrong, runs=3))
    assert [run[QUERIES]["IL_MCC"] for run in found["runs"]] == [-1, -1, 1]
    assert found["mean"][QUERIES]["IL_MCC"] == pytest.approx(-1 / 3)
    assert found["interval"][QUERIES]["IL_MCC"] == pytest.approx(1.96 * np.std([-1, -1, 1]) / np.sqrt(3))


def test_categories_that_are_in_every_image():
    coco = coco_of([annotation(1, 1, 2, [0, 0, 20, 20])], num_images=1, category_ids=(2,))
    found = presence(coco, records_of(coco, silent_where_absent))
    names = ("AUROC", "IL_MCC", "absent_firing", "false_detections", "present_at_5")
    assert [found["mean"][QUERIES][name] for name in names] == [None] * 5
    boxes = found["mean"]["bbox"]
    assert boxes["F1"] == 1 and boxes["cgF1"] is None and boxes["recall_at_5"] is None
    assert found["curve"]["false_detections"] is None and found["curve"]["bbox"] == [1.0]
    assert re.search(r"AUROC of presence +n/a", table(found))


def test_boxes_alone(coco):
    found = presence(coco, records_of(coco, noisy, model="frcnn"))
    assert set(found["mean"]) == {QUERIES, "bbox"}


@pytest.mark.parametrize("threshold", [0, 1.5, True, "0.5"])
def test_thresholds_are_checked(coco, threshold):
    with pytest.raises(ValueError, match="threshold = .*: expected a number above 0 and at most 1"):
        presence(coco, records_of(coco, noisy), threshold=threshold)


def test_the_threshold_of_the_settings(coco):
    assert presence(coco, records_of(coco, noisy))["threshold"] == 0.7
    low = presence(coco, records_of(coco, noisy, threshold=0.1))
    assert low["threshold"] == 0.1
    assert low["mean"] == presence(coco, records_of(coco, noisy), threshold=0.1)["mean"]


def test_the_table_has_every_metric(coco):
    text = table(presence(coco, records_of(coco, noisy, runs=2)))
    assert text.count("\n") == len(QUERY_METRICS) + 2 * len(INSTANCE_METRICS)
    assert all(label in text for label in QUERY_METRICS.values()) and "threshold 0.7" in text
