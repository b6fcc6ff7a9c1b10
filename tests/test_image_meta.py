"""The image_meta vector: composed and parsed by one table."""

import numpy as np
import pytest
from keras import ops

from siamese_mrcnn_tf.ops.image_meta import compose_image_meta, parse_image_meta

VECTOR = [7, 375, 500, 3, 512, 512, 3, 64, 6, 448, 506, 1.25, 0, 1]


def compose(image_id=7):
    return compose_image_meta(image_id, (375, 500, 3), (512, 512, 3), (64, 6, 448, 506), 1.25, [0, 1])


def test_compose_by_hand():
    meta = compose()
    assert meta.tolist() == VECTOR
    assert meta.dtype == np.float64


def test_large_ids_are_kept():
    assert compose(900100123456)[0] == 900100123456


def test_arrays_compose_as_tuples_do():
    arrays = (np.array([375, 500, 3]), np.array([512, 512, 3]), np.array([64, 6, 448, 506]))
    assert compose_image_meta(np.int64(7), *arrays, np.float32(1.25), np.array([0, 1])).tolist() == VECTOR


@pytest.mark.parametrize("convert", [np.asarray, ops.convert_to_tensor], ids=["numpy", "tensor"])
def test_parse_is_the_inverse_for_a_batch(convert):
    second = compose_image_meta(8, (10, 20, 3), (64, 64, 3), (1, 2, 3, 4), 2.0, [1, 0])
    parsed = parse_image_meta(convert(np.stack([compose(), second]).astype(np.float32)))
    expected = {
        "image_id": [7, 8],
        "original_image_shape": [[375, 500, 3], [10, 20, 3]],
        "image_shape": [[512, 512, 3], [64, 64, 3]],
        "window": [[64, 6, 448, 506], [1, 2, 3, 4]],
        "scale": [1.25, 2.0],
        "active_class_ids": [[0, 1], [1, 0]],
    }
    assert {name: ops.convert_to_numpy(value).tolist() for name, value in parsed.items()} == expected


@pytest.mark.parametrize("classes", [0, 2, 81])
def test_active_classes_are_what_is_left(classes):
    meta = compose_image_meta(0, (1, 1, 3), (1, 1, 3), (0, 0, 1, 1), 1, [1] * classes)
    assert meta.shape == (12 + classes,)
    assert parse_image_meta(meta[None])["active_class_ids"].shape == (1, classes)


def test_parse_an_empty_batch():
    parsed = parse_image_meta(np.zeros((0, 14)))
    assert parsed["image_id"].shape == (0,)
    assert parsed["window"].shape == (0, 4)
