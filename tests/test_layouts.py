"""Folders and file names as annotation tools write them."""

import json
import logging
import shutil

import coco_tree
import pytest

from siamese_mrcnn_tf.cli.main import main
from siamese_mrcnn_tf.data.dataset import IndexedCocoDataset, split_classes
from siamese_mrcnn_tf.data.layouts import LayoutError, find_image, find_layout
from siamese_mrcnn_tf.evaluation.queries import queries_of

IMAGES = 3  # with annotations, of the four in the tree


def load(root, subset="train", **options):
    dataset = IndexedCocoDataset()
    dataset.load_coco(root, subset, **options)
    dataset.prepare()
    dataset.build_indices()
    for image_id in range(dataset.num_images):
        assert dataset.load_image(image_id).shape == (*coco_tree.SIZE, 3)
    return dataset


def write(root, annotations, images, *, subset="train", names="{}", **changes):
    """A data set of three images with the annotation file and the images at these places; returns its content."""
    made = root / "made"
    content = coco_tree.write_tree(made, subset=subset, num_images=IMAGES + 1) | changes
    for place in (root / annotations).parent, root / images:
        place.mkdir(parents=True, exist_ok=True)
    for image in content["images"]:
        shutil.move(made / f"{subset}2017" / image["file_name"], root / images / image["file_name"])
        image["file_name"] = names.format(image["file_name"])
    (root / annotations).write_text(json.dumps(content), encoding="utf-8")
    shutil.rmtree(made)
    return content


LAYOUTS = {
    "COCO": ("annotations/instances_train2017.json", "train2017"),
    "COCO without year": ("annotations/instances_train.json", "train"),
    "images below images": ("annotations/instances_train.json", "images/train"),
    "another year": ("annotations/instances_train2021.json", "images"),
    "Roboflow": ("train/_annotations.coco.json", "train"),
    "CVAT": ("annotations/instances_default.json", "images/default"),
    "CVAT, images": ("annotations/instances_default.json", "images"),
    "CVAT subsets": ("annotations/instances_Train.json", "images/Train"),
    "Label Studio": ("result.json", "images"),
    "coco-annotator": ("dataset-1.json", "images"),
    "one file beside its images": ("labels.json", "."),
    "subset by name": ("annotations/train.json", "train"),
    "subset in the root": ("train.json", "train"),
    "subset as a word": ("annotations/coco_train_v2.json", "images/train"),
    "the only other folder": ("dataset-1.json", "photos of me"),
}


@pytest.mark.parametrize(("annotations", "images"), LAYOUTS.values(), ids=LAYOUTS)
def test_layouts(tmp_path, annotations, images):
    write(tmp_path, annotations, images)
    dataset = load(tmp_path)
    assert dataset.num_images == IMAGES + 1 and dataset.class_names[1:] == ["ellipse", "rectangle", "triangle"]
    assert len(dataset.images_of(1)) == 2


@pytest.mark.parametrize("name", ["valid", "validation", "val"])
def test_names_of_the_validation_subset(tmp_path, name):
    write(tmp_path, f"{name}/_annotations.coco.json", name, subset="val")
    assert load(tmp_path, "val").num_images == IMAGES + 1


def test_cocos_own_layout_comes_first(tmp_path):
    write(tmp_path, "annotations/instances_train2014.json", "train2014")
    write(tmp_path, "train/_annotations.coco.json", "train")
    coco_tree.write_tree(tmp_path, subset="train")
    assert find_layout(tmp_path, "train", "2017")[0].name == "instances_train2017.json"
    assert load(tmp_path).set_name == "train2017"
    assert load(tmp_path, year="2014").set_name == "train2014"


def test_another_year_is_said(tmp_path, caplog):
    write(tmp_path, "annotations/instances_train2021.json", "train2021")
    with caplog.at_level(logging.WARNING):
        load(tmp_path)
    assert "no instances_train2017.json, instances_train2021.json is taken" in caplog.text


def test_the_only_coco_file_beside_others(tmp_path):
    write(tmp_path, "labels.json", "photos")
    (tmp_path / "info.json").write_text('{"version": 1}', encoding="utf-8")
    (tmp_path / "broken.json").write_text("{", encoding="utf-8")
    assert load(tmp_path).set_name == "photos"
    shutil.copy(tmp_path / "labels.json", tmp_path / "more.json")
    with pytest.raises(LayoutError, match=r"the folder holds broken.json, info.json, labels.json, more.json, photos"):
        find_layout(tmp_path, "train", "2017")


def test_captions_and_key_points_are_passed_over(tmp_path):
    write(tmp_path, "annotations/labels_train.json", "train2017")
    for name in ("captions_train2017.json", "person_keypoints_train2017.json"):
        (tmp_path / "annotations" / name).write_text("{}", encoding="utf-8")
    assert find_layout(tmp_path, "train", "2017")[0].name == "labels_train.json"


def test_a_folder_of_another_subset_is_not_taken(tmp_path):
    write(tmp_path, "annotations/instances_val2017.json", "train2017", subset="val")
    with pytest.raises(ValueError, match=r"instances_val2017.json: no such image folder \(looked for .*val2017, "):
        load(tmp_path, "val")


def test_what_is_missing_is_said(tmp_path):
    with pytest.raises(LayoutError, match="none: no such folder"):
        find_layout(tmp_path / "none", "train", "2017")
    with pytest.raises(LayoutError, match=r"no annotation file for 'val' .*the folder holds nothing"):
        find_layout(tmp_path, "val", "2017")
    write(tmp_path, "annotations/instances_default.json", "images")
    with pytest.raises(LayoutError, match=r"holds all images: to split it, siamese-mrcnn convert .*--val-share 0.2"):
        find_layout(tmp_path, "val", "2017")
    shutil.rmtree(tmp_path / "images")
    coco_tree.write_tree(tmp_path)
    shutil.rmtree(tmp_path / "val2017")
    (tmp_path / "annotations" / "instances_default.json").unlink()
    with pytest.raises(LayoutError, match="instances_minival2014.json: no such annotation file; .*val2017.json"):
        find_layout(tmp_path, "minival", "2017")


def test_an_annotation_file_and_an_image_folder(tmp_path, capsys):
    write(tmp_path, "here/labels.json", "there/photos")
    command = ["check", "--annotations", str(tmp_path / "here/labels.json"), "--config", "tiny", "--samples", "0"]
    command += ["--out", str(tmp_path / "out")]
    assert main([*command, "--images", str(tmp_path / "there/photos")]) == 0
    assert "photos: 4 images" in capsys.readouterr().out
    assert main([*command, "--images", str(tmp_path / "there/photos"), "--image-ids", "10"]) == 0
    assert "photos: 1 images" in capsys.readouterr().out
    assert main(command) != 0
    assert "expected the folder of the images of" in capsys.readouterr().err
    assert main([*command, "--images", str(tmp_path / "gone")]) != 0
    assert "gone" in capsys.readouterr().err
    assert main([*command, "--images", "x", "--dataset", "y"]) != 0


# ---- names of images -----------------------------------------------------------------------------------------------
NAMES = {
    "backslash": "images\\{}",
    "absolute": "/home/me/photos/{}",
    "Windows": "C:\\Users\\me\\{}",
    "parent": "../upload/{}",
    "dot": "./{}",
    "folder": "data/train/{}",
    "address": "https://host.example/data/{}?width=100",
    "encoded": "%2Fdata%2F{}",
    "local address": "/data/local-files/?d=photos%5C{}",
}


@pytest.mark.parametrize("names", NAMES.values(), ids=NAMES)
def test_names_that_are_paths_of_another_machine(tmp_path, names):
    write(tmp_path, "annotations/instances_train2017.json", "train2017", names=names)
    assert load(tmp_path).num_images == IMAGES + 1


def test_the_longest_part_that_is_there(tmp_path):
    (tmp_path / "a").mkdir()
    for path in ("x.png", "a/x.png", "b%20c.png", "b c.png"):
        (tmp_path / path).write_bytes(b"")
    assert find_image("data\\a\\x.png", tmp_path) == "a/x.png" and find_image("../x.png", tmp_path) == "x.png"
    assert find_image("b%20c.png", tmp_path) == "b%20c.png" and find_image("up/b%20c.png", tmp_path) == "b%20c.png"
    assert find_image("../../gone.png", tmp_path) is None


def test_two_names_of_one_file(tmp_path):
    content = write(tmp_path, "annotations/instances_train2017.json", "train2017", names="one\\{}")
    content["images"][1]["file_name"] = "two\\" + content["images"][0]["file_name"].split("\\")[1]
    coco_tree.write_annotations(tmp_path, content, subset="train")
    with pytest.raises(ValueError, match=r"images\[0\] \(id 10\): .* and images\[1\] \(id 20\): .* are the same file"):
        load(tmp_path)


@pytest.mark.parametrize("form", ["./{}", "up/../{}", ".//{}"])
def test_two_forms_of_one_name(tmp_path, form):
    content = write(tmp_path, "annotations/instances_train2017.json", "train2017")
    content["images"][2]["file_name"] = form.format(content["images"][0]["file_name"])
    coco_tree.write_annotations(tmp_path, content, subset="train")
    with pytest.raises(ValueError, match=r"images\[0\] \(id 10\): .* and images\[2\] .* are the same file"):
        load(tmp_path)


def test_a_missing_image_is_named(tmp_path):
    content = write(tmp_path, "annotations/instances_train2017.json", "train2017", names="up\\{}")
    (tmp_path / "train2017" / content["images"][0]["file_name"].split("\\")[1]).unlink()
    message = r"train2017/.*000000000010.png: no such file; image 10 is listed as 'up"
    with pytest.raises(ValueError, match=message):
        load(tmp_path)


# ---- categories ----------------------------------------------------------------------------------------------------
GROUPED = [{"id": 3, "name": "ellipse", "supercategory": "things"}] + [
    {"id": i, "name": name, "supercategory": "things"} for i, name in ((7, "rectangle"), (18, "triangle"))
]
ROOT = {"id": 0, "name": "things", "supercategory": "none"}


def test_a_category_that_groups_the_others_takes_no_number(tmp_path):
    write(tmp_path, "train/_annotations.coco.json", "train", categories=[ROOT, *GROUPED])
    dataset = load(tmp_path)
    assert dataset.class_names == ["BG", "ellipse", "rectangle", "triangle"]
    assert split_classes(dataset.num_classes - 1, 1)[1].tolist() == [1]
    assert sum(len(classes) for _, classes in queries_of(dataset)) == 6


@pytest.mark.parametrize(
    "categories",
    [
        [{"id": 0, "name": "things", "supercategory": "things"}, *GROUPED],  # as COCO's person
        [{"id": 0, "name": "things"}, *GROUPED],
        [{"id": 0, "name": "other", "supercategory": "none"}, *GROUPED],
        [ROOT, *GROUPED, {"id": 90, "name": "bus", "supercategory": "vehicle"}],
    ],
)
def test_other_categories_without_instances_keep_their_numbers(tmp_path, categories):
    write(tmp_path, "train/_annotations.coco.json", "train", categories=categories)
    assert load(tmp_path).num_classes == 1 + len(categories)


def test_a_grouping_category_with_instances_stays(tmp_path):
    content = write(tmp_path, "train/_annotations.coco.json", "train", categories=[ROOT, *GROUPED])
    content["annotations"][0]["category_id"] = 0
    (tmp_path / "train" / "_annotations.coco.json").write_text(json.dumps(content), encoding="utf-8")
    assert load(tmp_path).class_names[1] == "things"


@pytest.mark.parametrize("used", [True, False])
def test_all_subsets_number_their_classes_alike(tmp_path, used, caplog):
    content = write(tmp_path, "train/_annotations.coco.json", "train", categories=[ROOT, *GROUPED])
    write(tmp_path, "valid/_annotations.coco.json", "valid", subset="val", categories=[ROOT, *GROUPED])
    content["annotations"][0]["category_id"] = 0 if used else 3
    (tmp_path / "train" / "_annotations.coco.json").write_text(json.dumps(content), encoding="utf-8")
    assert load(tmp_path, "val").class_names == load(tmp_path).class_names
    assert load(tmp_path, "val").num_classes == (5 if used else 4)
    assert ("train/_annotations.coco.json has annotations of it" in caplog.text) == used


def test_names_with_commas_are_whole(tmp_path, capsys):
    categories = [{"id": i, "name": f"bolt, M{i}"} for i in (3, 7, 18)]
    coco_tree.write_annotations(tmp_path, coco_tree.write_tree(tmp_path) | {"categories": categories})
    assert load(tmp_path, "val").class_names[1:] == ["bolt, M3", "bolt, M7", "bolt, M18"]
    arguments = ["check", "--dataset", str(tmp_path), "--subset", "val", "--config", "tiny", "--samples", "0"]
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 0
    assert "bolt, M18" in capsys.readouterr().out
