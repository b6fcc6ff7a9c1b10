"""One run of the one-shot protocol."""

import coco_tree
import numpy as np
import pytest

from siamese_mrcnn_tf import IndexedCocoDataset, TinyConfig
from siamese_mrcnn_tf.boxes import extract_bboxes
from siamese_mrcnn_tf.evaluation import evaluate, queries_of


def load(root, **kwargs):
    dataset = IndexedCocoDataset()
    coco = dataset.load_coco(root, "val", return_coco=True, **kwargs)
    dataset.prepare()
    dataset.build_indices()
    return dataset, coco


@pytest.fixture
def tree(tmp_path):
    coco_tree.write_tree(tmp_path, num_images=4)
    return tmp_path


class Oracle:
    """Stands in for the predictor: finds what the ground truth holds for the queries in their order."""

    config = TinyConfig()

    def __init__(self, dataset, *, fail_at=None):
        self.truth = [
            [dataset.instance_mask(image_id, index) for index in dataset.instances_of(image_id, class_id)]
            for image_id, present in queries_of(dataset)
            for class_id in present
        ]
        self.asked, self.encoded, self.fail_at = [], 0, fail_at

    def encode_scenes(self, images):
        self.encoded += 1
        return images

    def detect_in(self, scenes, references):
        masks = np.stack(self.truth[len(self.asked)], axis=-1)
        if len(self.asked) == self.fail_at:
            raise ValueError("out of luck")
        self.asked.append(references[0])
        return [{"rois": extract_bboxes(masks), "scores": np.full(masks.shape[-1], 0.9), "masks": masks}]


def test_perfect_detections_score_one(tree):
    dataset, coco = load(tree)
    oracle = Oracle(dataset)
    outcome = evaluate(oracle, dataset, coco, shots=2, progress=False)
    assert outcome.scores["bbox"].stats["AP50"] == pytest.approx(1)
    assert outcome.scores["segm"].stats["AP"] == pytest.approx(1)
    assert outcome.num_queries == len(oracle.asked) == 6
    assert oracle.encoded == 3  # once an image; the one without annotations is skipped
    assert all(len(crops) == 2 and crops[0].shape == (64, 64, 3) for crops in oracle.asked)


def test_queries_are_the_classes_present_without_crowds(tree):
    dataset, _ = load(tree)
    assert queries_of(dataset) == [(0, [1, 2]), (1, [2, 3]), (2, [1, 3])]
    assert queries_of(dataset, [3]) == [(1, [3]), (2, [3])]


def test_references_are_records_that_depend_on_the_seed_alone(tree):
    dataset, coco = load(tree)
    first, again = (evaluate(Oracle(dataset), dataset, coco, seed=5, progress=False) for _ in range(2))
    assert first.references == again.references
    by_query = {(record["image_id"], record["category_id"]): record for record in first.references}
    known = {annotation["id"]: annotation for annotation in coco.dataset["annotations"]}
    for (_, category), record in by_query.items():
        for image_id, annotation_id in record["references"]:
            assert known[annotation_id]["category_id"] == category
            assert known[annotation_id]["image_id"] == image_id
    part = evaluate(Oracle(dataset), dataset, coco, seed=5, limit=2, progress=False)
    assert part.references == first.references[: len(part.references)]
    draws = {str(evaluate(Oracle(dataset), dataset, coco, seed=seed, progress=False).references) for seed in range(6)}
    assert len(draws) > 1


def test_real_network_end_to_end(tree, tiny_model):
    dataset, coco = load(tree)
    outcome = evaluate(tiny_model.predictor, dataset, coco, progress=False)
    assert set(outcome.scores) == {"bbox", "segm"}
    assert outcome.results
    assert {result["category_id"] for result in outcome.results} <= {3, 7, 18}
    assert all(result["segmentation"]["size"] == [96, 128] for result in outcome.results)
    assert outcome.seconds > 0


def test_failures_name_image_and_category(tree):
    dataset, coco = load(tree)
    with pytest.raises(RuntimeError, match="000000000010.*'rectangle': the query failed .out of luck"):
        evaluate(Oracle(dataset, fail_at=1), dataset, coco, progress=False)
    with pytest.raises(ValueError, match="no image has an instance"):
        evaluate(Oracle(dataset), dataset, coco, class_ids=[], progress=False)


def test_a_missing_picture_is_found_before_the_work(tree):
    dataset, coco = load(tree)
    oracle = Oracle(dataset)
    (tree / "val2017" / "000000000030.png").unlink()
    with pytest.raises(ValueError, match="000000000030.png: no such picture"):
        evaluate(oracle, dataset, coco, progress=False)
    assert not oracle.asked


def test_active_classes_choose_what_is_asked(tree):
    dataset, _ = load(tree)
    dataset.ACTIVE_CLASSES = np.array([3])
    assert queries_of(dataset) == [(1, [3]), (2, [3])]
