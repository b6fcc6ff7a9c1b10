"""Similarity of embeddings, verified scores, and the statistics behind them."""

import dataclasses
import math

import numpy as np
import pytest

from siamese_mrcnn_tf.ops.similarity import (
    Verification,
    fit_statistics,
    fit_weights,
    logit,
    sigmoid,
)


@pytest.fixture
def vectors():
    """Embeddings [12, 5 levels, 6 channels] with a mean and a deviation of their own in each channel."""
    rng = np.random.default_rng(0)
    return rng.normal(rng.normal(0, 3, (5, 6)), rng.uniform(0.2, 4, (5, 6)), (12, 5, 6)).astype(np.float32)


def cosine(one, other):
    return sum(a * b for a, b in zip(one, other, strict=True)) / math.hypot(*one) / math.hypot(*other)


def test_similarity_is_the_cosine_of_standardized_levels(vectors):
    verification = fit_statistics(vectors)
    query, finds = vectors[0], vectors[1:4]
    flat = []
    for embedding in vectors[:4]:
        values = []
        for level in range(4):
            for channel in range(6):
                column = vectors[:, level, channel].astype(float)
                values.append((embedding[level, channel] - column.mean()) / column.std())
        flat.append(values)
    expected = [cosine(flat[0], values) for values in flat[1:]]
    np.testing.assert_allclose(verification.similarity(query, finds), expected, atol=1e-5)
    assert verification.similarity(query, query[None]) == pytest.approx(1)


def test_the_last_level_does_not_count(vectors):
    verification = fit_statistics(vectors)
    changed = vectors.copy()
    changed[:, 4] = 100
    found = verification.similarity(vectors[0], changed[1:])
    np.testing.assert_array_equal(found, verification.similarity(vectors[0], vectors[1:]))
    changed[:, 3] = 100
    assert not np.allclose(found, verification.similarity(vectors[0], changed[1:]))


def test_channels_without_spread_do_not_divide_by_zero():
    verification = fit_statistics(np.ones((3, 5, 2), np.float32))
    assert verification.similarity(np.ones((5, 2)), np.ones((1, 5, 2))) == pytest.approx(0)


def test_rescore_adds_logits():
    verification = dataclasses.replace(fit_statistics(np.eye(5)[:, :, None]), scale=0.5, weight=3.0, offset=-1.0)
    scores, similarities = [0.2, 0.7, 0.9], [0.5, -0.2, 0.0]
    expected = [
        1 / (1 + math.exp(-(0.5 * math.log(score / (1 - score)) + 3 * similarity - 1)))
        for score, similarity in zip(scores, similarities, strict=True)
    ]
    found = verification.rescore(scores, similarities)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_scores_without_a_weight_are_unchanged(vectors):
    scores = np.linspace(0.001, 0.999, 50)
    found = fit_statistics(vectors).rescore(scores, np.linspace(-1, 1, 50))
    np.testing.assert_allclose(found, scores, rtol=1e-6)


def test_logits_of_certain_scores_are_finite():
    assert np.isfinite(logit([0, 1])).all()
    np.testing.assert_allclose(sigmoid(logit([0, 0.25, 1])), [0, 0.25, 1], atol=1e-6)
    assert sigmoid([-1000, 1000]).tolist() == [0, 1]


def categories(rng, count, *, each=20, noise):
    """(embeddings [count * each, 5, 4], labels): categories differ in two channels, all others are noise."""
    labels = np.repeat(np.arange(count), each)
    vectors = rng.normal(0, noise, (len(labels), 5, 4))
    vectors[:, 0, :2] += rng.normal(0, 1, (count, 2))[labels]
    return vectors.astype(np.float32), labels


def pair_scores(verification, vectors, labels):
    """(similarities of pairs of one category, of pairs of two)."""
    similarities = np.stack([verification.similarity(one, vectors) for one in vectors])
    same, upper = labels[:, None] == labels, np.triu(np.ones_like(similarities, bool), 1)
    return similarities[same & upper], similarities[~same & upper]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mean": np.ones(4)}, r"mean: expected numbers \[4 levels, channels\], got shape \(4,\)"),
        ({"deviation": np.ones((4, 5))}, r"deviation: expected the shape of mean \(4, 6\), got \(4, 5\)"),
        ({"deviation": np.zeros((4, 6))}, "deviation: expected numbers above 0"),
        ({"views": 3}, "views = 3: expected one of 1, 2, 8"),
        ({"weight": math.nan}, "weight: expected finite numbers"),
    ],
)
def test_errors_name_the_attribute(changes, message):
    with pytest.raises(ValueError, match=message):
        Verification(**{"mean": np.ones((4, 6)), "deviation": np.ones((4, 6)), **changes})


@pytest.mark.parametrize("shape", [(1, 3, 6), (1, 5, 7), (5, 6)])
def test_embeddings_of_another_network_are_refused(vectors, shape):
    with pytest.raises(ValueError, match=r"embeddings: expected \[n, 4 levels or more, 6\]"):
        fit_statistics(vectors).features(np.zeros(shape))


def test_weights_are_those_of_a_logistic_regression(vectors):
    rng = np.random.default_rng(5)
    scores, similarities = sigmoid(rng.normal(0, 2, 20_000)), rng.uniform(-1, 1, 20_000)
    is_right = rng.uniform(size=20_000) < sigmoid(0.6 * logit(scores) + 4 * similarities - 2)
    found = fit_weights(fit_statistics(vectors), scores, similarities, is_right)
    odds = is_right.sum() / (~is_right).sum()
    assert (found.scale, found.weight) == pytest.approx((0.6, 4), abs=0.15)
    assert found.offset == pytest.approx(-2 - np.log(odds), abs=0.15)  # as if half of the finds were right


def test_scores_are_probabilities_where_half_of_the_finds_are_right(vectors):
    rng = np.random.default_rng(6)
    logits, similarities = rng.normal(0, 2, 20_000), rng.uniform(-1, 1, 20_000)
    is_right = rng.uniform(size=20_000) < sigmoid(logits + 3 * similarities)
    found = fit_weights(fit_statistics(vectors), sigmoid(logits), similarities, is_right)
    verified = found.rescore(sigmoid(logits), similarities)
    for low in (0.0, 0.4, 0.8):
        chosen = (verified >= low) & (verified < low + 0.2)
        assert is_right[chosen].mean() == pytest.approx(verified[chosen].mean(), abs=0.03)


def test_wrong_finds_may_be_as_many_as_they_like(vectors):
    rng = np.random.default_rng(7)
    logits, similarities = rng.normal(0, 2, 20_000), rng.uniform(-1, 1, 20_000)
    is_right = rng.uniform(size=20_000) < sigmoid(logits + 3 * similarities)
    few = is_right | (rng.uniform(size=20_000) < 0.2)  # a fifth of the wrong ones
    plain = fit_statistics(vectors)
    every = fit_weights(plain, sigmoid(logits), similarities, is_right)
    fewer = fit_weights(plain, sigmoid(logits[few]), similarities[few], is_right[few])
    assert (fewer.scale, fewer.weight, fewer.offset) == pytest.approx(
        (every.scale, every.weight, every.offset), abs=0.1
    )


def test_weights_of_finds_that_can_be_told_apart_are_finite(vectors):
    scores, similarities = np.array([0.9, 0.95, 0.1, 0.05]), np.array([1, 0.9, -0.9, -1])
    found = fit_weights(fit_statistics(vectors), scores, similarities, similarities > 0)
    assert (found.rescore(scores, similarities) > 0.5).tolist() == [True, True, False, False]


@pytest.mark.parametrize("is_right", [[True, True], [False, False], []])
def test_weights_need_right_and_wrong_finds(vectors, is_right):
    with pytest.raises(ValueError, match="are right, expected both right and wrong ones"):
        fit_weights(fit_statistics(vectors), [0.5] * len(is_right), [0.5] * len(is_right), is_right)


@pytest.mark.parametrize("weight", [3.0, -3.0])
def test_what_cannot_reach_the_minimum(vectors, weight):
    verification = dataclasses.replace(fit_statistics(vectors), weight=weight, offset=-1.0)
    scores = np.linspace(0.01, 0.99, 99)
    best = np.max([verification.rescore(scores, np.full(99, one)) for one in np.linspace(-1, 1, 21)], axis=0)
    np.testing.assert_array_equal(verification.can_reach(scores, 0.6), best >= 0.6)


def test_checksums_differ_by_every_number(vectors):
    one = fit_statistics(vectors)
    others = [dataclasses.replace(one, weight=1.0), fit_statistics(vectors[1:]), fit_statistics(vectors, views=2)]
    assert one.checksum() == fit_statistics(vectors).checksum()
    assert len({each.checksum() for each in (one, *others)}) == 4


def test_channels_that_are_silent_for_all_references_do_not_outweigh_the_others():
    rng = np.random.default_rng(0)
    vectors = rng.uniform(0, 2, (30, 5, 8))
    vectors[:, :, 3] = 0
    found = fit_statistics(vectors)
    assert found.deviation[:, 3] == pytest.approx(0.1 * vectors[:, :4].std(axis=0).mean(axis=1), rel=1e-5)
    query, find = vectors[0], vectors[0].copy()
    find[:, 3] = 0.01
    assert found.similarity(query, find[None])[0] > 0.95
