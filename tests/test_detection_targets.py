"""`DetectionTargetLayer`: which proposals train the heads, and towards what."""

import conftest
import keras
import numpy as np
import pytest

from siamese_mrcnn_tf import SmallConfig, boxes
from siamese_mrcnn_tf.detection_targets import DetectionTargetLayer

STD_DEV = (0.1, 0.1, 0.2, 0.2)
OBJECT = (0.2, 0.2, 0.6, 0.6)


def sample(proposals, class_ids, gt_boxes, masks=None, *, rows=10, ratio=0.34, shuffle=False, **kwargs):
    """The layer's outputs for one image or a batch, as arrays."""
    gt_boxes = np.asarray(gt_boxes, np.float32).reshape(1, -1, 4) if np.ndim(gt_boxes) < 3 else gt_boxes
    masks = np.ones((len(gt_boxes), 8, 8, gt_boxes.shape[1]), np.float32) if masks is None else masks
    layer = DetectionTargetLayer(rows, ratio, STD_DEV, (4, 4), True, shuffle=shuffle, **kwargs)
    proposals = np.asarray(proposals, np.float32)
    proposals = proposals[None] if proposals.ndim == 2 else proposals
    class_ids = np.asarray(class_ids, np.int32).reshape(len(gt_boxes), -1)
    return {name: np.asarray(value) for name, value in layer([proposals, class_ids, gt_boxes, masks]).items()}


@pytest.mark.parametrize(("name", "batch"), [("b1", 1), ("b2", 2)])
def test_record_of_the_original(name, batch):
    config = SmallConfig()
    with np.load(conftest.DATA / "detection_targets.npz", allow_pickle=False) as record:
        shape = record["gt_masks_shape"]
        masks = np.unpackbits(record["gt_masks_packed"])[: np.prod(shape)].reshape(shape)[:batch]
        gt_boxes = boxes.norm_boxes(record["gt_boxes"], config.IMAGE_SHAPE)[:batch]
        layer = DetectionTargetLayer(
            config.TRAIN_ROIS_PER_IMAGE,
            config.ROI_POSITIVE_RATIO,
            config.BBOX_STD_DEV,
            config.MASK_SHAPE,
            config.USE_MINI_MASK,
            shuffle=False,
        )
        targets = layer([record[f"{name}_rpn_rois"], record["gt_class_ids"][:batch], gt_boxes, masks])
        shape = record[f"{name}_t_masks_shape"]
        recorded_masks = np.unpackbits(record[f"{name}_t_masks_packed"])[: np.prod(shape)].reshape(shape)
        np.testing.assert_allclose(targets["rois"], record[f"{name}_output_rois"], atol=1e-7)
        np.testing.assert_array_equal(targets["target_class_ids"], record[f"{name}_t_class_ids"])
        np.testing.assert_allclose(targets["target_deltas"], record[f"{name}_t_deltas"], atol=1e-5)
        np.testing.assert_array_equal(targets["target_masks"], recorded_masks)


def test_positives_then_negatives_then_zeros():
    proposals = [(0.7, 0.7, 0.9, 0.9), OBJECT, (0.2, 0.2, 0.6, 0.5), (0.0, 0.0, 0.1, 0.1), (0, 0, 0, 0)]
    targets = sample(proposals, [1], OBJECT)
    # two positives allow int(2 / 0.34) - 2 = 3 negatives, of which there are two
    expected = np.zeros((10, 4), np.float32)
    expected[:4] = [OBJECT, (0.2, 0.2, 0.6, 0.5), (0.7, 0.7, 0.9, 0.9), (0.0, 0.0, 0.1, 0.1)]
    np.testing.assert_allclose(targets["rois"][0], expected)
    assert targets["target_class_ids"][0].tolist() == [1, 1] + [0] * 8
    np.testing.assert_allclose(targets["target_deltas"][0, 0], 0, atol=1e-6)
    dx, log_dw = (0.4 - 0.35) / 0.3 / 0.1, np.log(0.4 / 0.3) / 0.2
    np.testing.assert_allclose(targets["target_deltas"][0, 1], [0, dx, 0, log_dw], atol=1e-5)
    assert not targets["target_deltas"][0, 2:].any() and not targets["target_masks"][0, 2:].any()
    assert targets["target_masks"][0, :2].all()


def test_counts_follow_the_ratio():
    positives = [OBJECT] * 9
    negatives = [(0.7, 0.7, 0.8 + 0.01 * index, 0.9) for index in range(9)]
    targets = sample(negatives + positives, [1], OBJECT)
    assert targets["target_class_ids"][0].tolist() == [1] * 3 + [0] * 7
    np.testing.assert_allclose(targets["rois"][0, 3:8], np.array(negatives[:5], np.float32))
    assert not targets["rois"][0, 8:].any()  # int(3 / 0.34) - 3 = 5 negatives


def test_mini_masks_are_cut_by_the_roi():
    mask = np.zeros((1, 8, 8, 1), np.float32)
    mask[0, :, 4:] = 1  # the right half of the object
    targets = sample([OBJECT, (0.2, 0.4, 0.6, 0.6)], [1], OBJECT, mask)
    np.testing.assert_array_equal(targets["target_masks"][0, 0], np.repeat([[0, 0, 1, 1]], 4, axis=0))
    assert targets["target_masks"][0, 1, :, 1:].all()


@pytest.mark.parametrize("class_ids", [[0], [-1]])
def test_without_objects_there_are_no_rois(class_ids):
    targets = sample([OBJECT, (0.7, 0.7, 0.9, 0.9)], class_ids, OBJECT)
    for values in targets.values():
        assert np.isfinite(values).all() and not values.any()


def test_crowds_are_no_background():
    crowd, other = (0.65, 0.65, 0.95, 0.95), (0.0, 0.0, 0.1, 0.1)
    targets = sample([OBJECT, (0.7, 0.7, 0.9, 0.9), other], [[1, -1]], [OBJECT, crowd])
    np.testing.assert_allclose(targets["rois"][0, :2], np.array([OBJECT, other], np.float32))
    assert not targets["rois"][0, 2:].any()


def test_images_of_a_batch_are_apart():
    proposals = np.array([[OBJECT, (0.7, 0.7, 0.9, 0.9)], [(0.7, 0.7, 0.9, 0.9), (0, 0, 0, 0)]], np.float32)
    gt_boxes = np.array([[OBJECT], [(0.7, 0.7, 0.9, 0.9)]], np.float32)
    masks = np.stack([np.ones((8, 8, 1)), np.zeros((8, 8, 1))]).astype(np.float32)
    targets = sample(proposals, [[1], [1]], gt_boxes, masks)
    assert targets["target_class_ids"].sum(axis=1).tolist() == [1, 1]
    assert targets["target_masks"][0, 0].all() and not targets["target_masks"][1].any()


def test_shuffling_depends_on_the_seed():
    rng = np.random.default_rng(0)
    proposals = np.array(OBJECT) + rng.uniform(-0.02, 0.02, (40, 4))
    first, again, other = (sample(proposals, [1], OBJECT, shuffle=True, seed=seed)["rois"] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_round_trip_through_its_configuration():
    layer = DetectionTargetLayer(10, 0.33, STD_DEV, (28, 28), False, shuffle=False, seed=3, name="proposal_targets")
    copy = DetectionTargetLayer.from_config(layer.get_config())
    assert copy.get_config() == layer.get_config()
    assert keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer)).mask_shape == (28, 28)
