"""Figures of several runs: means, intervals, COCOeval's arrays."""

import math

import coco_tree
import pytest

from siamese_mrcnn_tf.data.dataset import CocoDataset
from siamese_mrcnn_tf.evaluation.coco_scores import (
    coco_evaluation,
    coco_stats,
    mean_and_ci,
    over_categories,
    score,
    score_records,
)


def test_over_runs():
    metrics = [{"AP": 0.1, "AP_small": -1.0}, {"AP": 0.2, "AP_small": -1.0}, {"AP": 0.6, "AP_small": -1.0}]
    mean, interval = mean_and_ci(metrics)
    assert mean == {"AP": pytest.approx(0.3), "AP_small": -1}
    deviation = math.sqrt((0.2**2 + 0.1**2 + 0.3**2) / 3)
    assert interval == {"AP": pytest.approx(1.96 * deviation / math.sqrt(3)), "AP_small": 0}


def test_one_run_has_no_interval():
    assert mean_and_ci([{"AP": 0.25}]) == ({"AP": 0.25}, {"AP": 0})


def test_over_categories():
    """The mean of each run over the categories that have ground truth, then over the runs."""
    runs = [{1: 0.2, 2: 0.4, 3: -1.0, 4: 1.0}, {1: 0.6, 2: 0.8, 3: -1.0, 4: 1.0}]
    runs = [{key: {"AP": 0.0, "AP50": value} for key, value in run.items()} for run in runs]
    mean, interval = over_categories(runs, [1, 2, 3])
    assert (mean, interval) == (pytest.approx(0.5), pytest.approx(1.96 * 0.2 / math.sqrt(2)))
    assert over_categories(runs, [1, 2], "AP") == (0, 0)
    assert over_categories(runs, [3]) == (0, 0)


@pytest.fixture
def coco(tmp_path):
    coco_tree.write_tree(tmp_path)
    return CocoDataset().load_coco(tmp_path, "val", return_coco=True)


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
    scores = score_records(coco, Recorded(coco), has_masks=False)
    assert scores.mean["bbox"]["AP"] == pytest.approx((1 + 2 / 3) / 2)
    assert scores.interval["bbox"]["AP"] == pytest.approx(1.96 * (1 / 6) / math.sqrt(2))
    assert (scores.num_images, scores.num_queries, scores.seconds, scores.is_empty) == (2, 8, 3.0, False)
    plain = scores.to_dict()
    assert set(plain["runs"][0]) == {"bbox", "per_class"} and plain["runs"][1]["per_class"]["bbox"][7]["AP50"] == 0


def test_some_of_the_images(coco):
    """Image 10 has an ellipse (3) and a rectangle (7), image 20 a rectangle and a triangle (18)."""
    found = score_records(coco, Recorded(coco), has_masks=False, image_ids=[10])
    assert [run["bbox"].stats["AP"] for run in found.runs] == [pytest.approx(1), pytest.approx(0.5)]
    assert (found.num_images, found.num_queries, found.num_results, found.seconds) == (1, 4, 3, 1.5)


def test_results_of_other_images_are_no_matter_of_choice(coco):
    """Without a choice of images, all results go to the scores, which say what does not belong there."""
    records = Recorded(coco)
    records.runs[0][0]["image_id"] = 5
    with pytest.raises(ValueError, match="image_id = 5"):
        score_records(coco, records, has_masks=False)


def test_metrics_of_some_categories(coco):
    results, images = Recorded(coco).runs[1], [10, 20]
    evaluation = coco_evaluation(coco, results, iou_type="bbox", image_ids=images, category_ids=[3, 7, 18])
    arrays = evaluation.eval["precision"]
    for class_index, categories in (([0], [3]), ([1, 2], [7, 18]), (None, [3, 7, 18])):
        expected = score(coco, results, iou_type="bbox", image_ids=images, category_ids=categories)
        assert coco_stats(evaluation, class_index=class_index).tolist() == list(expected.stats.values())
    assert evaluation.eval["precision"] is arrays
    assert expected.precision.shape == (10, 101, 3, 4, 3) and expected.recall.shape == (10, 3, 4, 3)
    assert (expected.precision == arrays).all()
