"""Molding and unmolding: against records of the original, by hand, and on bad input."""

import importlib.util
import pathlib

import numpy as np
import pytest
import seeded

from siamese_mrcnn_tf.config import Config, LargeConfig, TinyConfig
from siamese_mrcnn_tf.data import molding, resize
from siamese_mrcnn_tf.ops.boxes import extract_bboxes

SHARED = pathlib.Path(__file__).resolve().parents[2] / "shared" / "parity"
SCENES = ((11, 375, 500), (12, 300, 400), (13, 480, 640))  # (seed, height, width) of the recorded data pipeline
CONFIG = Config()
with_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the recorded outputs of the original are not here")


@pytest.fixture(scope="module")
def recorded():
    return np.load(pathlib.Path(__file__).parent / "data" / "molding.npz")


@pytest.fixture(scope="module")
def query():
    return seeded.make_scene(*seeded.QUERY_SHAPE, seeded.QUERY_SEED)[0]


def scene(seed, height, width):
    return seeded.make_scene(height, width, seed)


# ---- resize_image ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(7, 5, 3), (2, 4, 6, 3), (1, 1, 3), (3,), (0, 4, 3)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_mold_image_rounds_the_exact_difference_once(shape, dtype):
    image = np.random.default_rng(2).integers(0, 256, shape).astype(dtype)
    expected = (image.astype(np.float64) - np.array(CONFIG.MEAN_PIXEL)).astype(np.float32)
    molded = molding.mold_image(image, CONFIG)
    assert molded.dtype == np.float32
    np.testing.assert_array_equal(molded, expected)


@pytest.mark.parametrize("shape", [(6, 5, 1), (6, 5, 4), (6, 6)])
def test_mold_image_refuses_other_channels(shape):
    with pytest.raises(ValueError, match="broadcast"):
        molding.mold_image(np.zeros(shape, np.uint8), CONFIG)


def test_mold_and_unmold_image():
    image = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    molded = molding.mold_image(image, CONFIG)
    assert molded.dtype == np.float32 and molded[0, 0].tolist() == np.float32([-123.7, -116.8, -103.9]).tolist()
    assert np.array_equal(molding.unmold_image(molded, CONFIG), image)
    assert molding.unmold_image(np.full((1, 1, 3), 999.0), CONFIG).max() == 255


def test_mold_inputs_equals_the_records(recorded, query):
    molded, metas, windows = molding.mold_inputs([query], CONFIG)
    assert molded.shape == (1, 512, 512, 3) and molded.dtype == np.float32
    difference = np.abs(molded[0, ::8, ::8] - recorded["molded_image_sub"])
    assert difference.max() <= 1.01 and np.count_nonzero(difference) <= 2
    assert np.array_equal(molded[0, [64, 65], ::4], recorded["molded_edge_rows"])  # the faded border and its neighbour
    assert np.array_equal(metas[0].astype(np.float32), recorded["image_meta"])
    assert np.array_equal(windows[0], recorded["window"])


def test_mold_inputs_of_two_sizes():
    images = [np.full((50, 80, 3), 200, np.uint8), np.full((90, 40, 3), 10, np.int64)]
    molded, metas, windows = molding.mold_inputs(images, TinyConfig())
    assert molded.shape == (2, 128, 128, 3) and metas.shape == (2, 14)
    assert windows.tolist() == [[24, 0, 104, 128], [0, 35, 128, 92]]
    assert metas[1, 1:4].tolist() == [90, 40, 3] and metas[1, 11] == 128 / 90


def test_mold_inputs_refuses_a_batch_of_several_shapes():
    images = [np.zeros((64, 64, 3), np.uint8), np.zeros((64, 128, 3), np.uint8)]
    config = TinyConfig().replace(IMAGE_RESIZE_MODE="none")
    with pytest.raises(ValueError, match=r"\(64, 64, 3\), \(64, 128, 3\)"):
        molding.mold_inputs(images, config)


@pytest.mark.parametrize("shape", [(128, 100, 3), (65, 128, 3)])
def test_mold_inputs_refuses_sides_that_the_network_cannot_halve(shape):
    images = [np.zeros((128, 128, 3), np.uint8), np.zeros(shape, np.uint8)]
    message = rf"image 1: IMAGE_RESIZE_MODE = 'none' needs multiples of 64.*\({shape[0]}, {shape[1]}, 3\)"
    with pytest.raises(ValueError, match=message):
        molding.mold_inputs(images, TinyConfig().replace(IMAGE_RESIZE_MODE="none"))
    padded = TinyConfig().replace(IMAGE_RESIZE_MODE="pad64", IMAGE_MIN_DIM=64)
    assert molding.mold_inputs(images[1:], padded)[0].shape == (1, 128, 128, 3)


def test_mold_inputs_in_mode_crop():
    image = np.arange(90 * 120 * 3, dtype=np.uint8).reshape(90, 120, 3)
    config = TinyConfig().replace(IMAGE_RESIZE_MODE="crop", IMAGE_MIN_DIM=64)
    assert molding.mold_inputs([image], config, rng=np.random.default_rng(0))[0].shape == (1, 64, 64, 3)
    with pytest.raises(ValueError, match="IMAGE_RESIZE_MODE = 'crop' is random"):
        molding.mold_inputs([image], config)


def test_mold_inputs_takes_float_images_and_black_ones():
    image = seeded.make_scene(90, 120, seed=3)[0]
    expected = molding.mold_inputs([image], TinyConfig())[0]
    np.testing.assert_allclose(molding.mold_inputs([image.astype(float)], TinyConfig())[0], expected, atol=1)
    black = molding.mold_inputs([np.zeros((4, 4, 3))], TinyConfig())[0]
    assert np.array_equal(black[0, 0, 0], -np.float32(TinyConfig().MEAN_PIXEL))


@pytest.mark.parametrize("mode", ["square", "pad64", "crop", "none"])
def test_query_shape_is_the_size_before_padding(mode):
    config = CONFIG.replace(IMAGE_RESIZE_MODE=mode, IMAGE_MIN_DIM=448)
    rule = (config.IMAGE_MIN_DIM, config.IMAGE_MAX_DIM, config.IMAGE_MIN_SCALE, mode)
    _, window, scale, _, crop = resize.resize_image(np.zeros((200, 300, 3)), *rule, rng=np.random.default_rng(0))
    expected = (window[2] - window[0], window[3] - window[1]) if crop is None else (448, 672)
    assert molding.resized_scene_shape((200, 300), config) == (scale, expected)


@pytest.mark.parametrize(
    "image, message",
    [
        (np.zeros((4, 4), np.uint8), r"image 0: expected uint8 \[height, width, 3\].*shape \(4, 4\)"),
        (np.zeros((4, 4, 4), np.uint8), r"shape \(4, 4, 4\)"),
        (np.zeros((0, 4, 3), np.uint8), "not empty"),
        (np.zeros((4, 4, 3), complex), "complex128"),
        (np.full((4, 4, 3), 300.0), "values in 0..255, got 300.0"),
        (np.full((4, 4, 3), np.nan), "values in 0..255, got nan"),
        (np.full((4, 4, 3), 0.5, np.float32), r"image 0: looks like 0..1 \(float32 up to 0.5\): expected 0..255"),
        (np.ones((4, 4, 3)), "looks like 0..1"),
    ],
)
def test_mold_inputs_refuses_what_is_no_image(image, message):
    with pytest.raises(ValueError, match=message):
        molding.mold_inputs([image], CONFIG)
    with pytest.raises(ValueError, match="at least one image"):
        molding.mold_inputs([], CONFIG)


def test_mold_reference_equals_the_record(recorded):
    crop = seeded.reference_crop(seeded.REFERENCE_SEEDS[0], seeded.REFERENCE_KIND)
    molded = molding.mold_reference(crop, CONFIG)
    assert np.array_equal(molded, recorded["targets"][0])
    assert molding.mold_reference(molded, CONFIG) is molded  # already the square: unchanged


@pytest.mark.parametrize("config, side", [(CONFIG, 96), (LargeConfig(), 192), (TinyConfig(), 64)])
def test_mold_references(config, side):
    crops = [np.full((30, 60, 3), 100, np.uint8), np.full((300, 20, 3), 50, np.float32)]
    raw = molding.mold_references(crops, config, subtract_mean=False)
    assert raw.shape == (2, side, side, 3) and raw.dtype == np.float32 and raw.min() == 0 and raw.max() == 100
    molded = molding.mold_references(crops, config, subtract_mean=True)
    np.testing.assert_allclose(molded, raw - np.float32(config.MEAN_PIXEL), atol=1e-5)


def test_mold_references_refuses_bad_crops():
    with pytest.raises(ValueError, match="at least one crop"):
        molding.mold_references([], CONFIG, subtract_mean=True)
    with pytest.raises(ValueError, match="reference 0: looks like 0..1"):
        molding.mold_references([np.ones((4, 4, 3))], CONFIG, subtract_mean=True)
    with pytest.raises(ValueError, match="reference 1: .*not empty"):
        molding.mold_references([np.ones((4, 4, 3), np.uint8), np.ones((0, 4, 3))], CONFIG, subtract_mean=True)
    with pytest.raises(ValueError, match="reference: .*not empty"):
        molding.mold_reference(np.ones((0, 4, 3), np.uint8), CONFIG)


@pytest.mark.parametrize("mode", ["square", "pad64", "none"])
def test_reference_from_mask_equals_cropping_the_resized_scene(mode):
    image, masks, _ = scene(*SCENES[1])
    config = CONFIG.replace(IMAGE_RESIZE_MODE=mode, IMAGE_MIN_DIM=448)
    resized, _, scale, padding, _ = resize.resize_image(image, 448, 512, 0, mode)
    boxes = extract_bboxes(resize.resize_mask(masks, scale, padding))
    for index, (y1, x1, y2, x2) in enumerate(boxes):
        expected = molding.mold_reference(resized[y1:y2, x1:x2], config)
        assert np.array_equal(molding.reference_from_mask(image, masks[:, :, index], config), expected)


def test_reference_from_box_equals_cropping_the_resized_scene():
    image = scene(*SCENES[0])[0]
    resized, _, scale, _, _ = resize.resize_image(image, 400, 512, 0, "square")
    assert scale == 1.024
    # 100, 250.5, 200, 300 times 1.024 is 102.4, 256.512, 204.8, 307.2; the padding adds 64 rows
    expected = molding.mold_reference(resized[64 + 102 : 64 + 205, 257:307], CONFIG)
    assert np.array_equal(molding.reference_from_box(image, (100, 250.5, 200, 300), CONFIG), expected)
    whole = molding.mold_reference(resized[64:448], CONFIG)
    assert np.array_equal(molding.reference_from_box(image, (0, 0, 375, 500), CONFIG), whole)


def test_reference_from_box_keeps_one_pixel():
    image = np.full((1000, 1000, 3), 77, np.uint8)  # scaled down to half: the corner pixel vanishes by rounding
    reference = molding.reference_from_box(image, (999.9, 999.9, 1000, 1000), CONFIG)
    assert reference.shape == (96, 96, 3) and reference.max() == 77


@pytest.mark.parametrize(
    "box, message",
    [
        ((0, 0, 31, 20), r"\(0, 0, 31, 20\) leaves the image of 30 x 40 pixels"),
        ((-1, 0, 10, 20), r"\(-1, 0, 10, 20\) leaves the image of 30 x 40"),
        ((5, 5, 5, 20), r"\(5, 5, 5, 20\) is empty.*30 x 40"),
        ((5, 20, 9, 10), r"\(5, 20, 9, 10\) is empty"),
        ((np.nan, 0, 9, 10), r"\(nan, 0, 9, 10\) is empty"),
        ((5, 20, 9), r"expected \(y1, x1, y2, x2\), got shape \(3,\)"),
    ],
)
def test_reference_from_box_refuses_bad_boxes(box, message):
    with pytest.raises(ValueError, match=message):
        molding.reference_from_box(np.zeros((30, 40, 3), np.uint8), box, CONFIG)


def test_reference_from_mask_refuses_bad_masks():
    image = np.zeros((1100, 40, 3), np.uint8)
    with pytest.raises(ValueError, match=r"shape of the scene \(1100, 40\), got \(40, 1100\)"):
        molding.reference_from_mask(image, np.ones((40, 1100)), CONFIG)
    with pytest.raises(ValueError, match="no pixel at the network's scale .*0 before"):
        molding.reference_from_mask(image, np.zeros((1100, 40)), CONFIG)
    one_pixel = np.zeros((1100, 40))
    one_pixel[1] = 1  # a row that the scaling down to 512 skips
    with pytest.raises(ValueError, match="no pixel at the network's scale 0.4655 .40 before"):
        molding.reference_from_mask(image, one_pixel, CONFIG)


def test_unmold_mask_by_hand():
    mask = np.zeros((28, 28))
    mask[:, 14:] = 1
    placed = molding.unmold_mask(mask, (2, 3, 6, 11), (10, 12, 3))
    expected = np.zeros((10, 12), bool)
    expected[2:6, 7:11] = True
    assert placed.dtype == bool and np.array_equal(placed, expected)
    assert molding.unmold_mask(np.full((28, 28), 0.5), (0, 0, 2, 2), (2, 2)).all()  # 0.5 belongs to the mask


@pytest.mark.parametrize("box", [(-3, -2, 4, 5), (7, 8, 14, 15), (-2, -2, 12, 14), (20, 20, 25, 25), (-9, -9, -2, -2)])
def test_unmold_mask_leaves_out_what_lies_beyond_the_image(box):
    placed = molding.unmold_mask(np.ones((28, 28)), box, (10, 12))
    expected = np.zeros((10, 12), bool)
    y1, x1, y2, x2 = np.maximum(box, 0)
    expected[y1:y2, x1:x2] = True
    assert np.array_equal(placed, expected)


def test_unmold_detections_equals_the_records(recorded, query):
    shapes = (query.shape, (512, 512, 3), recorded["window"])
    boxes, class_ids, scores, masks = molding.unmold_detections(recorded["detections"], recorded["mrcnn_mask"], *shapes)
    assert boxes.dtype == np.int32 and np.array_equal(boxes, recorded["detect_rois"])
    assert class_ids.dtype == np.int32 and np.array_equal(class_ids, recorded["detect_class_ids"])
    assert np.array_equal(scores, recorded["detect_scores"])
    height, width, count = recorded["detect_mask_shape"]
    bits = np.unpackbits(recorded["detect_masks_packed"])[: masks.size].reshape(count, height, width)
    assert masks.dtype == bool and np.array_equal(masks, np.moveaxis(bits, 0, -1))
    doubled = np.stack([np.zeros_like(recorded["mrcnn_mask"]), recorded["mrcnn_mask"]], axis=-1)
    assert np.array_equal(molding.unmold_detections(recorded["detections"], doubled, *shapes)[3], masks)


def test_unmold_detections_cuts_at_class_0_and_drops_boxes_without_area():
    detections = np.array(
        [
            [0.0, 0.0, 1.0, 1.0, 1, 0.9],
            [0.5, 0.5, 0.49, 0.6, 1, 0.8],  # turned inside out by 2 pixels
            [0.25, 0.25, 0.75, 0.75, 1, 0.7],
            [0.0, 0.0, 0.0, 0.0, 0, 0.0],
            [0.0, 0.0, 1.0, 1.0, 1, 0.6],  # after the first class id 0: padding
        ]
    )
    window = (32, 0, 96, 128)  # a 64 x 128 image, doubled from 32 x 64
    boxes, class_ids, scores, masks = molding.unmold_detections(
        detections, np.ones((5, 28, 28)), (32, 64, 3), (128, 128, 3), window
    )
    # by hand: y = (0.25 - 32/127) / (63/127) * 31 = -0.12; 0.75 -> (0.75 - 32/127) / (63/127) * 31 + 1 = 32.12
    assert boxes.tolist() == [[-16, 0, 48, 64], [0, 16, 32, 48]]
    assert class_ids.tolist() == [1, 1] and scores.tolist() == [0.9, 0.7]
    assert masks.shape == (32, 64, 2) and masks.sum(axis=(0, 1)).tolist() == [32 * 64, 32 * 32]


@pytest.mark.parametrize("mrcnn_mask", [None, np.zeros((3, 28, 28))])
def test_unmold_detections_without_masks_or_detections(mrcnn_mask):
    detections = np.zeros((3, 6))
    if mrcnn_mask is None:
        detections[0] = 0, 0, 1, 1, 1, 0.5
    boxes, class_ids, scores, masks = molding.unmold_detections(
        detections, mrcnn_mask, (32, 64, 3), (128, 128, 3), (0, 0, 128, 128)
    )
    count = int(mrcnn_mask is None)
    assert boxes.shape == (count, 4) and class_ids.shape == scores.shape == (count,)
    assert masks.shape == (32, 64, 0) and masks.dtype == bool


# ---- the whole records, and the rules they come from -------------------------------------------------------------


@pytest.mark.parametrize("window", [(31, 0, 32, 64), (0, 31, 64, 32)])
def test_boxes_in_an_image_of_one_pixel(window):
    """A window of one pixel has no extent in normalized coordinates: its boxes span the whole side."""
    shape = (1, 500) if window[0] else (500, 1)
    boxes = molding.unmold_boxes([[0.25, 0.25, 0.75, 0.75]], shape, (64, 64), window)
    along = slice(1, 4, 2) if window[0] else slice(0, 3, 2)
    assert boxes[0].tolist()[1 - along.start :: 2] == [0, 1] and 120 < boxes[0][along][0] < boxes[0][along][1] < 380


@with_shared
def test_recorded_references_come_from_their_instances():
    references = np.load(SHARED / "data_pipeline.npz")["one_target_seed3_cat2"].astype(int)
    for reference, rule in zip(references, (SCENES[2], SCENES[1], SCENES[0]), strict=True):
        image, masks, _ = scene(*rule)
        difference = np.abs(molding.reference_from_mask(image, masks[:, :, 1], CONFIG) - reference)
        assert difference.max() <= 1 and np.count_nonzero(difference) <= 139


@with_shared
def test_seeded_rules_are_the_shared_ones():
    spec = importlib.util.spec_from_file_location("shared_seed_rule", SHARED / "seed_rule.py")
    shared = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(shared)
    for height, width, seed in ((375, 500, 7), (64, 90, 3)):
        ours, theirs = seeded.make_scene(height, width, seed), shared.make_scene(height, width, seed)
        assert all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in zip(ours, theirs, strict=True))
        assert np.array_equal(seeded.boxes_of(ours[1]), shared.boxes_of(ours[1]))
    assert np.array_equal(seeded.reference_crop(101, 2), shared.reference_crop(101, 2))
    weights = "conv1/kernel:0 resnet_model/fpn_distance_P4/kernel:0 mrcnn_mask_deconv/kernel:0 res2a_branch2c/gamma:0"
    weights += " res2a_branch1/gamma:0 bn_conv1/gamma:0 bn_conv1/beta:0 bn_conv1/moving_mean:0"
    weights += " bn_conv1/moving_variance:0 mrcnn_class_logits/bias:0 mrcnn_bbox_fc/kernel:0"
    for name in weights.split():
        shape = (2, 2, 32, 64) if "kernel" in name else (2,)
        ours, theirs = seeded.seeded_weight(name, shape), shared.seeded_weight(name, shape)
        assert ours.dtype == np.float32 and np.array_equal(ours, theirs), name
