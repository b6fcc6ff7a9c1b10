"""The facade: the surface that code written for the original uses."""

import collections
import csv
import importlib
import pathlib

import conftest
import keras
import numpy as np
import pytest

from siamese_mrcnn_tf import IndexedCocoDataset, SiameseMaskRCNN, TinyConfig
from siamese_mrcnn_tf.data import augmentation
from siamese_mrcnn_tf.data.data_generator import TrainingSamples, collate
from siamese_mrcnn_tf.model import shift_detections
from siamese_mrcnn_tf.ops import boxes
from siamese_mrcnn_tf.training.trainer import Trainer
from siamese_mrcnn_tf.weights import loading


def test_arguments_by_position_and_name(tmp_path):
    config = TinyConfig().replace(NAME="My_Set", EXPERIMENT="First")
    by_name = SiameseMaskRCNN(mode="inference", model_dir=tmp_path, config=config)
    assert by_name.log_dir == str(tmp_path / "siamese_mrcnn_my_set_first")
    assert by_name.checkpoint_path.format(epoch=7).endswith("siamese_mrcnn_0007.h5")
    assert by_name.epoch == 0
    assert not list(tmp_path.iterdir())  # inference writes nothing
    with pytest.raises(ValueError, match="mode = 'testing'"):
        SiameseMaskRCNN("testing", config, tmp_path)


@pytest.mark.slow
def test_detect_takes_lists_and_arrays_of_crops(tiny_model, scene, crop):
    expected = tiny_model.detect([[crop]], [scene])[0]
    for targets in ([crop], [crop[None]], np.stack([crop])[None]):
        found = tiny_model.detect(targets, [scene])[0]
        np.testing.assert_array_equal(found["rois"], expected["rois"])
    assert set(found) == {"rois", "class_ids", "scores", "masks"}


def test_detect_counts_its_arguments(tiny_model, scene, crop):
    with pytest.raises(ValueError, match="one query for each of 1 images, got 2"):
        tiny_model.detect([[crop], [crop]], [scene])
    with pytest.raises(ValueError, match="at least one image"):
        tiny_model.detect([], [])


def test_random_detections_move_boxes_with_their_masks(tiny_model, scene, crop):
    plain = tiny_model.detect([[crop]], [scene])[0]
    moved = tiny_model.detect([[crop]], [scene], random_detections=True, rng=np.random.default_rng(1))[0]
    again = tiny_model.detect([[crop]], [scene], random_detections=True, rng=np.random.default_rng(1))[0]
    np.testing.assert_array_equal(moved["rois"], again["rois"])
    assert not np.array_equal(moved["rois"], plain["rois"])
    np.testing.assert_allclose(np.sort(moved["scores"]), np.sort(plain["scores"]), atol=1e-6)
    filled = [np.sort(found["masks"].sum(axis=(0, 1)) / boxes.box_areas(found["rois"])) for found in (plain, moved)]
    np.testing.assert_allclose(*filled, atol=0.1)  # boxes round to other pixels


def test_shifted_boxes_stay_inside_and_keep_their_size():
    detections = np.zeros((1, 4, 6))
    detections[0, :3] = [[0.2, 0.3, 0.4, 0.5, 1, 0.9], [0.0, 0.0, 1.0, 1.0, 1, 0.8], [0.5, 0.5, 0.6, 0.9, 1, 0.7]]
    masks = np.arange(4.0)[None, :, None, None] * np.ones((1, 4, 28, 28))
    window = np.array([[0.0, 0.1, 1.0, 1.0]])
    detections[0, 1, 1] = 0.1
    outputs = {"mrcnn_detection": detections, "mrcnn_mask": masks}
    shifted = shift_detections(outputs, window, np.random.default_rng(0))
    rows = shifted["mrcnn_detection"][0]
    origin = shifted["mrcnn_mask"][0, :3, 0, 0].astype(int)  # which detection each row was
    assert sorted(origin) == [0, 1, 2]
    sizes = rows[:3, 2:4] - rows[:3, :2]
    np.testing.assert_allclose(sizes, (detections[0, :, 2:4] - detections[0, :, :2])[origin])
    assert (rows[:3, 0] >= 0).all() and (rows[:3, 1] >= 0.1).all() and (rows[:3, 2:4] <= 1 + 1e-9).all()
    assert sorted(rows[:3, 5]) == [0.7, 0.8, 0.9] and (np.diff(rows[:3, 5]) <= 0).all()
    np.testing.assert_array_equal(rows[3], 0)
    assert detections[0, 0, 5] == 0.9  # the argument is left alone


@pytest.mark.slow
def test_run_graph_by_name_and_by_tensor(tiny_model, scene, crop):
    roi = tiny_model.keras_model.get_layer("ROI").output
    values = tiny_model.run_graph([[crop]], [scene], ["matched_P3", ("proposals", roi), "ROI"])
    assert list(values) == ["matched_P3", "proposals", "ROI"]
    np.testing.assert_array_equal(values["proposals"], values["ROI"])
    assert values["matched_P3"].shape == (1, 16, 16, tiny_model.config.MATCHED_FEATUREMAPS)
    molded, metas, _ = tiny_model.mold_inputs([scene])
    given = tiny_model.run_graph([[crop]], molded, ["ROI"], image_metas=metas)
    np.testing.assert_array_equal(given["ROI"], values["ROI"])
    with pytest.raises(ValueError, match="'matched_P7' is no tensor of the network: expected one of img_C1"):
        tiny_model.run_graph([[crop]], [scene], ["matched_P7"])


@pytest.mark.slow
def test_run_graph_shows_what_layers_compute_on_the_way(tiny_model, scene, crop):
    names = ["pre_nms_scores", "pre_nms_anchors", "refined_anchors", "refined_anchors_clipped", "roi_levels"]
    names += ["refined_rois", "rpn_class", "rpn_bbox", "ROI", "mrcnn_bbox", "mrcnn_class", "first_detections"]
    images = [scene, scene[:, ::-1]]  # what is wider than high is padded
    values = tiny_model.run_graph([[crop], [crop]], images, names)
    molded, metas, windows = tiny_model.mold_inputs(images)
    anchors, config = tiny_model.get_anchors(molded.shape[1:]), tiny_model.config
    for index in range(2):
        order = np.argsort(-values["rpn_class"][index, :, 1], kind="stable")[: config.PRE_NMS_LIMIT]
        np.testing.assert_array_equal(values["pre_nms_scores"][index], values["rpn_class"][index, order, 1])
        np.testing.assert_array_equal(values["pre_nms_anchors"][index], anchors[order])
        deltas = values["rpn_bbox"][index, order] * config.RPN_BBOX_STD_DEV
        np.testing.assert_allclose(values["refined_anchors"][index], moved(anchors[order], deltas), atol=1e-5)
        clipped = np.clip(values["refined_anchors"][index], 0, 1)
        np.testing.assert_array_equal(values["refined_anchors_clipped"][index], clipped)
        rois, window = values["ROI"][index], boxes.norm_boxes(windows[index], molded.shape[1:])
        real = rois.any(axis=1)
        assert np.isin(rois[real].view("V16"), np.ascontiguousarray(clipped).view("V16")).all()
        deltas = values["mrcnn_bbox"][index] * config.BBOX_STD_DEV
        expected = np.clip(moved(rois, deltas), window[[0, 1, 0, 1]], window[[2, 3, 2, 3]])
        np.testing.assert_allclose(values["refined_rois"][index], expected, atol=1e-5)
        found = values["first_detections"][index]
        distances = np.abs(found[found[:, 4] > 0, None, :4] - values["refined_rois"][index][None]).max(axis=2)
        assert distances.size and distances.min(axis=1).max() < 1e-6
        sizes = np.sqrt((rois[:, 2] - rois[:, 0]) * (rois[:, 3] - rois[:, 1]))[real] * molded.shape[1]
        levels = np.clip(4 + np.round(np.log2(sizes / config.ROI_CANONICAL_SIZE)), 2, 5)
        np.testing.assert_array_equal(values["roi_levels"][index][real], levels)


def moved(boxes_norm, deltas):
    """`boxes_norm` [n, (y1, x1, y2, x2)] moved by [n, (dy, dx, log(dh), log(dw))]."""
    sizes = boxes_norm[:, 2:] - boxes_norm[:, :2]
    centres = boxes_norm[:, :2] + sizes * (0.5 + deltas[:, :2])
    sizes = sizes * np.exp(deltas[:, 2:])
    return np.concatenate([centres - sizes / 2, centres + sizes / 2], axis=1)


@pytest.mark.parametrize("mode", ["pad64", "none"])
def test_run_graph_of_images_of_any_shape(mode, crop, tiny_weights, tmp_path):
    model = SiameseMaskRCNN("inference", TinyConfig().replace(IMAGE_RESIZE_MODE=mode), tmp_path)
    model.load_weights(tiny_weights)
    image = np.zeros((128, 192, 3), np.uint8)
    values = model.run_graph([[crop]], [image], ["refined_anchors", "rpn_class"])
    assert values["refined_anchors"].shape[1] == min(values["rpn_class"].shape[1], model.config.PRE_NMS_LIMIT)


def test_checkpoints_are_found_and_give_their_epoch(tiny_model, tmp_path):
    model = SiameseMaskRCNN("inference", TinyConfig(), tmp_path)
    with pytest.raises(ValueError, match="no checkpoint siamese_mrcnn_####.h5"):
        model.find_last()
    for epoch in (2, 11):
        tiny_model.save_weights(model.checkpoint_path.format(epoch=epoch))
    assert model.find_last().endswith("siamese_mrcnn_0011.h5")
    report = model.load_latest_checkpoint(training_schedule={1: {"layers": "heads"}})
    assert model.epoch == 11 and not report.missing
    model.load_weights(model.find_last(), by_name=True, exclude=["mrcnn_bbox_fc"])
    assert model.epoch == 0
    with pytest.raises(ValueError, match="ends in the epoch"):
        model.load_checkpoint(tmp_path / "best.h5")


def test_imagenet_weights_that_are_missing_say_where_to_get_them(tmp_path):
    model = SiameseMaskRCNN("inference", TinyConfig().replace(CHECKPOINT_DIR=str(tmp_path)), tmp_path)
    with pytest.raises(ConnectionError, match="imagenet_687.h5"):
        model.load_imagenet_weights("imagenet-687")


def test_set_trainable_reaches_into_nested_models(tmp_path):
    model = SiameseMaskRCNN("inference", TinyConfig(), tmp_path)
    model.set_trainable(r"(mrcnn\_.*)|(rpn\_.*)|(fpn\_.*)")
    layers = model.predictor.layers
    assert not layers.resnet_model.trainable_weights
    assert layers.rpn_model.trainable_weights and layers.fpn_model.trainable_weights
    model.set_trainable("res5.*")
    assert {weight.path.split("/")[-2][:4] for weight in model.keras_model.trainable_weights} == {"res5"}
    model.set_trainable(".*")
    assert layers.resnet_model.trainable_weights


# ---- training ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_training_as_in_the_notebook_of_the_original(training_tree, micro_config, short_training, tmp_path):
    """One call of `train` for each entry of a schedule, then another session that resumes from its last checkpoint."""
    parts = []
    for part in ("train", "val"):
        dataset = IndexedCocoDataset()
        dataset.load_coco(str(training_tree), "train", year="2017", subsubset=part, auto_download=False, val_images=2)
        dataset.prepare()
        dataset.build_indices()
        dataset.ACTIVE_CLASSES = np.array([1, 3])
        parts.append(dataset)
    assert [dataset.num_images for dataset in parts] == [5, 2]
    schedule = collections.OrderedDict()
    schedule[1] = {"learning_rate": 0.02, "layers": "heads"}
    schedule[2] = {"learning_rate": 0.01, "layers": "3+"}

    model = SiameseMaskRCNN(mode="training", model_dir=str(tmp_path), config=micro_config)
    assert not list(tmp_path.iterdir())
    for epochs, parameters in schedule.items():
        model.train(*parts, learning_rate=parameters["learning_rate"], epochs=epochs, layers=parameters["layers"])
        assert model.epoch == epochs
    first = history_of(model)
    assert [(row["epoch"], row["learning_rate"]) for row in first] == [(1, 0.02), (2, 0.01)]
    assert all(row["val_loss"] > 0 for row in first)

    later = SiameseMaskRCNN(mode="training", model_dir=str(tmp_path), config=micro_config)
    assert later.epoch == 0
    with pytest.raises(ValueError, match=r"holds a run of 2 epochs.*load_latest_checkpoint\(\)"):
        later.train(*parts, 0.02, 1, "heads")
    report = later.load_latest_checkpoint(training_schedule=schedule)
    assert later.epoch == 2 and not report.missing
    for variable, expected in zip(later.keras_model.variables, model.keras_model.variables, strict=True):
        if "seed" not in variable.path:
            np.testing.assert_array_equal(variable.numpy(), expected.numpy(), err_msg=variable.path)
    later.train(parts[0], None, learning_rate=0.002, epochs=3, layers=r"rpn_.*")
    assert later.epoch == 3 and later.find_last().endswith("siamese_mrcnn_0003.h5")
    last = history_of(later)
    assert last[:2] == first and last[2]["epoch"] == 3 and last[2]["learning_rate"] == 0.002


def history_of(model):
    with open(pathlib.Path(model.log_dir) / "history.csv", newline="") as file:
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def training_model(micro_config, tmp_path_factory):
    model = SiameseMaskRCNN("training", micro_config, tmp_path_factory.mktemp("training"))
    conftest.set_seeded_weights(model.keras_model.layers)
    return model


@pytest.fixture
def loaders(monkeypatch):
    """What the calls of `train` would train with: [(trainer, stages, loader, validation loader, first batch)]."""
    seen = []

    def record(trainer, stages, loader, val_loader=None):
        seen.append((trainer, stages, loader, val_loader, loader.batch(0)))

    monkeypatch.setattr(Trainer, "run", record)
    return seen


def test_train_by_position_takes_what_the_original_takes(training_model, training_parts, loaders):
    training_model.train(*training_parts, 0.02, 3, "4+", "fliplr")
    (trainer, stages, loader, val_loader, _) = loaders[0]
    assert [(stage.epochs, stage.layers, stage.learning_rate) for stage in stages] == [(3, "4+", 0.02)]
    assert loader.samples.dataset is training_parts[0] and val_loader.samples.dataset is training_parts[1]
    assert loader.samples.augmentation is not None and val_loader.samples.augmentation is None
    assert (trainer.settings.steps_per_epoch, trainer.settings.validation_steps) == (2, 1)
    assert trainer.folder.path == pathlib.Path(training_model.log_dir)
    training_model.epoch = 0


def test_an_augmenter_of_imgaug_changes_the_training_samples(training_model, training_parts, micro_config, loaders):
    try:
        iaa = augmentation.import_imgaug().augmenters
    except ImportError as error:
        pytest.skip(str(error))
    for augmenter in (None, iaa.Fliplr(1.0)):
        training_model.train(*training_parts, learning_rate=0.1, epochs=1, layers="all", augmentation=augmenter)
        training_model.epoch = 0
    plain, flipped = (seen[-1] for seen in loaders)
    np.testing.assert_array_equal(flipped["input_image"], plain["input_image"][:, :, ::-1])
    assert not np.array_equal(flipped["input_image"], plain["input_image"])
    side = micro_config.IMAGE_MAX_DIM
    boxes_of = plain["input_gt_boxes"][0]
    mirrored = np.stack([boxes_of[:, 0], side - boxes_of[:, 3], boxes_of[:, 2], side - boxes_of[:, 1]], axis=1)
    found = (boxes_of != 0).any(axis=1)
    assert found.any()
    np.testing.assert_array_equal(flipped["input_gt_boxes"][0][found], mirrored[found])


def test_a_bad_augmentation_is_refused_before_training(training_model, training_parts, loaders):
    with pytest.raises(ValueError, match="augmentation 3: expected a name, an imgaug augmenter or a callable"):
        training_model.train(*training_parts, 0.02, 1, "all", augmentation=3)
    assert not loaders and training_model.epoch == 0


def test_modes_are_told_apart(training_model, training_parts, tiny_model, scene, crop):
    with pytest.raises(RuntimeError, match="mode = 'training': build SiameseMaskRCNN with mode='inference' for this"):
        training_model.detect([[crop]], [scene])
    with pytest.raises(RuntimeError, match="mode='inference'"):
        training_model.run_graph([[crop]], [scene], ["ROI"])
    for call in (
        lambda: tiny_model.train(*training_parts, 0.02, 1, "all"),
        lambda: tiny_model.compile(0.02, 0.9),
        tiny_model.trainer,
    ):
        with pytest.raises(RuntimeError, match="mode = 'inference': build SiameseMaskRCNN with mode='training'"):
            call()


def test_imagenet_weights_fill_the_backbone_of_a_training_model(training_model, tmp_path):
    class Backbone:
        layers = [training_model._layers.resnet_model]

    loading.save_weights(Backbone, tmp_path / "backbone.h5")
    before = {variable.path: variable.numpy() for variable in training_model.keras_model.variables}
    for variable in Backbone.layers[0].variables:
        variable.assign(np.full(variable.shape, 0.5))
    training_model.epoch = 5
    report = training_model.load_imagenet_weights("imagenet-1k", weights_path=str(tmp_path / "backbone.h5"))
    assert training_model.epoch == 0
    assert report.loaded and not any("mrcnn" in name or "fpn" in name for name in report.loaded)
    assert any("fpn_c5p5" in name for name in report.missing)
    for variable in training_model.keras_model.variables:
        np.testing.assert_array_equal(variable.numpy(), before[variable.path], err_msg=variable.path)


@pytest.mark.slow
def test_compile_and_steps_by_hand(training_model, training_parts, micro_config):
    maker = TrainingSamples(training_parts[0], micro_config)
    inputs = collate([maker[0], maker[1]], micro_config)
    training_model.set_trainable("mrcnn_class_logits|rpn_class_raw")
    training_model.compile(learning_rate=0.01, momentum=0.5)
    optimizer = training_model.keras_model.optimizer
    assert float(optimizer.momentum) == 0.5 and float(optimizer.learning_rate.numpy()) == pytest.approx(0.01)
    assert optimizer.global_clipnorm == micro_config.GRADIENT_CLIP_NORM
    first = float(training_model.keras_model.train_on_batch(list(inputs.values()), return_dict=True)["loss"])
    training_model.keras_model.reset_metrics()
    for _ in range(5):
        training_model.keras_model.reset_metrics()
        last = training_model.keras_model.train_on_batch(list(inputs.values()), return_dict=True)
    assert float(last["loss"]) < first


def test_names_of_the_original_and_of_matterport(tiny_model, scene, crop, tmp_path):
    wrapped = keras.layers.TimeDistributed(keras.layers.Dense(2))
    assert tiny_model.find_trainable_layer(wrapped) is wrapped.layer
    layers = tiny_model.get_trainable_layers()
    assert {"conv1", "fpn_c5p5", "rpn_conv_shared", "mrcnn_mask"} <= {layer.name for layer in layers}
    assert all(layer.weights for layer in layers) and "resnet_model" not in {layer.name for layer in layers}

    pillar = tiny_model.keras_model.get_layer("ROI").output
    named = [(name, tiny_model.ancestor(pillar, f"ROI/{name}:0")) for name in ("pre_nms_anchors", "refined_anchors")]
    found = tiny_model.run_graph([crop], [scene], named)
    assert found["refined_anchors"].shape == found["pre_nms_anchors"].shape
    assert tiny_model.ancestor(pillar, "ROI/rpn_non_max_suppression:0") is None

    model = SiameseMaskRCNN("inference", TinyConfig().replace(CHECKPOINT_DIR=str(tmp_path)), tmp_path)
    (tmp_path / "imagenet_687.h5").touch()
    assert model.get_imagenet_weights("imagenet-687") == str(tmp_path / "imagenet_687.h5")
    with pytest.raises(ValueError):
        model.get_latest_checkpoint()
    with pytest.raises(AttributeError, match="siamese_mrcnn_tf.model.*'data_generator'"):
        importlib.import_module("siamese_mrcnn_tf.model").data_generator  # noqa: B018
