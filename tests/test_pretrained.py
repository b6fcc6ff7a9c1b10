"""Known weight files: names, what errors say, and downloads from a server on the loopback address."""

import dataclasses
import hashlib
import http.server
import logging
import os
import re
import subprocess
import sys
import threading

import h5py
import numpy as np
import pytest

from siamese_mrcnn_tf.io import download
from siamese_mrcnn_tf.weights.loading import fitting_config
from siamese_mrcnn_tf.weights.pretrained import KNOWN_FILES, find_weights

COCO = "mask_rcnn_coco.h5"
RESNET = "resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5"
ADDRESSES = {name: entry.url for name, entry in KNOWN_FILES.items() if entry.url}
NOT_DOWNLOADED = [name for name, entry in KNOWN_FILES.items() if not entry.url and not entry.substitute]


class _Handler(http.server.BaseHTTPRequestHandler):
    """Serves the server's content under /files/, from where the Range asks, cut after each of its `cuts`."""

    def do_GET(self):
        self.server.requests.append((self.path, self.headers["Range"]))
        if not self.path.startswith("/files/"):
            self.send_error(404)
            return
        content, start = self.server.content, int((self.headers["Range"] or "bytes=0-")[len("bytes=") : -1])
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start:][: self.server.cuts.pop(0) if self.server.cuts else None])

    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    """The bytes of an .h5 file of 400 kB."""
    path = tmp_path_factory.mktemp("content") / "content.h5"
    with h5py.File(path, "w") as h5:
        h5["values"] = np.random.default_rng(0).random(50_000)
    return path.read_bytes()


@pytest.fixture
def place_at(monkeypatch):
    """Function that gives a known file another address, and no checksum or this one."""

    def change(name, url, md5=None):
        monkeypatch.setitem(KNOWN_FILES, name, dataclasses.replace(KNOWN_FILES[name], url=url, md5=md5))

    return change


@pytest.fixture(autouse=True)
def offline(monkeypatch, place_at):
    """No test reaches the real addresses: nobody listens on port 1; no waiting between tries."""
    monkeypatch.setattr(download, "_WAITS", (0, 0))
    for name in ADDRESSES:
        place_at(name, f"http://127.0.0.1:1/files/{name}")


@pytest.fixture
def server(content, place_at):
    """A server that has every known file with an address, with its checksum."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        server.content, server.requests, server.cuts = content, [], []
        server.root = f"http://127.0.0.1:{server.server_port}"
        for name in ADDRESSES:
            place_at(name, f"{server.root}/files/{name}", hashlib.md5(content).hexdigest())
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server
        server.shutdown()


# ---- names -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["imagenet_687", "imagenet-687", "imagenet_687.h5", "ImageNet-687.h5", "IMAGENET_687.H5"]
)
def test_known_names(tmp_path, name):
    (tmp_path / "imagenet_687.h5").write_bytes(b"x")
    assert find_weights(name, tmp_path) == tmp_path / "imagenet_687.h5"


def test_path_as_it_is_and_last(tmp_path):
    (tmp_path / "mine.h5").write_bytes(b"x")
    assert find_weights(str(tmp_path / "mine.h5"), "elsewhere") == tmp_path / "mine.h5"
    assert find_weights("last", tmp_path, runs=lambda name: tmp_path / "run.h5") == tmp_path / "run.h5"
    with pytest.raises(ValueError, match="'last': no training run to take them from"):
        find_weights("last", tmp_path)


@pytest.mark.parametrize(
    "name", ["small_siamese_mrcnn_0160", "small-siamese-mrcnn-0160", "Small_siamese_mrcnn_0160.h5"]
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
        ValueError, match=r"'q\.h5': no such file\. Known names: last, best, shapes, imagenet_687, .*mask_rcnn_coco"
    ):
        find_weights("q.h5", tmp_path)
    with pytest.raises(ValueError, match="a folder, expected a weight file"):
        find_weights(tmp_path, tmp_path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("small", r"did you mean small_siamese_mrcnn_0160 \(the small model, for config small\)\? Known names: last"),
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
    code = "import sys, siamese_mrcnn_tf.weights.pretrained; sys.exit(bool({'keras', 'tensorflow'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True)


# ---- files without an address ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NOT_DOWNLOADED)
def test_missing_file_without_address_names_the_page(tmp_path, name):
    message = f"{tmp_path / name}: no such file. {name} is {KNOWN_FILES[name].what}: get it from the assets of "
    message += "github.com/bethgelab/siamese-mask-rcnn/releases and put it there"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        find_weights(name, tmp_path)
    with pytest.raises(ValueError, match=r"other.*no such file.*put it there$"):
        find_weights(tmp_path / "other" / name, tmp_path)
    assert not os.listdir(tmp_path)


def test_addresses_are_those_of_the_releases():
    assert ADDRESSES == {
        COCO: "https://github.com/matterport/Mask_RCNN/releases/download/v2.0/mask_rcnn_coco.h5",
        RESNET: f"https://github.com/fchollet/deep-learning-models/releases/download/v0.2/{RESNET}",
    }


# ---- downloads ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mask_rcnn_coco", "Mask-RCNN-COCO.H5", RESNET])
def test_missing_file_is_downloaded_once(tmp_path, server, content, capsys, caplog, name):
    caplog.set_level(logging.INFO)
    checkpoints = tmp_path / "new" / "checkpoints"
    path = find_weights(name, checkpoints)
    assert path.parent == checkpoints and path.name in ADDRESSES and path.read_bytes() == content
    assert os.listdir(checkpoints) == [path.name]
    assert f"{path.name}: 100%" in capsys.readouterr().err
    assert f"{path.name}, {KNOWN_FILES[path.name].what}, is downloaded from {server.root}/files/" in caplog.text
    assert find_weights(name, checkpoints) == path
    assert server.requests == [(f"/files/{path.name}", None)]


def test_file_that_is_there_is_not_downloaded(tmp_path, server):
    (tmp_path / COCO).write_bytes(b"whatever it is")
    assert find_weights("mask_rcnn_coco", tmp_path) == tmp_path / COCO
    assert not server.requests and (tmp_path / COCO).read_bytes() == b"whatever it is"


def test_path_into_the_checkpoints_folder_downloads(tmp_path, server, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_weights(f"checkpoints/{COCO}", tmp_path / "checkpoints").is_file()


@pytest.mark.parametrize(("name", "fetched"), [(COCO, "it"), ("imagenet_1k.h5", RESNET)])
def test_path_into_another_folder_downloads_nothing(tmp_path, server, name, fetched):
    source = re.escape(KNOWN_FILES[name].url or KNOWN_FILES[name].source)
    message = rf"chekpoints.{name}: no such file.*{source} and put it there; by its name .*, {fetched} is downloaded"
    with pytest.raises(ValueError, match=message):
        find_weights(tmp_path / "chekpoints" / name, tmp_path / "checkpoints")
    assert not server.requests and not os.listdir(tmp_path)


def test_home_folder(tmp_path, server, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_weights(COCO, "~/checkpoints") == tmp_path / "checkpoints" / COCO


def test_broken_connection_is_resumed(tmp_path, server, content):
    server.cuts = [300_000, 50_000]
    assert find_weights(COCO, tmp_path).read_bytes() == content
    assert [asked for _, asked in server.requests] == [None, "bytes=300000-", "bytes=350000-"]


def test_stopped_download_is_resumed(tmp_path, server, content):
    server.cuts = [1000, 0, 0]
    with pytest.raises(
        ConnectionError, match=r"broke off after 1000 of .*; 1000 bytes are kept in .*\. mask_rcnn_coco"
    ):
        find_weights(COCO, tmp_path)
    assert os.listdir(tmp_path) == [f"{COCO}.part"]
    assert find_weights(COCO, tmp_path).read_bytes() == content
    assert server.requests[-1] == (f"/files/{COCO}", "bytes=1000-") and os.listdir(tmp_path) == [COCO]


def test_other_checksum_keeps_nothing(tmp_path, server, content, place_at):
    place_at(RESNET, f"{server.root}/files/{RESNET}", "0" * 32)
    found = hashlib.md5(content).hexdigest()
    message = rf"{tmp_path}.{RESNET}: .* {server.root}/files/.*{found}, expected 0{{32}}.* into {tmp_path}$"
    with pytest.raises(ValueError, match=message):
        find_weights(RESNET, tmp_path)
    assert not os.listdir(tmp_path)


def test_page_in_place_of_the_file_keeps_nothing(tmp_path, server, place_at):
    server.content = b"<html>Please log in</html>"
    place_at(COCO, f"{server.root}/files/{COCO}")
    with pytest.raises(
        ValueError, match=rf"{COCO}: {server.root}/.* did not return an HDF5 file, nothing is kept\. .*put it into .*$"
    ):
        find_weights(COCO, tmp_path)
    assert not os.listdir(tmp_path)


def test_refusal_names_everything(tmp_path, server, place_at):
    place_at(COCO, f"{server.root}/gone/{COCO}")
    message = (
        f"{tmp_path / COCO}: cannot be downloaded from {server.root}/gone/{COCO} (HTTP status 404 Not Found). {COCO} "
        f"is {KNOWN_FILES[COCO].what}: get it by other means and put it into {tmp_path}"
    )
    with pytest.raises(ConnectionError, match=f"^{re.escape(message)}$"):
        find_weights(COCO, tmp_path)
    assert len(server.requests) == 1 and not os.listdir(tmp_path)


def test_no_network_names_everything(tmp_path):
    message = rf"{COCO}: cannot be downloaded from http://127\.0\.0\.1:1/files/{COCO} \(.*refused.*put it into .*$"
    with pytest.raises(ConnectionError, match=message):
        find_weights(COCO, tmp_path)
    assert not os.listdir(tmp_path)


def test_folder_that_cannot_be_written_names_everything(tmp_path, server):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=rf"file: the folder cannot be made \(.*\)\. {COCO} is .* put it into .*$"):
        find_weights(COCO, tmp_path / "file")
    (tmp_path / f"{COCO}.part").mkdir()
    with pytest.raises(
        OSError, match=rf"{COCO}: the download from http.* cannot be written \(.*\)\. {COCO} is .* put it into .*$"
    ):
        find_weights(COCO, tmp_path)


# ---- imagenet-1k -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["imagenet-1k", "imagenet_1k", "IMAGENET_1K.H5"])
def test_imagenet_1k_is_taken_first(tmp_path, server, caplog, name):
    caplog.set_level(logging.INFO)
    for present in ("imagenet_1k.h5", RESNET):
        (tmp_path / present).write_bytes(b"x")
    assert find_weights(name, tmp_path) == tmp_path / "imagenet_1k.h5"
    assert not server.requests and not caplog.messages


def test_imagenet_1k_is_served_by_the_resnet_of_keras(tmp_path, server, caplog):
    caplog.set_level(logging.INFO)
    (tmp_path / RESNET).write_bytes(b"x")
    assert find_weights("imagenet-1k", tmp_path) == tmp_path / RESNET
    assert find_weights(tmp_path / "imagenet_1k.h5", "elsewhere") == tmp_path / RESNET
    assert not server.requests
    assert caplog.messages[0] == (
        f"imagenet_1k.h5 is not in {tmp_path}: {RESNET} is used, the ImageNet-1k ResNet-50 of Keras, without its top"
    )


def test_imagenet_1k_downloads_the_resnet_of_keras(tmp_path, server, content, caplog):
    caplog.set_level(logging.INFO)
    path = find_weights("imagenet-1k", tmp_path)
    assert path == tmp_path / RESNET and path.read_bytes() == content
    assert f"imagenet_1k.h5 is not in {tmp_path}: {RESNET} is used" in caplog.messages[-1]
    assert find_weights("imagenet_1k", tmp_path) == path and len(server.requests) == 1


def test_imagenet_1k_without_network_names_both_files(tmp_path):
    message = (
        rf"{RESNET}: cannot be downloaded from http://127\.0\.0\.1:1/.*: get it by other means \(or "
        r"imagenet_1k\.h5 from the assets of github\.com/bethgelab/.*/releases\) and put it into .*$"
    )
    with pytest.raises(ConnectionError, match=message):
        find_weights("imagenet-1k", tmp_path)
