"""Drawings of training samples."""

import logging

import coco_tree
import numpy as np
import pytest
from matplotlib.image import imread

from siamese_mrcnn_tf import visualize
from siamese_mrcnn_tf.config import TinyConfig
from siamese_mrcnn_tf.data.data_generator import TrainingSamples
from siamese_mrcnn_tf.data.dataset import IndexedCocoDataset
from siamese_mrcnn_tf.ops.boxes import box_refinement
from siamese_mrcnn_tf.visualize import samples

CONFIG = TinyConfig()


def load(root):
    dataset = IndexedCocoDataset()
    dataset.load_coco(root, "val")
    dataset.prepare()
    dataset.build_indices()
    return dataset


@pytest.fixture
def tree(tmp_path):
    """A tree of four images, the last without annotations, and the content of its annotation file."""
    return tmp_path, coco_tree.write_tree(tmp_path)


def test_samples_are_drawn(tree, tmp_path):
    config = CONFIG.replace(NUM_TARGETS=3)
    paths = samples.draw_samples(TrainingSamples(load(tree[0]), config), config, tmp_path / "out", 2, progress=False)
    assert [path.name for path in paths] == ["sample_00.png", "sample_01.png"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["sample_00.png", "sample_01.png"]
    for path in paths:
        pixels = imread(path)[..., :3]
        assert pixels.shape == (640, 2000, 3)
        for panel in np.array_split(pixels, 4, axis=1):  # something is drawn everywhere
            assert panel.std() > 0.05


def test_a_sample_in_four_panels(tree):
    tree[1]["annotations"][0].update(category_id=18)  # the category of the crowd in that image
    coco_tree.write_annotations(*tree)
    data = TrainingSamples(load(tree[0]), CONFIG.replace(NUM_TARGETS=7))
    sample = next(sample for sample in map(data.__getitem__, range(9)) if (sample.gt_class_ids < 0).any())
    figure = samples.draw_sample(sample, data.dataset, data.config, data.anchors, number=4)
    titles = [axes.get_title() for axes in figure.axes]
    assert figure.get_suptitle() == "sample 4: triangle (class 3) in 000000000010.png (id 10)"
    others = {"000000000020…\n(id 20)", "000000000030…\n(id 30)", "this image"}
    assert set(titles[1:8]) <= others and len(set(titles[1:8])) > 1
    assert titles[0] == "ground truth: 1 instance, 1 crowd" and len(titles) == 1 + 7 + 2
    assert "crowd" in [text.get_text() for text in figure.axes[0].texts]
    positive = (sample.rpn_match == 1).sum()
    assert titles[-2].startswith(f"anchors: {positive} positive (drawn)")
    assert titles[-1].startswith(f"targets: {positive} of {positive} anchors")


def test_whole_masks_and_samples_without_instances(tree):
    config = CONFIG.replace(USE_MINI_MASK=False)
    data = TrainingSamples(load(tree[0]), config, augmentation=lambda image, masks, rng: (image, masks & False))
    figure = samples.draw_sample(data[0], data.dataset, config, data.anchors)
    assert figure.axes[0].get_title() == "ground truth: 0 instances"
    data = TrainingSamples(load(tree[0]), config)
    assert samples.draw_sample(data[0], data.dataset, config, data.anchors).axes[0].get_title()


def test_samples_that_cannot_be_made_are_logged(tree, tmp_path, caplog):
    dataset = load(tree[0])
    data = TrainingSamples(dataset, CONFIG)
    for image in tree[1]["images"]:
        (tree[0] / "val2017" / image["file_name"]).unlink()
    with caplog.at_level(logging.WARNING):
        assert samples.draw_samples(data, CONFIG, tmp_path / "out", 2, progress=False) == []
    assert len(caplog.records) == 2 and "training sample 0" in caplog.text


def test_groups_of_boxes_on_axes():
    image = np.full((40, 60, 3), 200, np.uint8)
    groups = [(np.array([[1, 2, 11, 22], [0, 0, 5, 5]]), "red", {"linewidth": 3}), (np.zeros((0, 4)), "blue", {})]
    axes = visualize.display_boxes(image, groups, title="boxes", margin=0)
    first, second = axes.collections
    assert axes.get_title() == "boxes" and axes.get_xlim() == (-0.5, 59.5)
    assert first.get_segments()[0].tolist() == [[1.5, 0.5], [21.5, 0.5], [21.5, 10.5], [1.5, 10.5], [1.5, 0.5]]
    assert len(first.get_segments()) == 2 and len(second.get_segments()) == 0 and first.get_linewidth() == [3]


def test_moved_undoes_box_refinement():
    boxes = np.array([[0.0, 0, 10, 20], [5, 5, 8, 30]])
    truth = np.array([[2.0, 3, 30, 9], [0, 0, 1, 1]])
    np.testing.assert_allclose(samples._moved(boxes, box_refinement(boxes, truth)), truth, atol=1e-12)
