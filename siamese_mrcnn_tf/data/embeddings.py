"""Embeddings of references, which can be saved and used again with the weights that they were computed with."""

import dataclasses
import io
import math
import tokenize
from collections.abc import Sequence
from typing import Any, Self

import numpy as np

from ..io.archives import DAMAGE, member_names, read_member
from ..io.errors import InputError
from ..io.files import StrPath, atomic_path
from ..settings import shown

_ABOUT = {"num_views": int, "name": str, "weights_sha256": str, "threshold": float}
_MEMBERS = ("vectors", "views", *_ABOUT)
_MAX_BYTES = 2**26  # of an array in a file: 13,107 references of 5 levels of 256 channels
_MAX_HEADER = 2**16  # bytes of the description of an array
_MAX_VIEWS = 10**6
_SHOWN = 12  # characters of a fingerprint in a message


@dataclasses.dataclass(frozen=True)
class ReferenceEmbedding:
    """The network's representation of references, valid for the weights that it was computed with.

    Attributes:
        vectors: float32 [references, levels, channels], averages of each reference's P2..P6.
        views: of the same shape, the mean over the views of each reference that verification compares; None: `vectors`.
        num_views: how many views `views` is the mean of; None if unknown (files of older versions, or joined from
            several numbers).
        name: of the category; None if unknown.
        weights_sha256: checksum of the weight file; None if unknown.
        threshold: minimum score of its detections; None for that of the weights.
    """

    vectors: np.ndarray
    views: np.ndarray | None = None
    num_views: int | None = 1
    name: str | None = None
    weights_sha256: str | None = None
    threshold: float | None = None

    def __post_init__(self) -> None:
        vectors = np.asarray(self.vectors)
        if vectors.ndim != 3 or not vectors.size or vectors.dtype.kind != "f" or not np.isfinite(vectors).all():
            expected, got = "finite numbers [references, levels, channels]", f"{vectors.dtype} of shape {vectors.shape}"
            raise InputError(f"embedding: expected {expected}, got {got}")
        if self.views is not None and np.shape(self.views) != vectors.shape:
            raise InputError(f"embedding: expected views of shape {vectors.shape}, got {np.shape(self.views)}")
        if self.views is not None and not (np.asarray(self.views).dtype.kind == "f" and np.isfinite(self.views).all()):
            raise InputError("embedding: views: expected finite numbers")
        if self.num_views is not None and not 1 <= self.num_views <= _MAX_VIEWS:
            raise InputError(f"embedding: num_views = {shown(self.num_views)}: expected 1 to {_MAX_VIEWS}")
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise InputError(f"embedding: threshold = {self.threshold}: expected 0 to 1")

    @property
    def mean(self) -> np.ndarray:
        """float32 [levels, channels]: the mean over the references, the query of K-shot detection."""
        return np.asarray(self.vectors.mean(axis=0))

    @property
    def verified(self) -> np.ndarray:
        """float32 [levels, channels]: the mean over the references of what verification compares."""
        return np.asarray((self.vectors if self.views is None else self.views).mean(axis=0))

    @classmethod
    def join(cls, embeddings: Sequence[Self]) -> Self:
        """One embedding of the references of several, for K-shot detection.

        Its name, checksum and threshold are those of the first that has one.
        """
        views = [one.vectors if one.views is None else one.views for one in embeddings]
        joined = None if all(one.views is None for one in embeddings) else np.concatenate(views)
        counts = {one.num_views for one in embeddings}
        about: dict[str, Any] = {
            name: next((value for one in embeddings if (value := getattr(one, name)) is not None), None)
            for name in _ABOUT.keys() - {"num_views"}
        }
        num_views = counts.pop() if len(counts) == 1 else None
        return cls(np.concatenate([one.vectors for one in embeddings]), joined, num_views, **about)

    def require_weights(self, sha256: str | None, source: StrPath) -> None:
        """Raise ValueError if the embedding is known to be of other weights than those with a checksum."""
        if self.weights_sha256 is None or self.weights_sha256 == sha256:
            return
        own, other = self.weights_sha256[:_SHOWN], sha256[:_SHOWN] if sha256 else "untrained"
        raise InputError(
            f"{source}: the embedding is of the weights with SHA-256 {own}..., but the weights in use are {other}"
            f"{'...' if sha256 else ''}: embeddings mean nothing to other weights. Encode the references again"
        )

    def save(self, path: StrPath) -> None:
        """Write the embedding to an .npz file, atomically."""
        content: dict[str, Any] = {name: getattr(self, name) for name in _MEMBERS}
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, **{name: value for name, value in content.items() if value is not None})

    @classmethod
    def load(cls, path: StrPath) -> Self:
        """Read an embedding written by `save`, also one of an older version, which has fewer things in it.

        Raises:
            ValueError: no such file, no embedding in it, or an array that is larger than an embedding can be.
        """
        try:
            names = member_names(path)
            found = {name: _read_member(path, name) for name in _MEMBERS if f"{name}.npy" in names}
            about = {name: kind(found[name].item()) for name, kind in _ABOUT.items() if name in found}
            return cls(found["vectors"], found.get("views"), **({"num_views": None} | about))
        except (*DAMAGE, TypeError, SyntaxError, tokenize.TokenError) as error:  # numpy evaluates headers as Python
            text = str(error).removeprefix(f"{path}: ")
            raise InputError(f"{path}: not a saved reference embedding ({text})") from error


def _read_member(path: StrPath, name: str) -> np.ndarray:
    """An array of a file; ValueError if it has, or its header declares, more than an embedding can have."""
    content = io.BytesIO(read_member(path, f"{name}.npy", limit=_MAX_BYTES + _MAX_HEADER))
    version = np.lib.format.read_magic(content)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(content)
    if math.prod(shape) * dtype.itemsize > _MAX_BYTES:
        raise InputError(f"{name}: {dtype} of shape {shape}, larger than {_MAX_BYTES} bytes")
    content.seek(0)
    return np.asarray(np.lib.format.read_array(content, allow_pickle=False))
