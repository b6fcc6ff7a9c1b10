"""Similarity of a find to the references of its query, from their embeddings, in numpy.

The embedding of a crop has a vector for each pyramid level. Embeddings are standardized by the statistics of many
references, and compared by one cosine over the chosen levels: crop against crop, where the network's own score compares
a crop with places of a scene.
"""

import dataclasses
import hashlib

import numpy as np
import numpy.typing as npt

LEVELS = (0, 1, 2, 3)  # P2..P5 among P2..P6, the levels that the heads read
VIEWS = (1, 2, 8)
_MIN_DEVIATION, _MIN_SHARE = 1e-6, 0.1  # the second of the mean deviation of a level
_MIN_NORM = 1e-12
_MIN_ODDS = 1e-7  # scores nearer to 0 or 1 than this count as this far away
_EIGEN_FLOOR = 1e-10
_NEWTON_STEPS = 100  # at most; it converges in about ten
_CONVERGED = 1e-8


@dataclasses.dataclass(frozen=True, eq=False)
class Verification:
    """How finds are compared with the references of their query, and what the comparison is worth.

    Attributes:
        mean, deviation: float32 [levels, channels] of the embeddings of references, for the chosen levels.
        levels: their indices into P2..P6.
        projection: float32 [levels * channels, dimensions], applied to standardized embeddings; None: not projected.
        scale, weight, offset: of the score's logit, the similarity, and 1 in the logit of the verified score.
        views: number of views of a reference whose embeddings are averaged, see `views_of`; of a find there are two
            at most, since a query has more finds than references.

    Raises:
        ValueError: names the attribute whose shape or value is wrong.
    """

    mean: np.ndarray
    deviation: np.ndarray
    levels: tuple[int, ...] = LEVELS
    projection: np.ndarray | None = None
    scale: float = 1.0
    weight: float = 0.0
    offset: float = 0.0
    views: int = 1

    def __post_init__(self) -> None:
        if self.views not in VIEWS:
            raise ValueError(f"views = {self.views}: expected one of {', '.join(map(str, VIEWS))}")
        shape = np.shape(self.mean)
        if len(shape) != 2 or shape[0] != len(self.levels) or not all(shape):
            raise ValueError(f"mean: expected numbers [{len(self.levels)} levels, channels], got shape {shape}")
        if np.shape(self.deviation) != shape:
            raise ValueError(f"deviation: expected the shape of mean {shape}, got {np.shape(self.deviation)}")
        if len(set(self.levels)) != len(self.levels) or min(self.levels) < 0:
            raise ValueError(f"levels = {self.levels}: expected different indices into P2..P6")
        if self.projection is not None and (
            np.ndim(self.projection) != 2 or len(self.projection) != shape[0] * shape[1]
        ):
            expected, got = f"[{shape[0] * shape[1]}, dimensions]", np.shape(self.projection)
            raise ValueError(f"projection: expected numbers {expected}, got shape {got}")
        for name in ("mean", "deviation", "projection", "scale", "weight", "offset"):
            value = getattr(self, name)
            if value is not None and not np.isfinite(value).all():
                raise ValueError(f"{name}: expected finite numbers")
        if not (np.asarray(self.deviation) > 0).all():
            raise ValueError("deviation: expected numbers above 0")

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
        if vectors.ndim != 3 or vectors.shape[1] <= max(self.levels) or vectors.shape[2] != channels:
            expected = f"[n, {max(self.levels) + 1} levels or more, {channels}]"
            raise ValueError(f"embeddings: expected {expected} for this verification, got {vectors.shape}")
        chosen = (vectors[:, list(self.levels)] - self.mean) / self.deviation
        flat = chosen.reshape(len(chosen), self.mean.size)
        return np.asarray(flat if self.projection is None else flat @ self.projection)

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
        numbers = [self.scale, self.weight, self.offset, *([self.views] if self.views > 1 else [])]
        parts = [self.levels, self.mean, self.deviation, self.projection, numbers]
        content = b"|".join(b"" if part is None else np.asarray(part, np.float32).tobytes() for part in parts)
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
def fit_statistics(vectors: npt.ArrayLike, levels: tuple[int, ...] = LEVELS, *, views: int = 1) -> Verification:
    """A Verification with the mean and deviation of references [n, P2..P6, channels], and without a weight.

    `views` are those that the embeddings are averages of.
    """
    chosen = np.asarray(vectors, np.float64)[:, list(levels)]
    deviation = chosen.std(axis=0)
    # a channel that is silent for all these references must not outweigh the others where it is not
    deviation = np.maximum(deviation, np.maximum(_MIN_SHARE * deviation.mean(axis=1, keepdims=True), _MIN_DEVIATION))
    return Verification(
        chosen.mean(axis=0).astype(np.float32), deviation.astype(np.float32), tuple(levels), views=views
    )


def fit_projection(
    verification: Verification, vectors: npt.ArrayLike, labels: npt.ArrayLike, *, dims: int, shrinkage: float = 0.1
) -> Verification:
    """`verification` with a linear projection that separates categories (linear discriminant analysis).

    The within-category covariance is shrunk towards a multiple of the identity and whitened; the projection keeps the
    directions in which the means of the categories differ most.

    Args:
        verification: with statistics; its projection is replaced.
        vectors: [n, P2..P6, channels] of references.
        labels: [n] their categories.
        dims: maximum number of directions; there are no more than categories - 1.
        shrinkage: share of the identity, 0..1.

    Raises:
        ValueError: fewer than two categories, or none with two references.
    """
    plain = dataclasses.replace(verification, projection=None)
    features, labels = plain.features(vectors).astype(np.float64), np.asarray(labels)
    names, places = np.unique(labels, return_inverse=True)
    if len(names) < 2 or len(names) == len(labels):
        raise ValueError(f"labels: expected two categories or more with several references, got {len(names)}")
    means = np.stack([features[places == index].mean(axis=0) for index in range(len(names))])
    residuals = features - means[places]
    within = residuals.T @ residuals / (len(labels) - len(names))
    size = len(within)
    within = (1 - shrinkage) * within + shrinkage * np.trace(within) / size * np.eye(size)
    values, axes = np.linalg.eigh(within)
    whitening = axes / np.sqrt(np.maximum(values, _EIGEN_FLOOR * values[-1]))
    spread = (means - means.mean(axis=0)) @ whitening
    _, _, directions = np.linalg.svd(spread, full_matrices=False)
    kept = directions[: min(dims, len(names) - 1)]
    return dataclasses.replace(plain, projection=(whitening @ kept.T).astype(np.float32))


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
        verification: its statistics and projection stay.
        scores, similarities: [n] of finds.
        is_right: bool [n], whether they are objects of their query's category.
        ridge: penalty of the squared coefficients.

    Raises:
        ValueError: no find is right, or all are.
    """
    right = np.asarray(is_right, bool)
    if right.all() or not right.any():
        raise ValueError(f"finds: {right.sum()} of {right.size} are right, expected both right and wrong ones")
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
