"""Known files are found by the releases, verified by their weights, and remembered; on a server like the real ones."""

import dataclasses
import hashlib
import json
import multiprocessing
import os
import re

import pytest

from siamese_mrcnn_tf.io.locks import locked
from siamese_mrcnn_tf.weights.known_files import KNOWN_FILES
from siamese_mrcnn_tf.weights.pretrained import find_weights
from siamese_mrcnn_tf.weights.trusted import FILE, accept, read_trusted

LARGE, SMALL = "large_siamese_mrcnn_coco_full_0320.h5", "small_siamese_mrcnn_0160.h5"
API = "/repos/bethgelab/siamese-mask-rcnn/releases"
GUESSED = f"/bethgelab/siamese-mask-rcnn/releases/download/v0.2/{LARGE}"
LISTED = f"/owner/name/releases/download/v9/{LARGE}"


@pytest.fixture
def large(github, weight_content):
    """Bytes of the large model, an asset of the release v9."""
    github.assets["v9", LARGE] = weight_content[LARGE]
    return weight_content[LARGE]


@pytest.fixture
def told():
    return []


@pytest.fixture
def find(tmp_path, told):
    """Function that finds weights by name, and keeps what it tells."""
    return lambda name="large": find_weights(name, tmp_path / "checkpoints", tell=told.append)


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def kept(tmp_path):
    """Names of the files in the folder of downloads, without those that are always there."""
    folder = tmp_path / "cache"
    return sorted(set(os.listdir(folder)) - {"locks", FILE}) if folder.exists() else []


# ---- where files come from ---------------------------------------------------------------------------------------


def test_listed_asset_is_downloaded_once(github, large, find, told, tmp_path, capsys):
    path = find()
    assert path == tmp_path / "cache" / LARGE and path.read_bytes() == large and kept(tmp_path) == [LARGE]
    paths = [asked for asked, _ in github.requests]
    assert paths == [API, LISTED, f"/storage/v9/{LARGE}"]
    assert f"{LARGE}: 100%" in capsys.readouterr().err
    assert told[0].startswith(f"{LARGE} ({len(large) / 1e6:.1f} MB), the large model")
    assert f"from {github.url}{LISTED} into {tmp_path / 'cache'}" in told[0]
    assert f"{len(large)} bytes, siamese weights, large configuration" in told[1]
    assert f"sha256 {sha256(large)}, which is remembered" in told[1]
    assert find("large_siamese-mrcnn_coco_full_0320") == path and find(LARGE) == path
    assert len(github.requests) == 3 and len(told) == 2


def test_checkpoints_come_first(github, large, find, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / LARGE).write_bytes(b"whatever it is")
    assert find() == tmp_path / "checkpoints" / LARGE
    assert not github.requests and kept(tmp_path) == []


def test_every_page_of_the_listing_is_read(github, large, find, monkeypatch, weight_content):
    monkeypatch.setattr("siamese_mrcnn_tf.weights.releases._PER_PAGE", 1)
    github.pages, github.assets = 1, {("v9", "other.h5"): b"x", ("v8", LARGE): large}
    assert find().read_bytes() == large
    assert [path for path, _ in github.requests].count(API) == 2


@pytest.mark.parametrize(
    ("status", "headers", "body", "reason"),
    [
        (
            403,
            {"X-RateLimit-Remaining": "0"},
            b'{"message": "API rate limit exceeded for you"}',
            "403 Forbidden: API",
        ),
        (429, {}, b"", "429 Too Many Requests"),
        (500, {}, b"<html>", "500 Internal Server Error"),
        (200, {}, b"<html>Please log in</html>", "is no JSON document"),
        (200, {}, b'{"message": "?"}', "is no listing of releases"),
        (200, {}, b'[{"assets": [{"name": "%s"}]}]' % LARGE.encode(), "is no listing of releases"),
    ],
)
def test_listing_that_fails_leaves_the_address_of_the_tag(github, large, find, told, status, headers, body, reason):
    github.replies[API] = (status, headers, body)
    github.assets = {("v0.2", LARGE): large}
    assert find().read_bytes() == large
    assert [path for path, _ in github.requests][1:] == [GUESSED, f"/storage/v0.2/{LARGE}"]
    listing = (
        rf"the releases of bethgelab/.* cannot be listed \(.*{reason}.*\): no published size or checksum to compare"
    )
    assert re.match(listing, told[-1]) and told[-1].endswith(f"{LARGE} is checked by its weights")


def test_asset_that_is_not_listed_is_tried_at_the_address_of_the_tag(github, find, told, tmp_path):
    github.assets["v1", "other.h5"] = b"x"
    message = (
        rf"the releases of bethgelab/siamese-mask-rcnn list no {LARGE}; .*cache.{LARGE}: cannot be downloaded from "
        rf"{github.url}{GUESSED} \(HTTP status 404 Not Found\)\. {LARGE} is the large .*: get it from the assets of "
        rf"https://github.com/bethgelab/siamese-mask-rcnn/releases and put it into {tmp_path}.checkpoints or {tmp_path}"
    )
    with pytest.raises(ConnectionError, match=message):
        find()
    assert (
        len(told) == 1
        and told[0].startswith(f"{LARGE} (about 212 MB), the large")
        and "guess" not in told[0]
        and kept(tmp_path) == []
    )


def test_file_without_a_guess_names_the_page(github, find):
    with pytest.raises(ConnectionError, match=r"list no imagenet_771.h5\. .* get it from the assets of https://github"):
        find("imagenet-771")
    assert [path for path, _ in github.requests] == [API]


def test_known_address_needs_no_listing(github, find, weight_content):
    for name in ("mask_rcnn_coco.h5", "keras_resnet50.h5"):
        github.assets["v1", name] = weight_content[name]
    assert find("mask-rcnn-coco").is_file() and find("resnet50").name == "keras_resnet50.h5"
    assert API not in [path for path, _ in github.requests]


def test_nobody_answers(github, find, monkeypatch, tmp_path):
    monkeypatch.setattr("siamese_mrcnn_tf.weights.releases.API", "http://127.0.0.1:1")
    monkeypatch.setattr("siamese_mrcnn_tf.weights.known_files.GITHUB", "http://127.0.0.1:1")
    with pytest.raises(
        ConnectionError, match=r"cannot be listed; .*refused.*, about 212 MB: get .* put it into"
    ) as failed:
        find()
    assert str(failed.value).count("refused") == 1 and "Errno" not in str(failed.value)
    assert not github.requests


def test_offline(github, large, find, monkeypatch, tmp_path):
    monkeypatch.setenv("SIAMESE_MRCNN_OFFLINE", "1")
    with pytest.raises(ConnectionError, match=rf"cache.{LARGE}: no such file, and SIAMESE_MRCNN_OFFLINE is .* put it"):
        find()
    assert not github.requests and not (tmp_path / "cache").exists()
    monkeypatch.setenv("SIAMESE_MRCNN_OFFLINE", "0")
    assert find().is_file()


# ---- transfers ---------------------------------------------------------------------------------------------------


def test_broken_transfer_resumes(github, large, find):
    github.cuts = [100_000, 50_000]
    assert find().read_bytes() == large
    assert github.downloads == [None, "bytes=100000-", "bytes=150000-"]


def test_stopped_transfer_resumes_at_the_next_call(github, large, find, tmp_path):
    github.cuts = [1000, 0, 0]
    with pytest.raises(ConnectionError, match=rf"broke off after 1000 of .*; 1000 bytes are kept in {LARGE}\.part"):
        find()
    assert find().read_bytes() == large
    assert github.downloads[-1] == "bytes=1000-" and kept(tmp_path) == [LARGE]


def test_file_that_was_replaced_meanwhile_starts_anew(github, large, find, weight_content):
    github.cuts = [1000, 0, 0]
    with pytest.raises(ConnectionError):
        find()
    github.assets["v9", LARGE] = replaced = large + b"\0" * 8
    assert find().read_bytes() == replaced


def test_size_and_digest_of_the_listing_are_checked(github, large, find, told, tmp_path):
    github.lies[LARGE] = {"size": len(large) + 1}
    with pytest.raises(ConnectionError, match=f"the server has {len(large)} bytes, expected {len(large) + 1}"):
        find()
    github.lies[LARGE] = {"digest": "sha256:" + "0" * 64}
    with pytest.raises(ValueError, match=f"sha256 checksum {sha256(large)}, expected 0{{64}}; they are not kept"):
        find()
    assert kept(tmp_path) == []
    github.lies, github.digests = {}, True
    assert find().is_file()


def test_known_checksum_is_checked(github, find, weight_content, monkeypatch, tmp_path):
    name = "mask_rcnn_coco.h5"
    github.assets["v1", name] = content = weight_content[name]
    monkeypatch.setitem(KNOWN_FILES, name, dataclasses.replace(KNOWN_FILES[name], digest="md5:" + "0" * 32))
    found = hashlib.md5(content).hexdigest()
    with pytest.raises(ValueError, match=rf"md5 checksum {found}, expected 0{{32}}; they are not kept.* put it into"):
        find(name)
    assert kept(tmp_path) == []


def test_addresses_that_are_less_safe_are_refused(github, large, find, monkeypatch):
    github.redirects[f"/storage/v9/{LARGE}"] = "ftp://127.0.0.1/large.h5"
    with pytest.raises(ConnectionError, match=r"redirects to ftp://127.0.0.1/large.h5, which is less safe"):
        find()
    github.lies[LARGE] = {"browser_download_url": "file:///etc/passwd"}
    with pytest.raises(ConnectionError, match=r"the releases name the address 'file:///etc/passwd', expected https"):
        find()


# ---- what arrives ------------------------------------------------------------------------------------------------


def test_web_page_is_not_kept(github, large, find, tmp_path):
    github.replies[f"/storage/v9/{LARGE}"] = (200, {}, b"<html>Please log in</html>")
    github.lies[LARGE] = {"size": None}
    message = rf"{LARGE}: what came from .*{LISTED} is not {LARGE} but a web page .*Nothing of it is kept\. {LARGE} is"
    with pytest.raises(ValueError, match=message):
        find()
    assert kept(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "sent", "what"),
    [
        (LARGE, SMALL, "siamese weights, small configuration, .*; expected siamese weights, large configuration, resn"),
        (SMALL, "imagenet_687.h5", "backbone weights, ResNet-50.*; expected siamese weights, small configuration"),
        ("mask_rcnn_coco.h5", LARGE, "siamese weights.*; expected matterport weights, resnet101"),
        ("imagenet_687.h5", "mask_rcnn_coco.h5", "Matterport Mask R-CNN .*; expected backbone weights, resnet50"),
    ],
)
def test_other_weights_are_not_kept(github, find, weight_content, tmp_path, name, sent, what):
    github.assets["v1", name] = weight_content[sent]
    with pytest.raises(ValueError, match=f"{name}: what came from .* is not {name} but {what}.*Nothing of it is kept"):
        find(name)
    assert kept(tmp_path) == [] and read_trusted(name) is None


def test_truncated_file_is_not_kept(github, large, find, tmp_path):
    github.assets["v9", LARGE] = large[:-1000]
    with pytest.raises(ValueError, match="but a damaged or truncated HDF5 file"):
        find()
    assert kept(tmp_path) == []


# ---- trust on first use ------------------------------------------------------------------------------------------


def test_other_file_of_the_same_name_must_be_accepted(github, large, find, tmp_path):
    find().unlink()
    github.assets["v9", LARGE] = other = large + b"\0" * 8
    message = (
        rf"has the sha256 checksum {sha256(other)}, the one trusted since \d{{4}}-\d\d-\d\d is {sha256(large)} "
        rf"\({github.url}{LISTED}\); .*: siamese-mrcnn weights large_.*_0320 --accept {sha256(other)}\. Nothing of it"
    )
    with pytest.raises(ValueError, match=message):
        find()
    assert kept(tmp_path) == []
    accept(LARGE, sha256(other))
    assert find().read_bytes() == other
    assert read_trusted(LARGE).source == github.url + LISTED
    with pytest.raises(ValueError, match="'123': not a sha256 checksum, expected 64 hexadecimal digits"):
        accept(LARGE, "123")


def test_file_that_changes_afterwards_is_refused(github, large, find):
    path = find()
    path.write_bytes(large + b"\0")
    with pytest.raises(ValueError, match=f"{path} has the sha256 .*, the one trusted since .*; or remove it, and"):
        find()
    path.write_bytes(large)
    assert find() == path


def test_file_that_was_put_there_is_verified(github, find, told, tmp_path, weight_content):
    path = tmp_path / "cache" / LARGE
    path.parent.mkdir()
    path.write_bytes(weight_content[SMALL])
    with pytest.raises(ValueError, match=f"{path}: this is not {LARGE} but siamese weights, small"):
        find()
    path.write_bytes(weight_content[LARGE])
    assert find() == path and read_trusted(LARGE).source == "put there by hand"
    assert told == [f"{path}: {read_trusted(LARGE).verified}; sha256 {sha256(weight_content[LARGE])}"]
    assert find() == path and len(told) == 1 and not github.requests


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", f"{FILE}: not the checksums of files"),
        ("{", f"{FILE}: not JSON"),
        (json.dumps({"format": 2}), f"{FILE}: format = 2: written by a newer version"),
        (json.dumps({LARGE: 5}), f"{FILE}: {LARGE}: expected object, got int"),
        (
            json.dumps({LARGE: {"sha256": "0"}}),
            f"{FILE}: {LARGE}: sha256 = '0': expected str matching regex .*correct or remove the entry",
        ),
    ],
)
def test_damaged_record_is_named(github, large, find, tmp_path, content, message):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / FILE).write_text(content)
    with pytest.raises(ValueError, match=message):
        find()


# ---- several processes -------------------------------------------------------------------------------------------


def hold(path, held, release):
    with locked(path, "test"):
        held.set()
        release.wait(30)
        os._exit(1)  # without letting go


def test_other_process_is_waited_for_and_its_lock_dies_with_it(github, large, find, tmp_path, caplog):
    context = multiprocessing.get_context("fork")
    held, release = context.Event(), context.Event()
    path = tmp_path / "cache" / "locks" / f"{LARGE}.lock"
    process = context.Process(target=hold, args=(path, held, release))
    process.start()
    assert held.wait(30)
    caplog.handler.emit = lambda record, emit=caplog.handler.emit: (emit(record), release.set())
    assert find().read_bytes() == large
    process.join()
    (message,) = caplog.messages
    assert message.startswith(f"download of {LARGE}: another process is at it: process {process.pid}, since ")
    assert message.endswith("; waiting for it") and not list(path.parent.iterdir())


def test_what_another_process_has_brought_is_not_downloaded_again(github, large, find, tmp_path, monkeypatch):
    from siamese_mrcnn_tf.weights import fetching

    path, looked = tmp_path / "cache" / LARGE, fetching.find_fetched

    def arrive_meanwhile(known, tell):
        found = looked(known, tell)
        path.parent.mkdir()
        path.write_bytes(large)
        return found

    monkeypatch.setattr("siamese_mrcnn_tf.weights.pretrained.find_fetched", arrive_meanwhile)
    assert find() == path and not github.requests


def test_addresses_of_the_releases():
    entries = {name: entry.release_url(name) for name, entry in KNOWN_FILES.items() if entry.tag}
    assert set(map(os.path.dirname, entries.values())) == {
        f"https://github.com/bethgelab/siamese-mask-rcnn/releases/download/{tag}" for tag in ("v0.1", "v0.2")
    }
    assert entries["imagenet_687.h5"].endswith("v0.1/imagenet_687.h5") and len(entries) == 7
    assert {entry.url for entry in KNOWN_FILES.values() if entry.url} == {
        "https://github.com/matterport/Mask_RCNN/releases/download/v2.0/mask_rcnn_coco.h5",
        "https://github.com/fchollet/deep-learning-models/releases/download/v0.2/"
        "resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5",
        "https://storage.googleapis.com/tensorflow/keras-applications/resnet/"
        "resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5",
    }
