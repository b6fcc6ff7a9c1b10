"""Detection in picture files: many pictures, many queries, written as overlays, masks and COCO JSON.

A query is one category, given by one reference or several (K-shot). Each picture is encoded once for all queries, each
query once for all pictures.
"""

import dataclasses
import glob
import re
from pathlib import Path

from .options import add_model_arguments, choose_config, open_predictor

_BOX = re.compile(r"(?P<path>.+):(?P<box>-?[\d.]+(?:,-?[\d.]+)*)")
_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


_REFERENCE_HELP = (
    "a crop, or a box in pixels cut from a picture; several make one K-shot query; repeat the option for more "
    "categories"
)


def add_parser(commands):
    text = "Find and segment what looks like a reference in pictures."
    parser = commands.add_parser("predict", help=text, description=text)
    parser.set_defaults(command=run)
    parser.add_argument(
        "--image", required=True, nargs="+", action="extend", metavar="FILE|DIR|GLOB", help="pictures to search"
    )
    parser.add_argument(
        "--reference",
        required=True,
        nargs="+",
        action="append",
        metavar="FILE[:y1,x1,y2,x2]",
        help=_REFERENCE_HELP,
    )
    parser.add_argument("--out", default="predictions", metavar="DIR", help="where results go (default predictions)")
    add_model_arguments(parser)


def run(options):
    from ..io.files import writable_folder

    writable_folder(options.out)
    paths = find_pictures(options.image)
    config, path = choose_config(options)
    queries = [read_query(sources, config) for sources in options.reference]
    predictor = open_predictor(config, path)
    results = predict_files(predictor, paths, queries, options.out)
    print(
        f"{len(results)} detections in {len(paths)} pictures for {len(queries)} queries. Results are in {options.out}"
    )


@dataclasses.dataclass(frozen=True)
class Query:
    """References of one category.

    Attributes:
        name: of the category, from the file of its first reference.
        crops: list of uint8 [T, T, RGB].
    """

    name: str
    crops: list


def find_pictures(sources):
    """Picture files named by files, folders (all pictures directly in them) and glob patterns, each once, in order.

    Raises:
        ValueError: a source that names no picture.
    """
    found = {}
    for source in sources:
        path = Path(source)
        if path.is_file():
            paths = [path]
        elif path.is_dir():
            paths = sorted(item for item in path.iterdir() if item.suffix.lower() in _SUFFIXES)
        else:
            paths = sorted(Path(name) for name in glob.glob(str(source), recursive=True) if Path(name).is_file())
        if not paths:
            kind = (
                f"no picture ({', '.join(_SUFFIXES)}) in this folder"
                if path.is_dir()
                else "no such file, folder or match"
            )
            raise ValueError(f"{source}: {kind}")
        found.update({path.resolve(): path for path in paths})
    return list(found.values())


def read_query(sources, config):
    """A query from reference files.

    Args:
        sources: each a picture file that is the crop, or "FILE:y1,x1,y2,x2" to cut a box in pixels from a picture.
        config: the Config of the model.

    Returns:
        Query.

    Raises:
        ValueError: no source; a file that is no picture; a box that is empty or outside its picture.
    """
    if not sources:
        raise ValueError("references: expected at least one, got none")
    return Query(_source_path(sources[0]).stem, [_read_reference(source, config) for source in sources])


def predict_files(predictor, paths, queries, out, *, progress=True):
    """Search pictures for queries and write what was found.

    Writes below `out`: `results.json` (COCO results), `images.json` (the images and categories that the results speak
    of, in COCO layout), `overlays/{picture}.{query}.png`, and `masks/{picture}.{query}.{number}.png` (0 and 255, best
    score first).

    Args:
        predictor: SiamesePredictor.
        paths: picture files.
        queries: list of Query.
        out: folder.
        progress: show a progress bar.

    Returns:
        list of COCO results.

    Raises:
        ValueError: `out` is no folder, or a picture cannot be read; nothing was written then.
    """
    from tqdm import tqdm

    from ..evaluation.coco_scores import results_of
    from ..io.files import writable_folder, write_json
    from ..io.images import read_image
    from ..visualize import draw_overlay

    out = writable_folder(out)
    sizes = [read_image(path).shape[:2] for path in paths]  # the broken one is found before anything is written
    embeddings = [predictor.encode_references(query.crops) for query in queries]
    query_names = _unique([query.name for query in queries])
    picture_names = _unique([path.stem for path in paths])
    results = []
    for image_id, path in enumerate(tqdm(paths, desc="predict", unit="image", disable=not progress), start=1):
        image = read_image(path)
        scene = predictor.encode_scenes([image])
        for category_id, embedding in enumerate(embeddings, start=1):
            found = predictor.detect_in(scene, [embedding])[0]
            masks = found["masks"] if predictor.config.MODEL == "mrcnn" else None
            results.extend(results_of(image_id, category_id, found["rois"], found["scores"], masks))
            name = f"{picture_names[image_id - 1]}.{query_names[category_id - 1]}"
            overlay = draw_overlay(image, found["rois"], masks, found["scores"])
            _write_png(out / "overlays" / f"{name}.png", overlay)
            _write_masks(out / "masks", name, found["masks"])
    images = [
        {"id": image_id, "file_name": str(path), "height": height, "width": width}
        for image_id, (path, (height, width)) in enumerate(zip(paths, sizes, strict=True), start=1)
    ]
    categories = [{"id": category_id, "name": name} for category_id, name in enumerate(query_names, start=1)]
    write_json(out / "images.json", {"images": images, "categories": categories, "annotations": []}, indent=1)
    write_json(out / "results.json", results)
    return results


def _source_path(source):
    boxed = _BOX.fullmatch(str(source))
    return Path(boxed["path"]) if boxed and not Path(source).exists() else Path(source)


def _read_reference(source, config):
    from ..data.molding import mold_reference, reference_from_box
    from ..io.images import read_image

    path = _source_path(source)
    before, colon, _ = str(source).rpartition(":")
    if colon and not path.is_file() and Path(before).is_file():
        raise ValueError(f"reference {source}: expected FILE, or FILE:y1,x1,y2,x2 with whole pixels and no spaces")
    image = read_image(path)
    try:
        if path == Path(source):
            return mold_reference(image, config)
        box = [float(number) for number in _BOX.fullmatch(str(source))["box"].split(",")]
        return reference_from_box(image, box, config)
    except ValueError as error:
        raise ValueError(f"reference {source}: {error}") from error


def _unique(names):
    """The names without dots, which part them in file names; repeated ones with a number that makes them differ."""
    unique = []
    for name in (name.replace(".", "_") for name in names):
        number = 2
        candidate = name
        while candidate in unique:
            candidate = f"{name}-{number}"
            number += 1
        unique.append(candidate)
    return unique


def _write_masks(folder, name, masks):
    """Masks [height, width, n] as {name}.001.png, ...; those of an earlier run are removed."""
    import numpy as np

    for earlier in folder.glob(f"{glob.escape(name)}.[0-9][0-9][0-9].png"):
        earlier.unlink()
    for number, mask in enumerate(np.moveaxis(masks, -1, 0), start=1):
        _write_png(folder / f"{name}.{number:03d}.png", mask.astype("uint8") * 255)


def _write_png(path, pixels):
    from PIL import Image

    from ..io.files import atomic_path

    with atomic_path(path) as temporary:
        Image.fromarray(pixels).save(temporary, format="PNG")
