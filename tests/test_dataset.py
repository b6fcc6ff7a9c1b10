"""COCO trees, indices and category splits."""

import os
import pathlib
import pickle
import subprocess
import sys

import coco_tree
import numpy as np
import pycocotools.mask as coco_mask
import pytest
from PIL import Image
from pycocotools.coco import COCO

from siamese_mrcnn_tf.data import dataset
from siamese_mrcnn_tf.data.references import draw_reference
from siamese_mrcnn_tf.ops.boxes import extract_bboxes

SHARED = pathlib.Path(__file__).resolve().parents[2] / "shared" / "data"
ELLIPSE, RECTANGLE, TRIANGLE = 1, 2, 3  # class ids of coco_tree's categories 3, 7, 18


def load(root, subset="val", **options):
    return coco_tree.load(root, subset, **options)


# ---- Matterport's container ------------------------------------------------------------------------------------------


def test_container(tmp_path):
    data = dataset.Dataset()
    data.add_class("toys", 4, "ball, round")
    data.add_class("toys", 4, "again")
    data.add_class("toys", 9, "cube")
    Image.new("L", (3, 2), 7).save(tmp_path / "a.png")
    data.add_image("toys", "a", tmp_path / "a.png", height=2, width=3, colour="grey")
    data.prepare()
    assert (data.num_images, data.num_classes) == (1, 3)
    assert data.class_names == ["BG", "ball, round", "cube"]
    assert data.image_ids.tolist() == [0] and data.class_ids.tolist() == [0, 1, 2]
    assert data.map_source_class_id("toys.9") == 2 and data.get_source_class_id(2, "toys") == 9
    assert data.image_from_source_map == {"toys.a": 0} and data.image_info[0]["colour"] == "grey"
    assert data.image_reference(0) == str(tmp_path / "a.png")
    assert data.load_image(0).tolist() == [[[7] * 3] * 3] * 2
    masks, class_ids = data.load_mask(0)
    assert masks.shape == (2, 3, 0) and masks.dtype == bool and class_ids.dtype == np.int32
    with pytest.raises(ValueError, match="is from 'toys', not from 'coco'"):
        data.get_source_class_id(2, "coco")
    with pytest.raises(ValueError, match="without a dot"):
        data.add_class("a.b", 1, "c")


def test_active_classes(data):
    assert data.ACTIVE_CLASSES.tolist() == [1, 2, 3]
    data.ACTIVE_CLASSES = [3, 1]
    assert data.ACTIVE_CLASSES.tolist() == [3, 1]
    with pytest.raises(ValueError, match=r"ACTIVE_CLASSES = \[0, 4\]: expected class ids in 1..3"):
        data.ACTIVE_CLASSES = np.array([0, 4])


# ---- loading ---------------------------------------------------------------------------------------------------------


def test_images_and_classes_in_order_of_id(tmp_path, content):
    for section in ("images", "annotations", "categories"):
        content[section].reverse()
    coco_tree.write_annotations(tmp_path, content)
    data = load(tmp_path)
    assert [info["id"] for info in data.image_info] == [10, 20, 30, 40]
    assert data.class_names == ["BG", "ellipse", "rectangle", "triangle"]
    assert [[a["id"] for a in info["annotations"]] for info in data.image_info] == [
        [100, 101, 102],
        [103, 104],
        [105, 106],
        [],
    ]
    assert data.map_source_class_id("coco.18") == TRIANGLE
    assert data.set_name == "val2017"


def test_some_classes_keep_their_images(tmp_path, content):
    data = load(tmp_path, class_ids=[18, 7])
    assert data.class_names == ["BG", "rectangle", "triangle"]
    assert [info["id"] for info in data.image_info] == [10, 20, 30]
    assert [len(info["annotations"]) for info in data.image_info] == [2, 2, 1]
    assert load(tmp_path, class_ids=[3]).num_images == 2
    for wrong in ([4], []):
        with pytest.raises(ValueError, match=r"class_ids = .*category ids of .*instances_val2017\.json: 3, 7, 18"):
            load(tmp_path, class_ids=wrong)


def test_the_last_images_are_set_aside(tmp_path):
    coco_tree.write_tree(tmp_path, subset="train", num_images=7)  # six of them have annotations
    ids = {
        part: [info["id"] for info in load(tmp_path, "train", subsubset=part, val_images=2).image_info]
        for part in ("train", "val", None)
    }
    assert ids == {"train": [10, 20, 30, 40], "val": [50, 60], None: [10, 20, 30, 40, 50, 60, 70]}
    assert load(tmp_path, "train", subsubset="train", val_images=0).num_images == 6
    assert load(tmp_path, "train", subsubset="val").num_images == 6
    for part, val_images in (("train", 3000), ("val", 0), ("train", -1)):
        with pytest.raises(ValueError, match=f"val_images = {val_images} leaves no images for '{part}' of the 6"):
            load(tmp_path, "train", subsubset=part, val_images=val_images)
    with pytest.raises(ValueError, match="subsubset = 'test'"):
        load(tmp_path, "train", subsubset="test")


def test_minival_is_part_of_val2014(tmp_path, content):
    coco_tree.write_tree(tmp_path, subset="val", year="2014")
    coco_tree.write_annotations(tmp_path, content, subset="minival", year="2014")
    data = load(tmp_path, "minival")
    assert data.set_name == "val2014" and data.load_image(0).shape == (96, 128, 3)


def test_two_subsets_follow_each_other(tmp_path, content):
    coco_tree.write_tree(tmp_path, subset="train", first_id=1000, seed=1)
    data = dataset.IndexedCocoDataset()
    data.load_coco(tmp_path, "val")
    data.load_coco(tmp_path, "train")
    data.prepare()
    data.build_indices()
    assert data.num_images == 8 and data.num_classes == 4 and data.set_name == "val2017 + train2017"
    assert data.category_image_index[ELLIPSE].tolist() == [0, 2, 4, 6]
    data.load_coco(tmp_path, "val")
    with pytest.raises(RuntimeError, match=r"call prepare\(\) first"):
        data.build_indices()
    with pytest.raises(ValueError, match="loaded twice"):
        data.prepare()


def test_nothing_is_downloaded(tmp_path):
    with pytest.raises(ValueError, match=r"not downloaded here; put annotations/instances_val2017\.json"):
        dataset.CocoDataset().load_coco(tmp_path, "val", auto_download=True)


def test_coco_object(tmp_path, content, capsys):
    coco = dataset.CocoDataset().load_coco(tmp_path, "val", return_coco=True)
    assert capsys.readouterr().out == ""
    expected = COCO(tmp_path / "annotations" / "instances_val2017.json")
    for name in ("anns", "imgs", "cats", "imgToAnns", "catToImgs", "dataset"):
        assert getattr(coco, name) == getattr(expected, name), name
    assert dataset.CocoDataset().load_coco(tmp_path, "val") is None


def test_missing_areas_are_computed(tmp_path, content):
    areas = [annotation.pop("area") for annotation in content["annotations"]]
    coco_tree.write_annotations(tmp_path, content)
    coco = dataset.CocoDataset().load_coco(tmp_path, "val", return_coco=True)
    assert [annotation["area"] for annotation in coco.dataset["annotations"]] == areas


def test_a_set_without_images(tmp_path):
    (tmp_path / "val2017").mkdir()
    coco_tree.write_annotations(tmp_path, {"images": [], "annotations": [], "categories": []})
    data = load(tmp_path)
    assert data.num_images == 0 and data.image_category_index == [] and len(data.category_image_index) == 1


# ---- images and masks ------------------------------------------------------------------------------------------------


def test_load_image_has_the_annotated_size(tmp_path, content, data):
    image = Image.open(tmp_path / "val2017" / "000000000010.png")
    assert np.array_equal(data.load_image(0), np.asarray(image))
    image.resize((64, 64)).save(tmp_path / "val2017" / "000000000010.png")
    data.prepare()  # forgets decoded images
    with pytest.raises(ValueError, match=r"000000000010\.png: .*64 x 64.*96 x 128"):
        data.load_image(0)
    (tmp_path / "val2017" / "000000000020.png").unlink()
    with pytest.raises(ValueError, match=r"000000000020\.png: no such file"):
        data.load_image(1)


def test_load_image_does_not_follow_folders_out(tmp_path, content):
    (tmp_path / "val2017" / "away").symlink_to(tmp_path)
    content["images"][0]["file_name"] = "away/a.png"
    coco_tree.write_annotations(tmp_path, content)
    with pytest.raises(ValueError, match="'away/a.png' leads out of the folder"):
        load(tmp_path).load_image(0)


def test_load_mask(data):
    masks, class_ids = data.load_mask(0)
    assert masks.shape == (96, 128, 3) and masks.dtype == bool and class_ids.dtype == np.int32
    assert class_ids.tolist() == [ELLIPSE, RECTANGLE, -TRIANGLE]  # the last one is a crowd
    assert extract_bboxes(masks).tolist() == [[16, 8, 56, 56], [20, 72, 60, 120], [88, 0, 96, 128]]
    assert masks[20:60, 72:120, 1].all() and masks[..., 1].sum() == 40 * 48
    empty, none = data.load_mask(3)
    assert empty.shape == (96, 128, 0) and empty.dtype == bool and none.shape == (0,) and none.dtype == np.int32


def test_every_kind_of_segmentation(tmp_path, content):
    box = np.zeros(coco_tree.SIZE, np.uint8, order="F")
    box[10:20, 30:50] = 1
    rle = coco_mask.encode(box)["counts"].decode()
    corners = [30, 10, 50, 10, 50, 20, 30, 20]
    runs = np.diff(np.flatnonzero(np.diff(np.concatenate([[2], box.ravel(order="F"), [2]])))).tolist()
    kinds = [
        [corners],
        [[30, 10, 40, 10, 40, 20, 30, 20], [40, 10, 50, 10, 50, 20, 40, 20]],
        {"size": list(box.shape), "counts": rle},
        {"size": list(box.shape), "counts": runs},
        [corners, [1, 2, 3, 4]],
    ]
    for annotation, kind in zip(content["annotations"][3:], kinds, strict=False):
        annotation |= {"segmentation": kind, "image_id": 20}
    content["annotations"][0] |= {"segmentation": kinds[4], "image_id": 20}
    coco_tree.write_annotations(tmp_path, content)
    masks, _ = load(tmp_path).load_mask(1)
    assert masks.shape[-1] == 5
    assert np.array_equal(masks, np.repeat(box[..., None] == 1, 5, axis=-1))


@pytest.mark.parametrize("shape", [[], [[5, 5, 5, 5, 5, 5]], [[5, 5]], {"size": [96, 128], "counts": [96 * 128]}])
def test_empty_masks_are_left_out(tmp_path, content, shape):
    content["annotations"][0] |= {"segmentation": shape, "bbox": [0, 0, 0, 0]}
    coco_tree.write_annotations(tmp_path, content)
    data = load(tmp_path)
    masks, class_ids = data.load_mask(0)
    assert class_ids.tolist() == [RECTANGLE, -TRIANGLE] and masks.shape[-1] == 2
    assert [annotation["id"] for annotation in data.image_info[0]["annotations"]] == [101, 102]


def test_a_crowd_of_another_size_covers_its_image(tmp_path, content):
    content["annotations"][2]["segmentation"] = {"size": [10, 10], "counts": [50, 50]}
    coco_tree.write_annotations(tmp_path, content)
    masks, class_ids = load(tmp_path).load_mask(0)
    assert class_ids[2] == -TRIANGLE and masks[..., 2].all()


@pytest.mark.parametrize("value", [float("inf"), float("nan"), 1e30, "x", None, [1]])
def test_coordinates_that_are_none(tmp_path, content, value):
    content["annotations"][0]["segmentation"] = [[1, 2, 3, 4, value, 6]]
    coco_tree.write_annotations(tmp_path, content)
    with pytest.raises(ValueError, match=r"val2017\.json: annotations\[0\] \(id 100\): segmentation = "):
        load(tmp_path).load_mask(0)


# ---- indices and splits ----------------------------------------------------------------------------------------------


def test_indices(data):
    assert data.image_category_index == [[ELLIPSE, RECTANGLE], [RECTANGLE, TRIANGLE], [ELLIPSE, TRIANGLE], []]
    assert [ids.tolist() for ids in data.category_image_index] == [[], [0, 2], [0, 1], [1, 2]]
    assert data.instances_of(0, TRIANGLE) == [] and data.instances_of(1, TRIANGLE) == [1]


def test_indices_know_classes_without_images(tmp_path, content):
    content["categories"].append({"id": 90, "name": "absent"})
    coco_tree.write_annotations(tmp_path, content)
    data = load(tmp_path)
    assert data.num_classes == 5 and data.category_image_index[4].tolist() == []


def test_index_is_asked_for(tmp_path, content):
    data = dataset.IndexedCocoDataset()
    data.load_coco(tmp_path, "val")
    data.prepare()
    with pytest.raises(RuntimeError, match=r"call build_indices\(\) first"):
        data.images_of(1)


def test_splits():
    for split in (1, 2, 3, 4):
        train, novel = dataset.split_classes(80, split)
        assert novel.tolist() == list(range(split, 81, 4))
        assert sorted([*train, *novel]) == list(range(1, 81))
    train, novel = dataset.split_classes(3, 0)
    assert train.tolist() == [1, 2, 3] and novel.tolist() == []
    with pytest.raises(ValueError, match="split 5"):
        dataset.split_classes(80, 5)


# ---- real data -------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not SHARED.is_dir(), reason="no ../shared/data")
@pytest.mark.parametrize("tree", ["coco_tiny", "coco_permissive"])
@pytest.mark.parametrize("subset", ["train", "val"])
def test_real_trees(tree, subset):
    data = dataset.IndexedCocoDataset()
    coco = data.load_coco(SHARED / tree, subset, return_coco=True)
    data.prepare()
    data.build_indices()
    assert data.num_classes == 81 and data.num_images == len(coco.imgs)
    for image_id in list(data.image_ids)[:12]:
        info = data.image_info[image_id]
        annotations = coco.loadAnns(coco.getAnnIds(imgIds=[info["id"]]))
        masks, class_ids = data.load_mask(image_id)
        expected = [coco.annToMask(annotation) for annotation in annotations]
        assert len(expected) == masks.shape[-1] == len(class_ids)
        assert all(np.array_equal(masks[..., i], mask) for i, mask in enumerate(expected))
        assert data.load_image(image_id).shape == (info["height"], info["width"], 3)
        present = {a["category_id"] for a in annotations if not a["iscrowd"]}
        assert {data.class_info[c]["id"] for c in data.image_category_index[image_id]} == present
    for class_id in range(1, data.num_classes):
        source = data.class_info[class_id]["id"]
        crowdless = {a["image_id"] for a in coco.anns.values() if a["category_id"] == source and not a["iscrowd"]}
        assert {data.image_info[i]["id"] for i in data.category_image_index[class_id]} == crowdless
        if crowdless:
            image_id, index = draw_reference(data, class_id, seed=0, run=0, image_id=0, shot=0)
            annotation = data.image_info[image_id]["annotations"][index]
            assert annotation["category_id"] == source and not annotation["iscrowd"]


def test_import_is_light():
    heavy = "{'tensorflow', 'keras', 'matplotlib.pyplot'} & set(sys.modules)"
    code = f"import sys, siamese_mrcnn_tf.scoring; print({heavy})"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "set()"


def test_only_some_images(tmp_path):
    coco_tree.write_tree(tmp_path)  # COCO ids 10, 20, 30, 40
    data = dataset.IndexedCocoDataset()
    data.load_coco(tmp_path, "val", image_ids=[30, 10])
    data.prepare()
    data.build_indices()
    assert [info["id"] for info in data.image_info] == [10, 30]
    assert data.images_of(1).tolist() == [0, 1]
    rest = dataset.CocoDataset()
    rest.load_coco(tmp_path, "val", image_ids=[10, 20, 40], subsubset="val", val_images=1)
    assert [info["id"] for info in rest.image_info] == [20]  # 40 has no annotations
    for wrong in ([10, 11], []):
        with pytest.raises(
            ValueError, match=r"image_ids = .*expected image ids of .*instances_val2017\.json: 10, 20, 30, 40"
        ):
            dataset.CocoDataset().load_coco(tmp_path, "val", image_ids=wrong)


def test_images_of_a_small_set_are_decoded_once(tmp_path, monkeypatch):
    coco_tree.write_tree(tmp_path)
    data, large = (coco_tree.load(tmp_path, subset="val") for _ in range(2))
    first = data.load_image(0)
    expected = first.copy()
    first[:] = 0  # a caller's changes stay with the caller
    assert len(pickle.dumps(data)) < 2 * len(pickle.dumps(large))
    monkeypatch.setattr(dataset, "_CACHED_BYTES", 1000)
    large.prepare()
    for path in {info["path"] for info in data.image_info}:
        os.remove(path)
    np.testing.assert_array_equal(data.load_image(0), expected)
    for other, image_id in ((data, 1), (large, 0), (pickle.loads(pickle.dumps(data)), 0)):
        with pytest.raises(ValueError, match="no such file"):
            other.load_image(image_id)


def test_active_classes_from_a_list_and_a_file(tmp_path):
    coco_tree.write_tree(tmp_path)
    data = load(tmp_path)
    data.set_active_classes([1, 3])
    assert data.ACTIVE_CLASSES.tolist() == [1, 3]
    (tmp_path / "classes.txt").write_text("2\n3\n")
    data.set_active_classes(str(tmp_path / "classes.txt"))
    assert data.ACTIVE_CLASSES.tolist() == [2, 3]
    (tmp_path / "classes.txt").write_text("2\nbird\n")
    with pytest.raises(ValueError, match="classes.txt: 'bird': expected class ids"):
        data.set_active_classes(str(tmp_path / "classes.txt"))
