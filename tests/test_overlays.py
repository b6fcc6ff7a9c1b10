"""Overlays of searches: colors, labels, texts, the margin, and that nothing of the image is hidden without need."""

import itertools
import logging

import numpy as np
import pytest
from PIL import Image
from skimage.color import deltaE_ciede2000, rgb2lab

from siamese_mrcnn_tf.search.results import Finds
from siamese_mrcnn_tf.visualize import lettering
from siamese_mrcnn_tf.visualize.lettering import fitting_text, font_for, place_plates, shown_text
from siamese_mrcnn_tf.visualize.margin import add_margin
from siamese_mrcnn_tf.visualize.overlays import Legend, draw_finds, overlay_scale
from siamese_mrcnn_tf.visualize.palette import category_colors, contrasting_colors, ink_on, tint_on

NONE = Finds(np.zeros((0, 4), np.int32), np.zeros(0, np.float32), np.zeros((96, 128, 0), bool))


def disc_finds(centers, radius=12, shape=(96, 128), masks=True):
    """Finds of discs with centers [(y, x)], scores descending from 0.99."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    discs = [(rows - y) ** 2 + (columns - x) ** 2 <= radius**2 for y, x in centers]
    boxes = [(y - radius, x - radius, y + radius + 1, x + radius + 1) for y, x in centers]
    scores = 0.99 - 0.01 * np.arange(len(centers))
    return Finds(
        np.array(boxes, np.int32).reshape(-1, 4),
        scores.astype(np.float32),
        (np.stack(discs, axis=-1) if discs else np.zeros((*shape, 0), bool)) if masks else None,
    )


def legends(*names, crops=()):
    colors = category_colors([crops] * len(names))
    return [Legend(name, color, 0.8, crops) for name, color in zip(names, colors, strict=True)]


def grey(height=96, width=128, level=128):
    return np.full((height, width, 3), level, np.uint8)


def distance(first, second):
    return float(deltaE_ciede2000(*(rgb2lab(np.array([[color]], float))[0, 0] for color in (first, second))))


# ---- colors ------------------------------------------------------------------------------------------------------
def test_colors_are_distinct_and_stable():
    colors = category_colors([()] * 12)
    assert colors == category_colors([()] * 12) and colors[:5] == category_colors([()] * 5)
    assert min(distance(*pair) for pair in itertools.combinations(colors, 2)) > 20


def test_more_categories_than_colors_repeat_them():
    colors = category_colors([()] * 700)
    assert len(colors) == 700 and 400 < len(set(colors)) < 700


@pytest.mark.parametrize("color", [(1, 0, 0), (0, 0.4, 1), (0.2, 0.8, 0.1), (1, 0.6, 0)])
def test_a_category_does_not_have_the_color_of_its_reference(color):
    crop = np.full((20, 20, 3), np.multiply(color, 255), np.uint8)
    assert distance(category_colors([[crop]])[0], color) > 40


def test_contrasting_colors_are_far_from_objects_what_is_around_them_and_each_other():
    around = (0.9, 0.2, 0.9)
    image, masks = grey(20, 30), np.zeros((20, 30, 4), bool)
    image[:] = np.multiply(around, 255)
    covered = [(1, 0, 0), (0, 0.4, 1), (0.2, 0.8, 0.1)]  # the last mask is empty
    for index, color in enumerate(covered):
        for part in (slice(2), slice(18, 20)):  # thin, with much of the background in their boxes
            masks[part, 10 * index : 10 * index + 10, index] = True
            image[part, 10 * index : 10 * index + 10] = np.multiply(color, 255)
    colors = contrasting_colors(image, masks)
    assert len(colors) == 4 and min(distance(*pair) for pair in itertools.combinations(colors, 2)) > 20
    assert min(distance(*pair) for pair in zip(colors, covered, strict=False)) > 40
    assert min(distance(color, around) for color in colors[:3]) > 15
    with pytest.raises(ValueError, match=r"masks: expected shape \(20, 30, 4\), got \(20, 20, 4\)"):
        contrasting_colors(image, masks[:, :20])


def test_ink_has_contrast():
    assert ink_on((1, 1, 0)) == (0, 0, 0) and ink_on((0, 0, 0.6)) == (1, 1, 1)


def test_a_tint_stands_off_what_is_below():
    color = category_colors([()])[0]
    same = np.tile(np.multiply(color, 255).astype(np.uint8), (50, 1))
    assert distance(tint_on(color, same), color) > 10
    assert tint_on(color, 255 - same) == color and tint_on(color, same[:0]) == color


# ---- texts -------------------------------------------------------------------------------------------------------
def test_texts_are_one_line_of_visible_characters():
    assert shown_text(" a\tb\nc\u202e\u200b d ") == "a b c d"
    assert shown_text("$x_1^2$ 50% 自行车") == "$x_1^2$ 50% 自行车"


def test_long_texts_end_in_an_ellipsis():
    font = font_for("abc", 14)
    short = fitting_text("a very long name of a category", font, 100)
    assert short.endswith("…") and font.getlength(short) <= 100 < font.getlength(short[:-1] + "xx…")
    assert fitting_text("short", font, 100) == "short"


def test_characters_that_the_usual_font_lacks(caplog):
    usual, bold = font_for("ring", 14), font_for("ring", 14, bold=True)
    assert (usual.getname()[0], bold.getname()[1]) == ("DejaVu Sans", "Bold")
    letter = "\N{SCRIPT SMALL G}"  # STIX, which comes with matplotlib, has it
    assert ord(letter) not in lettering._characters(usual.path)
    assert ord(letter) in lettering._characters(font_for(letter, 14).path)
    lettering._warn_once.cache_clear()
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert font_for("a\U000f1234", 14).path == usual.path  # no font has one for private use
    assert len(caplog.records) == 1 and "no installed font has the characters \U000f1234" in caplog.text


# ---- labels ------------------------------------------------------------------------------------------------------
def rectangles(places, sizes):
    return [(x, y, x + size[0], y + size[1]) for (x, y), size in zip(places, sizes, strict=True)]


def overlap(first, second):
    return max(first[0], second[0]) < min(first[2], second[2]) and max(first[1], second[1]) < min(first[3], second[3])


@pytest.mark.parametrize("count", [1, 12, 60])
def test_labels_do_not_overlap(count):
    rng = np.random.default_rng(count)
    low = rng.integers(0, 230, (count, 2))
    boxes, sizes = np.hstack([low, low + rng.integers(5, 60, (count, 2))]), [(50, 12)] * count
    places = [place for place in place_plates(sizes, boxes, (320, 300), gap=1) if place is not None]
    assert len(places) >= 0.85 * count
    found = rectangles(places, sizes[: len(places)])
    assert not any(overlap(*pair) for pair in itertools.combinations(found, 2))
    assert all(x1 >= 0 and y1 >= 0 and x2 <= 320 and y2 <= 300 for x1, y1, x2, y2 in found)


def test_labels_without_room():
    boxes = np.array([[0, 0, 20, 20]] * 9)
    places = place_plates([(30, 10)] * 8 + [(99, 10)], boxes, (64, 32), gap=1)
    assert 4 <= sum(place is not None for place in places) < 8 and places[-1] is None


def test_a_label_is_not_far_from_its_box():
    boxes = np.array([[0, 0, 9, 9]] * 60)
    places = place_plates([(20, 8)] * 60, boxes, (400, 400), gap=1)
    found = [place for place in places if place is not None]
    assert 10 < len(found) < 60 and np.linalg.norm(found, axis=1).max() < 100


def test_crowded_images_have_labels_with_scores_alone():
    rng = np.random.default_rng(0)
    many = disc_finds(rng.integers(5, 90, (90, 2)).tolist(), radius=4)
    small, large = (
        draw_finds(grey(), legends("a name of some length"), [many.above(threshold)]) for threshold in (0.95, 0)
    )
    assert small.counts == (5,) and large.counts == (90,) and small.num_unlabeled == 0 and large.num_unlabeled < 30
    assert add_margin(large, legends("a")).shape == add_margin(small, legends("a")).shape


def test_labels_avoid_what_is_costly():
    avoid = np.zeros((100, 100), np.float32)
    avoid[:50] = 1
    (x, y), *_ = place_plates([(20, 8)], np.array([[40, 40, 60, 60]]), (100, 100), gap=1, avoid=avoid)
    assert y >= 50


# ---- drawings ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("size, scale", [((128, 128), 4), ((480, 640), 1), ((3000, 4000), 1), ((40, 2000), 1)])
def test_small_images_are_enlarged(size, scale):
    assert overlay_scale(*size) == scale


def test_masks_outlines_and_labels_of_all_categories():
    image = grey()
    finds = [disc_finds([(30, 30), (60, 90)]), NONE, disc_finds([(60, 40)])]
    categories = legends("disc", "star", "ring")
    drawing = draw_finds(image, categories, finds)
    scale = overlay_scale(96, 128)
    assert drawing.pixels.shape == (96 * scale, 128 * scale, 3)
    assert drawing.counts == (2, 0, 1) and drawing.num_unlabeled == 0
    assert {tuple(color) for color in drawing.pixels[::8, ::8].reshape(-1, 3).tolist()} > {(128, 128, 128)}
    for category, count in zip(categories, drawing.counts, strict=True):
        solid = (drawing.pixels == np.round(np.multiply(category.color, 255))).all(axis=2).sum()
        assert (solid > 1000) == (count > 0)
    center = drawing.pixels[30 * scale, 30 * scale]
    assert not np.array_equal(center, (128, 128, 128))


def test_the_same_input_gives_the_same_drawing_and_leaves_the_image():
    image, finds = grey(), [disc_finds([(30, 30)])]
    first, second = (draw_finds(image, legends("disc"), finds).pixels for _ in range(2))
    assert np.array_equal(first, second) and np.array_equal(image, grey())


@pytest.mark.parametrize("level", [0, 255])
def test_outlines_stand_off_black_and_white(level):
    drawing = draw_finds(grey(level=level), legends("disc"), [disc_finds([(48, 64)])])
    across = drawing.pixels[48 * 5, 50 * 5 : 54 * 5].mean(axis=1)  # over the left border of the disc
    assert np.ptp(across) > 120


def test_finds_without_masks_and_at_the_border():
    boxes = np.array([[-3, -2, 40, 50], [50, 60, 96, 128], [10, 10, 10, 10]], np.int32)
    finds = Finds(boxes, np.array([0.9, 0.8, 0.7], np.float32), None)
    empty = Finds(boxes, finds.scores, np.zeros((96, 128, 3), bool))
    for one in (finds, empty):
        drawing = draw_finds(grey(), legends("disc"), [one])
        assert drawing.counts == (3,) and not np.array_equal(drawing.pixels[250, 310:], grey()[0, :330])


def test_one_pixel_masks_are_seen():
    mask = np.zeros((96, 128, 1), bool)
    mask[50, 60] = True
    finds = Finds(np.array([[50, 60, 51, 61]], np.int32), np.ones(1, np.float32), mask)
    drawing = draw_finds(grey(), legends("dot"), [finds])
    assert (drawing.pixels[45 * 5 : 56 * 5, 55 * 5 : 66 * 5] != 128).any()


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="masks: expected shape"):
        draw_finds(grey(90, 90), legends("disc"), [disc_finds([(30, 30)])])
    with pytest.raises(ValueError, match="finds: expected 2"):
        draw_finds(grey(), legends("disc", "ring"), [disc_finds([(30, 30)])])
    with pytest.raises(ValueError, match="categories: expected 1"):
        add_margin(draw_finds(grey(), legends("disc"), [NONE]), legends("disc", "ring"))


# ---- the margin --------------------------------------------------------------------------------------------------
def test_the_margin_is_beside_the_image_and_does_not_depend_on_finds():
    crop = np.full((30, 20, 3), (250, 10, 10), np.uint8)
    categories = legends("disc", "a name that is far too long for the margin of an image", crops=[crop])
    shapes = set()
    for finds in ([disc_finds([(30, 30)]), NONE], [NONE, NONE]):
        drawing = draw_finds(grey(), categories, finds)
        whole = add_margin(drawing, categories)
        height, width = drawing.pixels.shape[:2]
        assert np.array_equal(whole[:height, :width], drawing.pixels)
        assert (whole[:, width:] == (250, 10, 10)).all(axis=2).sum() > 1000  # the references
        shapes.add(whole.shape)
    assert len(shapes) == 1


def test_margins_of_many_categories_and_of_low_images():
    categories = legends(*(f"category {index}" for index in range(30)))
    whole = add_margin(draw_finds(grey(), categories, [NONE] * 30), categories)
    assert whole.shape[0] == 480 and whole.shape[1] < 3 * 640
    low = add_margin(draw_finds(grey(20, 2000), categories[:2], [disc_finds([], shape=(20, 2000))] * 2), categories[:2])
    assert low.shape[0] > 20 and (low[:20, :2000] == 128).all()


def test_the_margin_says_that_nothing_was_found():
    categories = legends("disc")
    some, none = (
        add_margin(draw_finds(grey(), categories, [one]), categories) for one in (disc_finds([(30, 30)]), NONE)
    )
    assert not np.array_equal(some[:, 640:], none[:, 640:])


def test_several_references_share_a_square():
    crops = [np.full((30, 30, 3), color, np.uint8) for color in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    categories = [Legend("disc", (1.0, 1.0, 0.0), 0.5, crops)]
    whole = add_margin(draw_finds(grey(), categories, [NONE]), categories)
    for color in ((255, 0, 0), (0, 255, 0), (0, 0, 255)):
        assert (whole == color).all(axis=2).sum() > 100
    assert Image.fromarray(whole).size == whole.shape[1::-1]
