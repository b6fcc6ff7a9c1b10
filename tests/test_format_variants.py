"""Annotations of tools in less usual forms: other spellings of shapes, lists and names, and values of another kind."""

import base64
import io
import json

import format_samples as samples
import numpy as np
import pytest
from PIL import Image

from siamese_mrcnn_tf.data.formats.convert import convert

CORNERS = [[10, 10], [50, 20], [45, 60], [5, 50]]


def labelme_shape(root, **shape):
    samples.write_images(root, ["one.png"])
    shape = {"label": "a", "group_id": None, "mask": None} | shape
    (root / "one.json").write_text(json.dumps({"imagePath": "one.png", "imageData": None, "shapes": [shape]}))
    return convert([root], None, root / "out", progress=False)["train2017"]["annotations"]


@pytest.mark.parametrize("kind", ["oriented_rectangle", "rotation", "rectangle"])
def test_rectangles_of_labelme_with_four_corners(tmp_path, kind):
    (entry,) = labelme_shape(tmp_path, shape_type=kind, points=CORNERS)
    assert entry["segmentation"] == [np.ravel(CORNERS).tolist()]


def test_a_mask_of_labelme_may_be_one_pixel(tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(np.full((1, 1), 255, np.uint8)).save(buffer, "PNG")
    mask = base64.b64encode(buffer.getvalue()).decode()
    (entry,) = labelme_shape(tmp_path, shape_type="mask", points=[[7, 5], [7, 5]], mask=mask)
    assert entry["bbox"] == [7, 5, 1, 1] and entry["area"] == 1


LABELLED = {  # shape: (its values in percent, box x, y, width, height in pixels)
    "polygon": ({"points": [[10, 10], [50, 10], [50, 50]]}, [16, 12, 64, 48]),
    "rectangle": ({"x": 10, "y": 10, "width": 25, "height": 50}, [16, 12, 40, 60]),
    "ellipse": ({"x": 50, "y": 50, "radiusX": 25, "radiusY": 25}, [40, 30, 80, 60]),
}


@pytest.mark.parametrize("shape", LABELLED)
def test_labels_of_label_studio_beside_their_shapes(tmp_path, shape, caplog):
    """The tag Labels with a tag of shapes: two results of one id, the shape alone and the shape with its label."""
    samples.write_images(tmp_path, ["one.png"])
    value, box = LABELLED[shape]
    size = {"original_width": 160, "original_height": 120}
    results = [size | {"id": "x", "type": shape, "value": value}]
    results.append(size | {"id": "x", "type": "labels", "value": value | {"labels": ["a"]}})
    results.append(size | {"id": "y", "type": shape, "value": value})
    task = {"id": 1, "data": {"image": "one.png"}, "annotations": [{"result": results}]}
    (tmp_path / "tasks.json").write_text(json.dumps([task]))
    content = convert([tmp_path / "tasks.json"], tmp_path, tmp_path / "out", progress=False)["train2017"]
    (entry,) = content["annotations"]
    assert np.allclose(entry["bbox"], box, atol=1) and content["categories"][0]["name"] == "a"
    assert "task 1, result 3" in caplog.text and "result 1" not in caplog.text


def test_tasks_of_label_studio_without_annotations_are_named(tmp_path, caplog):
    path = tmp_path / "tasks.json"
    samples.write_images(tmp_path, ["one.png", "two.png"])
    value = {"points": [[10, 10], [50, 10], [50, 50]], "polygonlabels": ["a"]}
    result = {"type": "polygonlabels", "original_width": 160, "original_height": 120, "value": value}
    tasks = [{"id": 1, "data": {"image": "one.png"}, "annotations": [{"result": [result]}]}]
    tasks.append({"id": 2, "data": {"image": "two.png"}, "annotations": [{"was_cancelled": True, "result": [result]}]})
    path.write_text(json.dumps(tasks))
    contents = convert([path], tmp_path, tmp_path / "out", progress=False)["train2017"]
    assert len(contents["images"]) == 2 and len(contents["annotations"]) == 1
    assert "1 tasks without an annotation" in caplog.text and "task 2" in caplog.text
    result["type"] = "bitmasklabels"
    path.write_text(json.dumps(tasks))
    with pytest.raises(ValueError, match="task 1, result 1: type = 'bitmasklabels', which is not read; export"):
        convert([path], tmp_path, tmp_path / "again", progress=False)


def test_extreme_shapes_of_via3(tmp_path):
    paths, image_dir = samples.via3(tmp_path, samples.objects(parts=False, holes=False))
    content = json.loads(paths[0].read_text())
    rectangle, circle = (content["metadata"][key] for key in ("1_0", "1_1"))
    rectangle["xy"] = [8, 20, 40, 50, 10, 80, 30, 60, 70]  # points on the left, top, right and lower edge
    circle["xy"] = [9, 90, 60, 110, 40, 130, 60]  # on a circle around (110, 60)
    paths[0].write_text(json.dumps(content))
    entries = convert(paths, image_dir, tmp_path / "out", progress=False)["train2017"]["annotations"]
    assert entries[0]["bbox"] == [20, 10, 60, 60]
    assert np.allclose(entries[1]["bbox"], [90, 40, 40, 40], atol=1)
    assert entries[1]["area"] == pytest.approx(np.pi * 20**2, rel=0.01)
    for numbers, message in (([8, 1, 2, 3, 4], "expected 4 points"), ([9, 1, 1, 2, 2, 3, 3], "not on one line")):
        rectangle["xy"] = numbers
        paths[0].write_text(json.dumps(content))
        with pytest.raises(ValueError, match=f"metadata '1_0': xy = .*{message}"):
            convert(paths, image_dir, tmp_path / "again", progress=False)


def own_voc(root, *, boxes=True, names=""):
    """One object whose class number 1 is a bolt, which boxes or a list of names say, or nothing."""
    samples.write_images(root / "JPEGImages", ["one.png"])
    mask = np.zeros((120, 160), np.uint8)
    mask[20:60, 10:40] = 1
    for name in ("SegmentationObject", "SegmentationClass"):
        (root / name).mkdir()
        Image.fromarray(mask).save(root / name / "one.png")
    box = "<bndbox><xmin>11</xmin><ymin>21</ymin><xmax>40</xmax><ymax>60</ymax></bndbox>"
    if boxes:
        (root / "Annotations").mkdir()
        (root / "Annotations/one.xml").write_text(f"<annotation><object><name>bolt</name>{box}</object></annotation>")
    if names:
        (root / "class_names.txt").write_text(names)
    return convert([root], None, root / "out", progress=False)["train2017"]["categories"]


def test_classes_of_voc_that_are_not_those_of_voc_2012(tmp_path, caplog):
    bolt = [{"id": 1, "name": "bolt"}]
    assert own_voc(tmp_path / "a") == bolt
    assert own_voc(tmp_path / "b", boxes=False, names="__ignore__\n_background_\nbolt\n") == bolt
    assert "those of VOC 2012 are taken" not in caplog.text
    assert own_voc(tmp_path / "c", boxes=False) == [{"id": 1, "name": "aeroplane"}]
    assert "1 objects: " in caplog.text and "those of VOC 2012 are taken" in caplog.text


@pytest.mark.parametrize("val", ["images/val", "val.txt"])
def test_lists_and_numbers_of_yolo(tmp_path, val):
    samples.yolo(tmp_path, samples.objects(parts=False, holes=False))
    root = tmp_path / "yolo"
    (root / "val.txt").write_text("./images/val/four.png\n./images/val/three.png\n")
    names = "names: {'0': a, '1': b, '2': c}\n"
    (root / "data.yaml").write_text(f"train: images/train\nval: {val}\n{names}")
    contents = convert([root], None, tmp_path / "out", progress=False)
    assert {name: (len(c["images"]), len(c["annotations"])) for name, c in contents.items()} == {
        "train2017": (2, 3),
        "val2017": (2, 2),
    }
    (root / "data.yaml").write_text(f"train: images/trian\nval: {val}\n{names}")
    with pytest.raises(ValueError, match="data.yaml: train = 'images/trian': no such folder, and no list of images"):
        convert([root], None, tmp_path / "again", progress=False)


def test_annotations_of_supervisely_without_the_suffix_of_the_image(tmp_path):
    paths, _ = samples.supervisely(tmp_path, samples.objects(parts=False))
    folder = paths[0] / "train" / "ann"
    (folder / "one.png.json").rename(folder / "one.json")
    contents = convert(paths, None, tmp_path / "out", progress=False)
    assert {image["file_name"] for image in contents["train2017"]["images"]} == {"one.png", "two.png"}


@pytest.mark.parametrize(
    ("write", "options", "name", "keys", "value", "message"),
    [
        (samples.via3, {}, "via3.json", ("metadata", "1_0", "xy", 0), [7], r"metadata '1_0': xy\[0\] = \[7\]"),
        (samples.via3, {}, "via3.json", ("metadata", "1_0", "av"), [3], r"metadata '1_0': av = \[3\], expected a dict"),
        (samples.via3, {}, "via3.json", ("file", "1"), 3, "file '1': 3, expected a dict"),
        (samples.via3, {}, "via3.json", ("attribute", "1", "options"), [3], r"options = \[3\], expected a dict"),
        (
            samples.supervisely,
            {},
            "supervisely/train/ann/one.png.json",
            ("objects", 0, "points", "interior"),
            3,
            "object 1: interior = 3, expected a list",
        ),
        (
            samples.supervisely,
            {"masks": True},
            "supervisely/train/ann/one.png.json",
            ("objects", 0, "bitmap", "origin"),
            [3],
            r"object 1: origin = \[3\], expected \[x, y\]",
        ),
        (samples.coco, {}, "annotations/instances_default.json", ("annotations", 5, "image_id"), [3], "image_id = "),
    ],
)
def test_values_of_another_kind_are_named(tmp_path, write, options, name, keys, value, message):
    paths, image_dir = write(tmp_path, samples.objects(), **options)
    content = json.loads((tmp_path / name).read_text())
    inner = content
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    (tmp_path / name).write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        convert(paths, image_dir, tmp_path / "out", progress=False)
