"""It learns: from random weights a tiny model finds the instances again that it was trained on."""

import json
import os
import pathlib
import subprocess
import sys

import coco_tree
import pytest

SCRIPT = pathlib.Path(__file__).resolve().parents[1] / "samples" / "coco" / "coco.py"
STAGES = [
    {"epochs": 2, "layers": "all", "learning_rate": 0.02},
    {"epochs": 4, "layers": "no-bn", "learning_rate": 0.004},
]

# random weights bring no statistics; and in batches of 3 of the 3 images each step is to see every one of them
CONFIG = {"BASE": "tiny", "TRAIN_BN": None, "OPTIMIZER": "sgd", "QUERIES_PER_IMAGE": 1}


def run(*arguments):
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {"COLUMNS": "200"})
    assert finished.returncode == 0, finished.stderr[-3000:]


@pytest.mark.slow
def test_trained_instances_are_found_again(tmp_path):
    coco_tree.write_tree(tmp_path / "set", subset="train", num_images=4)  # three with two categories each
    (tmp_path / "stages.json").write_text(json.dumps(STAGES))
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    data, logs = ("--dataset", tmp_path / "set", "--config", tmp_path / "config.json"), ("--logs", tmp_path / "logs")
    shorter = ("--stages", tmp_path / "stages.json", "--steps", 35, "--batch", 3, "--val-images", 0)
    run("train", *data, *logs, *shorter)
    run("evaluate", *data, *logs, "--subset", "train", "--model", "last", "--out", tmp_path / "found")
    scores = json.loads((tmp_path / "found" / "scores.json").read_text())
    assert scores["mean"]["bbox"]["AP50"] > 0.8
    assert scores["mean"]["segm"]["AP50"] > 0.8
