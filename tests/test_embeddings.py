"""Saved embeddings: what is in a file, which weights it is for, and files that are refused."""

import io
import os
import zipfile

import numpy as np
import pytest

from siamese_mrcnn_tf.data.embeddings import ReferenceEmbedding

VECTORS = np.arange(2 * 5 * 4, dtype=np.float32).reshape(2, 5, 4)


def npy(dtype, shape):
    """The header of an .npy file without its values."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
    return file.getvalue()


def test_a_file_keeps_everything_and_its_bytes_depend_on_nothing_else(tmp_path):
    embedding = ReferenceEmbedding(VECTORS, VECTORS + 1, 8, "gear", "ab" * 32, 0.25)
    for name in ("a.npz", "b.npz"):
        embedding.save(tmp_path / name)
    loaded = ReferenceEmbedding.load(tmp_path / "a.npz")
    np.testing.assert_array_equal(loaded.vectors, VECTORS)
    np.testing.assert_array_equal(loaded.views, VECTORS + 1)
    assert (loaded.num_views, loaded.name, loaded.weights_sha256, loaded.threshold) == (8, "gear", "ab" * 32, 0.25)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_files_of_older_versions_are_read(tmp_path):
    np.savez(tmp_path / "old.npz", vectors=VECTORS)
    loaded = ReferenceEmbedding.load(tmp_path / "old.npz")
    assert loaded.views is loaded.num_views is loaded.name is loaded.weights_sha256 is loaded.threshold is None
    loaded.require_weights("cd" * 32, "old.npz")


def test_joined_embeddings_keep_what_is_known():
    parts = [ReferenceEmbedding(VECTORS), ReferenceEmbedding(VECTORS, name="gear", threshold=0.5)]
    joined = ReferenceEmbedding.join(parts)
    assert len(joined.vectors) == 4 and (joined.name, joined.threshold, joined.num_views) == ("gear", 0.5, 1)


def test_other_weights_are_refused_by_both_fingerprints():
    embedding = ReferenceEmbedding(VECTORS, weights_sha256="ab" * 32)
    embedding.require_weights("ab" * 32, "gear.npz")
    with pytest.raises(ValueError, match=r"gear\.npz: .* SHA-256 abababababab\.\.\., .* in use are cdcdcdcdcdcd\.\.\."):
        embedding.require_weights("cd" * 32, "gear.npz")
    with pytest.raises(ValueError, match="in use are untrained"):
        embedding.require_weights(None, "gear.npz")


@pytest.mark.parametrize(
    "name, dtype, shape",
    [
        ("vectors", "<f4", (1, 5, 2**40)),
        ("views", "<f8", (2**20, 5, 256)),
        ("name", "<U500000000", ()),
    ],
)
def test_declared_sizes_are_bounded_before_anything_is_read(tmp_path, name, dtype, shape):
    path = tmp_path / "large.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}.npy", npy(dtype, shape))
    with pytest.raises(ValueError, match=rf"large\.npz: .*\({name}: .* larger than"):
        ReferenceEmbedding.load(path)


def test_a_member_that_hides_behind_another_name_is_not_read(tmp_path):
    path = tmp_path / "hidden.npz"
    ReferenceEmbedding(VECTORS).save(path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("vectors", npy("<f4", (1, 5, 2**40)))
    np.testing.assert_array_equal(ReferenceEmbedding.load(path).vectors, VECTORS)


def test_a_file_that_cannot_be_read_is_not_called_damaged(tmp_path):
    os.mkfifo(tmp_path / "pipe.npz")
    for name, reason in (("gone.npz", "no such file"), ("pipe.npz", "not a regular file"), ("", "Is a directory")):
        with pytest.raises(ValueError, match=rf"not a saved reference embedding \(.*{reason}") as raised:
            ReferenceEmbedding.load(tmp_path / name)
        assert "damaged" not in str(raised.value)


def test_values_of_the_wrong_kind_are_refused(tmp_path):
    views = VECTORS * np.nan
    counts = [("num_views", value) for value in (np.arange(3), -3, 0, 1e308)]
    for name, value in (("threshold", 7.0), ("threshold", "high"), ("views", views), *counts):
        np.savez(tmp_path / "wrong.npz", vectors=VECTORS, **{name: value})
        with pytest.raises(ValueError, match=r"wrong\.npz: not a saved reference embedding"):
            ReferenceEmbedding.load(tmp_path / "wrong.npz")


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.npz")
    with pytest.raises(ValueError, match=r"pipe\.npz: not a .*regular file"):
        ReferenceEmbedding.load(tmp_path / "pipe.npz")


@pytest.mark.parametrize(
    "header",
    [
        b"\x93NUMPY\x02\x00\x00\x00\x00\x7f" + bytes(2**26 + 2**17),  # declares a header of 2 GB
        b"\x93NUMPY\x01\x00\x05\x00{'''\n",
        b"\x93NUMPY\x01\x00\x10\x00" + b"(" * 16,
        b"\x93NUMPY\x09\x00\x05\x00{}{}{",
        b"",
    ],
    ids=["long", "token", "nested", "version", "empty"],
)
def test_broken_members_are_refused(tmp_path, header):
    path = tmp_path / "broken.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("vectors.npy", header)
    with pytest.raises(ValueError, match=r"broken\.npz: not a saved reference embedding"):
        ReferenceEmbedding.load(path)
