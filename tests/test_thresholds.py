"""Threshold files beside weight files."""

import json

import numpy as np
import pytest

from siamese_mrcnn_tf.io import files
from siamese_mrcnn_tf.ops.similarity import Verification
from siamese_mrcnn_tf.weights.thresholds import Calibration, find_thresholds, save_thresholds, threshold_path


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "model_0160.h5"
    path.write_bytes(b"weights")
    return path


@pytest.fixture
def calibration(weights):
    rng = np.random.default_rng(0)
    verification = Verification(
        mean=rng.normal(size=(4, 3)).astype(np.float32),
        deviation=rng.uniform(1e-7, 1, (4, 3)).astype(np.float32),
        scale=0.9,
        weight=7.123456789,
        offset=-2.0,
        views=2,
    )
    about = {"dataset": "val2017", "images": 60, "seed": 0}
    metrics = {"fitted": {"f1": 0.7, "recall": None}, "held_out": {"f1": 0.6}}
    return Calibration(files.checksum(weights), 0.4321, "best F1", verification, about, metrics)


def test_what_is_saved_is_found_beside_the_weights(weights, calibration):
    path = threshold_path(weights)
    assert path.name == "model_0160.threshold.json" and find_thresholds(weights) is None
    save_thresholds(calibration, path)
    found = find_thresholds(weights)
    for name in ("weights_sha256", "threshold", "rule", "about", "metrics"):
        assert getattr(found, name) == getattr(calibration, name)
    for name in ("mean", "deviation", "scale", "weight", "offset"):
        expected = getattr(calibration.verification, name)
        np.testing.assert_allclose(getattr(found.verification, name), expected, rtol=5e-6)
    assert found.verification.views == 2
    assert found.verification.mean.dtype == np.float32
    assert found.summary() == "threshold 0.4321 of verified scores, fitted for best F1 on val2017"


def test_numbers_have_six_digits(weights, calibration):
    save_thresholds(calibration, threshold_path(weights))
    assert json.loads(threshold_path(weights).read_text())["verification"]["weight"] == 7.12346


def test_a_threshold_alone(weights):
    save_thresholds(Calibration(files.checksum(weights), 0.9, "best F1"), threshold_path(weights))
    found = find_thresholds(weights)
    assert found.verification is None and found.summary() == "threshold 0.9 of scores, fitted for best F1"


def test_a_file_for_other_weights_is_refused(weights, calibration):
    save_thresholds(calibration, threshold_path(weights))
    weights.write_bytes(b"trained further")
    with pytest.raises(ValueError, match="model_0160.threshold.json: was fitted for other weights than model_0160.h5"):
        find_thresholds(weights)


def without(key):
    return lambda content: content.pop(key)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.update(format=9), "format = 9: written by a newer version"),
        (without("threshold"), "the key 'threshold' is missing"),
        (lambda content: content["verification"].pop("mean"), "the key 'mean' is missing"),
        (lambda content: content.update(threshold=1.5), "threshold = 1.5: expected float <= 1.0"),
        (lambda content: content.update(threshold="high"), "threshold = 'high': expected float"),
        (lambda content: content.update(metrics=[]), r"metrics = \[\]: expected object"),
        (lambda content: content.update(weights_sha256=5), "weights_sha256 = 5: expected str"),
        (lambda content: content["verification"].update(views=3), "verification: views = 3: expected one of"),
        (lambda content: content["verification"].update(scale="x"), "verification.scale = 'x': expected float"),
        (lambda content: content["verification"].update(scale=1e30), r"verification.scale = 1e\+30: expected float <="),
        (lambda content: content["verification"]["mean"][0].pop(), "threshold.json: verification: "),
        (lambda content: content["verification"]["mean"].pop(), r"mean: expected numbers \[4 levels, channels\]"),
    ],
)
def test_a_wrong_file_is_named(weights, calibration, change, message):
    path = threshold_path(weights)
    save_thresholds(calibration, path)
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message) as raised:
        find_thresholds(weights)
    assert str(path) in str(raised.value)


def test_values_of_numpy_and_paths_are_written(tmp_path):
    about = {"images": np.arange(2), "share": np.float32(0.5), "folder": tmp_path}
    metrics = {"bbox": {"F1": np.float64(0.25)}}
    calibration = Calibration("0" * 64, np.float32(0.5), "best F1", about=about, metrics=metrics)
    save_thresholds(calibration, tmp_path / "a.json")
    content = files.read_json(tmp_path / "a.json")
    assert content["about"] == {"images": [0, 1], "share": 0.5, "folder": str(tmp_path)} and content["threshold"] == 0.5
    with pytest.raises(ValueError, match=r"b\.json: cannot be written as JSON"):
        save_thresholds(Calibration("0" * 64, 0.5, "best F1", about={"a": object()}), tmp_path / "b.json")
