"""Matching: by hand, in batches, the mean over references."""

import numpy as np
import pytest
from keras import ops

from siamese_mrcnn_tf.modeling import matching
from siamese_mrcnn_tf.ops import bands
from siamese_mrcnn_tf.ops.tracing import detecting


def tensor(values):
    return ops.convert_to_tensor(np.asarray(values, np.float32))


def array(values):
    return ops.convert_to_numpy(values)


def test_matching_by_hand():
    layer = matching.MatchingLayer(2)
    layer.build([(None, None, None, 1), (None, 1)])
    layer.set_weights([np.array([[1, 10], [100, 1000]]).reshape(1, 1, 2, 2), np.array([0.5, -0.5])])
    # scene 3 against 5: difference 2; negative results stay, there is no activation
    found = array(layer([tensor([[[[3]], [[-7]]]]), tensor([[5]])]))
    np.testing.assert_allclose(found[0, :, 0], [[203.5, 2029.5], [1193.5, 11929.5]])


def test_matching_of_a_batch_equals_numpy():
    rng = np.random.default_rng(0)
    scene, reference = rng.normal(size=(3, 4, 5, 6)), rng.normal(size=(3, 6))
    reference[2] = 0
    kernel, bias = rng.normal(size=(1, 1, 12, 9)), rng.normal(size=9)
    joined = np.concatenate([scene, np.abs(scene - reference[:, None, None])], axis=-1)
    found = array(matching.matching_graph(*map(tensor, (scene, reference, kernel, bias))))
    np.testing.assert_allclose(found, joined @ kernel[0, 0] + bias, atol=1e-5)
    assert found.min() < 0


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_large_maps_are_matched_in_bands(policy):
    rng = np.random.default_rng(1)
    layer = matching.MatchingLayer(3, dtype=policy)
    scene, reference = (ops.cast(rng.normal(size=shape), layer.compute_dtype) for shape in ((2, 128, 130, 4), (2, 4)))
    expected = array(layer([scene, reference]))
    with detecting():
        assert bands.applies(scene) and not bands.applies(scene[:, :96]) and not bands.applies(scene[:, :127])
        found = array(layer([scene, reference]))
        assert np.array_equal(found[:1], array(layer([scene[:1], reference[:1]])))
    assert not bands.applies(scene)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_matching_of_an_empty_batch(empty_convolutions):
    layer = matching.MatchingLayer(4)
    assert layer([ops.zeros((0, 3, 3, 2)), ops.zeros((0, 2))]).shape == (0, 3, 3, 4)
    assert layer.kernel.shape == (1, 1, 4, 4) and layer.bias.shape == (4,)


def test_mean_over_references():
    embeddings = np.arange(2 * 3 * 2 * 2, dtype=np.float32).reshape(6, 2, 2)
    found = array(matching.MeanOverReferences()([tensor(embeddings), ops.zeros((2, 3, 4, 4, 3))]))
    np.testing.assert_allclose(found, embeddings.reshape(2, 3, 2, 2).mean(axis=1))
    one_shot = array(matching.MeanOverReferences()([tensor(embeddings), ops.zeros((6, 1, 4, 4, 3))]))
    np.testing.assert_array_equal(one_shot, embeddings)
