"""Pictures that the repository makes itself: scenes of simple shapes, seeded, with a mask for every shape.

    python samples/shapes/shapes.py --out DIR [--train N --val N --size PIXELS --seed S]   a COCO tree
    python samples/shapes/shapes.py --out DIR --demo [--size PIXELS --seed S]              a scene and its crops

Categories differ by outline alone; colour, texture, size and rotation are drawn at random.
"""

import argparse
import math
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # runs from a checkout that is not installed

from siamese_mrcnn_tf.boxes import extract_bboxes  # noqa: E402
from siamese_mrcnn_tf.files import atomic_path, write_json  # noqa: E402
from siamese_mrcnn_tf.molding import resize  # noqa: E402

CATEGORIES = ("disc", "square", "triangle", "star", "ring", "cross", "crescent", "arrow")  # class ids 1, 2, ...
SPLITS = ("train", "val")
YEAR = 2017  # in the names of COCO's files
MIN_SIZE = 48  # pixels; smaller scenes leave no room for outlines

_OBJECTS_PER_SCENE = (4, 8)
_CATEGORIES_PER_SCENE = (2, 4)  # few, so that a reference has several matches
_RADIUS = (0.09, 0.24)  # of the short side
_STRETCH = (0.8, 1.25)  # of a shape along one axis before it is turned
_MIN_VISIBLE = 0.5  # of every shape, whatever lies in front of it or beyond the border
_PLACE_TRIES = 20
_SUPERSAMPLING = 4  # per axis, for smooth edges
_JPEG_QUALITY = 95


# ---- scenes ------------------------------------------------------------------------------------------------------
def make_scene(rng, height, width, *, categories=CATEGORIES):
    """A textured picture with shapes, later ones in front of earlier ones.

    Args:
        rng: numpy.random.Generator.
        height, width: of the picture, in pixels.
        categories: names out of CATEGORIES to choose from.

    Returns:
        image: uint8 [height, width, RGB].
        masks: bool [height, width, n], what is visible of each shape, at least half of it; n is 1 or more.
        class_ids: int32 [n], 1 + index in CATEGORIES.
    """
    _check_scene(height, width, categories)
    image = _background(rng, height, width)
    owner = np.full((height, width), -1)  # index of the front shape
    class_ids, areas = [], []
    few = rng.choice(categories, min(rng.integers(*_CATEGORIES_PER_SCENE, endpoint=True), len(categories)), False)
    for _ in range(rng.integers(*_OBJECTS_PER_SCENE, endpoint=True)):
        name = str(rng.choice(few))
        stamp = _stamp(rng, name, min(height, width))
        colour = _object_colour(rng, image, len(stamp))
        place = _free_place(rng, stamp, owner, areas)
        if place is None:
            continue
        on_scene, on_stamp = place
        coverage = stamp[on_stamp]
        image[on_scene] += coverage[:, :, None] * (colour[on_stamp] - image[on_scene])
        owner[on_scene][coverage >= 0.5] = len(areas)
        areas.append(np.count_nonzero(stamp >= 0.5))
        class_ids.append(CATEGORIES.index(name) + 1)
    image += rng.normal(0, 4, image.shape)
    image = np.clip(np.around(image), 0, 255).astype(np.uint8)
    return image, owner[:, :, None] == np.arange(len(areas)), np.array(class_ids, np.int32)


def reference_crops(image, masks, class_ids):
    """The box of the largest shape of each category in a scene.

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


# ---- files -------------------------------------------------------------------------------------------------------
def write_coco(folder, *, train, val, size, seed):
    """Write scenes as a data set in COCO's layout.

    `annotations/instances_train2017.json`, `train2017/000000000001.jpg`, and the same for val; masks as RLE. A scene
    depends on the seed, its split, its index and the size alone.

    Args:
        folder: of the tree; made where it is missing.
        train, val: number of scenes, at least 1.
        size: long side in pixels; the short side is drawn between 3/4 and all of it.
        seed: of all draws, 0 or more.

    Returns:
        dict: split to number of annotations.
    """
    counts = {"train": train, "val": val}
    for name, value, least in (
        ("train", train, 1),
        ("val", val, 1),
        ("size", size, MIN_SIZE * 4 // 3),
        ("seed", seed, 0),
    ):
        if value < least:
            raise ValueError(f"{name} = {value}: expected {least} or more")
    written, first_id = {}, 1
    for split in SPLITS:
        content = _write_split(Path(folder), split, counts[split], first_id, size, seed)
        write_json(Path(folder) / "annotations" / f"instances_{split}{YEAR}.json", content)
        written[split] = len(content["annotations"])
        first_id += counts[split]
    return written


def write_demo(folder, *, size, seed):
    """Write `scene.png` and `reference_<category>.png` for each category in it.

    Args:
        folder: made where it is missing.
        size: side of the scene in pixels.
        seed: of the scene, 0 or more.

    Returns:
        dict: file name to box (y1, x1, y2, x2) in pixels of the scene; None for the scene itself.
    """
    scene = make_scene(np.random.default_rng(seed), size, size)
    written = {"scene.png": None}
    _write_picture(Path(folder) / "scene.png", scene[0])
    for name, (crop, box) in reference_crops(*scene).items():
        _write_picture(Path(folder) / f"reference_{name}.png", crop)
        written[f"reference_{name}.png"] = box
    return written


def _write_split(folder, split, count, first_id, size, seed):
    """Write the pictures of one split; the content of its annotation file."""
    images, annotations = [], []
    for index in range(count):
        rng = np.random.default_rng([seed, SPLITS.index(split), index])
        sides = np.array([size, rng.integers(size * 3 // 4, size, endpoint=True)])
        height, width = (int(side) for side in rng.permutation(sides))
        scene = make_scene(rng, height, width)
        record = {"id": first_id + index, "file_name": f"{first_id + index:012d}.jpg", "height": height, "width": width}
        _write_picture(folder / f"{split}{YEAR}" / record["file_name"], scene[0], quality=_JPEG_QUALITY)
        images.append({**record, "license": 1})
        annotations.extend(_annotations(record["id"], *scene[1:]))
    # a scene has less than 100 shapes, so no id comes twice in both splits together
    for number, annotation in enumerate(annotations, start=first_id * 100):
        annotation["id"] = number
    return {
        "info": {"description": f"Shapes, seed {seed}", "version": "1", "year": YEAR},
        "licenses": [{"id": 1, "name": "MIT", "url": "https://opensource.org/license/mit"}],
        "images": images,
        "annotations": annotations,
        "categories": [{"id": i, "name": name, "supercategory": "shape"} for i, name in enumerate(CATEGORIES, 1)],
    }


def _annotations(image_id, masks, class_ids):
    """COCO's records of a scene's shapes, without their ids."""
    from pycocotools import mask as coco_mask  # here, so that --help and --demo do without it

    found = []
    for box, mask, class_id in zip(extract_bboxes(masks), np.moveaxis(masks, -1, 0), class_ids, strict=True):
        y1, x1, y2, x2 = map(float, box)
        rle = coco_mask.encode(np.asfortranarray(mask, np.uint8))
        found.append(
            {
                "image_id": image_id,
                "category_id": int(class_id),
                "segmentation": {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")},
                "area": float(mask.sum()),
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "iscrowd": 0,
            }
        )
    return found


def _write_picture(path, image, **options):
    with atomic_path(path) as temporary:
        Image.fromarray(image).save(temporary, **options)


# ---- outlines ----------------------------------------------------------------------------------------------------
def _circle(radius, centre_x=0.0):
    angles = np.linspace(0, 2 * math.pi, 64, endpoint=False)
    return np.stack([radius * np.cos(angles) + centre_x, radius * np.sin(angles)], axis=-1)


def _spokes(radii):
    """Corners at even angles, the first at the top."""
    angles = np.arange(len(radii)) * (2 * math.pi / len(radii))
    return np.stack([np.sin(angles), -np.cos(angles)], axis=-1) * np.asarray(radii)[:, None]


_ARM = 0.3  # half the width of a cross's arm
_CROSS_QUARTER = [(_ARM, -1), (_ARM, -_ARM), (1, -_ARM)]
_ARROW_HALF = [(0, -1), (0.75, -0.1), (0.28, -0.1), (0.28, 1)]
_OUTLINES = {  # name: (polygon, hole or None), corners [n, (x, y)] from -1 to 1
    "disc": (_circle(1), None),
    "square": (_spokes([1] * 4), None),
    "triangle": (_spokes([1] * 3), None),
    "star": (_spokes([1, 0.4] * 5), None),
    "ring": (_circle(1), _circle(0.55)),
    "cross": (
        [(x * c - y * s, x * s + y * c) for c, s in ((1, 0), (0, 1), (-1, 0), (0, -1)) for x, y in _CROSS_QUARTER],
        None,
    ),
    "crescent": (_circle(1), _circle(0.85, centre_x=0.5)),
    "arrow": (_ARROW_HALF + [(-x, y) for x, y in _ARROW_HALF[:0:-1]], None),
}


def _stamp(rng, name, short_side):
    """A shape by itself, of random size, stretch and rotation: coverage float [side, side] in 0..1."""
    radius = rng.uniform(*_RADIUS) * short_side
    stretch = np.array([rng.uniform(*_STRETCH), 1.0])
    angle = rng.uniform(0, 2 * math.pi)
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    side = 2 * math.ceil(radius * max(stretch)) + 2
    canvas = Image.new("L", (side * _SUPERSAMPLING,) * 2)
    for outline, value in zip(_OUTLINES[name], (255, 0), strict=True):
        if outline is not None:
            corners = (np.asarray(outline) * stretch * radius @ turn + side / 2) * _SUPERSAMPLING
            ImageDraw.Draw(canvas).polygon([tuple(corner) for corner in corners], fill=value)
    fine = np.asarray(canvas, float).reshape(side, _SUPERSAMPLING, side, _SUPERSAMPLING)
    return fine.mean(axis=(1, 3)) / 255


def _free_place(rng, stamp, owner, areas):
    """A random place for a stamp that leaves enough of every shape to be seen.

    Args:
        stamp: coverage [side, side].
        owner: int [height, width], index of the shape in front, -1 for none.
        areas: of the whole shapes so far, in pixels.

    Returns:
        ((rows, columns) of the scene, (rows, columns) of the stamp), as slices; None if no place was found.
    """
    solid = stamp >= 0.5
    for _ in range(_PLACE_TRIES):
        spans = [
            _overlap(int(rng.uniform(0.05, 0.95) * side) - len(stamp) // 2, len(stamp), side) for side in owner.shape
        ]
        on_scene, on_stamp = zip(*spans, strict=True)
        hidden = owner[on_scene][solid[on_stamp]]
        lost = np.bincount(hidden[hidden >= 0], minlength=len(areas))
        seen = np.bincount(owner[owner >= 0], minlength=len(areas)) - lost
        if np.all(seen >= _MIN_VISIBLE * np.array(areas)) and solid[on_stamp].sum() >= _MIN_VISIBLE * solid.sum():
            return on_scene, on_stamp
    return None


def _overlap(start, length, side):
    """Where start..start + length lies within 0..side, and which part of it: two slices."""
    first, last = max(start, 0), min(start + length, side)
    return slice(first, last), slice(first - start, last - start)


# ---- colours and textures ----------------------------------------------------------------------------------------
def _background(rng, height, width):
    """Two colours that blend across the picture, with a texture: float [height, width, RGB]."""
    first, second = rng.uniform(30, 225, (2, 1, 1, 3))
    y, x = _turned_grid(rng, height, width)
    blend = (y - y.min()) / np.ptp(y)
    texture = _texture(rng, height, width, period_of=min(height, width))
    return first + (second - first) * blend[:, :, None] + 22 * texture[:, :, None]


def _object_colour(rng, image, side):
    """A colour that stands out from the picture so far, with a texture: float [side, side, RGB]."""
    candidates = rng.uniform(0, 255, (6, 3))
    distances = np.linalg.norm(candidates - image.mean(axis=(0, 1)), axis=1)
    texture = _texture(rng, side, side, period_of=min(image.shape[:2]))
    return candidates[distances.argmax()] + rng.uniform(0, 35) * texture[:, :, None]


def _texture(rng, height, width, *, period_of):
    """Stripes, checks, waves or blotches, fine compared with `period_of` pixels: float [height, width] in -1..1."""
    y, x = _turned_grid(rng, height, width)
    period = rng.uniform(0.04, 0.15) * period_of / (2 * math.pi)
    kind = rng.integers(4)
    if kind == 0:
        return np.sin(y / period)
    if kind == 1:
        return np.sign(np.sin(y / period) * np.sin(x / period))
    if kind == 2:
        return np.sin(y / period + 2 * np.sin(x / (2 * period)))
    return resize(rng.uniform(-1, 1, rng.integers(5, 14, 2)), (height, width))


def _turned_grid(rng, height, width):
    """Coordinates of the pixels along two perpendicular directions, in pixels: two arrays [height, width]."""
    angle = rng.uniform(0, math.pi)
    y, x = np.mgrid[0:height, 0:width]
    return y * math.cos(angle) + x * math.sin(angle), x * math.cos(angle) - y * math.sin(angle)


def _check_scene(height, width, categories):
    if min(height, width) < MIN_SIZE:
        raise ValueError(f"a scene of {height} x {width} pixels is too small: expected {MIN_SIZE} or more a side")
    unknown = [name for name in categories if name not in CATEGORIES]
    if unknown or not len(categories):
        raise ValueError(f"categories = {list(categories)!r}: expected some of {', '.join(CATEGORIES)}")


# ---- command line ------------------------------------------------------------------------------------------------
def main(arguments=None):
    """Run the command line; the exit code."""
    parser = argparse.ArgumentParser(description="Write seeded scenes of simple shapes, with masks.")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to write to")
    parser.add_argument("--train", type=int, default=200, metavar="N", help="training scenes (200)")
    parser.add_argument("--val", type=int, default=50, metavar="N", help="validation scenes (50)")
    parser.add_argument("--size", type=int, default=256, metavar="PIXELS", help="long side of a scene (256)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="another seed, other scenes (0)")
    parser.add_argument("--demo", action="store_true", help="write one scene and reference crops of it instead")
    options = parser.parse_args(arguments)
    try:
        if options.demo:
            for name, box in write_demo(options.out, size=options.size, seed=options.seed).items():
                print(
                    Path(options.out) / name,
                    *([] if box is None else ["cut at y1,x1,y2,x2 =", ",".join(map(str, box))]),
                )
        else:
            sizes = {"train": options.train, "val": options.val, "size": options.size}
            for split, count in write_coco(options.out, **sizes, seed=options.seed).items():
                print(f"{options.out}: {split}{YEAR} with {sizes[split]} scenes, {count} shapes")
    except (ValueError, OSError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
