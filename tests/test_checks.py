"""Findings in trees that are broken on purpose, counts, and the text of the report."""

import coco_tree
import pytest
from PIL import Image

from siamese_mrcnn_tf.config import TinyConfig
from siamese_mrcnn_tf.data import annotations, checks
from siamese_mrcnn_tf.data.dataset import IndexedCocoDataset

CONFIG = TinyConfig()
LARGE = (960, 1280)  # height, width of an image that TinyConfig shrinks to a tenth


def load(root, subset="val"):
    dataset = IndexedCocoDataset()
    dataset.load_coco(root, subset)
    dataset.prepare()
    dataset.build_indices()
    return dataset


def check(root, **options):
    return checks.check_dataset(load(root), **{"config": CONFIG, "split": 0, "progress": False} | options)


def change(root, content, index, **keys):
    """Change an annotation of the file."""
    content["annotations"][index].update(keys)
    coco_tree.write_annotations(root, content)


def shrink(root, content, segmentation, bbox):
    """Make the first image large, and give its first annotation another outline; the second and the crowd go."""
    content["images"][0].update(height=LARGE[0], width=LARGE[1])
    Image.new("RGB", LARGE[::-1]).save(root / "val2017" / content["images"][0]["file_name"])
    content["annotations"][0].update(segmentation=segmentation, bbox=bbox)
    del content["annotations"][1:3]
    coco_tree.write_annotations(root, content)


@pytest.fixture
def tree(tmp_path):
    """A tree of four images, the last without annotations, and the content of its annotation file."""
    return tmp_path, coco_tree.write_tree(tmp_path)


# ---- counts --------------------------------------------------------------------------------------------------------
def test_counts_by_hand(tree):
    report = check(tree[0], split=2)  # class 2, the rectangle, is novel
    assert report.ok and not any(report.findings.values())
    assert (report.num_images, report.num_bare_images, report.num_annotations, report.num_crowds) == (4, 1, 7, 1)
    assert (report.num_train_images, report.num_novel_images) == (3, 2)
    assert report.classes == [
        checks.ClassCount("ellipse", 1, 3, False, images=2, instances=2, crowds=0, references=2),
        checks.ClassCount("rectangle", 2, 7, True, images=2, instances=2, crowds=0, references=2),
        checks.ClassCount("triangle", 3, 18, False, images=2, instances=2, crowds=1, references=2),
    ]


def test_an_image_with_two_instances_of_a_class_counts_once(tree):
    root, content = tree
    change(root, content, 1, category_id=3)
    count = check(root).classes[0]
    assert (count.images, count.instances, count.references) == (2, 3, 3)


def test_reasons_why_a_class_has_no_reference(tree):
    root, content = tree
    content["categories"].append({"id": 90, "name": "hexagon"})
    for annotation in content["annotations"]:
        if annotation["category_id"] == 18:
            annotation["iscrowd"] = 1
        if annotation["category_id"] == 7:
            annotation |= {"segmentation": [], "bbox": [0, 0, 0, 0]}
    coco_tree.write_annotations(root, content)
    report = check(root)
    assert [count.unusable for count in report.classes] == ["", "no instance", "only crowds", "no instance"]
    assert len(report.findings["no_extent"]) == 2 and report.ok
    assert "classes that cannot be references: 3\n  no instance: rectangle, hexagon\n" in report.text()


def test_an_empty_set(tmp_path):
    coco_tree.write_tree(tmp_path, num_images=0)
    report = check(tmp_path)
    assert report.ok and report.num_images == 0
    assert [count.unusable for count in report.classes] == ["no instance"] * 3 and "0 images" in report.text()


# ---- findings ------------------------------------------------------------------------------------------------------
def test_broken_images_are_named_in_their_order(tree):
    root, content = tree
    missing, truncated, wrong, _ = (root / "val2017" / image["file_name"] for image in content["images"])
    missing.unlink()
    truncated.write_bytes(truncated.read_bytes()[:2000])
    Image.new("RGB", (64, 64)).save(wrong)
    report = check(root, workers=2)
    found = report.findings["broken_images"]
    assert not report.ok and len(found) == 3
    assert missing.name in found[0] and "no such file" in found[0]
    assert truncated.name in found[1] and "truncated" in found[1]
    assert wrong.name in found[2] and "64 x 64" in found[2] and "96 x 128" in found[2]
    assert report.classes == check(root, read_images=False).classes


def test_images_may_be_skipped(tree):
    root, content = tree
    (root / "val2017" / content["images"][0]["file_name"]).unlink()
    report = check(root, read_images=False)
    assert report.ok and "broken_images" not in report.findings
    assert report.findings["missing_images"] == [content["images"][0]["file_name"]]
    assert "images without a file: 1\n" in report.text() and "images that cannot be read: not checked" in report.text()


def test_more_images_than_a_block(tree, monkeypatch):
    monkeypatch.setattr(checks, "_BLOCK", 3)
    for image in tree[1]["images"]:
        (tree[0] / "val2017" / image["file_name"]).unlink()
    found = check(tree[0]).findings["broken_images"]
    assert [image["file_name"] in text for image, text in zip(tree[1]["images"], found, strict=True)] == [True] * 4


def test_boxes_outside_the_furthest_first(tree):
    root, content = tree
    change(root, content, 0, bbox=[7.6, 16, 48, 40])  # rounding
    change(root, content, 2, bbox=[0, 88, 128, 10.25])  # a crowd's
    change(root, content, 3, segmentation=[[-9, 28, 56, 28, 56, 68, -9, 68]], bbox=[-9, 28, 65, 40])
    change(root, content, 5, segmentation=[[8, 76, 8, -3, 56, -3, 56, 76]], bbox=[8, -3, 48, 79])
    report = check(root)
    found = report.findings["boxes_outside"]
    assert not report.ok and len(found) == 3 and not report.findings["wrong_boxes"]
    assert "annotation 103 (rectangle): [-9, 28, 65, 40], 9.0 pixels beyond the edge" in found[0]
    assert "the mask's [0, 28, 56, 40]" in found[0] and content["images"][1]["file_name"] in found[0]
    assert "annotation 105" in found[1] and "3.0 pixels beyond the edge" in found[1]
    assert "annotation 102" in found[2] and "2.2 pixels beyond the lower edge of 96 x 128" in found[2]


def test_boxes_that_contradict_their_masks(tree):
    root, content = tree
    change(root, content, 0, bbox=[8, 16, 0, 40])
    change(root, content, 1, bbox=[72, 20, 120 - 72, 8])
    change(root, content, 3, bbox=[7, 28, 49, 41])  # rounding
    report = check(root)
    assert not report.ok and report.form == ""
    assert ["annotation 100" in text for text in report.findings["wrong_boxes"]] == [True, False]
    assert (
        "annotation 101 (rectangle): [72, 20, 48, 8], the mask's [72, 20, 48, 40]" in report.findings["wrong_boxes"][1]
    )


def test_entries_that_contradict_each_other(tree):
    root, content = tree
    content["images"][1]["file_name"] = content["images"][0]["file_name"]
    content["categories"].append({"id": 90, "name": "Tri Angle "})
    coco_tree.write_annotations(root, content)
    (root / "val2017" / "._hidden.png").write_bytes(b"")
    report = check(root, read_images=False)
    assert not report.ok
    assert report.findings["repeated_files"] == ["000000000010.png: image ids 10, 20"]
    assert report.findings["similar_categories"] == ["'triangle' (id 18), 'Tri Angle ' (id 90)"]
    assert report.findings["unlisted_images"] == ["000000000020.png"]


def test_broken_polygons(tree):
    root, content = tree
    change(root, content, 0, segmentation=[["a", 1, 2, 3, 4, 5]])
    change(root, content, 3, segmentation=[[1e9, 1, 2, 3, 4, 5]])
    with pytest.raises(annotations.FaultsError, match=r"annotations\[0\] \(id 100\): segmentation") as raised:
        check(root)
    assert [len(found) for found in raised.value.faults.values()] == [2]


def test_instances_vanish_at_the_networks_scale_alone(tree):
    root, content = tree
    shrink(root, content, [[641, 481, 644, 481, 644, 484, 641, 484]], [641, 481, 3, 3])
    report = check(root)
    (found,) = report.findings["vanishing_masks"]
    assert "annotation 100 (ellipse): 9 pixels, scale 0.1" in found
    assert report.ok and report.classes[0].references == 1
    larger = TinyConfig().replace(IMAGE_MIN_DIM=960, IMAGE_MAX_DIM=1280)
    assert not check(root, config=larger).findings["vanishing_masks"]


@pytest.mark.parametrize("corner", [(0, 0), (400, 300), (1268, 948)])
def test_survival_agrees_with_the_references(tree, corner):
    root, content = tree
    x, y = corner
    for offset in range(1, 11, 3):
        square = [
            x + offset,
            y + offset,
            x + offset + 2,
            y + offset,
            x + offset + 2,
            y + offset + 2,
            x + offset,
            y + offset + 2,
        ]
        shrink(root, coco_tree.write_tree(root), [square], [x + offset, y + offset, 2, 2])
        dataset = load(root)
        report = checks.check_dataset(dataset, config=CONFIG, split=0, read_images=False, progress=False)
        vanishes = False
        try:
            checks.molding.reference_from_mask(dataset.load_image(0), dataset.instance_mask(0, 0), CONFIG)
        except ValueError:
            vanishes = True
        assert bool(report.findings["vanishing_masks"]) == vanishes


# ---- text ----------------------------------------------------------------------------------------------------------
def test_the_table_of_classes_is_aligned(tree):
    lines = check(tree[0], split=2).text().split("\n")
    assert lines[0] == "val2017: 4 images, 1 of them without annotations; 7 annotations, 1 of them crowds"
    assert lines[1] == "split 2: 2 train classes, 1 novel"
    assert lines[3:11] == [
        "class  COCO id  name       split  images  instances  crowds  references",
        "-----  -------  ---------  -----  ------  ---------  ------  ----------",
        "    1        3  ellipse    train       2          2       0           2",
        "    2        7  rectangle  novel       2          2       0           2",
        "    3       18  triangle   train       2          2       1           2",
        "-----  -------  ---------  -----  ------  ---------  ------  ----------",
        "                2 classes  train       3          4       1           4",
        "                1 classes  novel       2          2       0           2",
    ]
    assert lines[12:] == ["no faults: 16 kinds checked"]


def test_the_text_lists_what_was_found_alone(tree):
    root, content = tree
    content["images"][1]["file_name"] = content["images"][0]["file_name"]
    coco_tree.write_annotations(root, content)
    text = check(root).text()
    assert "images with several entries: 1\n  000000000010.png: image ids 10, 20" in text
    assert text.endswith("\nno other faults: 14 kinds checked") and ": none" not in text


def test_the_text_shows_some_findings_and_the_number_of_all(tree):
    for image in tree[1]["images"]:
        (tree[0] / "val2017" / image["file_name"]).unlink()
    report = check(tree[0])
    text = report.text(shown=1)
    assert "images that cannot be read: 4\n  " in text and "\n  ... and 3 more\n" in text
    assert text.count("no such file") == 1 and report.text().count("no such file") == 4
