"""Data sets of the user's own class: index, references, training samples and evaluation."""

import coco_tree
import numpy as np
import pycocotools.mask as coco_mask
import pytest

from siamese_mrcnn_tf.config import TinyConfig
from siamese_mrcnn_tf.data.custom import MaskDataset, ground_truth, indexed_dataset
from siamese_mrcnn_tf.data.data_generator import TrainingSamples
from siamese_mrcnn_tf.data.dataset import Dataset
from siamese_mrcnn_tf.data.references import cut_reference, draw_reference, get_one_target
from siamese_mrcnn_tf.evaluation import protocol
from siamese_mrcnn_tf.evaluation.calibration import CalibrationSettings, calibrate
from siamese_mrcnn_tf.evaluation.original import evaluate_dataset
from siamese_mrcnn_tf.model import SiameseMaskRCNN
from siamese_mrcnn_tf.pretraining.instance_crops import InstanceCrops
from siamese_mrcnn_tf.report.writer import write_report

CONFIG = TinyConfig()
DISC, SQUARE = 1, 2


class Drawn(Dataset):
    """Discs and squares at known places, in Matterport's way."""

    def __init__(self, count=3, **wrong):
        super().__init__()
        self.wrong = wrong
        self.add_class("drawn", 1, "disc, red")
        self.add_class("drawn", 2, "square")
        for index in range(count):
            self.add_image("drawn", f"name{index}", path=None, shift=4 * index)
        self.prepare()

    def load_image(self, image_id):
        image = np.full((96, 128, 3), 120, np.uint8)
        masks = np.zeros((96, 128, 0)) if "masks" in self.wrong else self.load_mask(image_id)[0]
        for index in range(masks.shape[-1]):
            image[masks[..., index] > 0] = (200, 40, 40) if index == 0 else (40, 60, 220)
        return self.wrong.get("image", lambda image: image)(image)

    def load_mask(self, image_id):
        if "masks" in self.wrong:
            return self.wrong["masks"]
        shift = self.image_info[image_id]["shift"]
        rows, columns = np.indices((96, 128))
        disc = (rows - 40) ** 2 + (columns - 30 - shift) ** 2 < 20**2
        square = (abs(rows - 50) < 15) & (abs(columns - 90 - shift) < 15)
        return np.stack([disc, square], axis=-1).astype(np.uint8), np.array([DISC, SQUARE])

    def image_reference(self, image_id):
        return self.image_info[image_id]["id"]


class Perfect:
    """A detector that finds the ground truth."""

    name, needs_references, config = "perfect", True, CONFIG

    def search(self, dataset, image_id, queries):
        masks, classes = dataset.load_mask(image_id)
        return [self.found(masks[..., classes == query.class_id]) for query in queries]

    def found(self, masks):
        boxes = [
            coco_mask.toBbox(coco_mask.encode(np.asfortranarray(mask, np.uint8))) for mask in np.moveaxis(masks, -1, 0)
        ]
        rois = np.array([[y, x, y + height, x + width] for x, y, width, height in boxes], np.int32)
        return {"rois": rois, "scores": np.full(len(rois), 0.9, np.float32), "masks": masks}


def test_the_index_is_made_once():
    drawn = Drawn()
    dataset = indexed_dataset(drawn)
    assert indexed_dataset(drawn) is dataset and indexed_dataset(dataset) is dataset
    assert dataset.class_names == ["BG", "disc, red", "square"] and dataset.set_name == "Drawn"
    assert dataset.images_of(DISC).tolist() == [0, 1, 2] and dataset.instances_of(0, SQUARE) == [1]
    masks, class_ids = dataset.load_mask(1)
    expected, _ = drawn.load_mask(1)
    assert np.array_equal(masks, expected > 0) and class_ids.tolist() == [DISC, SQUARE]
    assert np.array_equal(dataset.load_image(2), drawn.load_image(2))


def test_samples_and_references():
    drawn = Drawn()
    samples = TrainingSamples(drawn, CONFIG, seed=3)
    sample = samples[0]
    assert sample.gt_class_ids.tolist().count(1) == 1 and (sample.rpn_match == 1).any()
    image_id, index = draw_reference(drawn, SQUARE, seed=0, run=0, image_id=1, shot=0, config=CONFIG)
    crop = cut_reference(drawn, CONFIG, image_id, index)
    assert crop.shape == (64, 64, 3) and crop[32, 32].tolist() == [40, 60, 220]
    assert get_one_target(DISC, drawn, CONFIG).shape == (64, 64, 3)
    drawn.ACTIVE_CLASSES = [SQUARE]
    assert TrainingSamples(drawn, CONFIG).class_ids == [SQUARE]


def test_evaluation():
    found = protocol.evaluate(Perfect(), Drawn(), runs=1, progress=False)
    for kind in ("bbox", "segm"):
        assert found.scores.mean[kind]["AP"] == 1.0
    truth = ground_truth(indexed_dataset(Drawn()))
    assert [category["name"] for category in truth.cats.values()] == ["disc, red", "square"]


def test_calibration_crops_and_the_original_evaluation(tiny_model):
    drawn, chosen = Drawn(4), CalibrationSettings(verify=False)
    calibration = calibrate(tiny_model.predictor, drawn, chosen, weights_sha256="0" * 64, progress=False)
    assert calibration.about["categories"] == ["disc, red", "square"] and calibration.about["num_images"] == 4
    crops = InstanceCrops(drawn, "name")
    assert len(crops) == 8 and crops.num_classes == 2
    truth = ground_truth(indexed_dataset(drawn))
    found = evaluate_dataset(tiny_model, drawn, truth, verbose=0, return_results=True, limit=1)
    assert found.params.imgIds == [indexed_dataset(drawn).image_info[0]["id"]]


def test_a_report_with_examples(tmp_path):
    drawn = Drawn()
    protocol.evaluate(Perfect(), drawn, runs=1, progress=False, folder=tmp_path / "evaluation")
    write_report([tmp_path / "evaluation"], tmp_path / "out", drawn)
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "disc, red, image 1: 1 of 1 found" in page and "No examples" not in page


@pytest.mark.slow
def test_a_training_step(micro_config, short_training, tmp_path):
    model = SiameseMaskRCNN("training", micro_config, tmp_path)
    before = [weights.copy() for weights in model.keras_model.get_weights()]
    model.train(Drawn(), None, 0.001, 1, "all")
    after = model.keras_model.get_weights()
    assert model.epoch == 1 and not all(map(np.array_equal, before, after))


def test_grey_and_transparent_images():
    for change in (
        lambda image: image[..., 0],
        lambda image: image[..., :1],
        lambda image: np.dstack([image, image[..., :1]]),
    ):
        assert indexed_dataset(Drawn(image=change)).load_image(0).shape == (96, 128, 3)


def test_crowds_and_images_without_instances():
    masks = np.ones((96, 128, 2), bool)
    assert indexed_dataset(Drawn(masks=(masks, [DISC, -SQUARE]))).instances_of(0, SQUARE) == []
    empty = indexed_dataset(Drawn(masks=(np.zeros((0, 0, 0)), [])))
    assert empty.load_mask(0)[0].shape == (96, 128, 0) and not len(empty.images_of(DISC))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"masks": (np.ones((96, 128)), [1])}, r"name0: load_mask gave masks of shape \(96, 128\)"),
        ({"masks": (np.ones((96, 128, 2)), [1])}, "expected .height, width, 1. for its 1 class ids"),
        ({"masks": (np.ones((96, 128, 1)), [7])}, r"class ids \[7\], expected 1..2"),
        ({"masks": (np.ones((50, 50, 1)), [1])}, "name0: the image is 96 x 128 .*its masks 50 x 50"),
        ({"image": lambda image: image / 255}, "name0: load_image gave float64"),
        ({"image": lambda image: image[0]}, "name0: the image is 128 x 3 .*its masks 96 x 128"),
        ({"image": lambda image: np.dstack([image] * 2)[..., :2]}, "name0: load_image gave uint8 .96, 128, 2."),
    ],
)
def test_wrong_arrays_are_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        indexed_dataset(Drawn(**wrong)).load_image(0)


def test_names_of_images_without_a_path():
    drawn = Drawn()
    assert Dataset.image_reference(drawn, 1) == "image name1" and drawn.source_image_link(1) is None


def test_prepare_comes_first():
    drawn = Drawn()
    drawn.add_image("drawn", "more", path=None, shift=0)
    with pytest.raises(RuntimeError, match="call prepare"):
        MaskDataset(drawn)
    drawn.prepare()
    assert indexed_dataset(drawn).num_images == 4


def test_a_coco_tree_is_its_own_index(tmp_path):
    coco_tree.write_tree(tmp_path)
    dataset = coco_tree.load(tmp_path, "val")
    assert indexed_dataset(dataset) is dataset
