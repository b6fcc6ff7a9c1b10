"""The rules by which a data set is read where its files leave something open."""

import dataclasses

from ..io.errors import InputError

ORIENTATIONS = ("auto", "obey", "ignore")
BOX_ONLY = ("rectangle", "neutral")
CROWDS = ("neutral", "instances")


@dataclasses.dataclass(frozen=True)
class ReadingRules:
    """How images and annotations are read.

    Attributes:
        orientation: EXIF orientation of images. "auto": the annotated size decides; where stored and turned image both
            have it, the tag is obeyed. "obey" and "ignore" decide for all images.
        box_only: an object with a box but no mask has the box as mask ("rectangle"), or is "neutral" like a crowd.
        crowds: annotations with `iscrowd: 1` are "neutral" (neither object nor background, as in COCO), or "instances".

    Raises:
        ValueError: names the attribute and the value.
    """

    orientation: str = "auto"
    box_only: str = "rectangle"
    crowds: str = "neutral"

    def __post_init__(self) -> None:
        for name, choices in (("orientation", ORIENTATIONS), ("box_only", BOX_ONLY), ("crowds", CROWDS)):
            if getattr(self, name) not in choices:
                raise InputError(f"{name} = {getattr(self, name)!r}: expected one of {', '.join(choices)}")
