"""Files are written whole or not at all, and named in errors."""

import gc
import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest

from siamese_mrcnn_tf.io import files, json_text
from siamese_mrcnn_tf.io.errors import InputError


def test_atomic_path_renames_on_success(tmp_path):
    target = tmp_path / "new" / "deep" / "model.weights.h5"
    with files.atomic_path(target) as temporary:
        assert temporary.parent == target.parent and temporary.name.endswith("model.weights.h5")
        assert temporary != target
        temporary.write_bytes(b"abc")
        assert not target.exists()
    assert target.read_bytes() == b"abc"
    assert os.listdir(target.parent) == ["model.weights.h5"]


def test_atomic_path_keeps_the_old_file_on_failure(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(KeyboardInterrupt):
        with files.atomic_path(target) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt
    assert target.read_text() == "old" and os.listdir(tmp_path) == ["a.txt"]


def test_atomic_path_refuses_folders_and_bodies_that_write_nothing(tmp_path):
    with pytest.raises(ValueError, match="is a folder"), files.atomic_path(tmp_path):
        pass
    with pytest.raises(RuntimeError, match="nothing was written"), files.atomic_path(tmp_path / "a"):
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="file: the folder cannot be made"), files.atomic_path(tmp_path / "file" / "a"):
        pass


def test_json_round_trip_with_numpy(tmp_path):
    value = {"a": np.float32(0.5), "b": np.arange(3), "c": tmp_path, "d": [np.int64(7), None, "ü"]}
    files.write_json(tmp_path / "a.json", value)
    assert files.read_json(tmp_path / "a.json") == {"a": 0.5, "b": [0, 1, 2], "c": str(tmp_path), "d": [7, None, "ü"]}


@pytest.mark.parametrize("value", [float("nan"), object(), {"a": np.array([np.inf])}])
def test_write_json_refuses_what_json_does_not_know(tmp_path, value):
    with pytest.raises(ValueError, match="a.json: cannot be written as JSON"):
        files.write_json(tmp_path / "a.json", value)
    assert not os.listdir(tmp_path)


def test_read_json_names_the_file_and_the_line(tmp_path):
    path = tmp_path / "a.json"
    with pytest.raises(ValueError, match=r"a\.json: cannot be read \(No such file"):
        files.read_json(path)
    path.write_text('{"a": 1,\n "b": ]}')
    with pytest.raises(ValueError, match=r"a\.json: not JSON at line 2, column 7"):
        files.read_json(path)
    path.write_bytes(b'{"a": "\xff"}')
    with pytest.raises(ValueError, match=r"a\.json: not UTF-8 text at byte 7"):
        files.read_json(path)
    path.write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"a\.json: JSON nested too deeply"):
        files.read_json(path)


def test_read_json_takes_a_byte_order_mark(tmp_path):
    (tmp_path / "a.json").write_bytes(b"\xef\xbb\xbf" + json.dumps([1]).encode())
    assert files.read_json(tmp_path / "a.json") == [1]


def test_inside_joins(tmp_path):
    (tmp_path / "sub").mkdir()
    assert files.inside(tmp_path, "a.jpg") == tmp_path / "a.jpg"
    assert files.inside(str(tmp_path), "sub/a.jpg") == tmp_path / "sub" / "a.jpg"
    assert files.inside(tmp_path, "sub/../a.jpg").resolve() == tmp_path.resolve() / "a.jpg"


@pytest.mark.parametrize("name", ["../a.jpg", "sub/../../a.jpg", "/etc/passwd", "away/a.jpg"])
def test_inside_refuses_what_leads_out(tmp_path, name):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "away").symlink_to(tmp_path)
    with pytest.raises(ValueError, match=f"'{name}' leads out of the folder .*folder"):
        files.inside(folder, name)


@pytest.mark.parametrize("name", ["", ".", "..", "sub/..", "a\0b"])
def test_inside_refuses_what_is_no_file_name(tmp_path, name):
    with pytest.raises(ValueError, match="is not the name of a file in the folder"):
        files.inside(tmp_path, name)


def test_inside_allows_linked_files_and_linked_folders(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "elsewhere.jpg").write_text("")
    (tmp_path / "real" / "a.jpg").symlink_to(tmp_path / "elsewhere.jpg")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert files.inside(tmp_path / "link", "a.jpg").exists()


def test_checksum_follows_the_file(tmp_path):
    path = tmp_path / "weights.h5"
    for content in (b"one", b"other", b"one"):
        path.write_bytes(content)
        assert files.checksum(path) == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize(
    "name", ["._IMG_1.jpg", ".DS_Store", "Thumbs.db", "thumbs.DB", "desktop.ini", "a/__MACOSX/IMG_1.jpg", ".hidden.png"]
)
def test_companions_of_images(name):
    assert files.is_companion(name) and files.is_companion(Path("folder") / name)


@pytest.mark.parametrize("name", ["IMG_1.jpg", "a/_IMG.jpg", ".folder/IMG_1.jpg", "../IMG_1.jpg", "thumbs.png"])
def test_images_are_no_companions(name):
    assert not files.is_companion(name)


def test_read_json_takes_what_the_standard_library_takes(tmp_path):
    path = tmp_path / "numbers.json"
    path.write_text('{"a": [NaN, Infinity], "b": "\\ud83d\\ude00 \\\\ud800", "c": 1e400, "d": %s}' % 10**300)
    content = files.read_json(path)
    assert np.isnan(content["a"][0]) and content["a"][1] == content["c"] == float("inf")
    assert content["b"] == "\N{GRINNING FACE} \\ud800" and content["d"] == 1e300


def test_json_with_escapes_is_read():
    text = '{"a": NaN, "b": "\\u00e9\\n\\ud83d\\ude00\\\\ud800"}'  # the standard library reads it, for its NaN
    assert json_text.parse_json(text)["b"] == "\u00e9\n\U0001f600\\ud800"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"a": 1' + "0" * 400 + "}", "line 1, a: the number 1000.* of 401 digits is too large"),
        ('{"a": [{"b": 1}, {"c": [[2, 1' + "0" * 400 + "]]}]}", "line 1, a.c: the number 1000"),
        ('{"a": "' + '\\"' * 50_000 + '", "b": 1' + "0" * 400 + "}", "line 1, b: the number 1000"),
        ('{"a": 1, "\\ud800": 2}', r"line 1: \\ud800 is no character"),  # in a key
        ("1" * 5000, "5000 digits is too large"),
        ('{\n"a": "\\ud800 b"}', r"line 2, a: \\ud800 is no character"),
        ('"\\udc00\\ud800"', "is no character"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
    ],
)
def test_json_with_what_no_reader_can_use(tmp_path, text, reason):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(InputError, match=rf"a\.json: .*{reason}"):
        files.read_json(tmp_path / "a.json")


def test_only_regular_files_are_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path / "link", "/dev/zero"):
        for read in (files.read_json, files.read_text, files.open_regular, files.checksum):
            with pytest.raises(InputError, match=r"not a regular file .*, expected a file"):
                read(path)
    with pytest.raises(InputError, match="no path of a file"):
        files.read_text(str(tmp_path / "a\0b"))
    (tmp_path / "text").write_text("x")
    (tmp_path / "good").symlink_to(tmp_path / "text")
    assert files.read_text(tmp_path / "good") == "x"


@pytest.mark.parametrize("name", ["loop", "loop/a", "dangling", "dangling/a", "file", "file/a", "n" * 256])
def test_folders_that_cannot_be_made_are_refused(tmp_path, name):
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "dangling").symlink_to("nothing")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write there"):
        files.writable_folder(tmp_path / name)


def test_files_that_cannot_be_written_are_refused(tmp_path):
    files.writable_file(tmp_path / ("n" * 240))
    with pytest.raises(InputError, match="cannot write there .*too long"):
        files.writable_file(tmp_path / ("n" * 250))  # the temporary name is longer
    with pytest.raises(InputError, match="too long"), files.atomic_path(tmp_path / ("n" * 256)) as temporary:
        temporary.touch()


def test_the_collector_is_paused_and_enabled_again():
    with pytest.raises(ValueError, match="inside"), files.collector_paused():
        assert not gc.isenabled()
        raise ValueError("inside")
    assert gc.isenabled()
    gc.disable()
    try:
        with files.collector_paused():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


# ---- folders -----------------------------------------------------------------------------------------------------
def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    out = tmp_path / "above" / "out"
    with pytest.raises(RuntimeError), files.atomic_folder(out) as folder:
        (folder / "a.txt").write_text("a")
        raise RuntimeError
    assert list(out.parent.iterdir()) == []
    with files.atomic_folder(out) as folder:
        (folder / "a.txt").write_text("a")
        assert not out.exists()
    assert (out / "a.txt").read_text() == "a"
    assert list(out.parent.iterdir()) == [out]


def test_a_folder_in_use_is_replaced_only_if_asked_for(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    with files.atomic_folder(out):
        pass  # an empty folder is replaced
    (out / "old.txt").write_text("old")
    with pytest.raises(ValueError, match="out: is in use"), files.atomic_folder(out):
        pass
    with pytest.raises(RuntimeError), files.atomic_folder(out, replace=True):
        raise RuntimeError
    assert (out / "old.txt").read_text() == "old"
    with files.atomic_folder(out, replace=True) as folder:
        (folder / "new.txt").write_text("new")
    assert [path.name for path in out.iterdir()] == ["new.txt"]
    assert list(tmp_path.iterdir()) == [out]
