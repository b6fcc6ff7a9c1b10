"""The experiments of the paper: the table says what each takes and what is published, and the commands parse."""

import pathlib
import shlex
import subprocess
import sys

import pytest
from scripts import load_script

from siamese_mrcnn_tf.cli.main import build_parsers
from siamese_mrcnn_tf.report.published import MEAN, RANDOM_BOXES, published
from siamese_mrcnn_tf.weights.known_files import KNOWN_FILES

SCRIPT = pathlib.Path(__file__).resolve().parents[1] / "samples" / "coco" / "experiments.py"
experiments = load_script(SCRIPT)


def parsed(name, *further):
    return build_parsers()[0].parse_args(experiments.arguments_of(name, list(further)))


def test_every_experiment_of_the_paper_is_there():
    splits = {f"s{split}_{shots}shot_{part}" for split in "1234" for shots in "15" for part in ("train", "novel")}
    assert set(experiments.EXPERIMENTS) == splits | {"full_1shot", "full_5shot", "random_boxes"}


@pytest.mark.parametrize("name", experiments.EXPERIMENTS)
def test_names_say_what_is_evaluated(name):
    options = parsed(name)
    assert options.command.__module__ == "siamese_mrcnn_tf.cli.evaluate"
    assert (options.runs, options.protocol, options.out) == (5, "paper", f"results/{name}")
    assert options.model == RANDOM_BOXES or f"{options.model}.h5" in KNOWN_FILES
    if name.startswith("s"):
        assert name == f"s{options.split}_{options.shots}shot_{options.categories}"
        assert options.model == f"large_siamese_mrcnn_coco_i{options.split}_0160"
    elif name.startswith("full"):
        assert name == f"full_{options.shots}shot" and (options.split, options.categories) == ("0", "all")


def test_the_list_has_weights_published_scores_and_commands(capsys):
    assert experiments.main(["--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + len(experiments.EXPERIMENTS)
    for line, name in zip(lines[2:], experiments.EXPERIMENTS, strict=True):
        cells, options = [cell.strip() for cell in line.strip("|").split("|")], parsed(name)
        split = MEAN if options.split == "all" else int(options.split)
        assert cells[:2] == [name, "none" if options.model == RANDOM_BOXES else f"{options.model}.h5"]
        for cell, kind in zip(cells[2:4], ("bbox", "segm"), strict=True):
            mean, interval = published(options.shots, split, options.categories, kind, model=options.model)["AP50"]
            assert cell == f"{mean:.1f} ± {interval:.2f}"
        command = shlex.split(cells[4].strip("`"))
        assert command == ["siamese-mrcnn", *experiments.arguments_of(name, [])]
    assert lines[2].startswith("| full_1shot | large_siamese_mrcnn_coco_full_0320.h5 | 35.5 ± 0.15 | 33.1 ± 0.09 |")
    assert lines[-1].startswith("| random_boxes | none | 1.2 ± 0.05 | 0.5 ± 0.05 |")


def test_dry_run_prints_the_command():
    words = [sys.executable, str(SCRIPT), "s2_5shot_train", "--dry-run", "--limit", "50"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    words = shlex.split(done.stdout)
    assert words[:2] == ["siamese-mrcnn", "evaluate"]
    assert words[words.index("--split") + 1] == "2" and words[words.index("--limit") + 1] == "50"
    assert words[-2:] == ["--dataset", "data/coco"] and "--dry-run" not in words


def test_further_arguments_go_to_the_command(monkeypatch):
    calls = []
    monkeypatch.setattr(experiments, "siamese_mrcnn", lambda arguments: calls.append(arguments) or 7)
    assert experiments.main(["s1_1shot_novel", "--dataset", "here", "--limit", "2"]) == 7
    assert experiments.main(["random_boxes", "--dataset=there"]) == 7
    assert calls[0][-4:] == ["--dataset", "here", "--limit", "2"] and calls[0].count("--dataset") == 1
    assert calls[1][-1] == "--dataset=there" and "--dataset" not in calls[1]


@pytest.mark.parametrize("arguments", [[], ["unknown"]])
def test_names_are_checked(arguments, capsys):
    with pytest.raises(SystemExit):
        experiments.main(arguments)
    assert "NAME" in capsys.readouterr().err
