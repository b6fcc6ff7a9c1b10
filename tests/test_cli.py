"""The command line, as a user types it."""

import argparse
import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import coco_tree
import pytest
from PIL import Image

import siamese_mrcnn_tf
from siamese_mrcnn_tf.cli import effects, inputs
from siamese_mrcnn_tf.cli.main import build_parsers, main, parse
from siamese_mrcnn_tf.cli.options import name_part
from siamese_mrcnn_tf.config import Config
from siamese_mrcnn_tf.io import decoding

ROOT = pathlib.Path(__file__).resolve().parents[1]
COMMANDS = (
    "example",
    "predict",
    "app",
    "demo",
    "train",
    "evaluate",
    "calibrate",
    "check",
    "convert",
    "weights",
    "settings",
    "export",
    "quantize",
    "pretrain",
    "shapes",
)
HEAVY = {"numpy", "keras", "tensorflow", "matplotlib", "h5py", "cv2", "PIL"}
MODULE = ("-m", "siamese_mrcnn_tf")
SCRIPT = ROOT / "samples" / "coco" / "coco.py"
pytestmark = pytest.mark.usefixtures("opened_once", "blank_plots")
START_UP_LINES = re.compile(r"absl::InitializeLog|oneDNN|cuda|cpu_feature_guard|^[IWE]\d{4} ", re.MULTILINE)


@pytest.fixture
def tree(tmp_path):
    coco_tree.write_tree(tmp_path / "set", num_images=3)
    return tmp_path / "set"


@pytest.fixture
def images(tmp_path, scene, crop):
    Image.fromarray(scene).save(tmp_path / "scene.png")
    Image.fromarray(crop).save(tmp_path / "crop.png")
    return tmp_path


def python(*arguments, **environment):
    """Run Python in a process of its own, with TensorFlow's log as it is by default."""
    words = [sys.executable, *map(str, arguments)]
    environment = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"} | environment
    return subprocess.run(words, capture_output=True, text=True, check=False, cwd=ROOT, env=environment)


# ---- the program -------------------------------------------------------------------------------------------------
def test_help_imports_no_heavy_package():
    code = (
        "import contextlib, sys\n"
        "from siamese_mrcnn_tf.cli.main import main\n"
        f"for arguments in ([], *([name] for name in {COMMANDS})):\n"
        "    with contextlib.suppress(SystemExit):\n"
        "        main([*arguments, '--help'])\n"
        f"sys.exit(', '.join({HEAVY} & set(sys.modules)) or None)"
    )
    finished = python("-c", code)
    assert finished.returncode == 0, finished.stderr
    assert all(f"usage: siamese-mrcnn {name} " in finished.stdout for name in COMMANDS)


def test_all_commands_are_listed(capsys):
    assert set(build_parsers("siamese-mrcnn")[1]) == set(COMMANDS)
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    text = capsys.readouterr().out
    assert stopped.value.code == 0 and all(re.search(rf"^    {name}\s", text, re.MULTILINE) for name in COMMANDS)


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ((*MODULE, "predict"), "python -m siamese_mrcnn_tf predict"),
        ((SCRIPT, "predict"), "coco.py predict"),
        ((ROOT / "samples" / "imagenet" / "pretrain.py",), "pretrain.py"),
        ((ROOT / "samples" / "shapes" / "demo.py",), "demo.py"),
        ((ROOT / "samples" / "shapes" / "shapes.py",), "shapes.py"),
        ((pathlib.Path(sys.executable).with_name("siamese-mrcnn"), "predict"), "siamese-mrcnn predict"),
    ],
)
def test_the_program_is_named_as_it_was_typed(words, name):
    finished = python(*words, "--frob")
    assert finished.returncode == 2 and finished.stderr.startswith(f"{name}: error: unknown option --frob")
    assert finished.stderr.endswith(f" See {name} --help\n") and finished.stderr.count("\n") == 1


def test_the_program_is_named_in_commands_to_repeat():
    program = ["python", "samples/coco/coco.py"]
    options = parse(["train", "--dataset", "d"], program=program)
    assert options.program == [*program, "train"] and options.arguments == ["train", "--dataset", "d"]
    options = parse(["--dataset", "d"], program=["python", "pretrain.py"], command="pretrain")
    assert options.program == ["python", "pretrain.py"] and options.arguments == ["pretrain", "--dataset", "d"]
    assert options.launcher == ["siamese-mrcnn"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["frob"], "siamese-mrcnn: error: unknown command 'frob'. See siamese-mrcnn --help\n"),
        (["predct"], "unknown command 'predct'; did you mean predict? See siamese-mrcnn --help"),
        (["--modle", "shapes", "predict"], "siamese-mrcnn: error: unknown option --modle. See"),
        (
            ["predict", "--refrence", "x"],
            "siamese-mrcnn predict: error: unknown option --refrence; did you mean --reference? See siamese-mrcnn pre",
        ),
        (["predict", "--modle=my shapes"], "unknown option --modle; did you mean --model?"),
        (["predict", "-model", "shapes"], "unknown option -model; did you mean --model?"),
        (["evaluate", "--min_confidence", "1"], "unknown option --min_confidence; did you mean --min-confidence?"),
        (["predict", "--ref", "x"], "ambiguous option: --ref could match --reference"),
        (["example", "here"], "siamese-mrcnn example: error: unrecognized arguments: here. See"),
        (["check", "--image-ids", "-1", "--frob"], "unknown option --frob"),
        (["predict", "--image", "a.png"], "the following arguments are required: --model"),
        (["train", "--split", "5"], "argument --split: invalid choice: 5"),
        (
            ["weights", "a.h5", "--frob"],
            "siamese-mrcnn weights: error: unknown option --frob. See siamese-mrcnn weights --help",
        ),
        (["train", "--seed", "-1"], "--seed: expected a whole number of 0 or more, got '-1'"),
        (["train", "--seed", "4294967296"], "--seed: expected a whole number from 0 to 4294967295, got '4294967296'"),
        (["train", "--batch", "9" * 400], "--batch: expected a whole number from 1 to 1000000, got '999"),
        (["train", "--steps", "1e3"], "--steps: expected a whole number of 1 or more, got '1e3'"),
        (["train", "--workers", "\u0663"], "--workers: expected a whole number of 1 or more, got '\u0663'"),
        (["train", "--devices", "1_0"], "--devices: expected a whole number of 1 or more, got '1_0'"),
        (
            ["train", "--year", "../2017"],
            "--year: expected a part of a file name, of 60 characters at most, without / and \\, got '../2017'",
        ),
        (["check", "--subset", "a/b"], "--subset: expected a part of a file name"),
        (["check", "--image-ids", "1", "2.0"], "--image-ids: expected a whole number, got '2.0'"),
        (["evaluate", "--min-confidence", "nan"], "--min-confidence: expected a score from 0 to 1, got 'nan'"),
        (["evaluate", "--threshold", "1e-400"], "--threshold: expected a number above 0 and at most 1, got '1e-400'"),
        (["evaluate", "--absent", "\u0663"], "--absent: expected 'all' or a whole number of 1 or more, got '\u0663'"),
        (["evaluate", "--shard", "2/\u0663"], "--shard: expected a part I/N such as 2/8"),
        (
            ["predict", "--threshold", "0.1", "--min-confidence", "0.2"],
            "--min-confidence: not allowed with argument --t",
        ),
        (["predict", "--device", "tpu"], "--device: device 'tpu': expected cpu, gpu or cuda:N"),
        (["predict", "--max-detections", "3000000000"], "--max-detections: expected a whole number from 1 to 1000000"),
        (["app", "--port", "65536"], "--port: expected a whole number from 0 to 65535, got '65536'"),
        (["pretrain", "--learning-rate", "inf"], "--learning-rate: expected a number above 0, at most 1000, got 'inf'"),
        (["calibrate", "--false-alarms", "1"], "--false-alarms: expected a share from 0 to below 1, got '1'"),
        (["shapes", "--size", "100000"], "--size: expected a whole number from 1 to 8192, got '100000'"),
    ],
)
def test_arguments_that_do_not_parse(capsys, arguments, message):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2 and message in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS)
def test_no_option_takes_what_is_no_number(command):
    texts = ("nan", "inf", "-inf", "1e400", "9" * 400, "\u0663", "1_0", " 5", "", "0x10", "1/\u0663")
    for action in build_parsers("siamese-mrcnn")[1][command]._actions:
        for text in texts if action.type not in (None, name_part) else ():
            with pytest.raises((argparse.ArgumentTypeError, ValueError)):
                action.type(text)


@pytest.mark.parametrize(
    ("arguments", "notes"),
    [
        ("train --set LEARNING_RATE=0.1", ["--set LEARNING_RATE=0.1 has no effect: each stage of --stages paper has"]),
        (
            "train --set WARM_UP_STEPS=9",
            ["--set WARM_UP_STEPS=9 has no effect: no stage of --stages paper has decay_to"],
        ),
        ("train --set ADAM_BETA_2=0.5", ["--set ADAM_BETA_2=0.5 has no effect: OPTIMIZER is sgd"]),
        (
            "train --set USE_HARD_NEGATIVES=true",
            ["--set USE_HARD_NEGATIVES=True has no effect: NUM_JITTERED_GT_ROIS is"],
        ),
        ("train --set NUM_TARGETS=2 --shots 3", ["--set NUM_TARGETS=2 has no effect: --shots replaces it"]),
        ("train --set IMAGES_PER_GPU=2 --batch 3", ["--set IMAGES_PER_GPU=2 has no effect: --batch replaces it"]),
        ("train --set TARGET_PADDING=false", ["--set TARGET_PADDING=False has no effect: references are always"]),
        ("train --set NUM_TARGETS=2 IMAGES_PER_GPU=2 POOL_SIZE=7", []),
        ("predict --set WEIGHT_DECAY=0", ["--set WEIGHT_DECAY=0 has no effect: it is for training"]),
        ("predict --set NUM_TARGETS=2", ["--set NUM_TARGETS=2 has no effect: the references of a query count"]),
        ("predict --set CHECKPOINT_DIR=c", ["--set CHECKPOINT_DIR='c' has no effect: --checkpoints names the folder"]),
        (
            "predict --set DETECTION_MIN_CONFIDENCE=1 --threshold 0",
            ["--set DETECTION_MIN_CONFIDENCE=1 has no effect: -"],
        ),
        ("evaluate --set NUM_TARGETS=2", ["--set NUM_TARGETS=2 has no effect: --shots counts"]),
        (
            "evaluate --set MOLD_TARGETS_AT_INFERENCE=1 --protocol paper",
            ["--set MOLD_TARGETS_AT_INFERENCE=1 has no ef"],
        ),
        ("predict --set DETECTION_MIN_CONFIDENCE=1", []),
    ],
)
def test_settings_without_effect_are_named_once(capsys, arguments, notes):
    needed = " --image a --model b" if arguments.startswith("predict") else ""
    options = parse((arguments + needed).split())
    for _ in range(2):
        if options.command_name == "train":
            effects.say_unused_in_training(options, Config(), decays=False)
        else:
            effects.say_unused_in_detection(options)
    printed = capsys.readouterr().err.splitlines()
    assert len(printed) == len(notes)
    assert all(line.startswith(f"note: {note}") for line, note in zip(printed, notes, strict=True))


@pytest.mark.parametrize(
    ("arguments", "note"),
    [
        (("evaluate", "--compare", "a", "--runs", 2, "--model", "b"), "--model, --runs have no effect with --compare"),
        (("evaluate", "--merge", "a", "--shots", 1), "--shots has no effect with --merge: what was searched is in the"),
        (("shapes", "--demo", "--train", 5), "--train has no effect with --demo"),
        (("convert", "gone.json", "--seed", 5), "--seed has no effect without --val-share"),
    ],
)
def test_options_without_effect_are_named(run, tmp_path, monkeypatch, arguments, note):
    monkeypatch.setattr(inputs, "start_keras", lambda options: None)
    assert f"note: {note}" in run(*arguments, "--out", tmp_path / "out")[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "--dataset", "d", "--epochs", 161), "--epochs 161: --stages paper ends at epoch 160"),
        (("train", "--dataset", "d", "--set", "GPU_COUNT=0"), "GPU_COUNT = 0: expected a whole number from 1 to 1024"),
        (("train", "--dataset", "d", "--set", "BACKBONE=vgg"), "BACKBONE = 'vgg': expected resnet50, resnet101"),
        (("train", "--dataset", "d", "--batch", 1_000_000), "IMAGES_PER_GPU = 1000000: training needs about"),
        (
            ("check", "--dataset", "d", "--set", "IMAGE_MAX_DIM=65536"),
            "IMAGE_MAX_DIM = 65536: a training sample needs about",
        ),
        (("check", "--dataset", "d", "--set", "NUM_TARGETS=2", "NUM_TARGETS=3"), "NUM_TARGETS = 3: already given as 2"),
    ],
)
def test_impossible_settings_end_a_command_at_once(run, tmp_path, arguments, message):
    where = ("--out", tmp_path) if arguments[0] == "check" else ("--logs", tmp_path)
    code, _, errors = run(*arguments, *where)
    assert code == 2 and message in errors


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["predict", "--image", "", "--reference", "a.png", "--model", "untrained"], "--image"),
        (["predict", "--image", "a.png", "--reference", "a.png", " ", "--model", "untrained"], "--reference"),
        (["train", "--dataset="], "--dataset"),
        (["evaluate", "--dataset", "d", "--model", ""], "--model"),
        (["convert", "", "--out", "o"], "arguments"),
        (["weights", ""], "arguments"),
    ],
)
def test_empty_values(capsys, arguments, name):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2 and f"{name}: expected a value, got an empty text" in capsys.readouterr().err


@pytest.mark.parametrize(("value", "words"), [("a" * 300, "more than 255 bytes"), ("b\udcff.png", "no characters")])
@pytest.mark.parametrize("option", ["--model", "--resume", "--dataset"])
def test_values_that_are_no_paths(capsys, option, value, words):
    with pytest.raises(SystemExit) as stopped:
        main(["train", option, f"out/{value}"])
    assert stopped.value.code == 2 and option in (errors := capsys.readouterr().err) and words in errors


def test_long_paths_of_windows_are_paths():
    path = "C:\\" + "\\".join(["a folder of fifty characters " * 2] * 6)
    assert parse(["train", "--model", path]).model == path


@pytest.mark.parametrize("command", ["predict", "train", "evaluate", "check", "convert", "calibrate"])
def test_a_number_of_pixels_is_an_option_of_what_reads_images(monkeypatch, command):
    monkeypatch.setenv(decoding.VARIABLE, "1")
    needed = {"predict": ["--image", "a", "--model", "m"], "convert": ["a", "--out", "o"]}
    rest = needed.get(command, ["--model", "m"] if command != "check" else [])
    parse([command, *rest, "--max-pixels", "400000000"])
    assert decoding.max_pixels() == 400_000_000


@pytest.mark.parametrize("before", [None, "5000"])
def test_a_number_of_pixels_is_of_one_command(run, tmp_path, monkeypatch, before):
    monkeypatch.setenv(decoding.VARIABLE, "1")
    if before is None:
        monkeypatch.delenv(decoding.VARIABLE)
    else:
        monkeypatch.setenv(decoding.VARIABLE, before)
    run("check", "--dataset", tmp_path, "--max-pixels", 9)
    parse(["app", "--model", "m"])
    assert os.environ.get(decoding.VARIABLE) == before


def test_version(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"siamese-mrcnn {siamese_mrcnn_tf.__version__}\n"


# ---- settings ----------------------------------------------------------------------------------------------------
def test_the_page_of_settings_is_that_of_the_table(run):
    code, text, _ = run("settings", "--markdown")
    assert code == 0
    assert text == (ROOT / "docs" / "settings.md").read_text(), "siamese-mrcnn settings --markdown > docs/settings.md"


def test_settings_lists_those_that_are_named(run):
    code, text, _ = run("settings", "num_targets", "JITTERED_ROIS", "--config", "tiny")
    assert code == 0 and text.splitlines() == [
        "  NUM_TARGETS = 1",
        "      a whole number from 1 to 10000: references of a query (K-shot)",
        "  NUM_JITTERED_GT_ROIS = 96",
        "      a whole number from 0 to 100000: ground truth boxes, moved at random, as proposals",
    ]
    assert "NUM_TARGET'" in run("settings", "NUM_TARGET")[2] and "mean NUM_TARGETS?" in run("settings", "NUM_TARGET")[2]


def test_a_reader_that_ends_early_is_no_bug():
    command = f"{shlex.quote(sys.executable)} -u -m siamese_mrcnn_tf settings | head -1"
    finished = subprocess.run(command, shell=True, capture_output=True, text=True, check=True, cwd=ROOT)
    assert finished.stdout == "names and folders:\n" and not finished.stderr


@pytest.mark.skipif(not pathlib.Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("arguments", ["settings", "--version", "shapes --demo --size 64 --out {}"])
def test_standard_output_that_is_full(tmp_path, arguments, unbuffered):
    command = [sys.executable, *MODULE, *arguments.format(tmp_path).split()]
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    with open("/dev/full", "w") as full:
        ended = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=environment, check=False
        )
    message = "error: standard output: cannot be written (No space left on device)"
    assert ended.returncode == 2 and ended.stderr.splitlines()[-1].endswith(message)
    assert "Exception" not in ended.stderr and "Traceback" not in ended.stderr


def test_former_names_of_options():
    assert parse(["check", "--skip-pictures"]).skip_images and not parse(["check"]).skip_images
    assert "--skip-pictures" not in build_parsers("siamese-mrcnn")[1]["check"].format_help()


@pytest.mark.slow
def test_tensorflow_starts_quietly_but_for_debug(images):
    arguments = (*MODULE, "predict", "--image", images / "scene.png", "--reference", images / "crop.png")
    arguments += ("--model", "untrained", "--out", images / "out")
    loud, quiet = python(*arguments, "--debug"), python(*arguments, "--force")
    assert loud.returncode == quiet.returncode == 0, quiet.stderr
    assert START_UP_LINES.search(loud.stderr) and not START_UP_LINES.search(quiet.stderr), quiet.stderr
    assert "untrained weights: detections mean nothing" in quiet.stderr


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [("train", "--resume", "gone"), ("pretrain", "--data", "gone")])
def test_trainings_start_quietly(arguments):
    finished = python(*MODULE, *arguments)
    *warnings, error = finished.stderr.splitlines()
    assert finished.returncode == 2 and error.startswith(f"python -m siamese_mrcnn_tf {arguments[0]}: error: gone")
    assert all(line.startswith("warning: IMAGES_PER_GPU") for line in warnings)  # on a machine with less memory


def test_errors_of_a_crash_while_keras_is_imported_are_shown(tmp_path):
    log = b"I0000 00:00:17 port.cc:153] oneDNN\nF0000 00:00:17 cpu.cc:1] no AVX\n"
    (tmp_path / "keras.py").write_text(f"import os\nos.write(2, {log!r})\nos.kill(os.getpid(), 9)\n")
    code = "from siamese_mrcnn_tf.cli import inputs, main; inputs.start_keras(main.parse(['demo']))"
    finished = python("-c", code, PYTHONPATH=str(tmp_path))
    assert finished.returncode < 0 and finished.stderr == "F0000 00:00:17 cpu.cc:1] no AVX\n"


@pytest.mark.parametrize(("backend", "seen"), [("", []), ("jax", ["jax"])])
def test_keras_is_imported_without_packages_that_no_command_needs(tmp_path, backend, seen):
    packages = ("pandas", "sklearn", "jax")
    for name in packages:
        (tmp_path / f"{name}.py").write_text("")
    finds = "[name for name in ('pandas', 'sklearn', 'jax') if importlib.util.find_spec(name)]"
    attempt = "def can_import(name):\n    try:\n        return bool(importlib.import_module(name))\n"
    attempt += "    except ImportError:\n        return False\n"
    seen_by_keras = f"seen = [name for name in {packages} if can_import(name)]\n"
    (tmp_path / "keras.py").write_text(f"import importlib\n{attempt}{seen_by_keras}")
    code = "import importlib.util; from siamese_mrcnn_tf.cli import inputs, main\n"
    code += f"inputs.start_keras(main.parse(['demo'])); import keras; print(keras.seen, {finds})"
    settings = {"PYTHONPATH": str(tmp_path), "KERAS_HOME": str(tmp_path), "KERAS_BACKEND": backend}
    settings["JAX_COMPILATION_CACHE_DIR"] = str(tmp_path)
    finished = python("-c", code, **settings)
    assert finished.stdout.strip() == f"{seen} {list(packages)}", finished.stderr
    if not backend:
        (tmp_path / "keras.json").write_text('{"backend": "jax"}')
        assert python("-c", code, **settings).stdout.strip() == f"['jax'] {list(packages)}"


# ---- evaluate ----------------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_evaluate_prints_tables_and_writes_records(run, tree, tiny_weights, tmp_path):
    out = tmp_path / "out"
    common = ("evaluate", "--dataset", tree, "--model", tiny_weights, "--min-confidence", 0, "--runs", 2)
    code, text, _ = run(*common, "--out", out)
    assert code == 0
    assert text.count("Average Precision  (AP) @[ IoU=0.50 ") == 2 and text.count("+-") == 20  # none has large objects
    assert "bbox: 2 images, 8 queries" in text
    names = {path.name for path in out.iterdir()}
    assert {"settings.json", "records-0001-of-0001.jsonl", "scores.json", "analysis.json", "report.md"} <= names
    assert {"results_run_0.json", "results_run_1.json"} <= names
    settings = json.loads((out / "settings.json").read_text())
    assert settings["config"]["NAME"] == "tiny" and settings["config"]["MOLD_TARGETS_AT_INFERENCE"] is True
    scores = json.loads((out / "scores.json").read_text())
    assert set(scores["mean"]) == {"bbox", "segm"} and len(scores["runs"]) == 2
    assert run(*common, "--out", out)[0] == 2  # what is there is not overwritten
    assert run("evaluate", "--dataset", tree, "--results", out, "--out", tmp_path / "again")[0] == 0
    assert json.loads((out / "scores.json").read_text()) == scores


@pytest.mark.slow
def test_evaluation_in_parts_is_joined(run, tree, tiny_weights, tmp_path):
    common = ("evaluate", "--dataset", tree, "--split", 1, "--categories", "train")
    model = ("--model", tiny_weights, "--min-confidence", 0, "--runs", 2)
    parts = [tmp_path / "one", tmp_path / "two"]
    for number, part in enumerate(parts, start=1):
        code, text, _ = run(*common, *model, "--shard", f"{number}/2", "--out", part)
        assert code == 0 and f"part {number} of 2" in text
    assert run(*common, "--merge", *parts, "--out", tmp_path / "joined")[0] == 0
    assert run(*common, *model, "--out", tmp_path / "whole")[0] == 0
    joined, whole = (json.loads((tmp_path / name / "scores.json").read_text()) for name in ("joined", "whole"))
    assert joined["mean"] == whole["mean"] and joined["runs"] == whole["runs"]


@pytest.mark.slow
def test_evaluate_with_references_of_the_wrong_category(run, tree, tiny_weights, tmp_path):
    common = ("evaluate", "--dataset", tree, "--model", tiny_weights, "--min-confidence", 0, "--runs", 1)
    images = {"present": [10, 20], "absent": [20]}  # image 10 has all three categories, one as a crowd
    for control, chosen in images.items():
        out = tmp_path / control
        assert run(*common, "--control", control, "--out", out)[0] == 0
        settings = json.loads((out / "settings.json").read_text())
        assert settings["control"] == control and settings["images"] == chosen
        assert f"reference of a category that is {control}" in (out / "report.md").read_text()


def test_controls_are_two(capsys):
    with pytest.raises(SystemExit):
        main(["evaluate", "--dataset", "d", "--model", "m", "--control", "other"])
    assert "'present', 'absent'" in capsys.readouterr().err


def test_evaluate_asks_for_absent_categories_too(run, tree, tmp_path):
    common = ("evaluate", "--dataset", tree, "--split", 1, "--model", "random-boxes", "--runs", 2, "--absent")
    code, text, _ = run(*common, "all", "--threshold", 0.5, "--out", tmp_path / "open")
    assert code == 0
    assert "open protocol, threshold 0.5: 4 present and 4 absent queries a run; metrics from 0 to 1" in text
    assert "2 runs; metrics from 0 to 1\n" in text and "not the choice of images" in text
    assert re.search(r"AUROC of presence +1.000 \+- 0.000 +1.000 \+- 0.000 +1.000 \+- 0.000\n", text)
    assert "--min-confidence 0.05 shows more" in text
    settings = json.loads((tmp_path / "open" / "settings.json").read_text())
    assert (settings["absent"], settings["threshold"]) == ("all", 0.5)
    assert "Presence (the open protocol)" in (tmp_path / "open" / "report.md").read_text()
    assert run(*common, 1, "--out", tmp_path / "some")[0] == 0
    settings = json.loads((tmp_path / "some" / "settings.json").read_text())
    assert (settings["absent"], settings["threshold"]) == (1, 0.7)
    again = ("evaluate", "--dataset", tree, "--results", tmp_path / "open", "--out", tmp_path / "again")
    code, text, _ = run(*again, "--threshold", 0.9)
    assert code == 0 and "open protocol, threshold 0.9" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--absent", "0"], "expected 'all' or a whole number of 1 or more, got '0'"),
        (["--absent", "some"], "expected 'all' or a whole number of 1 or more, got 'some'"),
        (["--absent", "all", "--threshold", "0"], "expected a number above 0 and at most 1, got '0'"),
    ],
)
def test_arguments_of_the_open_protocol(capsys, arguments, message):
    with pytest.raises(SystemExit):
        main(["evaluate", "--dataset", "d", "--model", "m", *arguments])
    assert message in capsys.readouterr().err


def test_random_boxes_over_all_splits(run, tree, tmp_path):
    shutil.copytree(tree, tmp_path / "my_set")
    common = ("evaluate", "--dataset", tmp_path / "my_set", "--model", "random-boxes", "--runs", 2)
    code, printed, _ = run(*common, "--out", tmp_path / "all")
    assert code == 0 and "Random boxes on my_set (val2017)" in printed
    assert r"on my\_set (val2017)" in (tmp_path / "all" / "report.md").read_text()


@pytest.mark.slow
def test_parts_of_all_splits_are_joined_and_scored_again(run, tree, tmp_path):
    common = ("evaluate", "--dataset", tree, "--split", "all")
    model = ("--categories", "train", "--model", "random-boxes", "--runs", 2)
    assert run(*common, *model, "--out", tmp_path / "whole")[0] == 0
    parts = [tmp_path / "part1", tmp_path / "part2"]
    for number, part in enumerate(parts, 1):
        assert run(*common, *model, "--shard", f"{number}/2", "--out", part)[0] == 0
    assert run(*common, "--merge", *parts, "--out", tmp_path / "joined")[0] == 0
    assert run(*common, "--results", tmp_path / "joined", "--out", tmp_path / "again")[0] == 0
    tables = [(tmp_path / name / "metrics.csv").read_text() for name in ("whole", "joined", "again")]
    assert tables[0] == tables[1] == tables[2] and ",mean," in tables[0]


def test_weights_of_all_splits_are_found_before_the_first_is_evaluated(run, tree, tmp_path):
    (tmp_path / "weights_1.h5").touch()
    model = tmp_path / "weights_{split}.h5"
    code, _, errors = run("evaluate", "--dataset", tree, "--split", "all", "--model", model, "--out", tmp_path / "out")
    assert code == 2 and "weights_2.h5" in errors and "no such file" in errors


@pytest.mark.slow
def test_evaluate_paper_protocol(run, tree, tiny_weights, tmp_path):
    common = ("--dataset", tree, "--model", tiny_weights, "--min-confidence", 0, "--protocol", "paper", "--limit", 1)
    assert run("evaluate", *common, "--out", tmp_path / "out")[0] == 0
    settings = json.loads((tmp_path / "out" / "settings.json").read_text())
    assert settings["config"]["MOLD_TARGETS_AT_INFERENCE"] is False
    areas = [
        (result["area"], pytest.approx(result["bbox"][2] * result["bbox"][3]))
        for result in json.loads((tmp_path / "out" / "results_run_0.json").read_text())
    ]
    assert areas and all(area == of_box for area, of_box in areas)


@pytest.mark.slow
def test_predict_with_several_queries(run, images, tiny_weights):
    box = f"{images / 'scene.png'}:5,5,50,60"
    references = ("--reference", images / "crop.png", box, "--reference", box)
    image = ("--image", images / "scene.png")
    model = ("--model", tiny_weights, "--set", "DETECTION_MIN_CONFIDENCE=0")
    code, text, _ = run("predict", *image, *references, *model, "--out", images / "out")
    assert code == 0 and "images: 1, categories: 2" in text
    content = json.loads((images / "out" / "images.json").read_text())
    assert [category["name"] for category in content["categories"]] == ["crop", "scene"]


def test_repeated_options_add_up():
    arguments = "predict --model m --reference r --image a --image b c --set A=1 --set B=2".split()
    options = build_parsers()[0].parse_args(arguments)
    assert options.image == ["a", "b", "c"] and options.set == ["A=1", "B=2"]


def test_numbers_are_checked(capsys):
    with pytest.raises(SystemExit) as stopped:
        main("evaluate --dataset d --model m --limit none".split())
    assert stopped.value.code == 2
    assert "expected a whole number of 1 or more, got 'none'" in capsys.readouterr().err


def test_records_are_either_joined_or_scored_again(capsys):
    with pytest.raises(SystemExit) as stopped:
        main("evaluate --dataset d --merge a b --results c".split())
    assert stopped.value.code == 2
    assert "--results: not allowed with argument --merge" in capsys.readouterr().err


@pytest.mark.slow
def test_last_checkpoint_of_the_named_run(run, images, tiny_model, tmp_path):
    folder = tmp_path / "logs" / "siamese_mrcnn_tiny_mine"
    folder.mkdir(parents=True)
    for epoch in (1, 3):
        tiny_model.save_weights(folder / f"siamese_mrcnn_{epoch:04d}.h5")
    query = ("--image", images / "scene.png", "--reference", images / "crop.png", "--out", images / "out")
    chosen = ("--model", "last", "--logs", tmp_path / "logs", "--config", "tiny", "--set", "EXPERIMENT=mine")
    assert run("predict", *query, *chosen)[0] == 0


@pytest.mark.slow
def test_predict_untrained_says_so(run, images):
    arguments = ("--image", images / "scene.png", "--reference", images / "crop.png", "--out", images / "out")
    code, _, errors = run("predict", "--model", "untrained", *arguments)
    assert code == 0 and "detections mean nothing" in errors


def test_weights_describes(run, tiny_weights):
    code, text, _ = run("weights", tiny_weights)
    assert code == 0 and "tiny" in text and "resnet_model" in text


def bad_inputs(images, tree, weights):
    """(name, arguments, what the message must name) of every mistake a user can make."""
    scene, crop = images / "scene.png", images / "crop.png"
    predict = ["predict", "--out", images / "out", "--model", weights, "--image"]
    evaluate = ["evaluate", "--out", images / "out", "--model", weights, "--dataset"]
    train = ["train", "--logs", images / "out", "--config", "tiny", "--dataset"]
    (images / "broken.png").write_bytes(scene.read_bytes()[:300])
    coco_tree.write_tree(images / "train", subset="train")
    (images / "config.json").write_text('{"BASE": "tiny", "IMAGE_MAX_DIMS": 128}')
    return {
        "missing image": ([*predict, images / "gone.png", "--reference", crop], "gone.png"),
        "broken image": ([*predict, images / "broken.png", "--reference", crop], "broken.png"),
        "missing reference": ([*predict, scene, "--reference", images / "gone.png"], "gone.png"),
        "box outside": ([*predict, scene, "--reference", f"{scene}:0,0,500,500"], "0,0,500,500"),
        "empty crop": ([*predict, scene, "--reference", f"{scene}:5,5,5,9"], "5,5,5,9"),
        "bad threshold": (
            [*predict, scene, "--reference", crop, "--set", "RPN_NMS_THRESHOLD=2"],
            "RPN_NMS_THRESHOLD = 2",
        ),
        "bad confidence": (
            [*predict, scene, "--reference", crop, "--set", "DETECTION_MIN_CONFIDENCE=70"],
            "DETECTION_MIN_CONFIDENCE = 70",
        ),
        "bad side": ([*predict, scene, "--reference", crop, "--set", "IMAGE_MAX_DIM=500"], "IMAGE_MAX_DIM = 500"),
        "unknown key": (
            [*predict, scene, "--reference", crop, "--set", "IMAGE_MAXDIM=5"],
            "did you mean IMAGE_MAX_DIM",
        ),
        "no value": ([*predict, scene, "--reference", crop, "--set", "IMAGE_MAX_DIM"], "KEY=VALUE"),
        "unknown key in file": (
            [*predict, scene, "--reference", crop, "--config", images / "config.json"],
            "config.json: IMAGE_MAX_DIMS",
        ),
        "wrong configuration": ([*predict, scene, "--reference", crop, "--config", "small"], "tiny"),
        "missing tree": ([*evaluate, images / "nowhere"], "nowhere"),
        "missing subset": ([*evaluate, tree, "--subset", "train"], "instances_train2017.json"),
        "missing known file": (["weights", "imagenet-687", "--checkpoints", images], "github.com/bethgelab"),
        "missing weights": (["weights", images / "gone.h5"], "gone.h5"),
        "no weights at all": (["weights", crop], "crop.png"),
        "nothing to train on": (["train", "--logs", images / "out"], "--dataset: expected the folder"),
        "no training images": ([*train, tree], "instances_train2017.json"),
        "unknown stages": ([*train, tree, "--stages", "papers"], "schedule 'papers'"),
        "uneven batch": ([*train, tree, "--batch", 3, "--devices", 2], "--batch 3: cannot be shared evenly"),
        "no weights to start from": ([*train, images / "train", "--model", images / "gone.h5"], "gone.h5"),
        "no run to resume": (["train", "--resume", images / "nowhere"], "nowhere: no run to resume"),
        "images that are not there": ([*evaluate, tree, "--images", 10, 11], "[11]"),
        "no weights to evaluate": (
            ["evaluate", "--out", images / "out", "--dataset", tree],
            "--model: expected the weights",
        ),
        "nothing held out": ([*evaluate, tree, "--categories", "novel"], "--split 0 has no novel categories"),
        "settings of random boxes": (
            [
                "evaluate",
                "--out",
                images / "out",
                "--dataset",
                tree,
                "--model",
                "random-boxes",
                "--set",
                "POOL_SIZE=7",
            ],
            "random-boxes: has no configuration",
        ),
        "control of random boxes": (
            [*evaluate, tree, "--model", "random-boxes", "--control", "absent"],
            "--control absent: --model random-boxes takes no references",
        ),
        "verification of random boxes": (
            [*evaluate, tree, "--model", "random-boxes", "--no-verify"],
            "leave out --config, --set, --min-confidence, --no-verify",
        ),
        "absent ones of records": (
            ["evaluate", "--dataset", tree, "--out", images / "out", "--results", images, "--absent", 2],
            "--absent 2: what was searched is in the records, leave it out",
        ),
        "threshold without use": (
            [*evaluate, tree, "--threshold", 0.5],
            "--threshold 0.5: needs the metrics of presence, expected --absent too",
        ),
        "no set to check": (["check", "--dataset", images / "nowhere", "--out", images / "out"], "nowhere"),
        "last without a run": (
            ["predict", "--model", "last", "--logs", images, "--image", scene, "--reference", crop],
            "no checkpoint",
        ),
    }


MISTAKES = (
    "missing image",
    "broken image",
    "missing reference",
    "box outside",
    "empty crop",
    "bad threshold",
    "bad confidence",
    "bad side",
    "unknown key",
    "no value",
    "unknown key in file",
    "wrong configuration",
    "missing tree",
    "missing subset",
    "missing known file",
    "missing weights",
    "no weights at all",
    "nothing to train on",
    "no training images",
    "unknown stages",
    "uneven batch",
    "no weights to start from",
    "no run to resume",
    "images that are not there",
    "no weights to evaluate",
    "nothing held out",
    "settings of random boxes",
    "control of random boxes",
    "verification of random boxes",
    "absent ones of records",
    "threshold without use",
    "no set to check",
    "last without a run",
)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_named_and_leave_nothing(run, images, tree, tiny_weights, mistake):
    arguments, culprit = bad_inputs(images, tree, tiny_weights)[mistake]
    code, _, errors = run(*arguments)
    assert code == 2
    assert f"siamese-mrcnn {arguments[0]}: error: " in errors and culprit in errors
    assert "Traceback" not in errors
    assert not (images / "out").exists()


def test_every_mistake_is_tried(images, tree, tiny_weights):
    assert set(bad_inputs(images, tree, tiny_weights)) == set(MISTAKES)


@pytest.mark.parametrize(
    ("change", "culprit"),
    [
        (lambda content: content.pop("categories"), "categories"),
        (lambda content: content["annotations"][0].pop("bbox"), "bbox"),
        (lambda content: content["images"][0].update(file_name="../escape.png"), "../escape.png"),
    ],
)
def test_bad_annotation_files(run, tree, tiny_weights, tmp_path, change, culprit):
    content = json.loads((tree / "annotations" / "instances_val2017.json").read_text())
    change(content)
    coco_tree.write_annotations(tree, content)
    code, _, errors = run("evaluate", "--dataset", tree, "--model", tiny_weights, "--out", tmp_path / "out")
    assert code == 2 and culprit in errors and ("instances_val2017.json" in errors or "escape" in culprit)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_category_without_instances_is_no_error(run, tree, tiny_weights, tmp_path):
    content = json.loads((tree / "annotations" / "instances_val2017.json").read_text())
    content["categories"].append({"id": 99, "name": "unicorn"})
    coco_tree.write_annotations(tree, content)
    assert run("evaluate", "--dataset", tree, "--model", tiny_weights, "--out", tmp_path / "out", "--limit", 1)[0] == 0


def test_debug_shows_the_traceback(images):
    with pytest.raises(ValueError, match="gone.h5"):
        main(["weights", str(images / "gone.h5"), "--debug"])


def test_backbone_weights_cannot_detect(run, images, tiny_model, tmp_path):
    from siamese_mrcnn_tf.weights import loading

    class Backbone:
        layers = [tiny_model.predictor.layers.resnet_model]

    loading.save_weights(Backbone, tmp_path / "imagenet.h5")
    arguments = ("--image", images / "scene.png", "--reference", images / "crop.png", "--out", images / "out")
    code, _, errors = run("predict", "--model", tmp_path / "imagenet.h5", "--config", "tiny", *arguments)
    assert code == 2 and "cannot detect" in errors and "fpn_c5p5" in errors
    assert f"train from this backbone: siamese-mrcnn train --dataset DIR --model {tmp_path / 'imagenet.h5'}" in errors


# ---- check -------------------------------------------------------------------------------------------------------
def test_check_counts_and_draws(run, tree, tmp_path):
    out = tmp_path / "images"
    code, text, _ = run("check", "--dataset", tree, "--subset", "val", "--config", "tiny", "--out", out, "--samples", 2)
    assert code == 0
    assert "val2017: 3 images, 1 of them without annotations; 5 annotations, 1 of them crowds" in text
    assert "2 training samples are drawn" in text
    assert "They are drawn as the configuration tiny sees them, 128 x 128 pixels\n" in text
    assert sorted(path.name for path in out.iterdir()) == ["sample_00.png", "sample_01.png"]


def test_check_fails_where_samples_cannot_be_drawn(run, tree, tmp_path):
    for path in (tree / "val2017").iterdir():
        path.unlink()
    checked = ("check", "--dataset", tree, "--subset", "val", "--config", "tiny", "--out", tmp_path / "o")
    code, text, errors = run(*checked, "--samples", 2, "--skip-images")
    assert code == 1 and "0 of 2 training samples are drawn" in text, (text, errors)


def test_check_fails_on_broken_images(run, tree, tmp_path):
    (tree / "val2017" / "000000000020.png").unlink()
    checked = ("check", "--dataset", tree, "--subset", "val", "--config", "tiny", "--out", tmp_path, "--samples", 0)
    code, text, _ = run(*checked)
    assert code == 1
    assert "000000000020.png" in text
    assert run(*checked, "--skip-images")[0] == 0
