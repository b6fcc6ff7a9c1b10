"""Means and confidence intervals over runs and splits."""

import math

import numpy as np
import pytest

from siamese_mrcnn_tf.evaluation.intervals import mean_and_ci, mean_over_splits, mean_text


def test_means_of_runs():
    mean, interval = mean_and_ci([0.1, 0.2, 0.6])
    deviation = math.sqrt((0.2**2 + 0.1**2 + 0.3**2) / 3)
    assert (mean, interval) == (pytest.approx(0.3), pytest.approx(1.96 * deviation / math.sqrt(3)))
    assert mean_and_ci([0.5, 0.5]) == (0.5, 0.0)


def test_one_run_has_no_interval():
    assert mean_and_ci([0.25]) == (0.25, None)
    assert [mean_text(25, None), mean_text(25, 0.5), mean_text(0.25, 0, digits=(3, 3), sign="+-")] == [
        *("25.0", "25.0 ± 0.50", "0.250 +- 0.000")
    ]


@pytest.mark.parametrize("values", [[], [0.1, None], [-1.0, 0.2], [-1.0, -1.0], [float("nan")]])
def test_no_ground_truth_is_not_averaged(values):
    assert mean_and_ci(values) == (None, None)


def test_intervals_over_splits_are_of_the_means_of_runs():
    """The authors' runs of 1-shot detection of novel classes give what they report: 16.3, interval 0.06."""
    runs = [
        [15.2, 15.0, 15.0, 15.5, 15.7],
        [16.7, 17.2, 16.7, 17.0, 16.4],
        [16.7, 16.4, 17.5, 16.5, 16.4],
        [16.4, 16.7, 16.1, 16.5, 16.2],
    ]
    mean, interval = mean_over_splits(runs)
    assert mean_text(mean, interval) == "16.3 ± 0.06" and mean == pytest.approx(np.mean(runs))
    assert mean_over_splits([[0.1, 0.3], [None, 0.2]]) == (None, None)
    with pytest.raises(ValueError, match=r"differ in their number of runs: \[2, 1\]"):
        mean_over_splits([[0.1, 0.2], [0.3]])


def test_negative_values_of_signed_metrics():
    mean, interval = mean_and_ci([-0.5, 0.1], signed=True)
    assert mean == pytest.approx(-0.2) and interval == pytest.approx(1.96 * 0.3 / 2**0.5)
    assert mean_and_ci([-0.5, None], signed=True) == (None, None)
    assert mean_over_splits([[-1, 0.5], [0, 0.5]], signed=True)[0] == pytest.approx(0)
