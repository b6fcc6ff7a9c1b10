"""`evaluate_dataset` as the original's notebook calls it."""

import coco_tree
import numpy as np
import pytest

from siamese_mrcnn_tf import IndexedCocoDataset, TinyConfig
from siamese_mrcnn_tf.evaluation.original import build_coco_results, customCOCOeval, evaluate_coco, evaluate_dataset
from siamese_mrcnn_tf.ops.boxes import extract_bboxes


@pytest.fixture
def loaded(tmp_path):
    """(data set, its pycocotools COCO)."""
    coco_tree.write_tree(tmp_path)
    dataset = IndexedCocoDataset()
    coco = dataset.load_coco(tmp_path, "val", return_coco=True)
    dataset.prepare()
    dataset.build_indices()
    return dataset, coco


class Facade:
    """Stands in for SiameseMaskRCNN: finds the instances of the queries in their order."""

    config = TinyConfig()

    def __init__(self, dataset, only=None):
        self.truth = [
            [dataset.image_info[image_id]["annotations"][index] for index in dataset.instances_of(image_id, class_id)]
            for image_id in dataset.image_ids
            for class_id in dataset.image_category_index[image_id]
            if only is None or class_id in only
        ]
        self.asked, self.random = 0, []

    def detect(self, targets, images, verbose=0, random_detections=False, *, rng=None):
        assert len(targets) == len(images) == 1 and targets[0][0].shape == (64, 64, 3)
        boxes = [annotation["bbox"] for annotation in self.truth[self.asked]]
        self.asked += 1
        self.random.append(random_detections)
        rois = np.array([(y, x, y + height, x + width) for x, y, width, height in boxes])
        masks = np.zeros((*images[0].shape[:2], len(rois)), bool)
        for index, (y1, x1, y2, x2) in enumerate(rois.astype(int)):
            masks[y1:y2, x1:x2, index] = True
        return [{"rois": rois, "class_ids": np.ones(len(rois), int), "scores": np.full(len(rois), 0.9), "masks": masks}]


def test_as_the_notebook_calls_it(loaded, capsys):
    dataset, coco = loaded
    model = Facade(dataset)
    active_class_idx = np.array(dataset.ACTIVE_CLASSES) - 1
    arguments = {"dataset_type": "coco", "limit": 1000, "image_ids": None, "class_index": active_class_idx}
    result = evaluate_dataset(model, dataset, coco, eval_type="bbox", **arguments, verbose=1, return_results=True)
    assert result.stats[1] == pytest.approx(1) and result.eval["precision"].shape[2] == 3
    text = capsys.readouterr().out
    assert text.count("Average Precision  (AP)") == 6 and "Prediction time" in text
    assert model.asked == 6


def test_active_classes_and_class_index(loaded, capsys):
    dataset, coco = loaded
    dataset.ACTIVE_CLASSES = np.array([2])
    arguments = {"verbose": 0, "return_results": True}
    every = evaluate_dataset(Facade(dataset, [2]), dataset, coco, **arguments)
    assert every.stats[1] == pytest.approx(1 / 3)  # the other categories have ground truth and no detections
    for class_index in (1, [1], np.array([1])):
        one = evaluate_dataset(Facade(dataset, [2]), dataset, coco, class_index=class_index, **arguments)
        assert one.stats[1] == pytest.approx(1)
    assert capsys.readouterr().out == ""


def test_two_kinds_of_metrics(loaded):
    dataset, coco = loaded
    arguments = {"eval_type": ["bbox", "segm"], "verbose": 0}
    result = evaluate_dataset(Facade(dataset), dataset, coco, return_results=True, **arguments)
    assert result.params.iouType == "segm" and 0 < result.stats[0] < 1
    assert evaluate_dataset(Facade(dataset), dataset, coco, **arguments) is None


def test_chosen_images_and_random_detections(loaded):
    dataset, coco = loaded
    model = Facade(dataset)
    arguments = {"image_ids": np.array([0, 1, 3]), "limit": 1, "verbose": 0, "random_detections": True}
    result = evaluate_dataset(model, dataset, coco, return_results=True, **arguments)
    assert list(result.params.imgIds) == [10] and model.random == [True, True]


def test_wrong_arguments(loaded):
    dataset, coco = loaded
    for arguments, message in (
        ({"eval_type": "mask"}, "expected bbox or segm, or a list of both"),
        ({"eval_type": []}, "expected bbox or segm"),
        ({"dataset_type": "ade20k"}, "dataset_type = 'ade20k': expected 'coco'"),
        ({"class_index": [3]}, r"class_index = \[3\]: expected numbers in 0..2"),
    ):
        with pytest.raises(ValueError, match=message):
            evaluate_dataset(Facade(dataset), dataset, coco, **arguments)


def test_failures_name_image_and_category(loaded):
    dataset, coco = loaded
    model = Facade(dataset)
    model.truth = model.truth[:1]
    with pytest.raises(RuntimeError, match="000000000010.*'rectangle': the query failed"):
        evaluate_dataset(model, dataset, coco, verbose=0)


@pytest.mark.slow
def test_the_facade(loaded, tiny_model):
    results = [
        evaluate_dataset(
            tiny_model,
            *loaded,
            limit=2,
            verbose=0,
            return_results=True,
            random_detections=True,
            rng=np.random.default_rng(1),
        )
        for _ in range(2)
    ]
    assert results[0].cocoDt.anns and results[0].stats.tolist() == results[1].stats.tolist()


def test_older_names_of_the_evaluation(loaded, capsys):
    dataset, coco = loaded
    expected = evaluate_dataset(Facade(dataset), dataset, coco, verbose=0, return_results=True)
    again = evaluate_coco(Facade(dataset), dataset, coco, "bbox", class_index=[0, 1, 2], return_results=True)
    np.testing.assert_array_equal(again.stats, expected.stats)
    assert evaluate_coco(Facade(dataset), dataset, coco, limit=1, verbose=0) is None
    capsys.readouterr()

    results = []
    for image_id in dataset.image_ids:
        masks, class_ids = dataset.load_mask(image_id)
        keep = class_ids > 0
        found = extract_bboxes(masks[..., keep]), class_ids[keep], np.full(keep.sum(), 0.9), masks[..., keep]
        results += build_coco_results(dataset, [dataset.image_info[image_id]["id"]], *found)
    evaluation = customCOCOeval(coco, coco.loadRes(results), "segm")
    evaluation.evaluate()
    evaluation.accumulate()
    capsys.readouterr()
    evaluation.summarize(class_index=[0], verbose=1)
    assert evaluation.stats[1] == pytest.approx(1) and "Average Precision" in capsys.readouterr().out
    evaluation.summarize(verbose=0)
    assert evaluation.eval["precision"].shape[2] == 3 and not capsys.readouterr().out
