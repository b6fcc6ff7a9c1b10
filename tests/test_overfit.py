"""Training learns: from random weights a small network finds the instances again that it was trained on."""

import json

import coco_tree
import keras
import pytest
from conftest import MICRO

from siamese_mrcnn_tf.cli.main import main
from siamese_mrcnn_tf.training import distribution

STAGES = [
    {"epochs": 1, "layers": "all", "learning_rate": 0.05},
    {"epochs": 2, "layers": "no-bn", "learning_rate": 0.015},
]
# in batches of 3 of the 3 images each step sees every one of them
CONFIG = {"BASE": "tiny", **MICRO, "TRAIN_ROIS_PER_IMAGE": 32, "QUERIES_PER_IMAGE": 1}


@pytest.mark.slow
def test_trained_instances_are_found_again(tmp_path, monkeypatch):
    monkeypatch.setattr(distribution, "prepare_backend", lambda seed, **_: keras.utils.set_random_seed(seed))
    coco_tree.write_tree(tmp_path / "set", subset="train", num_images=4)  # three with two categories each
    (tmp_path / "stages.json").write_text(json.dumps(STAGES))
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    shared = ["--dataset", tmp_path / "set", "--config", tmp_path / "config.json", "--logs", tmp_path / "logs"]
    shorter = ["--stages", tmp_path / "stages.json", "--steps", 80, "--batch", 3, "--val-images", 0, "--workers", 1]
    trained = ["--subset", "train", "--model", "last", "--runs", 2, "--out", tmp_path / "found"]
    for command in (["train", *shared, *shorter], ["evaluate", *shared, *trained]):
        assert main([str(argument) for argument in command]) == 0
    scores = json.loads((tmp_path / "found" / "scores.json").read_text())
    assert scores["mean"]["bbox"]["AP50"] > 0.8
    assert scores["mean"]["segm"]["AP50"] > 0.8
