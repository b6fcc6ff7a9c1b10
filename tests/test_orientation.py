"""Orientation tags of image files: the rules, and the masks that lie on their objects."""

import io
import logging
import pathlib

import coco_tree
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

from siamese_mrcnn_tf.data.dataset import CocoDataset
from siamese_mrcnn_tf.data.reading import ReadingRules
from siamese_mrcnn_tf.io import orientation
from siamese_mrcnn_tf.io.images import read_image

CASES = pathlib.Path(__file__).resolve().parents[2] / "shared" / "cases"
OBLONG, SQUARE = (48, 64), (64, 64)
_STORED = {  # by tag: the stored image of an upright one
    1: lambda image: image,
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.swapaxes(0, 1),
    6: lambda image: image.swapaxes(0, 1)[::-1],
    7: lambda image: image[::-1, ::-1].swapaxes(0, 1),
    8: lambda image: image.swapaxes(0, 1)[:, ::-1],
}


def upright(size):
    """A bright object, nowhere symmetric, on black: uint8 [height, width, RGB]."""
    image = np.zeros((*size, 3), np.uint8)
    image[4:20, 6:36] = 200
    image[20:30, 6:14] = 120
    return image


def save(path, image, tag, **options):
    exif = Image.Exif()
    exif[0x0112] = tag
    Image.fromarray(np.ascontiguousarray(image)).save(path, exif=exif, **options)
    return path


def tree(root, images, suffix=".png", annotated=None):
    """A COCO tree of {tag: upright image}; `annotated` turns an upright image into the one that is annotated."""
    content = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "thing"}]}
    (root / "val2017").mkdir(parents=True)
    for number, (tag, image) in enumerate(images.items(), start=1):
        save(root / "val2017" / f"p{tag}{suffix}", _STORED[tag](image), tag)
        drawn = annotated(image, tag) if annotated else image
        height, width = drawn.shape[:2]
        mask = np.asfortranarray(drawn[..., 0] > 60, np.uint8)
        rle = coco_tree.coco_mask.encode(mask)
        box = coco_tree.coco_mask.toBbox(rle).tolist()
        segmentation = {"size": [height, width], "counts": rle["counts"].decode()}
        entry = {"id": number, "image_id": number, "category_id": 1, "segmentation": segmentation, "iscrowd": 0}
        content["annotations"].append(entry | {"bbox": box, "area": float(mask.sum())})
        content["images"].append({"id": number, "file_name": f"p{tag}{suffix}", "height": height, "width": width})
    coco_tree.write_annotations(root, content)
    return root


def load(root, rule="auto", **options):
    return coco_tree.load(root, "val", rules=ReadingRules(orientation=rule), **options)


def on_object(data):
    """The smallest share of a mask's pixels that are on the object, over the images."""
    shares = []
    for image_id in range(data.num_images):
        mask = data.load_mask(image_id)[0][..., 0]
        shares.append((data.load_image(image_id)[..., 0] > 60)[mask].mean())
    return min(shares)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".webp"])
@pytest.mark.parametrize("size", [OBLONG, SQUARE])
def test_masks_of_upright_images_are_on_their_objects(tmp_path, size, suffix):
    data = load(tree(tmp_path, dict.fromkeys(range(1, 9), upright(size)), suffix))
    assert on_object(data) > 0.97
    if suffix != ".jpg":
        assert on_object(load(tmp_path, "obey")) > 0.97


@pytest.mark.parametrize("size", [OBLONG, SQUARE])
def test_masks_of_stored_images_are_on_their_objects_if_tags_are_ignored(tmp_path, size):
    root = tree(tmp_path, dict.fromkeys(range(1, 9), upright(size)), annotated=lambda image, tag: _STORED[tag](image))
    assert on_object(load(root, "ignore")) > 0.97
    assert on_object(load(root)) < 0.7  # tags that the size does not decide are obeyed


def test_the_annotated_size_decides_where_it_can(tmp_path):
    images = dict.fromkeys(range(5, 9), upright(OBLONG))
    assert on_object(load(tree(tmp_path, images, annotated=lambda image, tag: _STORED[tag](image)))) > 0.97


def test_a_size_that_contradicts_the_rule_is_an_error(tmp_path):
    path = save(tmp_path / "a.png", upright(OBLONG), 6)
    found = r"a\.png: the image is 64 x 48 pixels .* turned by its orientation tag 6, but its annotations say 48 x 64"
    with pytest.raises(ValueError, match=found + "; --orientation ignore or auto reads it so"):
        read_image(path, OBLONG, rule="obey")
    found = r"a\.png: the image is 48 x 64 pixels .* without its orientation tag 6, but its annotations say 64 x 48"
    with pytest.raises(ValueError, match=found + "; --orientation obey or auto reads it so"):
        read_image(path, OBLONG[::-1], rule="ignore")
    for rule in ("auto", "obey", "ignore"):
        with pytest.raises(ValueError, match="48 x 64 pixels .height x width., but its annotations say 50 x 50$"):
            read_image(path, (50, 50), rule=rule)


@pytest.mark.parametrize("tag", range(1, 9))
def test_stored_and_turned_pixels_of_tiff_files(tmp_path, tag):
    """Pillow turns TIFF files itself; those of 16 bits are read without it."""
    image = upright(OBLONG)
    stored = np.ascontiguousarray(_STORED[tag](image))
    for name, values in (("a.tif", stored), ("b.tif", stored.astype(np.uint16) * 257)):
        tifffile.imwrite(tmp_path / name, values, photometric="rgb", extratags=[(274, "H", 1, tag, True)])
        assert orientation.read_tag(tmp_path / name) == tag
        np.testing.assert_array_equal(read_image(tmp_path / name), image)
        np.testing.assert_array_equal(read_image(tmp_path / name, rule="ignore"), stored)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif", ".jp2"])
def test_tags_are_read_from_headers(tmp_path, suffix):
    bare = tmp_path / f"bare{suffix}"
    Image.fromarray(upright(OBLONG)).save(bare)
    assert orientation.read_tag(bare) == 1
    if suffix != ".jp2":
        assert [orientation.read_tag(save(bare, upright(OBLONG), tag)) for tag in range(1, 9)] == list(range(1, 9))
    assert orientation.read_tag(tmp_path / f"gone{suffix}") == 1


def test_a_tag_behind_the_pixels_of_a_png_file(tmp_path):
    content = save(tmp_path / "a.png", upright(OBLONG), 6).read_bytes()
    start = content.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(content[start : start + 4], "big")
    tail = content.index(b"IEND") - 4
    (tmp_path / "b.png").write_bytes(content[:start] + content[end:tail] + content[start:end] + content[tail:])
    assert orientation.read_tag(tmp_path / "b.png") == 6
    np.testing.assert_array_equal(read_image(tmp_path / "b.png"), read_image(tmp_path / "a.png"))


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_tags_that_mean_nothing_are_ignored(tmp_path, value):
    path = save(tmp_path / "a.png", upright(SQUARE), value)
    np.testing.assert_array_equal(read_image(path, rule="obey"), upright(SQUARE))
    assert orientation.read_tag(path) == 1


def test_broken_exif_is_ignored(tmp_path, caplog):
    caplog.set_level(logging.DEBUG, "siamese_mrcnn_tf")
    buffer = io.BytesIO()
    Image.fromarray(upright(SQUARE)).save(buffer, "PNG", exif=b"Exif\0\0MM\0\x2a\xff\xff")
    (tmp_path / "a.png").write_bytes(buffer.getvalue())
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), upright(SQUARE))
    assert orientation.read_tag(tmp_path / "a.png") == 1 and "a.png: EXIF orientation ignored" in caplog.text


@pytest.mark.parametrize("tag", range(1, 9))
def test_turning_is_that_of_pillow(tag):
    image = Image.fromarray(upright(OBLONG))
    tagged = image.copy()
    tagged.getexif()[0x0112] = tag
    np.testing.assert_array_equal(orientation.turn(image, tag), ImageOps.exif_transpose(tagged))


# ---- what is said about them ---------------------------------------------------------------------------------------


def test_undecided_tags_are_counted_and_named(tmp_path, caplog):
    caplog.set_level(logging.WARNING, "siamese_mrcnn_tf")
    tree(tmp_path, {1: upright(SQUARE), 3: upright(OBLONG), 6: upright(SQUARE), 8: upright(OBLONG)})
    data = load(tmp_path)
    words = "val2017: 2 images have an orientation tag that the size does not decide (tag 3: p3.png; tag 6: p6.png); "
    assert caplog.messages == [words + "they are turned by it; --orientation ignore reads them as stored"]
    assert data.undecided_orientations() == ["p3.png: orientation tag 3, obeyed", "p6.png: orientation tag 6, obeyed"]
    caplog.clear()
    assert load(tmp_path, "ignore").undecided_orientations()[1] == "p6.png: orientation tag 6, ignored"
    assert not caplog.messages  # the user has decided
    caplog.set_level(logging.INFO, "siamese_mrcnn_tf")
    load(tmp_path, "ignore")
    assert "they are read as stored (--orientation ignore)" in caplog.text


def test_missing_files_do_not_stop_the_loading(tmp_path):
    tree(tmp_path, {3: upright(SQUARE)})
    (tmp_path / "val2017" / "p3.png").unlink()
    assert load(tmp_path).undecided_orientations() == []


def test_a_large_set_names_the_first_image_as_it_is_read(tmp_path, caplog, monkeypatch):
    tree(tmp_path, {1: upright(SQUARE), 3: upright(SQUARE), 6: upright(SQUARE)})
    monkeypatch.setattr("siamese_mrcnn_tf.data.dataset._HEADERS_READ", 2)
    data = load(tmp_path)
    assert not caplog.messages
    for image_id in (0, 1, 2, 1):
        data.load_image(image_id)
    (message,) = caplog.messages
    assert message.startswith("val2017: p3.png: orientation tag 3, which the size does not decide, is obeyed")
    assert len(data.undecided_orientations()) == 2 and isinstance(data, CocoDataset)


@pytest.mark.skipif(not CASES.is_dir(), reason="no ../shared/cases")
@pytest.mark.parametrize("subset", ["train", "val"])
def test_the_case_of_square_photographs(subset):
    data = coco_tree.load(CASES / "exif3_square", subset)
    assert len(data.undecided_orientations()) == data.num_images
    for image_id in range(data.num_images):
        image = data.load_image(image_id).astype(int)
        background = np.median(image.reshape(-1, 3), axis=0)
        masks = data.load_mask(image_id)[0].any(axis=-1)
        assert (np.abs(image - background).max(axis=-1) > 40)[masks].mean() > 0.98
