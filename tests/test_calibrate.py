"""Threshold files on the command line: who uses them, and what they say."""

import re
import shutil

import numpy as np
import pytest
from PIL import Image

from siamese_mrcnn_tf.cli.calibrate import open_images, table
from siamese_mrcnn_tf.cli.evaluate import chosen_threshold
from siamese_mrcnn_tf.cli.inputs import choose_config
from siamese_mrcnn_tf.cli.main import parse
from siamese_mrcnn_tf.evaluation.calibration import METRICS, MIN_SEARCHES, doubts
from siamese_mrcnn_tf.io import files
from siamese_mrcnn_tf.ops.similarity import Verification
from siamese_mrcnn_tf.shapes.dataset import write_coco
from siamese_mrcnn_tf.weights.pretrained import bundled_weights
from siamese_mrcnn_tf.weights.thresholds import Calibration, save_thresholds, threshold_path

PREDICT = ("predict", "--image", "a.png", "--reference", "b.png")


@pytest.fixture
def weights(tiny_weights, tmp_path):
    """A weight file with a verification and its threshold beside it."""
    path = tmp_path / "tiny.h5"
    shutil.copy(tiny_weights, path)
    verification = Verification(np.zeros((4, 64), np.float32), np.ones((4, 64), np.float32), weight=2.0)
    save_thresholds(Calibration(files.checksum(path), 0.35, "best F1", verification), threshold_path(path))
    return path


def chosen(*arguments):
    """(minimum score, whether finds are verified) of a command line."""
    config, _ = choose_config(parse([str(argument) for argument in arguments]))
    return config.DETECTION_MIN_CONFIDENCE, config.VERIFY_DETECTIONS


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), (0.35, True)),
        (("--min-confidence", 0.1), (0.1, True)),
        (("--no-verify",), (0.7, False)),  # the threshold is of verified scores
        (("--no-verify", "--min-confidence", 0.5), (0.5, False)),
        (("--set", "DETECTION_MIN_CONFIDENCE=0.2"), (0.2, True)),
        (("--set", "VERIFY_DETECTIONS=false"), (0.7, False)),
    ],
)
def test_options_replace_what_the_file_says(weights, options, expected):
    assert chosen(*PREDICT, "--model", weights, *options) == expected
    assert chosen("evaluate", "--model", weights, *options) == expected


def test_a_configuration_keeps_its_own_minimum(weights, tmp_path):
    (tmp_path / "mine.json").write_text('{"BASE": "tiny", "DETECTION_MIN_CONFIDENCE": 0.5}')
    assert chosen(*PREDICT, "--model", weights, "--config", tmp_path / "mine.json") == (0.5, True)


def test_a_threshold_of_plain_scores_needs_no_verification(weights):
    save_thresholds(Calibration(files.checksum(weights), 0.9, "best F1"), threshold_path(weights))
    for options in ((), ("--no-verify",)):
        assert chosen(*PREDICT, "--model", weights, *options) == (0.9, False)


def test_the_published_threshold_holds_without_a_file(weights):
    threshold_path(weights).unlink()
    assert chosen(*PREDICT, "--model", weights) == (0.7, False)


def test_the_protocol_of_the_paper_uses_no_file(weights):
    assert chosen("evaluate", "--model", weights, "--protocol", "paper") == (0.7, False)


def test_calibrations_do_not_build_on_an_earlier_one(weights):
    assert chosen("calibrate", "--model", weights) == (0.7, False)


@pytest.mark.parametrize(
    ("options", "expected"),
    [((), 0.35), (("--threshold", 0.2), 0.2), (("--no-verify",), 0.7), (("--protocol", "paper"), 0.7)],
)
def test_the_threshold_for_metrics_of_presence(weights, options, expected):
    options = parse([str(word) for word in ("evaluate", "--model", weights, "--absent", 1, *options)])
    assert chosen_threshold(options, weights) == expected
    assert chosen_threshold(options, None) == (0.2 if options.threshold else 0.7)


def test_weights_shows_the_threshold(run, weights):
    code, text, _ = run("weights", weights)
    assert code == 0 and "tiny.threshold.json: threshold 0.35 of verified scores, fitted for best F1" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--model", "untrained", "--dataset", "set"), "--model untrained: there is no weight file to calibrate"),
        (
            ("--model", "shapes", "--dataset", "set"),
            "--model shapes: bundled weights; name the file to write with --out",
        ),
        (("--model", "shapes", "--val-images", 5), "--val-images 5: goes with --subset set-aside"),
        (("--model", "shapes", "--categories", "novel"), "--categories novel: --split 0 has no novel categories"),
    ],
)
def test_calibrate_refuses(run, arguments, message):
    code, _, errors = run("calibrate", *arguments)
    assert code == 2 and message in errors


def test_images_that_training_sets_aside(training_tree, training_parts):
    def ids(*options):
        words = ("calibrate", "--model", "shapes", "--dataset", training_tree, *options)
        return [info["id"] for info in open_images(parse([str(word) for word in words])).image_info]

    set_aside = [info["id"] for info in training_parts[1].image_info]
    assert ids("--subset", "set-aside", "--val-images", 2) == set_aside and len(set_aside) == 2
    assert set(ids("--subset", "train")) > set(set_aside)


@pytest.mark.slow
def test_predict_says_which_threshold_it_uses(run, weights, tmp_path, scene, crop):
    Image.fromarray(scene).save(tmp_path / "scene.png")
    Image.fromarray(crop).save(tmp_path / "crop.png")
    common = ("predict", "--image", tmp_path / "scene.png", "--reference", tmp_path / "crop.png", "--model", weights)
    code, _, errors = run(*common, "--out", tmp_path / "out")
    assert code == 0, errors
    assert "threshold 0.35 of verified scores, fitted for best F1\n" in errors
    common = (*common, "--force")
    code, _, errors = run(*common, "--out", tmp_path / "out", "--no-verify")
    assert code == 0 and "threshold 0.7 of scores; calibrated was: threshold 0.35 of verified scores" in errors
    threshold_path(weights).unlink()
    code, _, errors = run(*common, "--out", tmp_path / "out")
    assert code == 0 and "threshold" not in errors
    code, _, errors = run(*common, "--out", tmp_path / "out", "--set", "VERIFY_DETECTIONS=true")
    assert code == 2 and "tiny.threshold.json: no verification there, which VERIFY_DETECTIONS = True needs" in errors


def test_a_file_for_other_weights_stops_the_command(run, weights):
    with open(weights, "ab") as file:
        file.write(b"0")
    code, _, errors = run("weights", weights)
    assert code == 2 and "was fitted for other weights than tiny.h5 beside it; run siamese-mrcnn calibrate" in errors


def calibrated(present, *, found=0.5, runs=1, verification=None):
    """A calibration with that many searches for present categories in each half."""
    halves = {
        name: dict.fromkeys(METRICS, found) | {"num_present": count, "num_absent": 4}
        for name, count in zip(("fitted", "held_out"), present, strict=True)
    }
    metrics = halves | {"published": halves["held_out"] | {"precision": None}}
    return Calibration("0" * 64, 0.3, "best F1", verification, {"runs": runs}, metrics)


def test_too_few_images_are_told():
    assert doubts(calibrated((MIN_SEARCHES, MIN_SEARCHES))) == []
    assert doubts(calibrated((MIN_SEARCHES, MIN_SEARCHES - 1)))[0].startswith(
        "10 for fitting and 9 held out are too few"
    )
    assert len(doubts(calibrated((MIN_SEARCHES, MIN_SEARCHES), runs=2))) == 1  # an image that is searched again
    assert doubts(calibrated((20, 20), found=0.0)) == ["nothing right is found in the images that are held out"]
    assert len(doubts(calibrated((2, 1), found=0.0))) == 2 and len(doubts(calibrated((2, 0), found=None))) == 1


def test_a_metric_without_anything_to_count_is_explained():
    assert table(calibrated((9, 9))).endswith("\n-: nothing to count")


@pytest.mark.slow
def test_calibrate_says_how_to_undo_it(run, tmp_path):
    write_coco(tmp_path / "set", train=1, val=3, size=128, seed=3, progress=False)
    weights = shutil.copy(bundled_weights(), tmp_path / "mine.h5")
    code, text, errors = run("calibrate", "--dataset", tmp_path / "set", "--model", weights, "--absent", 2)
    assert code == 0, errors
    assert re.search(r"warning: \d+ for fitting and \d held out are too few searches .*; calibrate on more", errors)
    undo = f"To undo this, delete {threshold_path(weights)}. A command with --no-verify --min-confidence 0.7 does not"
    assert undo in text
    assert chosen(*PREDICT, "--model", weights, "--no-verify", "--min-confidence", 0.7) == (0.7, False)
