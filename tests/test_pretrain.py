"""`siamese-mrcnn pretrain`: what it trains, how it stops and resumes, what it refuses."""

import dataclasses
import json
import pathlib
import signal
import subprocess
import sys
import time

import coco_tree
import imagenet_tree
import pytest

from siamese_mrcnn_tf.cli.main import main, parse
from siamese_mrcnn_tf.cli.pretrain import chosen_recipe, find_images, name_of
from siamese_mrcnn_tf.config import TinyConfig
from siamese_mrcnn_tf.modeling import network
from siamese_mrcnn_tf.pretraining.classifier import Recipe, recipe_of
from siamese_mrcnn_tf.weights import loading

SCRIPT = pathlib.Path(__file__).resolve().parents[1] / "samples" / "imagenet" / "pretrain.py"
SMALL = {"BACKBONE_STEM_WIDTH": 16, "BACKBONE_WIDTHS": (16, 16, 32, 32), "FPN_FEATUREMAPS": 16}


@pytest.fixture
def tree(tmp_path):
    return imagenet_tree.write_tree(tmp_path / "set")


def pretrain(*arguments):
    """Run the command in this process; its exit code."""
    return main(["pretrain", *map(str, arguments)])


def test_help_of_the_sample_does_not_start_tensorflow():
    probe = (
        "import sys, runpy\nsys.argv = ['pretrain.py', '--help']\ntry:\n"
        f" runpy.run_path({str(SCRIPT)!r}, run_name='__main__')\nexcept SystemExit:\n pass\n"
        "sys.exit('keras' in sys.modules)"
    )
    finished = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    assert all(option in finished.stdout for option in ("--data", "--classes", "--resume", "--devices"))


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((), "expected --data (folder of ImageNet, with train/ and val/) or --dataset, or --annotations and"),
        (("--data", "{tree}", "--dataset", "{tree}"), "expected --data (folder of ImageNet, with train/ and val/) or"),
        (("--dataset", "nowhere"), "nowhere: no such folder"),
        (("--data", "nowhere"), "nowhere/train: no such folder"),
        (("--data", "{tree}"), "684 of the 687 classes have no image"),
        (("--data", "{tree}", "--partial", "--batch", 10, "--devices", 4), "cannot be shared evenly by 4 devices"),
        (("--data", "{tree}", "--partial", "--config", "huge"), "configuration 'huge'"),
        (("--resume", "nowhere"), "nowhere: no run to resume there"),
    ],
)
def test_what_the_user_can_mend_is_said(capsys, tree, arguments, message):
    assert pretrain(*(str(argument).format(tree=tree) for argument in arguments)) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("option, value", [("--learning-rate", "0"), ("--learning-rate", "x"), ("--size", "8")])
def test_impossible_numbers_are_refused(capsys, option, value):
    with pytest.raises(SystemExit):
        pretrain("--data", "d", option, value)
    assert f"got '{value}'" in capsys.readouterr().err


def test_a_folder_with_a_run_is_not_begun_again(capsys, tree, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "state.json").write_text("{}")
    assert pretrain("--data", tree, "--partial", "--out", tmp_path / "run") == 2
    assert "holds a run already; resume it (--resume)" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_stops_on_two_devices_and_goes_on(tree, tmp_path):
    out = tmp_path / "out"
    (tmp_path / "config.json").write_text('{"BASE": "tiny", "OPTIMIZER": "sgd"}')
    begin = ["--data", tree, "--out", out, "--partial", "--config", tmp_path / "config.json", "--size", 32]
    begin += ["--batch", 4, "--epochs", 1]
    process = _start(*begin, "--steps", 12, "--save-every", 1, "--devices", 2, "--learning-rate", 0.5)
    deadline = time.monotonic() + 60
    while not (out / "state.json").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, text = process.communicate(timeout=600)
    assert process.returncode == 130, text
    assert "stopped in epoch 1 after step" in text and f"--resume {out}" in text
    assert "left out, because COCO has them too: 2 classes" in text
    process = _start("--resume", out, "--devices", 1)
    said, text = process.communicate(timeout=600)
    assert process.returncode == 0, text
    assert "trained to epoch 1" in said and str(out / "imagenet_687.h5") in said
    assert json.loads((out / "config.json").read_text())["GPU_COUNT"] == 1
    assert loading.load_weights(network.build_layers(TinyConfig()), out / "imagenet_687.h5").loaded


@pytest.mark.slow
def test_the_command_trains_on_the_instances_of_a_data_set(short_training, capsys, tmp_path):
    coco_tree.write_tree(tmp_path / "drawn", subset="train", num_images=8)
    settings = {"BASE": "tiny", "TARGET_MIN_DIM": 32, "TARGET_MAX_DIM": 32, **SMALL}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    arguments = ["--dataset", tmp_path / "drawn", "--split", 1, "--config", tmp_path / "config.json", "--batch", 4]
    arguments += ["--steps", 1, "--epochs", 1, "--val-images", 3, "--out", tmp_path / "run"]
    assert pretrain(*arguments) == 0
    said, text = capsys.readouterr()
    # of the 8 and 6 instances in 4 and 3 annotated images, 3 and 2 are of the class that split 1 holds out
    assert "train2017: 5 instances of 2 classes" in text and "train2017: 4 instances of 2 classes" in text
    written = tmp_path / "run" / "drawn_s1.h5"
    assert f"The backbone is in {written}" in said and "validation accuracy" in said
    report = loading.load_weights(network.build_layers(TinyConfig().replace(**SMALL)), written)
    assert "fpn_p2/kernel" in report.loaded and not report.unused
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["OPTIMIZER"], config["TRAIN_BN"], config["IMAGES_PER_GPU"]) == ("adam", None, 4)
    state = json.loads((tmp_path / "run" / "state.json").read_text())
    assert state["settings"]["size"] == 32 and state["settings"]["classes"] == 2
    assert state["stage"]["learning_rate"] == 0.004 and state["stage"]["decay_to"] == 1


def test_an_annotation_file_and_its_images_in_place_of_a_folder(capsys, tmp_path):
    """The same instances as with --dataset, and --image-ids chooses among the images."""
    coco_tree.write_tree(tmp_path / "drawn", subset="train", num_images=8)
    named = ["--annotations", str(tmp_path / "drawn" / "annotations" / "instances_train2017.json")]
    named += ["--images", str(tmp_path / "drawn" / "train2017")]
    chosen = ["pretrain", "--val-images", "3"]
    train, val = find_images(parse([*chosen, *named]), masks=False)
    whole, _ = find_images(parse([*chosen, "--dataset", str(tmp_path / "drawn")]), masks=False)
    assert len(train) == len(whole) > len(val) > 0 and train.num_classes == whole.num_classes == 3
    ids = [str(info["id"]) for info in train.dataset.image_info[:2]]
    part, none = find_images(parse(["pretrain", *named, "--image-ids", *ids, "--no-validation"]), masks=False)
    assert part.dataset.num_images == 2 and none is None
    assert "train2017: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--data", "d", "--split", "1"), "--split: does not go with --data"),
        (("--data", "d", "--images", "i"), "--images: does not go with --data"),
        (("--annotations", "a.json", "--images", "i", "--partial"), "--partial: does not go with --annotations"),
        (("--annotations", "a.json"), "--images : expected the folder of the images of a.json"),
        (("--data", "d", "--val-images", "3"), "--val-images: does not go with --data"),
        (("--dataset", "d", "--classes", "771"), "--classes: does not go with --dataset"),
        (("--dataset", "d", "--partial"), "--partial: does not go with --dataset"),
    ],
)
def test_options_of_the_other_kind_of_images_are_refused(capsys, tmp_path, arguments, message):
    assert pretrain(*arguments, "--out", tmp_path) == 2
    assert message in capsys.readouterr().err


def test_what_the_command_trains_by_default():
    """The recipe goes with the optimizer, the size of a crop with the images."""

    def chosen(*arguments):
        options = parse(["pretrain", *arguments])
        config, recipe = chosen_recipe(options)
        return recipe, config.BATCH_SIZE

    adam = dataclasses.replace(recipe_of(TinyConfig(), instances=True), size=TinyConfig.TARGET_MAX_DIM)
    assert adam.decay == "cosine" and adam.cosine and adam.mask_weight == 2
    assert chosen("--data", "d") == (Recipe(), 256)
    assert chosen("--dataset", "d") == (Recipe(size=96), 256)
    assert chosen("--dataset", "d", "--config", "tiny") == (adam, 32)
    assert chosen("--data", "d", "--config", "tiny") == (dataclasses.replace(recipe_of(TinyConfig()), size=224), 32)
    given = ("--epochs", "3", "--steps", "5", "--learning-rate", "0.5", "--size", "40", "--batch", "7", "--seed", "2")
    expected = dataclasses.replace(adam, epochs=3, steps_per_epoch=5, learning_rate=0.5, size=40, seed=2)
    assert chosen("--dataset", "d", "--config", "tiny", *given) == (expected, 7)


@pytest.mark.parametrize(
    "arguments, name",
    [
        ((), "imagenet_687"),
        (("--classes", "771"), "imagenet_771"),
        (("--dataset", "some/where/drawn/"), "drawn"),
        (("--dataset", "drawn", "--split", "3"), "drawn_s3"),
        (("--annotations", "some/mine.json", "--images", "i", "--split", "1"), "mine_s1"),
    ],
)
def test_weights_are_named_after_what_they_are_of(arguments, name):
    assert name_of(parse(["pretrain", *arguments])) == name


def _start(*arguments):
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
