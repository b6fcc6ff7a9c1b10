"""The facade: the surface that code written for the original uses."""

import numpy as np
import pytest

from siamese_mrcnn_tf import SiameseMaskRCNN, TinyConfig, boxes
from siamese_mrcnn_tf.model import shift_detections


def test_arguments_by_position_and_name(tmp_path):
    config = TinyConfig().replace(NAME="My_Set", EXPERIMENT="First")
    by_name = SiameseMaskRCNN(mode="inference", model_dir=tmp_path, config=config)
    assert by_name.log_dir == str(tmp_path / "siamese_mrcnn_my_set_first")
    assert by_name.checkpoint_path.format(epoch=7).endswith("siamese_mrcnn_0007.h5")
    assert by_name.epoch == 0
    assert not list(tmp_path.iterdir())  # inference writes nothing
    with pytest.raises(ValueError, match="mode = 'testing'"):
        SiameseMaskRCNN("testing", config, tmp_path)


def test_detect_takes_lists_and_arrays_of_crops(tiny_model, scene, crop):
    expected = tiny_model.detect([[crop]], [scene])[0]
    for targets in ([crop], [crop[None]], np.stack([crop])[None]):
        found = tiny_model.detect(targets, [scene])[0]
        np.testing.assert_array_equal(found["rois"], expected["rois"])
    assert set(found) == {"rois", "class_ids", "scores", "masks"}


def test_detect_counts_its_arguments(tiny_model, scene, crop):
    with pytest.raises(ValueError, match="one query for each of 1 images, got 2"):
        tiny_model.detect([[crop], [crop]], [scene])
    with pytest.raises(ValueError, match="at least one picture"):
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
    with pytest.raises(ValueError, match="imagenet_687.h5"):
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
