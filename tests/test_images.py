"""Every kind of image becomes RGB of 8 bits."""

import os
import sys

import numpy as np
import pytest
from PIL import Image

from siamese_mrcnn_tf.io import decoding, images, intensity, orientation

RGB = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3) * 10  # [2, 3, RGB]


def save(path, array, mode=None, **options):
    Image.fromarray(array, mode).save(path, **options) if mode else Image.fromarray(array).save(path, **options)
    return path


def with_orientation(path, array, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return save(path, array, exif=exif)


# ---- images --------------------------------------------------------------------------------------------------------


def test_rgb_and_size(tmp_path):
    path = save(tmp_path / "a.png", RGB)
    read = images.read_image(path)
    assert read.dtype == np.uint8 and np.array_equal(read, RGB) and read.flags.writeable
    assert np.array_equal(images.read_image(str(path), size=(2, 3)), RGB)


def test_greyscale_is_repeated(tmp_path):
    read = images.read_image(save(tmp_path / "a.png", RGB[..., 0]))
    assert np.array_equal(read, np.repeat(RGB[..., :1], 3, axis=-1))


@pytest.mark.parametrize("alpha", [0, 128, 255])
def test_alpha_is_dropped(tmp_path, alpha):
    layer = np.full((2, 3, 1), alpha, np.uint8)
    assert np.array_equal(images.read_image(save(tmp_path / "a.png", np.concatenate([RGB, layer], -1))), RGB)
    grey = images.read_image(save(tmp_path / "b.png", np.concatenate([RGB[..., :1], layer], -1)))
    assert np.array_equal(grey, np.repeat(RGB[..., :1], 3, axis=-1))


def test_palette_with_transparency_keeps_its_colours(tmp_path):
    image = Image.fromarray(RGB).quantize(6)
    image.save(tmp_path / "a.png", transparency=0)
    assert Image.open(tmp_path / "a.png").mode == "P"
    assert np.array_equal(images.read_image(tmp_path / "a.png"), np.asarray(image.convert("RGB")))


def test_bilevel(tmp_path):
    bits = np.array([[True, False]])
    assert images.read_image(save(tmp_path / "a.png", bits))[..., 0].tolist() == [[255, 0]]


def test_cmyk(tmp_path):
    Image.new("CMYK", (4, 2), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=95)
    read = images.read_image(tmp_path / "a.jpg")
    assert read.shape == (2, 4, 3) and np.abs(read.astype(int) - (255, 0, 0)).max() < 12


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_without_an_annotated_size(tmp_path, orientation):
    upright = {
        1: RGB,
        2: RGB[:, ::-1],
        3: RGB[::-1, ::-1],
        4: RGB[::-1],
        5: RGB.transpose(1, 0, 2),
        6: RGB[::-1].transpose(1, 0, 2),
        7: RGB[::-1, ::-1].transpose(1, 0, 2),
        8: RGB[:, ::-1].transpose(1, 0, 2),
    }
    path = with_orientation(tmp_path / "a.png", RGB, orientation)
    assert np.array_equal(images.read_image(path), upright[orientation])


def test_orientation_follows_the_annotated_size(tmp_path):
    path = with_orientation(tmp_path / "a.png", RGB, 6)
    assert np.array_equal(images.read_image(path, size=(2, 3)), RGB)
    assert np.array_equal(images.read_image(path, size=(3, 2)), RGB[::-1].transpose(1, 0, 2))
    with pytest.raises(ValueError, match=r"a\.png: the image is 2 x 3 pixels .* annotations say 4 x 4"):
        images.read_image(path, size=(4, 4))
    with pytest.raises(ValueError, match="annotations say 3 x 2"):
        images.read_image(with_orientation(tmp_path / "b.png", RGB, 3), size=(3, 2))


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".gif", ".tif", ".bmp"])
def test_broken_files(tmp_path, suffix):
    rng = np.random.default_rng(0)
    whole = save(tmp_path / f"whole{suffix}", rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)).read_bytes()
    for part in (0, 20, len(whole) // 2):
        path = tmp_path / f"cut{suffix}"
        path.write_bytes(whole[:part])
        with pytest.raises(ValueError, match=rf"cut\{suffix}: "):
            images.read_image(path)


def test_what_is_no_image(tmp_path):
    with pytest.raises(ValueError, match=r"none\.png: no such file"):
        images.read_image(tmp_path / "none.png")
    with pytest.raises(ValueError, match="cannot be read.*directory"):
        images.read_image(tmp_path)
    (tmp_path / "text.png").write_text("hello")
    with pytest.raises(ValueError, match=r"text\.png: not an image"):
        images.read_image(tmp_path / "text.png")
    save(tmp_path / "nan.tif", np.array([[np.nan]], np.float32))
    with pytest.raises(ValueError, match=r"nan\.tif: the image has values that are not finite"):
        images.read_image(tmp_path / "nan.tif")


def test_decompression_bomb(tmp_path, monkeypatch):
    monkeypatch.setenv(decoding.VARIABLE, "1")
    monkeypatch.delenv(decoding.VARIABLE)
    path = save(tmp_path / "a.png", np.zeros((50, 50), np.uint8))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    for read in (images.read_image, decoding.open_image):
        with pytest.raises(ValueError, match=r"a\.png: too large .*--max-pixels"):
            read(path)
    decoding.allow_pixels(2500)
    assert images.read_image(path).shape == (50, 50, 3)
    decoding.allow_pixels(2499)
    with pytest.raises(ValueError, match=r"a\.png: too large .*50 x 50 .*--max-pixels"):
        images.read_image(path)
    monkeypatch.setenv(decoding.VARIABLE, "many")
    with pytest.raises(ValueError, match="MAX_PIXELS = 'many'"):
        images.read_image(path)


@pytest.mark.parametrize("suffix", [".png", ".eps", ".jpg"])
def test_formats_beyond_the_list_are_not_opened(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    Image.new("RGB", (20, 20)).save(path, format="EPS")
    with pytest.raises(ValueError, match=rf"a\{suffix}: not an image that can be read, expected JPEG, "):
        images.read_image(path)
    assert not images.has_camera_tags(path) and intensity.deep_kind(path) is None


def test_a_pipe_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    assert intensity.find_ranges([tmp_path / "pipe.png"]) == {} and not images.has_camera_tags(tmp_path / "pipe.png")
    assert orientation.read_tag(tmp_path / "pipe.png") == orientation.UPRIGHT
    with pytest.raises(ValueError, match=r"pipe\.png: not a regular file"):
        images.read_image(tmp_path / "pipe.png")


def test_heic_is_read_upright_and_without_its_library_it_is_named(tmp_path, monkeypatch):
    pytest.importorskip("pillow_heif")
    assert images.register_heif() and images.can_read(".heic")
    path = tmp_path / "a.heic"
    pixels = np.full((48, 64, 3), (200, 40, 90), np.uint8)
    Image.fromarray(pixels).save(path, quality=95)
    found = images.read_image(path)
    assert found.shape == pixels.shape and np.abs(found.astype(int) - pixels).max() < 12
    for name in ("OPEN", "EXTENSION"):  # Pillow as it is without pillow-heif
        known = {key: value for key, value in getattr(Image, name).items() if "HEIF" not in (key, value)}
        monkeypatch.setattr(Image, name, known)
    monkeypatch.setattr(Image, "ID", [one for one in Image.ID if one != "HEIF"])
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    images.register_heif.cache_clear()
    assert not images.can_read(".heic")
    with pytest.raises(ValueError, match=r"a\.heic: not an image .*HEIC files need pip install .*\[heif\]"):
        images.read_image(path)
    images.register_heif.cache_clear()


def test_avif_is_turned_by_its_tag(tmp_path):
    if not images.can_read(".avif"):
        pytest.skip("Pillow without AVIF")
    pixels = np.zeros((48, 64, 3), np.uint8)
    pixels[:24] = 200
    with_orientation(tmp_path / "a.avif", pixels, 6)
    found = images.read_image(tmp_path / "a.avif")
    assert found.shape == (64, 48, 3) and found[:, 30:].mean() > 190 and found[:, :18].mean() < 10
