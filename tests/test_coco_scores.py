"""COCO results and their metrics, against pycocotools used by hand."""

import contextlib
import copy
import io
import itertools
import json
import logging
import math
import pathlib

import coco_tree
import numpy as np
import pycocotools.mask as coco_mask
import pytest
from pycocotools.cocoeval import COCOeval

from siamese_mrcnn_tf.data.annotations import annotation_rle
from siamese_mrcnn_tf.data.dataset import CocoDataset
from siamese_mrcnn_tf.evaluation import coco_scores

SHARED = pathlib.Path(__file__).resolve().parents[2] / "shared" / "data"
IMAGES, CATEGORIES = [10, 20, 30, 40], [3, 7, 18]


@pytest.fixture
def coco(tmp_path):
    coco_tree.write_tree(tmp_path)
    return CocoDataset().load_coco(tmp_path, "val", return_coco=True)


def detections_of(coco, *, seed=0, area="mask"):
    """Results near the ground truth, some of them poor, in the order of annotations."""
    rng, results = np.random.default_rng(seed), []
    for annotation in coco.dataset["annotations"]:
        image = coco.imgs[annotation["image_id"]]
        mask = coco_mask.decode(annotation_rle(annotation, image["height"], image["width"])).astype(bool)
        if annotation["iscrowd"] or not mask.any():
            continue
        for shift in (rng.integers(0, 2), rng.integers(0, 12)):
            moved = np.roll(mask, shift, axis=1)
            rows, columns = np.flatnonzero(moved.any(axis=1)), np.flatnonzero(moved.any(axis=0))
            box = [[rows[0], columns[0], rows[-1] + 1, columns[-1] + 1]]
            keys = (annotation["image_id"], annotation["category_id"])
            results += coco_scores.results_of(*keys, box, [rng.random()], moved[..., None], area=area)
    return results


def by_hand(coco, results, iou_type, image_ids, category_ids):
    """COCOeval as its authors use it: (stats, what it prints, precision)."""
    truth, out = copy.deepcopy(coco), io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()):
        detections = truth.loadRes(copy.deepcopy(results))
        evaluation = COCOeval(truth, detections, iou_type)
        evaluation.params.imgIds, evaluation.params.catIds = image_ids, category_ids
        evaluation.evaluate()
        evaluation.accumulate()
    with contextlib.redirect_stdout(out):
        evaluation.summarize()
    return evaluation.stats, out.getvalue(), evaluation.eval["precision"]


# ---- results ---------------------------------------------------------------------------------------------------------


def test_results_of():
    masks = np.zeros((6, 8, 2), bool)
    masks[1:3, 2:6, 0] = True
    masks[0:5, 0, 1] = True
    rois, scores = np.array([[1, 2, 3, 6], [0, 0, 5, 1.5]]), np.array([0.5, 0.25], np.float32)
    results = coco_scores.results_of(np.int64(10), 7, rois, scores, masks)
    assert [result["bbox"] for result in results] == [[2.0, 1.0, 4.0, 2.0], [0.0, 0.0, 1.5, 5.0]]
    assert [result["area"] for result in results] == [8.0, 5.0]
    assert [result["score"] for result in results] == [0.5, 0.25]
    assert all((result["image_id"], result["category_id"]) == (10, 7) for result in results)
    again = json.loads(json.dumps(results))
    assert again == results
    for index, result in enumerate(again):
        assert np.array_equal(coco_mask.decode(result["segmentation"]), masks[..., index])
    boxes = coco_scores.results_of(10, 7, rois, scores, masks, area="box")
    assert [result["area"] for result in boxes] == [8.0, 7.5]
    without = coco_scores.results_of(10, 7, rois, scores, None)
    assert "segmentation" not in without[0] and without[1]["area"] == 7.5


def test_results_of_nothing_and_of_what_does_not_fit():
    assert coco_scores.results_of(1, 1, np.zeros((0, 4)), np.zeros(0), np.zeros((5, 5, 0), bool)) == []
    assert coco_scores.results_of(1, 1, [], [], None) == []
    with pytest.raises(ValueError, match=r"image 1: rois, scores and masks differ in number: \[1, 1, 2\]"):
        coco_scores.results_of(1, 1, [[0, 0, 1, 1]], [0.5], np.zeros((5, 5, 2), bool))
    with pytest.raises(ValueError, match="area = 'bbox': expected one of mask, box"):
        coco_scores.results_of(1, 1, [], [], None, area="bbox")


# ---- metrics ---------------------------------------------------------------------------------------------------------


def test_perfect_detections(coco):
    results = [
        {"image_id": a["image_id"], "category_id": a["category_id"], "bbox": a["bbox"], "score": 0.9}
        for a in coco.dataset["annotations"]
        if not a["iscrowd"]
    ]
    scores = coco_scores.score(coco, results, iou_type="bbox", image_ids=IMAGES, category_ids=CATEGORIES)
    assert scores.stats["AP"] == pytest.approx(1) and scores.stats["AR100"] == 1
    assert scores.stats["AP_small"] == scores.stats["AP_medium"] == pytest.approx(1)  # triangles are small: 960
    assert scores.stats["AP_large"] == -1
    assert scores.per_class[7] == {"AP": pytest.approx(1), "AP50": pytest.approx(1)}
    assert (scores.num_images, scores.num_results, scores.is_empty) == (4, 6, False)


def test_hand_computed_precision(coco):
    """Two triangles; the more confident of two detections misses, the other hits with an IoU of 36 / 48."""
    hit = {"image_id": 20, "category_id": 18, "bbox": [84.0, 32.0, 36.0, 40.0], "score": 0.6}
    miss = hit | {"bbox": [0.0, 0.0, 5.0, 5.0], "score": 0.8}
    scores = coco_scores.score(coco, [hit, miss], iou_type="bbox", image_ids=IMAGES, category_ids=[18])
    assert coco.anns[104]["bbox"] == [72, 32, 48, 40]
    assert scores.stats["AP50"] == pytest.approx(0.5 * 51 / 101)  # precision 1/2 up to recall 1/2: 51 of 101 points
    assert scores.stats["AP"] == pytest.approx(0.5 * 51 / 101 * 6 / 10)  # thresholds 0.5 to 0.75
    assert scores.stats["AR1"] == 0 and scores.stats["AR10"] == pytest.approx(0.5 * 6 / 10)


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
@pytest.mark.parametrize("image_ids", [IMAGES, [20, 10]])
@pytest.mark.parametrize("category_ids", [CATEGORIES, [18, 3]])
def test_equals_cocoeval(coco, iou_type, image_ids, category_ids):
    results = detections_of(coco)
    if iou_type == "segm":  # without the box loadRes takes the area of the mask, as we do
        reference = [{key: value for key, value in result.items() if key != "bbox"} for result in results]
    else:
        reference = results
    stats, text, precision = by_hand(coco, reference, iou_type, image_ids, category_ids)
    scores = coco_scores.score(coco, results, iou_type=iou_type, image_ids=image_ids, category_ids=category_ids)
    assert list(scores.stats.values()) == stats.tolist() and 0 < scores.stats["AP"] < 1
    assert scores.table() + "\n" == text
    for index, category_id in enumerate(sorted(category_ids)):
        metrics = precision[:, :, index, 0, 2]
        assert scores.per_class[category_id] == {"AP": metrics.mean(), "AP50": metrics[0].mean()}


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_detections_of_categories_that_are_not_in_the_image_equal_cocoeval(coco, iou_type):
    """More than COCOeval counts, of all sizes, some with equal scores."""
    results, rng = detections_of(coco), np.random.default_rng(3)
    mask = np.zeros(coco_tree.SIZE, bool)
    for image_id, category_id in itertools.product(IMAGES, CATEGORIES):
        for _ in range(120 if image_id == IMAGES[-1] else 4):  # nothing is in the last image
            height, width = rng.integers(5, 60, 2).tolist()
            found = mask.copy()
            found[:height, :width] = True
            box, scores = [[0, 0, height, width]], [rng.integers(1, 8) / 8]
            results += coco_scores.results_of(image_id, category_id, box, scores, found[..., None])
    reference = results
    if iou_type == "segm":
        reference = [{key: value for key, value in result.items() if key != "bbox"} for result in results]
    stats, _, precision = by_hand(coco, reference, iou_type, IMAGES, CATEGORIES)
    scores = coco_scores.score(coco, results, iou_type=iou_type, image_ids=IMAGES, category_ids=CATEGORIES)
    assert list(scores.stats.values()) == stats.tolist()
    np.testing.assert_array_equal(scores.precision, precision)


def test_area_of_segm_results(coco):
    """A triangle fills half its box: by its mask it is small, by its box it is medium."""
    for annotation in coco.dataset["annotations"]:
        annotation["area"] = 500.0  # all ground truth is small
    mask = np.zeros(coco_tree.SIZE, bool)
    mask[0:30, 0:30] = True  # matches nothing: it counts as wrong only where its size is looked at
    mask = mask & (np.arange(96)[:, None] >= np.arange(128)[None])
    wide = [[0, 0, 40, 40]]
    settings = {"iou_type": "segm", "image_ids": IMAGES, "category_ids": [18]}
    right = coco_scores.results_of(20, 18, [[32, 72, 72, 120]], [0.5], coco.annToMask(coco.anns[104])[..., None])
    by_area = {}
    for area in ("mask", "box"):
        wrong = coco_scores.results_of(20, 18, wide, [0.9], mask[..., None], area=area)
        by_area[area] = coco_scores.score(coco, wrong + right, **settings).stats["AP_small"]
        stats = by_hand(coco, wrong + right, "segm", IMAGES, [18])[0]  # with boxes loadRes takes their area
    assert by_area["mask"] == pytest.approx(0.5 * 51 / 101)
    assert by_area["box"] == pytest.approx(51 / 101) == pytest.approx(stats[3])


def test_box_metrics_do_not_depend_on_masks(coco):
    results = detections_of(coco)
    settings = {"iou_type": "bbox", "image_ids": IMAGES, "category_ids": CATEGORIES}
    bare = [{key: result[key] for key in ("image_id", "category_id", "bbox", "score")} for result in results]
    assert coco_scores.score(coco, results, **settings) == coco_scores.score(coco, bare, **settings)


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_nothing_is_changed_or_printed(coco, iou_type, capsys):
    results = detections_of(coco)
    before = copy.deepcopy((coco.dataset, results))
    settings = {"iou_type": iou_type, "image_ids": IMAGES, "category_ids": CATEGORIES}
    first = coco_scores.score(coco, results, **settings)
    assert (coco.dataset, results) == before
    assert coco_scores.score(coco, results, **settings) == first
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_no_detections(coco, iou_type, caplog):
    with caplog.at_level(logging.WARNING):
        scores = coco_scores.score(coco, [], iou_type=iou_type, image_ids=IMAGES, category_ids=CATEGORIES)
    assert scores.is_empty and "no detections" in caplog.text
    assert scores.stats["AP"] == scores.stats["AP50"] == scores.stats["AR100"] == 0
    assert scores.stats["AP_large"] == -1
    assert set(scores.per_class) == set(CATEGORIES) and scores.per_class[3] == {"AP": 0, "AP50": 0}
    assert "= -1.000" in scores.table() and "= 0.000" in scores.table()


def test_no_ground_truth(coco):
    settings = {"iou_type": "bbox", "category_ids": CATEGORIES}
    with pytest.raises(ValueError, match=r"no ground truth: none of 1 images .* categories \[3, 7, 18\]"):
        coco_scores.score(coco, detections_of(coco), image_ids=[40], **settings)
    with pytest.raises(ValueError, match="no ground truth"):
        coco_scores.score(coco, [], iou_type="bbox", image_ids=[10], category_ids=[18])  # a crowd alone


def test_detections_in_crowds_do_not_count(coco):
    crowd = coco_scores.results_of(10, 18, [[88, 0, 96, 128]], [0.9], coco.annToMask(coco.anns[102])[..., None])
    right = coco_scores.results_of(20, 18, [[32, 72, 72, 120]], [0.5], coco.annToMask(coco.anns[104])[..., None])
    for iou_type in ("bbox", "segm"):
        settings = {"iou_type": iou_type, "image_ids": IMAGES, "category_ids": [18]}
        assert coco_scores.score(coco, crowd + right, **settings).stats["AP"] == pytest.approx(51 / 101)


def test_an_annotation_numbered_zero_can_be_found(tmp_path):
    content = coco_tree.write_tree(tmp_path)
    for number, annotation in enumerate(content["annotations"]):
        annotation["id"] = number
    coco_tree.write_annotations(tmp_path, content)
    coco = CocoDataset().load_coco(tmp_path, "val", return_coco=True)
    found = {"image_id": 10, "category_id": 3, "bbox": coco.anns[0]["bbox"], "score": 0.5}
    scores = coco_scores.score(coco, [found], iou_type="bbox", image_ids=[10], category_ids=[3])
    assert scores.stats["AP"] == pytest.approx(1)


def test_ground_truth_without_outlines(tmp_path):
    content = coco_tree.write_tree(tmp_path)
    content["annotations"][0]["segmentation"] = []
    coco_tree.write_annotations(tmp_path, content)
    coco = CocoDataset().load_coco(tmp_path, "val", return_coco=True)
    scores = coco_scores.score(coco, detections_of(coco), iou_type="segm", image_ids=IMAGES, category_ids=[3])
    assert 0 < scores.stats["AP50"] < 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 11}, "result 1: image_id = 11 is not in the annotation file"),
        ({"score": float("nan")}, "result 1: score = nan, expected a number"),
        ({"score": "high"}, "result 1: score = 'high', expected a number"),
        ({"bbox": [1, 2, 3]}, r"result 1: bbox = \[1, 2, 3\], expected \[x, y, width, height\]"),
        ({"segmentation": {"size": [5, 5], "counts": [25]}}, r"result 1: .* size of image 10 \(96 x 128\)"),
        ({"segmentation": [[1, 1, 5, 1, 5, 5]]}, "result 1: segmentation is no RLE"),
    ],
)
def test_bad_results(coco, change, message):
    results = detections_of(coco)
    results[1] |= change
    iou_type = "segm" if "segmentation" in change else "bbox"
    with pytest.raises(ValueError, match=message):
        coco_scores.score(coco, results, iou_type=iou_type, image_ids=IMAGES, category_ids=CATEGORIES)


def test_bad_arguments(coco):
    results = detections_of(coco)
    settings = {"iou_type": "segm", "image_ids": IMAGES, "category_ids": CATEGORIES}
    with pytest.raises(ValueError, match="iou_type = 'mask': expected one of bbox, segm"):
        coco_scores.score(coco, results, **settings | {"iou_type": "mask"})
    with pytest.raises(ValueError, match=r"image ids \[99\] are not in the annotation file"):
        coco_scores.score(coco, results, **settings | {"image_ids": [10, 99]})
    with pytest.raises(ValueError, match=r"category ids \[4\] are not"):
        coco_scores.score(coco, results, **settings | {"category_ids": [4]})
    del results[2]["segmentation"]
    with pytest.raises(ValueError, match="result 2: the key 'segmentation' is missing"):
        coco_scores.score(coco, results, **settings)


def test_uncompressed_rles_in_results(coco):
    results = detections_of(coco)
    settings = {"iou_type": "segm", "image_ids": IMAGES, "category_ids": CATEGORIES}
    expected = coco_scores.score(coco, results, **settings)
    for result in results:
        flat = coco_mask.decode(result["segmentation"]).ravel(order="F")
        borders = np.flatnonzero(np.diff(flat, prepend=0, append=2))
        result["segmentation"]["counts"] = np.diff([0, *borders]).tolist()
    assert coco_scores.score(coco, results, **settings) == expected


@pytest.mark.skipif(not SHARED.is_dir(), reason="no ../shared/data")
@pytest.mark.parametrize("tree", ["coco_tiny", "coco_permissive"])
def test_real_trees(tree):
    coco = CocoDataset().load_coco(SHARED / tree, "val", return_coco=True)
    image_ids, category_ids = sorted(coco.imgs)[:24], sorted(coco.cats)
    results = [result for result in detections_of(coco) if result["image_id"] in image_ids]
    bare = [{key: value for key, value in result.items() if key != "bbox"} for result in results]
    for iou_type, reference in (("bbox", results), ("segm", bare)):
        stats, text, _ = by_hand(coco, reference, iou_type, image_ids, category_ids)
        scores = coco_scores.score(coco, results, iou_type=iou_type, image_ids=image_ids, category_ids=category_ids)
        assert list(scores.stats.values()) == stats.tolist() and 0.3 < scores.stats["AP50"] < 1
        assert scores.table() + "\n" == text
        assert scores.per_class[2].keys() == {"AP", "AP50"}
    boxes = [result | {"area": result["bbox"][2] * result["bbox"][3]} for result in results]
    stats = by_hand(coco, boxes, "segm", image_ids, category_ids)[0]
    scores = coco_scores.score(coco, boxes, iou_type="segm", image_ids=image_ids, category_ids=category_ids)
    assert list(scores.stats.values()) == stats.tolist()  # the original's areas


# ---- several runs ----------------------------------------------------------------------------------------------------


def test_over_categories():
    """The mean of each run over the categories that have ground truth, then over the runs."""
    runs = [{1: 0.2, 2: 0.4, 3: -1.0, 4: 1.0}, {1: 0.6, 2: 0.8, 3: -1.0, 4: 1.0}]
    runs = [{key: {"AP": 0.0, "AP50": value} for key, value in run.items()} for run in runs]
    mean, interval = coco_scores.over_categories(runs, [1, 2, 3])
    assert (mean, interval) == (pytest.approx(0.5), pytest.approx(1.96 * 0.2 / math.sqrt(2)))
    assert coco_scores.over_categories(runs, [1, 2], "AP") == (0, 0)
    assert coco_scores.over_categories(runs, [3]) == (0, 0)


class Recorded:
    """Records of two runs; in the second one category is not found."""

    def __init__(self, coco):
        self.settings = {"images": [10, 20], "categories": [{"id": 3}, {"id": 7}, {"id": 18}], "runs": 2}
        keys = ("image_id", "category_id", "bbox")
        found = [
            {key: a[key] for key in keys} | {"score": 0.5} for a in coco.dataset["annotations"] if not a["iscrowd"]
        ]
        self.runs = [found, [result for result in found if result["category_id"] != 7]]

    def results(self, run):
        return self.runs[run]

    def __iter__(self):
        queries = [{"category_id": category_id} for category_id in (3, 7)] * 2
        yield from ({"image_id": image_id, "seconds": 1.5, "queries": queries} for image_id in (10, 20))


def test_boxes_of_two_runs(coco):
    scores = coco_scores.score_records(coco, Recorded(coco), has_masks=False)
    assert scores.mean["bbox"]["AP"] == pytest.approx((1 + 2 / 3) / 2)
    assert scores.interval["bbox"]["AP"] == pytest.approx(1.96 * (1 / 6) / math.sqrt(2))
    assert (scores.num_images, scores.num_queries, scores.seconds, scores.is_empty) == (2, 8, 3.0, False)
    plain = scores.to_dict()
    assert set(plain["runs"][0]) == {"bbox", "per_class"} and plain["runs"][1]["per_class"]["bbox"][7]["AP50"] == 0


def test_some_of_the_images(coco):
    """Image 10 has an ellipse (3) and a rectangle (7), image 20 a rectangle and a triangle (18)."""
    found = coco_scores.score_records(coco, Recorded(coco), has_masks=False, image_ids=[10])
    assert [run["bbox"].stats["AP"] for run in found.runs] == [pytest.approx(1), pytest.approx(0.5)]
    assert (found.num_images, found.num_queries, found.num_results, found.seconds) == (1, 4, 3, 1.5)


def test_metrics_without_ground_truth_and_of_a_single_run_have_no_interval(coco):
    """Images 10 and 20 hold no large instance."""
    records = Recorded(coco)
    scores = coco_scores.score_records(coco, records, has_masks=False)
    assert scores.mean["bbox"]["AP_large"] == -1 and scores.interval["bbox"]["AP_large"] is None
    assert "0.833 +- 0.231" in scores.table("bbox") and "= -1.000\n" in scores.table("bbox")
    records.settings["runs"] = 1
    scores = coco_scores.score_records(coco, records, has_masks=False)
    assert scores.mean["bbox"]["AP"] == pytest.approx(1) and set(scores.interval["bbox"].values()) == {None}
    assert json.loads(json.dumps(scores.to_dict()))["interval"]["bbox"]["AP"] is None
    assert "+-" not in scores.table("bbox")


def test_results_of_other_images_are_no_matter_of_choice(coco):
    """Without a choice of images, all results go to the scores, which say what does not belong there."""
    records = Recorded(coco)
    records.runs[0][0]["image_id"] = 5
    with pytest.raises(ValueError, match="image_id = 5"):
        coco_scores.score_records(coco, records, has_masks=False)


def test_metrics_of_some_categories(coco):
    results, images = Recorded(coco).runs[1], [10, 20]
    evaluation = coco_scores.coco_evaluation(coco, results, iou_type="bbox", image_ids=images, category_ids=[3, 7, 18])
    arrays = evaluation.eval["precision"]
    for class_index, categories in (([0], [3]), ([1, 2], [7, 18]), (None, [3, 7, 18])):
        expected = coco_scores.score(coco, results, iou_type="bbox", image_ids=images, category_ids=categories)
        assert coco_scores.coco_stats(evaluation, class_index=class_index).tolist() == list(expected.stats.values())
    assert evaluation.eval["precision"] is arrays
    assert expected.precision.shape == (10, 101, 3, 4, 3) and expected.recall.shape == (10, 3, 4, 3)
    assert (expected.precision == arrays).all()
