"""The weight file that a name stands for: a path, a known file, a training run, or the bundled weights.

A known file is looked for in the folder of checkpoints, then in the per-user folder of downloads, and else downloaded
there.
"""

import importlib.resources
import logging
from collections.abc import Callable
from pathlib import Path

from ..io.errors import InputError
from ..io.files import StrPath, require_regular
from .fetching import Tell, by_hand, fetch, find_fetched
from .foreign import describe_missing
from .known_files import BUNDLED, KNOWN_FILES, OF_RUNS, is_bundled, known_name, known_names, stem_of, suggestions

logger = logging.getLogger(__name__)


def find_weights(
    name: StrPath,
    checkpoints: StrPath = "checkpoints",
    runs: Callable[[str], StrPath] | None = None,
    *,
    tell: Tell = logger.info,
) -> Path:
    """The weight file that a name stands for, downloaded if necessary.

    An existing file is never downloaded again. A path into a folder other than `checkpoints` downloads nothing.

    Args:
        name: a path, a name of KNOWN_FILES (with or without .h5, dashes or underscores) or its alias such as "large",
            "shapes" for the weights that come with the package, or "last", "best" or the folder of a training run.
            A folder that is called as an alias is named with a separator, such as "./large".
        checkpoints: the folder where known files are looked for first.
        runs: callable that returns a checkpoint for "last", "best" or a folder; needed for these.
        tell: called with what happens: where a file comes from, its size and its checksum.

    Returns:
        Path of an existing file (for a run: what `runs` returns). If imagenet_1k.h5 is missing, that of the
        ImageNet-1k ResNet-50 of Keras, as in the original.

    Raises:
        ValueError: no such file, an unknown name, or the download is not the file (nothing of it is kept).
        ConnectionError: the file cannot be downloaded.
    """
    if str(name) in OF_RUNS:
        if runs is None:
            raise InputError(
                f"weights {str(name)!r}: no training run to take them from; expected a file or a known name"
            )
        return Path(runs(str(name)))
    path = Path(name).expanduser()
    require_regular(path, "a weight file")
    if path.is_file():
        return path
    is_name = str(name) == path.name
    if is_name and is_bundled(path.name):
        return bundled_weights()
    known = known_name(path.name) if is_name or not path.is_dir() else None
    if known is None and path.is_dir() and runs is not None:
        return Path(runs(str(path)))
    if known is None and path.is_dir():
        raise InputError(f"{path}: a folder, expected a weight file or one of: {known_names()}")
    if what := describe_missing(path):
        raise InputError(f"{path}: {what}")
    if known is None:
        raise InputError(f"weights {str(name)!r}: no such file{suggestions(path.name)}")
    checkpoints = Path(checkpoints).expanduser()
    folder = checkpoints if is_name else path.parent
    return _find_or_fetch(known, folder, checkpoints, tell)


def bundled_weights() -> Path:
    """The weights that come with the package."""
    return Path(str(importlib.resources.files(__package__.partition(".")[0]) / "shapes" / BUNDLED))


def find_known(known: str, checkpoints: StrPath, tell: Tell = logger.info) -> Path | None:
    """A known file in the folder of checkpoints, or else in that of downloads; None if it is in neither.

    Raises:
        ValueError: what is in one of the folders is not that file.
    """
    path = Path(checkpoints) / known
    require_regular(path, "a weight file")
    return path if path.is_file() else find_fetched(known, tell)


def _find_or_fetch(known: str, folder: Path, checkpoints: Path, tell: Tell) -> Path:
    """Path of a known file or its substitute; only where `folder` is that of checkpoints, from elsewhere, too."""
    substitute = KNOWN_FILES[known].substitute
    names = [known, substitute] if substitute else [known]
    may_download = folder.resolve() == checkpoints.resolve()
    for name in names:
        found = find_known(name, folder, tell) if may_download else folder / name
        require_regular(folder / name, "a weight file")
        if found is not None and found.is_file():
            break
    else:
        name = next((name for name in names if KNOWN_FILES[name].can_be_downloaded), known)
        if not may_download or not KNOWN_FILES[name].can_be_downloaded:
            raise InputError(_missing(known, folder, name))
        found = fetch(name, checkpoints, wanted=known, tell=tell)
    if name != known:
        tell(f"{known} is not in {folder}: {found} is used, {KNOWN_FILES[name].what}")
    return found


def _missing(known: str, folder: Path, fetched: str) -> str:
    """Text of the error for a known file that is missing in a folder to which nothing is downloaded."""
    text = f"{folder / known}: no such file. {by_hand(known, folder)}"
    if KNOWN_FILES[fetched].can_be_downloaded:
        what = "it" if fetched == known else fetched
        text += f"; by its name alone, {stem_of(known)}, {what} is downloaded"
    return text
