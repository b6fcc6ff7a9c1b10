"""Calibration: the fit of verification and threshold, and its metrics."""

import dataclasses

import numpy as np
import pytest

from siamese_mrcnn_tf.evaluation import calibration
from siamese_mrcnn_tf.evaluation.calibration import CalibrationSettings, SearchedQuery, choose_threshold, metrics_at
from siamese_mrcnn_tf.ops import similarity


def query(scores, hits=(), *, instances=None, image=0, crowds=0):
    """A query whose find k overlaps instance hits[k] alone (None: none; "crowd": the crowd)."""
    count = max([hit + 1 for hit in hits if isinstance(hit, int)], default=0) if instances is None else instances
    overlaps = np.zeros((len(scores), count + crowds))
    for find, hit in enumerate(hits):
        if hit is not None:
            overlaps[find, -1 if hit == "crowd" else hit] = 0.8
    is_crowd = np.arange(count + crowds) >= count
    scores = np.array(scores, float)
    return SearchedQuery(image, scores, np.zeros(len(scores)), overlaps, is_crowd)


@pytest.fixture
def queries():
    """Right finds 0.9, 0.8, 0.6 of 4 instances; wrong ones 0.7 and 0.2 of the first query, 0.85 and 0.3 of absent."""
    first = query([0.9, 0.7, 0.6, 0.2], [0, None, 1, None], instances=3)
    return [first, query([0.8], [0]), query([0.85]), query([0.3]), query([]), query([])]


def scores_of(queries):
    return [one.scores for one in queries]


def brute_force_f1(queries, threshold):
    shown = [[(score, hit) for score, hit in zip(*one.outcomes(one.scores), strict=True)] for one in queries]
    shown = [hit for one in shown for score, hit in one if score >= threshold]
    right, total = shown.count(calibration.TRUE_POSITIVE), sum(one.num_instances for one in queries)
    return 2 * right / (len(shown) + total)


def test_the_threshold_with_the_best_f1(queries):
    found = choose_threshold(scores_of(queries), queries)
    candidates = np.linspace(0.01, 0.99, 99)
    best = max(brute_force_f1(queries, threshold) for threshold in candidates)
    assert brute_force_f1(queries, found) == pytest.approx(best) == pytest.approx(2 * 3 / (5 + 4))
    assert found == pytest.approx(0.45)  # the middle between 0.6, the last one kept, and 0.3


def test_equal_scores_are_not_parted():
    queries = [query([0.9, 0.5], [0, 1]), query([0.5]), query([0.5]), query([0.5]), query([0.5]), query([0.4])]
    assert choose_threshold(scores_of(queries), queries) == pytest.approx(0.7)  # 0.5 would bring 4 wrong ones


@pytest.mark.parametrize(("rate", "threshold"), [(0.0, 0.875), (0.25, 0.45), (0.5, 0.1)])
def test_the_threshold_for_a_share_of_false_alarms(queries, rate, threshold):
    found = choose_threshold(scores_of(queries), queries, rate)
    assert found == pytest.approx(threshold)
    assert metrics_at(found, scores_of(queries), queries)["absent_firing"] <= rate


def test_false_alarms_need_absent_queries(queries):
    with pytest.raises(ValueError, match="false alarms 0.05: no image was searched for a category that is not in it"):
        choose_threshold(scores_of(queries[:2]), queries[:2], 0.05)


def test_nothing_found_has_no_threshold():
    with pytest.raises(ValueError, match="nothing was found"):
        choose_threshold([np.zeros(0)], [query([], instances=1)])


def test_metrics_by_hand(queries):
    found = metrics_at(0.65, scores_of(queries), queries)
    assert found == {
        "precision": pytest.approx(2 / 4),
        "recall": pytest.approx(2 / 4),
        "F1": pytest.approx(4 / 8),
        "found": 1.0,
        "present_firing": 1.0,
        "absent_firing": pytest.approx(1 / 4),
        "false_detections": pytest.approx(1 / 4),
        "AUROC": pytest.approx(7 / 8),  # 0.9 above all four absent ones, 0.8 above three
        "num_present": 2,
        "num_absent": 4,
    }
    assert metrics_at(0.95, scores_of(queries), queries)["precision"] is None


def test_new_scores_bring_a_new_order():
    one = query([0.9, 0.8], [0, 0])  # two finds of one instance
    values, outcomes = one.outcomes(np.array([0.1, 0.3]))
    assert values.tolist() == [0.3, 0.1]
    assert outcomes.tolist() == [calibration.TRUE_POSITIVE, 0]


def test_finds_in_a_crowd_do_not_count():
    queries = [query([0.9, 0.8], [0, "crowd"], crowds=1), query([0.7])]
    found = metrics_at(0.5, scores_of(queries), queries)
    assert found["precision"] == pytest.approx(1 / 2) and found["recall"] == 1.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"limit": 1}, "limit = 1: expected 2 or more"),
        ({"absent": "some"}, "absent = 'some': expected 'all' or"),
        ({"false_alarms": 1.0}, "false_alarms = 1.0: expected a share"),
        ({"runs": 0}, "runs = 0: expected a whole number"),
    ],
)
def test_settings_name_what_is_wrong(changes, message):
    with pytest.raises(ValueError, match=message):
        CalibrationSettings(**changes)


def test_rules_in_words():
    assert CalibrationSettings().rule == "best F1"
    assert CalibrationSettings(false_alarms=0.05).rule == "false alarms 0.05"


@pytest.mark.slow
def test_a_search_asks_for_present_and_absent_categories(tiny_model, data):
    settings = CalibrationSettings(runs=2)
    predictor = tiny_model.predictor
    statistics = similarity.fit_statistics(
        calibration.reference_embeddings(predictor, data, [1, 2, 3], settings, progress=False)
    )
    predictor = calibration._searching(predictor, statistics)
    asked = calibration.queries_to_ask(predictor.config, data, [1, 2, 3], settings)
    found = calibration.search(predictor, data, asked, settings, progress=False)
    # image 0 holds categories 1 and 2, and a crowd of 3; 1 and 2 two of three; 3 none
    assert [sum(one.image == image for one in found) for image in range(4)] == [4, 6, 6, 6]
    assert [sum(one.num_instances > 0 for one in found if one.image == image) for image in range(4)] == [4, 4, 4, 0]
    for one in found:
        assert len(one.scores) == len(one.similarities) == len(one.overlaps) > 0
        assert (np.diff(one.scores) <= 0).all() and (np.abs(one.similarities) <= 1).all()
        assert one.similarities.std() > 0
    few = calibration.queries_to_ask(predictor.config, data, [1, 2, 3], dataclasses.replace(settings, limit=2))
    again = calibration.search(predictor, data, few, settings, progress=False)
    np.testing.assert_array_equal(again[3].scores, found[3].scores)
    assert len(again) == 10


def test_references_are_from_other_images(tiny_model, data, monkeypatch):
    """Those of a search from others than the searched one, those of the statistics from none that is held out."""
    cut, drawn = [], []
    original = calibration.cut_reference
    monkeypatch.setattr(calibration, "cut_reference", lambda *each: cut.append(each[2]) or original(*each))
    settings = CalibrationSettings()
    asked = calibration.queries_to_ask(tiny_model.config, data, [1, 2, 3], settings)
    held_out = {image_id for image_id, _ in asked[1::2]}
    calibration.reference_embeddings(tiny_model.predictor, data, [1, 2, 3], settings, asked[1::2], progress=False)
    assert cut and held_out.isdisjoint(cut)

    class Watched(calibration.RandomReferenceSampler):
        def __call__(self, image_id, *rest):
            found = super().__call__(image_id, *rest)
            drawn.append((image_id, found[0][0]))
            return found

    monkeypatch.setattr(calibration, "RandomReferenceSampler", Watched)
    calibration.search(tiny_model.predictor, data, asked, settings, progress=False)
    assert drawn and all(image_id != other for image_id, other in drawn)


@pytest.mark.slow
def test_calibrations_end_in_a_threshold_file(run, tmp_path):
    """The bundled weights on a few scenes, from the command line."""
    from siamese_mrcnn_tf.shapes.dataset import write_coco
    from siamese_mrcnn_tf.weights.thresholds import read_thresholds

    write_coco(tmp_path / "set", train=1, val=8, size=128, seed=3, progress=False)
    common = ("calibrate", "--dataset", tmp_path / "set", "--model", "shapes", "--absent", 4)
    code, text, errors = run(*common, "--out", tmp_path / "shapes.threshold.json")
    assert code == 0, errors
    found = read_thresholds(tmp_path / "shapes.threshold.json")
    assert found.rule == "best F1" and found.verification.weight > 0
    assert f"threshold {found.threshold:.4g} of verified scores, fitted for best F1 on set (val2017)" in text
    assert found.about["num_images"] == 8 and found.about["absent"] == 4 and len(found.about["categories"]) == 20
    assert found.metrics["fitted"]["num_absent"] == found.metrics["held_out"]["num_absent"] == 16
    assert f"{found.metrics['held_out']['F1']:.3f}" in text
    options = ("--split", 1, "--categories", "train", "--false-alarms", 0.25, "--no-verification", "--limit", 4)
    code, text, errors = run(*common, *options, "--out", tmp_path / "plain.threshold.json")
    assert code == 0, errors
    found = read_thresholds(tmp_path / "plain.threshold.json")
    assert found.rule == "false alarms 0.25" and found.verification is None and len(found.about["categories"]) == 15
    assert found.metrics["fitted"]["absent_firing"] <= 0.25
