"""The Shapes data set on disk: seeded scenes in COCO's layout."""

import contextlib
import itertools
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from ..io.errors import InputError
from ..io.files import read_json, remove_temporaries, writable_folder, write_json
from ..io.locks import exclusive
from ..io.processes import WorkerProcesses
from ..ops.boxes import extract_bboxes
from .outlines import CATEGORIES, category_id, category_names
from .scenes import MAX_SIZE, MIN_SIZE, SceneJob, make_scene, write_image, write_scene

logger = logging.getLogger(__name__)

SHAPES = "shapes"  # name of the standard data set on the command line
FOLDER = Path("datasets") / SHAPES  # under the current folder
GENERATOR_VERSION = "1"  # changes whenever a seed gives other scenes
STANDARD: dict[str, Any] = {"train": 8000, "val": 500, "categories": 80, "size": 128, "seed": 0}  # `ensure_standard`
SPLITS = ("train", "val")
SEGMENTATIONS = ("rle", "polygons")
YEAR = 2017  # in the names of COCO's files

_DESCRIPTION = "Shapes"  # in annotation files, to recognize them
_MINIMUM = {"train": 1, "val": 1, "size": MIN_SIZE, "seed": 0, "workers": 1}
_MAXIMUM = {"train": 1_000_000, "val": 1_000_000, "size": MAX_SIZE, "workers": 1024}
_MINIMUM_VARIED = MIN_SIZE * 4 // 3  # of a long side whose short side is 3/4 of it or more
_LONG = 300  # minimum number of scenes for a progress bar
_CHUNK = 16  # scenes passed to a worker at once
_IDS_PER_SCENE = 100  # more than a scene has objects, so that ids are unique over both splits

Box = tuple[int, int, int, int]  # (y1, x1, y2, x2)
Made = tuple[tuple[int, int], list[dict[str, Any]]]  # (height, width), annotations: as of `write_scene`


# ---- data sets ---------------------------------------------------------------------------------------------------
def find_dataset(name: str) -> str | Path:
    """The folder of a data set: for "shapes" the standard one, made if it is missing; otherwise `name` itself."""
    return ensure_standard(FOLDER) if name == SHAPES else name


def ensure_standard(folder: str | Path) -> Path:
    """Make the standard data set (`STANDARD`: square scenes, masks as RLE) if it is missing or incomplete.

    Returns `folder`, which holds the COCO tree.

    Raises:
        ValueError: the folder holds a set of another version, with other parameters, or another data set.
    """
    folder = Path(folder)
    expected = _info(**STANDARD, square=True, segmentation="rle")
    if not _is_whole(folder, expected):
        with exclusive(writable_folder(folder), wait=True):
            if not _is_whole(folder, expected):  # as another process has left it
                scenes = f"{STANDARD['train']} training and {STANDARD['val']} validation scenes"
                logger.info("making the Shapes data set in %s: %s of %d pixels", folder, scenes, STANDARD["size"])
                write_coco(folder, **STANDARD, workers=_usable_cores())
    return folder


def _is_whole(folder: Path, expected: dict[str, Any]) -> bool:
    """Whether both annotation files are there; ValueError for one of another data set."""
    present = [path for path in _annotation_paths(folder) if path.exists()]
    for path in present:
        found = _read_info(path)
        for key, value in expected.items():
            if found.get(key) != value:
                raise InputError(
                    f"{path}: info.{key} = {found.get(key)!r}, expected {value!r} as in the standard Shapes data set; "
                    "remove the folder to make it again, or choose another folder"
                )
    return len(present) == len(SPLITS)


def write_coco(
    folder: str | Path,
    *,
    train: int,
    val: int,
    size: int,
    seed: int,
    categories: int = len(CATEGORIES),
    square: bool = True,
    segmentation: str = "rle",
    workers: int = 1,
    progress: bool = True,
) -> dict[str, int]:
    """Write scenes as a data set in COCO's layout.

    `annotations/instances_train2017.json`, `train2017/000000000001.jpg`, and the same for val. Annotation files are
    written last: a tree without one of them is incomplete. A scene depends only on `seed`, its split, its index, `size`
    and `square`.

    Args:
        folder: of the tree; made if it is missing. A Shapes data set in it is replaced.
        train, val: number of scenes, at least 1.
        size: long side in pixels.
        seed: of all draws, 0 or more.
        categories: number of categories, 2 to 1,000; the first 20 are the named ones.
        square: False draws the short side between 3/4 and all of the long one.
        segmentation: "rle" is exact; "polygons" follows the borders of the pixels, and masks with holes stay RLE.
        workers: number of processes that draw; 1 draws in this one. More need `if __name__ == "__main__":` in scripts.
        progress: show a bar on stderr for many scenes.

    Returns:
        dict: split to number of annotations.

    Raises:
        ValueError: an argument out of its range, another data set in `folder`, or another process that writes there.
    """
    _check_arguments(train=train, val=val, size=size, seed=seed, square=square, workers=workers)
    category_names(categories)  # refuse a number out of range before anything is removed
    if segmentation not in SEGMENTATIONS:
        raise InputError(f"segmentation = {segmentation!r}: expected {' or '.join(SEGMENTATIONS)}")
    settings = {"size": size, "seed": seed, "square": square, "segmentation": segmentation}
    folder = writable_folder(folder)
    with exclusive(folder):
        _remove_annotations(folder)
        for part in ("annotations", *(f"{split}{YEAR}" for split in SPLITS)):
            remove_temporaries(folder / part)
        return _write_coco(folder, {"train": train, "val": val}, categories, settings, workers, progress)


def _write_coco(
    folder: Path, counts: dict[str, int], categories: int, settings: dict[str, Any], workers: int, progress: bool
) -> dict[str, int]:
    """`write_coco`, with the number of scenes of each split, and the `info` of the annotation files but for numbers."""
    size, seed, train, val = settings["size"], settings["seed"], counts["train"], counts["val"]
    polygons = settings["segmentation"] == "polygons"
    min_side = size if settings["square"] else size * 3 // 4
    jobs, records = list[SceneJob](), dict[str, list[dict[str, Any]]]()
    for split, first_id, count in (("train", 1, train), ("val", 1 + train, val)):
        records[split] = [{"id": i, "file_name": f"{i:012d}.jpg"} for i in range(first_id, first_id + count)]
        for index, record in enumerate(records[split]):
            path, key = folder / f"{split}{YEAR}" / record["file_name"], (seed, SPLITS.index(split), index)
            jobs.append(SceneJob(path, key, min_side, size, polygons, categories))
    made = iter(_run(jobs, workers, progress))
    info = _info(train=train, val=val, categories=categories, **settings)
    contents = {split: _content(info, images, made) for split, images in records.items()}
    for path, content in zip(_annotation_paths(folder), contents.values(), strict=True):
        write_json(path, content)
    return {split: len(content["annotations"]) for split, content in contents.items()}


def write_demo(folder: str | Path, *, size: int, seed: int) -> dict[str, Box | None]:
    """Write `scene.png` and `reference_<category>.png` for each category in it.

    Args:
        folder: made if it is missing.
        size, seed: side of the scene in pixels, and its seed, 0 or more.

    Returns:
        dict: file name to box (y1, x1, y2, x2) in pixels of the scene; None for the scene itself.
    """
    _check_arguments(size=size, seed=seed)
    scene = make_scene(np.random.default_rng(seed), size, size)
    written: dict[str, Box | None] = {"scene.png": None}
    write_image(Path(folder) / "scene.png", scene[0])
    for name, (crop, box) in reference_crops(*scene).items():
        write_image(Path(folder) / f"reference_{name}.png", crop)
        written[f"reference_{name}.png"] = box
    return written


def write_example(folder: str | Path, names: Sequence[str], *, scenes: int, size: int, seed: int) -> None:
    """Write `scenes/scene_01.png`, ..., and a reference `references/NAME.png` for each category, from other scenes.

    Two of three scenes show categories of the references and others, the third one only others.

    Args:
        folder: made if it is missing.
        names: categories of the references, some of CATEGORIES.
        scenes: number of scenes.
        size, seed: long side of the scenes in pixels, and their seed, 0 or more.
    """
    _check_arguments(size=size, seed=seed, square=False)
    rng = np.random.default_rng(seed)
    for name in names:
        image, masks, ids = make_scene(rng, size, size, categories=[name])
        write_image(Path(folder) / "references" / f"{name}.png", reference_crops(image, masks, ids)[name][0])
    for earlier in (Path(folder) / "scenes").glob("scene_*.png"):  # of an example with more scenes
        earlier.unlink()
    others = [name for name in CATEGORIES if name not in names]
    for number in range(1, scenes + 1):
        shown = others if number % 3 == 0 else [*names, *rng.permutation(others)[: len(names)].tolist()]
        image, _, _ = make_scene(rng, int(rng.integers(size * 3 // 4, size + 1)), size, categories=shown)
        write_image(Path(folder) / "scenes" / f"scene_{number:02d}.png", image)


def make_example(name: str, *, size: int = 480, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Draw a scene with objects of a category and others, and a reference of it from another scene.

    Args:
        name: one of `outlines.CATEGORIES`.
        size, seed: side of the scene in pixels, and the seed of both, 0 or more.

    Returns:
        scene: uint8 [size, size, RGB].
        reference: uint8 [h, w, RGB].
    """
    _check_arguments(size=size, seed=seed)
    rng = np.random.default_rng(seed)
    reference = reference_crops(*make_scene(rng, size, size, categories=[name]))[name][0]
    others = rng.choice([other for other in CATEGORIES if other != name], 2, replace=False)
    while True:
        scene, _, class_ids = make_scene(rng, size, size, categories=[name, *others.tolist()])
        if category_id(name) in class_ids:
            return scene, reference


def reference_crops(image: np.ndarray, masks: np.ndarray, class_ids: np.ndarray) -> dict[str, tuple[np.ndarray, Box]]:
    """Crops of the largest object of each category in a scene that `make_scene` returned.

    Returns:
        dict: category name to (crop uint8 [h, w, RGB], box (y1, x1, y2, x2) in pixels).
    """
    boxes, areas, crops = extract_bboxes(masks), masks.sum(axis=(0, 1)), {}
    for index in np.argsort(areas):  # the largest is stored last
        y1, x1, y2, x2 = map(int, boxes[index])
        crops[CATEGORIES[class_ids[index] - 1]] = image[y1:y2, x1:x2], (y1, x1, y2, x2)
    return crops


# ---- drawing in processes ----------------------------------------------------------------------------------------
def _run(jobs: list[SceneJob], workers: int, progress: bool) -> list[Made]:
    """The results of `write_scene`, in order."""
    with contextlib.ExitStack() as stack:
        if workers == 1 or not _can_spawn():
            made: Iterator[Made] = map(write_scene, jobs)
        else:
            pool = stack.enter_context(WorkerProcesses(_write_scenes, min(workers, len(jobs))))
            chunks = (jobs[start : start + _CHUNK] for start in range(0, len(jobs), _CHUNK))
            made = itertools.chain.from_iterable(pool.map(chunks))
        quiet = not progress or len(jobs) < _LONG
        return list(tqdm(made, desc="scenes", total=len(jobs), unit="scene", disable=quiet))


def _write_scenes(jobs: Sequence[SceneJob]) -> list[Made]:
    """In a worker process: the results of `write_scene`."""
    cv2.setNumThreads(1)
    return list(map(write_scene, jobs))


def _can_spawn() -> bool:
    """Whether fresh processes can import the running program, which they cannot if it was read from stdin."""
    main_module = sys.modules["__main__"]
    path = getattr(main_module, "__file__", None)
    return path is None or main_module.__spec__ is not None or Path(path).exists()


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# ---- annotation files --------------------------------------------------------------------------------------------
def _annotation_paths(folder: Path) -> list[Path]:
    return [folder / "annotations" / f"instances_{split}{YEAR}.json" for split in SPLITS]


def _content(info: dict[str, Any], images: list[dict[str, Any]], made: Iterator[Made]) -> dict[str, Any]:
    """A split's annotation file: of its images, from `made`, the results of `write_scene` for this and later splits."""
    annotations: list[dict[str, Any]] = []
    for image in images:
        (image["height"], image["width"]), found = next(made)
        image["license"] = 1
        annotations.extend({"image_id": image["id"], **annotation} for annotation in found)
    names = category_names(info["categories"])
    for number, annotation in enumerate(annotations, start=images[0]["id"] * _IDS_PER_SCENE):
        annotation["id"] = number
    return {
        "info": info,
        "licenses": [{"id": 1, "name": "MIT", "url": "https://opensource.org/license/mit"}],
        "images": images,
        "annotations": annotations,
        "categories": [{"id": i, "name": name, "supercategory": "shape"} for i, name in enumerate(names, 1)],
    }


def _info(**parameters: Any) -> dict[str, Any]:
    return {"description": _DESCRIPTION, "version": GENERATOR_VERSION, "year": YEAR, **parameters}


def _read_info(path: Path) -> dict[str, Any]:
    """The "info" of an annotation file, empty if it has none."""
    content = read_json(path)
    info = content.get("info") if isinstance(content, dict) else None
    return info if isinstance(info, dict) else {}


def _remove_annotations(folder: Path) -> None:
    """Remove the annotation files of an earlier Shapes data set; ValueError if one is of another data set."""
    paths = [path for path in _annotation_paths(folder) if path.exists()]
    for path in paths:
        description = _read_info(path).get("description")
        if not str(description).startswith(_DESCRIPTION):
            raise InputError(f"{path}: info.description = {description!r}, not a {_DESCRIPTION} data set; not replaced")
    for path in paths:
        path.unlink()


# ---- arguments ---------------------------------------------------------------------------------------------------
def _check_arguments(*, square: bool = True, **values: int) -> None:
    for name, value in values.items():
        minimum = _MINIMUM_VARIED if name == "size" and not square else _MINIMUM[name]
        if value < minimum:
            raise InputError(f"{name} = {value}: expected {minimum} or more")
        if value > _MAXIMUM.get(name, value):
            raise InputError(f"{name} = {value}: expected at most {_MAXIMUM[name]}")
