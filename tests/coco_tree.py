"""Small COCO trees for tests: generated images of shapes, with polygons, both kinds of RLE, and a crowd."""

import json
from pathlib import Path

import numpy as np
import pycocotools.mask as coco_mask
from PIL import Image, ImageDraw

from siamese_mrcnn_tf.data.dataset import Dataset, IndexedCocoDataset

CATEGORIES = ({"id": 3, "name": "ellipse"}, {"id": 7, "name": "rectangle"}, {"id": 18, "name": "triangle"})
SIZE = (96, 128)  # height, width of the images


def write_tree(root, *, subset="val", year="2017", num_images=4, first_id=10, seed=0):
    """Write a tree below `root` and return the content of its annotation file.

    Image k has the COCO id first_id + 10 * k and, in order of annotation id: category k % 3 as polygon, category
    (k + 1) % 3 as compressed RLE; image 0 also a crowd of category 2 as uncompressed RLE. The last image has none.
    """
    root, rng = Path(root), np.random.default_rng(seed)
    (root / f"{subset}{year}").mkdir(parents=True, exist_ok=True)
    content = {"info": {}, "images": [], "annotations": [], "categories": [dict(entry) for entry in CATEGORIES]}
    for k in range(num_images):
        name = f"{first_id + 10 * k:012d}.png"
        image = Image.fromarray(rng.integers(80, 120, (*SIZE, 3), dtype=np.uint8))
        content["images"].append({"id": first_id + 10 * k, "file_name": name, "height": SIZE[0], "width": SIZE[1]})
        if k < num_images - 1:
            _add(content, image, k % 3, left=8, polygon=True)
            _add(content, image, (k + 1) % 3, left=72, polygon=False)
        if k == 0:
            content["annotations"].append(_crowd(content))
        image.save(root / f"{subset}{year}" / name)
    write_annotations(root, content, subset=subset, year=year)
    return content


def load(root, subset="train", *, active=None, **options):
    """A subset of a tree as an IndexedCocoDataset, ready for use; `active` are its ACTIVE_CLASSES (None: all)."""
    dataset = IndexedCocoDataset()
    dataset.load_coco(root, subset, **options)
    dataset.prepare()
    dataset.build_indices()
    if active is not None:
        dataset.ACTIVE_CLASSES = active
    return dataset


def write_annotations(root, content, *, subset="val", year="2017"):
    """Write `content` as the annotation file of a subset; returns its path."""
    path = Path(root) / "annotations" / f"instances_{subset}{year}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def outline(kind, top, left, height, width):
    """Polygon [x, y, x, y, ...] of an ellipse (0), a rectangle (1) or a triangle (2) in a box."""
    if kind == 0:
        angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        points = np.stack([0.5 + 0.5 * np.cos(angles), 0.5 + 0.5 * np.sin(angles)], axis=1)
    else:
        points = np.array([[0, 0], [1, 0], [1, 1], [0, 1]] if kind == 1 else [[0, 1], [0.5, 0], [1, 1]])
    return (points * (width, height) + (left, top)).round(1).ravel().tolist()


def _add(content, image, kind, *, left, polygon):
    top, height, width = 16 + 4 * len(content["annotations"]), 40, 48
    points = outline(kind, top, left, height, width)
    ImageDraw.Draw(image).polygon(points, fill=((220, 30, 30), (30, 200, 40), (40, 60, 230))[kind])
    segmentation = [points]
    rle = coco_mask.merge(coco_mask.frPyObjects(segmentation, *SIZE))
    if not polygon:
        segmentation = {"size": list(SIZE), "counts": rle["counts"].decode()}
    annotation = _entry(content, kind, segmentation, [left, top, width, height])
    content["annotations"].append(annotation | {"area": float(coco_mask.area(rle))})


def _crowd(content):
    """A band along the lower border."""
    mask = np.zeros(SIZE, np.uint8)
    mask[-8:] = 1
    flat = mask.ravel(order="F")
    borders = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *borders.tolist(), flat.size]).tolist()
    entry = _entry(content, 2, {"size": list(SIZE), "counts": counts}, [0, SIZE[0] - 8, SIZE[1], 8])
    return entry | {"iscrowd": 1, "area": 8.0 * SIZE[1]}


def _entry(content, kind, segmentation, bbox):
    return {
        "id": len(content["annotations"]) + 100,
        "image_id": content["images"][-1]["id"],
        "category_id": CATEGORIES[kind]["id"],
        "bbox": [float(value) for value in bbox],
        "segmentation": segmentation,
        "iscrowd": 0,
    }


class Scenes(Dataset):
    """Images and masks given as arrays: a list of (image, masks, class_ids)."""

    def __init__(self, scenes):
        super().__init__()
        self.scenes = scenes
        for class_id, name in enumerate(("ellipse", "rectangle", "triangle"), start=1):
            self.add_class("scenes", class_id, name)
        for index in range(len(scenes)):
            self.add_image("scenes", index, path=None)
        self.prepare()

    def load_image(self, image_id):
        return self.scenes[image_id][0]

    def load_mask(self, image_id):
        return self.scenes[image_id][1:]
