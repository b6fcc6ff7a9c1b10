"""The experiments of the paper: each says what it takes and what is published, and its arguments parse."""

import argparse
import pathlib
import shlex
import subprocess
import sys

import pytest
from scripts import load_script

from siamese_mrcnn_tf.report.published import MEAN, RANDOM_BOXES, published
from siamese_mrcnn_tf.weights.pretrained import KNOWN_FILES

ROOT = pathlib.Path(__file__).resolve().parents[1]
FOLDER = ROOT / "samples" / "coco" / "experiments"
NAMES = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "experiment")


@pytest.fixture
def load(monkeypatch):
    """Import an experiment by name, as if it were run in its folder."""
    monkeypatch.syspath_prepend(str(FOLDER))

    def load_experiment(name):
        return load_script(FOLDER / f"{name}.py")

    yield load_experiment
    sys.modules.pop("experiment", None)


def parsed(arguments):
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=["evaluate"])
    parser.add_argument("--model", required=True)
    parser.add_argument("--split", required=True, choices=["0", "1", "2", "3", "4", "all"])
    parser.add_argument("--categories", required=True, choices=["train", "novel", "all"])
    parser.add_argument("--protocol", required=True, choices=["paper"])
    parser.add_argument("--shots", type=int)
    parser.add_argument("--runs", type=int)
    parser.add_argument("--out", required=True)
    parser.add_argument("--dataset")
    return parser.parse_args(arguments)


def test_every_experiment_of_the_paper_is_there():
    splits = {f"s{split}_{shots}shot_{part}" for split in "1234" for shots in "15" for part in ("train", "novel")}
    assert set(NAMES) == splits | {"full_1shot", "full_5shot", "random_boxes"}


@pytest.mark.parametrize("name", NAMES)
def test_docstring_and_arguments_agree(load, name):
    module = load(name)
    text, options = " ".join(module.__doc__.split()), parsed(module.ARGUMENTS)
    assert f"python samples/coco/experiments/{name}.py --dataset data/coco" in text
    command = text.partition("which stands for python samples/coco/coco.py ")[2].partition(" Weights: ")[0]
    assert shlex.split(command.replace("\\ ", "")) == [*module.ARGUMENTS, "--dataset", "data/coco"]
    assert options.runs == 5 and options.out == f"results/{name}"
    if options.model == RANDOM_BOXES:
        assert "Weights: none." in text
    else:
        assert f"Weights: {options.model}.h5" in text and f"{options.model}.h5" in KNOWN_FILES
    split = MEAN if options.split == "all" else int(options.split)
    for kind, what in (("bbox", "detection"), ("segm", "segmentation")):
        mean, interval = published(options.shots, split, options.categories, kind, model=options.model)["AP50"]
        assert f"{mean:.1f} ± {interval:.2f} {what}" in text


@pytest.mark.parametrize("name", NAMES)
def test_names_say_what_is_evaluated(load, name):
    options = parsed(load(name).ARGUMENTS)
    if name.startswith("s"):
        assert name == f"s{options.split}_{options.shots}shot_{options.categories}"
        assert options.model == f"large_siamese_mrcnn_coco_i{options.split}_0160"
    elif name.startswith("full"):
        assert name == f"full_{options.shots}shot" and (options.split, options.categories) == ("0", "all")


def test_the_command_line_knows_the_options(load, coco):
    parser = coco.build_parser()
    for name in NAMES:
        options = parser.parse_args(load(name).ARGUMENTS)
        assert options.command.__name__ == "evaluate" and options.shots in (1, 5)


def test_dry_run_prints_the_command():
    script = FOLDER / "s2_5shot_train.py"
    done = subprocess.run(
        [sys.executable, str(script), "--dry-run", "--limit", "50"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    words = shlex.split(done.stdout)
    assert words[:3] == ["python", "samples/coco/coco.py", "evaluate"]
    assert words[words.index("--split") + 1] == "2" and words[words.index("--limit") + 1] == "50"
    assert words[-2:] == ["--dataset", "data/coco"] and "--dry-run" not in words


def test_arguments_go_on_to_the_command(load, monkeypatch):
    load("s1_1shot_novel")
    experiment, calls = sys.modules["experiment"], []
    fake = argparse.Namespace(main=lambda arguments: calls.append(arguments) or 7)
    monkeypatch.setattr(experiment, "_load_command", lambda: fake)
    assert experiment.run(["evaluate", "--split", "1"], ["--dataset", "here", "--limit", "2"]) == 7
    assert experiment.run(["evaluate"], ["--dataset=there"]) == 7
    assert calls == [
        ["evaluate", "--split", "1", "--dataset", "here", "--limit", "2"],
        ["evaluate", "--dataset=there"],
    ]
