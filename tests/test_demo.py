"""The demo on Shapes: its steps end to end on a small set, its page, a resumed demo, and the bundled weights."""

import json
import os
import pathlib

import conftest
import numpy as np
import pytest

from siamese_mrcnn_tf import TinyConfig, config
from siamese_mrcnn_tf.cli import pretrain
from siamese_mrcnn_tf.cli.main import main
from siamese_mrcnn_tf.data.dataset import IndexedCocoDataset, split_classes
from siamese_mrcnn_tf.evaluation.coco_scores import score_records
from siamese_mrcnn_tf.evaluation.protocol import evaluate
from siamese_mrcnn_tf.evaluation.queries import OneShotDetector
from siamese_mrcnn_tf.io import processor
from siamese_mrcnn_tf.io.files import write_json
from siamese_mrcnn_tf.predictor import SiamesePredictor
from siamese_mrcnn_tf.shapes import dataset as shapes
from siamese_mrcnn_tf.shapes import demo, demo_page
from siamese_mrcnn_tf.training.checkpoints import save_command
from siamese_mrcnn_tf.weights import loading

WEIGHTS = pathlib.Path(shapes.__file__).with_name("siamese_mrcnn_shapes_s1.h5")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """A small Shapes tree."""
    folder = tmp_path_factory.mktemp("shapes") / "tree"
    shapes.write_coco(folder, train=40, val=24, size=128, seed=3, progress=False)
    return folder


@pytest.fixture
def short_demo(scenes, short_training, monkeypatch):
    """The demo with a smaller network and a step of each training on the small tree; takes the output folder."""
    small = type("TinyConfig", (TinyConfig,), conftest.MICRO | {"NAME": TinyConfig.NAME, "DETECTION_MAX_INSTANCES": 5})
    monkeypatch.setitem(config.CONFIGS, "tiny", small)
    monkeypatch.setattr(demo, "TinyConfig", small)
    for module in (demo, shapes):
        monkeypatch.setattr(module, "find_dataset", lambda name: scenes)
    monkeypatch.setattr(demo, "_VAL_IMAGES", "8")
    monkeypatch.setattr(demo, "_PRETRAINING", {"shapes": ["--batch", "8", "--epochs", "1", "--steps", "1"]})
    monkeypatch.setattr(demo, "_CALIBRATION", ["--limit", "4", "--absent", "2", "--no-verification"])
    monkeypatch.setitem(demo.EVALUATIONS, "open", {"absent": 3, "runs": 1, "limit": 150})
    whole = demo.train_command
    monkeypatch.setattr(demo, "train_command", lambda *arguments: [*whole(*arguments), "--epochs", "1"])
    return lambda out: main(["demo", "--out", str(out), "--images", "4", "--runs", "2", "--debug"])


@pytest.mark.slow
def test_the_demo_runs_resumes_and_repeats(short_demo, tmp_path, capsys):
    assert short_demo(tmp_path / "first") == 0
    page = tmp_path / "first" / "index.html"
    assert str(page) in capsys.readouterr().out
    text = page.read_text()
    parts = ("random boxes", "five references", "novel", "--stages shapes", "Pre-training", "data:image/jpeg")
    for part in (*parts, "siamese-mrcnn calibrate", "Is it there at all?", "not there,", "cgF1"):
        assert part in text
    figures = json.loads((tmp_path / "first" / "metrics.json").read_text())
    assert figures["random-boxes"]["train"]["boxes"][0] >= 0
    assert set(figures["1-shot"]) == {"train", "novel"} and set(figures["1-shot"]["train"]) == {"boxes", "masks"}
    assert 0 <= figures["presence"]["novel"]["queries"]["AUROC"] <= 1 and 0 < figures["threshold"] < 1

    (tmp_path / "first" / "metrics.json").unlink()
    assert short_demo(tmp_path / "first") == 0  # all steps are done: only the page is made again
    again = json.loads((tmp_path / "first" / "metrics.json").read_text())
    assert short_demo(tmp_path / "second") == 0
    other = json.loads((tmp_path / "second" / "metrics.json").read_text())
    for found in (again, other):
        assert {**found, "seconds": None} == {**figures, "seconds": None}


def test_metrics_are_those_that_the_page_needs(tmp_path):
    path = tmp_path / "evaluation" / "open" / "presence.json"
    group = {"category_ids": [1], "runs": [], "mean": {}, "interval": {}, "curve": {}, "histogram": {}}
    content = group | {"groups": {"train": group}, "absent": 3, "threshold": 0.5}
    for changes, message in (({}, "groups: the key 'novel' is missing"), ({"threshold": "x"}, "threshold = 'x'")):
        write_json(path, content | changes)
        with pytest.raises(ValueError, match=rf"presence\.json: {message}"):
            demo_page.read_presence(tmp_path)
    metrics, more = {"1-shot": {"train": {"boxes": (50.0, None)}}}, {"presence": {}, "threshold": 0.5}
    demo_page.write_metrics(tmp_path / "metrics.json", metrics, **more, seconds={"train": 1.5})
    assert json.loads((tmp_path / "metrics.json").read_text())["format"] == 1
    for wrong in ({"1-shot": {"train": {"boxes": ("high", None)}}}, {"1-shot": 3}):
        with pytest.raises(ValueError, match=r"metrics\.json: "):
            demo_page.write_metrics(tmp_path / "metrics.json", wrong, **more, seconds={})


@pytest.fixture
def stopped_demo(tmp_path, monkeypatch):
    """The demo whose pre-training is stopped at once; takes its options."""
    monkeypatch.setattr(demo, "find_dataset", lambda name: tmp_path / "none")
    monkeypatch.setattr(pretrain, "run", lambda options: 130)
    return lambda *options: main(["demo", "--out", str(tmp_path), *options])


def test_a_step_that_fails_ends_the_demo_with_its_code(stopped_demo, caplog):
    assert stopped_demo() == 130
    _, command, hint = (record.getMessage() for record in caplog.records if record.name == demo.__name__)
    assert command.startswith("\n$ siamese-mrcnn pretrain --dataset shapes --split 1")
    assert hint == "the same command resumes the demo"


@pytest.mark.parametrize("name", ["pretraining", "logs", "evaluation", "index.html"])
def test_an_output_that_cannot_be_written_is_refused_before_the_work(tmp_path, capsys, monkeypatch, name):
    def fail(name):
        raise AssertionError

    monkeypatch.setattr(demo, "find_dataset", fail)
    (tmp_path / name).mkdir() if name == "index.html" else (tmp_path / name).touch()
    assert main(["demo", "--out", str(tmp_path)]) == 2
    assert str(tmp_path / name) in capsys.readouterr().err and os.listdir(tmp_path) == [name]


@pytest.mark.parametrize("other", [("--seed", "1"), ("--stages", "shapes-long"), ("--split", "2")])
def test_a_folder_with_another_run_is_refused(stopped_demo, tmp_path, capsys, other):
    command = demo.pretrain_command(demo.DemoSettings(out=tmp_path), tmp_path / "pretraining")
    save_command(tmp_path / "pretraining", "siamese-mrcnn", command, TinyConfig())
    assert stopped_demo() == 130  # that of the folder
    save_command(tmp_path / "pretraining", "pretrain.py", command[1:], TinyConfig())  # as version 0.1 did
    assert stopped_demo() == 130
    save_command(tmp_path / "pretraining", "siamese-mrcnn", command, TinyConfig())
    assert stopped_demo(*other) == 2
    assert "pretraining: holds a run of pretrain --dataset shapes" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "computes"),
    [
        ("fma avx2", False),
        ("avx512_bf16 fma", True),
        ("avx512_bf16 avx512_fp16", False),  # slower there than float32
        ("avx512_bf16 avx512_fp16 amx_bf16", True),
        ("amx_bf16", True),
        (None, False),
    ],
)
def test_bfloat16_only_where_it_is_fast(monkeypatch, tmp_path, caplog, stopped_demo, flags, computes):
    if flags is not None:
        (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nflags\t\t: fpu {flags}\n")
    monkeypatch.setattr(processor, "_CPU_INFO", tmp_path / "cpuinfo")
    settings = demo.with_precision(demo.DemoSettings(out=tmp_path), tmp_path / "pretraining")
    pretraining = demo.pretrain_command(settings, tmp_path / "pretraining")
    for command in (pretraining, demo.train_command(settings, tmp_path / "pretrained.h5", tmp_path)):
        assert ("--mixed-precision" in command) == computes
    assert ("PRECISION=bfloat16" in demo.calibrate_command(settings, tmp_path / "last.h5")) == computes

    save_command(tmp_path / "pretraining", "siamese-mrcnn", pretraining, TinyConfig())
    for now in (False, True):  # a demo goes on as it was begun, also on another machine
        monkeypatch.setattr(demo, "multiplies", lambda number, now=now: now)
        caplog.clear()
        assert stopped_demo() == 130
        assert f"computing in {'bfloat16' if computes else 'float32'}" in caplog.text


# ---- the bundled weights ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def searched(scenes):
    """(data set, COCO, function that evaluates weights with or without a control)."""
    dataset = IndexedCocoDataset()
    coco = dataset.load_coco(scenes, "val", return_coco=True)
    dataset.prepare()
    dataset.build_indices()
    config = TinyConfig().replace(DETECTION_MIN_CONFIDENCE=0.05)

    def search(path, **how):
        searcher = OneShotDetector(SiamesePredictor(config, weights=path, calibrated=False), batch=4)
        return evaluate(searcher, dataset, coco, runs=1, progress=False, **how).records

    return dataset, coco, search


@pytest.mark.slow
def test_bundled_weights_find_categories_they_were_not_trained_on_and_heed_the_reference(searched, tmp_path):
    dataset, coco, search = searched
    parts = dict(zip(("train", "novel"), split_classes(dataset.num_classes - 1, 1), strict=True))
    right, wrong = search(WEIGHTS), search(WEIGHTS, control="present")
    for class_ids in parts.values():
        found, misled = (
            np.mean([one[dataset.class_info[class_id]["id"]]["AP50"] for class_id in class_ids])
            for one in (score_records(coco, records).runs[0]["bbox"].per_class for records in (right, wrong))
        )
        assert found > 0.35 and misled < 0.7 * found  # 24 scenes: far from the figures of docs/shapes.md, and sure

    predictor = SiamesePredictor(TinyConfig(), weights=WEIGHTS)
    loading.save_weights(predictor.layers, tmp_path / "again.h5")
    assert all(
        np.array_equal([hit["score"] for hit in search(path).results(0)], [hit["score"] for hit in right.results(0)])
        for path in [tmp_path / "again.h5"]
    )
