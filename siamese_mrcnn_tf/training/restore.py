"""Reading a checkpoint of a run, weights and optimizer state, into a model: all of it, or an error that names it."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from ..io.errors import InputError
from ..weights import hdf5

if TYPE_CHECKING:
    import keras

_OPTIMIZER, _VARIABLES = "optimizer", "vars"  # names in files of Keras
_SMALL = 1024  # numbers of a dataset, such as a counter, whose shape is not compared before it is read


def load_checkpoint(model: "keras.Model", path: Path, *, optimizer: bool) -> None:
    """Load a `.weights.h5` file that `model.save_weights` wrote.

    Args:
        optimizer: the file must have the state of the model's optimizer.

    Raises:
        ValueError: the file is damaged, of another model, lacks something, or holds NaN or infinity; names it.
    """
    with hdf5.opened(path) as h5:
        _check_sizes(h5, model, path)
        if optimizer:
            _check_optimizer(h5, model.optimizer.variables, path)
    try:
        model.load_weights(path)
    except hdf5.DAMAGE as error:
        text = " ".join(str(error).split())
        raise InputError(f"{path}: does not fit the model, it is damaged or of another one ({text})") from error
    if broken := not_finite([*model.variables, *(model.optimizer.variables if optimizer else ())]):
        raise InputError(f"{path}: {len(broken)} weights hold NaN or infinity, the first is {broken[0]}")


def not_finite(variables: Iterable[Any]) -> list[str]:
    """Paths of the variables of Keras that hold NaN or infinity."""
    arrays = ((variable.path, np.asarray(variable)) for variable in variables)
    return [path for path, values in arrays if values.dtype.kind == "f" and not np.isfinite(values).all()]


def _check_sizes(h5: h5py.File, model: "keras.Model", path: Path) -> None:
    """Refuse datasets of shapes that the model does not have, before any is read."""
    optimizer = getattr(model, "optimizer", None)
    variables = [*model.variables, *(optimizer.variables if optimizer else ())]
    shapes = {tuple(variable.shape) for variable in variables}
    budget = 2 * sum(8 * math.prod(variable.shape) for variable in variables) + 2**20
    found: list[str] = []

    def visit(name: str, item: Any) -> None:
        nonlocal budget
        is_read = isinstance(item, h5py.Dataset) and (optimizer is not None or not name.startswith(f"{_OPTIMIZER}/"))
        if not is_read:
            return
        if not hdf5.is_numeric(item):
            found.append(f"{name} is no array of numbers")
        elif item.size > _SMALL and item.shape not in shapes:
            found.append(f"{name} is of shape {list(item.shape)}, which nothing in the model has")
        else:
            budget -= hdf5.declared_bytes(item)

    h5.visititems(visit)
    if found or budget < 0:
        what = found[0] if found else "it declares more numbers than the model has"
        raise InputError(f"{path}: does not fit the model, it is damaged or of another one ({what})")


def _check_optimizer(h5: h5py.File, variables: list[Any], path: Path) -> None:
    """Refuse a file without the state of an optimizer; Keras would silently begin a new one."""
    stored = h5.get(f"{_OPTIMIZER}/{_VARIABLES}")
    items = dict(stored.items()) if isinstance(stored, h5py.Group) else {}
    if not items:
        raise InputError(f"{path}: has no optimizer state, a run cannot be resumed from it; begin a run with --model")
    for index, variable in enumerate(variables):
        item = items.get(str(index))
        if item is None or item.shape != tuple(variable.shape):
            found = "missing" if item is None else f"of shape {list(item.shape)}"
            expected = f"{variable.path} {list(variable.shape)}"
            raise InputError(f"{path}: optimizer state {index} is {found}, expected {expected}")
    if len(items) != len(variables):
        raise InputError(f"{path}: {len(items)} variables of an optimizer, expected {len(variables)}")
