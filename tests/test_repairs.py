"""Annotations as tools and scripts write them: what is repaired, and that perfect detections are then perfect."""

import copy
import logging

import coco_tree
import numpy as np
import pycocotools.mask as coco_mask
import pytest

from siamese_mrcnn_tf.cli.main import main
from siamese_mrcnn_tf.config import TinyConfig
from siamese_mrcnn_tf.data import repairs
from siamese_mrcnn_tf.data.annotations import annotation_rle
from siamese_mrcnn_tf.data.data_generator import TrainingSamples
from siamese_mrcnn_tf.data.dataset import IndexedCocoDataset
from siamese_mrcnn_tf.data.reading import ReadingRules
from siamese_mrcnn_tf.evaluation.coco_scores import coco_evaluation, coco_stats
from siamese_mrcnn_tf.pretraining.instance_crops import InstanceCrops

WIDTH, HEIGHT = coco_tree.SIZE[::-1]


@pytest.fixture(scope="module")
def right(tmp_path_factory):
    """The content of a file without faults, and without its crowd."""
    content = coco_tree.write_tree(tmp_path_factory.mktemp("right"), num_images=5)
    content["annotations"] = [annotation for annotation in content["annotations"] if not annotation["iscrowd"]]
    return content


@pytest.fixture
def root(tmp_path):
    coco_tree.write_tree(tmp_path, num_images=5)
    return tmp_path


def load(root, content, **rules):
    """(data set, COCO object) of a changed annotation file."""
    coco_tree.write_annotations(root, content)
    dataset = IndexedCocoDataset()
    coco = dataset.load_coco(root, "val", return_coco=True, rules=ReadingRules(**rules))
    dataset.prepare()
    dataset.build_indices()
    return dataset, coco


def perfect(dataset, coco):
    """AP of the ground truth's masks scored as detections, with the boxes around them: (boxes, masks)."""
    results = []
    for image_id, info in enumerate(dataset.image_info):
        for index, annotation in enumerate(info["annotations"]):
            if not annotation["iscrowd"]:
                rle = coco_mask.encode(np.asfortranarray(dataset.instance_mask(image_id, index).astype(np.uint8)))
                one = {"image_id": info["id"], "category_id": annotation["category_id"], "score": 0.9}
                results.append(one | {"segmentation": rle, "bbox": coco_mask.toBbox(rle).tolist()})
    chosen = {"image_ids": list(coco.imgs), "category_ids": list(coco.cats)}
    stats = (coco_stats(coco_evaluation(coco, results, iou_type=kind, **chosen))[0] for kind in ("bbox", "segm"))
    return tuple(float(value) for value in stats)


def changed(content, change, every=1):
    """A copy with each `every`-th annotation changed by `change(annotation, box)`."""
    content = copy.deepcopy(content)
    for annotation in content["annotations"][::every]:
        change(annotation, np.array(annotation["bbox"]))
    return content


# ---- objects without a mask ----------------------------------------------------------------------------------------
NO_MASKS = {
    "none": [],
    "empty": [[]],
    "corners": [[20, 20, 40, 50]],
    "point": [[20, 20]],
    "collinear": [[20, 20, 30, 30, 40, 40]],
    "outside": [[200, 200, 240, 200, 240, 240]],
    "empty RLE": {"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]},
}


@pytest.mark.parametrize("shape", NO_MASKS.values(), ids=NO_MASKS)
def test_a_box_without_mask_is_its_mask(root, right, shape, caplog):
    content = changed(right, lambda annotation, _: annotation.update(segmentation=shape), every=3)
    with caplog.at_level(logging.WARNING):
        dataset, coco = load(root, content)
    assert perfect(dataset, coco) == (1, 1)
    assert len(dataset.repairs.found["box_rectangles"]) == 3 and "3 objects with a box but no mask" in caplog.text
    x, y, width, height = map(int, right["annotations"][0]["bbox"])
    mask = dataset.instance_mask(0, 0)
    assert mask.sum() == width * height and mask[y : y + height, x : x + width].all()
    neutral, coco = load(root, content, box_only="neutral")
    assert perfect(neutral, coco) == (1, 1) and not neutral.repairs.found["box_rectangles"]
    assert sum(annotation["iscrowd"] for annotation in coco.dataset["annotations"]) == 3
    assert neutral.load_mask(0)[1][0] == -1 and np.array_equal(neutral.load_mask(0)[0][..., 0], mask)


def test_a_missing_segmentation_is_none(root, right):
    content = changed(right, lambda annotation, _: annotation.pop("segmentation"), every=2)
    dataset, coco = load(root, content)
    assert perfect(dataset, coco) == (1, 1) and len(dataset.repairs.found["box_rectangles"]) == 4


@pytest.mark.parametrize("box", [[0, 0, 0, 0], [5, 5, 0, 9], [300, 10, 20, 20], [-30, -30, 10, 10]])
def test_an_object_without_mask_and_box_is_nowhere(root, right, box, caplog):
    content = changed(right, lambda annotation, _: annotation.update(segmentation=[], bbox=box), every=3)
    with caplog.at_level(logging.WARNING):
        dataset, coco = load(root, content)
    assert perfect(dataset, coco) == (1, 1) and len(coco.dataset["annotations"]) == len(right["annotations"]) - 3
    assert sum(len(info["annotations"]) for info in dataset.image_info) == len(right["annotations"]) - 3
    assert "3 objects without mask and box: left out (000000000010.png, annotation 100 (ellipse)" in caplog.text


def test_training_sees_box_only_objects(root, right):
    """As a positive instance, or as a crowd; pre-training takes crops of the first only."""
    content = copy.deepcopy(right)
    content["images"], content["annotations"] = content["images"][:2], content["annotations"][:4]
    content["annotations"][0] |= {"segmentation": [], "category_id": 7}  # beside another one of category 7
    for rule, expected in (("rectangle", [1, 1]), ("neutral", [-1, 1])):
        dataset, _ = load(root, content, box_only=rule)
        samples = TrainingSamples(dataset, TinyConfig(), shuffle=False)
        assert sorted(samples[0].gt_class_ids.tolist()) == expected
        positive = (samples[0].rpn_match == 1).sum()
        assert positive >= expected.count(1)
        assert len(InstanceCrops(dataset, [1, 2, 3]).places) == (4 if rule == "rectangle" else 3)


# ---- forms of polygons ---------------------------------------------------------------------------------------------
def _pairs(points):
    return np.reshape(points, (-1, 2)).tolist()


POINT_LISTS = {
    "points": lambda polygon: _pairs(polygon),
    "nested": lambda polygon: [_pairs(polygon)],
    "dicts": lambda polygon: [{"x": x, "y": y} for x, y in _pairs(polygon)],
    "nested dicts": lambda polygon: [[{"x": x, "y": y} for x, y in _pairs(polygon)]],
    "flat": lambda polygon: polygon,
}


@pytest.mark.parametrize("form", POINT_LISTS.values(), ids=POINT_LISTS)
def test_lists_of_points_are_polygons(root, right, form):
    def change(annotation, _):
        if isinstance(annotation["segmentation"], list):
            annotation["segmentation"] = form(annotation["segmentation"][0])

    expected, _ = load(root, right)
    dataset, coco = load(root, changed(right, change))
    assert perfect(dataset, coco) == (1, 1) and len(dataset.repairs.found["point_lists"]) == 4
    for image_id in range(dataset.num_images):
        assert np.array_equal(dataset.load_mask(image_id)[0], expected.load_mask(image_id)[0])


def test_coordinates_in_0_to_1_are_refused(root, right):
    content = changed(right, lambda a, box: a.update(segmentation=[(np.array([0, 0, 90, 0, 90, 90]) / 96).tolist()]))
    with pytest.raises(ValueError, match=r"annotations\[0\] \(id 100\): segmentation = .*shares of the image, 0..1"):
        load(root, content)
    content = changed(right, lambda a, box: a.update(segmentation=[], bbox=(box / 128).tolist()))
    with pytest.raises(ValueError, match=r"annotations\[0\] \(id 100\): bbox = .*shares of the image, 0..1"):
        load(root, content)


# ---- boxes that contradict masks -----------------------------------------------------------------------------------
BOXES = {
    "[x1, y1, x2, y2]": lambda x, y, w, h: [x, y, x + w, y + h],
    "[y1, x1, y2, x2]": lambda x, y, w, h: [y, x, y + h, x + w],
    "[y, x, height, width]": lambda x, y, w, h: [y, x, h, w],
    "[x, y, height, width]": lambda x, y, w, h: [x, y, h, w],
    "[centre x, centre y, width, height]": lambda x, y, w, h: [x + w / 2, y + h / 2, w, h],
    "[x, y, width, height] as shares of the image": lambda x, y, w, h: [x / WIDTH, y / HEIGHT, w / WIDTH, h / HEIGHT],
    "[x, y, width, height] in percent of the image": lambda x, y, w, h: [
        100 * x / WIDTH,
        100 * y / HEIGHT,
        100 * w / WIDTH,
        100 * h / HEIGHT,
    ],
    "boxes with negative sizes": lambda x, y, w, h: [x + w, y + h, -w, -h],
    "": lambda x, y, w, h: [x - 20, y, w, h],
}


@pytest.mark.parametrize("form", BOXES)
def test_the_masks_boxes_are_used(root, right, form, caplog):
    content = changed(right, lambda annotation, box: annotation.update(bbox=BOXES[form](*box.tolist())))
    if "shares" not in form:
        content["annotations"][1]["segmentation"] = []  # its box is read as the others are
    with caplog.at_level(logging.WARNING):
        dataset, coco = load(root, content)
    assert perfect(dataset, coco) == (1, 1) and len(dataset.repairs.found["wrong_boxes"]) == 7 + ("shares" in form)
    assert dataset.repairs.form == form and ("they look like" in caplog.text) == bool(form)
    if form:
        assert coco.dataset["annotations"][1]["bbox"] == right["annotations"][1]["bbox"]


@pytest.mark.parametrize(
    ("change", "form"),
    [
        (lambda x, y, w, h: [x, y, -w, -h], "boxes with negative sizes"),
        (lambda x, y, w, h: [x + w, y, -w, h], "boxes with negative sizes"),
        (lambda x, y, w, h: [x + 2, y + 2, w, h], ""),  # no size is negative
    ],
)
def test_what_wrong_boxes_look_like(root, right, change, form):
    dataset, coco = load(root, changed(right, lambda annotation, box: annotation.update(bbox=change(*box.tolist()))))
    assert perfect(dataset, coco) == (1, 1)
    assert len(dataset.repairs.found["wrong_boxes"]) == 8 and dataset.repairs.form == form


def test_boxes_without_masks_that_leave_the_image(root, right, caplog, capsys):
    """They are clipped, and counted as boxes outside: [x1, y1, x2, y2] boxes beside no mask show in this way."""
    content = changed(right, lambda annotation, box: annotation.update(segmentation=[]))
    content["annotations"][0]["bbox"] = [100, 20, 48, 40]  # of 128
    with caplog.at_level(logging.WARNING):
        dataset, coco = load(root, content)
    assert perfect(dataset, coco) == (1, 1) and coco.anns[100]["bbox"] == [100, 20, 28, 40]
    (found,) = dataset.repairs.found["boxes_outside"]
    assert "annotation 100 (ellipse): [100, 20, 48, 40], 20.0 pixels beyond the edge, no mask" in found
    assert found in caplog.text and len(dataset.repairs.found["box_rectangles"]) == 8
    arguments = ["check", "--dataset", str(root), "--subset", "val", "--config", "tiny", "--samples", "0"]
    assert main([*arguments, "--out", str(root / "out")]) == 1 and found in capsys.readouterr().out


@pytest.mark.parametrize("offset", [(0.4, -0.4, 0, 0), (0, 0, -1, -1), (-0.4, -0.4, 0.8, 0.8)])
def test_rounding_is_no_contradiction(root, right, offset):
    content = changed(right, lambda annotation, box: annotation.update(bbox=(box + offset).tolist()))
    dataset, coco = load(root, content)
    assert not any(dataset.repairs.found.values())
    assert [entry["bbox"] for entry in coco.dataset["annotations"]] == [a["bbox"] for a in content["annotations"]]


def test_a_crowds_box_is_left_as_it_is(root):
    content = coco_tree.write_tree(root)
    content["annotations"][2]["bbox"] = [0, 60, 128, 36]
    dataset, coco = load(root, content)
    assert coco.anns[102]["bbox"] == [0, 60, 128, 36] and not any(dataset.repairs.found.values())


@pytest.mark.parametrize("area", [0, 3])
def test_crowds_of_runs_are_looked_at_without_their_masks(right, area):
    size = {image["id"]: (image["height"], image["width"]) for image in right["images"]}
    crowd = copy.deepcopy(right["annotations"][0])
    height, width = size[crowd["image_id"]]
    runs = [height * width - area, area]
    crowd |= {"iscrowd": 1, "bbox": [0, 0, 5, 5], "segmentation": {"size": [height, width], "counts": runs}}
    asked = []

    def mask_of(annotation, height, width):
        asked.append(annotation["id"])
        return annotation_rle(annotation, height, width)

    bare, wrong, _ = repairs._compare([crowd], size, mask_of)
    assert wrong == [] and (bare, asked) == (([], []) if area else ([crowd], [crowd["id"]]))


def test_polygons_of_an_object_are_taken_together():
    size = {1: (40, 60)}
    shapes = [[[1, 2, 5, 2, 5, 9]], [], [[8, 8, 9, 8, 9, 9], [2, 3, 12, 3, 12.5, 30]], [[1, 1, 2, 2]]]
    entries = [{"image_id": 1, "segmentation": shape} for shape in shapes]
    expected = [[1, 2, 4, 7], [np.nan] * 4, [2, 3, 10.5, 27], [np.nan] * 4]
    np.testing.assert_array_equal(repairs._polygon_extents(entries, size), expected)


def test_check_calls_contradicting_boxes_broken(root, right, capsys):
    content = changed(right, lambda annotation, box: annotation.update(bbox=BOXES["[x1, y1, x2, y2]"](*box.tolist())))
    coco_tree.write_annotations(root, content)
    arguments = ["check", "--dataset", str(root), "--subset", "val", "--config", "tiny", "--samples", "0"]
    assert main([*arguments, "--out", str(root / "out")]) == 1
    text = capsys.readouterr().out
    assert "the masks' boxes are used: 8\n" in text and "broken polygons" not in text
    assert "the wrong boxes look like [x1, y1, x2, y2]" in text


# ---- crowds --------------------------------------------------------------------------------------------------------
def test_crowds_are_instances_where_asked_for(root, right, caplog):
    content = changed(right, lambda annotation, _: annotation.update(iscrowd=1))
    with caplog.at_level(logging.WARNING):
        dataset, _ = load(root, content)
    advice = "all 8 annotations are crowds (iscrowd 1), as the brush masks of CVAT are; --crowds instances"
    assert advice in caplog.text
    with pytest.raises(ValueError, match="all 8 annotations are crowds .*--crowds instances"):
        TrainingSamples(dataset, TinyConfig())
    taken, coco = load(root, content, crowds="instances")
    assert perfect(taken, coco) == (1, 1) and len(taken.repairs.found["crowds"]) == 8
    assert TrainingSamples(taken, TinyConfig()).class_ids == [1, 2, 3]


def test_a_category_of_crowds_is_named(root, right, caplog, capsys):
    content = changed(right, lambda annotation, _: annotation.update(iscrowd=int(annotation["category_id"] == 7)))
    dataset, _ = load(root, content)
    with caplog.at_level(logging.WARNING):
        samples = TrainingSamples(dataset, TinyConfig())
    assert samples.class_ids == [1, 3] and "; only crowds: rectangle (--crowds instances" in caplog.text
    arguments = ["check", "--dataset", str(root), "--subset", "val", "--config", "tiny", "--samples", "0"]
    assert main([*arguments, "--out", str(root / "out")]) == 0
    assert "only crowds: rectangle (--crowds instances (ReadingRules) takes them" in capsys.readouterr().out
    caplog.clear()
    taken, _ = load(root, content, crowds="instances")
    assert TrainingSamples(taken, TinyConfig()).class_ids == [1, 2, 3] and "only crowds" not in caplog.text


@pytest.mark.parametrize("value", [[1], {"a": 1}, None, 0.5])
def test_check_survives_values_of_any_type(root, right, value, capsys):
    """Beside an RLE, whose size is compared with that of its image."""
    content = copy.deepcopy(right)
    content["annotations"][1]["image_id"] = value
    coco_tree.write_annotations(root, content)
    assert main(["check", "--dataset", str(root), "--subset", "val", "--out", str(root / "out")]) == 1
    text = capsys.readouterr().out
    assert "faults of form: 1\n" in text and "annotations[1] (id 101): image_id = " in text


def test_check_names_repeated_annotations(root, right, capsys):
    content = copy.deepcopy(right)
    content["annotations"].append(content["annotations"][0] | {"id": 999})
    coco_tree.write_annotations(root, content)
    arguments = ["check", "--dataset", str(root), "--subset", "val", "--config", "tiny", "--samples", "0"]
    assert main([*arguments, "--out", str(root / "out")]) == 0
    text = capsys.readouterr().out
    assert "annotation 999 (ellipse): the same as annotation 100" in text and "of their image: 1\n" in text


def test_all_faults_of_a_file_are_checked(root, right, capsys):
    content = copy.deepcopy(right)
    content["annotations"][0]["bbox"] = None
    content["annotations"][1]["category_id"] = 9
    for annotation in content["annotations"][2:8]:
        annotation["image_id"] += 5
    coco_tree.write_annotations(root, content)
    assert main(["check", "--dataset", str(root), "--subset", "val", "--out", str(root / "out")]) == 1
    text = capsys.readouterr().out
    assert "faults of form: 8\n" in text and "wrong annotations: image_id: 6\n" in text
    assert "annotations[0] (id 100): bbox = None" in text and "category_id = 9" in text
