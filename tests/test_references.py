"""References: which instances are drawn, and their crops."""

import coco_tree
import numpy as np
import pytest

from siamese_mrcnn_tf.config import SmallConfig, TinyConfig
from siamese_mrcnn_tf.data import resize
from siamese_mrcnn_tf.data.references import cut_reference, draw_reference, get_one_target
from siamese_mrcnn_tf.ops.boxes import extract_bboxes

ELLIPSE, RECTANGLE, TRIANGLE = 1, 2, 3  # class ids of coco_tree's categories 3, 7, 18


# ---- references ------------------------------------------------------------------------------------------------------


def test_draws_depend_on_their_key_alone(tmp_path, content, data):
    key = {"seed": 1, "run": 2, "image_id": 1, "shot": 3}
    drawn = draw_reference(data, TRIANGLE, **key)
    assert drawn in [(1, 1), (2, 0)]
    draw_reference(data, ELLIPSE, **key)
    assert draw_reference(data, TRIANGLE, **key) == drawn
    assert draw_reference(coco_tree.load(tmp_path, "val"), TRIANGLE, **key) == drawn
    for name in key:
        others = [draw_reference(data, TRIANGLE, **key | {name: value}) for value in range(3)]
        assert all(other in [(1, 1), (2, 0)] for other in others)
    seen = {draw_reference(data, TRIANGLE, **key | {"shot": shot}) for shot in range(20)}
    assert seen == {(1, 1), (2, 0)}
    with pytest.raises(ValueError, match="no negative number"):
        draw_reference(data, TRIANGLE, **key | {"seed": -1})


def test_draws_are_uniform_over_images_first(tmp_path, content):
    rectangle = content["annotations"][1]
    content["annotations"] += [rectangle | {"id": 200 + k, "iscrowd": int(k == 0)} for k in range(3)]
    coco_tree.write_annotations(tmp_path, content)
    data = coco_tree.load(tmp_path, "val")  # image 0 has three rectangles (and a crowd of them), image 1 one
    counts = {}
    for shot in range(600):
        drawn = draw_reference(data, RECTANGLE, seed=0, run=0, image_id=0, shot=shot)
        counts[drawn] = counts.get(drawn, 0) + 1
    assert sorted(counts) == [(0, 1), (0, 4), (0, 5), (1, 0)]
    assert abs(counts[1, 0] - 300) < 60 and all(abs(counts[0, k] - 100) < 45 for k in (1, 4, 5))


def test_instances_without_a_mask_are_not_drawn(tmp_path, content):
    content["annotations"][1] |= {"segmentation": [], "bbox": [0, 0, 0, 0]}
    coco_tree.write_annotations(tmp_path, content)
    data = coco_tree.load(tmp_path, "val")
    drawn = {draw_reference(data, RECTANGLE, seed=0, run=0, image_id=0, shot=shot) for shot in range(10)}
    assert drawn == {(1, 0)}


def test_instances_that_vanish_in_the_scene_are_not_drawn(tmp_path, content):
    content["annotations"][1]["segmentation"] = [[64, 40, 65, 40, 65, 41, 64, 41]]
    coco_tree.write_annotations(tmp_path, content)
    data = coco_tree.load(tmp_path, "val")
    config = TinyConfig().replace(IMAGE_MIN_DIM=64, IMAGE_MAX_DIM=64)  # half the size: every other row and column
    assert data.instance_mask(0, 1).sum() == 1
    key = {"seed": 0, "run": 0, "image_id": 0}
    kept = {draw_reference(data, RECTANGLE, **key, shot=shot, config=config) for shot in range(20)}
    vanished = not resize.resize_mask(data.instance_mask(0, 1)[..., None], 0.5, [(0, 0)] * 3).any()
    assert vanished and kept == {(1, 0)}
    assert {draw_reference(data, RECTANGLE, **key, shot=shot) for shot in range(20)} == {(0, 1), (1, 0)}


def test_classes_without_references(tmp_path, content):
    content["annotations"] = [a for a in content["annotations"] if a["category_id"] != 18 or a["iscrowd"]]
    for annotation in content["annotations"][:1] + content["annotations"][3:4]:
        annotation |= {"segmentation": [], "bbox": [0, 0, 0, 0]}
    coco_tree.write_annotations(tmp_path, content)
    data = coco_tree.load(tmp_path, "val")
    for class_id, name in ((TRIANGLE, "triangle"), (ELLIPSE, "ellipse")):
        message = rf"class {class_id} \({name}\) has no instance in val2017"
        if class_id == ELLIPSE:
            data.image_info[2]["annotations"][0]["segmentation"] = []
        with pytest.raises(ValueError, match=message):
            draw_reference(data, class_id, seed=0, run=0, image_id=0, shot=0)
    for class_id in (0, 4, -1):
        with pytest.raises(ValueError, match=rf"class id {class_id}: val2017 has classes 1..3|no negative number"):
            draw_reference(data, class_id, seed=0, run=0, image_id=0, shot=0)


@pytest.mark.parametrize("config", [SmallConfig(), TinyConfig()], ids=["small", "tiny"])
def test_cut_reference_equals_the_long_way(data, config):
    """Resize and pad the scene, find the box of the resized mask, crop, resize and pad again."""
    query = (config.IMAGE_MIN_DIM, config.IMAGE_MAX_DIM, config.IMAGE_MIN_SCALE, config.IMAGE_RESIZE_MODE)
    scene, _, scale, padding, crop = resize.resize_image(data.load_image(0), *query)
    for index in range(2):
        mask = resize.resize_mask(data.instance_mask(0, index)[..., None], scale, padding, crop)
        y1, x1, y2, x2 = extract_bboxes(mask)[0]
        part = scene[y1:y2, x1:x2]
        expected = resize.resize_image(part, config.TARGET_MIN_DIM, config.TARGET_MAX_DIM, config.IMAGE_MIN_SCALE)[0]
        reference = cut_reference(data, config, 0, index)
        assert reference.dtype == np.uint8 and reference.shape == config.TARGET_SHAPE
        assert np.array_equal(reference, expected)


def test_get_one_target(data):
    config = SmallConfig()
    references = [cut_reference(data, config, *instance) for instance in ((0, 0), (2, 1))]
    rng = np.random.default_rng(0)
    drawn = [get_one_target(ELLIPSE, data, config, rng=rng) for _ in range(12)]
    found = [[np.array_equal(target, reference) for reference in references] for target in drawn]
    assert all(map(any, found)) and np.any(found, axis=0).all()
    again = get_one_target(ELLIPSE, data, config, rng=np.random.default_rng(0))
    assert np.array_equal(again, drawn[0])
    assert get_one_target(ELLIPSE, data, config).shape == (96, 96, 3)


def test_get_one_target_returns_the_resizing(data):
    config = SmallConfig()
    data.category_image_index[RECTANGLE] = np.array([0])
    target, shape = get_one_target(RECTANGLE, data, config, return_original_size=True)
    assert shape == (161, 193, 3)  # 40 x 48 pixels scaled by 383 / 95 and 511 / 127: the corners are aligned
    target, window, scale, padding, crop = get_one_target(RECTANGLE, data, config, return_all=True)
    assert target.shape == (96, 96, 3) and crop is None and scale == 96 / 193
    assert tuple(window) == (8, 0, 88, 96) and list(padding) == [(8, 8), (0, 0), (0, 0)]
    assert not target[:8].any() and not target[88:].any() and target[8:88].any()


def test_get_one_target_prefers_large_crops(tmp_path, content):
    content["annotations"][1]["segmentation"] = [[60, 20, 70, 20, 70, 30, 60, 30]]  # 40 x 40 pixels in the scene
    coco_tree.write_annotations(tmp_path, content)
    data, rng = coco_tree.load(tmp_path, "val"), np.random.default_rng(0)

    def are_large(**limits):
        targets = (get_one_target(RECTANGLE, data, SmallConfig(), **limits, **flags) for _ in range(10))
        return {min(shape[:2]) > 100 for _, shape in targets}

    flags = {"return_original_size": True, "rng": rng}
    assert are_large(target_size_limit=100, max_attempts=30) == {True}
    assert are_large(target_size_limit=1000, max_attempts=2) == {True, False}
    with pytest.raises(ValueError, match="augmentation of references is not supported"):
        get_one_target(RECTANGLE, data, SmallConfig(), augmentation="flip")
