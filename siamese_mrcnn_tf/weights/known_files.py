"""Published weight files: what each is, its names, where it comes from and what its weights must look like.

No file is opened here, nothing is downloaded.
"""

import dataclasses
import difflib
from typing import Any

from .identify import WeightsInfo

GITHUB = "https://github.com"
BUNDLED = "siamese_mrcnn_shapes_s1.h5"  # comes with the package; also called "shapes"
OF_RUNS = ("last", "best")  # checkpoints of training runs
_ORIGINAL = "bethgelab/siamese-mask-rcnn"
_FULL = "the large model trained on all 80 classes, the one for use, for config large"
_SPLIT = "the large model of category split {}, for replication, for config large"
_RESNET = "resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5"  # what Keras calls both of its files
_NAMES_SUGGESTED = 3
_BUNDLED_WHAT = "the bundled weights, for drawn shapes"


@dataclasses.dataclass(frozen=True)
class KnownFile:
    """A published weight file.

    Attributes:
        what: it is, in words.
        kind: `WeightsInfo.kind` of its weights.
        config: `WeightsInfo.config` of its weights.
        backbone: BACKBONE of its weights.
        page: where it is found by hand, without https://; empty for none.
        repository: owner/name of the GitHub repository whose releases are asked for an asset of this name.
        tag: the release that probably has it, if the releases cannot be asked.
        url: its address, where that is known.
        digest: "md5:..." of the file at `url`; None if unknown.
        alias: its short name.
        megabytes: approximate size of the file in millions of bytes; 0 where it is not known.
        substitute: name of the known file that is used if this one is missing.
    """

    what: str
    kind: str = "backbone"
    config: str | None = None
    backbone: str = "resnet50"
    page: str = ""
    repository: str = ""
    tag: str = ""
    url: str = ""
    digest: str | None = None
    alias: str = ""
    megabytes: int = 0
    substitute: str | None = None

    def release_url(self, name: str) -> str:
        """The address of the file `name` among the assets of the release `tag`; empty without a tag."""
        return f"{GITHUB}/{self.repository}/releases/download/{self.tag}/{name}" if self.tag else ""

    @property
    def can_be_downloaded(self) -> bool:
        """Whether there is an address, or a listing to find one in."""
        return bool(self.url or self.repository)

    @property
    def source(self) -> str:
        """Where the file is found by hand, in words."""
        return self.url or f"the assets of https://{self.page}"

    def misfit(self, info: WeightsInfo) -> str | None:
        """How weights differ from those of this file, in words; None if they do not."""
        if (info.kind, info.config, info.settings.get("BACKBONE")) == (self.kind, self.config, self.backbone):
            return None
        config = f", {self.config} configuration" if self.config else ""
        return f"{info.text}; expected {self.kind} weights{config}, {self.backbone}"


def _original(what: str, **about: Any) -> KnownFile:
    page = f"github.com/{_ORIGINAL}/releases"
    return KnownFile(what, page=page, **{"repository": _ORIGINAL, **about})


def _siamese(what: str, config: str, tag: str, alias: str) -> KnownFile:
    megabytes = {"large": 212, "small": 170}[config]
    return _original(what, kind="siamese", config=config, tag=tag, alias=alias, megabytes=megabytes)


KNOWN_FILES = {
    "large_siamese_mrcnn_coco_full_0320.h5": _siamese(_FULL, "large", "v0.2", "large"),
    **{
        f"large_siamese_mrcnn_coco_i{n}_0160.h5": _siamese(_SPLIT.format(n), "large", "v0.2", f"large-i{n}")
        for n in range(1, 5)
    },
    "small_siamese_mrcnn_0160.h5": _siamese("the small model, for config small", "small", "v0.1", "small"),
    "imagenet_687.h5": _original("the backbone trained on 687 ImageNet classes, none of them in COCO", tag="v0.1"),
    "imagenet_771.h5": _original("the backbone trained on 771 ImageNet classes"),
    "imagenet_1k.h5": _original("the backbone trained on ImageNet-1k", repository="", substitute=_RESNET),
    "mask_rcnn_coco.h5": KnownFile(
        "Matterport's Mask R-CNN trained on COCO (ResNet-101)",
        kind="matterport",
        backbone="resnet101",
        page="github.com/matterport/Mask_RCNN/releases",
        url="https://github.com/matterport/Mask_RCNN/releases/download/v2.0/mask_rcnn_coco.h5",
    ),
    _RESNET: KnownFile(
        "the ImageNet-1k ResNet-50 of Keras 2.1 and older, without its top",
        page="github.com/fchollet/deep-learning-models/releases",
        url=f"https://github.com/fchollet/deep-learning-models/releases/download/v0.2/{_RESNET}",
        digest="md5:a268eb855778b3df3c7506639542a6af",
    ),
    "keras_resnet50.h5": KnownFile(
        f"the ImageNet-1k ResNet-50 of today's Keras, without its top (there {_RESNET}, too)",
        page="keras.io/api/applications",
        url=f"https://storage.googleapis.com/tensorflow/keras-applications/resnet/{_RESNET}",
        digest="md5:4d473c1dd8becc155b73f8504c6f6626",
        alias="resnet50",
    ),
}
_ALIASES = {entry.alias: name for name, entry in KNOWN_FILES.items() if entry.alias}


def known_name(name: str) -> str | None:
    """The known file that a name without folders stands for: its own, with or without .h5, or its alias.

    Case, and dashes for underscores, do not count.
    """
    if (named := _ALIASES.get(name.lower().replace("_", "-"))) is not None:
        return named
    return found if (found := f"{stem_of(name)}.h5") in KNOWN_FILES else None


def is_bundled(name: str) -> bool:
    """Whether a name without folders is that of the weights that come with the package."""
    return stem_of(name) in ("shapes", stem_of(BUNDLED))


def stem_of(name: str) -> str:
    """A name in lower case, with underscores, without .h5."""
    return name.lower().replace("-", "_").removesuffix(".h5")


def known_names() -> str:
    """Everything that can be named, in one line."""
    return ", ".join([*OF_RUNS, "shapes", *_ALIASES, *(name.removesuffix(".h5") for name in KNOWN_FILES)])


def suggestions(name: str) -> str:
    """End of the sentence on an unknown name: names with this prefix or similar ones, and what they are, or all."""
    files = {known.removesuffix(".h5"): entry.what for known, entry in KNOWN_FILES.items()}
    aliases = {alias: KNOWN_FILES[known].what for alias, known in _ALIASES.items()}
    known = {stem_of(one): f"{one} ({what})" for one, what in ({"shapes": _BUNDLED_WHAT} | aliases | files).items()}
    found = [stem for stem in known if stem.startswith(stem_of(name))]
    found = (found or difflib.get_close_matches(stem_of(name), known, _NAMES_SUGGESTED))[:_NAMES_SUGGESTED]
    if not found:
        return f". Known names: {known_names()}"
    return f"; did you mean {' or '.join(known[stem] for stem in found)}? siamese-mrcnn weights lists all names"
