"""Anchors: by hand, order, strides, against the original's."""

import pathlib

import numpy as np
import pytest

from siamese_mrcnn_tf.config import Config, LargeConfig
from siamese_mrcnn_tf.ops import anchors, boxes

RECORD = pathlib.Path(__file__).resolve().parents[2] / "shared" / "parity" / "ref_small_1shot.npz"


def test_generate_anchors_by_hand():
    found = anchors.generate_anchors(8, (0.25, 4), (1, 2), 16, 1)
    # ratio 0.25 is 16 high and 4 wide; centers (0, 0) and (0, 16)
    expected = [[-8, -2, 8, 2], [-2, -8, 2, 8], [-8, 14, 8, 18], [-2, 8, 2, 24]]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_anchors_are_ordered_by_y_x_ratio():
    found = anchors.generate_anchors(10, (0.5, 1, 2), (3, 4), 8, 1).reshape(3, 4, 3, 4)
    centers = (found[..., :2] + found[..., 2:]) / 2
    np.testing.assert_allclose(centers[..., 0], np.broadcast_to(np.arange(3)[:, None, None] * 8, (3, 4, 3)), atol=1e-12)
    np.testing.assert_allclose(centers[..., 1], np.broadcast_to(np.arange(4)[None, :, None] * 8, (3, 4, 3)), atol=1e-12)
    sides = found[..., 2:] - found[..., :2]
    np.testing.assert_allclose(sides[..., 1] / sides[..., 0], np.broadcast_to([0.5, 1, 2], (3, 4, 3)))
    np.testing.assert_allclose(boxes.box_areas(found), 100)


def test_anchor_stride_skips_cells():
    every = anchors.generate_anchors(8, (1, 2), (5, 4), 16, 1).reshape(5, 4, 2, 4)
    found = anchors.generate_anchors(8, (1, 2), (5, 4), 16, 2)
    np.testing.assert_array_equal(found, every[::2, ::2].reshape(-1, 4))


def test_pyramid_anchors_begin_with_the_finest_level():
    levels = ((8, (2, 2), 4), (16, (1, 1), 8))
    found = anchors.generate_pyramid_anchors((8, 16), (1,), ((2, 2), (1, 1)), (4, 8), 1)
    single = [anchors.generate_anchors(scale, (1,), shape, stride, 1) for scale, shape, stride in levels]
    np.testing.assert_array_equal(found, np.concatenate(single))
    with pytest.raises(ValueError, match="zip"):
        anchors.generate_pyramid_anchors((8, 16), (1,), ((2, 2),), (4, 8), 1)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((512, 512, 3), [[128, 128], [64, 64], [32, 32], [16, 16], [8, 8]]),
        ((128, 320, 3), [[32, 80], [16, 40], [8, 20], [4, 10], [2, 5]]),
        ((96, 96, 3), [[24, 24], [12, 12], [6, 6], [3, 3], [2, 2]]),
    ],
)
def test_compute_backbone_shapes(shape, expected):
    assert anchors.compute_backbone_shapes(Config(), shape).tolist() == expected


def test_compute_backbone_shapes_of_a_callable():
    config = Config().replace(COMPUTE_BACKBONE_SHAPE=lambda shape: [[shape[0], shape[1]]] * 5)
    assert anchors.compute_backbone_shapes(config, (64, 64, 3))[0].tolist() == [16, 16]  # BACKBONE is still a name
    config = config.replace(BACKBONE=lambda image, stage5, train_bn: [image] * 5)
    assert anchors.compute_backbone_shapes(config, (64, 32, 3)).tolist() == [[64, 32]] * 5


def test_anchors_of_the_small_configuration_are_the_originals():
    found = anchors.pyramid_anchors(Config(), (512, 512, 3))
    assert found.shape == (65472, 4)
    recorded = {  # row of the recorded anchors[::97] -> (y1, x1, y2, x2)
        0: (-22.627417, -11.3137085, 22.627417, 11.3137085),
        1: (-16.0, 112.0, 16.0, 144.0),
        2: (-11.3137085, 233.372583, 11.3137085, 278.627417),
        673: (-256.0, -256.0, 256.0, 256.0),
        674: (74.98066402, -362.03867197, 437.01933598, 362.03867197),
    }
    np.testing.assert_allclose(found[::97][list(recorded)], list(recorded.values()), atol=1e-6)
    normalized = boxes.norm_boxes(found, (512, 512))
    assert normalized[0].tolist() == pytest.approx([-0.04428066, -0.02214033, 0.04232371, 0.02018338], abs=1e-7)
    spread = [normalized.mean(), normalized.std(), np.abs(normalized).sum(), normalized.min(), normalized.max()]
    np.testing.assert_allclose(spread, [0.494307063, 0.296424280, 130142.964, -0.708490551, 1.58324599], rtol=1e-5)


def test_number_of_anchors_of_the_large_configuration():
    assert len(anchors.pyramid_anchors(LargeConfig(), (1024, 1024, 3))) == 3 * (256**2 + 128**2 + 64**2 + 32**2 + 16**2)


@pytest.mark.skipif(not RECORD.exists(), reason="the recorded outputs of the original are not here")
def test_every_recorded_anchor():
    found = anchors.pyramid_anchors(Config(), (512, 512, 3))[::97]
    with np.load(RECORD, allow_pickle=False) as record:
        np.testing.assert_allclose(found, record["anchors_px_sub"], atol=1e-9)
        np.testing.assert_allclose(boxes.norm_boxes(found, (512, 512)), record["anchors_sub"], atol=1e-7)
