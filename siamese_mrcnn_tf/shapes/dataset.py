"""The Shapes data set: seeded scenes of 20 categories of objects, on which one-shot learning shows within minutes.

`outlines.py` has the categories, `scenes.py` the scenes; here they become data sets.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from ..io.files import read_json, write_json
from ..ops.boxes import extract_bboxes
from .outlines import CATEGORIES
from .scenes import MIN_SIZE, SceneJob, make_scene, write_picture, write_scene

SHAPES = "shapes"  # what the commands call the standard data set
FOLDER = Path("datasets") / SHAPES  # under the current folder
GENERATOR_VERSION = "1"  # another one for every change of what a seed gives
STANDARD = {"train": 8000, "val": 500, "size": 128, "seed": 0}  # of `ensure_standard`
SPLITS = ("train", "val")
SEGMENTATIONS = ("rle", "polygons")
YEAR = 2017  # in the names of COCO's files

_DESCRIPTION = "Shapes"  # in annotation files, by which they are known again
_LEAST = {"train": 1, "val": 1, "size": MIN_SIZE, "seed": 0, "workers": 1}
_LEAST_VARIED = MIN_SIZE * 4 // 3  # of a long side whose short side is 3/4 of it or more
_LONG = 300  # scenes from which on a progress bar is shown
_CHUNK = 16  # scenes given to a worker at once
_IDS_PER_SCENE = 100  # more than a scene has objects, so that no id comes twice in both splits together


# ---- data sets ---------------------------------------------------------------------------------------------------
def ensure_standard(folder):
    """The standard data set (`STANDARD`: square scenes, masks as RLE), made where it is missing or not complete.

    Args:
        folder: of the COCO tree.

    Returns:
        Path: `folder`.

    Raises:
        ValueError: what is there was made by another version or with other parameters, or is another data set.
    """
    folder = Path(folder)
    expected = _info(**STANDARD, square=True, segmentation="rle")
    present = [path for path in map(_annotation_path, [folder] * len(SPLITS), SPLITS) if path.exists()]
    for path in present:
        _check_info(path, expected)
    if len(present) < len(SPLITS):
        scenes = f"{STANDARD['train']} training and {STANDARD['val']} validation scenes of {STANDARD['size']} pixels"
        print(f"making the Shapes data set in {folder}: {scenes}", file=sys.stderr)
        write_coco(folder, **STANDARD, workers=_usable_cores())
    return folder


def write_coco(folder, *, train, val, size, seed, square=True, segmentation="rle", workers=1, progress=True):
    """Write scenes as a data set in COCO's layout.

    `annotations/instances_train2017.json`, `train2017/000000000001.jpg`, and the same for val. Annotation files come
    last: a tree that lacks one is not complete. A scene depends on `seed`, its split, its index, `size` and `square`
    alone.

    Args:
        folder: of the tree; made where it is missing. A Shapes data set in it is replaced.
        train, val: number of scenes, at least 1.
        size: long side in pixels.
        seed: of all draws, 0 or more.
        square: False draws the short side between 3/4 and all of the long one.
        segmentation: "rle" is exact; "polygons" follows the borders of the pixels, and masks with holes stay RLE.
        workers: number of processes that draw; 1 draws in this one. A script that asks for more needs the usual
            `if __name__ == "__main__":`.
        progress: show a bar on stderr when there are many scenes.

    Returns:
        dict: split to number of annotations.

    Raises:
        ValueError: an argument out of its range, or another data set in `folder`.
    """
    _check_arguments(train=train, val=val, size=size, seed=seed, square=square, workers=workers)
    if segmentation not in SEGMENTATIONS:
        raise ValueError(f"segmentation = {segmentation!r}: expected {' or '.join(SEGMENTATIONS)}")
    folder = Path(folder)
    _remove_annotations(folder)
    least_side = size if square else size * 3 // 4
    jobs, records = [], {}
    for split, first_id in (("train", 1), ("val", 1 + train)):
        count = {"train": train, "val": val}[split]
        records[split] = [{"id": i, "file_name": f"{i:012d}.jpg"} for i in range(first_id, first_id + count)]
        for index, record in enumerate(records[split]):
            path, key = folder / f"{split}{YEAR}" / record["file_name"], (seed, SPLITS.index(split), index)
            jobs.append(SceneJob(path, key, least_side, size, segmentation == "polygons"))
    made = iter(_run(jobs, workers, progress))
    info = _info(train=train, val=val, size=size, seed=seed, square=square, segmentation=segmentation)
    contents = {split: _content(info, images, made) for split, images in records.items()}
    for split, content in contents.items():
        write_json(_annotation_path(folder, split), content)
    return {split: len(content["annotations"]) for split, content in contents.items()}


def write_demo(folder, *, size, seed):
    """Write `scene.png` and `reference_<category>.png` for each category in it.

    Args:
        folder: made where it is missing.
        size: side of the scene in pixels.
        seed: of the scene, 0 or more.

    Returns:
        dict: file name to box (y1, x1, y2, x2) in pixels of the scene; None for the scene itself.
    """
    _check_arguments(seed=seed)
    scene = make_scene(np.random.default_rng(seed), size, size)
    written = {"scene.png": None}
    write_picture(Path(folder) / "scene.png", scene[0])
    for name, (crop, box) in reference_crops(*scene).items():
        write_picture(Path(folder) / f"reference_{name}.png", crop)
        written[f"reference_{name}.png"] = box
    return written


def reference_crops(image, masks, class_ids):
    """The box of the largest object of each category in a scene.

    Args:
        image, masks, class_ids: as `make_scene` returns them.

    Returns:
        dict: category name to (crop uint8 [h, w, RGB], box (y1, x1, y2, x2) in pixels).
    """
    boxes, areas, crops = extract_bboxes(masks), masks.sum(axis=(0, 1)), {}
    for index in np.argsort(areas):  # the largest comes last and stays
        y1, x1, y2, x2 = map(int, boxes[index])
        crops[CATEGORIES[class_ids[index] - 1]] = image[y1:y2, x1:x2], (y1, x1, y2, x2)
    return crops


# ---- drawing in processes ----------------------------------------------------------------------------------------
def _run(jobs, workers, progress):
    """What `write_scene` returns for each job, in order."""
    with contextlib.ExitStack() as stack:
        if workers == 1 or not _can_spawn():
            made = map(write_scene, jobs)
        else:
            # fresh processes: those of a program that runs threads (TensorFlow's) cannot be forked safely
            context = multiprocessing.get_context("spawn")
            pool = ProcessPoolExecutor(min(workers, len(jobs)), context, cv2.setNumThreads, (1,))
            stack.callback(pool.shutdown, wait=True, cancel_futures=True)
            with _interruptions_held():
                made = pool.map(write_scene, jobs, chunksize=_CHUNK)
        quiet = not progress or len(jobs) < _LONG
        return list(tqdm(made, desc="scenes", total=len(jobs), unit="scene", disable=quiet))


@contextlib.contextmanager
def _interruptions_held():
    """Hold Ctrl-C back for a while. Processes that start meanwhile never get it: their parent alone answers it."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _can_spawn():
    """Whether fresh processes can import the running program, as Python has them do; not one that came from stdin."""
    main_module = sys.modules["__main__"]
    path = getattr(main_module, "__file__", None)
    return path is None or main_module.__spec__ is not None or Path(path).exists()


def _usable_cores():
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# ---- annotation files --------------------------------------------------------------------------------------------
def _annotation_path(folder, split):
    return folder / "annotations" / f"instances_{split}{YEAR}.json"


def _content(info, images, made):
    """The content of one split's annotation file.

    Args:
        info: what describes the data set.
        images: ids and file names of the split's scenes.
        made: iterator over what `write_scene` returned for them; it goes on with the next split.
    """
    annotations = []
    for image in images:
        (image["height"], image["width"]), found = next(made)
        image["license"] = 1
        annotations.extend({"image_id": image["id"], **annotation} for annotation in found)
    for number, annotation in enumerate(annotations, start=images[0]["id"] * _IDS_PER_SCENE):
        annotation["id"] = number
    return {
        "info": info,
        "licenses": [{"id": 1, "name": "MIT", "url": "https://opensource.org/license/mit"}],
        "images": images,
        "annotations": annotations,
        "categories": [{"id": i, "name": name, "supercategory": "shape"} for i, name in enumerate(CATEGORIES, 1)],
    }


def _info(**parameters):
    return {"description": _DESCRIPTION, "version": GENERATOR_VERSION, "year": YEAR, **parameters}


def _read_info(path):
    """The "info" of an annotation file, a dict, empty if it has none."""
    content = read_json(path)
    info = content.get("info") if isinstance(content, dict) else None
    return info if isinstance(info, dict) else {}


def _check_info(path, expected):
    found = _read_info(path)
    for key, value in expected.items():
        if found.get(key) != value:
            raise ValueError(
                f"{path}: info.{key} = {found.get(key)!r}, expected {value!r} as in the standard Shapes data set; "
                "remove the folder to have it made anew, or name another"
            )


def _remove_annotations(folder):
    """Remove a former data set's annotation files, which would vouch for pictures that are being replaced.

    Raises:
        ValueError: an annotation file is of another data set; none is removed.
    """
    paths = [path for path in (_annotation_path(folder, split) for split in SPLITS) if path.exists()]
    for path in paths:
        description = _read_info(path).get("description")
        if not str(description).startswith(_DESCRIPTION):
            raise ValueError(
                f"{path}: info.description = {description!r}, another data set than {_DESCRIPTION}; not replaced"
            )
    for path in paths:
        path.unlink()


# ---- arguments ---------------------------------------------------------------------------------------------------
def _check_arguments(*, square=True, **values):
    for name, value in values.items():
        least = _LEAST_VARIED if name == "size" and not square else _LEAST[name]
        if value < least:
            raise ValueError(f"{name} = {value}: expected {least} or more")


def find_dataset(name):
    """The folder of a data set: for "shapes" the standard one, made now where it is missing; else what was named.

    Raises:
        ValueError: the standard folder holds something else.
    """
    if name != SHAPES:
        return name
    return ensure_standard(FOLDER)
