"""Embeddings of references, which can be saved and used again with the weights that they were computed with."""

import dataclasses
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from ..io.files import atomic_path


@dataclasses.dataclass(frozen=True)
class ReferenceEmbedding:
    """The network's representation of references, valid for the weights that it was computed with.

    Attributes:
        vectors: float32 [references, levels, channels], averages of each reference's P2..P6.
        views: of the same shape, the mean over the views of each reference that verification compares; None: `vectors`.
        num_views: how many views `views` is the mean of; None if unknown (files of older versions, or joined from
            several numbers).
    """

    vectors: np.ndarray
    views: np.ndarray | None = None
    num_views: int | None = 1

    def __post_init__(self) -> None:
        vectors = np.asarray(self.vectors)
        if vectors.ndim != 3 or not vectors.size or vectors.dtype.kind != "f" or not np.isfinite(vectors).all():
            expected, got = "finite numbers [references, levels, channels]", f"{vectors.dtype} of shape {vectors.shape}"
            raise ValueError(f"embedding: expected {expected}, got {got}")
        if self.views is not None and np.shape(self.views) != vectors.shape:
            raise ValueError(f"embedding: expected views of shape {vectors.shape}, got {np.shape(self.views)}")

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
        """One embedding of the references of several, for K-shot detection."""
        views = [one.vectors if one.views is None else one.views for one in embeddings]
        joined = None if all(one.views is None for one in embeddings) else np.concatenate(views)
        counts = {one.num_views for one in embeddings}
        return cls(
            np.concatenate([one.vectors for one in embeddings]), joined, counts.pop() if len(counts) == 1 else None
        )

    def save(self, path: str | Path) -> None:
        """Write the embedding to an .npz file, atomically."""
        content: dict[str, Any] = {"vectors": self.vectors} | ({} if self.views is None else {"views": self.views})
        content |= {} if self.num_views is None else {"num_views": self.num_views}
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, **content)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read an embedding written by `save`.

        Raises:
            ValueError: no such file, or no embedding in it.
        """
        try:
            with np.load(path, allow_pickle=False) as content:
                views = content["views"] if "views" in content else None
                return cls(content["vectors"], views, int(content["num_views"]) if "num_views" in content else None)
        except (OSError, KeyError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path}: not a saved reference embedding ({error})") from error
