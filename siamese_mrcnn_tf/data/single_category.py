"""Training sets whose images show one category each: a model can learn from them to ignore the reference."""

from ..config import Config
from .dataset import IndexedCocoDataset

_SHARE = 0.9  # of the images with objects, from which on the note is given
_RATIO = 0.35  # docs/training.md


def one_category_note(dataset: IndexedCocoDataset, config: Config) -> str:
    """A note on training images that show one category alone, with the setting for it; empty where it is not needed.

    It needs two train categories or more: with one, no other can be absent. Where ABSENT_REFERENCE_RATIO is above 0,
    the model is trained for absent categories already.
    """
    active = set(dataset.ACTIVE_CLASSES)
    shown = [set(classes) for classes in dataset.image_category_index if not active.isdisjoint(classes)]
    single = sum(len(classes) == 1 for classes in shown)
    categories = active.intersection(set[int]().union(*shown))
    if config.ABSENT_REFERENCE_RATIO or len(categories) < 2 or single < _SHARE * len(shown):
        return ""
    settings = f"ABSENT_REFERENCE_RATIO={_RATIO}" + ("" if config.FILL_NEGATIVE_ROIS else " FILL_NEGATIVE_ROIS=true")
    return (
        f"{single} of {len(shown)} training images with objects show one category alone, and ABSENT_REFERENCE_RATIO is "
        f"0: the model can learn to ignore the reference. train --set {settings} also trains with references of "
        "categories that are not in the image; evaluate --absent all measures what is found for such references"
    )
