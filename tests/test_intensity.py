"""Images of more than 8 bits: read without loss, and scaled by the range of their set."""

import io
import pathlib
import pickle
import threading

import coco_tree
import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from siamese_mrcnn_tf.data.dataset import Dataset
from siamese_mrcnn_tf.io import intensity
from siamese_mrcnn_tf.io.images import read_image

CASES = pathlib.Path(__file__).resolve().parents[2] / "shared" / "cases"
GREY = np.random.default_rng(0).integers(0, 256, (20, 30), dtype=np.uint8)
GREY[0, :2] = 0, 255
RGB = np.stack([GREY, GREY[::-1], GREY[:, ::-1]], -1)


def write(path, values):
    """Write [height, width] or [height, width, RGB] as PNG or TIFF."""
    if path.suffix == ".png":
        assert cv2.imwrite(str(path), values[..., ::-1] if values.ndim == 3 else values)
    else:
        tifffile.imwrite(path, values, photometric="rgb" if values.ndim == 3 else "minisblack")
    return path


def deep(image, bits):
    """An 8-bit image at `bits` bits in 16."""
    return np.rint(image / 255 * (2**bits - 1)).astype(np.uint16)


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("image", [GREY, RGB], ids=["grey", "rgb"])
def test_bits_in_files_of_16(tmp_path, image, suffix, bits):
    path = write(tmp_path / f"a{suffix}", deep(image, bits))
    np.testing.assert_array_equal(read_image(path), np.broadcast_to(image.T, (3, *image.T.shape[-2:])).T)
    assert intensity.find_ranges([path])["uint16"].maximum == 2**bits - 1
    dark = deep(image, bits) // 4
    ranges = intensity.find_ranges([path, write(tmp_path / f"b{suffix}", dark)])
    read = read_image(tmp_path / f"b{suffix}", ranges=ranges).astype(int)
    assert np.abs(read - read_image(path, ranges=ranges) / 4).max() <= 1.2  # as dark as it is


@pytest.mark.parametrize(
    ("values", "expected", "words"),
    [
        (np.array([[0, 5, 70000]], np.int32), [0, 0, 136], "17 bits, 0..131071"),
        (np.array([[0, 2**31, 2**32 - 1]], np.uint32), [0, 128, 255], "32 bits"),
        (np.array([[-1024, 0, 3071]], np.int16), [0, 64, 255], "negative values, from minimum to maximum, -1024..3071"),
        (np.array([[0.0, 0.5, 1.0]], np.float32), [0, 128, 255], "floats up to 1, 0..1"),
        (np.array([[0.0, 0.1, 0.25]], np.float64), [0, 26, 64], "floats up to 1, 0..1"),
        (np.array([[-1.0, 0.0, 1.0]], np.float32), [0, 128, 255], "negative values, from minimum to maximum, -1..1"),
        (np.array([[0.0, 2000.0, 4000.0]], np.float32), [0, 125, 249], "12 bits, 0..4095"),
        (np.array([[0.0, 40.5, 200.0]], np.float32), [0, 40, 200], "8 bits, 0..255"),
        (np.array([[0.0, 1e12, 2e12]], np.float64), [0, 128, 255], "more than 32 bits, up to the maximum, 0..2e"),
        (np.array([[0.0, 0.5, 1.0]], np.float16), [0, 128, 255], "floats up to 1, 0..1"),
    ],
)
def test_other_types(tmp_path, caplog, values, expected, words):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, values)
    ranges = intensity.find_ranges([path])
    for given in (ranges, lambda: ranges, None):
        assert read_image(path, ranges=given)[0, :, 1].tolist() == expected
    assert words in caplog.text and "is scaled to 0..255" in caplog.text
    tifffile.imwrite(path, np.repeat(values[..., None], 3, -1), photometric="rgb")
    assert read_image(path)[0].tolist() == [[value] * 3 for value in expected]


def test_a_constant_image_below_zero(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.full((2, 2), -3, np.int16))
    assert not read_image(tmp_path / "a.tif").any()


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_compressed_tiff_files_of_one_channel(tmp_path, compression):
    Image.fromarray(deep(GREY, 12)).save(tmp_path / "a.tif", compression=compression)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif")[..., 2], GREY)


@pytest.mark.parametrize("compression", [cv2.IMWRITE_TIFF_COMPRESSION_LZW, cv2.IMWRITE_TIFF_COMPRESSION_DEFLATE])
def test_compressed_tiff_files_of_three_channels(tmp_path, compression):
    values = deep(RGB, 16)[..., ::-1]
    assert cv2.imwrite(str(tmp_path / "a.tif"), values, [cv2.IMWRITE_TIFF_COMPRESSION, compression])
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), RGB)


def test_channels_in_planes_pages_and_white_first(tmp_path):
    values = deep(RGB, 12)
    tifffile.imwrite(tmp_path / "a.tif", np.moveaxis(values, -1, 0), photometric="rgb", planarconfig="separate")
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), RGB)
    tifffile.imwrite(tmp_path / "b.tif", np.stack([deep(GREY, 12), 0 * deep(GREY, 12)]), photometric="minisblack")
    np.testing.assert_array_equal(read_image(tmp_path / "b.tif")[..., 0], GREY)
    tifffile.imwrite(tmp_path / "c.tif", 4095 - deep(GREY, 12), photometric="miniswhite")
    np.testing.assert_array_equal(read_image(tmp_path / "c.tif")[..., 0], GREY)


@pytest.mark.parametrize("alpha", [0, 65535])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_alpha_neither_shows_nor_counts(tmp_path, suffix, alpha):
    values = np.concatenate([deep(RGB, 12), np.full((*GREY.shape, 1), alpha, np.uint16)], -1)
    path = tmp_path / f"a{suffix}"
    if suffix == ".png":
        assert cv2.imwrite(str(path), values[..., [2, 1, 0, 3]])
    else:
        tifffile.imwrite(path, values, photometric="rgb", extrasamples=["unassalpha"])
    np.testing.assert_array_equal(read_image(path), RGB)


def test_sixteen_bit_channels_keep_their_low_bytes(tmp_path):
    values = deep(RGB, 16) // 256 + np.uint16(7)  # of which Pillow keeps nothing
    for name in ("a.png", "a.tif"):
        np.testing.assert_array_equal(intensity.read_values(write(tmp_path / name, values)), values)


@pytest.mark.parametrize("tag", [3, 6])
def test_orientation_of_deep_images(tmp_path, tag):
    exif = Image.Exif()
    exif[0x0112] = tag
    Image.fromarray(deep(GREY, 12)).save(tmp_path / "a.png", exif=exif)
    turned = GREY[::-1, ::-1] if tag == 3 else GREY[::-1].T
    np.testing.assert_array_equal(read_image(tmp_path / "a.png")[..., 0], turned)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png", rule="ignore")[..., 0], GREY)


@pytest.mark.parametrize("name", ["a.png", "b.png", "a.tif", "b.tif"])
def test_broken_deep_files_are_named(tmp_path, name):
    path = write(tmp_path / name, deep(RGB if name[0] == "a" else GREY, 16))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=rf"{name}: .*(cannot be read|not an image)"):
        read_image(path)
    assert intensity.find_ranges([path, tmp_path / "gone.png"]) == {}


@pytest.mark.parametrize(("photometric", "channels"), [("minisblack", 2), ("minisblack", 5), ("rgb", 5)])
def test_channels_that_are_no_colours(tmp_path, photometric, channels):
    values = np.zeros((20, 30, channels), np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric=photometric, planarconfig="contig")
    with pytest.raises(ValueError, match=rf"a\.tif: .*it has {channels} channels, expected grey or RGB"):
        read_image(tmp_path / "a.tif")


def test_a_large_deep_file_is_refused(tmp_path, monkeypatch):
    path = write(tmp_path / "a.tif", deep(RGB, 16))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ValueError, match=r"a\.tif: .*too large to be read safely"):
        read_image(path)


# ---- sets ------------------------------------------------------------------------------------------------------------


def test_what_the_log_says_of_a_mixed_set(tmp_path, caplog):
    paths = [tmp_path / name for name in ("g8.png", "g12.png", "g16.png", "f.tif")]
    for path, values in zip(paths, (GREY, deep(GREY, 12), deep(GREY, 16), GREY / np.float32(255)), strict=True):
        write(path, values)
    ranges = intensity.find_ranges(paths)
    assert {kind: span.maximum for kind, span in ranges.items()} == {"uint16": 65535, "float32": 1}
    assert caplog.messages[:2] == [
        "images of 32-bit float files (1): floats up to 1, 0..1 is scaled to 0..255",
        "images of 16-bit files (2): 16 bits, 0..65535 is scaled to 0..255",
    ]
    assert "1 of them would have a smaller range alone (g12.png: 12 bits)" in caplog.messages[2]
    assert caplog.messages[3].endswith("32-bit float files (1), 16-bit files (2), 8-bit files (1)")
    caplog.clear()
    assert intensity.find_ranges(paths[:1]) == {} and not caplog.messages


def deep_tree(root, name="000000000010.png"):
    """A COCO tree whose first image has 12 bits, the second a quarter of them, the others 8."""
    content = coco_tree.write_tree(root)
    folder = root / "val2017"
    bright = np.asarray(Image.open(folder / name))
    write(folder / name, deep(bright, 12))
    write(folder / "000000000020.png", deep(np.full_like(bright, 51), 12) // 4)
    return content, bright


def test_the_images_of_a_set_share_a_range(tmp_path):
    _, bright = deep_tree(tmp_path)
    data = coco_tree.load(tmp_path, "val")
    assert data._ranges is None  # found when an image needs it
    data.load_image(3)
    assert data._ranges is None
    assert data.load_image(1).mean() == 13
    np.testing.assert_array_equal(data.load_image(0), bright)
    part = coco_tree.load(tmp_path, "val", image_ids=[20])
    assert part.load_image(0).mean() == 13  # images that are left out count, too


def test_worker_processes_scale_by_the_same_range(tmp_path, monkeypatch):
    deep_tree(tmp_path)
    data = coco_tree.load(tmp_path, "val", image_ids=[20])
    copy = pickle.loads(pickle.dumps(data))
    monkeypatch.setattr(intensity, "find_ranges", None)  # not called again
    assert copy._ranges == data._ranges and copy.load_image(0).mean() == 13


def test_a_set_of_eight_bits_has_its_ranges_looked_for_nowhere(tmp_path, monkeypatch):
    coco_tree.write_tree(tmp_path)
    monkeypatch.setattr(intensity, "find_ranges", None)
    data = pickle.loads(pickle.dumps(coco_tree.load(tmp_path, "val")))
    assert data.load_image(0).shape == (96, 128, 3) and data._ranges is None


def test_threads_find_the_ranges_once(tmp_path, monkeypatch):
    deep_tree(tmp_path)
    data, calls, find = coco_tree.load(tmp_path, "val"), [], intensity.find_ranges
    monkeypatch.setattr(intensity, "find_ranges", lambda paths: calls.append(1) or find(paths))
    threads = [threading.Thread(target=data.load_image, args=(image_id % 2,)) for image_id in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert calls == [1]


def test_a_data_set_in_matterports_way(tmp_path):
    data = Dataset()
    for number, bits in enumerate((12, 10)):
        data.add_image("mine", number, write(tmp_path / f"{number}.png", deep(GREY, bits)))
    data.prepare()
    np.testing.assert_array_equal(data.load_image(0)[..., 0], GREY)
    assert data.load_image(1).max() == 64


def test_formats_without_more_than_eight_bits_are_told_by_name(tmp_path):
    assert not any(map(intensity.may_be_deep, ("a.JPG", "b.jpeg", "c.gif", "d.bmp", "e.webp")))
    assert all(map(intensity.may_be_deep, ("a.png", "b.TIF", "c.tiff", "d.pgm", "e")))
    buffer = io.BytesIO()
    Image.fromarray(GREY).save(buffer, "JPEG")
    (tmp_path / "a.png").write_bytes(buffer.getvalue())  # a wrong name
    assert intensity.deep_kind(tmp_path / "a.png") is None and read_image(tmp_path / "a.png").shape == (20, 30, 3)


def test_portable_grey_maps(tmp_path):
    (tmp_path / "a.pgm").write_bytes(b"P5 3 1 65535\n" + np.array([0, 25700, 65535], ">u2").tobytes())
    assert read_image(tmp_path / "a.pgm")[0, :, 0].tolist() == [0, 100, 255]


@pytest.mark.skipif(not CASES.is_dir(), reason="no ../shared/cases")
@pytest.mark.parametrize("name", ["g12.png", "g16.png"])
def test_the_case_of_one_scene_at_several_bits(name):
    plain, read = (read_image(CASES / "images" / one).astype(int) for one in ("g8.png", name))
    assert np.abs(read - plain).max() <= 1
