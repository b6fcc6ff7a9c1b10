"""Optional packages."""

import importlib
from typing import Any

from .errors import InputError


def require(module: str, extra: str, purpose: str = "") -> Any:
    """An optional package, imported.

    Args:
        module: its name.
        extra: the extra of this package that installs it.
        purpose: what it brings, for the message.

    Raises:
        ValueError: it is not installed, or cannot be imported; names the extra.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        brings = f", which {purpose}" if purpose else ""
        install = f'pip install "siamese-mrcnn-tf[{extra}]"'
        raise InputError(f"{module} is not installed{brings}: {install} ({error})") from error
