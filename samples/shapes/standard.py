"""The data set that `--dataset shapes` names in the commands of this repository."""

from pathlib import Path

SHAPES = "shapes"
FOLDER = Path("datasets") / SHAPES  # under the current folder


def find_dataset(name):
    """The folder of a data set: for "shapes" the standard one, made now where it is missing; else what was named.

    Raises:
        ValueError: the standard folder holds something else.
    """
    if name != SHAPES:
        return name
    from shapes import ensure_standard  # here, for the help texts of commands

    return ensure_standard(FOLDER)
