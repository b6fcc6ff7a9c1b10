"""HDF5 files of unknown origin: nothing outside the file is read, and sizes are known before values are.

HDF5 can point to other files (external links, raw storage, virtual datasets), and a file of a few KB can declare
datasets of many GB.
"""

import contextlib
import io
import math
import pathlib
from collections.abc import Iterator
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from ..io.errors import InputError
from ..io.files import require_regular

# What h5py raises on damaged files, depending on the place; a wrong size can ask for more memory than there is.
DAMAGE = (OSError, RuntimeError, LookupError, TypeError, ValueError, OverflowError, MemoryError, RecursionError)
Content = pathlib.Path | io.BytesIO

_MAX_OBJECTS = 200_000  # of a file; the original's large network has 1,100
_MAX_CHUNK = 2**24  # bytes of a chunk that is larger than its dataset
_LINKS = {h5py.h5l.TYPE_SOFT: "a soft link", h5py.h5l.TYPE_EXTERNAL: "a link to another file"}


class WeightFileError(InputError):
    """A file that cannot be read as weights; the message names it and says what it is."""


@contextlib.contextmanager
def opened(path: pathlib.Path, content: Content | None = None) -> Iterator[h5py.File]:
    """Context that yields an HDF5 file which holds all its data itself.

    Args:
        path: for messages.
        content: the file; None: at `path`.

    Raises:
        ValueError: no regular file; links, data in other files or virtual data; or the file is damaged, also where it
            is read in the body of the context.
    """
    if content is None:
        require_regular(path, "a weight file")
    try:
        with h5py.File(path if content is None else content, "r") as h5:
            _require_own_data(h5, path)
            yield h5
    except InputError:
        raise
    except DAMAGE as error:
        raise WeightFileError(f"{path}: a damaged or truncated HDF5 file ({error}); fetch or copy it again") from error


def is_numeric(item: Any) -> bool:
    """Whether an object of a file is a dataset of plain numbers."""
    return isinstance(item, h5py.Dataset) and item.dtype.kind in "fiu" and item.shape is not None


def declared_bytes(dataset: h5py.Dataset) -> int:
    """Bytes that the values of a dataset take in memory."""
    return math.prod(dataset.shape) * int(dataset.dtype.itemsize)


def read_array(dataset: h5py.Dataset) -> npt.NDArray[np.float32]:
    """The values of a dataset; too large ones for float32 become infinite. Its shape is to be checked before."""
    with np.errstate(over="ignore"):
        return np.asarray(dataset[()], np.float32)


def require_attributes(attributes: h5py.AttributeManager, path: pathlib.Path, size: int) -> None:
    """Refuse attributes that declare more than the whole file holds, which is of `size` bytes."""
    for name in attributes:
        found = attributes.get_id(name)
        if math.prod(found.shape or (0,)) * found.dtype.itemsize > max(size, 2**16):
            raise WeightFileError(f"{path}: the attribute {name} declares more than the file holds ({found.shape})")


def _require_own_data(h5: h5py.File, path: pathlib.Path) -> None:
    found: list[str] = []
    count = 0

    def check_link(name: bytes, info: Any) -> bool | None:
        nonlocal count
        count += 1
        if info.type != h5py.h5l.TYPE_HARD:
            found.append(f"{_text(name)} is {_LINKS.get(info.type, 'a link of an unknown kind')}")
        return True if found or count > _MAX_OBJECTS else None

    def check_item(name: bytes) -> bool | None:
        dataset = h5py.h5o.open(h5.id, name)  # in half the time of an h5py.Dataset
        if not isinstance(dataset, h5py.h5d.DatasetID):
            return None
        created = dataset.get_create_plist()
        layout, is_external = created.get_layout(), created.get_external_count() > 0
        if is_external or layout == h5py.h5d.VIRTUAL:
            found.append(f"{_text(name)} takes its data from other {'files' if is_external else 'datasets'}")
        elif layout == h5py.h5d.CHUNKED:
            chunk, size = created.get_chunk(), dataset.dtype.itemsize
            if math.prod(chunk) * size > max(_MAX_CHUNK, math.prod(dataset.shape) * size):
                found.append(f"{_text(name)} has chunks of {chunk}, larger than itself")
        return True if found else None

    h5.id.links.visit(check_link, info=True)  # before any object is opened
    if count > _MAX_OBJECTS:
        raise WeightFileError(f"{path}: more than {_MAX_OBJECTS} objects, no file of weights")
    if not found:
        h5py.h5o.visit(h5.id, check_item)
    if found:
        raise WeightFileError(f"{path}: {found[0]}, which is refused: expected a file that holds its own data")


def _text(name: bytes | str) -> str:
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else name
