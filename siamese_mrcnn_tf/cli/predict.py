"""Detect and segment the objects in images that look like a reference."""

import argparse
import dataclasses
import functools
import glob
import itertools
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import Config
from ..data.reading import ORIENTATIONS
from ..io.files import IMAGE_SUFFIXES, is_companion
from .inputs import choose_config, open_predictor
from .options import Commands, add_command, add_model_arguments, add_runtime_argument

if TYPE_CHECKING:
    import numpy as np

    from ..base_predictor import BasePredictor

_BOX = re.compile(r"(?P<path>.+):(?P<box>-?[\d.]+(?:,-?[\d.]+)*)")
_ORIENTATION_HELP = (
    "orientation tag of photographs, of images and references: obey (also auto) shows them upright, ignore reads them "
    "as stored (default obey)"
)
_REFERENCE_HELP = (
    "a crop, or a box in pixels cut from an image; several are one category (K-shot); repeat the option for more "
    "categories"
)


def add_parser(commands: Commands) -> None:
    parser = add_command(commands, "predict", run, __doc__)
    add = parser.add_argument
    add("--image", required=True, nargs="+", action="extend", metavar="FILE|DIR|GLOB", help="images to search")
    box = "FILE[:y1,x1,y2,x2]"
    add("--reference", required=True, nargs="+", action="append", metavar=box, help=_REFERENCE_HELP)
    add("--orientation", choices=ORIENTATIONS, default="obey", help=_ORIENTATION_HELP)
    add("--out", default="predictions", metavar="DIR", help="folder of results (default predictions)")
    add_model_arguments(parser)
    add_runtime_argument(parser)


def run(options: argparse.Namespace) -> None:
    from ..io.files import writable_folder

    writable_folder(options.out)
    paths = find_images(options.image)
    config, weights = choose_config(options)
    read = image_reader(paths, itertools.chain.from_iterable(options.reference), options.orientation)
    references = [read_references(sources, config, read) for sources in options.reference]
    predictor = open_predictor(options, config, weights)
    results = predict_files(predictor, paths, references, options.out, read=read)
    counts = f"images: {len(paths)}, categories: {len(references)}, detections: {len(results)}"
    print(f"{counts}. Results are in {options.out}")


@dataclasses.dataclass(frozen=True)
class ReferenceSet:
    """References of one category (K-shot); its `name` is that of the file of the first.

    `crops` are uint8 [T, T, RGB], T = TARGET_MAX_DIM.
    """

    name: str
    crops: "list[np.ndarray]"


ImageReading = Callable[[Path], "np.ndarray"]  # path to uint8 [height, width, RGB]


def image_reader(paths: Iterable[Path], references: Iterable[str] = (), orientation: str = "obey") -> ImageReading:
    """A function that reads images and references by one rule.

    Those above 8 bits are scaled to 8 by the range of all of them together.
    """
    from ..io.images import read_image
    from ..io.intensity import find_ranges

    ranges = find_ranges([*paths, *map(_source_path, references)])
    return functools.partial(read_image, rule=orientation, ranges=ranges)


def find_images(sources: Iterable[str | Path]) -> list[Path]:
    """Image files named by files, folders (all images directly in them) and glob patterns, each once, in order.

    In folders and patterns hidden files and those of operating systems are passed over (`io.files.is_companion`).

    Raises:
        ValueError: a source that names no image.
    """
    found = {}
    for source in sources:
        path, problem = Path(source), "no such file, folder or match"
        if path.is_file():
            paths = [path]
        elif path.is_dir():
            problem = f"no image ({', '.join(IMAGE_SUFFIXES)}) in this folder"
            found_there = (item for item in path.iterdir() if item.suffix.lower() in IMAGE_SUFFIXES)
            paths = sorted(item for item in found_there if not is_companion(item) and item.is_file())
        else:
            matches = map(Path, glob.glob(str(source), recursive=True))
            paths = sorted(match for match in matches if match.is_file() and not is_companion(match))
        if not paths:
            raise ValueError(f"{source}: {problem}")
        found.update({path.resolve(): path for path in paths})
    return list(found.values())


def read_references(sources: Sequence[str], config: Config, read: ImageReading | None = None) -> ReferenceSet:
    """Read the references of one category.

    A source is an image file that is the crop, or "FILE:y1,x1,y2,x2" to cut a box in pixels from an image. `read` reads
    a file; None takes `image_reader` of these references.

    Raises:
        ValueError: no source; a file that is not an image; a box that is empty or outside its image.
    """
    if not sources:
        raise ValueError("references: expected at least one, got none")
    read = read or image_reader([], sources)
    return ReferenceSet(_source_path(sources[0]).stem, [_read_reference(source, config, read) for source in sources])


def predict_files(
    predictor: "BasePredictor",
    paths: Sequence[Path],
    references: Sequence[ReferenceSet],
    out: str | Path,
    *,
    read: ImageReading | None = None,
    progress: bool = True,
) -> list[dict[str, Any]]:
    """Detect in image files, write the detections and return them as COCO results; `progress` shows a progress bar.

    `read` reads an image file; None takes `image_reader` of these images.

    Each image is encoded once for all references, each reference once for all images. Written below `out` are
    `results.json` (COCO results), `images.json` (the images and categories of the results, in COCO's format),
    `overlays/{image}.{category}.png`, and `masks/{image}.{category}.{number}.png` (0 and 255, best score first). An
    image that cannot be read does not stop the others; the error comes after them. If no image can be read, nothing is
    written.

    Raises:
        ValueError: `out` is not a folder, or images cannot be read.
    """
    from tqdm import tqdm

    from ..evaluation.coco_scores import results_of
    from ..io.files import writable_folder, write_json
    from ..visualize import draw_overlay

    read = read or image_reader(paths)
    out = writable_folder(out)
    embeddings = [predictor.encode_references(one.crops) for one in references]
    categories, names = _unique(one.name for one in references), _unique(path.stem for path in paths)
    images, results, unreadable = [], [], []
    for image_id, path in enumerate(tqdm(paths, desc="predict", unit="image", disable=not progress), start=1):
        try:
            image = read(path)
        except ValueError as error:
            unreadable.append(str(error))
            continue
        images.append({"id": image_id, "file_name": str(path), "height": image.shape[0], "width": image.shape[1]})
        scene = predictor.encode_scenes([image])
        for category_id, (category, embedding) in enumerate(zip(categories, embeddings, strict=True), start=1):
            found = predictor.detect_in(scene, [embedding])[0]
            masks = found["masks"] if predictor.config.MODEL == "mrcnn" else None
            results.extend(results_of(image_id, category_id, found["rois"], found["scores"], masks))
            name = f"{names[image_id - 1]}.{category}"
            _write_png(out / "overlays" / f"{name}.png", draw_overlay(image, found["rois"], masks, found["scores"]))
            _write_masks(out / "masks", name, found["masks"])
    if images:
        records = [{"id": category_id, "name": name} for category_id, name in enumerate(categories, start=1)]
        write_json(out / "images.json", {"images": images, "categories": records, "annotations": []}, indent=1)
        write_json(out / "results.json", results)
    if unreadable:
        unreadable += [f"the results of the other {len(images)} are in {out}"] if images else []
        raise ValueError("; ".join(unreadable))
    return results


def _source_path(source: str) -> Path:
    """The file of a reference, with or without a box."""
    boxed = _BOX.fullmatch(source)
    return Path(boxed["path"]) if boxed and not Path(source).exists() else Path(source)


def _read_reference(source: str, config: Config, read: ImageReading) -> "np.ndarray":
    from ..data.molding import mold_reference, reference_from_box

    path = _source_path(source)
    before, colon, box = source.rpartition(":")
    if colon and not path.is_file() and Path(before).is_file():
        raise ValueError(f"reference {source}: expected FILE, or FILE:y1,x1,y2,x2 with whole pixels and no spaces")
    image = read(path)
    try:
        if path == Path(source):
            return mold_reference(image, config)
        return reference_from_box(image, [float(number) for number in box.split(",")], config)
    except ValueError as error:
        raise ValueError(f"reference {source}: {error}") from error


def _unique(names: Iterable[str]) -> list[str]:
    """The names without dots, which separate the parts of file names; repeated ones get a number."""
    unique: list[str] = []
    for name in (name.replace(".", "_") for name in names):
        numbered = (f"{name}-{number}" for number in itertools.count(2))
        unique.append(next(one for one in itertools.chain([name], numbered) if one not in unique))
    return unique


def _write_masks(folder: Path, name: str, masks: "np.ndarray") -> None:
    """Write masks [height, width, n] as {name}.001.png, ...; those of an earlier run are removed."""
    for earlier in folder.glob(f"{glob.escape(name)}.[0-9][0-9][0-9].png"):
        earlier.unlink()
    for number in range(masks.shape[-1]):
        _write_png(folder / f"{name}.{number + 1:03d}.png", masks[:, :, number].astype("uint8") * 255)


def _write_png(path: Path, pixels: "np.ndarray") -> None:
    from PIL import Image

    from ..io.files import atomic_path

    with atomic_path(path) as temporary:
        Image.fromarray(pixels).save(temporary, format="PNG")
