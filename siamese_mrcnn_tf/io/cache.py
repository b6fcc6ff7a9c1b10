"""The per-user folder of downloaded files."""

import os
import sys
from pathlib import Path

VARIABLE = "SIAMESE_MRCNN_CACHE"  # environment variable that names another folder
_NAME = "siamese-mrcnn"


def cache_folder() -> Path:
    """The folder of downloads; it need not exist yet.

    It is SIAMESE_MRCNN_CACHE where that is set, or else `siamese-mrcnn` in the place where the system keeps caches:
    XDG_CACHE_HOME or ~/.cache on Linux, ~/Library/Caches on macOS, LOCALAPPDATA on Windows.
    """
    if chosen := os.environ.get(VARIABLE):
        return Path(chosen).expanduser().absolute()
    return _system_caches() / _NAME


def _system_caches() -> Path:
    if sys.platform == "win32":
        return _folder_in("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    return _folder_in("XDG_CACHE_HOME") or Path.home() / ".cache"


def _folder_in(variable: str) -> Path | None:
    """The folder that an environment variable names; None for a relative one, which the XDG rules say to ignore."""
    folder = Path(os.environ.get(variable, ""))
    return folder if folder.is_absolute() else None
