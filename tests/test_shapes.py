"""The Shapes data set: categories differ by outline alone, what scenes promise, files, the standard set, commands."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from functools import partial

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from scripts import load_script

from siamese_mrcnn_tf.cli.main import main
from siamese_mrcnn_tf.ops.boxes import extract_bboxes
from siamese_mrcnn_tf.ops.polygons import mask_polygons
from siamese_mrcnn_tf.shapes import dataset as shapes
from siamese_mrcnn_tf.shapes import outlines, scenes

ROOT = pathlib.Path(__file__).resolve().parents[1]
CATEGORIES = shapes.CATEGORIES


def make_scenes(count, side, **options):
    return [shapes.make_scene(np.random.default_rng([4, index]), side, side, **options) for index in range(count)]


@pytest.fixture(scope="module")
def many():
    return make_scenes(400, 64)


def overlap(first, second):
    """Intersection over union of pairs of masks: bool [n, pixels] and [m, pixels] give [n, m]."""
    first, second = (np.asarray(masks, np.float32).reshape(len(masks), -1) for masks in (first, second))
    both = first @ second.T
    return both / (first.sum(axis=1)[:, None] + second.sum(axis=1) - both)


# ---- categories --------------------------------------------------------------------------------------------------
def centered(name, stretch, angle=0.0, mirror=1):
    """A shape of a set area in the middle of an image: bool [48, 48]."""
    side, area = 48, 500  # pixels
    stamp = outlines.draw(name, 30, stretch=stretch, angle=angle, mirror=mirror)
    moments = cv2.moments((stamp >= 128).astype(np.uint8), binaryImage=True)
    scale = np.sqrt(area / moments["m00"])
    shifts = (side / 2 - 0.5 - scale * moments[first] / moments["m00"] for first in ("m10", "m01"))
    matrix = np.array([[scale, 0, 0], [0, scale, 0]])
    matrix[:, 2] = list(shifts)
    return cv2.warpAffine(stamp, matrix, (side, side), flags=cv2.INTER_AREA) >= 128


@pytest.mark.slow
def test_no_two_categories_look_alike():
    """The best overlap of two categories over turns, mirrored or not, and stretches, beside that of one with itself."""
    stretches, turns = (0.8, 1.0, 1.25), np.radians(np.arange(4, 360, 10))
    straight = [[centered(name, stretch) for stretch in stretches] for name in CATEGORIES]
    turned = [
        [centered(name, stretch, turn, mirror) for stretch in stretches for turn in turns for mirror in (1, -1)]
        for name in CATEGORIES
    ]
    best = np.array([[overlap(first, second).max() for second in turned] for first in straight])
    itself = best.diagonal().copy()
    np.fill_diagonal(best, 0)
    best = np.maximum(best, best.T)
    close = {frozenset((CATEGORIES[i], CATEGORIES[j])) for i, j in zip(*np.nonzero(best > 0.8), strict=True)}
    told_apart_by_corners = ("disc", "square"), ("heart", "triangle"), ("star", "flower")
    assert close <= set(map(frozenset, told_apart_by_corners)) and best.max() < 0.87
    assert np.median(best.max(axis=1)) < 0.75
    assert itself.min() > 0.7 and np.all(itself > best.max(axis=1))


def test_categories_of_a_split_differ_in_structure():
    """The novel categories of every split have shapes with and without holes, compact ones and thin ones."""
    assert len(CATEGORIES) == len(set(CATEGORIES)) and len(CATEGORIES) % 4 == 0
    for split in range(4):
        stamps = [outlines.draw(name, 40) >= 128 for name in CATEGORIES[split::4]]
        holes = [mask_polygons(stamp) is None for stamp in stamps]
        filled = [stamp.sum() / (np.pi * 40**2) for stamp in stamps]  # of the circle around
        assert any(holes) and not all(holes) and max(filled) - min(filled) > 0.2


def test_outlines_fill_the_unit_circle():
    for name in CATEGORIES:
        ys, xs = np.nonzero(outlines.draw(name, 50) >= 128)
        _, radius = cv2.minEnclosingCircle(np.stack([xs, ys], axis=-1).astype(np.float32))
        assert radius == pytest.approx(50, abs=1.5), name


@pytest.mark.parametrize("name", CATEGORIES)
def test_stamps_stay_on_their_canvas_and_are_in_one_piece(name):
    rng = np.random.default_rng(1)
    smallest, largest = np.array(outlines.RADIUS) * 2 * 128  # a stretch below 1 leaves the canvas as it is
    largest = largest * outlines.STRETCH[1] + 2 * (1 + outlines.MARGIN)
    for stamp in (outlines.make_stamp(rng, name, 128) for _ in range(20)):
        border = np.concatenate([stamp[0], stamp[-1], stamp[:, 0], stamp[:, -1]])
        assert not border.any() and smallest < len(stamp) < largest
        assert cv2.connectedComponents((stamp >= 128).astype(np.uint8))[0] == 2  # the background is one


def test_color_tells_nothing(many):
    """The share of the variance of objects' mean colors that categories explain is what chance gives."""
    colors, ids = [], []
    for image, masks, class_ids in many:
        colors.extend(image[masks[:, :, index]].mean(axis=0) for index in range(len(class_ids)))
        ids.extend(class_ids)
    colors, ids = np.array(colors), np.array(ids)
    within = sum(((colors[ids == i] - colors[ids == i].mean(axis=0)) ** 2).sum(axis=0) for i in set(ids))
    explained = 1 - within / ((colors - colors.mean(axis=0)) ** 2).sum(axis=0)
    by_chance = (len(CATEGORIES) - 1) / (len(ids) - 1)
    assert explained.max() < 2.5 * by_chance
    assert colors.std(axis=0).min() > 40


# ---- scenes ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("seed", range(8))
def test_scene(seed):
    image, masks, class_ids = shapes.make_scene(np.random.default_rng(seed), 90, 120)
    assert image.shape == (90, 120, 3) and image.dtype == np.uint8 and image.std() > 10
    assert masks.dtype == bool and masks.shape == (90, 120, len(class_ids))
    assert class_ids.dtype == np.int32 and set(class_ids) <= set(range(1, len(CATEGORIES) + 1))
    assert masks.sum(axis=-1).max() == 1  # after occlusion: no pixel twice
    assert masks.sum(axis=(0, 1)).min() >= 40


def test_scene_depends_on_its_generator_alone():
    first, again, other = (shapes.make_scene(np.random.default_rng(seed), 64, 64) for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0], other[0])


def test_numbers_of_objects_and_categories(many):
    counts = [len(class_ids) for _, _, class_ids in many]
    kinds = [len(set(class_ids)) for _, _, class_ids in many]
    assert set(counts) == set(range(1, 7))
    for count, kind in zip(counts, kinds, strict=True):
        assert min(count, 2) <= kind <= min(count, 4)
    assert np.mean(np.array(counts) > kinds) > 0.4  # several instances of one category


def test_categories_come_equally_often(many):
    counts = np.bincount(np.concatenate([class_ids for _, _, class_ids in many]), minlength=len(CATEGORIES) + 1)[1:]
    assert counts.min() > 0.6 * counts.mean() and counts.max() < 1.5 * counts.mean()


def test_most_of_every_object_is_visible(monkeypatch):
    """Whole areas are taken from the stamps: the last one drawn for an object is the one that was put down."""
    drawn = []

    def record(rng, name, short_side):
        drawn.append((name, outlines.make_stamp(rng, name, short_side)))
        return drawn[-1][1]

    monkeypatch.setattr(scenes, "make_stamp", record)
    shares = []
    for index in range(60):
        drawn.clear()
        _, masks, class_ids = shapes.make_scene(np.random.default_rng([2, index]), 64, 64)
        if len(drawn) == len(class_ids):  # no stamp was drawn anew
            whole = [np.count_nonzero(stamp >= 128) for _, stamp in drawn]
            shares.extend(masks.sum(axis=(0, 1)) / whole)
    assert len(shares) > 150 and scenes.MIN_VISIBLE <= min(shares) < 0.75 and max(shares) == 1


def test_objects_stand_out(many):
    """Colors on both sides of an object's border differ, for nearly all objects."""
    steps = []
    for image, masks, _ in many:
        for mask in np.moveaxis(masks, -1, 0).astype(np.uint8):
            around = cv2.dilate(mask, np.ones((5, 5), np.uint8)) > mask
            steps.append(np.linalg.norm(image[mask > 0].mean(axis=0) - image[around].mean(axis=0)))
    assert min(steps) > 30 and np.percentile(steps, 2) > 60 and np.median(steps) > 90


def test_scene_of_one_category():
    _, _, class_ids = shapes.make_scene(np.random.default_rng(0), 64, 64, categories=["star"])
    assert set(class_ids) == {CATEGORIES.index("star") + 1}


@pytest.mark.parametrize(
    "height, categories, message",
    [
        (47, ["disc"], "47 x 64 pixels is too small"),
        (10**7, ["disc"], "10000000 x 64 pixels is too large"),
        (64, ["blot"], r"\['blot'\]: expected some of star"),
        (64, [], r"\[\]"),
    ],
)
def test_scene_refuses(height, categories, message):
    with pytest.raises(ValueError, match=message):
        shapes.make_scene(np.random.default_rng(0), height, 64, categories=categories)


def test_reference_crops_are_the_largest_of_their_category():
    image, masks, class_ids = shapes.make_scene(np.random.default_rng(3), 128, 128)
    crops = shapes.reference_crops(image, masks, class_ids)
    assert set(crops) == {CATEGORIES[class_id - 1] for class_id in class_ids}
    for name, (crop, (y1, x1, y2, x2)) in crops.items():
        same = class_ids == CATEGORIES.index(name) + 1
        largest = masks[:, :, same][:, :, masks[:, :, same].sum(axis=(0, 1)).argmax()]
        assert extract_bboxes(largest[:, :, None])[0].tolist() == [y1, x1, y2, x2]
        assert np.array_equal(crop, image[y1:y2, x1:x2])


# ---- files -------------------------------------------------------------------------------------------------------
SMALL = {"train": 4, "val": 2, "size": 64, "seed": 5}


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shapes")
    return folder, shapes.write_coco(folder, **SMALL)


def read_bytes(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def annotations(folder, split="train"):
    return json.loads((folder / "annotations" / f"instances_{split}2017.json").read_text())


def test_written_tree_is_what_pycocotools_reads(tree):
    folder, written = tree
    for split, count in (("train", 4), ("val", 2)):
        coco = COCO(str(folder / "annotations" / f"instances_{split}2017.json"))
        assert len(coco.imgs) == count and len(coco.anns) == written[split] > 0
        assert [category["name"] for category in coco.loadCats(coco.getCatIds())] == list(CATEGORIES)
        for record in coco.imgs.values():
            image = Image.open(folder / f"{split}2017" / record["file_name"])
            assert image.size == (record["width"], record["height"]) == (64, 64)
        for annotation in coco.anns.values():
            mask = coco.annToMask(annotation)
            y1, x1, y2, x2 = extract_bboxes(mask[:, :, None])[0].tolist()
            assert annotation["bbox"] == [x1, y1, x2 - x1, y2 - y1] and annotation["area"] == mask.sum()
    assert sorted(path.name for path in folder.iterdir()) == ["annotations", "train2017", "val2017"]


def test_ids_are_unique_over_both_splits(tree):
    contents = [annotations(tree[0], split) for split in shapes.SPLITS]
    for kind in ("images", "annotations"):
        ids = [record["id"] for content in contents for record in content[kind]]
        assert len(ids) == len(set(ids))


def test_the_same_bytes_from_any_number_of_workers(tree, tmp_path):
    shapes.write_coco(tmp_path, **SMALL, workers=2)
    assert read_bytes(tmp_path) == read_bytes(tree[0])


def test_another_seed_gives_other_bytes(tree, tmp_path):
    shapes.write_coco(tmp_path, **{**SMALL, "seed": 6})
    first, second = read_bytes(tree[0]), read_bytes(tmp_path)
    assert first.keys() == second.keys() and all(first[name] != second[name] for name in first)


def test_a_scene_does_not_depend_on_how_many_are_written(tree, tmp_path):
    shapes.write_coco(tmp_path, train=1, val=1, size=64, seed=5)
    for name, longer in (("train2017/000000000001.jpg",) * 2, ("val2017/000000000002.jpg", "val2017/000000000005.jpg")):
        assert (tmp_path / name).read_bytes() == (tree[0] / longer).read_bytes()


def test_sides_vary_where_wanted(tmp_path):
    shapes.write_coco(tmp_path, train=12, val=1, size=80, seed=0, square=False)
    sides = [(image["height"], image["width"]) for image in annotations(tmp_path)["images"]]
    assert {max(pair) for pair in sides} == {80} and all(60 <= min(pair) <= 80 for pair in sides)
    assert len({min(pair) for pair in sides}) > 3 and len({height > width for height, width in sides}) == 2


def test_polygons_match_the_masks_and_holes_stay_rle():
    """Over scenes with occlusion; RLE of the same masks is exact."""
    kinds = set()
    for _, masks, class_ids in make_scenes(40, 96):
        exact = scenes.annotate(masks, class_ids, polygons=False)
        for mask, record, rle in zip(
            np.moveaxis(masks, -1, 0), scenes.annotate(masks, class_ids, polygons=True), exact, strict=True
        ):
            assert np.array_equal(coco_mask.decode(rle["segmentation"]), mask)
            kinds.add(type(record["segmentation"]))
            if isinstance(record["segmentation"], dict):
                assert record == rle
                continue
            assert min(map(len, record["segmentation"])) >= 6
            drawn = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(record["segmentation"], 96, 96)))
            assert overlap([drawn], [mask]) > 0.98
            assert record["area"] == mask.sum() and record["bbox"] == rle["bbox"]
    assert kinds == {list, dict}


@pytest.mark.parametrize("pixels", [[(5, 5)], [(5, 5), (5, 6)], [(5, 5), (6, 6), (7, 5)]])
def test_polygons_of_few_pixels(pixels):
    mask = np.zeros((12, 12), bool)
    mask[tuple(zip(*pixels, strict=True))] = True
    drawn = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(mask_polygons(mask), 12, 12)))
    assert np.array_equal(drawn, mask)


def test_an_interrupted_run_leaves_no_annotation_file(tmp_path, monkeypatch):
    shapes.write_coco(tmp_path, **SMALL)

    def stop(job):
        if job.path.name == "000000000003.jpg":
            raise KeyboardInterrupt
        return scenes.write_scene(job)

    monkeypatch.setattr(shapes, "write_scene", stop)
    with pytest.raises(KeyboardInterrupt):
        shapes.write_coco(tmp_path, **{**SMALL, "seed": 9})
    assert not list((tmp_path / "annotations").iterdir())


def test_the_script_has_the_functions_of_version_0_1():
    script = load_script("samples/shapes/shapes.py")
    assert script.write_coco is shapes.write_coco and script.make_scene is scenes.make_scene


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="sends a signal to a group of processes")
def test_an_interruption_ends_the_workers_too(tmp_path):
    """Ctrl-C reaches the whole group; the program ends soon, without annotation files."""
    command = [sys.executable, str(ROOT / "samples" / "shapes" / "shapes.py"), "--out", str(tmp_path)]
    command += ["--train", "100000", "--size", "48", "--workers", "2"]
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # which a shell lets its background jobs ignore
    program = subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True, preexec_fn=heed)
    try:
        while not list(tmp_path.glob("train2017/0*.jpg")):
            assert program.poll() is None
            time.sleep(0.05)
        os.killpg(program.pid, signal.SIGINT)
        _, message = program.communicate(timeout=300)
    finally:
        if program.poll() is None:
            os.killpg(program.pid, signal.SIGKILL)
    assert program.returncode == 130 and b"shapes.py: interrupted" in message and b"Traceback" not in message
    assert not (tmp_path / "annotations").exists() and not list(tmp_path.glob("train2017/.*"))


def test_other_data_sets_are_not_replaced(tmp_path):
    path = tmp_path / "annotations" / "instances_val2017.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"info": {"description": "COCO 2017 Dataset"}}))
    with pytest.raises(ValueError, match=r"instances_val2017.json: info.description = 'COCO 2017 Dataset'"):
        shapes.write_coco(tmp_path, **SMALL)
    assert path.exists() and len(list(tmp_path.rglob("*"))) == 2


@pytest.mark.parametrize(
    "change, message",
    [
        ({"train": 0}, "train = 0: expected 1"),
        ({"val": -1}, "val = -1"),
        ({"size": 47}, "size = 47: expected 48"),
        ({"size": 63, "square": False}, "size = 63: expected 64"),
        ({"size": 10_000_000}, "size = 10000000: expected at most 8192"),
        ({"train": 10_000_000}, "train = 10000000: expected at most 1000000"),
        ({"seed": -1}, "seed = -1"),
        ({"workers": 0}, "workers = 0: expected 1"),
        ({"segmentation": "masks"}, "segmentation = 'masks': expected rle or polygons"),
    ],
)
def test_write_coco_refuses(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        shapes.write_coco(tmp_path / "new", **{**SMALL, **change})
    assert not (tmp_path / "new").exists()


# ---- the standard set --------------------------------------------------------------------------------------------
@pytest.fixture
def small_standard(monkeypatch):
    monkeypatch.setattr(shapes, "STANDARD", SMALL)
    monkeypatch.setattr(shapes, "_usable_cores", lambda: 1)


def test_standard_is_made_once(small_standard, tree, tmp_path, caplog):
    caplog.set_level("INFO", shapes.__name__)
    folder = tmp_path / "datasets" / "shapes"
    assert shapes.ensure_standard(str(folder)) == folder
    assert caplog.messages == [
        f"making the Shapes data set in {folder}: 4 training and 2 validation scenes of 64 pixels"
    ]
    info = annotations(folder)["info"]
    assert {key: info[key] for key in SMALL} == SMALL
    assert info["description"] == "Shapes" and info["version"] == shapes.GENERATOR_VERSION
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert shapes.ensure_standard(folder) == folder and len(caplog.messages) == 1
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert read_bytes(folder) == read_bytes(tree[0])


def test_standard_is_completed_after_an_interruption(small_standard, tree, tmp_path):
    shapes.ensure_standard(tmp_path)
    (tmp_path / "annotations" / "instances_val2017.json").unlink()
    (tmp_path / "train2017" / "000000000002.jpg").unlink()
    shapes.ensure_standard(tmp_path)
    assert read_bytes(tmp_path) == read_bytes(tree[0])


@pytest.mark.parametrize("key, value", [("seed", 6), ("size", 65), ("train", 3), ("version", "0")])
def test_standard_refuses_what_was_made_otherwise(small_standard, tmp_path, key, value):
    shapes.ensure_standard(tmp_path)
    path = tmp_path / "annotations" / "instances_val2017.json"
    content = annotations(tmp_path, "val")
    expected, content["info"][key] = content["info"][key], value
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError) as error:
        shapes.ensure_standard(tmp_path)
    assert str(error.value).startswith(f"{path}: info.{key} = {value!r}, expected {expected!r}")


# ---- command line ------------------------------------------------------------------------------------------------
def test_command_line_writes_a_tree(tmp_path, capsys):
    options = ["--train", "2", "--val", "1", "--size", "64", "--vary-sides", "--segmentation", "polygons"]
    assert main(["shapes", "--out", str(tmp_path), *options]) == 0
    assert "train2017 with 2 scenes" in capsys.readouterr().out
    assert len(list(tmp_path.glob("train2017/*.jpg"))) == 2
    info = annotations(tmp_path)["info"]
    assert info["segmentation"] == "polygons" and info["square"] is False


def test_command_line_writes_a_demo(tmp_path, capsys):
    assert main(["shapes", "--out", str(tmp_path), "--demo", "--size", "96", "--seed", "3"]) == 0
    scene = np.asarray(Image.open(tmp_path / "scene.png"))
    lines = capsys.readouterr().out.splitlines()
    assert scene.shape == (96, 96, 3) and len(lines) == len(list(tmp_path.iterdir())) >= 2
    path, _, box = lines[1].partition(" cut at y1,x1,y2,x2 = ")
    y1, x1, y2, x2 = map(int, box.split(","))
    assert np.array_equal(np.asarray(Image.open(path)), scene[y1:y2, x1:x2])


@pytest.mark.parametrize("arguments", [["--train", "0"], ["--demo", "--size", "10"]])
def test_command_line_says_what_is_wrong(tmp_path, capsys, arguments):
    assert main(["shapes", "--out", str(tmp_path), *arguments]) == 2
    assert f"{arguments[-1]}" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_workers_of_a_program_from_stdin(tmp_path):
    """Python cannot start such a program anew in workers: all is drawn in its own process."""
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from siamese_mrcnn_tf.shapes.dataset import write_coco; "
    program += "write_coco('made', train=1, val=1, size=48, seed=0, workers=2)"
    subprocess.run([sys.executable, "-"], input=program, text=True, cwd=tmp_path, check=True)
    assert len(list(tmp_path.glob("made/*2017/*.jpg"))) == 2


def test_runs_as_a_script_without_tensorflow(tmp_path):
    """From another folder, with worker processes."""
    script = (
        "import runpy, sys\n"
        "sys.argv = 'shapes.py --out made --train 2 --val 1 --size 48 --workers 2'.split()\n"
        f"try: runpy.run_path({str(ROOT / 'samples' / 'shapes' / 'shapes.py')!r}, run_name='__main__')\n"
        "except SystemExit as stop: sys.exit(stop.code or 3 * ('tensorflow' in sys.modules))"
    )
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)
    assert len(list(tmp_path.glob("made/*2017/*.jpg"))) == 3


def test_scene_and_reference_of_an_example():
    (scene, reference), (again, _) = (shapes.make_example("heart", size=64, seed=3) for _ in range(2))
    assert scene.shape == (64, 64, 3) and scene.dtype == reference.dtype == np.uint8
    assert reference.ndim == 3 and max(reference.shape) <= 64 and np.array_equal(scene, again)
    with pytest.raises(ValueError, match="seed"):
        shapes.make_example("heart", seed=-1)


def test_scenes_of_the_example(tmp_path):
    for folder in ("a", "b"):
        for count in (4, 3):  # none is left of an example with more scenes
            shapes.write_example(tmp_path / folder, ["star", "gear"], scenes=count, size=64, seed=4)
    found = {path.relative_to(tmp_path / "a"): path.read_bytes() for path in (tmp_path / "a").rglob("*.png")}
    names = ["references/gear.png", "references/star.png", *(f"scenes/scene_0{number}.png" for number in (1, 2, 3))]
    assert sorted(map(str, found)) == names
    assert all((tmp_path / "b" / path).read_bytes() == content for path, content in found.items())
    with Image.open(tmp_path / "a" / "scenes" / "scene_01.png") as scene:
        assert scene.width == 64 and 48 <= scene.height <= 64
