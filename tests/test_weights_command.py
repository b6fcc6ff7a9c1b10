"""`siamese-mrcnn weights`: known files are listed, got and shown."""

import hashlib

import pytest

LARGE = "large_siamese_mrcnn_coco_full_0320.h5"


@pytest.fixture
def large(github, weight_content, monkeypatch, tmp_path):
    """Bytes of the large model, an asset of the release v9; the working folder is empty."""
    monkeypatch.chdir(tmp_path)
    github.assets["v9", LARGE] = weight_content[LARGE]
    return weight_content[LARGE]


def test_listing_says_what_is_present(github, large, run, tmp_path):
    code, text, _ = run("weights")
    rows = {line.split()[0]: line for line in text.splitlines() if line}
    assert code == 0 and not github.requests
    assert rows["siamese_mrcnn_shapes_s1.h5"].split()[1:] == ["shapes", "bundled"]
    assert rows[LARGE].split()[1:4] == ["large", "not", "yet,"]
    assert "no, resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5 is used" in rows["imagenet_1k.h5"]
    assert text.endswith(f"downloads are kept in {tmp_path / 'cache'} (SIAMESE_MRCNN_CACHE names another folder)\n")
    run("weights", "large")
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "imagenet_687.h5").write_bytes(b"x")
    text = run("weights")[1]
    assert f"large       in {tmp_path / 'cache'}\n" in text
    assert "imagenet_687.h5                                                   in checkpoints\n" in text


def test_known_file_is_got_and_shown(github, large, run, tmp_path):
    code, text, errors = run("weights", "large")
    sha256, path = hashlib.sha256(large).hexdigest(), tmp_path / "cache" / LARGE
    assert code == 0 and "fits: config large" in text
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert lines[-5:-1] == [
        f"file: {path}",
        f"size: {len(large):,} bytes",
        f"sha256: {sha256}",
        f"source: {github.url}/owner/name/releases/download/v9/{LARGE}",
    ]
    assert lines[-1].startswith("verified: on 2") and " as siamese weights, large configuration" in lines[-1]
    assert ": download from http" in errors and f"sha256 {sha256}, which is remembered" in errors
    assert run("weights", "large") == (0, text, "")


def test_file_in_checkpoints_is_compared_with_what_is_remembered(large, run, tmp_path, weight_content):
    path = tmp_path / "checkpoints" / LARGE
    path.parent.mkdir()
    path.write_bytes(large + b"\0" * 8)
    assert "verified: its weights fit its name: siamese weights, large configuration" in run("weights", "large")[1]
    path.write_bytes(weight_content["imagenet_687.h5"])
    assert f"verified: no: it is not {LARGE} but backbone weights" in run("weights", "large")[1]
    path.unlink()
    run("weights", "large")
    path.write_bytes(large + b"\0" * 8)
    assert f"whose sha256 is {hashlib.sha256(large).hexdigest()}\n" in run("weights", "large")[1]
    path.write_bytes(large)
    assert "verified: on 2" in run("weights", "large")[1]


def test_other_checksum_is_accepted_by_option(github, large, run, tmp_path):
    run("weights", "large")
    (tmp_path / "cache" / LARGE).unlink()
    github.assets["v9", LARGE] = other = large + b"\0" * 8
    sha256 = hashlib.sha256(other).hexdigest()
    code, _, errors = run("weights", "large")
    assert code == 2 and f"accept it: siamese-mrcnn weights {LARGE[:-3]} --accept {sha256}" in errors
    code, text, _ = run("weights", LARGE[:-3], "--accept", sha256)
    assert code == 0 and sha256 in text
    code, _, errors = run("weights", "mine.h5", "--accept", sha256)
    assert code == 2 and f"--accept {sha256}: expected the name of a known file: large_" in errors


def test_bundled_weights(run):
    assert "source:   bundled with the package\n" in run("weights", "shapes")[1]


def test_offline_error_names_page_and_folder(large, run, monkeypatch, tmp_path):
    monkeypatch.setenv("SIAMESE_MRCNN_OFFLINE", "1")
    code, _, errors = run("weights", "large")
    assert code == 2 and "https://github.com/bethgelab/siamese-mask-rcnn/releases" in errors
    assert errors.strip().endswith(f"put it into checkpoints or {tmp_path / 'cache'}")
