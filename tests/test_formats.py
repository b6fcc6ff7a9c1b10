"""Annotations of tools: exports of one drawn set are read as they were drawn, and every file is named as what it is."""

import base64
import io
import json
import logging
import os
import re
import struct
import zlib

import format_samples as samples
import numpy as np
import pytest
from PIL import Image

from siamese_mrcnn_tf.cli.main import main
from siamese_mrcnn_tf.config import TinyConfig
from siamese_mrcnn_tf.data.data_generator import TrainingSamples
from siamese_mrcnn_tf.data.dataset import IndexedCocoDataset
from siamese_mrcnn_tf.data.formats.convert import convert, identify
from siamese_mrcnn_tf.io.errors import InputError

POLYGONS, EXACT = 0.99, 1.0  # minimum IoU

EXPORTS = {  # name: (writer, options, whether it holds parts, holes, subsets; minimum IoU)
    "LabelMe": (samples.labelme, {}, True, True, False, POLYGONS),
    "LabelMe masks": (samples.labelme, {"masks": True}, True, True, False, EXACT),
    "LabelMe embedded": (samples.labelme, {"embedded": True}, True, True, False, POLYGONS),
    "CVAT": (samples.cvat, {}, True, True, True, POLYGONS),
    "CVAT masks": (samples.cvat, {"masks": True}, True, True, True, EXACT),
    "Label Studio": (samples.label_studio, {}, True, True, False, POLYGONS),
    "Label Studio brush": (samples.label_studio, {"masks": True}, True, True, False, EXACT),
    "VIA 2": (samples.via2, {}, False, False, False, POLYGONS),
    "VIA 3": (samples.via3, {}, False, False, False, POLYGONS),
    "Pascal VOC": (samples.voc, {}, True, False, True, EXACT),
    "YOLO": (samples.yolo, {}, False, False, True, POLYGONS),
    "Supervisely": (samples.supervisely, {}, False, True, True, POLYGONS),
    "Supervisely bitmaps": (samples.supervisely, {"masks": True}, True, True, True, EXACT),
    "COCO": (samples.coco, {}, True, True, False, EXACT),
}


def load(root, subset):
    dataset = IndexedCocoDataset()
    dataset.load_coco(root, subset)
    dataset.prepare()
    dataset.build_indices()
    return dataset


def overlap(mask, other):
    return (mask & other).sum() / (mask | other).sum()


@pytest.mark.parametrize("name", EXPORTS)
def test_exports_are_read_as_drawn(tmp_path, name):
    write, options, parts, holes, subsets, minimum = EXPORTS[name]
    drawn = samples.objects(parts=parts, holes=holes and name != "Pascal VOC")
    if name == "Pascal VOC":  # pixels have one owner
        drawn["three.png"] = drawn["three.png"][:2]
    paths, image_dir = write(tmp_path, drawn, **options)
    convert(paths, image_dir, tmp_path / "out", progress=False)
    seen = {}
    for subset in ("train", "val") if subsets else ("train",):
        dataset = load(tmp_path / "out", subset)
        assert dataset.class_names[1:] == sorted(samples.NAMES, key=samples.NAMES.index if name == "COCO" else None)
        for image_id, info in enumerate(dataset.image_info):
            seen[info["path"].rsplit("/", 1)[-1]] = subset
            masks, classes = dataset.load_mask(image_id)
            expected = drawn[info["path"].rsplit("/", 1)[-1]]
            found = [dataset.class_names[one] for one in classes]
            assert sorted(found) == sorted(label for label, _, _ in expected)
            for label, polygons, cut in expected:
                mask = samples.mask_of(polygons, cut)
                best = max(overlap(masks[..., i], mask) for i, one in enumerate(found) if one == label)
                assert best >= minimum if minimum == EXACT else best > minimum
        samples_of = TrainingSamples(dataset, TinyConfig())
        assert (samples_of[0].gt_class_ids == 1).any()
    assert seen == (samples.SUBSETS if subsets else dict.fromkeys(samples.SUBSETS, "train"))
    assert not any(dataset.repairs.found.values())


def test_a_coco_file_is_split_as_it_is(tmp_path):
    paths, image_dir = samples.coco(tmp_path, samples.objects())
    before = json.loads(paths[0].read_text())
    before["annotations"][1]["iscrowd"] = 1
    paths[0].write_text(json.dumps(before))
    contents = convert(paths, image_dir, tmp_path / "out", val_share=0.5, progress=False)
    assert list(contents) == ["train2017", "val2017"]
    after = [entry for content in contents.values() for entry in content["annotations"]]
    keys = ("segmentation", "bbox", "area", "iscrowd", "category_id")
    key = json.dumps
    assert sorted(key([e[k] for k in keys]) for e in after) == sorted(
        key([e[k] for k in keys]) for e in before["annotations"]
    )
    assert all(content["categories"] == before["categories"] for content in contents.values())
    assert main(["check", "--dataset", str(tmp_path / "out"), "--samples", "0", "--out", str(tmp_path / "c")]) == 0


@pytest.mark.parametrize("seed", range(5))
def test_categories_of_two_images_are_in_both_parts(tmp_path, seed):
    paths, image_dir = samples.coco(tmp_path, samples.objects(parts=False, holes=False))  # wing is in one image
    contents = convert(paths, image_dir, tmp_path / "out", val_share=0.3, seed=seed, progress=False)
    present = [{entry["category_id"] for entry in content["annotations"]} - {8} for content in contents.values()]
    assert present == [{2, 5}, {2, 5}] and sum(len(c["images"]) for c in contents.values()) == 4


def test_a_category_that_cannot_be_in_both_parts_is_named(tmp_path, caplog):
    drawn = {f"{i}.png": [] for i in range(3)}
    for index, label in enumerate(samples.NAMES):
        for image in (index, (index + 1) % 3):
            drawn[f"{image}.png"].append((label, [[[10, 10], [50, 10], [50, 50]]], []))
    samples.write_images(tmp_path / "images" / "default", list(drawn))
    paths, image_dir = samples.coco(tmp_path, drawn)
    with caplog.at_level(logging.WARNING):
        convert(paths, image_dir, tmp_path / "out", val_share=0.3, progress=False)
    assert "1 categories of several images are in one part alone" in caplog.text


def test_boxes_alone_are_left_to_the_rule(tmp_path):
    folder = tmp_path / "voc"
    samples.write_images(folder / "JPEGImages", ["one.png"])
    (folder / "Annotations").mkdir()
    box = "<bndbox><xmin>11</xmin><ymin>21</ymin><xmax>40</xmax><ymax>60</ymax></bndbox>"
    (folder / "Annotations" / "one.xml").write_text(f"<annotation><object><name>dog</name>{box}</object></annotation>")
    contents = convert([folder], None, tmp_path / "out", progress=False)
    (entry,) = contents["train2017"]["annotations"]
    assert entry["segmentation"] == [] and entry["bbox"] == [10, 20, 30, 40]
    mask = load(tmp_path / "out", "train").load_mask(0)[0][..., 0]
    assert mask.sum() == 1200 and mask[20:60, 10:40].all()


def test_left_out_and_missing(tmp_path, caplog):
    paths, _ = samples.labelme(tmp_path, samples.objects())
    with caplog.at_level(logging.WARNING):
        convert(paths, None, tmp_path / "out", progress=False)
    assert "points and lines: left out, they have no area (4: " in caplog.text
    (tmp_path / "labelme" / "one.png").unlink()
    with pytest.raises(ValueError, match=r"one.json: no such file in .*labelme: 'one.png'"):
        convert(paths, None, tmp_path / "again", progress=False)
    assert not (tmp_path / "again" / "annotations").exists()


LEFT_OUT = "images: left out, no annotation file names them; to keep one as an image without objects"


@pytest.mark.parametrize("name", [name for name in EXPORTS if name != "LabelMe embedded"])
def test_images_that_are_not_annotated_are_named(tmp_path, caplog, name):
    write, options, *_ = EXPORTS[name]
    paths, images = write(tmp_path, samples.objects(), **options)
    convert(paths, images, tmp_path / "all", progress=False)
    assert LEFT_OUT not in caplog.text
    places = (path.parent for path in tmp_path.rglob("two.png") if "all" not in path.parts)
    folder = next(place for place in places if not place.name.startswith("Segmentation"))
    for extra in ("more.png", ".hidden.png"):
        Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(folder / extra)
    contents = convert(paths, images, tmp_path / "out", progress=False)
    kept = [image["file_name"] for content in contents.values() for image in content["images"]]
    if name == "YOLO":  # there it is an image without objects
        assert LEFT_OUT not in caplog.text and any(one.endswith("more.png") for one in kept)
    else:
        assert LEFT_OUT in caplog.text and f"(1: {folder / 'more.png'})" in caplog.text
        assert not any("more" in one for one in kept)


def test_a_box_that_reaches_out_is_told(tmp_path, caplog):
    samples.write_images(tmp_path / "JPEGImages", ["one.png"])
    (tmp_path / "Annotations").mkdir()
    box = "<bndbox><xmin>-20</xmin><ymin>21</ymin><xmax>40</xmax><ymax>60</ymax></bndbox>"
    text = f"<annotation><object><name>dog</name>{box}</object></annotation>"
    (tmp_path / "Annotations" / "one.xml").write_text(text)
    with caplog.at_level(logging.WARNING):
        convert([tmp_path], None, tmp_path / "out", progress=False)
    assert "reaches 21 pixels out of the image" in caplog.text


def test_a_mask_that_reaches_out_is_told(tmp_path, caplog):
    (path,), images = samples.cvat(tmp_path, samples.objects(), masks=True)
    start, mark, rest = path.read_text().partition("<mask")
    path.write_text(start + mark + re.sub(r'left="\d+"', 'left="-9"', rest, count=1))
    with caplog.at_level(logging.WARNING):
        convert([path], images, tmp_path / "out", progress=False)
    assert "(mask): reaches 9 pixels out of the image" in caplog.text


# ---- what a file is of ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", EXPORTS)
def test_exports_are_told_by_their_content(tmp_path, name):
    write, options, *_ = EXPORTS[name]
    paths, _ = write(tmp_path, samples.objects(), **options)
    expected = name.removesuffix(" 2").removesuffix(" 3")
    assert all(expected.startswith(identify(path)) for path in paths)


OTHERS = {
    "x.json: a COCO file without categories": {"images": [], "annotations": []},
    "which is not read; export it as COCO": {"item": {}, "annotations": []},
    "the export 'JSON-MIN' of Label Studio": [{"image": "/data/a.png", "label": [], "annotation_id": 1}],
    "one image of Supervisely; pass the folder": {"objects": [], "size": {}},
    "a list, expected annotations of COCO, LabelMe": [1, 2],
    "with the keys a, b, expected annotations": {"a": 1, "b": 2},
    "expected annotations of COCO": 3,
}


@pytest.mark.parametrize("message", OTHERS)
def test_other_json_files_are_named(tmp_path, message):
    path = tmp_path / "x.json"
    path.write_text(json.dumps(OTHERS[message]))
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        identify(path)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.xml", "<annotation/>", "one image of Pascal VOC; pass the folder"),
        ("a.xml", "<svg/>", "<svg>, expected annotations of CVAT"),
        ("a.xml", "<a", "not an XML file that can be read"),
        ("a.xml", "<!DOCTYPE a><a/>", "with a document type"),
        ("a.csv", "x,y\n1,2\n", "a table, but not one of VIA"),
        ("a.txt", "0 0.5", "perhaps of YOLO; pass its data.yaml"),
        ("a.zip", "PK", "an archive; unpack it first"),
        ("a.json", "{", "a.json"),
    ],
)
def test_other_files_are_named(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        identify(tmp_path / name)


def test_folders_and_mixtures_are_named(tmp_path, capsys):
    with pytest.raises(ValueError, match="no annotations in this folder"):
        identify(tmp_path)
    paths, images = samples.coco(tmp_path, samples.objects())
    with pytest.raises(ValueError, match="a folder with files of COCO; pass the files"):
        identify(tmp_path / "annotations")
    other, _ = samples.cvat(tmp_path, samples.objects())
    assert main(["convert", str(paths[0]), str(other[0]), "--images", str(images), "--out", str(tmp_path / "o")]) == 2
    assert "expected annotations of one tool" in capsys.readouterr().err


# ---- faults of entries ---------------------------------------------------------------------------------------------
def changed(path, find, replacement):
    text = path.read_text(encoding="utf-8")
    assert find in text
    path.write_text(text.replace(find, replacement, 1), encoding="utf-8")


FAULTS = [
    (
        samples.labelme,
        "labelme/one.json",
        '"shape_type": "polygon"',
        '"shape_type": "cloud"',
        "shape 1: shape_type = 'cloud'",
    ),
    (samples.labelme, "labelme/one.json", '"label": "bolt, M8", ', "", "one.json: shape 1: the key 'label' is missing"),
    (samples.labelme, "labelme/one.json", "[20, 20]", '["a", 20]', r"shape 1: points\[0\] = 'a', expected a number"),
    (
        samples.labelme,
        "labelme/one.json",
        '"imageHeight": 120',
        '"imageHeight": 60',
        "its annotations are for 60 x 160",
    ),
    (
        samples.cvat,
        "annotations.xml",
        "20.00,20.00",
        "20.00,x",
        r"shape 1 \(polygon\): points\[0\] = 'x', expected a number",
    ),
    (samples.cvat, "annotations.xml", 'rle="', 'rle="9, ', r"shape 3 \(mask\): rle = '9, .*expected runs of 60 x 50"),
    (samples.cvat, "annotations.xml", "</annotations>", "<track id='0'/></annotations>", "CVAT for video 1.1"),
    (
        samples.label_studio,
        "project.json",
        '"original_width": 160',
        '"original_width": 0',
        "task 1, result 1: original_width = 0",
    ),
    (
        samples.label_studio,
        "project.json",
        '"rle": [',
        '"rle": [7, ',
        "rle = .*7, .*expected the runs of a brush mask|values",
    ),
    (
        samples.via3,
        "via3.json",
        '"xy": [7,',
        '"xy": [70,',
        r"metadata '1_0': xy\[0\] = 70, expected the number of a shape",
    ),
    (
        samples.voc,
        "voc/labelmap.txt",
        "bolt, M8:50,10,199",
        "bolt, M8:9,9,9",
        "no category, neither in SegmentationClass",
    ),
    (samples.voc, "voc/labelmap.txt", "50,10,199", "50,10", "no category"),
    (
        samples.yolo,
        "yolo/labels/train/one.txt",
        "0 0.125",
        "9 0.125",
        "one.txt: line 1: class 9, expected one of 0, 1, 2",
    ),
    (
        samples.yolo,
        "yolo/labels/train/one.txt",
        "0 0.125",
        "0 125",
        "line 1: coordinates .* expected shares of the image",
    ),
    (
        samples.supervisely,
        "supervisely/train/ann/one.png.json",
        '"polygon"',
        '"blob"',
        "object 1: geometryType = 'blob'",
    ),
]


@pytest.mark.parametrize(("write", "name", "find", "replacement", "message"), FAULTS)
def test_faults_name_file_entry_and_value(tmp_path, write, name, find, replacement, message):
    paths, image_dir = write(tmp_path, samples.objects())
    changed(tmp_path / name, find, replacement)
    with pytest.raises(ValueError, match=message):
        convert(paths, image_dir, tmp_path / "out", progress=False)
    assert not (tmp_path / "out" / "annotations").exists()


def test_one_category_and_an_order_of_categories(tmp_path):
    paths, image_dir = samples.cvat(tmp_path, samples.objects())
    contents = convert(paths, image_dir, tmp_path / "a", category="thing", progress=False)
    assert contents["train2017"]["categories"] == [{"id": 1, "name": "thing"}]
    order = list(reversed(samples.NAMES))
    contents = convert(paths, image_dir, tmp_path / "b", categories=order, progress=False)
    assert [entry["name"] for entry in contents["val2017"]["categories"]] == order
    with pytest.raises(ValueError, match="category 'Käfer blau', expected one of wing"):
        convert(paths, image_dir, tmp_path / "c", categories=["wing", "bolt, M8"], progress=False)


def test_shapes_of_cvat_and_label_studio_that_are_turned(tmp_path):
    """A quarter turn: CVAT turns around the centre, Label Studio around the first corner."""
    samples.write_images(tmp_path, ["one.png"])
    box = '<box label="a" xtl="40" ytl="50" xbr="80" ybr="70" rotation="90"/>'
    text = f'<annotations><image name="one.png" width="160" height="120">{box}</image></annotations>'
    (tmp_path / "a.xml").write_text(text)
    contents = convert([tmp_path / "a.xml"], tmp_path, tmp_path / "cvat", progress=False)
    assert np.allclose(contents["train2017"]["annotations"][0]["bbox"], [50, 40, 20, 40], atol=1)
    value = {"x": 25, "y": 50, "width": 25, "height": 10, "rotation": 90, "rectanglelabels": ["a"]}
    result = {"type": "rectanglelabels", "original_width": 160, "original_height": 120, "value": value}
    tasks = [{"id": 1, "data": {"image": "one.png"}, "annotations": [{"result": [result]}]}]
    (tmp_path / "a.json").write_text(json.dumps(tasks))
    contents = convert([tmp_path / "a.json"], tmp_path, tmp_path / "studio", progress=False)
    assert np.allclose(contents["train2017"]["annotations"][0]["bbox"], [28, 60, 12, 40], atol=1)
    del result["original_width"], result["original_height"]  # then the image tells
    (tmp_path / "a.json").write_text(json.dumps(tasks))
    assert convert([tmp_path / "a.json"], tmp_path, tmp_path / "sizeless", progress=False) == contents


# ---- images of one name --------------------------------------------------------------------------------------------
def coco_folder(root, name, colour, category, image="one.png", file="instances_default.json"):
    """A COCO tree of one image of one colour; returns its annotation file."""
    (root / name / "annotations").mkdir(parents=True)
    (root / name / "images").mkdir()
    Image.new("RGB", (160, 120), colour).save(root / name / "images" / image)
    entry = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 49, 49], "area": 1200.0, "iscrowd": 0}
    content = {
        "images": [{"id": 1, "file_name": image, "height": 120, "width": 160}],
        "annotations": [entry | {"segmentation": [[1, 1, 50, 1, 50, 50]]}],
        "categories": [{"id": 1, "name": category}],
    }
    path = root / name / "annotations" / file
    path.write_text(json.dumps(content))
    return path


def colours_by_category(root):
    dataset = load(root, "train")
    owners = {dataset.class_names[dataset.load_mask(i)[1][0]]: i for i in range(dataset.num_images)}
    return {name: tuple(dataset.load_image(i)[0, 0].tolist()) for name, i in owners.items()}


def test_images_of_one_name_do_not_replace_each_other(tmp_path, caplog):
    paths = [coco_folder(tmp_path, "a", (200, 0, 0), "red"), coco_folder(tmp_path, "b", (0, 200, 0), "green")]
    paths.append(coco_folder(tmp_path, "c", (0, 0, 200), "blue", "one_2.png"))
    contents = convert(paths, None, tmp_path / "out", progress=False)
    names = [image["file_name"] for image in contents["train2017"]["images"]]
    assert names == ["one.png", "one_3.png", "one_2.png"]
    assert colours_by_category(tmp_path / "out") == {"red": (200, 0, 0), "green": (0, 200, 0), "blue": (0, 0, 200)}
    assert "1 images have the name of another image and are written with a number: " in caplog.text


def test_embedded_images_of_one_name_do_not_replace_each_other(tmp_path):
    colours = {"red": (200, 0, 0), "green": (0, 200, 0)}
    for label, colour in colours.items():
        buffer = io.BytesIO()
        Image.new("RGB", (160, 120), colour).save(buffer, "PNG")
        shape = {"label": label, "points": [[1, 1], [50, 1], [50, 50]], "shape_type": "polygon"}
        content = {"imagePath": "one.png", "imageData": base64.b64encode(buffer.getvalue()).decode(), "shapes": [shape]}
        (tmp_path / "in" / label).mkdir(parents=True)
        (tmp_path / "in" / label / "one.json").write_text(json.dumps(content))
    convert([tmp_path / "in"], None, tmp_path / "out", progress=False)
    assert colours_by_category(tmp_path / "out") == colours


def test_coco_files_keep_their_subsets_and_find_their_images(tmp_path):
    first = coco_folder(tmp_path, "a", (200, 0, 0), "bolt", file="instances_train2017.json")
    second = tmp_path / "valid" / "images" / "_annotations.coco.json"  # beside the images, as Roboflow has it
    coco_folder(tmp_path, "valid", (0, 200, 0), "bolt").rename(second)
    (tmp_path / "r").mkdir()
    second = (tmp_path / "valid" / "images").rename(tmp_path / "r" / "valid") / second.name
    found = convert([first, second], None, tmp_path / "out", progress=False)
    assert {name: len(content["images"]) for name, content in found.items()} == {"train2017": 1, "val2017": 1}
    images = tmp_path / "elsewhere"
    (tmp_path / "a" / "images").rename(images)
    assert list(convert([first], images, tmp_path / "again", progress=False)) == ["train2017"]
    assert list(convert([first], images, tmp_path / "third", subset="val", progress=False)) == ["val2017"]
    with pytest.raises(ValueError, match=r"instances_train2017.json: no such image folder"):
        convert([first], None, tmp_path / "fourth", progress=False)


# ---- hostile files ---------------------------------------------------------------------------------------------------
HOSTILE = {
    "bytes": bytes(range(256)),
    "nothing": b"",
    "deep": b"[" * 100_000,
    "deep dicts": b'{"a":' * 100_000,
    "digits": b'{"a": ' + b"9" * 5000 + b"}",
    "surrogate": b'{"shapes": [], "imagePath": "\\ud800"}',
    "entities": b'<!DOCTYPE a [<!ENTITY b "bbbb"><!ENTITY c "&b;&b;">]><annotations>&c;</annotations>',
    "elements": b"<a>" * 100_000,
    "aliases": b"names: &a [x, x]\ntrain: [*a, *a]\n",
    "merges": b"a: &a {x: 1}\nb: &b {<<: [*a, *a]}\nnames: {<<: [*b, *b]}\n",
    "date": b"names: [2020-13-45]\n",
    "half": b'names: ["\\uD800"]\n',
    "null": b"names: [~, [a]]\n",
    "digits of a class": b"names: {" + b"9" * 400 + b": a}\n",
}


@pytest.mark.parametrize("suffix", [".json", ".xml", ".yaml", ".csv"])
@pytest.mark.parametrize("content", HOSTILE)
def test_hostile_files_are_named(tmp_path, suffix, content):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(HOSTILE[content])
    with pytest.raises(InputError, match=rf"a\{suffix}"):
        convert([path], tmp_path, tmp_path / "out", progress=False)


def test_pipes_and_names_that_are_too_long_are_no_annotations(tmp_path):
    os.mkfifo(tmp_path / "pipe.json")
    for path, message in (("pipe.json", "not a regular file"), ("a" * 300, "no such file or folder")):
        with pytest.raises(InputError, match=message):
            convert([tmp_path / path], tmp_path, tmp_path / "out", progress=False)


ANNOTATION = "supervisely/train/ann/one.png.json"
LABELS = "yolo/labels/train/one.txt"
LARGE = [  # writer, file, what is replaced, by what, message
    (samples.cvat, "annotations.xml", 'height="120"', 'height="9999999"', "image 'one.png': height = 9999999"),
    (samples.cvat, "annotations.xml", ' width="60" height="50"', ' width="99999" height="99999"', "too large"),
    (samples.label_studio, "project.json", '"original_width": 160', '"original_width": 9999999', "original_width = 99"),
    (samples.supervisely, ANNOTATION, '"width": 160', '"width": 9999999', "size: width = 99999"),
    (samples.supervisely, ANNOTATION, '{"height": 120, "width": 160}', '{"height": 1e5, "width": 1e5}', "too large"),
    (samples.supervisely, ANNOTATION, '"width": 160', '"width": null', "size: width = None"),
    (samples.supervisely, ANNOTATION, "[20, 20]", "[null, 20]", "interior|exterior|points"),
    (samples.coco, "*.json", '"width": 160', '"width": 1000000000', "are at most 178956970"),
    (samples.voc, "voc/SegmentationObject/one.png", None, None, "the masks cannot be read"),
    (samples.yolo, LABELS, "0 0.125", f"{'9' * 400} 0.125", "line 1: class 9999"),
    (samples.yolo, LABELS, "0 0.125", f"{'9' * 5000} 0.125", "line 1: '9999"),
    (samples.yolo, LABELS, "0 0.125000", "0 nan", "line 1: coordinates"),
]


@pytest.mark.parametrize(("write", "name", "find", "replacement", "message"), LARGE)
def test_sizes_and_numbers_without_a_bound(tmp_path, write, name, find, replacement, message):
    paths, image_dir = write(tmp_path, samples.objects())
    path = next(tmp_path.rglob(name))
    if find is None:
        path.write_bytes(path.read_bytes()[:60])
    else:
        changed(path, find, replacement)
    with pytest.raises(InputError, match=message):
        convert(paths, image_dir, tmp_path / "out", progress=False)


@pytest.mark.parametrize("write", [samples.labelme, samples.supervisely, samples.via2])
def test_outlines_that_are_too_long_to_walk_along(tmp_path, write):
    (name, found), *_ = samples.objects(holes=False).items()
    zigzag = [[2, 2], [150, 110]] * 100_000 + [[2, 110]]
    paths, image_dir = write(tmp_path, {name: [(found[0][0], [zigzag], [])]})
    with pytest.raises(InputError, match="at most 10000000 pixels along an outline"):
        convert(paths, image_dir, tmp_path / "out", progress=False)


def huge_png():
    """The beginning of a PNG file of 900,000,000 pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 30_000, 30_000, 8, 0, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))


@pytest.mark.parametrize(("data", "message"), [(huge_png(), "too large"), (huge_png()[:40], "expected a PNG image")])
def test_masks_that_unpack_to_anything(tmp_path, data, message):
    samples.write_images(tmp_path, ["one.png"])
    mask = base64.b64encode(data).decode()
    shape = {"label": "a", "shape_type": "mask", "points": [[0, 0], [1, 1]], "mask": mask}
    (tmp_path / "one.json").write_text(json.dumps({"imagePath": "one.png", "imageData": None, "shapes": [shape]}))
    with pytest.raises(InputError, match=rf"one\.json: shape 1: mask: {message}"):
        convert([tmp_path], None, tmp_path / "out", progress=False)
