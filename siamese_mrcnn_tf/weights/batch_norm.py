"""Batch normalization of keras-applications, whose epsilon differs, as weights of this network.

At inference a normalization computes gamma * (x - mean) / sqrt(variance + epsilon) + beta. The ResNets of today's Keras
have epsilon 1.001e-5, this network has 1e-3. A moving variance changed by the difference gives the same function.
Where it would become negative, gamma is changed in its place, by the ratio of the two roots.
"""

from collections.abc import Mapping

import numpy as np

from .legacy_h5 import WeightFile

KERAS_EPSILON = 1.001e-5  # of keras.applications' ResNets since layers are called conv1_bn
EPSILON = 1e-3  # of this network, as of the ResNet-50 of Keras 2.1 and older
_VARIANCE = "/moving_variance"


def has_other_epsilon(file: WeightFile) -> bool:
    """Whether the normalizations of a file are those of keras-applications.

    Its names of layers tell: the older ResNet-50 of Keras, with this network's epsilon, has this network's names.
    """
    return file.style == "keras-applications"


def corrected_norms(arrays: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], int]:
    """(arrays that change, number of channels in which gamma changes) for this network's epsilon.

    Args:
        arrays: weights of keras-applications under canonical names.
    """
    changed: dict[str, np.ndarray] = {}
    num_folded = 0
    for key, array in arrays.items():
        gamma = f"{key.removesuffix(_VARIANCE)}/gamma"
        if not key.endswith(_VARIANCE) or gamma not in arrays:
            continue
        variance = array.astype(np.float64)
        moved = variance + (KERAS_EPSILON - EPSILON)
        folded = (moved < 0) & (variance >= 0)  # a negative variance of a damaged file stays as it is
        changed[key] = np.where(moved >= 0, moved, variance).astype(np.float32)
        if folded.any():
            positive = np.maximum(variance, 0)
            factor = np.where(folded, np.sqrt((positive + EPSILON) / (positive + KERAS_EPSILON)), 1)
            changed[gamma] = (arrays[gamma] * factor).astype(np.float32)
            num_folded += int(folded.sum())
    return changed, num_folded
