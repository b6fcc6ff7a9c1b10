"""Random boxes through the one-shot protocol."""

import coco_tree
import numpy as np
import pytest

from siamese_mrcnn_tf import IndexedCocoDataset
from siamese_mrcnn_tf.evaluation.protocol import evaluate
from siamese_mrcnn_tf.evaluation.queries import Query, RandomBoxes, shifted_mask
from siamese_mrcnn_tf.ops.boxes import extract_bboxes


@pytest.fixture
def dataset(tmp_path):
    coco_tree.write_tree(tmp_path)
    return coco_tree.load(tmp_path, subset="val")


def search(dataset, *, image_id=0, class_id=1, seed=0, run=0):
    return RandomBoxes().search(dataset, image_id, [Query(seed, run, class_id, ())])[0]


def test_outlines_are_those_of_the_ground_truth(dataset):
    found, truth = search(dataset, class_id=2), dataset.instance_mask(0, 1)
    y1, x1, y2, x2 = found["rois"][0]
    top, left, bottom, right = extract_bboxes(truth[..., None])[0]
    assert found["masks"].shape == (96, 128, 1) and found["masks"].dtype == bool
    np.testing.assert_array_equal(found["masks"][y1:y2, x1:x2, 0], truth[top:bottom, left:right])
    assert found["masks"].sum() == truth.sum()
    assert (y1, x1) != (top, left)


def test_only_instances_of_the_category_without_crowds(dataset):
    assert len(search(dataset, class_id=1)["rois"]) == 1
    assert len(search(dataset, class_id=3)["rois"]) == 0  # image 0 has a crowd of it alone
    assert search(dataset, class_id=3)["masks"].shape == (96, 128, 0)


def test_scores_and_places_are_uniform():
    rng, mask = np.random.default_rng(0), np.zeros((5, 6), bool)
    mask[1:4, 2:4] = True
    places = [tuple(extract_bboxes(shifted_mask(mask, rng)[..., None])[0][:2].tolist()) for _ in range(3000)]
    assert set(places) == {(top, left) for top in range(3) for left in range(5)}
    assert 150 < min(places.count(place) for place in set(places)) < 200
    whole = np.ones((4, 4), bool)
    np.testing.assert_array_equal(shifted_mask(whole, rng), whole)


def test_confidence(dataset):
    found = [search(dataset, seed=seed)["scores"][0] for seed in range(200)]
    assert 0.8 <= min(found) < 0.82 and 0.98 < max(found) <= 1


def test_depends_on_seed_run_image_and_class_alone(dataset):
    first, again = search(dataset), search(dataset)
    np.testing.assert_array_equal(first["rois"], again["rois"])
    assert first["scores"].tolist() == again["scores"].tolist()
    others = [search(dataset, seed=1), search(dataset, run=1), search(dataset, class_id=2)]
    assert all(other["scores"].tolist() != first["scores"].tolist() for other in others)


def test_best_first(tmp_path):
    content = coco_tree.write_tree(tmp_path)
    for annotation in content["annotations"][:2]:
        annotation["category_id"] = 3
    coco_tree.write_annotations(tmp_path, content)
    dataset = coco_tree.load(tmp_path, subset="val")
    for seed in range(5):
        found = search(dataset, seed=seed)
        assert (np.diff(found["scores"]) <= 0).all() and len(found["rois"]) == 2
        np.testing.assert_array_equal(found["rois"], extract_bboxes(found["masks"]))


def test_the_protocol(tmp_path):
    coco_tree.write_tree(tmp_path / "set")
    dataset = IndexedCocoDataset()
    coco = dataset.load_coco(tmp_path / "set", "val", return_coco=True)
    dataset.prepare()
    dataset.build_indices()
    outcome = evaluate(RandomBoxes(), dataset, coco, runs=4, folder=tmp_path / "out", progress=False)
    settings = outcome.records.settings
    assert settings["model"] == "random-boxes" and settings["weights_sha256"] is None
    assert outcome.scores.num_results == 4 * 6
    assert all(record["references"] == [] for record in outcome.records.references(0))
    assert outcome.scores.mean["bbox"]["AP50"] < 0.5
