"""Published weight files: what each is, where it comes from, and the file that a name stands for.

A file with a known address is downloaded into the folder of checkpoints on first use; for the others the error says
where to get them. Nothing here looks at the weights themselves.
"""

import dataclasses
import difflib
import importlib.resources
import logging
import pathlib
from collections.abc import Callable

import h5py

from ..io.download import download
from ..io.files import StrPath
from .foreign import describe_missing

logger = logging.getLogger(__name__)

_RELEASES = "the assets of github.com/bethgelab/siamese-mask-rcnn/releases"
_FULL = "the large model trained on all 80 classes, the one for use, for config large"
_SPLIT = "the large model of category split {}, for replication, for config large"
_KERAS_RESNET = "resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5"
_BUNDLED = "siamese_mrcnn_shapes_s1.h5"  # comes with the package; also called "shapes"
_OF_RUNS = ("last", "best")  # checkpoints of training runs
_NAMES_SUGGESTED = 3


@dataclasses.dataclass(frozen=True)
class KnownFile:
    """A published weight file.

    Attributes:
        what: what it is, in words.
        source: where it comes from, in words.
        url: address of the file itself; empty if only the page is known.
        md5: checksum; None if unknown.
        substitute: name of the known file that is used if this one is missing.
    """

    what: str
    source: str
    url: str = ""
    md5: str | None = None
    substitute: str | None = None


KNOWN_FILES = {
    "imagenet_687.h5": KnownFile("the backbone trained on 687 ImageNet classes, none of them in COCO", _RELEASES),
    "imagenet_771.h5": KnownFile("the backbone trained on 771 ImageNet classes", _RELEASES),
    "imagenet_1k.h5": KnownFile("the backbone trained on ImageNet-1k", _RELEASES, substitute=_KERAS_RESNET),
    "small_siamese_mrcnn_0160.h5": KnownFile("the small model, for config small", _RELEASES),
    "large_siamese_mrcnn_coco_full_0320.h5": KnownFile(_FULL, _RELEASES),
    **{f"large_siamese_mrcnn_coco_i{n}_0160.h5": KnownFile(_SPLIT.format(n), _RELEASES) for n in range(1, 5)},
    "mask_rcnn_coco.h5": KnownFile(
        "Matterport's Mask R-CNN trained on COCO (ResNet-101)",
        "the assets of github.com/matterport/Mask_RCNN/releases",
        url="https://github.com/matterport/Mask_RCNN/releases/download/v2.0/mask_rcnn_coco.h5",
    ),
    _KERAS_RESNET: KnownFile(
        "the ImageNet-1k ResNet-50 of Keras, without its top",
        "the assets of github.com/fchollet/deep-learning-models/releases",
        url=f"https://github.com/fchollet/deep-learning-models/releases/download/v0.2/{_KERAS_RESNET}",
        md5="a268eb855778b3df3c7506639542a6af",
    ),
}


def find_weights(name: StrPath, checkpoints: StrPath, runs: Callable[[str], StrPath] | None = None) -> pathlib.Path:
    """The weight file that a name stands for, downloaded if necessary.

    An existing file is never downloaded again. A path into a folder other than `checkpoints` downloads nothing.

    Args:
        name: a path, a name of KNOWN_FILES (with or without .h5, dashes or underscores), "shapes" for the weights that
            come with the package, or "last", "best" or the folder of a training run.
        checkpoints: the folder where known files are looked for, and downloaded to.
        runs: callable that returns a checkpoint for "last", "best" or a folder; needed for these.

    Returns:
        Path of an existing file (for a run: what `runs` returns). If imagenet_1k.h5 is missing, that of the
        ImageNet-1k ResNet-50 of Keras, as in the original.

    Raises:
        ValueError: no such file, an unknown name, or the download is not the file (nothing of it is kept).
        ConnectionError, OSError: the file cannot be downloaded, or not written.
    """
    if str(name) in _OF_RUNS:
        if runs is None:
            raise ValueError(
                f"weights {str(name)!r}: no training run to take them from; expected a file or a known name"
            )
        return pathlib.Path(runs(str(name)))
    path = pathlib.Path(name).expanduser()
    if path.is_file():
        return path
    if len(path.parts) == 1 and _stem(path.name) in ("shapes", _stem(_BUNDLED)):
        return pathlib.Path(str(importlib.resources.files(__package__.partition(".")[0]) / "shapes" / _BUNDLED))
    if path.is_dir() and runs is not None:
        return pathlib.Path(runs(str(path)))
    if path.is_dir():
        raise ValueError(f"{path}: a folder, expected a weight file or one of: {_known_names()}")
    if what := describe_missing(path):
        raise ValueError(f"{path}: {what}")
    known = f"{_stem(path.name)}.h5"
    if known not in KNOWN_FILES:
        raise ValueError(f"weights {str(name)!r}: no such file{_suggestions(path.name)} Known names: {_known_names()}")
    checkpoints = pathlib.Path(checkpoints).expanduser()
    folder = path.parent if len(path.parts) > 1 else checkpoints
    return _find_known(known, folder, may_download=folder.resolve() == checkpoints.resolve())


def _find_known(known: str, folder: pathlib.Path, *, may_download: bool) -> pathlib.Path:
    """Path of a known file or its substitute in `folder`, downloaded if allowed and if its address is known."""
    substitute = KNOWN_FILES[known].substitute
    names = [known, substitute] if substitute else [known]
    found = next((name for name in names if (folder / name).is_file()), None)
    if found is None:
        found = next((name for name in names if KNOWN_FILES[name].url), None)
        if found is None or not may_download:
            raise ValueError(_missing(known, folder))
        _fetch(found, folder, wanted=known)
    if found != known:
        logger.info("%s is not in %s: %s is used, %s", known, folder, found, KNOWN_FILES[found].what)
    return folder / found


def _fetch(known: str, folder: pathlib.Path, *, wanted: str) -> None:
    """Download a known file into `folder`; errors say how to do without the download."""
    entry, place = KNOWN_FILES[known], folder / known
    other = f" (or {wanted} from {KNOWN_FILES[wanted].source})" if wanted != known else ""
    by_hand = f"{known} is {entry.what}: get it by other means{other} and put it into {folder}"
    logger.info("%s, %s, is downloaded from %s into %s", known, entry.what, entry.url, folder)
    try:
        download(entry.url, place, md5=entry.md5)
    except (ConnectionError, ValueError) as error:
        raise type(error)(f"{error}. {by_hand}") from error
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror}. {by_hand}") from error
    if not h5py.is_hdf5(place):  # some networks answer every request with a page of their own
        place.unlink()
        raise ValueError(f"{place}: {entry.url} did not return an HDF5 file, nothing is kept. {by_hand}")


def _missing(known: str, folder: pathlib.Path) -> str:
    """Text of the error for a known file that is missing and cannot be downloaded to `folder`."""
    entry = KNOWN_FILES[known]
    source = entry.url or entry.source
    text = f"{folder / known}: no such file. {known} is {entry.what}: get it from {source} and put it there"
    if entry.url or entry.substitute:
        fetched = "it" if entry.url else entry.substitute
        text += f"; by its name alone, {known.removesuffix('.h5')}, {fetched} is downloaded into the checkpoints folder"
    return text


def _stem(name: str) -> str:
    return name.lower().replace("-", "_").removesuffix(".h5")


def _known_names() -> str:
    return ", ".join([*_OF_RUNS, "shapes", *(name.removesuffix(".h5") for name in KNOWN_FILES)])


def _suggestions(name: str) -> str:
    """End of a sentence: known files with this prefix or a similar name, and what they are."""
    stems = [known.removesuffix(".h5") for known in KNOWN_FILES]
    found = [stem for stem in stems if stem.startswith(_stem(name))]
    found = (found or difflib.get_close_matches(_stem(name), stems, _NAMES_SUGGESTED))[:_NAMES_SUGGESTED]
    options = [f"{stem} ({KNOWN_FILES[f'{stem}.h5'].what})" for stem in found]
    return f"; did you mean {' or '.join(options)}?" if options else "."
