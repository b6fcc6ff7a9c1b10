"""Training samples: scenes of the original, samples by hand, what a numbered sample depends on, and batches."""

import dataclasses
import itertools
import logging
import subprocess
import sys

import coco_tree
import conftest
import numpy as np
import pytest

from siamese_mrcnn_tf.config import SmallConfig, TinyConfig
from siamese_mrcnn_tf.data import augmentation, data_generator, resize
from siamese_mrcnn_tf.data.data_generator import TrainingSamples, collate, load_image_gt
from siamese_mrcnn_tf.data.references import cut_reference
from siamese_mrcnn_tf.ops.boxes import compute_overlaps, extract_bboxes

ELLIPSE, RECTANGLE, TRIANGLE = 1, 2, 3  # class ids of recorded_scenes, and of coco_tree's categories 3, 7, 18
CATEGORY = {ELLIPSE: 3, RECTANGLE: 7, TRIANGLE: 18}
GREEN = (30, 200, 40)  # the rectangles of coco_tree
EVERY_ANCHOR = 100_000  # RPN_TRAIN_ANCHORS_PER_IMAGE with which nothing is thinned out
TOP = 16  # rows of padding above coco_tree's images of 96 x 128 in a scene of TinyConfig

TINY = TinyConfig().replace(  # its samples as the original's are
    QUERIES_PER_IMAGE=1, RPN_POSITIVE_IOU=0.7, USE_HARD_NEGATIVES=False
)

needs_shared = pytest.mark.skipif(
    not (conftest.SHARED / "parity" / "data_pipeline.npz").exists(), reason="the full records are not here"
)


def unpacked(training_record, name):
    """The recorded masks `name`, bool."""
    shape = training_record[f"{name}_shape"]
    return np.unpackbits(training_record[f"{name}_packed"])[: np.prod(shape)].reshape(shape).astype(bool)


# ---- load_image_gt -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("index", range(3))
def test_recorded_scenes(recorded_scenes, training_record, index):
    image, meta, class_ids, boxes, masks = load_image_gt(recorded_scenes, SmallConfig(), index)
    np.testing.assert_array_equal(meta, training_record[f"gt{index}_meta"])
    np.testing.assert_array_equal(class_ids, training_record[f"gt{index}_class_ids"])
    np.testing.assert_array_equal(boxes, training_record[f"gt{index}_boxes"])
    np.testing.assert_array_equal(masks, unpacked(training_record, f"gt{index}_fullmask"))
    assert (image.dtype, boxes.dtype, masks.dtype) == (np.uint8, np.int32, bool) and image.shape == (512, 512, 3)
    assert np.abs(image[::8, ::8].astype(int) - training_record[f"gt{index}_image_sub"]).max() <= 1
    mini = load_image_gt(recorded_scenes, SmallConfig(), index, use_mini_mask=True)
    np.testing.assert_array_equal(mini[4], unpacked(training_record, f"gt{index}_minimask"))
    for with_mini, without in zip(mini[:4], (image, meta, class_ids, boxes), strict=True):
        np.testing.assert_array_equal(with_mini, without)


@needs_shared
@pytest.mark.parametrize("index", range(3))
def test_every_pixel_of_recorded_scenes(recorded_scenes, index):
    image = load_image_gt(recorded_scenes, SmallConfig(), index)[0]
    with np.load(conftest.SHARED / "parity" / "data_pipeline.npz", allow_pickle=False) as content:
        assert np.abs(image.astype(int) - content[f"gt{index}_image_u8"]).max() <= 1


def small_scene(*rectangles, class_ids=None):
    """A Scenes of one random image of 64 x 128 pixels with rectangles (y1, x1, y2, x2)."""
    image = np.random.default_rng(0).integers(0, 256, (64, 128, 3), dtype=np.uint8)
    masks = np.zeros((64, 128, len(rectangles)), bool)
    for index, (y1, x1, y2, x2) in enumerate(rectangles):
        masks[y1:y2, x1:x2, index] = True
    return coco_tree.Scenes([(image, masks, np.array(class_ids or [RECTANGLE] * len(rectangles), np.int32))])


def test_scene_by_hand():
    data = small_scene((0, 0, 5, 7), (10, 20, 60, 128), class_ids=[ELLIPSE, -TRIANGLE])
    image, meta, class_ids, boxes, masks = load_image_gt(data, TINY, 0)
    np.testing.assert_array_equal(image[32:96], data.load_image(0))
    assert not image[:32].any() and not image[96:].any()
    assert class_ids.tolist() == [ELLIPSE, -TRIANGLE]  # a crowd
    assert boxes.tolist() == [[32, 0, 37, 7], [42, 20, 92, 128]]
    assert masks.shape == (128, 128, 2) and masks.sum(axis=(0, 1)).tolist() == [35, 50 * 108]
    assert meta.tolist() == [0, 64, 128, 3, 128, 128, 3, 32, 0, 96, 128, 1, 1, 1, 1, 1]


def test_scene_without_instances():
    image, _, class_ids, boxes, masks = load_image_gt(small_scene(), TINY, 0)
    assert image.any() and class_ids.shape == (0,) and boxes.shape == (0, 4) and masks.shape == (128, 128, 0)
    assert load_image_gt(small_scene(), TINY, 0, use_mini_mask=True)[4].shape == (56, 56, 0)


def test_instances_that_vanish_are_left_out():
    data = small_scene((1, 1, 2, 2), (0, 0, 30, 30), class_ids=[ELLIPSE, TRIANGLE])
    half = TINY.replace(IMAGE_MIN_DIM=64, IMAGE_MAX_DIM=64)
    _, _, class_ids, boxes, masks = load_image_gt(data, half, 0, use_mini_mask=True)
    assert class_ids.tolist() == [TRIANGLE] and boxes.shape == (1, 4) and masks.shape == (56, 56, 1)


def test_active_classes_are_those_of_the_image_s_source():
    data = small_scene()
    data.add_class("other", 1, "cube")
    data.prepare()
    assert load_image_gt(data, TINY, 0)[1][12:].tolist() == [1, 1, 1, 1, 0]


def test_augment_mirrors_half_of_the_images():
    data = small_scene((0, 0, 5, 7))
    plain = load_image_gt(data, TINY, 0)
    mirrored = 0
    for seed in range(20):
        image, _, _, boxes, masks = load_image_gt(data, TINY, 0, augment=True, rng=np.random.default_rng(seed))
        side = -1 if boxes[0].tolist() == [32, 121, 37, 128] else 1
        mirrored += side == -1
        np.testing.assert_array_equal(image, plain[0][:, ::side])
        np.testing.assert_array_equal(masks, plain[4][:, ::side])
    assert 4 <= mirrored <= 16


def test_augmentation_of_a_scene():
    always = augmentation.fliplr(1.0)
    data = small_scene((0, 0, 5, 7))
    image, _, _, boxes, _ = load_image_gt(data, TINY, 0, augmentation=always)
    np.testing.assert_array_equal(image[32:96], data.load_image(0)[:, ::-1])
    assert boxes.tolist() == [[32, 121, 37, 128]]


# ---- TrainingSamples -------------------------------------------------------------------------------------------------
def load(root, active=None):
    return coco_tree.load(root, "val", active=active)


def reload(root, content, active=None):
    coco_tree.write_annotations(root, content)
    return load(root, active)


def sample_of(samples, image_id, run=0):
    """The sample of an image in a pass."""
    numbers = range(run * len(samples), (run + 1) * len(samples))
    return samples[next(number for number in numbers if samples.image_of(number) == image_id)]


def choices(samples, count):
    """Image, class and references of the first samples."""
    return [(sample.image_id, sample.class_id, sample.references) for sample in map(samples.__getitem__, range(count))]


def assert_same(sample, other):
    for field in dataclasses.fields(sample):
        np.testing.assert_array_equal(getattr(sample, field.name), getattr(other, field.name), err_msg=field.name)


def square(y1, x1, y2, x2):
    """A polygon over these pixels."""
    return [[x1, y1, x2, y1, x2, y2, x1, y2]]


def padded(image):
    """An image or masks of coco_tree as in a scene of TinyConfig."""
    return np.pad(image, ((TOP, TOP), (0, 0), (0, 0)))


def test_a_sample_by_hand(tmp_path, content):
    data = load(tmp_path, [RECTANGLE])
    samples = TrainingSamples(data, TINY)
    sample = sample_of(samples, 0)
    assert (sample.image_id, sample.class_id) == (0, RECTANGLE)
    assert sample.references in ([(0, 1)], [(1, 0)])
    np.testing.assert_array_equal(sample.image, padded(data.load_image(0)))
    assert sample.image_meta.tolist() == [10, 96, 128, 3, 128, 128, 3, 16, 0, 112, 128, 1, 1, 1]
    np.testing.assert_array_equal(sample.targets, [cut_reference(data, TINY, *sample.references[0])])
    assert sample.gt_class_ids.tolist() == [1] and sample.gt_boxes.tolist() == [[20 + TOP, 72, 60 + TOP, 120]]
    assert sample.gt_masks.shape == (56, 56, 1) and sample.gt_masks.all()
    assert (sample.image.dtype, sample.targets.dtype, sample.gt_masks.dtype) == (np.uint8, np.uint8, bool)
    assert (sample.gt_class_ids.dtype, sample.gt_boxes.dtype, sample.rpn_match.dtype) == (np.int32,) * 3


def test_rpn_targets_of_a_sample(tmp_path, content):
    samples = TrainingSamples(load(tmp_path, [RECTANGLE]), TINY)
    sample = sample_of(samples, 0)
    assert sample.rpn_match.shape == (len(samples.anchors),) and sample.rpn_bbox.shape == (64, 4)
    overlaps = compute_overlaps(samples.anchors, sample.gt_boxes)[:, 0]
    positive, expected = sample.rpn_match == 1, overlaps >= 0.7
    expected[overlaps.argmax()] = True
    np.testing.assert_array_equal(positive, expected)
    assert (sample.rpn_match == -1).sum() == 64 - positive.sum() and (overlaps[sample.rpn_match == -1] < 0.3).all()
    assert (sample.rpn_bbox.any(axis=-1) == (np.arange(64) < positive.sum())).all()


def test_a_sample_is_the_same_whatever_was_asked_before(tmp_path, data):
    samples = TrainingSamples(data, TINY, seed=3)
    made = [samples[number] for number in range(9)]
    other = TrainingSamples(load(tmp_path), TINY, seed=3)
    for number in (7, 0, 4, 8, 1, 7):
        assert_same(other[number], made[number])
    assert_same(samples[2], made[2])


def test_draws_do_not_depend_on_the_other_images_of_the_set(tmp_path, content):
    """Image ids are places in the set, and shift; COCO ids do not."""
    whole = sample_of(TrainingSamples(load(tmp_path, [TRIANGLE]), TINY), 1)
    content["images"] = content["images"][1:]
    content["annotations"] = content["annotations"][3:]
    shifted = sample_of(TrainingSamples(reload(tmp_path, content, [TRIANGLE]), TINY), 0)
    assert (whole.image_id, shifted.image_id) == (1, 0)
    for name in ("image", "image_meta", "targets", "rpn_match", "rpn_bbox", "gt_boxes"):
        np.testing.assert_array_equal(getattr(shifted, name), getattr(whole, name), err_msg=name)


def test_samples_differ_with_seed_and_pass(data):
    both = [TrainingSamples(data, TINY, seed=seed) for seed in (0, 1)]
    first, other = (choices(samples, 12) for samples in both)
    assert first != other
    assert [image for image, _, _ in first] != [image for image, _, _ in other]
    passes = [tuple(sorted(first[start : start + 3])) for start in range(0, 12, 3)]
    assert len(set(map(str, passes))) > 1
    anchors = [np.flatnonzero(sample_of(samples, 0, run).rpn_match == -1) for samples in both for run in (0, 1)]
    assert all(not np.array_equal(one, another) for one, another in itertools.combinations(anchors, 2))


def test_a_pass_visits_each_image_once(tmp_path):
    coco_tree.write_tree(tmp_path, num_images=8)  # the last one has no annotations
    samples = TrainingSamples(load(tmp_path), TINY)
    assert samples.image_ids.tolist() == list(range(7))
    orders = [[samples.image_of(number) for number in range(7 * run, 7 * run + 7)] for run in range(5)]
    assert all(sorted(order) == list(range(7)) for order in orders)
    assert len(set(map(tuple, orders))) == 5
    assert samples[9].image_id == orders[1][2]
    assert [samples.image_of(number) for number in range(7)] == orders[0]  # after later passes were asked for


def test_a_sample_can_be_called_for_as_in_version_0_1(data):
    samples = TrainingSamples(data, TINY)
    np.testing.assert_array_equal(samples(1).rpn_match, samples[1].rpn_match)


def test_a_loop_ends_after_a_pass_and_numbers_do_not(data):
    samples = TrainingSamples(data, TINY.replace(QUERIES_PER_IMAGE=2))
    assert len(samples) == 6
    found = [sample.image_id for sample in samples]
    assert found == [samples.image_of(number) for number in range(6)] and sorted(found) == [0, 0, 1, 1, 2, 2]
    assert samples[6].image_id == samples.image_of(6)
    with pytest.raises(IndexError, match="training sample -1: expected 0 or more"):
        samples[-1]


def test_without_shuffling_images_come_in_their_order(data):
    samples = TrainingSamples(data, TINY, shuffle=False)
    assert [samples.image_of(number) for number in range(7)] == [0, 1, 2, 0, 1, 2, 0]
    assert samples[4].image_id == 1


def test_every_class_of_an_image_is_searched_for(data):
    samples = TrainingSamples(data, TINY)
    assert samples.class_ids == [ELLIPSE, RECTANGLE, TRIANGLE]
    found = {image: {sample_of(samples, image, run).class_id for run in range(12)} for image in range(3)}
    assert found == {0: {ELLIPSE, RECTANGLE}, 1: {RECTANGLE, TRIANGLE}, 2: {ELLIPSE, TRIANGLE}}


def test_only_the_instances_of_the_class_are_ground_truth(data):
    samples = TrainingSamples(data, TINY)
    for number in range(12):
        sample = samples[number]
        (index,) = data.instances_of(sample.image_id, sample.class_id)
        expected = extract_bboxes(padded(data.instance_mask(sample.image_id, index)[..., None]))
        np.testing.assert_array_equal(sample.gt_boxes, expected)
        assert sample.gt_class_ids.tolist() == [1]
        for image_id, annotation in sample.references:
            category = data.image_info[image_id]["annotations"][annotation]["category_id"]
            assert category == CATEGORY[sample.class_id]


def test_objects_of_other_trained_classes_can_come_too(data):
    """After those of the class, as background: crowds and classes that are held out do not."""
    config = TINY.replace(USE_HARD_NEGATIVES=True)
    samples, alone = TrainingSamples(data, config), TrainingSamples(data, TINY)
    for number in range(9):
        sample, plain = samples[number], alone[number]
        [other] = set(data.image_category_index[sample.image_id]) - {sample.class_id}
        (index,) = data.instances_of(sample.image_id, other)
        expected = extract_bboxes(padded(data.instance_mask(sample.image_id, index)[..., None]))
        assert sample.gt_class_ids.tolist() == [1, 0]
        np.testing.assert_array_equal(sample.gt_boxes, [*plain.gt_boxes, *expected])
        np.testing.assert_array_equal(sample.gt_masks[..., :1], plain.gt_masks)
        np.testing.assert_array_equal(sample.rpn_match, plain.rpn_match)
        np.testing.assert_array_equal(sample.rpn_bbox, plain.rpn_bbox)
    data.ACTIVE_CLASSES = np.array([RECTANGLE])
    fewer = TrainingSamples(data, config)
    assert all(fewer[number].gt_class_ids.tolist() == [1] for number in range(4))


def test_crowds_of_the_class_are_neutral(tmp_path, content):
    content["annotations"][1]["category_id"] = CATEGORY[TRIANGLE]  # in image 0, with the crowd
    samples = TrainingSamples(reload(tmp_path, content, [TRIANGLE]), TINY)
    sample = sample_of(samples, 0)
    assert sample.gt_class_ids.tolist() == [1, -1]
    assert sample.gt_boxes.tolist() == [[20 + TOP, 72, 60 + TOP, 120], [88 + TOP, 0, 96 + TOP, 128]]
    config = TINY.replace(RPN_TRAIN_ANCHORS_PER_IMAGE=EVERY_ANCHOR)
    match = sample_of(TrainingSamples(samples.dataset, config), 0).rpn_match
    near_crowd = compute_overlaps(samples.anchors, sample.gt_boxes[1:])[:, 0] >= 0.001
    best = compute_overlaps(samples.anchors, sample.gt_boxes[:1])[:, 0]
    assert not (match[near_crowd] == -1).any()
    np.testing.assert_array_equal(match[~near_crowd] == -1, best[~near_crowd] < 0.3)
    assert all(
        (0, 2) not in sample_of(samples, image, run).references for image in samples.image_ids for run in range(6)
    )


@pytest.mark.parametrize("hard", [False, True])
def test_anchors_on_objects_of_other_classes_are_negative(data, hard):
    config = TINY.replace(RPN_TRAIN_ANCHORS_PER_IMAGE=EVERY_ANCHOR, USE_HARD_NEGATIVES=hard)
    samples = TrainingSamples(data, config)
    for number in range(6):
        sample = samples[number]
        [other] = set(data.image_category_index[sample.image_id]) - {sample.class_id}
        (index,) = data.instances_of(sample.image_id, other)
        boxes = extract_bboxes(padded(data.instance_mask(sample.image_id, index)[..., None]))
        overlaps = compute_overlaps(samples.anchors, boxes)[:, 0]
        assert overlaps.max() > 0.5 and (sample.rpn_match[overlaps > 0.5] == -1).all()


def test_crowds_of_other_classes_are_background(tmp_path, content):
    config = TINY.replace(RPN_TRAIN_ANCHORS_PER_IMAGE=EVERY_ANCHOR)
    samples = TrainingSamples(load(tmp_path, [RECTANGLE]), config)
    crowd = padded(samples.dataset.instance_mask(0, 2)[..., None])
    sample = sample_of(samples, 0)
    near_crowd = compute_overlaps(samples.anchors, extract_bboxes(crowd))[:, 0] > 0.1
    assert sample.gt_class_ids.tolist() == [1]
    assert near_crowd.any() and (sample.rpn_match[near_crowd] == -1).all()


def test_novel_classes_do_not_exist(tmp_path, content):
    samples = TrainingSamples(load(tmp_path, [ELLIPSE]), TINY)
    assert samples.image_ids.tolist() == [0, 2] and samples.class_ids == [ELLIPSE]
    for number in range(8):
        sample = samples[number]
        assert sample.class_id == ELLIPSE and sample.references in ([(0, 0)], [(2, 1)])
        assert len(sample.gt_boxes) == 1
    samples = TrainingSamples(load(tmp_path, [TRIANGLE, ELLIPSE]), TINY)
    assert samples.image_ids.tolist() == [0, 1, 2]
    found = choices(samples, 24)
    assert {(image, class_id) for image, class_id, _ in found} == {(0, 1), (1, 3), (2, 1), (2, 3)}
    drawn = {reference for _, _, references in found for reference in references}
    assert drawn == {(0, 0), (2, 1), (1, 1), (2, 0)}


def test_several_references(data):
    samples = TrainingSamples(data, TINY.replace(NUM_TARGETS=3))
    several = 0
    for number in range(6):
        sample = samples[number]
        assert sample.targets.shape == (3, 64, 64, 3) and len(sample.references) == 3
        cut = [cut_reference(data, TINY, *reference) for reference in sample.references]
        np.testing.assert_array_equal(sample.targets, cut)
        several += len(set(sample.references)) > 1
    assert several
    one_shot = TrainingSamples(data, TINY)
    assert one_shot[4].references == samples[4].references[:1]  # shots do not depend on each other


def test_whole_masks(data):
    samples = TrainingSamples(data, TINY.replace(USE_MINI_MASK=False))
    sample, mini = samples[0], TrainingSamples(data, TINY)[0]
    (index,) = data.instances_of(sample.image_id, sample.class_id)
    assert sample.gt_masks.dtype == bool
    np.testing.assert_array_equal(sample.gt_masks, padded(data.instance_mask(sample.image_id, index)[..., None]))
    expected = resize.minimize_mask(sample.gt_boxes, sample.gt_masks, (56, 56))
    np.testing.assert_array_equal(mini.gt_masks, expected)
    assert 0 < expected.mean() <= 1


def test_scenes_are_resized_as_the_configuration_says(data):
    config = TINY.replace(IMAGE_MIN_DIM=192, IMAGE_MAX_DIM=256, USE_MINI_MASK=False)
    sample = TrainingSamples(data, config)[0]
    assert sample.image.shape == (256, 256, 3) and sample.gt_masks.shape == (256, 256, 1)
    assert sample.image_meta[7:12].tolist() == [32, 0, 224, 256, 2]
    np.testing.assert_array_equal(sample.gt_boxes, extract_bboxes(sample.gt_masks))
    colour = sample.image[sample.gt_masks[..., 0]].mean(axis=0)
    assert colour.max() > 180 and colour.min() < 60  # pure, as coco_tree paints objects


# ---- TrainingSamples: several queries of an image --------------------------------------------------------------------
PAIRS = TINY.replace(QUERIES_PER_IMAGE=2)


def test_queries_of_an_image_are_for_different_classes(data):
    """Of the same scene, the first of them what a sample would be that has the image to itself."""
    samples = TrainingSamples(data, PAIRS.replace(USE_MINI_MASK=False), augmentation=augmentation.fliplr(0.5))
    single = TrainingSamples(data, WHOLE_MASKS, augmentation=augmentation.fliplr(0.5))
    for place in range(9):
        first, second = samples[2 * place], samples[2 * place + 1]
        assert_same(first, single[place])
        assert first.image_id == second.image_id == samples.image_of(2 * place + 1)
        np.testing.assert_array_equal(second.image, first.image)
        np.testing.assert_array_equal(second.image_meta, first.image_meta)
        present = {int(class_id) for class_id in data.image_category_index[first.image_id]}
        assert {first.class_id, second.class_id} == present
        assert not (first.gt_masks & second.gt_masks).any() and first.gt_masks.any() and second.gt_masks.any()
        for image_id, annotation in second.references:
            category = data.image_info[image_id]["annotations"][annotation]["category_id"]
            assert category == CATEGORY[second.class_id]


def test_queries_of_an_image_with_one_class_differ_in_their_references(tmp_path):
    content = coco_tree.write_tree(tmp_path, num_images=8)
    samples = TrainingSamples(load(tmp_path, [RECTANGLE]), PAIRS.replace(NUM_TARGETS=2))
    assert len(content["annotations"]) > 8  # rectangles to choose from
    single = TrainingSamples(samples.dataset, TINY.replace(NUM_TARGETS=4))
    pairs = [(samples[2 * place], samples[2 * place + 1]) for place in range(len(samples.image_ids))]
    for place, (first, second) in enumerate(pairs):
        assert first.class_id == second.class_id == RECTANGLE
        assert first.references + second.references == single[place].references  # shots 0, 1 and 2, 3
        np.testing.assert_array_equal(second.gt_boxes, first.gt_boxes)
        assert not np.array_equal(second.rpn_match == -1, first.rpn_match == -1)
    assert sum(first.references != second.references for first, second in pairs) > len(pairs) / 2


def test_a_pass_with_several_queries_visits_each_image_once(data):
    samples = TrainingSamples(data, TINY.replace(QUERIES_PER_IMAGE=3))
    for run in range(2):
        order = [samples.image_of(number) for number in range(9 * run, 9 * run + 9)]
        assert sorted(order[::3]) == [0, 1, 2] and order == np.repeat(order[::3], 3).tolist()
    first, _, third = (samples[number] for number in range(3))
    assert first.class_id == third.class_id  # of two classes the first comes again
    with pytest.raises(RuntimeError, match="training sample 5, image .*: of the augmenter"):

        def failing(image, masks, rng):
            raise ZeroDivisionError("of the augmenter")

        TrainingSamples(data, TINY.replace(QUERIES_PER_IMAGE=3), augmentation=failing)[5]


def test_queries_in_a_row_that_show_several_scenes_are_refused(data):
    samples = TrainingSamples(data, PAIRS)
    made = [samples[number] for number in range(4)]
    assert len(collate(made, PAIRS)["input_image"]) == 4
    message = "samples 2 and 3 of a batch differ in their scene, but QUERIES_PER_IMAGE = 2"
    with pytest.raises(ValueError, match=message):
        collate([*made[:3], made[0]], PAIRS)


# ---- TrainingSamples: references of categories that are not in the scene ---------------------------------------------
ABSENT = TINY.replace(ABSENT_REFERENCE_RATIO=1.0)


def crowds_of(dataset, image_id):
    """Class ids of the crowds in an image."""
    entries = dataset.image_info[image_id]["annotations"]
    return {dataset.map_source_class_id(f"coco.{entry['category_id']}") for entry in entries if entry["iscrowd"]}


def test_absent_references_alone(tmp_path):
    """Image 0 shows ellipse, rectangle and a crowd of triangles: nothing is absent, and it is trained on as usual."""
    coco_tree.write_tree(tmp_path)
    samples, plain = TrainingSamples(load(tmp_path), ABSENT), TrainingSamples(load(tmp_path), TINY)
    for number in range(9):
        sample, usual = samples[number], plain[number]
        if sample.image_id == 0:
            assert_same(sample, usual)
            continue
        [absent] = {ELLIPSE, RECTANGLE, TRIANGLE} - set(samples.dataset.image_category_index[sample.image_id])
        assert sample.class_id == absent
        [(image_id, annotation)] = sample.references
        entry = samples.dataset.image_info[image_id]["annotations"][annotation]
        assert entry["category_id"] == CATEGORY[absent] and not entry["iscrowd"]
        np.testing.assert_array_equal(sample.targets, [cut_reference(samples.dataset, ABSENT, image_id, annotation)])
        np.testing.assert_array_equal(sample.image, usual.image)
        assert sample.gt_class_ids.shape == (0,) and sample.gt_boxes.shape == (0, 4)
        assert sample.gt_masks.shape == (56, 56, 0) and sample.gt_masks.dtype == bool
        assert set(sample.rpn_match.tolist()) == {-1, 0} and (sample.rpn_match == -1).sum() == 64
        assert not sample.rpn_bbox.any()
    assert crowds_of(samples.dataset, 0) == {TRIANGLE}


def test_absent_references_leave_the_other_samples_as_they_are(tmp_path, caplog):
    """Each sample decides alone, about the share of the setting; the others keep every draw."""
    coco_tree.write_tree(tmp_path, num_images=6)
    data = load(tmp_path)
    config = PAIRS.replace(ABSENT_REFERENCE_RATIO=0.4)
    samples, plain = TrainingSamples(data, config), TrainingSamples(data, PAIRS)
    absent = []
    for number in range(8 * len(samples)):
        sample, usual = samples[number], plain[number]
        if sample.image_id == 0:  # shows all classes
            assert_same(sample, usual)
            continue
        absent.append(sample.class_id not in data.image_category_index[sample.image_id])
        if not absent[-1]:
            assert_same(sample, usual)
        np.testing.assert_array_equal(sample.image, usual.image)
    assert 0.2 < np.mean(absent) < 0.6
    pairs = np.reshape(absent, (-1, 2))
    assert {tuple(pair) for pair in pairs.tolist()} == {(True, True), (True, False), (False, True), (False, False)}
    again = TrainingSamples(load(tmp_path), config)
    for number in (17, 3, 40):
        assert_same(again[number], samples[number])
    other = TrainingSamples(data, config, seed=1)
    assert [other[number].class_id for number in range(24)] != [samples[number].class_id for number in range(24)]
    assert not caplog.records  # of no pixel left


def test_queries_of_an_image_take_different_absent_classes(tmp_path, content):
    content["annotations"] = [entry for entry in content["annotations"] if entry["id"] != 104]  # image 1: a rectangle
    samples = TrainingSamples(reload(tmp_path, content), PAIRS.replace(ABSENT_REFERENCE_RATIO=1.0))
    for run in range(4):
        numbers = range(run * len(samples), (run + 1) * len(samples))
        pair = [samples[number].class_id for number in numbers if samples.image_of(number) == 1]
        assert sorted(pair) == [ELLIPSE, TRIANGLE]


def test_objects_of_train_categories_are_hard_negatives_of_absent_references(tmp_path):
    coco_tree.write_tree(tmp_path)
    config = ABSENT.replace(USE_HARD_NEGATIVES=True, RPN_TRAIN_ANCHORS_PER_IMAGE=EVERY_ANCHOR)
    samples = TrainingSamples(load(tmp_path), config)
    sample = sample_of(samples, 1)
    assert sample.class_id == ELLIPSE and sample.gt_class_ids.tolist() == [0, 0]
    masks = [padded(samples.dataset.instance_mask(1, index)[..., None]) for index in (0, 1)]
    np.testing.assert_array_equal(sample.gt_boxes, np.concatenate(list(map(extract_bboxes, masks))))
    assert sample.gt_masks.shape == (56, 56, 2) and (sample.rpn_match == -1).all()  # also the anchors on the objects
    batch = collate([sample], config)
    assert not batch["input_gt_class_ids"].any() and batch["input_gt_boxes"][0, :2].any(axis=-1).all()


def test_absent_references_under_augmentation(data):
    config = PAIRS.replace(ABSENT_REFERENCE_RATIO=0.5)
    samples = TrainingSamples(data, config, augmentation=augmentation.fliplr(0.5))
    for place in range(12):
        pair = [samples[2 * place], samples[2 * place + 1]]
        assert len(collate(pair, config)["input_image"]) == 2  # one scene


# ---- TrainingSamples: crops ------------------------------------------------------------------------------------------
@pytest.fixture
def crops(tmp_path, content):
    """Rectangles in random parts of 128 x 128 pixels of images scaled to 128 x 171."""
    config = TINY.replace(IMAGE_RESIZE_MODE="crop", IMAGE_MIN_DIM=128, USE_MINI_MASK=False)
    return TrainingSamples(load(tmp_path, [RECTANGLE]), config)


def test_cropped_scenes(crops):
    samples = [sample_of(crops, 0, run) for run in range(8)]
    for sample in samples:
        assert sample.image.shape == (128, 128, 3) and sample.gt_masks.shape[:2] == (128, 128)
        assert sample.image_meta[4:11].tolist() == [128, 128, 3, 0, 0, 128, 128]
        np.testing.assert_array_equal(sample.gt_boxes, extract_bboxes(sample.gt_masks))
        inner = sample.gt_masks[..., 0] & np.roll(sample.gt_masks[..., 0], (3, 3), (0, 1))
        inner &= np.roll(sample.gt_masks[..., 0], (-3, -3), (0, 1))
        assert inner.any() and np.abs(sample.image[inner].astype(int) - GREEN).max() <= 1
    assert len({tuple(sample.gt_boxes[0].tolist()) for sample in samples}) > 3  # another part each pass
    assert_same(sample_of(crops, 0, 5), samples[5])


# ---- TrainingSamples: augmentation -----------------------------------------------------------------------------------
WHOLE_MASKS = TINY.replace(USE_MINI_MASK=False)


def test_flips_move_image_masks_and_boxes_together(data):
    plain = TrainingSamples(data, WHOLE_MASKS)
    flipped = TrainingSamples(data, WHOLE_MASKS, augmentation=augmentation.fliplr(1.0))
    for number in range(3):
        sample, mirrored = plain[number], flipped[number]
        np.testing.assert_array_equal(mirrored.image, sample.image[:, ::-1])
        np.testing.assert_array_equal(mirrored.gt_masks, sample.gt_masks[:, ::-1])
        np.testing.assert_array_equal(
            mirrored.gt_boxes, sample.gt_boxes[:, [0, 3, 2, 1]] * [1, -1, 1, -1] + [0, 128] * 2
        )
        for name in ("image_id", "class_id", "references", "targets", "image_meta", "gt_class_ids"):
            np.testing.assert_array_equal(getattr(mirrored, name), getattr(sample, name))
        positive = compute_overlaps(flipped.anchors[mirrored.rpn_match == 1], mirrored.gt_boxes)
        assert len(positive) and positive.min() > 0.3


def test_augmentation_depends_on_the_sample_alone(data):
    samples = TrainingSamples(data, WHOLE_MASKS, augmentation=augmentation.fliplr(0.5))
    made = [samples[number] for number in range(18)]
    again = TrainingSamples(data, WHOLE_MASKS, augmentation=augmentation.fliplr(0.5))
    for number in (11, 3):
        assert_same(again[number], made[number])
    plain = {sample.image_id: padded(data.load_image(sample.image_id)) for sample in made}
    flipped = [not np.array_equal(sample.image, plain[sample.image_id]) for sample in made]
    assert 3 <= sum(flipped) <= 15
    other = TrainingSamples(data, WHOLE_MASKS, augmentation=augmentation.fliplr(0.5), seed=1)
    others = [not np.array_equal(sample.image, plain[sample.image_id]) for sample in map(other.__getitem__, range(18))]
    by_image = [sorted(zip([s.image_id for s in made], flags, strict=True)) for flags in (flipped, others)]
    assert by_image[0] != by_image[1]


def test_instances_that_an_augmentation_moves_out(data, caplog):
    """What is left is trained on as background, and said so."""

    def emptied(image, masks, rng):
        return image // 2, np.zeros_like(masks)

    samples = TrainingSamples(data, TINY, augmentation=emptied)
    sample = sample_of(samples, 1)
    np.testing.assert_array_equal(sample.image, padded(data.load_image(1)) // 2)
    assert len(sample.gt_boxes) == 0 and "000000000020.png: none of its instances has a pixel left" in caplog.text


# ---- TrainingSamples: what is hardly there ---------------------------------------------------------------------------
HALF = TINY.replace(IMAGE_MIN_DIM=64, IMAGE_MAX_DIM=64)  # in which a single pixel may vanish
PIXEL = square(40, 64, 41, 65)  # vanishes in HALF


def test_a_class_with_one_instance_is_its_own_reference(tmp_path, content):
    content["annotations"] = [a for a in content["annotations"] if a["id"] not in (103, 104)]
    samples = TrainingSamples(reload(tmp_path, content, [RECTANGLE]), TINY)
    assert samples.image_ids.tolist() == [0]
    for number in range(3):
        assert samples[number].references == [(0, 1)] and len(samples[number].gt_boxes) == 1


def test_an_image_whose_instance_vanishes_has_no_object(tmp_path, content, caplog):
    content["annotations"] = content["annotations"][1:2] + content["annotations"][3:]
    content["annotations"][0]["segmentation"] = PIXEL
    data = reload(tmp_path, content)
    caplog.clear()
    samples = TrainingSamples(data, HALF)
    assert samples.image_ids.tolist() == [0, 1, 2]
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        made = [sample_of(samples, 0, run) for run in range(2)]
    for sample in made:
        assert sample.gt_class_ids.tolist() == [-1] and np.ptp(sample.gt_boxes.reshape(2, 2), axis=0).tolist() == [2, 2]
        assert sample.gt_masks.shape == (56, 56, 1)
        assert (sample.rpn_match == -1).sum() == 64 and not (sample.rpn_match == 1).any() and not sample.rpn_bbox.any()
        assert sample.class_id == RECTANGLE and sample.references == [(1, 0)]  # the one that is left
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 1  # once an image
    assert "000000000010.png: none of its instances has a pixel left" in messages[0]
    batch = collate(made, HALF)
    assert (batch["input_gt_class_ids"] <= 0).all()


def test_another_class_is_tried_where_one_vanishes(tmp_path, content, caplog):
    content["annotations"][1]["segmentation"] = PIXEL
    samples = TrainingSamples(reload(tmp_path, content), HALF)
    caplog.clear()
    made = [sample_of(samples, 0, run) for run in range(8)]
    assert {sample.class_id for sample in made} == {ELLIPSE}
    assert all(len(sample.gt_boxes) == 1 for sample in made) and not caplog.records


def test_instances_that_vanish_are_neutral(tmp_path, content):
    content["annotations"].append(content["annotations"][1] | {"id": 200, "segmentation": PIXEL})
    samples = TrainingSamples(reload(tmp_path, content, [RECTANGLE]), HALF)
    sample = sample_of(samples, 0)
    assert sorted(sample.gt_class_ids.tolist()) == [-1, 1]
    neutral = sample.gt_boxes[sample.gt_class_ids.tolist().index(-1)]
    assert (neutral[2:] - neutral[:2]).tolist() == [2, 2]
    small = np.prod(samples.anchors[:, 2:] - samples.anchors[:, :2], axis=1) < 1100  # the smallest of the paper, too
    on_it = (samples.anchors[:, :2] <= neutral[:2]).all(1) & (samples.anchors[:, 2:] >= neutral[2:]).all(1) & small
    assert on_it.any() and not (sample.rpn_match[on_it] == -1).any()


def test_an_instance_that_vanishes_makes_the_papers_smallest_anchors_neutral(tmp_path, content):
    content["annotations"].append(content["annotations"][1] | {"id": 200, "segmentation": PIXEL})
    anchors = HALF.replace(RPN_ANCHOR_SCALES=SmallConfig().RPN_ANCHOR_SCALES, RPN_TRAIN_ANCHORS_PER_IMAGE=100_000)
    samples = TrainingSamples(reload(tmp_path, content, [RECTANGLE]), anchors)
    sample = sample_of(samples, 0)
    neutral = sample.gt_boxes[sample.gt_class_ids.tolist().index(-1)]
    sides = samples.anchors[:, 2:] - samples.anchors[:, :2]
    on_it = (samples.anchors[:, :2] <= neutral[:2]).all(1) & (samples.anchors[:, 2:] >= neutral[2:]).all(1)
    smallest = np.isclose(np.prod(sides, axis=1), 32**2)
    assert (on_it & smallest).any() and not (sample.rpn_match[on_it & smallest] == -1).any()
    assert (sample.rpn_match == -1).any()


def test_an_image_of_crowds_is_left_out(tmp_path, content):
    content["annotations"] = content["annotations"][2:]
    samples = TrainingSamples(reload(tmp_path, content), TINY)
    assert samples.image_ids.tolist() == [1, 2]


def test_classes_without_a_reference_are_dropped(tmp_path, content, caplog):
    content["categories"].append({"id": 90, "name": "absent"})
    for annotation in content["annotations"]:
        if annotation["category_id"] == CATEGORY[ELLIPSE]:
            annotation |= {"segmentation": [], "bbox": [0, 0, 0, 0]}
    data = reload(tmp_path, content)
    caplog.clear()
    samples = TrainingSamples(data, TINY)
    assert samples.class_ids == [RECTANGLE, TRIANGLE]
    (message,) = [record.getMessage() for record in caplog.records]
    assert "2 of 4 classes have no instance" in message and message.endswith(": ellipse, absent")
    assert {class_id for _, class_id, _ in choices(samples, 12)} == {RECTANGLE, TRIANGLE}


def test_images_of_dropped_classes_are_left_out(tmp_path, content):
    content["annotations"] = [a for a in content["annotations"] if a["category_id"] != CATEGORY[TRIANGLE]]
    for annotation in content["annotations"]:
        if annotation["category_id"] == CATEGORY[RECTANGLE]:
            annotation |= {"segmentation": [], "bbox": [0, 0, 0, 0]}
    samples = TrainingSamples(reload(tmp_path, content), TINY)
    assert samples.image_ids.tolist() == [0, 2]  # image 1 has a rectangle alone


@pytest.mark.parametrize("kind", ["segmentation", "annotations", "images", "active"])
def test_nothing_to_train_on(tmp_path, content, kind):
    classes = 3
    if kind == "segmentation":
        for annotation in content["annotations"]:
            annotation |= {"segmentation": [], "bbox": [0, 0, 0, 0]}
    elif kind == "active":
        classes = 0
    else:
        content["annotations"] = []
        content["images"] = [] if kind == "images" else content["images"]
    data = reload(tmp_path, content, [] if kind == "active" else None)
    with pytest.raises(ValueError, match=rf"val2017: none of its {classes} active classes has an instance"):
        TrainingSamples(data, TINY)


def test_seeds_are_not_negative(data):
    with pytest.raises(ValueError, match="seed = -1"):
        TrainingSamples(data, TINY, seed=-1)


def test_more_instances_than_there_is_room_for(tmp_path, content):
    """The RPN still learns from all of them."""
    rectangle = content["annotations"][1]
    content["annotations"] += [
        rectangle | {"id": 200, "segmentation": square(64, 4, 80, 20), "iscrowd": 1},
        rectangle | {"id": 201, "segmentation": [[24, 64, 40, 64, 24, 80]]},  # half of its box
        rectangle | {"id": 202, "segmentation": [[44, 80, 60, 64, 60, 80]]},
    ]
    data = reload(tmp_path, content, [RECTANGLE])
    every = sample_of(TrainingSamples(data, TINY), 0)
    assert every.gt_class_ids.tolist() == [1, -1, 1, 1]
    config = TINY.replace(MAX_GT_INSTANCES=2)
    samples = TrainingSamples(data, config)
    chosen = set()
    for run in range(8):
        sample = sample_of(samples, 0, run)
        rows = [every.gt_boxes.tolist().index(box) for box in sample.gt_boxes.tolist()]
        assert len(set(rows)) == 2
        np.testing.assert_array_equal(sample.gt_class_ids, every.gt_class_ids[rows])
        np.testing.assert_array_equal(sample.gt_masks, every.gt_masks[..., rows])
        chosen.add(frozenset(rows))
    assert len(chosen) > 2
    limited = sample_of(samples, 0)
    np.testing.assert_array_equal(limited.rpn_match, every.rpn_match)
    np.testing.assert_array_equal(limited.rpn_bbox, every.rpn_bbox)
    assert collate([limited], config)["input_gt_boxes"].shape == (1, 2, 4)


# ---- TrainingSamples: errors -----------------------------------------------------------------------------------------
def test_a_missing_image(tmp_path, content):
    samples = TrainingSamples(load(tmp_path, [RECTANGLE]), TINY)
    (tmp_path / "val2017" / "000000000010.png").unlink()
    number = next(number for number in range(2) if samples.image_of(number) == 0)
    with pytest.raises(RuntimeError, match=rf"training sample {number}, image .*000000000010\.png: .*no such file"):
        samples[number]


def test_a_truncated_image(tmp_path, content):
    samples = TrainingSamples(load(tmp_path, [RECTANGLE]), TINY)
    path = tmp_path / "val2017" / "000000000020.png"
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(RuntimeError, match=r"training sample \d, image .*000000000020\.png: .*truncated") as caught:
        sample_of(samples, 1)
    assert isinstance(caught.value.__cause__, ValueError)


def test_a_broken_reference_is_named_too(tmp_path, content):
    samples = TrainingSamples(load(tmp_path, [RECTANGLE]), TINY)
    run = next(run for run in range(20) if sample_of(samples, 0, run).references == [(1, 0)])
    (tmp_path / "val2017" / "000000000020.png").unlink()
    samples = TrainingSamples(load(tmp_path, [RECTANGLE]), TINY)  # which has not decoded it yet
    with pytest.raises(RuntimeError, match=r"image .*000000000010\.png: .*000000000020\.png: no such file"):
        sample_of(samples, 0, run)


def test_an_augmentation_that_fails(data):
    def failing(image, masks, rng):
        raise ZeroDivisionError("of the augmenter")

    samples = TrainingSamples(data, TINY, augmentation=failing)
    with pytest.raises(RuntimeError, match=r"training sample 0, image .*\.png: of the augmenter"):
        samples[0]


# ---- batches -----------------------------------------------------------------------------------------------------
INPUTS = {  # in the order of the original's inputs, for two samples of TinyConfig with three references
    "input_image": ((2, 128, 128, 3), np.float32),
    "input_image_meta": ((2, 14), np.float32),
    "input_target": ((2, 3, 64, 64, 3), np.float32),
    "input_rpn_match": ((2, 4092, 1), np.int32),
    "input_rpn_bbox": ((2, 64, 4), np.float32),
    "input_gt_class_ids": ((2, 10), np.int32),
    "input_gt_boxes": ((2, 10, 4), np.float32),
    "input_gt_masks": ((2, 56, 56, 10), bool),
}


def test_batch_of_two(tmp_path, content):
    content["annotations"][1]["category_id"] = CATEGORY[TRIANGLE]  # image 0: with a crowd, image 1: one instance
    config = TINY.replace(NUM_TARGETS=3, MEAN_PIXEL=(100.0, 50.5, 1.25))
    samples = TrainingSamples(reload(tmp_path, content, [TRIANGLE]), config)
    made = [sample_of(samples, 0), sample_of(samples, 1)]
    batch = collate(made, config)
    assert tuple(batch) == data_generator.INPUT_NAMES == tuple(INPUTS)
    assert {name: (values.shape, values.dtype.type) for name, values in batch.items()} == {
        name: (shape, np.dtype(dtype).type) for name, (shape, dtype) in INPUTS.items()
    }
    for index, (sample, count) in enumerate(zip(made, (2, 1), strict=True)):
        row = {name: values[index] for name, values in batch.items()}
        np.testing.assert_array_equal(row["input_image"], sample.image - np.float32([100, 50.5, 1.25]))
        np.testing.assert_array_equal(row["input_target"], sample.targets - np.float32([100, 50.5, 1.25]))
        np.testing.assert_array_equal(row["input_image_meta"], sample.image_meta.astype(np.float32))
        np.testing.assert_array_equal(row["input_rpn_match"][:, 0], sample.rpn_match)
        np.testing.assert_allclose(row["input_rpn_bbox"], sample.rpn_bbox, rtol=1e-6)
        assert row["input_gt_class_ids"].tolist() == [1, -1][:count] + [0] * (10 - count)
        np.testing.assert_array_equal(row["input_gt_boxes"][:count], sample.gt_boxes)
        np.testing.assert_array_equal(row["input_gt_masks"][..., :count], sample.gt_masks)
        assert row["input_gt_masks"][..., :count].any(axis=(0, 1)).all()
        assert not row["input_gt_boxes"][count:].any() and not row["input_gt_masks"][..., count:].any()


def test_batch_of_whole_masks(data):
    samples = [TrainingSamples(data, WHOLE_MASKS)[0]]
    batch = collate(samples, WHOLE_MASKS)
    assert batch["input_gt_masks"].shape == (1, 128, 128, 10)
    np.testing.assert_array_equal(batch["input_gt_masks"][0, ..., 0], samples[0].gt_masks[..., 0])


def test_generator_of_batches(data):
    config = TINY
    samples = TrainingSamples(data, config, seed=5)
    generator = data_generator.siamese_data_generator(data, config, batch_size=2, seed=5)
    for step, (inputs, targets) in enumerate(itertools.islice(generator, 3)):
        expected = collate([samples[2 * step], samples[2 * step + 1]], config)
        assert targets == [] and len(inputs) == len(expected)
        for found, values in zip(inputs, expected.values(), strict=True):
            np.testing.assert_array_equal(found, values)
    inputs, _ = next(data_generator.siamese_data_generator(data, config, shuffle=False, batch_size=3))
    assert inputs[1][:, 0].tolist() == [10, 20, 30]  # COCO ids


def test_import_is_light():
    code = "import sys, siamese_mrcnn_tf.data_generator; print({'tensorflow', 'keras'} & set(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "set()"
