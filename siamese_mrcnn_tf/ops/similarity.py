"""Similarity of a find to the references of its query, from their embeddings, in numpy.

The embedding of a crop has a vector for each pyramid level. Embeddings are standardized by the statistics of many
references, and compared by one cosine over P2 to P5: crop against crop, where the network's own score compares
a crop with places of a scene.
"""

import dataclasses
import hashlib

import numpy as np
import numpy.typing as npt

from ..io.errors import InputError

LEVELS = 4  # P2..P5 of P2..P6, the levels that the heads read
VIEWS = (1, 2, 8)
_MIN_DEVIATION, _MIN_SHARE = 1e-6, 0.1  # the second of the mean deviation of a level
_MIN_NORM = 1e-12
_MIN_ODDS = 1e-7  # scores nearer to 0 or 1 than this count as this far away
_NEWTON_STEPS = 100  # at most; it converges in about ten
_CONVERGED = 1e-8


@dataclasses.dataclass(frozen=True, eq=False)
class Verification:
    """How finds are compared with the references of their query, and what the comparison is worth.

    Attributes:
        mean, deviation: float32 [4, channels] of the embeddings of references, at P2..P5.
        scale, weight, offset: of the score's logit, the similarity, and 1 in the logit of the verified score.
        views: number of views of a reference whose embeddings are averaged, see `views_of`; of a find there are two
            at most, since a query has more finds than references.

    Raises:
        ValueError: names the attribute whose shape or value is wrong.
    """

    mean: np.ndarray
    deviation: np.ndarray
    scale: float = 1.0
    weight: float = 0.0
    offset: float = 0.0
    views: int = 1

    def __post_init__(self) -> None:
        if self.views not in VIEWS:
            raise InputError(f"views = {self.views}: expected one of {', '.join(map(str, VIEWS))}")
        shape = np.shape(self.mean)
        if len(shape) != 2 or shape[0] != LEVELS or not shape[1]:
            raise InputError(f"mean: expected numbers [{LEVELS} levels, channels], got shape {shape}")
        if np.shape(self.deviation) != shape:
            raise InputError(f"deviation: expected the shape of mean {shape}, got {np.shape(self.deviation)}")
        for name in ("mean", "deviation", "scale", "weight", "offset"):
            if not np.isfinite(getattr(self, name)).all():
                raise InputError(f"{name}: expected finite numbers")
        if not (np.asarray(self.deviation) > 0).all():
            raise InputError("deviation: expected numbers above 0")

    @property
    def find_views(self) -> int:
        """Number of views of a find."""
        return min(self.views, 2)

    def features(self, vectors: npt.ArrayLike) -> np.ndarray:
        """Embeddings [n, P2..P6, channels] as vectors [n, dimensions] whose cosines are similarities.

        Raises:
            ValueError: embeddings of another network.
        """
        vectors, (_, channels) = np.asarray(vectors), self.mean.shape
        if vectors.ndim != 3 or vectors.shape[1] < LEVELS or vectors.shape[2] != channels:
            expected = f"[n, {LEVELS} levels or more, {channels}]"
            raise InputError(f"embeddings: expected {expected} for this verification, got {vectors.shape}")
        chosen = (vectors[:, :LEVELS] - self.mean) / self.deviation
        return np.asarray(chosen.reshape(len(chosen), self.mean.size))

    def similarity(self, query: npt.ArrayLike, finds: npt.ArrayLike) -> np.ndarray:
        """Similarities [n] in -1..1 of a query [P2..P6, channels] and finds [n, P2..P6, channels].

        The query of several references is the mean of their embeddings.
        """
        cosines = _unit(self.features(finds)) @ _unit(self.features(np.asarray(query)[None]))[0]
        return np.asarray(np.clip(cosines, -1, 1))

    def rescore(self, scores: npt.ArrayLike, similarities: npt.ArrayLike) -> np.ndarray:
        """Verified scores float32 [n]: sigmoid(scale * logit(score) + weight * similarity + offset)."""
        logits = self.scale * logit(scores) + self.weight * np.asarray(similarities, np.float64) + self.offset
        return sigmoid(logits).astype(np.float32)

    def can_reach(self, scores: npt.ArrayLike, minimum: float) -> np.ndarray:
        """Whether some similarity would raise scores [n] to `minimum`: bool [n]."""
        return np.asarray(self.rescore(scores, np.full(np.shape(scores), np.sign(self.weight))) >= minimum)

    def checksum(self) -> str:
        """SHA-256 of all numbers, as float32."""
        parts = [self.mean, self.deviation, [self.scale, self.weight, self.offset, self.views]]
        content = b"|".join(np.asarray(part, np.float32).tobytes() for part in parts)
        return hashlib.sha256(content).hexdigest()


def views_of(crops: np.ndarray, views: int) -> list[np.ndarray]:
    """Views of crops [n, side, side, channels]: 1 as they are, 2 mirrored too, 8 both in quarter turns."""
    turned = [np.rot90(crops, turn, (1, 2)) for turn in range(4 if views == 8 else 1)]
    return [np.ascontiguousarray(one) for crop in turned for one in (crop, crop[:, :, ::-1])[: min(views, 2)]]


def logit(scores: npt.ArrayLike) -> np.ndarray:
    """log(score / (1 - score)) of probabilities, float64; finite at 0 and 1."""
    clipped = np.clip(np.asarray(scores, np.float64), _MIN_ODDS, 1 - _MIN_ODDS)
    return np.asarray(np.log(clipped) - np.log1p(-clipped))


def sigmoid(logits: npt.ArrayLike) -> np.ndarray:
    """1 / (1 + exp(-logit)), float64."""
    return np.asarray(0.5 * (1 + np.tanh(0.5 * np.asarray(logits, np.float64))))


# ---- fitting -----------------------------------------------------------------------------------------------------
def fit_statistics(vectors: npt.ArrayLike, *, views: int = 1) -> Verification:
    """A Verification with the mean and deviation of references [n, P2..P6, channels], and without a weight.

    `views` are those that the embeddings are averages of.
    """
    chosen = np.asarray(vectors, np.float64)[:, :LEVELS]
    deviation = chosen.std(axis=0)
    # a channel that is silent for all these references must not outweigh the others where it is not
    deviation = np.maximum(deviation, np.maximum(_MIN_SHARE * deviation.mean(axis=1, keepdims=True), _MIN_DEVIATION))
    return Verification(chosen.mean(axis=0).astype(np.float32), deviation.astype(np.float32), views=views)


def fit_weights(
    verification: Verification,
    scores: npt.ArrayLike,
    similarities: npt.ArrayLike,
    is_right: npt.ArrayLike,
    *,
    ridge: float = 1e-3,
) -> Verification:
    """`verification` with the scale, weight and offset of a logistic regression.

    Right and wrong finds count the same in all: a verified score is the probability that a find is right where both are
    equally frequent, however many searches for absent categories there were.

    Args:
        verification: its statistics stay.
        scores, similarities: [n] of finds.
        is_right: bool [n], whether they are objects of their query's category.
        ridge: penalty of the squared coefficients.

    Raises:
        ValueError: no find is right, or all are.
    """
    right = np.asarray(is_right, bool)
    if right.all() or not right.any():
        raise InputError(f"finds: {right.sum()} of {right.size} are right, expected both right and wrong ones")
    shares = np.where(right, 0.5 / right.sum(), 0.5 / (~right).sum()) * right.size
    inputs = np.stack([logit(scores), np.asarray(similarities, np.float64), np.ones(right.size)], axis=1)
    coefficients = np.zeros(3)
    for _ in range(_NEWTON_STEPS):
        probabilities = sigmoid(inputs @ coefficients)
        gradient = inputs.T @ (shares * (probabilities - right)) + ridge * coefficients
        spread = shares * probabilities * (1 - probabilities)
        curvature = (inputs * spread[:, None]).T @ inputs + ridge * np.eye(3)
        step = np.linalg.solve(curvature, gradient)
        coefficients -= step / max(1.0, np.abs(step).max())  # full steps overshoot where the first ones are long
        if np.abs(step).max() < _CONVERGED:
            break
    scale, weight, offset = coefficients.tolist()
    return dataclasses.replace(verification, scale=scale, weight=weight, offset=offset)


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors [n, dimensions] of length 1; a vector of zeros stays one."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, _MIN_NORM))
