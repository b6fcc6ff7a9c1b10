"""COCO annotation files, to split, join or copy them with their images."""

from collections.abc import Iterable
from pathlib import Path

from ...io.errors import InputError
from ..annotations import read_annotations
from ..layouts import choose_images, image_folders, subset_of_file
from .common import ImportedImage, ImportedObject


def read_coco(paths: Iterable[Path], image_dir: Path | None = None) -> tuple[list[ImportedImage], dict[str, int]]:
    """(images, category ids by name). Masks, boxes and crowds are taken over as they are.

    Without an image folder, images are where the layouts of annotation tools have them (`layouts.image_folders`). The
    subset is that of the file's name, or of its folder's (`layouts.subset_of_file`). Categories keep their ids; where
    those of several files contradict each other, they are numbered by name.

    Raises:
        ValueError: names the file, the entry and the key.
    """
    images, ids, agree = [], dict[str, int](), True
    for path in paths:
        content = read_annotations(path)
        names = {category["id"]: category["name"] for category in content["categories"]}
        if len(set(names.values())) < len(names):
            raise InputError(f"{path}: categories: some have the same name, expected each once")
        for number, name in names.items():
            agree = agree and ids.setdefault(name, number) == number
        objects: dict[int, list[ImportedObject]] = {image["id"]: [] for image in content["images"]}
        for annotation in content["annotations"]:
            place = f"{path}: annotation {annotation['id']}"
            found = ImportedObject(place, names[annotation["category_id"]], coco=annotation)
            objects[annotation["image_id"]].append(found)
        folder = image_dir or choose_images(path, image_folders(path), content)
        for image in content["images"]:
            place, size = f"{path}: image {image['file_name']!r}", (image["height"], image["width"])
            found_objects = tuple(objects[image["id"]])
            found_image = ImportedImage(
                image["file_name"], place, found_objects, folder, subset_of_file(path), size=size
            )
            images.append(found_image)
    if not agree or len(set(ids.values())) < len(ids):
        ids = {name: number for number, name in enumerate(sorted(ids), start=1)}
    return images, dict(sorted(ids.items(), key=lambda item: item[1]))
