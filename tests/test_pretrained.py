"""The weight files that names stand for."""

import os
import re
import subprocess
import sys

import pytest

from siamese_mrcnn_tf.weights.known_files import KNOWN_FILES
from siamese_mrcnn_tf.weights.loading import fitting_config
from siamese_mrcnn_tf.weights.pretrained import find_weights

COCO = "mask_rcnn_coco.h5"
RESNET = "resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5"


@pytest.mark.parametrize(
    "name", ["imagenet_687", "imagenet-687", "imagenet_687.h5", "ImageNet-687.h5", "IMAGENET_687.H5"]
)
def test_known_names(tmp_path, name):
    (tmp_path / "imagenet_687.h5").write_bytes(b"x")
    assert find_weights(name, tmp_path) == tmp_path / "imagenet_687.h5"


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("large", "large_siamese_mrcnn_coco_full_0320.h5"),
        ("Small", "small_siamese_mrcnn_0160.h5"),
        ("large-i1", "large_siamese_mrcnn_coco_i1_0160.h5"),
        ("large_i4", "large_siamese_mrcnn_coco_i4_0160.h5"),
        ("resnet50", "keras_resnet50.h5"),
    ],
)
def test_short_names(tmp_path, monkeypatch, alias, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / name).write_bytes(b"x")
    assert find_weights(alias).resolve() == tmp_path / "checkpoints" / name
    (tmp_path / alias).mkdir()  # a folder of that name is called with a separator
    assert find_weights(alias).resolve() == tmp_path / "checkpoints" / name
    assert find_weights(f"./{alias}", runs=lambda folder: f"{folder}/run.h5").name == "run.h5"
    with pytest.raises(ValueError, match="a folder, expected a weight file or one of: last, best, shapes, large"):
        find_weights(f"./{alias}")


def test_path_as_it_is_and_last(tmp_path):
    (tmp_path / "mine.h5").write_bytes(b"x")
    assert find_weights(str(tmp_path / "mine.h5"), "elsewhere") == tmp_path / "mine.h5"
    assert find_weights("last", tmp_path, runs=lambda name: tmp_path / "run.h5") == tmp_path / "run.h5"
    with pytest.raises(ValueError, match="'last': no training run to take them from"):
        find_weights("last", tmp_path)


@pytest.mark.parametrize(
    "name", ["small_siamese_mrcnn_0160", "small-siamese-mrcnn-0160", "Small_siamese_mrcnn_0160.h5", "small"]
)
def test_known_names_in_a_folder(tmp_path, name):
    path = tmp_path / "ck" / "small_siamese_mrcnn_0160.h5"
    path.parent.mkdir()
    path.write_bytes(b"x")
    assert find_weights(path.with_name(name), tmp_path) == path


@pytest.mark.parametrize("name", ["shapes", "Shapes", "siamese_mrcnn_shapes_s1", "siamese-mrcnn-shapes-s1.h5"])
def test_shapes_are_the_weights_of_the_package(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shapes").mkdir()  # a folder is no weight file
    path = find_weights(name, tmp_path)
    assert path.name == "siamese_mrcnn_shapes_s1.h5" and fitting_config(path) == "tiny"
    (tmp_path / "shapes").rmdir()
    (tmp_path / "shapes").write_bytes(b"x")
    assert find_weights("shapes", tmp_path).read_bytes() == b"x"
    with pytest.raises(ValueError, match="no such file"):
        find_weights("folder/shapes", tmp_path)


def test_unknown_name_lists_the_known(tmp_path):
    with pytest.raises(ValueError, match=r"'smal_siamese_mrcnn': no such file; did you mean small_siamese_mrcnn_0160"):
        find_weights("smal_siamese_mrcnn", tmp_path)
    with pytest.raises(
        ValueError,
        match=r"'q\.h5': no such file\. Known names: last, best, shapes, large, .*imagenet_687, .*mask_rcnn",
    ):
        find_weights("q.h5", tmp_path)
    with pytest.raises(ValueError, match="a folder, expected a weight file"):
        find_weights(tmp_path, tmp_path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "shape",
            r"no such file; did you mean shapes \(the bundled weights, for drawn shapes\)\? siamese-mrcnn weights",
        ),
        ("shaeps", r"did you mean shapes \("),
        ("larg", r"did you mean large \(the large model .*\) or large-i1 \("),
        (
            "small_",
            r"did you mean small_siamese_mrcnn_0160 \(the small model, for config small\)\? siamese-mrcnn weights",
        ),
        (
            "Large-siamese",
            r"did you mean large_siamese_mrcnn_coco_full_0320 \(the large .*, for config large\) or large",
        ),
        (
            "small_siamese_mrcnn_coco_full_0320",
            r"did you mean large_siamese_mrcnn_coco_full_0320 \(the large model .* for config large\)",
        ),
    ],
)
def test_suggestions_tell_small_from_large(tmp_path, name, message):
    with pytest.raises(ValueError, match=message):
        find_weights(name, tmp_path)


def test_import_needs_no_keras():
    names = "siamese_mrcnn_tf.weights.choice, siamese_mrcnn_tf.weights.pretrained"
    code = f"import sys, {names}; sys.exit(bool({{'keras', 'tensorflow'}} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True)


# ---- where a known file is downloaded ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["imagenet_687.h5", "small_siamese_mrcnn_0160.h5", "large"])
def test_missing_file_names_page_and_folders(tmp_path, name):
    message = r"is the .*: get it from the assets of https://github.com/bethgelab/siamese-mask-rcnn/releases and put it"
    with pytest.raises(ConnectionError, match=f"{message} into {tmp_path} or {os.environ['SIAMESE_MRCNN_CACHE']}$"):
        find_weights(name, tmp_path)
    assert not os.listdir(tmp_path)


def test_path_into_the_checkpoints_folder_downloads(tmp_path, github, weight_content, monkeypatch):
    monkeypatch.chdir(tmp_path)
    github.assets["v1", COCO] = weight_content[COCO]
    assert find_weights(f"checkpoints/{COCO}", tmp_path / "checkpoints") == tmp_path / "cache" / COCO


@pytest.mark.parametrize(("name", "fetched"), [(COCO, "it"), ("imagenet_1k.h5", RESNET)])
def test_path_into_another_folder_downloads_nothing(tmp_path, github, name, fetched):
    source = re.escape(KNOWN_FILES[name].source)
    message = rf"chekpoints.{name}: no such file.*{source} and put it into .*; by its name .*, {fetched} is downloaded"
    with pytest.raises(ValueError, match=message):
        find_weights(tmp_path / "chekpoints" / name, tmp_path / "checkpoints")
    assert not github.requests and not os.listdir(tmp_path)


def test_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / COCO).write_bytes(b"x")
    assert find_weights(COCO, "~/checkpoints") == tmp_path / "checkpoints" / COCO


def test_folder_that_cannot_be_written_names_everything(tmp_path, github, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SIAMESE_MRCNN_CACHE", str(tmp_path / "file"))
    with pytest.raises(ValueError, match=rf"file.locks: the folder cannot be made \(.*\)\. {COCO} is .* put it"):
        find_weights(COCO, tmp_path)
    monkeypatch.setenv("SIAMESE_MRCNN_CACHE", str(tmp_path / "cache"))
    github.assets["v1", COCO] = b"x"
    (tmp_path / "cache" / f"{COCO}.part").mkdir(parents=True)
    with pytest.raises(
        ValueError, match=rf"{COCO}: the download from http.* cannot be written \(.*\)\. {COCO} is .* put it into .*$"
    ):
        find_weights(COCO, tmp_path)


# ---- imagenet-1k -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["imagenet-1k", "imagenet_1k", "IMAGENET_1K.H5"])
def test_imagenet_1k_is_taken_first(tmp_path, name):
    told = []
    for present in ("imagenet_1k.h5", RESNET):
        (tmp_path / present).write_bytes(b"x")
    assert find_weights(name, tmp_path, tell=told.append) == tmp_path / "imagenet_1k.h5"
    assert not told


def test_imagenet_1k_is_served_by_the_resnet_of_keras(tmp_path):
    told, path = [], tmp_path / RESNET
    path.write_bytes(b"x")
    assert find_weights("imagenet-1k", tmp_path, tell=told.append) == path
    assert find_weights(tmp_path / "imagenet_1k.h5", "elsewhere") == path
    assert told == [f"imagenet_1k.h5 is not in {tmp_path}: {path} is used, {KNOWN_FILES[RESNET].what}"]


def test_imagenet_1k_downloads_the_resnet_of_keras(tmp_path, github, weight_content):
    told = []
    with pytest.raises(ConnectionError, match=rf"404.* {RESNET} is .*: get it from .* \(or imagenet_1k\.h5 from the"):
        find_weights("imagenet-1k", tmp_path)
    github.assets["v1", RESNET] = weight_content[RESNET]
    path = find_weights("imagenet-1k", tmp_path, tell=told.append)
    assert path == tmp_path / "cache" / RESNET and f"imagenet_1k.h5 is not in {tmp_path}: {path} is used" in told[-1]
    asked = len(github.requests)
    assert find_weights("imagenet_1k", tmp_path) == path and len(github.requests) == asked
