"""Fixtures shared by the tests: models are built once a worker, by the first test that needs them."""

import collections
import contextlib
import dataclasses
import json
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
if "PYTEST_XDIST_WORKER" in os.environ:  # workers share the cores; processes that tests start get this, too
    os.environ |= dict.fromkeys(("TF_NUM_INTRAOP_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")

import coco_tree
import github_server
import micro
import numpy as np
import pytest
import seeded
from PIL import Image

DATA = pathlib.Path(__file__).parent / "data"
SHARED = pathlib.Path(__file__).resolve().parents[2] / "shared"

LONGEST = (
    "test_training_runs",
    "test_training_parity",
    "test_readme",
    "test_trainer",
)  # more than a minute each

RECORDED_SCENES = ((11, 375, 500), (12, 300, 400), (13, 480, 640))  # seed, height, width

MICRO = {
    **micro.SIZES,
    "TRAIN_BN": None,  # random weights bring no statistics
    "OPTIMIZER": "sgd",
}


def pytest_collection_modifyitems(items):
    """The modules that take longest come first, so that no worker is left with one of them at the end."""
    slow = collections.Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: (item.path.stem not in LONGEST, -slow[item.path], item.path))


def set_seeded_weights(layers):
    """Give every weight the value that the recorded run had (tests/seeded.py)."""
    for layer in layers:
        if hasattr(layer, "layers"):
            set_seeded_weights(layer.layers)
            continue
        for weight in layer.weights:
            weight.assign(seeded.seeded_weight(f"{layer.name}/{weight.name}:0", weight.shape))


@pytest.fixture(scope="session", autouse=True)
def no_downloads(tmp_path_factory):
    """The folder of downloads is an empty one, and nothing is downloaded; for processes that tests start, too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SIAMESE_MRCNN_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("SIAMESE_MRCNN_OFFLINE", "1")
        yield


@pytest.fixture
def full_disk():
    """A context in which a file can have 1,000 bytes: writing more fails, as on a full disk."""
    resource = pytest.importorskip("resource")  # on POSIX systems

    @contextlib.contextmanager
    def limit():
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limit


@pytest.fixture(scope="session")
def github_session():
    """A server that behaves as GitHub."""
    with github_server.running() as server:
        yield server


@pytest.fixture
def github(github_session, monkeypatch, tmp_path):
    """That server, without assets yet, in place of the real one; the folder of downloads is `tmp_path`/cache.

    Every other address fails at once.
    """
    from siamese_mrcnn_tf.io import download
    from siamese_mrcnn_tf.weights import known_files, releases

    github_session.reset()
    monkeypatch.delenv("SIAMESE_MRCNN_OFFLINE")
    monkeypatch.setenv("SIAMESE_MRCNN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(download, "_WAITS", (0, 0))
    monkeypatch.setattr(releases, "API", github_session.url)
    monkeypatch.setattr(known_files, "GITHUB", github_session.url)
    for name, entry in known_files.KNOWN_FILES.items():
        if entry.url:
            address = f"{github_session.url}/owner/name/releases/download/v1/{name}"
            monkeypatch.setitem(known_files.KNOWN_FILES, name, dataclasses.replace(entry, url=address, digest=None))
    return github_session


@pytest.fixture(scope="session")
def weight_content(tmp_path_factory):
    """{name of a known file: bytes of a file with its weights, without values}."""
    from weight_models import backbone_shapes, flat, matterport_shapes, nested, network_shapes, write_h5

    from siamese_mrcnn_tf import LargeConfig, SmallConfig

    small, large, resnet101 = SmallConfig(), LargeConfig(), SmallConfig().replace(BACKBONE="resnet101")
    stored = {
        "large_siamese_mrcnn_coco_full_0320.h5": nested(network_shapes(large)),
        "small_siamese_mrcnn_0160.h5": nested(network_shapes(small)),
        "imagenet_687.h5": flat(backbone_shapes(small)),
        "mask_rcnn_coco.h5": flat(matterport_shapes(resnet101)),
    }
    folder = tmp_path_factory.mktemp("content")
    content = {name: write_h5(folder / name, weights).read_bytes() for name, weights in stored.items()}
    content["keras_resnet50.h5"] = content["imagenet_687.h5"]
    content["resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5"] = content["imagenet_687.h5"]
    return content


@pytest.fixture(scope="session")
def small_model():
    """The small configuration as recorded: seeded weights, raw references, no minimum confidence."""
    from siamese_mrcnn_tf import SiameseMaskRCNN, SmallConfig

    config = SmallConfig().replace(DETECTION_MIN_CONFIDENCE=0.0, MOLD_TARGETS_AT_INFERENCE=False)
    model = SiameseMaskRCNN("inference", config, "logs")
    set_seeded_weights(model.keras_model.layers)
    return model


@pytest.fixture(scope="session")
def tiny_model():
    """TinyConfig with seeded weights that detect something, anything."""
    from siamese_mrcnn_tf import SiameseMaskRCNN, TinyConfig

    model = SiameseMaskRCNN("inference", TinyConfig().replace(DETECTION_MIN_CONFIDENCE=0.0), "logs")
    set_seeded_weights(model.keras_model.layers)
    logits = model.keras_model.get_layer("mrcnn_class_logits")
    logits.bias.assign(np.zeros(2))  # the seeded bias is against matches
    return model


@pytest.fixture(scope="session")
def tiny_weights(tiny_model, tmp_path_factory):
    """A weight file of `tiny_model`."""
    path = tmp_path_factory.mktemp("weights") / "tiny.h5"
    tiny_model.save_weights(path)
    return path


@pytest.fixture(scope="session")
def micro_config():
    """TinyConfig made smaller, for runs: a batch of 2, epochs of 2 steps, 1 of validation."""
    from siamese_mrcnn_tf import TinyConfig

    return TinyConfig().replace(**MICRO, IMAGES_PER_GPU=2, STEPS_PER_EPOCH=2, VALIDATION_STEPS=1)


@pytest.fixture(scope="session")
def training_tree(tmp_path_factory):
    """Folder of a COCO tree with 8 training images, 7 of them annotated."""
    root = tmp_path_factory.mktemp("training") / "set"
    coco_tree.write_tree(root, subset="train", num_images=8)
    return root


@pytest.fixture(scope="session")
def training_parts(training_tree):
    """(training data, validation data): 5 of the annotated images and the last 2."""
    return coco_tree.load(training_tree, subsubset="train", val_images=2), coco_tree.load(
        training_tree, subsubset="val", val_images=2
    )


@pytest.fixture
def short_training(monkeypatch):
    """Runs in this process take one step an epoch and one epoch a call, and are not compiled, which takes longer.

    TensorFlow computes in the same order each time only as long as the test lasts.
    """
    import tensorflow as tf
    from tensorflow.python.framework.config import disable_op_determinism

    from siamese_mrcnn_tf.model import SiameseMaskRCNN
    from siamese_mrcnn_tf.training.trainer import Trainer

    train, run = SiameseMaskRCNN.train, Trainer.run

    def train_an_epoch(self, train_dataset, val_dataset, learning_rate, epochs, *arguments, **named):
        train(self, train_dataset, val_dataset, learning_rate, self.epoch + 1, *arguments, **named)

    def run_eagerly(self, *arguments):
        validation = min(self.settings.validation_steps, 1)
        self.settings = dataclasses.replace(self.settings, steps_per_epoch=1, validation_steps=validation)
        before = tf.config.functions_run_eagerly()
        tf.config.run_functions_eagerly(True)
        try:
            run(self, *arguments)
        finally:
            tf.config.run_functions_eagerly(before)

    monkeypatch.setattr(SiameseMaskRCNN, "train", train_an_epoch)
    monkeypatch.setattr(Trainer, "run", run_eagerly)
    yield
    disable_op_determinism()


@pytest.fixture(scope="module")
def opened():
    """(configuration, checksum of the weights, verification) -> their predictor."""
    return {}


@pytest.fixture
def opened_once(opened, monkeypatch):
    """Commands that open a predictor with the same configuration and weights share it, and its compiled parts."""
    from siamese_mrcnn_tf import predictor
    from siamese_mrcnn_tf.evaluation import protocol  # noqa: F401  names the class in its types
    from siamese_mrcnn_tf.io import files

    create = predictor.SiamesePredictor

    def open_once(config, weights=None, verification=None, layers=None, **options):
        if layers is not None:
            return create(config, layers=layers, verification=verification, **options)
        used = verification and verification.checksum()
        settings = json.dumps(config.to_dict(), sort_keys=True)
        key = (settings, weights and files.checksum(weights), used, tuple(sorted(options.items())))
        return opened.get(key) or opened.setdefault(
            key, create(config, weights=weights, verification=verification, **options)
        )

    open_once.from_pretrained = create.from_pretrained
    monkeypatch.setattr(predictor, "SiamesePredictor", open_once)


@pytest.fixture
def blank_plots(monkeypatch):
    """The plots of reports are blank: drawing them takes seconds, and tests/test_report.py does it."""
    from siamese_mrcnn_tf.report import plots

    def save_blank(figure, path):
        Image.new("RGB", (8, 8)).save(path)

    for name in ("plot_classes", "plot_by_number", "plot_confusion", "plot_presence"):
        monkeypatch.setattr(plots, name, lambda *values, **named: None)
    monkeypatch.setattr(plots, "save_plot", save_blank)


@pytest.fixture
def content(tmp_path):
    """The annotations of a tree in `tmp_path`, subset val.

    Image 0: ellipse, rectangle, crowd of triangles; 1: rectangle, triangle; 2: triangle, ellipse; 3: nothing.
    """
    return coco_tree.write_tree(tmp_path)


@pytest.fixture
def data(tmp_path, content):
    """IndexedCocoDataset of that tree."""
    return coco_tree.load(tmp_path, "val")


@pytest.fixture(scope="session")
def training_record():
    """The recorded training samples, by name."""
    with np.load(DATA / "training.npz", allow_pickle=False) as content:
        return dict(content)


@pytest.fixture(scope="session")
def recorded_scenes():
    """Data set of the scenes that were recorded."""
    return coco_tree.Scenes([seeded.make_scene(height, width, seed) for seed, height, width in RECORDED_SCENES])


@pytest.fixture
def scene():
    """uint8 [90, 120, RGB]."""
    return seeded.make_scene(90, 120, seed=3)[0]


@pytest.fixture
def crop():
    """uint8 [h, w, RGB], one object."""
    image, masks, _ = seeded.make_scene(90, 120, seed=3)
    y1, x1, y2, x2 = seeded.boxes_of(masks)[0]
    return np.ascontiguousarray(image[y1:y2, x1:x2])


@pytest.fixture
def empty_convolutions():
    """Skips where TensorFlow itself gives the convolution of an empty batch a wrong shape, as its oneDNN kernels do."""
    import tensorflow as tf

    found = tf.nn.conv2d(tf.zeros((0, 1, 1, 1)), tf.zeros((1, 1, 1, 2)), 1, "VALID")
    if found.shape != (0, 1, 1, 2):
        pytest.skip("TensorFlow's oneDNN convolutions do not know empty batches")


@pytest.fixture
def run(capsys):
    """Run a command of `siamese-mrcnn` in this process: (exit code, standard output, standard error)."""
    from siamese_mrcnn_tf.cli.main import main

    def run_command(*arguments):
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run_command
