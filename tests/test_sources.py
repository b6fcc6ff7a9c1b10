"""What a search reads: files, folders, patterns, videos and webcams, in one order and with unique names."""

import os

import numpy as np
import pytest
from PIL import Image

from siamese_mrcnn_tf.io.errors import InputError
from siamese_mrcnn_tf.search import sources
from siamese_mrcnn_tf.search.names import number_repeated
from siamese_mrcnn_tf.search.sources import find_images, find_sources, image_reader


@pytest.fixture
def images(tmp_path, scene):
    folder = tmp_path / "images"
    folder.mkdir()
    Image.fromarray(scene).save(folder / "a.png")
    Image.fromarray(scene[::-1]).save(folder / "b.jpg", quality=95)
    (folder / "notes.txt").write_text("no image")
    return folder


def paths_of(*given, **options):
    return [source.path for source in find_sources(given, **options).sources]


def names_of(*given):
    return [source.name for source in find_sources(given).sources]


def test_images_by_file_folder_and_pattern(images):
    a, b = images / "a.png", images / "b.jpg"
    assert find_images([a]) == [a]
    assert find_images([images]) == [a, b]
    assert find_images([str(images / "*.png"), images]) == [a, b]
    for source, message in (
        (images / "c.png", "no such file"),
        (images / "*.tif", "no such file, folder or match"),
    ):
        with pytest.raises(ValueError, match=message):
            find_images([a, source])
    (images / "empty" / "below").mkdir(parents=True)
    with pytest.raises(ValueError, match="no image .* in this folder; --recursive looks below it"):
        find_images([images / "empty"])


def test_companions_are_passed_over(images):
    a, b = images / "a.png", images / "b.jpg"
    (images / "__MACOSX").mkdir()
    for name in ("._b.jpg", ".DS_Store", "Thumbs.db", "__MACOSX/._b.jpg", "__MACOSX/b.jpg", ".c.png"):
        (images / name).write_bytes(b"\0\5\x16\7")
    (images / "folder.png").mkdir()
    assert find_images([images]) == [a, b]
    assert find_images([str(images / "*.[pj]*")]) == [a, b]
    assert find_images([str(images / "**" / "*.jpg")]) == [b]
    with pytest.raises(ValueError, match="no such file, folder or match"):
        find_images([str(images / "._*")])
    with pytest.raises(ValueError, match="no image .* in this folder"):
        find_images([images / "__MACOSX"])


def test_folders_below_a_folder(images):
    for name in ("deep/er/c.png", "deep/.hidden/d.png", "deep/__MACOSX/e.png", "deep/f.pdf"):
        (images / name).parent.mkdir(parents=True, exist_ok=True)
        (images / name).write_bytes(b"")
    os.symlink(images, images / "deep" / "loop")
    assert paths_of(images) == [str(images / name) for name in ("a.png", "b.jpg")]
    found = find_sources([images], recursive=True)
    assert [source.path for source in found.sources] == [str(images / x) for x in ("a.png", "b.jpg", "deep/er/c.png")]
    assert found.skipped_text() == "skipped 2 files: .pdf 1, .txt 1"
    assert paths_of(images, recursive=True, out=images / "deep") == paths_of(images)
    assert paths_of(images / "deep" / "er" / "c.png", out=images / "deep") == [str(images / "deep" / "er" / "c.png")]
    assert paths_of(str(images / "d*p"), recursive=True) == [str(images / "deep" / "er" / "c.png")]


def test_what_is_skipped_is_counted(images):
    for name in ("x.pdf", "y.PDF", "README"):
        (images / name).touch()
    os.mkfifo(images / "pipe.png")
    os.symlink(images / "nowhere.png", images / "link.png")
    text = find_sources([images]).skipped_text()
    assert text == "skipped 6 files: .pdf 2, not regular files 2, .txt 1, without a suffix 1"
    assert find_sources([images / "a.png"]).skipped_text() == ""
    with pytest.raises(ValueError, match=r"pipe\.png: not a regular file"):
        find_sources([images / "pipe.png"])


def test_a_folder_that_cannot_be_read_is_counted(images, monkeypatch):
    (images / "locked").mkdir()
    scan = os.scandir

    def refuse(path):
        if os.fspath(path).endswith("locked"):
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    found = find_sources([images], recursive=True)
    assert len(found.sources) == 2 and found.skipped_text() == "skipped 2 files: .txt 1, folders that cannot be read 1"


def test_heic_files_are_read_or_skipped_with_the_extra_that_reads_them(images, monkeypatch):
    (images / "c.HEIC").touch()
    monkeypatch.setattr(sources, "can_read", lambda suffix: True)
    assert names_of(images) == ["a", "b", "c"]
    monkeypatch.setattr(sources, "can_read", lambda suffix: False)
    text = find_sources([images]).skipped_text()
    assert text == 'skipped 2 files: .heic 1, .txt 1 (pip install "siamese-mrcnn-tf[heif]" reads .heic)'


def test_names_are_unique_and_depend_on_the_order_alone(tmp_path):
    for name in ("1/a.png", "2/A.png", "2/a-2.png", "3/a.png", "3/a.b.png", "3/a_b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    folders = [tmp_path / number for number in "123"]
    assert names_of(*folders) == names_of(*folders) == ["a", "A-2", "a-2-2", "a_b", "a-3", "a_b-2"]
    assert number_repeated(["a", "a", "a-2", "a"]) == ["a", "a-2", "a-2-2", "a-3"]


def test_no_image_has_the_name_of_a_frame(tmp_path):
    for name in ("clip-000001.png", "clip.mp4", "clip.png", "x-000001.mov"):
        (tmp_path / name).touch()
    found = find_sources([tmp_path]).sources
    assert [(one.name, one.kind) for one in found] == [
        ("clip-000001-2", "image"),
        ("clip", "video"),
        ("clip-2", "image"),
        ("x-000001-2", "video"),
    ]
    assert found[1].frame_name(12) == "clip-000012"


def test_webcams_come_last_unless_a_file_has_their_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.png").touch()
    found = find_sources(["webcam", "webcam:01", "a.png", "webcam:1"]).sources
    assert [(one.path, one.kind, one.name) for one in found] == [
        ("a.png", "image", "a"),
        ("webcam:0", "webcam", "webcam-0"),
        ("webcam:1", "webcam", "webcam-1"),
    ]
    assert found[2].device == 1
    (tmp_path / "webcam").touch()
    assert find_sources(["webcam"]).sources[0].kind == "image"


def test_tags_of_images_and_references_are_obeyed_or_ignored(tmp_path, scene):
    exif = Image.Exif()
    exif[0x0112] = 3
    path = tmp_path / "a.png"
    Image.fromarray(scene).save(path, exif=exif)
    for rule, expected in (("obey", scene[::-1, ::-1]), ("auto", scene[::-1, ::-1]), ("ignore", scene)):
        np.testing.assert_array_equal(image_reader([path], rule)(path), expected)


def test_a_reference_has_the_range_of_the_images(tmp_path):
    dark, bright = tmp_path / "dark.png", tmp_path / "bright.png"
    Image.fromarray(np.full((40, 40), 800, np.uint16)).save(dark)
    Image.fromarray(np.full((40, 40), 4000, np.uint16)).save(bright)
    read = image_reader([bright, dark])
    assert read(dark)[0, 0, 0] == 50 and read(bright)[0, 0, 0] == 249


@pytest.mark.parametrize("name", ["", " ", "a" * 300, "a/" + "b" * 300])
def test_names_that_are_no_paths(name):
    for find in (find_images, find_sources):
        with pytest.raises(InputError, match="empty text|no such file"):
            find([name])


def test_names_with_bytes_that_are_no_characters(tmp_path):
    broken = os.fsencode(tmp_path) + b"/b\xff.png"
    with open(broken, "wb"):
        pass
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    found = find_sources([tmp_path])
    assert [source.name for source in found.sources] == ["a"] and "no characters 1" in found.skipped_text()
    with pytest.raises(InputError, match="no characters; rename the file"):
        find_sources([os.fsdecode(broken)])
