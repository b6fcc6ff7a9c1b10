"""Queries, samplers of references, the search with a predictor, and random boxes."""

import coco_tree
import numpy as np
import pytest

from siamese_mrcnn_tf import IndexedCocoDataset, ReferenceEmbedding, TinyConfig
from siamese_mrcnn_tf.data.references import NoReferenceError
from siamese_mrcnn_tf.evaluation.protocol import evaluate
from siamese_mrcnn_tf.evaluation.queries import OneShotDetector, Query, RandomBoxes, queries_of, shifted_mask
from siamese_mrcnn_tf.evaluation.references import (
    MismatchedReferenceSampler,
    RandomReferenceSampler,
    ReplayReferenceSampler,
)
from siamese_mrcnn_tf.ops.boxes import extract_bboxes


@pytest.fixture
def dataset(tmp_path):
    coco_tree.write_tree(tmp_path)
    return coco_tree.load(tmp_path, subset="val")


def test_queries_are_the_classes_present_without_crowds(dataset):
    assert queries_of(dataset) == [(0, [1, 2]), (1, [2, 3]), (2, [1, 3])]
    assert queries_of(dataset, [3]) == [(1, [3]), (2, [3])]
    dataset.ACTIVE_CLASSES = np.array([1])
    assert queries_of(dataset) == [(0, [1]), (2, [1])]
    with pytest.raises(ValueError, match=r"class_ids: \[0, 9\] are not in val2017, whose classes are 1..3"):
        queries_of(dataset, [0, 1, 9])


def test_drawn_references(dataset):
    drawn = RandomReferenceSampler(dataset, TinyConfig(), seed=1)
    assert drawn(0, 1, 0, 3) == drawn(0, 1, 0, 5)[:3]
    many = {reference for run in range(20) for reference in drawn(0, 1, run, 1)}
    assert many == {(0, 0), (2, 1)}
    others = RandomReferenceSampler(dataset, TinyConfig(), seed=1, exclude_query_image=True)
    assert {reference for run in range(20) for reference in others(0, 1, run, 1)} == {(2, 1)}


def test_a_class_of_one_image_has_no_other_references(tmp_path):
    content = coco_tree.write_tree(tmp_path)
    content["annotations"] = [entry for entry in content["annotations"] if entry["id"] != 100]
    coco_tree.write_annotations(tmp_path, content)
    dataset = coco_tree.load(tmp_path, subset="val")
    queries = queries_of(dataset)
    RandomReferenceSampler(dataset, TinyConfig(), seed=0).check(queries)
    drawn = RandomReferenceSampler(dataset, TinyConfig(), seed=0, exclude_query_image=True)
    with pytest.raises(NoReferenceError, match=r"val2017: categories in one image alone") as failed:
        drawn.check(queries)
    path = dataset.image_info[2]["path"]
    assert f"no other image has a reference: ellipse ({path}). Annotate each in a second image" in str(failed.value)
    assert str(failed.value).endswith("or evaluate without --exclude-query-image")
    with pytest.raises(NoReferenceError, match=r"class 1 \(ellipse\) has no instance in val2017 outside .*;") as failed:
        drawn(2, 1, 0, 1)
    assert f"outside {path} that could be a reference; annotate it in another image" in str(failed.value)


def test_a_class_without_a_usable_reference(tmp_path):
    content = coco_tree.write_tree(tmp_path)
    for annotation in content["annotations"]:
        if annotation["category_id"] == 18:
            annotation |= {"segmentation": [[64, 40, 65, 40, 65, 41, 64, 41]], "bbox": [64, 40, 1, 1]}
    coco_tree.write_annotations(tmp_path, content)
    dataset = coco_tree.load(tmp_path, subset="val")
    with pytest.raises(NoReferenceError, match=r"class 3 \(triangle\) has no instance in val2017 that could be"):
        RandomReferenceSampler(dataset, TinyConfig().replace(IMAGE_MIN_DIM=64, IMAGE_MAX_DIM=64), seed=0).check(
            queries_of(dataset)
        )


def test_recorded_references(dataset):
    record = {"image_id": 10, "queries": [{"run": 0, "category_id": 3, "references": [[30, 105], [10, 100]]}]}
    recorded = ReplayReferenceSampler(dataset, [record])
    annotations = dataset.image_info[2]["annotations"]
    assert recorded(0, 1, 0, 2) == [(2, [entry["id"] for entry in annotations].index(105)), (0, 0)]
    with pytest.raises(NoReferenceError, match="image 10, category 3, run 0: expected 1 recorded references, got 2"):
        recorded(0, 1, 0, 1)
    with pytest.raises(NoReferenceError, match="image 10, category 3, run 1: expected 2 recorded references, got none"):
        recorded(0, 1, 1, 2)
    for reference in ([30, 999], None):
        record["queries"][0]["references"][0] = reference
        with pytest.raises(NoReferenceError, match="is not in val2017"):
            ReplayReferenceSampler(dataset, [record])(0, 1, 0, 2)


# ---- references of the wrong category ----------------------------------------------------------------------------


def control(dataset, kind, *, seed=1):
    return MismatchedReferenceSampler(dataset, TinyConfig(), seed=seed, control=kind)


def class_of(dataset, reference):
    image_id, index = reference
    category = dataset.image_info[image_id]["annotations"][index]["category_id"]
    return next(class_id for class_id in dataset.class_ids[1:] if dataset.class_info[class_id]["id"] == category)


def test_controls_are_of_another_category(dataset):
    """Image 0: classes 1, 2 and a crowd of 3; image 1: 2, 3; image 2: 1, 3."""
    present, absent = control(dataset, "present"), control(dataset, "absent")
    for image_id, classes in queries_of(dataset):
        for class_id in classes:
            [other] = set(classes) - {class_id}
            for run in range(3):
                references = present(image_id, class_id, run, 2)
                assert [class_of(dataset, reference) for reference in references] == [other] * 2
                if image_id:
                    [missing] = {1, 2, 3} - set(classes)
                    assert class_of(dataset, absent(image_id, class_id, run, 1)[0]) == missing


def test_what_is_there_as_a_crowd_is_not_absent(dataset):
    absent = control(dataset, "absent")
    assert [absent.others(image_id, 1) for image_id in range(4)] == [[], [1], [2], [1, 2, 3]]
    assert absent.possible(queries_of(dataset)) == [(1, [2, 3]), (2, [1, 3])]
    present = control(dataset, "present")
    assert [present.others(0, 1), present.others(0, 2), present.others(0, 3)] == [[2], [1], [1, 2]]


def test_controls_depend_on_seed_run_image_and_class_alone(tmp_path):
    content = coco_tree.write_tree(tmp_path, num_images=8)
    content["categories"] += [{"id": 50 + index, "name": f"more {index}"} for index in range(4)]
    for index, annotation in enumerate(content["annotations"][-4:]):
        annotation["category_id"] = 50 + index
    coco_tree.write_annotations(tmp_path, content)
    dataset = coco_tree.load(tmp_path, subset="val")
    keys = [(image_id, class_id, run) for image_id in (1, 2) for class_id in (1, 2) for run in range(8)]
    first, again = control(dataset, "absent"), control(dataset, "absent")
    drawn = {key: first(*key, 3) for key in keys}
    assert all(again(*key, 3) == drawn[key] for key in reversed(keys))
    assert all(again(*key, 1) == drawn[key][:1] for key in keys)
    assert {len({class_of(dataset, reference) for reference in references}) for references in drawn.values()} == {1}
    chosen = [class_of(dataset, references[0]) for references in drawn.values()]
    assert len(set(chosen)) > 3 and not set(chosen[:16]) & {2, 3}  # image 1 has them
    other = control(dataset, "absent", seed=2)
    assert [class_of(dataset, other(*key, 1)[0]) for key in keys] != chosen


def test_images_without_a_choice_are_left_out(tmp_path):
    content = coco_tree.write_tree(tmp_path)
    content["annotations"] = [entry for entry in content["annotations"] if entry["id"] not in (101, 102)]
    coco_tree.write_annotations(tmp_path, content)
    dataset = coco_tree.load(tmp_path, subset="val")  # in image 0 an ellipse alone
    queries = queries_of(dataset)
    assert control(dataset, "present").possible(queries) == queries[1:]
    assert control(dataset, "absent").possible(queries) == queries
    with pytest.raises(NoReferenceError, match="val2017: no image has another category that is present"):
        control(dataset, "present").possible(queries[:1])
    assert control(dataset, "present").possible([]) == []


def test_unknown_controls(dataset):
    with pytest.raises(ValueError, match="control = 'wrong': expected one of present, absent"):
        control(dataset, "wrong")


# ---- search ------------------------------------------------------------------------------------------------------


class Predictor:
    """Embeds a crop as its mean, and finds nothing."""

    config = TinyConfig()

    def __init__(self):
        self.encoded, self.asked = 0, []

    def encode_scenes(self, images):
        return images

    def encode_references(self, crops):
        assert len(crops) == 1
        self.encoded += 1
        return ReferenceEmbedding(np.full((1, 5, 2), np.mean(crops[0])))

    def detect_all(self, scene, references, *, batch, more):
        self.asked += references
        return [None] * len(references)


def search(dataset, predictor, *references, **kwargs):
    detector = OneShotDetector(predictor, **kwargs)
    detector.search(dataset, 0, [Query(0, 0, 1, tuple(each)) for each in references])
    return predictor.asked


def test_several_references_are_one_query(dataset):
    predictor = Predictor()
    first, second, both = search(dataset, predictor, [(0, 0)], [(2, 1)], [(0, 0), (2, 1)])
    np.testing.assert_array_equal(both.mean, np.mean([first.mean, second.mean], axis=0))
    assert predictor.encoded == 2


def test_embeddings_used_longest_ago_leave_first(dataset):
    first, second, third = [(0, 0)], [(0, 1)], [(1, 0)]
    predictor = Predictor()
    search(dataset, predictor, first, second, first, third, first, second, cached=2)
    assert predictor.encoded == 4  # `second` twice
    predictor = Predictor()
    search(dataset, predictor, first, first, cached=0)
    assert predictor.encoded == 2


def test_crops_are_encoded_as_they_come(dataset):
    crop = np.full((20, 30, 3), 7, np.uint8)
    asked = search(dataset, Predictor(), [crop], [crop])
    assert [embedding.vectors.max() for embedding in asked] == [7, 7]


def test_a_failed_query_names_image_and_class(dataset):
    with pytest.raises(RuntimeError, match="000000000010.png, category 'ellipse': the query failed"):
        search(dataset, Predictor(), [(0, 99)])


# ---- random boxes ----------------------------------------------------------------------------------------------------


def shifted(dataset, *, image_id=0, class_id=1, seed=0, run=0):
    return RandomBoxes().search(dataset, image_id, [Query(seed, run, class_id, ())])[0]


def test_outlines_are_those_of_the_ground_truth(dataset):
    found, truth = shifted(dataset, class_id=2), dataset.instance_mask(0, 1)
    y1, x1, y2, x2 = found["rois"][0]
    top, left, bottom, right = extract_bboxes(truth[..., None])[0]
    assert found["masks"].shape == (96, 128, 1) and found["masks"].dtype == bool
    np.testing.assert_array_equal(found["masks"][y1:y2, x1:x2, 0], truth[top:bottom, left:right])
    assert found["masks"].sum() == truth.sum()
    assert (y1, x1) != (top, left)


def test_only_instances_of_the_category_without_crowds(dataset):
    assert len(shifted(dataset, class_id=1)["rois"]) == 1
    assert len(shifted(dataset, class_id=3)["rois"]) == 0  # image 0 has a crowd of it alone
    assert shifted(dataset, class_id=3)["masks"].shape == (96, 128, 0)


def test_scores_and_places_are_uniform():
    rng, mask = np.random.default_rng(0), np.zeros((5, 6), bool)
    mask[1:4, 2:4] = True
    places = [tuple(extract_bboxes(shifted_mask(mask, rng)[..., None])[0][:2].tolist()) for _ in range(3000)]
    assert set(places) == {(top, left) for top in range(3) for left in range(5)}
    assert 150 < min(places.count(place) for place in set(places)) < 200
    whole = np.ones((4, 4), bool)
    np.testing.assert_array_equal(shifted_mask(whole, rng), whole)


def test_confidence(dataset):
    found = [shifted(dataset, seed=seed)["scores"][0] for seed in range(200)]
    assert 0.8 <= min(found) < 0.82 and 0.98 < max(found) <= 1


def test_depends_on_seed_run_image_and_class_alone(dataset):
    first, again = shifted(dataset), shifted(dataset)
    np.testing.assert_array_equal(first["rois"], again["rois"])
    assert first["scores"].tolist() == again["scores"].tolist()
    others = [shifted(dataset, seed=1), shifted(dataset, run=1), shifted(dataset, class_id=2)]
    assert all(other["scores"].tolist() != first["scores"].tolist() for other in others)


def test_best_first(tmp_path):
    content = coco_tree.write_tree(tmp_path)
    for annotation in content["annotations"][:2]:
        annotation["category_id"] = 3
    coco_tree.write_annotations(tmp_path, content)
    dataset = coco_tree.load(tmp_path, subset="val")
    for seed in range(5):
        found = shifted(dataset, seed=seed)
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
