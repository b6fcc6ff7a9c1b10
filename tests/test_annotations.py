"""Annotation files are checked entry by entry."""

import copy

import coco_tree
import numpy as np
import pycocotools.mask as coco_mask
import pytest

from siamese_mrcnn_tf.data import annotations
from siamese_mrcnn_tf.io import files


@pytest.fixture
def content(tmp_path):
    return coco_tree.write_tree(tmp_path)


def read_changed(tmp_path, content):
    return annotations.read_annotations(coco_tree.write_annotations(tmp_path, content))


def test_sorted_by_id_and_completed(tmp_path, content):
    for section in ("images", "annotations", "categories"):
        content[section].reverse()
    del content["annotations"][0]["iscrowd"]
    read = read_changed(tmp_path, content)
    for section in ("images", "annotations", "categories"):
        ids = [entry["id"] for entry in read[section]]
        assert ids == sorted(ids)
    assert [entry["iscrowd"] for entry in read["annotations"]] == [0, 0, 1, 0, 0, 0, 0]


@pytest.mark.parametrize(
    ("section", "key"),
    [("images", key) for key in ("id", "file_name", "height", "width")]
    + [("annotations", key) for key in ("id", "image_id", "category_id", "bbox")]
    + [("categories", key) for key in ("id", "name")],
)
def test_missing_keys(tmp_path, content, section, key):
    del content[section][2][key]
    with pytest.raises(ValueError, match=rf"instances_val2017\.json: {section}\[2\].*: the key '{key}' is missing"):
        read_changed(tmp_path, content)


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("images", "id", "7", "expected int"),
        ("images", "id", -1, "not negative"),
        ("images", "id", 2**63, "not negative"),
        ("images", "id", True, "expected int"),
        ("images", "id", 10, "another entry has the same"),
        ("images", "height", 0, "a size in pixels"),
        ("images", "width", 12.5, "expected int"),
        ("images", "width", 1_000_000_000, "are at most 178956970; --max-pixels"),
        ("images", "height", 10**15, "are at most 178956970"),
        ("images", "file_name", "a\0.png", "a name in the image folder"),
        ("annotations", "area", 10**40, "an area"),
        ("annotations", "bbox", [1, 2, 3, 1e308], "width, height"),
        ("annotations", "segmentation", [[1, 2, 3, None, 5, 6]], "polygons of numbers below 1000000"),
        ("annotations", "segmentation", [[5, 5, 9, True, 9, 9]], "polygons of numbers below 1000000"),
        ("annotations", "segmentation", [[5, 5, 9, 7, 9, 9], [False, 0, 9, 0, 9, 9]], "polygons of numbers"),
        ("annotations", "segmentation", [[1, 2, 3, "4", 5, 6]], "polygons of numbers"),
        ("annotations", "segmentation", [[1, 2, 3, float("nan"), 5, 6]], "polygons of numbers"),
        ("annotations", "segmentation", [[1, 2, 3, float("inf"), 5, 6]], "polygons of numbers"),
        ("annotations", "segmentation", [[1, 2, 3, 10**300, 5, 6]], "polygons of numbers"),
        ("annotations", "segmentation", [[2, 2, 9e5, 9e5] * 10], "10000000 pixels along an outline"),
        ("annotations", "segmentation", {"size": [10**6] * 2, "counts": [10**12]}, "an RLE of its image's size"),
        ("annotations", "segmentation", {"size": [24, 32], "counts": [-1, 769]}, "an RLE of its image's size"),
        ("annotations", "segmentation", {"size": [24, 32], "counts": [10**25]}, "an RLE of its image's size"),
        ("images", "file_name", " ", "a name in the image folder"),
        ("annotations", "id", 100, "another entry has the same"),
        ("annotations", "image_id", 11, "the id of one of the images"),
        ("annotations", "category_id", 4, "the id of one of the categories"),
        ("annotations", "iscrowd", 2, "0 or 1"),
        ("annotations", "bbox", [1, 2, 3], "width, height"),
        ("annotations", "bbox", [1, 2, 3, "4"], "width, height"),
        ("annotations", "bbox", [1, 2, 3, float("nan")], "width, height"),
        ("annotations", "bbox", {"x": 1}, "expected list"),
        ("annotations", "area", -1, "square pixels"),
        ("annotations", "area", None, "square pixels"),
        ("annotations", "segmentation", None, "expected list or dict"),
        ("annotations", "segmentation", [1, 2, 3, 4, 5], "expected polygons"),
        ("annotations", "segmentation", [[[1, 2], [3, 4, 5]]], "expected polygons"),
        ("annotations", "segmentation", [[0.1, 0.2, 0.5, 0.2, 0.5, 0.6]], "shares of the image"),
        ("annotations", "segmentation", [[1, 2, 3, 4, 5, 6, 7]], "expected polygons"),
        ("annotations", "segmentation", {"size": [2, 2], "counts": [4]}, r"size \[96, 128\]"),
        ("annotations", "segmentation", {"size": [96, 128], "counts": [4]}, r"size \[96, 128\]"),
        ("annotations", "segmentation", {"size": [96, 128], "counts": ""}, r"size \[96, 128\]"),
        ("annotations", "segmentation", {"size": [96, 128], "counts": "zzzz"}, r"size \[96, 128\]"),
        ("annotations", "segmentation", {"size": [96, 128]}, r"size \[96, 128\]"),
        ("categories", "id", 3, "another entry has the same"),
        ("categories", "name", 3, "expected str"),
    ],
)
def test_wrong_values(tmp_path, content, section, key, value, message):
    content[section][1][key] = value
    with pytest.raises(ValueError, match=rf"instances_val2017\.json: {section}\[1\].*{key} = .*{message}"):
        read_changed(tmp_path, content)


@pytest.mark.parametrize("section", ["images", "annotations", "categories"])
def test_missing_sections(tmp_path, content, section):
    changed = copy.copy(content)
    del changed[section]
    with pytest.raises(ValueError, match=rf"instances_val2017\.json: .*a list '{section}'"):
        read_changed(tmp_path, changed)
    with pytest.raises(ValueError, match=rf"{section}\[0\]: the key 'id' is missing"):
        read_changed(tmp_path, content | {section: ["no dict"]})


def test_no_object(tmp_path):
    files.write_json(tmp_path / "a.json", [])
    with pytest.raises(ValueError, match="expected a COCO instances file"):
        annotations.read_annotations(tmp_path / "a.json")


def test_all_faults_are_listed_and_the_first_is_raised(tmp_path, content):
    content["annotations"][0]["bbox"] = None
    content["annotations"][1] |= {"bbox": [1, 2], "category_id": 4}
    content["annotations"][2]["image_id"] = 77
    content["annotations"][3]["id"] = content["annotations"][4]["id"]
    del content["images"][1]["height"]
    path = coco_tree.write_annotations(tmp_path, content)
    with pytest.raises(
        annotations.FaultsError, match=r"annotations\[4\] \(id 104\): id = 104.*; 6 more faults"
    ) as raised:
        annotations.read_annotations(path)
    faults = annotations.find_faults(path)
    assert faults == raised.value.faults
    counts = {"annotations: id": 1, "images: height": 1, "annotations: image_id": 1, "annotations: category_id": 1}
    assert {kind: len(texts) for kind, texts in faults.items()} == counts | {
        "annotations: bbox": 2,
        "annotations: segmentation": 1,
    }
    assert "annotations[1] (id 101): bbox = [1, 2], expected" in faults["annotations: bbox"][1]


@pytest.mark.parametrize("density", [0.0, 0.02, 0.5, 1.0])
def test_rles_of_pycocotools_are_accepted(density):
    rng = np.random.default_rng(int(density * 100))
    for size in ((1, 1), (7, 5), (300, 400)):
        rle = coco_mask.encode(np.asfortranarray(rng.random(size) < density, np.uint8))
        assert annotations.is_rle(rle, size)
        assert annotations.is_rle({"size": list(size), "counts": rle["counts"].decode()}, size)
        assert not annotations.is_rle(rle, (size[0], size[1] + 1))
        assert not annotations.is_rle(rle | {"counts": rle["counts"] + b"1"}, size)


@pytest.mark.parametrize("counts", [b"o", "\x00", "é", "ppppppppppp0", None, 7, [5, "1"], [-1, 7]])
def test_broken_rles(counts):
    assert not annotations.is_rle({"size": [2, 3], "counts": counts}, (2, 3))
