"""References of a search: image files, folders, patterns, boxes, saved embeddings, and categories of a data set."""

import dataclasses
import difflib
import glob
import hashlib
import os
import re
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..config import Config
from ..data.annotations import load_annotations
from ..data.dataset import IndexedCocoDataset
from ..data.embeddings import ReferenceEmbedding
from ..data.layouts import choose_images, image_folders
from ..data.molding import mold_reference, reference_from_box
from ..data.reading import ReadingRules
from ..data.references import NoReferenceError, choose_references, cut_reference
from ..io.errors import InputError
from ..io.files import StrPath
from .names import number_repeated
from .results import Category
from .sources import ImageReading, find_images, image_reader

if TYPE_CHECKING:
    from ..base_predictor import BasePredictor

EMBEDDING_SUFFIX = ".npz"
_EDGES = 4  # of a box
_SHOWN = 400  # characters of names in a message
_BOX = re.compile(r"(?P<path>.+):(?P<box>-?[0-9.]+(?:,-?[0-9.]+)*)")
_FORMS = "FILE, FILE:y1,x1,y2,x2 with whole pixels and no spaces, a folder, a pattern or FILE.npz, perhaps after NAME="


@dataclasses.dataclass(frozen=True, eq=False)
class Query:
    """The references of one category.

    Attributes:
        name: of the category.
        crops: uint8 [T, T, RGB] each, T = TARGET_MAX_DIM.
        sources: what all were read from, as the user named it.
        saved: embeddings that were read from files.
    """

    name: str
    crops: Sequence[np.ndarray] = ()
    sources: Sequence[str] = ()
    saved: Sequence[ReferenceEmbedding] = ()

    @property
    def threshold(self) -> float | None:
        """The threshold that a saved embedding brings; None without one."""
        return next((one.threshold for one in self.saved if one.threshold is not None), None)

    def checksums(self) -> list[str]:
        """SHA-256 of the pixels of each crop and the numbers of each embedding: what the search depends on."""
        arrays = [*self.crops, *(values for one in self.saved for values in (one.vectors, one.verified))]
        return [hashlib.sha256(np.ascontiguousarray(one).tobytes()).hexdigest() for one in arrays]

    def encode(self, predictor: "BasePredictor") -> ReferenceEmbedding:
        """The embedding of all references."""
        encoded = [predictor.encode_references(self.crops)] if self.crops else []
        return ReferenceEmbedding.join([*self.saved, *encoded])


@dataclasses.dataclass(frozen=True)
class _Reference:
    """A reference as the user names it, taken apart."""

    text: str  # without the name
    paths: list[Path]
    name: str | None = None  # of the category, where it is given
    box: list[float] | None = None

    @property
    def default_name(self) -> str:
        """That of the folder, or of the first file."""
        folder = Path(self.text)
        return folder.resolve().name if os.path.isdir(folder) else self.paths[0].stem


def read_queries(
    groups: Iterable[Sequence[str]],
    config: Config,
    read: ImageReading | None = None,
    *,
    weights_sha256: str | None = None,
) -> list[Query]:
    """Read the references of several categories, each a group; groups with the same given name are one category.

    A reference is one of these, after "NAME=" to name the category:

    - an image file that is the crop, or "FILE:y1,x1,y2,x2" to cut a box in pixels from an image
    - a folder or a pattern, for all images in it; the category of a folder has its name
    - a file written by `ReferenceEmbedding.save`, for the weights with the checksum `weights_sha256`

    Without a name the category is called after its first file. `read` reads an image; None takes `image_reader`.

    Raises:
        ValueError: no reference, a file that is no image, a box that is empty or outside its image, two names in a
            group, or an embedding of other weights.
    """
    parsed = [[_parse(text) for text in group] for group in groups]
    if not parsed or not all(parsed):
        raise InputError("references: expected at least one, got none")
    read = read or image_reader(path for group in parsed for one in group for path in one.paths)
    queries: list[Query] = []
    places: dict[str, int] = {}  # of named categories
    for group in parsed:
        names = list(dict.fromkeys(one.name for one in group if one.name is not None))
        if len(names) > 1:
            raise InputError(f"references of one category have the names {', '.join(names)}: repeat --reference")
        query = _read_group(group, names, config, read, weights_sha256)
        if names and names[0] in places:
            place = places[names[0]]
            queries[place] = _joined(queries[place], query)
            continue
        places |= {name: len(queries) for name in names}
        queries.append(query)
    return queries


def read_query(sources: Sequence[str], config: Config, read: ImageReading | None = None) -> Query:
    """Read the references of one category; sources and errors as in `read_queries`."""
    return read_queries([sources], config, read)[0]


def read_set_queries(
    annotations: StrPath,
    config: Config,
    *,
    images: StrPath | None = None,
    categories: Iterable[str] | None = None,
    shots: int = 5,
    orientation: str = "auto",
) -> list[Query]:
    """References of the categories of a data set: `shots` instances of each, drawn reproducibly, fewer if it has fewer.

    Args:
        annotations: annotation file in COCO format.
        images: folder of its images; None looks where annotation tools put them.
        categories: names; None takes all that have an instance.

    Raises:
        ValueError: the files cannot be read, or an unknown category or one without instances is asked for.
    """
    dataset = _load_set(Path(annotations), images, orientation)
    known = dict(zip(dataset.class_names[1:], range(1, dataset.num_classes), strict=True))
    wanted = list(known) if categories is None else list(dict.fromkeys(categories))
    queries = []
    for name in wanted:
        if name not in known:
            near = "".join(f"; did you mean {close}?" for close in difflib.get_close_matches(name, known, 1))
            raise InputError(f"{annotations}: no category {name!r}{near} Categories: {_shortened(known)}")
        try:
            chosen = choose_references(dataset, known[name], shots, config)
        except NoReferenceError as error:
            if categories is not None:
                raise InputError(f"{annotations}: {error}") from error
            continue
        crops = [cut_reference(dataset, config, *one) for one in chosen]
        files = [f"{annotations}#{name} in {Path(dataset.image_info[image]['path']).name}" for image, _ in chosen]
        queries.append(Query(name, crops, files))
    if not queries:
        raise InputError(f"{annotations}: no instance that could be a reference")
    return queries


def reference_paths(groups: Iterable[Sequence[str]]) -> list[Path]:
    """The image files that references name."""
    paths = (path for group in groups for text in group for path in _parse(text).paths)
    return [path for path in paths if path.suffix.lower() != EMBEDDING_SUFFIX]


def categories_of(queries: Sequence[Query], default: float, chosen: float | None = None) -> list[Category]:
    """The categories of queries, with unique names.

    The threshold of each is `chosen`, or else that of its saved embedding, or else `default`.
    """
    names = number_repeated(re.sub(r"[\x00-\x1f]", "_", query.name).strip() or "_" for query in queries)
    categories = []
    for number, (query, name) in enumerate(zip(queries, names, strict=True), start=1):
        own = default if query.threshold is None else query.threshold
        threshold = own if chosen is None else chosen
        categories.append(Category(number, name, threshold, tuple(query.crops), tuple(query.sources)))
    return categories


def _parse(text: str) -> _Reference:
    """Take a reference apart; a path that exists is taken as it is, whatever characters are in it."""
    if not os.path.exists(text) and (boxed := _BOX.fullmatch(text)) and os.path.isfile(boxed["path"]):
        return _Reference(text, [Path(boxed["path"])], box=_box_of(text, boxed["box"]))
    if os.path.isfile(text):
        return _Reference(text, [Path(text)])
    name, equals, rest = text.partition("=")
    if equals and name and rest and not os.path.exists(text):
        return dataclasses.replace(_parse(rest), name=name)
    before, colon, _ = text.rpartition(":")
    if colon and os.path.isfile(before):
        raise InputError(f"reference {text}: expected {_FORMS}")
    if not os.path.exists(text) and not glob.has_magic(text):
        raise InputError(f"reference {text}: no such file; expected {_FORMS}")
    try:
        return _Reference(text, find_images([text]))
    except ValueError as error:
        raise InputError(f"reference {error}") from error


def _box_of(text: str, box: str) -> list[float]:
    try:
        edges = [float(number) for number in box.split(",")]
    except ValueError as error:
        raise InputError(f"reference {text}: expected {_FORMS}") from error
    if len(edges) != _EDGES:
        numbers = "1 number" if len(edges) == 1 else f"{len(edges)} numbers"
        raise InputError(f"reference {text}: a box of {numbers}, expected the 4 of y1,x1,y2,x2 in pixels")
    return edges


def _read_group(
    group: Sequence[_Reference], names: Sequence[str], config: Config, read: ImageReading, sha256: str | None
) -> Query:
    crops, saved = [], []
    for one in group:
        for path in one.paths:
            if path.suffix.lower() == EMBEDDING_SUFFIX:
                saved.append(_load_embedding(path, config, sha256))
            else:
                crops.append(_read_crop(one, path, config, read))
    kept_name = next((one.name for one in saved if one.name), None)
    name = names[0] if names else kept_name or group[0].default_name
    return Query(name, crops, [one.text for one in group], saved)


def _load_embedding(path: Path, config: Config, sha256: str | None) -> ReferenceEmbedding:
    embedding = ReferenceEmbedding.load(path)
    embedding.require_weights(sha256, path)
    levels, channels = len(config.BACKBONE_STRIDES), config.FPN_FEATUREMAPS
    if embedding.vectors.shape[1:] != (levels, channels):
        expected, shape = f"[references, {levels}, {channels}]", embedding.vectors.shape
        raise InputError(f"{path}: expected an embedding {expected} for these weights, got shape {shape}")
    return embedding


def _read_crop(reference: _Reference, path: Path, config: Config, read: ImageReading) -> np.ndarray:
    image = read(path)
    try:
        if reference.box is None:
            return mold_reference(image, config)
        return reference_from_box(image, reference.box, config)
    except ValueError as error:
        raise InputError(f"reference {reference.text}: {error}") from error


def _load_set(path: Path, images: StrPath | None, orientation: str) -> IndexedCocoDataset:
    rules = ReadingRules(orientation=orientation)
    if images is None:
        content, _ = load_annotations(path, rules)
        images = choose_images(path, image_folders(path), content)
    dataset = IndexedCocoDataset()
    dataset.load_coco("", "", annotations=path, images=images, rules=rules)
    dataset.prepare()
    dataset.build_indices()
    return dataset


def _shortened(names: Iterable[str]) -> str:
    return textwrap.shorten(", ".join(names), _SHOWN, placeholder=" ...")


def _joined(one: Query, other: Query) -> Query:
    return Query(one.name, [*one.crops, *other.crops], [*one.sources, *other.sources], [*one.saved, *other.saved])
