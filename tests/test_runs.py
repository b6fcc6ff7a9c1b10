"""Run folders as weights: which checkpoint they stand for, their configuration, and what training leaves behind."""

import fnmatch
import os
import shlex
import shutil

import coco_tree
import conftest
import numpy as np
import pytest
import weight_models

from siamese_mrcnn_tf import LargeConfig, SmallConfig, TinyConfig
from siamese_mrcnn_tf.cli import calibrate, train
from siamese_mrcnn_tf.cli.inputs import choose_config, find_model
from siamese_mrcnn_tf.cli.main import parse
from siamese_mrcnn_tf.io import files
from siamese_mrcnn_tf.training.checkpoints import refuse_run, save_command
from siamese_mrcnn_tf.weights import runs
from siamese_mrcnn_tf.weights.legacy_h5 import read_weights

PREDICT = ("predict", "--image", "a.png", "--reference", "b.png")


def options_of(*words):
    return parse([str(word) for word in words])


def make_run(logs, name, losses, config=None, weights=None, newest=0, **settings):
    """A run with an epoch for each validation loss (None: not validated), as far as its weights are asked for."""
    folder = logs / name
    folder.mkdir(parents=True)
    for epoch, _ in enumerate(losses, start=1):
        path = folder / f"siamese_mrcnn_{epoch:04d}.h5"
        path.write_bytes(b"x") if weights is None else shutil.copy(weights, path)
        os.utime(path, (1000 + newest, 1000 + newest))
    rows = [{"epoch": e} | ({} if loss is None else {"val_loss": loss}) for e, loss in enumerate(losses, start=1)]
    files.write_json(folder / "state.json", {"epoch": len(losses), "history": rows, "settings": settings})
    if config is not None:
        save_command(folder, "siamese-mrcnn", ["train"], config)
    return folder


@pytest.mark.parametrize(
    ("losses", "which", "name", "text"),
    [
        ((3.0, 1.0, 2.0), "best", "siamese_mrcnn_0002.h5", "epoch 2, the best of 3 by validation loss"),
        ((3.0, 1.0, 2.0), "last", "siamese_mrcnn_0003.h5", "epoch 3, the last"),
        ((None, None), "best", "siamese_mrcnn_0002.h5", "epoch 2, the last (no validation, so no best one)"),
    ],
)
def test_weights_of_a_run(tmp_path, losses, which, name, text):
    found = runs.find_run_weights(make_run(tmp_path, "run", losses), which)
    assert (found.path.name, found.text) == (name, text)


@pytest.mark.parametrize(
    ("losses", "lines", "is_noted"),
    [
        (
            (1.0, 3.0, 2.0),
            ["last epoch, 3: --model {0}/siamese_mrcnn_0003.h5", "best *, 1: --model {0} (*0001.h5)"],
            True,
        ),
        ((3.0, 1.0), ["last epoch, 2, also the best by validation loss: --model {0}"], False),
        ((1.0, 1.0), ["last epoch, 2: *", "best epoch by validation loss, 1: *"], False),
        ((1.0, None), ["last epoch, 2: *", "best epoch by validation loss, 1: *"], False),
        ((None, None), ["last epoch, 2: --model {0} (without validation there is no best one)"], False),
        ((), [], False),
    ],
)
def test_the_end_of_training_names_the_last_epoch_and_the_best(tmp_path, capsys, losses, lines, is_noted):
    """As --model takes them, and a note where the validation loss has risen since."""
    folder = make_run(tmp_path, "run", losses, TinyConfig())
    train.say_weights(options_of("train", "--dataset", "d"), folder, runs.read_state(folder).history)
    said, noted = capsys.readouterr()
    shown = said.splitlines()
    assert len(shown) == len(lines)
    assert all(fnmatch.fnmatch(line, pattern.format(folder)) for line, pattern in zip(shown, lines, strict=True))
    note = "note: the validation loss was lowest after epoch 1 of 3: later epochs may fit the training images alone"
    assert (note in noted) == is_noted and bool(noted) == is_noted
    for line in shown:
        assert find_model(options_of("evaluate", "--model", shlex.split(line.partition("--model ")[2])[0])).is_file()


def test_the_best_epoch_may_be_gone(tmp_path):
    folder = make_run(tmp_path, "run", (1.0, 2.0))
    (folder / "siamese_mrcnn_0001.h5").unlink()
    assert runs.find_run_weights(folder).path.name == "siamese_mrcnn_0002.h5"


def test_a_folder_without_checkpoints(tmp_path):
    with pytest.raises(ValueError, match=r"none: no checkpoint siamese_mrcnn_####\.h5 in it"):
        choose_config(options_of(*PREDICT, "--model", _empty(tmp_path / "none")))
    with pytest.raises(ValueError, match="of EXPERIMENT other in it or in a folder below it"):
        runs.find_newest_run(tmp_path, "other")


def test_advice_for_folders_without_checkpoints(tmp_path):
    """What each is; the command and the file that are named exist."""
    begun = tmp_path / "begun run"
    make_run(tmp_path, begun.name, (), TinyConfig())
    for step in (250, 500):
        (begun / f"resume_0000_{step:06d}.weights.h5").write_bytes(b"x")
    text = refusal(begun)
    words = shlex.split(text.partition("siamese-mrcnn ")[2].partition(", or use ")[0])
    assert words == ["train", "--resume", str(begun)]
    assert shlex.split(text.partition("or use ")[2])[1] == str(begun / "resume_0000_000500.weights.h5")
    other = _empty(tmp_path / "other")
    assert refusal(other).endswith("expected a training run; it holds nothing")
    (other / "model.ckpt.index").write_bytes(b"x")
    assert "it holds a TensorFlow checkpoint" in refusal(other)
    for age, name in ((5, "mine.h5"), (3, "older.keras"), (9, "newest.weights.h5")):
        (other / name).write_bytes(b"x")
        os.utime(other / name, (age, age))
    words = shlex.split(refusal(other).partition("name the file: ")[2])
    assert words[:2] == ["--model", str(other / "mine.h5")] and "3 weight files" in " ".join(words)
    (other / "predictions.h5").mkdir()
    assert "3 weight files" in refusal(other)
    (other / "saved_model.pb").write_bytes(b"x")
    assert "a TensorFlow graph or SavedModel" in refusal(other)


def test_a_tensorflow_checkpoint_by_its_name(tmp_path):
    for name in ("model.ckpt-12.index", "model.ckpt-12.data-00000-of-00001"):
        (tmp_path / name).write_bytes(b"x")
    assert "model.ckpt-12: the name of a TensorFlow checkpoint" in refusal(tmp_path / "model.ckpt-12")
    assert "no such file" in refusal(tmp_path / "model.ckpt-13")


def refusal(model):
    """What predict says to a --model that is none, or that cannot detect."""
    with pytest.raises(ValueError) as error:
        choose_config(options_of(*PREDICT, "--model", model))
    return str(error.value)


def test_a_folder_of_runs_stands_for_the_newest(tmp_path, tiny_weights, capsys):
    make_run(tmp_path, "a", (1.0,), SmallConfig(), newest=1)
    newer = make_run(tmp_path, "b", (1.0, 2.0), TinyConfig(), tiny_weights, newest=9)
    make_run(newer, "c", (1.0,), SmallConfig(), newest=20)
    for folder in (tmp_path, newer):  # a run stands for itself, whatever is below it
        config, path = choose_config(options_of(*PREDICT, "--model", folder))
        assert path == newer / "siamese_mrcnn_0001.h5" and config.NAME == "tiny"
        assert f"weights: {path} (epoch 1" in capsys.readouterr().err


def _empty(folder):
    folder.mkdir()
    return folder


def test_the_newest_run(tmp_path):
    older = make_run(tmp_path, "siamese_mrcnn_large_coco_mine", (1.0,), newest=5)
    newer = make_run(tmp_path, "siamese_mrcnn_tiny_default", (1.0,), newest=9)
    _empty(tmp_path / "begun")
    assert runs.find_newest_run(tmp_path) == newer
    assert runs.find_newest_run(tmp_path, "Mine") == older
    assert runs.find_newest_run(older) == older


@pytest.mark.parametrize("model", ["last", "best", "folder", "file"])
def test_runs_as_models_with_their_configuration(tmp_path, tiny_weights, capsys, model):
    """Neither --config nor EXPERIMENT is repeated; --set still changes the stored configuration."""
    mine = TinyConfig().replace(EXPERIMENT="mine", POST_NMS_ROIS_INFERENCE=77, GPU_COUNT=2, PRECISION="bfloat16")
    folder = make_run(tmp_path / "logs", "siamese_mrcnn_tiny_mine", (1.0, 2.0), mine, tiny_weights, newest=9)
    make_run(tmp_path / "logs", "siamese_mrcnn_small_default", (1.0,), SmallConfig(), newest=1)
    named = {"folder": folder, "file": folder / "siamese_mrcnn_0001.h5"}.get(model, model)
    words = (*PREDICT, "--model", named, "--logs", tmp_path / "logs", "--set", "DETECTION_MAX_INSTANCES=5")
    config, path = choose_config(options_of(*words))
    assert path == folder / ("siamese_mrcnn_0002.h5" if model == "last" else "siamese_mrcnn_0001.h5")
    assert config.POST_NMS_ROIS_INFERENCE == 77 and config.DETECTION_MAX_INSTANCES == 5 and config.NAME == "tiny"
    assert config.GPU_COUNT == 1 and config.PRECISION == "float32"
    said = capsys.readouterr().err
    assert (f"weights: {path} (epoch" in said) == (model != "file")


def test_with_config_the_run_is_the_named_one(tmp_path, tiny_weights):
    older = make_run(tmp_path, "siamese_mrcnn_tiny_mine", (1.0, 2.0), None, tiny_weights, newest=1)
    make_run(tmp_path, "siamese_mrcnn_tiny_default", (1.0,), None, tiny_weights, newest=9)
    words = (*PREDICT, "--logs", tmp_path, "--config", "tiny", "--set", "EXPERIMENT=mine", "--model")
    assert choose_config(options_of(*words, "last"))[1] == older / "siamese_mrcnn_0002.h5"
    assert choose_config(options_of(*words, "best"))[1] == older / "siamese_mrcnn_0001.h5"


def test_weights_shows_those_of_a_run(run, tmp_path, tiny_weights):
    folder = make_run(tmp_path, "siamese_mrcnn_tiny_mine", (1.0, 2.0), None, tiny_weights)
    for words in ((folder,), ("best", "--logs", tmp_path)):
        code, text, errors = run("weights", *words)
        assert code == 0 and text.startswith(f"{folder / 'siamese_mrcnn_0001.h5'}: siamese weights, tiny"), errors


# ---- configurations that fit -------------------------------------------------------------------------------------


def write(path, shapes):
    return weight_models.write_h5(path, [(key.split("/")[0], f"{key}:0", shape) for key, shape in shapes.items()])


@pytest.mark.parametrize(
    "config", [SmallConfig(), LargeConfig(), TinyConfig(), TinyConfig().replace(USE_PRESENCE=True)]
)
def test_training_takes_the_configuration_of_its_weights(tmp_path, config):
    path = write(tmp_path / "w.h5", weight_models.network_shapes(config))
    found = train.training_config(options_of("train", "--dataset", "d", "--model", path), path)
    assert (found.NAME, found.USE_PRESENCE) == (config.NAME, config.USE_PRESENCE)
    assert found.FPN_CLASSIF_FC_LAYERS_SIZE == config.FPN_CLASSIF_FC_LAYERS_SIZE
    given = train.training_config(options_of("train", "--dataset", "d", "--model", path, "--config", "large"), path)
    assert given.NAME == LargeConfig.NAME
    assert train.training_config(options_of("train", "--dataset", "d")).NAME == SmallConfig.NAME


@pytest.mark.parametrize("classes", [2, 81])
def test_advice_for_weights_of_matterport_can_be_followed(tmp_path, classes):
    """predict names a command of train, whose configuration the file then fits: shapes are equal."""
    config = SmallConfig().replace(BACKBONE="resnet101")
    shapes = weight_models.backbone_shapes(config) | weight_models.pyramid_shapes(config)
    shapes |= weight_models.head_shapes(config, config.FPN_FEATUREMAPS, classes, 4 * classes)
    path = write(tmp_path / "mask_rcnn_mine_0030.h5", shapes)
    errors = refusal(path)
    assert f"ResNet-101, {classes} classes" in errors and "It cannot detect by itself: train" in errors
    follow(tmp_path, path, errors, shapes, "resnet101")


@pytest.mark.parametrize("config", [SmallConfig(), TinyConfig(), TinyConfig().replace(BACKBONE_BLOCKS=(1, 2, 1, 1))])
def test_advice_for_a_backbone_can_be_followed(tmp_path, config):
    shapes = weight_models.backbone_shapes(config)
    path = write(tmp_path / "resnet notop.h5", shapes)
    errors = refusal(path)
    assert "cannot detect by itself: train from this backbone: siamese-mrcnn train" in errors
    follow(tmp_path, path, errors, shapes, config.BACKBONE)


def follow(tmp_path, path, errors, shapes, backbone):
    """Run what the message says, up to the network's shapes: with its options, and with --model alone."""
    words = shlex.split(errors.partition("siamese-mrcnn train")[2])
    options = options_of("train", *words)
    assert options.model == str(path)
    config = train.training_config(options, path)
    assert config.BACKBONE == backbone
    network = weight_models.network_shapes(config)
    taken = {key for key in shapes if not key.startswith(("rpn_", "mrcnn_"))}
    assert taken and all(network[key] == shapes[key] for key in taken)
    if "BACKBONE_BLOCKS" not in errors:
        alone = train.training_config(options_of("train", "--dataset", "DIR", "--model", path), path)
        assert alone.to_dict() == config.to_dict()


def test_presence_is_used_whether_or_not_config_is_given(tmp_path):
    path = write(tmp_path / "w.h5", weight_models.network_shapes(TinyConfig().replace(USE_PRESENCE=True)))
    (tmp_path / "plain.json").write_text('{"BASE": "tiny"}')
    (tmp_path / "without.json").write_text('{"BASE": "tiny", "USE_PRESENCE": false}')
    for given, expected in (((), True), (("tiny",), True), (("plain.json",), True), (("without.json",), False)):
        words = [word if word == "tiny" else tmp_path / word for word in given]
        chosen = ("--config", *words) if words else ()
        config, _ = choose_config(options_of(*PREDICT, "--model", path, *chosen))
        assert config.USE_PRESENCE is expected, given


def test_advice_for_a_run_that_would_be_overwritten_can_be_followed(tmp_path, tiny_weights):
    """A run begins from another: with EXPERIMENT, as the refusal says, it has a folder of its own."""
    mine = TinyConfig().replace(EXPERIMENT="mine")
    old = make_run(tmp_path, "siamese_mrcnn_tiny_mine", (1.0, 2.0), mine, tiny_weights)
    for model in ("best", old):
        words = ("train", "--dataset", "d", "--logs", tmp_path, "--model", model)
        with pytest.raises(ValueError, match=r"holds a run already; .* \(--logs, or --set EXPERIMENT=NAME\)"):
            refuse_run(begun(*words)[0])
        folder, weights = begun(*words, "--set", "EXPERIMENT=next")
        refuse_run(folder)
        assert folder.name == "siamese_mrcnn_tiny_next" and weights == old / "siamese_mrcnn_0001.h5"
    words = ("train", "--dataset", "d", "--logs", tmp_path, "--config", "tiny", "--model", "best")
    assert begun(*words) == (tmp_path / "siamese_mrcnn_tiny_default", old / "siamese_mrcnn_0001.h5")


def begun(*words):
    """(the folder of a run that begins, its initial weights)."""
    options = options_of(*words)
    weights = find_model(options, begins_run=True)
    return runs.log_dir_of(train.training_config(options, weights), options.logs), weights


# ---- validation, and the command to evaluate ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Folder of a tree with 8 training images, 7 annotated, and 3 of the subset val."""
    root = tmp_path_factory.mktemp("both") / "set"
    coco_tree.write_tree(root, subset="train", num_images=8)
    coco_tree.write_tree(root, subset="val", num_images=3)
    return root


def parts(*words, folder=None):
    datasets, fixed = train.open_datasets(options_of("train", *words), folder)
    return [(dataset.set_name, dataset.num_images) for dataset in datasets], fixed


def test_validation_images(both, training_tree, tmp_path):
    on_val = [("train2017", 7), ("val2017", 3)], {"validation": "val"}
    assert parts("--dataset", both) == on_val
    assert parts("--dataset", training_tree) == ([("train2017", 6), ("train2017", 1)], {})
    assert parts("--dataset", both, "--val-images", 2) == ([("train2017", 5), ("train2017", 2)], {})
    assert parts("--dataset", both, "--val-images", 0) == ([("train2017", 7)], {})
    earlier, later = make_run(tmp_path, "a", (1.0,)), make_run(tmp_path, "b", (1.0,), validation="val")
    assert parts("--dataset", both, folder=earlier) == ([("train2017", 6), ("train2017", 1)], {})
    assert parts("--dataset", both, folder=later) == on_val


def test_large_sets_keep_the_rule_of_the_original(both, monkeypatch):
    monkeypatch.setattr(train, "_LARGE_SET", 7)
    assert parts("--dataset", both) == ([("train2017", 6), ("train2017", 1)], {})


def test_calibration_knows_what_the_run_set_aside(both, tmp_path, run, tiny_weights):
    words = ("calibrate", "--dataset", both, "--subset", "set-aside", "--model")
    set_aside = make_run(tmp_path, "a", (1.0,), TinyConfig(), tiny_weights, val_images=3)
    options = options_of(*words, set_aside)
    assert calibrate.open_images(options, set_aside / "siamese_mrcnn_0001.h5").num_images == 3
    for name, settings, text in (
        ("b", {"validation": "val"}, "was validated on the subset val, no training images were set aside"),
        ("c", {"val_images": 0}, "was validated not at all, no training images were set aside"),
    ):
        folder = make_run(tmp_path, name, (1.0,), TinyConfig(), tiny_weights, **settings)
        with pytest.raises(ValueError, match=text):
            calibrate.open_images(options_of(*words, folder), folder / "siamese_mrcnn_0001.h5")


def test_the_command_to_evaluate(both, training_tree):
    def command(*words):
        found = train.evaluate_command(options_of("train", *words), "logs/run")
        parse(found[1:])
        return found[found.index("evaluation" if "evaluation" in found else "logs/run/evaluation") + 1 :]

    assert command("--dataset", both) == ["--dataset", str(both)]
    assert command("--dataset", training_tree, "--orientation", "obey") == [
        *("--dataset", str(training_tree), "--subset", "train", "--orientation", "obey")
    ]
    assert train.trained_on(options_of("train", "--dataset", both)) == ""
    assert "were trained on" in train.trained_on(options_of("train", "--dataset", training_tree))
    own = ("--annotations", "a.json", "--images", "photos")
    assert command(*own, "--split", 2, "--shots", 5) == [*own, "--split", "2", "--categories", "novel", "--shots", "5"]


@pytest.mark.slow
def test_train_and_evaluate_as_it_says(run, both, tmp_path, short_training):
    """The printed command runs; the checkpoint of Keras 3 beside the legacy file holds the same weights."""
    settings = {"BASE": "tiny", **conftest.MICRO, "DETECTION_MIN_CONFIDENCE": 0.01, "EXPERIMENT": "mine"}
    files.write_json(tmp_path / "micro.json", settings)
    files.write_json(tmp_path / "stages.json", [{"epochs": 1, "layers": "heads", "learning_rate": 0.001}])
    words = ("--model", "untrained", "--config", tmp_path / "micro.json", "--batch", 2, "--logs", tmp_path / "logs")
    words += ("--stages", tmp_path / "stages.json", "--steps", 1, "--val-steps", 1)
    code, text, errors = run("train", "--dataset", both, *words)
    assert code == 0, errors
    folder = runs.find_newest_run(tmp_path / "logs")
    checkpoint, legacy = (read_weights(folder / f"siamese_mrcnn_0001{end}") for end in (".weights.h5", ".h5"))
    assert checkpoint.shapes == {key: legacy.shapes[key] for key in checkpoint.shapes} and len(legacy.shapes) == 178
    for key, array in legacy.arrays.items():
        np.testing.assert_array_equal(checkpoint.arrays[key], array, err_msg=key)
    assert f"last epoch, 1, also the best by validation loss: --model {folder}\n" in text
    command = shlex.split(text.partition("To evaluate: ")[2])
    code, _, errors = run(*command[1:], "--runs", 1)
    assert code == 0 and "epoch 1, the best of 1 by validation loss" in errors
    assert (folder / "evaluation" / "scores.json").is_file()


def test_a_run_that_was_begun_with_more_epochs_than_its_schedule_has_is_resumed(tmp_path, monkeypatch):
    config = TinyConfig().replace(EXPERIMENT="long")
    folder = make_run(tmp_path, "siamese_mrcnn_tiny_long", (1.0,), config)
    save_command(folder, "siamese-mrcnn", ["train", "--dataset", "d", "--epochs", "500"], config)

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "check_memory", stop)  # behind the checks of options
    with pytest.raises(KeyboardInterrupt):
        train.run(options_of("train", "--resume", folder))
    with pytest.raises(ValueError, match="--epochs 500: --stages paper ends at epoch 160"):
        train.run(options_of("train", "--resume", folder, "--epochs", 500))


def test_a_resumed_run_has_its_configuration(tmp_path):
    """Also where --model, which chose it, is gone; the number of devices may change, the batch stays."""
    mine = TinyConfig().replace(EXPERIMENT="mine", IMAGES_PER_GPU=8, GPU_COUNT=2)
    folder = make_run(tmp_path, "siamese_mrcnn_tiny_mine", (1.0,), mine)
    save_command(folder, "siamese-mrcnn", ["train", "--dataset", "d", "--model", "gone.h5", "--devices", "2"], mine)
    for words, devices in ((), 2), (("--devices", 4), 4):
        given = options_of("train", "--resume", folder, *words)
        found = train.folder_to_resume(given)
        options = train.resumed_options(given, found)
        config = train.training_config(options)
        assert found == folder and (config.BATCH_SIZE, config.GPU_COUNT) == (16, devices)
        kept = {name: value for name, value in config.to_dict().items() if name not in ("GPU_COUNT", "IMAGES_PER_GPU")}
        assert kept == {name: mine.to_dict()[name] for name in kept}
