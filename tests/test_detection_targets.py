"""`DetectionTargetLayer`: sampling of proposals and their targets."""

import conftest
import keras
import numpy as np
import pytest

from siamese_mrcnn_tf import SmallConfig, TinyConfig
from siamese_mrcnn_tf.modeling import network, training_network
from siamese_mrcnn_tf.modeling.detection_targets import DetectionTargetLayer, jittered_boxes_graph
from siamese_mrcnn_tf.ops import boxes

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


# ---- negatives in all rows ---------------------------------------------------------------------------------------


def test_negatives_fill_all_rows():
    negatives = [(0.7, 0.7, 0.8 + 0.01 * index, 0.9) for index in range(12)]
    targets = sample([*negatives, OBJECT], [1], OBJECT, fill_negatives=True)
    assert targets["target_class_ids"][0].tolist() == [1] + [0] * 9
    np.testing.assert_allclose(targets["rois"][0], np.array([OBJECT, *negatives[:9]], np.float32))
    few = sample([*negatives[:4], OBJECT], [1], OBJECT, fill_negatives=True)
    np.testing.assert_allclose(few["rois"][0, :5], np.array([OBJECT, *negatives[:4]], np.float32))
    assert not few["rois"][0, 5:].any()
    by_ratio = sample([*negatives, OBJECT], [1], OBJECT)
    assert by_ratio["rois"][0].any(axis=-1).sum() == 2  # int(1 / 0.34) - 1 = 1 negative


@pytest.mark.parametrize("class_ids", [[0], [-1]])
def test_negatives_fill_all_rows_without_objects(class_ids):
    negatives = [(0.7, 0.7, 0.8 + 0.01 * index, 0.9) for index in range(12)]
    gt_boxes = (0, 0, 0, 0) if class_ids == [0] else OBJECT  # padding; a crowd
    targets = sample([OBJECT, *negatives], class_ids, gt_boxes, fill_negatives=True)
    first = [OBJECT] if class_ids == [0] else []  # within a crowd nothing is background
    np.testing.assert_allclose(targets["rois"][0], np.array([*first, *negatives][:10], np.float32))
    assert all(not targets[name].any() for name in ("target_class_ids", "target_deltas", "target_masks"))


def test_positives_are_no_more_than_their_share_where_negatives_fill():
    positives = [OBJECT] * 9
    negatives = [(0.7, 0.7, 0.8 + 0.01 * index, 0.9) for index in range(9)]
    targets = sample(negatives + positives, [1], OBJECT, fill_negatives=True)
    assert targets["target_class_ids"][0].tolist() == [1] * 3 + [0] * 7
    np.testing.assert_allclose(targets["rois"][0, 3:], np.array(negatives[:7], np.float32))


# ---- jittered boxes ----------------------------------------------------------------------------------------------


def test_jittered_boxes_by_hand():
    boxes = np.array([[OBJECT, (0.0, 0.5, 0.1, 1.0), (0, 0, 0, 0)]], np.float32)
    noise = np.array(
        [
            [0.0, 0.5, 0.5, 0.5, 0.5],  # the first box as it is
            [0.49, 1.0, 0.0, 0.5, 0.5],  # moved by a fifth of its sides, down and to the left
            [0.49, 0.5, 0.5, 1.0, 0.0],  # stretched and shrunk by a fifth, about its centre
            [0.5, 0.0, 1.0, 0.5, 0.5],  # the second, moved up and to the right: cut at the borders
            [1.0, 0.5, 0.5, 0.5, 0.5],  # never the padding
        ],
        np.float32,
    )
    expected = [
        OBJECT,
        (0.28, 0.12, 0.68, 0.52),
        (0.16, 0.24, 0.64, 0.56),
        (0.0, 0.6, 0.08, 1.0),
        (0.0, 0.5, 0.1, 1.0),
    ]
    found = np.asarray(jittered_boxes_graph(boxes, noise[None]))
    assert found.shape == (1, 5, 4)
    np.testing.assert_allclose(found[0], expected, atol=1e-6)


def test_images_without_boxes_have_no_jittered_ones():
    boxes = np.zeros((2, 3, 4), np.float32)
    boxes[1, 0] = OBJECT
    found = np.asarray(jittered_boxes_graph(boxes, np.random.default_rng(0).random((2, 6, 5), np.float32)))
    assert not found[0].any() and found[1].any(axis=-1).all()


def test_jittered_boxes_stay_in_the_image_and_near_their_box():
    rng = np.random.default_rng(1)
    corners = np.sort(rng.random((1, 20, 2, 2), np.float32), axis=2)  # the lower coordinates first
    noise = rng.random((1, 4000, 5), np.float32)
    sources = corners.reshape(1, 20, 4)
    found = np.asarray(jittered_boxes_graph(sources, noise))[0]
    assert found.min() >= 0 and found.max() <= 1
    chosen = (noise[0, :, 0] * 20).astype(int)
    assert set(chosen) == set(range(20))
    overlaps = np.diagonal(boxes.compute_overlaps(found[:1000], sources[0, chosen[:1000]]))
    assert overlaps.min() > 0.3 and (overlaps >= 0.5).mean() > 0.8
    assert 0.4 < (overlaps < 0.75).mean() < 0.9  # and yet they are not all alike


def test_jittered_boxes_are_proposals_too():
    negatives = [(0.7, 0.7, 0.8 + 0.01 * index, 0.9) for index in range(12)]
    options = {"rows": 30, "ratio": 0.5, "shuffle": True}
    plain = sample(negatives, [1], OBJECT, seed=1, **options)
    assert not plain["target_class_ids"].any()
    first, again, other = (sample(negatives, [1], OBJECT, seed=seed, jittered=20, **options) for seed in (1, 1, 2))
    count = first["target_class_ids"].sum()
    assert 8 <= count <= 15
    overlaps = boxes.compute_overlaps(first["rois"][0, :count], np.array([OBJECT]))
    assert overlaps.min() >= 0.5 and np.abs(first["target_deltas"][0, :count]).max(axis=-1).all()
    np.testing.assert_array_equal(first["rois"], again["rois"])
    assert not np.array_equal(first["rois"], other["rois"])


@pytest.mark.parametrize("class_ids", [(1, 0), (0, 0)], ids=["beside a match", "reference of an absent category"])
def test_objects_of_other_categories_are_hard_negatives(class_ids):
    """Rois on an object of class 0 are background, those jittered around it too."""
    other = (0.62, 0.62, 0.98, 0.98)
    gt_boxes = [OBJECT, other] if class_ids[0] else [(0.0, 0.7, 0.2, 0.9), other]
    far = [(0.0, 0.0, 0.1, 0.1)]
    targets = sample(far, class_ids, gt_boxes, rows=30, shuffle=True, seed=0, jittered=40, fill_negatives=True)
    rois, found = targets["rois"][0], targets["target_class_ids"][0]
    near = boxes.compute_overlaps(rois, np.array([other]))[:, 0] > 0.4
    assert near.sum() > 8 and not found[near].any() and rois.any(axis=-1).all()
    assert found.any() == bool(class_ids[0]) and not targets["target_deltas"][0, near].any()


def test_jittered_boxes_are_the_same_in_each_validation():
    layer = DetectionTargetLayer(10, 0.34, STD_DEV, (4, 4), True, jittered=6)
    inputs = [np.zeros((1, 3, 4), np.float32), np.array([[1]]), np.array([[OBJECT]], np.float32)]
    inputs.append(np.ones((1, 8, 8, 1), np.float32))
    found = [np.asarray(layer(inputs, training=training)["rois"]) for training in (False, False, True, True)]
    np.testing.assert_array_equal(found[0], found[1])
    assert found[0].any() and not np.array_equal(found[2], found[3])


def test_shapes_stay_static_in_a_graph():
    inputs = [keras.Input((7, 4)), keras.Input((3,), dtype="int32"), keras.Input((3, 4)), keras.Input((8, 8, 3))]
    targets = DetectionTargetLayer(10, 0.34, STD_DEV, (4, 4), True, jittered=5, fill_negatives=True)(inputs)
    assert {name: value.shape for name, value in targets.items()} == {
        "rois": (None, 10, 4),
        "target_class_ids": (None, 10),
        "target_deltas": (None, 10, 4),
        "target_masks": (None, 10, 4, 4),
    }
    values = [np.zeros((2, *each.shape[1:]), each.dtype) for each in inputs]
    values[2][1, 0], values[1][1, 0] = OBJECT, 1
    found = keras.Model(inputs, targets)(values)
    assert [int(count) for count in np.asarray(found["target_class_ids"]).sum(axis=-1)] == [0, 3]


def test_the_training_network_reads_both_settings():
    config = TinyConfig().replace(**conftest.MICRO)
    graph = training_network.build_training_network(config, network.build_layers(config))
    layer = keras.Model(graph.inputs, graph.outputs).get_layer("proposal_targets")
    assert (layer.jittered, layer.fill_negatives) == (config.NUM_JITTERED_GT_ROIS, True) and layer.jittered > 0
    assert graph.outputs["target_class_ids"].shape == (None, config.TRAIN_ROIS_PER_IMAGE)
    assert graph.outputs["target_bbox"].shape == (None, config.TRAIN_ROIS_PER_IMAGE, 4)


@pytest.mark.parametrize(("limit", "rows"), [(0, 10), (4, 4), (30, 10)])
def test_fewer_positive_rois_may_train_the_mask_head(limit, rows):
    rois = {"TRAIN_ROIS_PER_IMAGE": 32, "TRAIN_MASK_ROIS_PER_IMAGE": limit, "TRAIN_BN": False}
    config = TinyConfig().replace(**conftest.MICRO | rois)
    graph = training_network.build_training_network(config, network.build_layers(config))
    assert graph.outputs["mrcnn_mask"].shape[1] == rows and graph.outputs["mrcnn_bbox"].shape[1] == 32
    assert graph.outputs["target_mask"].shape[1] == 32  # the loss leaves out those without a prediction


# ---- configuration -----------------------------------------------------------------------------------------------


def test_round_trip_through_its_configuration():
    layer = DetectionTargetLayer(10, 0.33, STD_DEV, (28, 28), False, shuffle=False, seed=3, name="proposal_targets")
    assert (layer.get_config()["jittered"], layer.get_config()["fill_negatives"]) == (0, False)
    layer = DetectionTargetLayer(10, 0.33, STD_DEV, (28, 28), False, jittered=7, fill_negatives=True)
    copy = DetectionTargetLayer.from_config(layer.get_config())
    assert copy.get_config() == layer.get_config()
    assert (copy.jittered, copy.fill_negatives) == (7, True)
    assert keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer)).mask_shape == (28, 28)
