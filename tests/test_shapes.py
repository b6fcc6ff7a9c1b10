"""The repository's own pictures: what scenes promise, the files as pycocotools reads them, and the command line."""

import importlib.util
import json
import pathlib
import sys

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from siamese_mrcnn_tf.boxes import box_areas, extract_bboxes

SCRIPT = pathlib.Path(__file__).resolve().parents[1] / "samples" / "shapes" / "shapes.py"


def load_script():
    spec = importlib.util.spec_from_file_location("samples_shapes", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


shapes = load_script()


# ---- scenes ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("seed", range(8))
def test_scene(seed):
    image, masks, class_ids = shapes.make_scene(np.random.default_rng(seed), 90, 120)
    assert image.shape == (90, 120, 3) and image.dtype == np.uint8 and image.std() > 10
    assert masks.dtype == bool and masks.shape == (90, 120, len(class_ids)) and 1 <= len(class_ids) <= 8
    assert class_ids.dtype == np.int32 and set(class_ids) <= set(range(1, len(shapes.CATEGORIES) + 1))
    assert masks.sum(axis=-1).max() == 1  # after occlusion: no pixel twice
    assert masks.sum(axis=(0, 1)).min() >= 40


def test_scene_depends_on_its_generator_alone():
    first, again, other = (shapes.make_scene(np.random.default_rng(seed), 64, 64) for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0], other[0])


def test_scene_of_one_category():
    _, _, class_ids = shapes.make_scene(np.random.default_rng(0), 64, 64, categories=["star"])
    assert set(class_ids) == {shapes.CATEGORIES.index("star") + 1}


@pytest.mark.parametrize(
    "height, categories, message",
    [
        (47, ["disc"], "47 x 64 pixels is too small"),
        (64, ["blob"], r"\['blob'\]: expected some of disc"),
        (64, [], r"\[\]"),
    ],
)
def test_scene_refuses(height, categories, message):
    with pytest.raises(ValueError, match=message):
        shapes.make_scene(np.random.default_rng(0), height, 64, categories=categories)


def test_outlines_differ_between_categories():
    """By the share of its box that a shape fills (median over rotations), and by the hole in its middle."""
    assert len(shapes.CATEGORIES) >= 6
    filled = {}
    for name in shapes.CATEGORIES:
        stamps = [shapes._stamp(np.random.default_rng(seed), name, 400) >= 0.5 for seed in range(10)]
        filled[name] = np.median([mask.sum() / box_areas(extract_bboxes(mask[:, :, None]))[0] for mask in stamps])
        middle = [mask[len(mask) // 2, len(mask) // 2] for mask in stamps]
        if name != "crescent":  # its middle lies near its edge
            assert set(middle) == {name != "ring"}
    assert filled["disc"] > 0.7 > filled["ring"] > 0.4
    assert filled["star"] < filled["square"] and filled["crescent"] < filled["triangle"]


def test_reference_crops_are_the_largest_of_their_category():
    image, masks, class_ids = shapes.make_scene(np.random.default_rng(3), 128, 128)
    crops = shapes.reference_crops(image, masks, class_ids)
    assert set(crops) == {shapes.CATEGORIES[class_id - 1] for class_id in class_ids}
    for name, (crop, (y1, x1, y2, x2)) in crops.items():
        same = class_ids == shapes.CATEGORIES.index(name) + 1
        largest = masks[:, :, same][:, :, masks[:, :, same].sum(axis=(0, 1)).argmax()]
        assert extract_bboxes(largest[:, :, None])[0].tolist() == [y1, x1, y2, x2]
        assert np.array_equal(crop, image[y1:y2, x1:x2])


# ---- files -------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shapes")
    written = shapes.write_coco(folder, train=4, val=2, size=64, seed=5)
    return folder, written


def test_written_tree_is_what_pycocotools_reads(tree):
    folder, written = tree
    for split, count in (("train", 4), ("val", 2)):
        coco = COCO(str(folder / "annotations" / f"instances_{split}2017.json"))
        assert len(coco.imgs) == count and len(coco.anns) == written[split] > 0
        assert [category["name"] for category in coco.loadCats(coco.getCatIds())] == list(shapes.CATEGORIES)
        for record in coco.imgs.values():
            picture = Image.open(folder / f"{split}2017" / record["file_name"])
            assert picture.size == (record["width"], record["height"]) and max(picture.size) == 64
        for annotation in coco.anns.values():
            mask = coco.annToMask(annotation)
            y1, x1, y2, x2 = extract_bboxes(mask[:, :, None])[0].tolist()
            assert annotation["bbox"] == [x1, y1, x2 - x1, y2 - y1] and annotation["area"] == mask.sum()
    assert sorted(path.name for path in folder.iterdir()) == ["annotations", "train2017", "val2017"]


def test_ids_are_unique_over_both_splits(tree):
    contents = [json.loads(path.read_text()) for path in (tree[0] / "annotations").iterdir()]
    for kind in ("images", "annotations"):
        ids = [record["id"] for content in contents for record in content[kind]]
        assert len(ids) == len(set(ids))


def test_a_scene_does_not_depend_on_how_many_are_written(tree, tmp_path):
    shapes.write_coco(tmp_path, train=1, val=1, size=64, seed=5)
    for name, longer in (("train2017/000000000001.jpg",) * 2, ("val2017/000000000002.jpg", "val2017/000000000005.jpg")):
        assert (tmp_path / name).read_bytes() == (tree[0] / longer).read_bytes()


@pytest.mark.parametrize(
    "change, message",
    [
        ({"train": 0}, "train = 0: expected 1"),
        ({"val": -1}, "val = -1"),
        ({"size": 60}, "size = 60: expected 64"),
        ({"seed": -1}, "seed = -1"),
    ],
)
def test_write_coco_refuses(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        shapes.write_coco(tmp_path / "new", **{"train": 1, "val": 1, "size": 64, "seed": 0, **change})
    assert not (tmp_path / "new").exists()


# ---- command line ------------------------------------------------------------------------------------------------
def test_command_line_writes_a_tree(tmp_path, capsys):
    assert shapes.main(["--out", str(tmp_path), "--train", "2", "--val", "1", "--size", "64"]) == 0
    assert "train2017 with 2 scenes" in capsys.readouterr().out
    assert len(list(tmp_path.glob("train2017/*.jpg"))) == 2


def test_command_line_writes_a_demo(tmp_path, capsys):
    assert shapes.main(["--out", str(tmp_path), "--demo", "--size", "96", "--seed", "3"]) == 0
    scene = np.asarray(Image.open(tmp_path / "scene.png"))
    lines = capsys.readouterr().out.splitlines()
    assert scene.shape == (96, 96, 3) and len(lines) == len(list(tmp_path.iterdir())) >= 2
    path, _, box = lines[1].partition(" cut at y1,x1,y2,x2 = ")
    y1, x1, y2, x2 = map(int, box.split(","))
    assert np.array_equal(np.asarray(Image.open(path)), scene[y1:y2, x1:x2])


@pytest.mark.parametrize("arguments", [["--train", "0"], ["--demo", "--size", "10"]])
def test_command_line_says_what_is_wrong(tmp_path, capsys, arguments):
    with pytest.raises(SystemExit) as stop:
        shapes.main(["--out", str(tmp_path), *arguments])
    assert stop.value.code == 2 and "expected" in capsys.readouterr().err and not list(tmp_path.iterdir())
