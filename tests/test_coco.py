"""COCO's categories and subsets are recognised by the data, not by the place or the name of its files."""

import json

import pytest

from siamese_mrcnn_tf.data.coco import CATEGORIES, coco_subset, split_category_ids
from siamese_mrcnn_tf.data.dataset import CocoDataset

IDS = (139, 285, 581781)
SERVER = "http://images.cocodataset.org"


def images_of(subset="val2017", *, has_addresses=True):
    images = [{"id": i, "file_name": f"{i:012d}.jpg", "height": 426, "width": 640} for i in IDS]
    return [
        image | ({"coco_url": f"{SERVER}/{subset}/{image['file_name']}"} if has_addresses else {}) for image in images
    ]


def load(folder, images, names=CATEGORIES, subset="val"):
    """The data set of an annotation file without annotations; its images need not be there."""
    (folder / f"{subset}2017").mkdir(parents=True)
    (folder / "annotations").mkdir()
    categories = [{"id": i, "name": name} for i, name in names.items()]
    content = {"images": images, "annotations": [], "categories": categories}
    (folder / "annotations" / f"instances_{subset}2017.json").write_text(json.dumps(content))
    dataset = CocoDataset()
    dataset.load_coco(folder, subset)
    return dataset


def test_the_categories_are_cocos():
    assert len(CATEGORIES) == 80 and list(CATEGORIES) == sorted(CATEGORIES) and max(CATEGORIES) == 90
    named = {1: "person", 11: "fire hydrant", 13: "stop sign", 25: "giraffe", 44: "bottle", 82: "refrigerator"}
    assert CATEGORIES.items() >= named.items() and not {12, 26, 29, 30, 45, 66, 68, 69, 71, 83} & CATEGORIES.keys()


def test_categories_of_the_splits():
    assert split_category_ids(0, "all") == list(CATEGORIES) == split_category_ids(2, "all")
    train, novel = split_category_ids(1, "train"), split_category_ids(1, "novel")
    assert novel[:3] == [1, 5, 9] and len(novel) == 20 and sorted(train + novel) == list(CATEGORIES)


def test_a_part_of_a_subset_in_a_folder_of_any_name(tmp_path):
    dataset = load(tmp_path / "mine", images_of())
    assert coco_subset(dataset) == "val2017" and dataset.source_names == ["mine"]
    assert coco_subset(load(tmp_path / "other", images_of("train2017"))) == "train2017"  # in a folder val2017
    assert coco_subset(load(tmp_path / "bare", images_of(has_addresses=False))) == "val2017"


def own_names(images):
    return [image | {"file_name": f"photo_{image['id']}.jpg"} for image in images]


@pytest.mark.parametrize(
    ("images", "names"),
    [
        (images_of(), {i: f"shape {i}" for i in CATEGORIES}),  # 80 other categories with COCO's ids
        (images_of(), dict(enumerate(CATEGORIES.values(), 1))),  # COCO's names with other ids
        (images_of(), dict(list(CATEGORIES.items())[:79])),
        (own_names(images_of(has_addresses=False)), CATEGORIES),
        ([image | {"height": 1200} for image in images_of()], CATEGORIES),
        (images_of()[:1] + images_of("train2017")[1:], CATEGORIES),
        ([], CATEGORIES),
    ],
)
def test_other_data_sets(tmp_path, images, names):
    assert coco_subset(load(tmp_path, images, names)) is None
