"""Scores by number of instances and confusion: against COCOeval used by hand, and small cases on paper."""

import contextlib
import copy
import io
import json
import logging

import coco_tree
import numpy as np
import pycocotools.mask as coco_mask
import pytest
from pycocotools.cocoeval import COCOeval

from siamese_mrcnn_tf.data.annotations import annotation_rle, coco_object
from siamese_mrcnn_tf.evaluation import analysis

SIZE = (96, 128)
IMAGES, CATEGORIES = range(1, 13), [3, 7, 18]


@pytest.fixture(scope="module")
def coco():
    """12 images of up to 7 rectangles of a category, some of two or three categories; crowds in two of them."""
    rng, annotations = np.random.default_rng(5), []
    for image_id in IMAGES:
        for category, count in zip(CATEGORIES, rng.integers(0, 8, 3) * (rng.random(3) < 0.7), strict=True):
            for _ in range(count):
                annotations.append(_annotation(len(annotations), image_id, category, _box(rng)))
        if image_id % 5 == 0:
            annotations.append(_annotation(len(annotations), image_id, 7, [0, 60, 128, 30], iscrowd=1))
    return _coco(annotations)


def _coco(annotations):
    images = [{"id": i, "file_name": f"{i}.png", "height": SIZE[0], "width": SIZE[1]} for i in IMAGES]
    return coco_object({"images": images, "annotations": annotations, "categories": list(coco_tree.CATEGORIES)})


def _box(rng):
    return [*rng.integers(0, 60, 2).tolist(), *rng.integers(10, 36, 2).tolist()]


def _annotation(number, image_id, category, box, iscrowd=0):
    x, y, width, height = box
    outline = [x, y, x + width, y, x + width, y + height, x, y + height]
    return {
        "id": number + 1,
        "image_id": image_id,
        "category_id": category,
        "bbox": [float(value) for value in box],
        "area": float(width * height),
        "segmentation": [outline] if not iscrowd else coco_mask.frPyObjects([outline], *SIZE)[0],
        "iscrowd": iscrowd,
    }


def results_of(coco, *, seed=0, noise=6):
    """For every category that is in an image: boxes near instances of any category, and some anywhere."""
    rng, results = np.random.default_rng(seed), []
    for image_id in coco.imgs:
        truth = coco.imgToAnns[image_id]
        for category in sorted({entry["category_id"] for entry in truth if not entry["iscrowd"]}):
            boxes = [np.array(entry["bbox"]) + rng.integers(0, noise, 4) for entry in truth] + [_box(rng)] * 2
            for box in boxes:
                rle = coco_mask.frPyObjects([_annotation(0, 0, 0, box)["segmentation"][0]], *SIZE)[0]
                found = {"bbox": [float(v) for v in box], "segmentation": rle, "score": round(rng.random(), 1)}
                results.append({"image_id": image_id, "category_id": category, **found})
    return results


def perfect(coco):
    found = [entry for entry in coco.dataset["annotations"] if not entry["iscrowd"]]
    masks = [annotation_rle(entry, *SIZE) for entry in found]
    keys = ("image_id", "category_id", "bbox")
    return [
        {key: entry[key] for key in keys} | {"score": 0.9, "segmentation": mask}
        for entry, mask in zip(found, masks, strict=True)
    ]


def by_hand(coco, results, iou_type, image_ids, category_ids, keep=lambda image, category: True):
    """(AP, AP50) of COCOeval on the (image, category) pairs to keep."""
    wanted = [entry for entry in coco.dataset["annotations"] if keep(entry["image_id"], entry["category_id"])]
    truth = coco_object(copy.deepcopy(coco.dataset | {"annotations": wanted}))
    results = [r for r in results if keep(r["image_id"], r["category_id"]) and r["category_id"] in category_ids]
    results = [{key: value for key, value in result.items() if key != "area"} for result in results]
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(truth, truth.loadRes(copy.deepcopy(results)), iou_type)
        evaluation.params.imgIds, evaluation.params.catIds = list(image_ids), list(category_ids)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats[0], evaluation.stats[1]


def count(coco, image_id, category):
    return sum(a["category_id"] == category and not a["iscrowd"] for a in coco.imgToAnns[image_id])


# ---- by number -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
@pytest.mark.parametrize("seed", [0, 1])
def test_all_queries_equal_cocoeval(coco, iou_type, seed):
    results = results_of(coco, seed=seed)
    settings = {"image_ids": IMAGES, "category_ids": CATEGORIES}
    table = analysis.by_number(analysis.match_queries(coco, results, iou_type, **settings), [(1, None)])
    expected = by_hand(coco, results, iou_type, IMAGES, CATEGORIES)
    assert (table["AP"][0], table["AP50"][0]) == pytest.approx(expected, abs=1e-12) and 0 < expected[0] < 1


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_bins_equal_cocoeval_on_their_pairs(coco, iou_type):
    results, bins = results_of(coco), [(1, 1), (2, 3), (4, 5), (6, None)]
    queries = analysis.match_queries(coco, results, iou_type, image_ids=IMAGES, category_ids=CATEGORIES)
    table = analysis.by_number(queries, bins)
    assert table["bins"] == ["1", "2-3", "4-5", "6+"] and all(table["num_queries"])
    for index, (first, last) in enumerate(bins):
        in_bin = {
            (i, c) for i in IMAGES for c in CATEGORIES if first <= count(coco, i, c) <= (99 if last is None else last)
        }
        expected = by_hand(coco, results, iou_type, IMAGES, CATEGORIES, lambda *pair, of=in_bin: pair in of)
        assert table["num_queries"][index] == len(in_bin)
        assert table["num_instances"][index] == sum(count(coco, *pair) for pair in in_bin)
        assert (table["AP"][index], table["AP50"][index]) == pytest.approx(expected, abs=1e-12)


def test_empty_bins_and_no_detections(coco):
    queries = analysis.match_queries(coco, [], "bbox", image_ids=IMAGES, category_ids=CATEGORIES)
    table = analysis.by_number(queries)
    assert table["bins"] == ["1", "2", "3", "4-5", "6-10", "11+"]
    assert table["AP50"][0] == table["AP"][0] == 0.0
    assert table["num_queries"][-1] == 0 and table["AP50"][-1] is table["AP"][-1] is None
    assert sum(table["num_queries"]) == len(queries)


def test_at_most_a_hundred_detections_count():
    coco = _coco([_annotation(0, 1, 3, [10, 10, 20, 20])])
    wrong = {"image_id": 1, "category_id": 3, "bbox": [70.0, 60.0, 5.0, 5.0], "score": 0.9}
    right = wrong | {"bbox": [10.0, 10.0, 20.0, 20.0], "score": 0.1}
    for number, expected in ((99, 1 / 100), (100, 0)):
        results = [right] + [wrong] * number
        queries = analysis.match_queries(coco, results, "bbox", image_ids=[1], category_ids=[3])
        assert analysis.by_number(queries)["AP50"][0] == pytest.approx(expected)
        assert by_hand(coco, results, "bbox", [1], [3])[1] == pytest.approx(expected)


# ---- confusion -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_confusion_equals_cocoeval(coco, iou_type):
    results = results_of(coco)
    queries = analysis.match_queries(coco, results, iou_type, image_ids=IMAGES, category_ids=CATEGORIES)
    matrix = analysis.confusion(queries, CATEGORIES)
    for row, searched in enumerate(CATEGORIES):
        images = [i for i in IMAGES if count(coco, i, searched)]
        found = [result for result in results if result["category_id"] == searched]
        for column, other in enumerate(CATEGORIES):
            taken = [result | {"category_id": other} for result in found]
            assert matrix[row, column] == pytest.approx(by_hand(coco, taken, iou_type, images, [other])[1], abs=1e-12)


def test_confusion_of_perfect_and_of_confused_detections():
    box, beside = [10, 10, 20, 20], [60, 10, 20, 20]
    coco = _coco([_annotation(0, 1, 3, box), _annotation(1, 1, 7, beside), _annotation(2, 2, 18, box)])
    settings = {"image_ids": [1, 2], "category_ids": CATEGORIES}
    queries = analysis.match_queries(coco, perfect(coco), "bbox", **settings)
    matrix = analysis.confusion(queries, CATEGORIES)
    assert matrix == pytest.approx(np.array([[1, 0, np.nan], [0, 1, np.nan], [np.nan, np.nan, 1]]), nan_ok=True)
    swapped = [result | {"category_id": {3: 7, 7: 3, 18: 18}[result["category_id"]]} for result in perfect(coco)]
    matrix = analysis.confusion(analysis.match_queries(coco, swapped, "bbox", **settings), CATEGORIES)
    assert matrix == pytest.approx(np.array([[0, 1, np.nan], [1, 0, np.nan], [np.nan, np.nan, 1]]), nan_ok=True)
    assert analysis.column_histogram(matrix) == pytest.approx([1, 1, np.nan], nan_ok=True)


def test_column_histogram_leaves_out_the_diagonal_and_what_is_unknown():
    matrix = [[0.9, 0.1, np.nan], [0.3, 0.8, 0.2], [0.5, np.nan, 0.7]]
    assert analysis.column_histogram(matrix) == pytest.approx([0.4, 0.1, 0.2])
    assert np.isnan(analysis.column_histogram([[0.5]])).all()


# ---- an evaluation ---------------------------------------------------------------------------------------------------


def test_analyse_joins_runs(coco, capsys):
    runs = [results_of(coco, seed=seed) for seed in range(3)]
    before = copy.deepcopy((coco.dataset, runs))
    table = analysis.analyse(coco, runs, image_ids=IMAGES, category_ids=CATEGORIES, progress=False)
    assert (coco.dataset, runs) == before and capsys.readouterr().out == ""
    assert json.loads(json.dumps(table, allow_nan=False)) == table
    assert table["category_names"]["7"] == "rectangle"
    assert table["num_instances"]["3"] == sum(count(coco, i, 3) for i in IMAGES)
    numbers = table["by_number"]
    for kind in ("bbox", "segm"):
        single = [run[kind]["AP50"][0] for run in numbers["runs"]]
        assert numbers["mean"][kind]["AP50"][0] == pytest.approx(np.mean(single))
        assert numbers["interval"][kind]["AP50"][0] == pytest.approx(1.96 * np.std(single) / np.sqrt(3))
        assert numbers["mean"][kind]["AP50"][-1] is None
        settings = {"image_ids": IMAGES, "category_ids": CATEGORIES}
        matrices = [analysis.confusion(analysis.match_queries(coco, run, kind, **settings), CATEGORIES) for run in runs]
        assert table["confusion"][kind]["matrix"] == pytest.approx(np.mean(matrices, axis=0))
        histograms = [analysis.column_histogram(matrix) for matrix in matrices]
        assert table["confusion"][kind]["histogram"] == pytest.approx(np.mean(histograms, axis=0))


def test_analyse_of_boxes_alone(coco):
    bare = [{k: result[k] for k in ("image_id", "category_id", "bbox", "score")} for result in results_of(coco)]
    settings = {"image_ids": IMAGES, "category_ids": CATEGORIES, "iou_types": ("bbox",), "progress": False}
    table = analysis.analyse(coco, [bare], **settings)
    assert "segm" not in table["confusion"] and table["by_number"]["interval"]["bbox"]["AP"][0] is None


def test_perfect_detections_score_one_everywhere(coco):
    table = analysis.analyse(coco, [perfect(coco)], image_ids=IMAGES, category_ids=CATEGORIES, progress=False)
    for kind in ("bbox", "segm"):
        scores = [value for value in table["by_number"]["mean"][kind]["AP"] if value is not None]
        assert scores == pytest.approx([1.0] * len(scores))
        assert np.diag(table["confusion"][kind]["matrix"]) == pytest.approx([1.0] * 3)


# ---- what may go wrong -----------------------------------------------------------------------------------------------


def test_missing_and_single_categories_are_named(caplog):
    coco = _coco([_annotation(0, 1, 3, [10, 10, 20, 20]), *(_annotation(n, n, 7, [10, 10, 20, 20]) for n in (1, 2))])
    with caplog.at_level(logging.WARNING):
        table = analysis.analyse(coco, [perfect(coco)], image_ids=IMAGES, category_ids=CATEGORIES, progress=False)
    assert "no instance in the images, so no score: 1 of 3 categories (triangle)" in caplog.text
    assert "one instance, so the score says little: 1 of 3 categories (ellipse)" in caplog.text
    matrix = table["confusion"]["bbox"]["matrix"]
    assert [row[2] for row in matrix] == matrix[2] == [None] * 3 and table["num_instances"]["18"] == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"image_id": 99},
            "result 1: image_id = 99 is not in the annotation file; are these the results of another set",
        ),
        ({"score": float("nan")}, "result 1: score = nan, expected a number"),
        (
            {"segmentation": {"size": [5, 5], "counts": [25]}},
            r"result 1: segmentation is no RLE .* image 1 \(96 x 128\)",
        ),
    ],
)
def test_bad_results(coco, change, message):
    results = results_of(coco)
    results[1] |= change
    with pytest.raises(ValueError, match=message):
        analysis.match_queries(coco, results, "segm", image_ids=IMAGES, category_ids=CATEGORIES)


def test_bad_arguments(coco):
    settings = {"image_ids": IMAGES, "category_ids": CATEGORIES, "progress": False}
    with pytest.raises(ValueError, match="expected the results of one run or more, got none"):
        analysis.analyse(coco, [], **settings)
    with pytest.raises(ValueError, match=r"category ids \[4\] are not in the annotation file"):
        analysis.analyse(coco, [[]], **settings | {"category_ids": [3, 4]})
    with pytest.raises(ValueError, match=r"image ids \[77\] are not in the annotation file"):
        analysis.analyse(coco, [[]], **settings | {"image_ids": [77]})
    with pytest.raises(ValueError, match="result 0: the key 'score' is missing"):
        analysis.analyse(coco, [[{"image_id": 1, "category_id": 3}]], **settings)
    with pytest.raises(ValueError, match="iou_type = 'mask': expected one of bbox, segm"):
        analysis.match_queries(coco, [], "mask", image_ids=IMAGES, category_ids=CATEGORIES)
    with pytest.raises(ValueError, match="no ground truth: none of 1 images"):
        analysis.analyse(_coco([]), [[]], **settings | {"image_ids": [1]})
