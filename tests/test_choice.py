"""What `from_pretrained` and the command line choose: weights, configuration and threshold file."""

import numpy as np
import pytest

from siamese_mrcnn_tf import SiameseMaskRCNN, SiamesePredictor
from siamese_mrcnn_tf.cli.inputs import choose_config
from siamese_mrcnn_tf.cli.main import parse
from siamese_mrcnn_tf.io.files import write_json
from siamese_mrcnn_tf.weights.choice import choose_pretrained
from siamese_mrcnn_tf.weights.loading import fitting_config
from siamese_mrcnn_tf.weights.thresholds import find_thresholds

PREDICT = ["predict", "--image", "a.png", "--reference", "b.png", "--model"]


@pytest.fixture(scope="module")
def predictor():
    return SiamesePredictor.from_pretrained("shapes")


def test_predictor_uses_what_is_stored_beside_the_weights(predictor):
    path, _, calibration = choose_pretrained("shapes", "checkpoints", {})
    assert predictor.config.NAME == "tiny" and fitting_config(path) == "tiny"
    assert predictor.config.DETECTION_MIN_CONFIDENCE == calibration.threshold == find_thresholds(path).threshold
    assert predictor.verifies and predictor.verification.views == calibration.verification.views


@pytest.mark.parametrize(
    ("options", "settings"),
    [
        ([], {}),
        (["--min-confidence", "0.7"], {"DETECTION_MIN_CONFIDENCE": 0.7}),
        (["--set", "VERIFY_DETECTIONS=false"], {"VERIFY_DETECTIONS": False}),
        (["--set", "IMAGE_MAX_DIM=192", "IMAGE_MIN_DIM=192"], {"IMAGE_MAX_DIM": 192, "IMAGE_MIN_DIM": 192}),
    ],
)
def test_command_line_and_library_choose_alike(options, settings):
    config, path = choose_config(parse([*PREDICT, "shapes", *options]))
    chosen = choose_pretrained("shapes", "checkpoints", settings)
    assert chosen[0] == path and chosen[1].to_dict() == config.to_dict()


def test_run_folder_is_its_best_weights_with_its_configuration(tmp_path, tiny_weights):
    run = tmp_path / "logs" / "siamese_mrcnn_tiny_mine"
    run.mkdir(parents=True)
    (run / "siamese_mrcnn_0001.h5").write_bytes(tiny_weights.read_bytes())
    write_json(run / "config.json", {"BASE": "tiny", "DETECTION_MIN_CONFIDENCE": 0.25})
    for folder in (run, run.parent):
        path, config, calibration = choose_pretrained(folder, "checkpoints", {})
        assert path == run / "siamese_mrcnn_0001.h5" and calibration is None
        assert config.DETECTION_MIN_CONFIDENCE == 0.25
    with pytest.raises(ValueError, match="weights 'last': of which training run"):
        choose_pretrained("last", "checkpoints", {})


def test_known_file_fits_its_configuration(tmp_path, weight_content):
    names = {"large": "large_siamese_mrcnn_coco_full_0320.h5", "small": "small_siamese_mrcnn_0160.h5"}
    for config, name in names.items():
        (tmp_path / name).write_bytes(weight_content[name])
        assert choose_pretrained(config, tmp_path, {})[1].NAME.startswith(config)
    (tmp_path / "imagenet_687.h5").write_bytes(weight_content["imagenet_687.h5"])
    with pytest.raises(ValueError, match="It cannot detect by itself"):
        choose_pretrained("imagenet-687", tmp_path, {})
    with pytest.raises(ValueError, match="NO_SUCH_SETTING"):
        choose_pretrained("large", tmp_path, {"NO_SUCH_SETTING": 1})


def test_model_from_pretrained(tmp_path, predictor):
    model = SiameseMaskRCNN.from_pretrained("shapes", model_dir=tmp_path, DETECTION_MIN_CONFIDENCE=0.25)
    assert model.mode == "inference" and model.config.DETECTION_MIN_CONFIDENCE == 0.25 and model.predictor.verifies
    np.testing.assert_array_equal(conv1(model.predictor), conv1(predictor))


def conv1(predictor):
    """Weights of the first convolution."""
    backbone = next(layer for layer in predictor.layers.layers if layer.name == "resnet_model")
    return backbone.get_layer("conv1").get_weights()[0]


def test_a_download_is_told_where_logging_is_not_set_up(github, weight_content, tmp_path, caplog):
    name = "small_siamese_mrcnn_0160.h5"
    github.assets["v0.1", name] = weight_content[name]
    path, config, calibration = choose_pretrained("small", tmp_path, {})
    assert path == tmp_path / "cache" / name and config.NAME.startswith("small") and calibration is None
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    assert ": download from http" in caplog.messages[0] and "sha256" in caplog.messages[1]
