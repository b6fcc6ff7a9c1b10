"""Means over runs and category splits, with 95% confidence intervals."""

from collections.abc import Sequence

import numpy as np

from ..io.errors import InputError

Z_95 = 1.96  # standard errors to either side that hold 95% of a normal distribution

MeanAndInterval = tuple[float | None, float | None]

INTERVALS_COVER = (
    "Intervals cover the draws of references alone, not the choice of images: with few images or objects they are "
    "narrow, even 0, and other images can still give other metrics."
)


def mean_and_ci(values: Sequence[float | None], *, signed: bool = False) -> MeanAndInterval:
    """Mean over runs, and half the width of its 95% confidence interval: 1.96 * std / sqrt(runs), std with ddof 0.

    Args:
        values: [runs]; None, NaN or negative (COCOeval's -1) without ground truth.
        signed: negative values are values, such as those of a correlation.

    Returns:
        (mean, interval); (mean, None) of a single run, (None, None) if a run has no value.
    """
    array = np.array([np.nan if value is None else value for value in values], float)
    if not array.size or np.isnan(array).any() or (not signed and (array < 0).any()):
        return None, None
    interval = float(Z_95 * array.std() / np.sqrt(array.size)) if array.size > 1 else None
    return float(array.mean()), interval


def mean_over_splits(values: Sequence[Sequence[float | None]], *, signed: bool = False) -> MeanAndInterval:
    """Mean and interval over category splits: `mean_and_ci` of the means over the splits of each run.

    Args:
        values: [splits][runs].
        signed: as of `mean_and_ci`.

    Raises:
        ValueError: the splits differ in their number of runs.
    """
    if len({len(runs) for runs in values}) > 1:
        raise InputError(f"the splits differ in their number of runs: {[len(runs) for runs in values]}")
    means = [mean_and_ci(run, signed=signed)[0] for run in zip(*values, strict=True)]
    return mean_and_ci(means, signed=signed)


def mean_text(mean: float, interval: float | None, *, digits: tuple[int, int] = (1, 2), sign: str = "±") -> str:
    """Such as "12.3 ± 0.45", without an interval "12.3"."""
    text = f"{mean:.{digits[0]}f}"
    return text if interval is None else f"{text} {sign} {interval:.{digits[1]}f}"
