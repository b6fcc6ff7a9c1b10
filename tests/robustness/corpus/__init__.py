"""The corpus: families of cases, each a module with `cases()`."""

from ..case import Case, unique
from . import annotations, commands, formats, images, own_files, settings, weights

FAMILIES = {
    "images": images.cases,
    "annotations": annotations.cases,
    "formats": formats.cases,
    "weights": weights.cases,
    "settings": settings.cases,
    "commands": commands.cases,
    "own_files": own_files.cases,
}


def all_cases(words: tuple[str, ...] = ()) -> list[Case]:
    """All cases; with `words` those whose name has one of them."""
    found = unique(case for family in FAMILIES.values() for case in family())
    return [case for case in found if not words or any(word in case.name for word in words)]
