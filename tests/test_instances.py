"""Detections over their image: pixels of overlays by hand, what is drawn on axes, bad input."""

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from siamese_mrcnn_tf import visualize
from siamese_mrcnn_tf.io.errors import InputError
from siamese_mrcnn_tf.visualize.palette import contrasting_colors

RED, BLUE = (1.0, 0.0, 0.0), (0.0, 0.0, 1.0)


@pytest.fixture
def instances():
    """A gray image of 60 x 80 pixels with a solid square and a bar: image, boxes, masks, class ids, scores."""
    masks = np.zeros((60, 80, 2), bool)
    masks[20:40, 10:30, 0] = True
    masks[50:60, 40:80, 1] = True  # touches the border
    boxes = np.array([[20, 10, 40, 30], [50, 40, 60, 80]])
    return np.full((60, 80, 3), 100, np.uint8), boxes, masks, np.array([1, 2]), np.array([0.9, 0.8])


# ---- colors ------------------------------------------------------------------------------------------------------
def test_random_colors_are_distinct_and_always_the_same():
    colors = visualize.random_colors(50)
    assert colors == visualize.random_colors(50) and visualize.random_colors(0) == []
    assert np.min(colors) >= 0 and np.max(colors) <= 1
    distances = np.linalg.norm(np.subtract(colors[:12], np.array(colors[:12])[:, None]), axis=-1)
    assert distances[~np.eye(12, dtype=bool)].min() > 0.1


def test_colors_of_instances_stand_off_what_they_mark(instances):
    image, boxes, masks, _, _ = instances
    image[20:40, 10:30], image[50:60, 40:80] = (220, 40, 40), (40, 60, 220)
    red, blue = np.array([220, 40, 40]) / 255, np.array([40, 60, 220]) / 255
    for given in (masks, None):
        colors = contrasting_colors(image, given, boxes)
        assert np.linalg.norm(colors[0] - red) > 0.5 and np.linalg.norm(colors[1] - blue) > 0.5
        assert np.linalg.norm(np.subtract(*colors)) > 0.3
    assert len(contrasting_colors(image, np.zeros((60, 80, 1)))) == 1
    for given, words in (
        ((None,), "expected one of them"),
        ((None, [[0, 0, 9]]), "boxes"),
        ((masks[..., 0],), "masks"),
    ):
        with pytest.raises(InputError, match=words):
            contrasting_colors(image, *given)
    assert not contrasting_colors(image, None, np.zeros((0, 4)))


def test_apply_mask_by_hand():
    image = np.full((2, 2, 3), 100, np.uint8)
    returned = visualize.apply_mask(image, np.array([[1, 0], [0, 0]]), RED, alpha=0.5)
    assert returned is image and image[0, 0].tolist() == [177, 50, 50]
    assert np.all(image[1] == 100) and np.all(image[0, 1] == 100)


# ---- overlays ----------------------------------------------------------------------------------------------------
def test_overlay_tints_masks_and_draws_boxes_to_the_pixel(instances):
    image, boxes, masks, _, _ = instances
    before = image.copy()
    overlay = visualize.draw_overlay(image, boxes, masks, None, colors=[RED, BLUE])
    assert overlay.shape == image.shape and overlay.dtype == np.uint8 and np.array_equal(image, before)
    red = np.all(overlay == (255, 0, 0), axis=-1)
    edge = np.zeros((60, 80), bool)
    edge[20:40, 10:30] = True
    edge[21:39, 11:29] = False  # box and outline are one pixel wide here, and fall together
    assert np.array_equal(red, edge)
    assert overlay[30, 20].tolist() == [169, 55, 55]  # 100 * 0.55 + 255 * 0.45
    assert np.all(overlay[59, 40:] == (0, 0, 255)) and np.all(overlay[:19] == 100)


def test_overlay_draws_better_scores_in_front(instances):
    image, boxes, masks, _, _ = instances
    boxes[1], masks[:, :, 1] = boxes[0], masks[:, :, 0]
    for scores, front in (((0.9, 0.1), (255, 0, 0)), ((0.1, 0.9), (0, 0, 255))):
        overlay = visualize.draw_overlay(image, boxes, masks, scores, captions=["", ""], colors=[RED, BLUE])
        assert tuple(overlay[20, 10]) == front


@pytest.mark.parametrize("side", [16, 120, 900])
def test_overlay_labels_stay_in_the_image(side):
    image = np.zeros((side, side, 3), np.uint8)
    boxes = np.array([[0, 0, side, side], [0, 0, side, side], [side - 4, side - 4, side, side]])
    overlay = visualize.draw_overlay(image, boxes, None, [0.99, 0.5, 0.7])
    assert overlay.shape == image.shape
    plain = visualize.draw_overlay(image, boxes, None, None)
    assert np.any(overlay != plain) == (side > 16)  # the labels, where there is room


def test_labels_keep_clear_of_each_other():
    image, boxes = np.zeros((200, 200, 3), np.uint8), np.full((2, 4), 90)  # boxes without pixels: labels alone
    overlay = visualize.draw_overlay(image, boxes, None, [0.9, 0.8], colors=[RED, BLUE])
    red, blue = (np.argwhere(np.all(overlay == color, axis=-1)) for color in ((255, 0, 0), (0, 0, 255)))
    assert np.any(np.maximum(red.min(0), blue.min(0)) > np.minimum(red.max(0), blue.max(0)))


def test_overlay_of_nothing_is_the_image(instances):
    image = instances[0]
    for masks in (None, np.zeros((60, 80, 0), bool)):
        assert np.array_equal(visualize.draw_overlay(image, np.zeros((0, 4)), masks, []), image)


def test_overlay_takes_degenerate_instances(instances):
    image, boxes, masks, _, scores = instances
    boxes[0], masks[:, :, 0] = 0, False
    boxes[1] = -5, 60, 70, 200  # beyond the image
    assert visualize.draw_overlay(image, boxes, masks, scores).shape == image.shape


@pytest.mark.parametrize(
    "change, message",
    [
        ({"image": np.zeros((60, 80))}, r"image: expected uint8 \[height, width, 3\].*\(60, 80\)"),
        ({"boxes": np.zeros((2, 5))}, r"boxes: .*\(2, 5\)"),
        ({"masks": np.zeros((80, 60, 2))}, r"masks: expected shape \(60, 80, 2\), got \(80, 60, 2\)"),
        ({"scores": [0.5]}, "scores: expected 2, one for each, got 1"),
        ({"captions": ["a"]}, "captions: expected 2, one for each"),
        ({"colors": [RED]}, "colors: expected 2, one for each"),
    ],
)
def test_overlay_refuses_what_does_not_fit(instances, change, message):
    image, boxes, masks, _, scores = instances
    with pytest.raises(ValueError, match=message):
        visualize.draw_overlay(**{"image": image, "boxes": boxes, "masks": masks, "scores": scores, **change})


# ---- axes --------------------------------------------------------------------------------------------------------
def test_display_instances_draws_on_the_axes_it_is_given(instances):
    image, boxes, masks, class_ids, scores = instances
    ax = Figure().add_subplot()
    names = ["background", "square", "bar"]
    assert visualize.display_instances(image, boxes, masks, class_ids, names, scores, "Found", ax=ax) is ax
    assert [text.get_text() for text in ax.texts] == ["square 0.900", "bar 0.800"] and ax.get_title() == "Found"
    rectangle = ax.patches[0]
    assert rectangle.get_xy() == (9.5, 19.5) and (rectangle.get_width(), rectangle.get_height()) == (20, 20)
    assert ax.images[0].get_array().shape == image.shape and np.any(ax.images[0].get_array() != image)
    assert len(ax.collections) == 2  # outlines
    assert np.all(image == 100)


def test_display_instances_leaves_out_what_is_switched_off(instances, tmp_path):
    image, boxes, masks, class_ids, _ = instances
    boxes[0] = 0
    hidden = {"show_mask": False, "show_bbox": False, "captions": ["one", "two"]}
    ax = visualize.display_instances(image, boxes, masks, class_ids, figsize=(2, 3), **hidden)
    assert not ax.patches and np.array_equal(ax.images[0].get_array(), image)
    assert [text.get_text() for text in ax.texts] == ["two"]
    assert ax.figure.get_size_inches().tolist() == [2, 3]
    ax.figure.savefig(tmp_path / "drawing.png")
    assert (tmp_path / "drawing.png").stat().st_size > 0


def test_display_instances_of_nothing(instances):
    ax = visualize.display_instances(instances[0], np.zeros((0, 4)), np.zeros((60, 80, 0)), [], scores=[])
    assert len(ax.images) == 1 and not ax.texts


def test_display_results(instances):
    image, boxes, masks, class_ids, scores = instances
    crops = [image[:9, :9], image[:20]]
    one = visualize.display_results(crops[0], image, boxes, masks, class_ids, scores)
    assert [ax.images[0].get_array().shape for ax in one] == [(9, 9, 3), (60, 80, 3)]
    several = visualize.display_results(crops, image, boxes, None, class_ids, title="Two shots", captions=["a", "b"])
    assert len(several) == 3 and several[-1].get_title() == "Two shots"
    assert [text.get_text() for text in several[-1].texts] == ["a", "b"]
    assert visualize.display_results(crops, image, boxes, masks, class_ids, ax=one + one[:1])[2] is one[0]
    with pytest.raises(ValueError, match="expected 2 axes for references and one for the scene, got 2"):
        visualize.display_results(crops, image, boxes, masks, class_ids, ax=one)
    with pytest.raises(ValueError, match="target: .* got none"):
        visualize.display_results([], image, boxes, masks, class_ids)


def grid_of(instances, count):
    image, boxes, masks, class_ids, scores = instances
    targets = [image[:9, :9], image[:20, :10], image[:5, :30]][:count]
    return [targets, *([values] * count for values in (image, boxes, masks, class_ids, scores))]


def test_display_grid(instances, tmp_path):
    path = tmp_path / "new" / "grid.png"
    names = ["square", "bar", "both"]
    axes = visualize.display_grid(*grid_of(instances, 3), names, "Found", (6, 5), save=path)
    assert [ax.get_title() for ax in axes] == names and axes[0].figure.get_suptitle() == "Found"
    assert [(ax.get_subplotspec().rowspan.start, ax.get_subplotspec().colspan.start) for ax in axes] == [
        *((0, 0), (0, 1), (1, 0)),
    ]
    assert [text.get_text() for text in axes[1].texts] == ["0.900", "0.800"]
    assert axes[0].get_xlim() == (-10.5, 89.5)
    with Image.open(path) as image:
        assert image.size == (600, 500)


def test_references_of_a_grid_are_above_the_scene(instances):
    (ax, wide, _) = visualize.display_grid(*grid_of(instances, 3), target_shift=12)
    assert ax.images[1].get_extent() == pytest.approx([30.5, 48.5, -12.5, -30.5])  # 18 pixels, 0.3 of 60
    assert ax.get_ylim() == pytest.approx((69.5, -30.5))
    left, right, bottom, top = wide.images[1].get_extent()
    assert (bottom - top) / (right - left) == pytest.approx(2)
    several = grid_of(instances, 1)
    several[0] = [[several[0][0]] * 6]
    (ax,) = visualize.display_grid(*several)
    extents = np.array([image.get_extent() for image in ax.images[1:]])
    assert extents[0, 0] == pytest.approx(-0.5) and extents[-1, 1] == pytest.approx(79.5)  # as wide as the scene
    assert extents[1:, 0] - extents[:-1, 1] == pytest.approx(10)
    several[0] = [several[0][0] * 4]  # 24 on 80 pixels
    (ax,) = visualize.display_grid(*several)
    extents = np.array([image.get_extent() for image in ax.images[1:]])
    assert len(extents) == 24 and np.all(extents[:, 1] > extents[:, 0]) and np.all(extents[:, 2] > extents[:, 3])


def test_captions_on_axes_do_not_overlap(instances):
    image, boxes, _, class_ids, _ = instances
    boxes = np.repeat(boxes[:1], 4, axis=0) + np.arange(4)[:, None]
    ax = visualize.display_instances(image, boxes, None, [1] * 4, captions=["first", "second", "third", "W" * 150])
    for size in ((4, 3), (8, 8)):  # placed when the figure is drawn, at its size then
        ax.figure.set_size_inches(size)
        ax.figure.draw_without_rendering()
        *shown, hidden = ax.texts
        assert all(text.get_visible() for text in shown) and not hidden.get_visible()  # too long for the image
        plates = [text.get_bbox_patch().get_window_extent() for text in shown]
        assert not any(plates[i].overlaps(plates[j]) for i, j in ((0, 1), (0, 2), (1, 2)))
        inside = ax.transData.transform([(-10.5, 69.5), (89.5, -10.5)])
        assert all(np.all(plate.min >= inside[0] - 1) and np.all(plate.max <= inside[1] + 1) for plate in plates)


def test_colors_of_matplotlib_are_taken(instances):
    image, boxes, masks, class_ids, _ = instances
    ax = visualize.display_instances(
        image, boxes, masks, class_ids, colors=["red", (0, 0, 1, 0.5)], captions=["a", "b"]
    )
    assert [patch.get_edgecolor()[:3] for patch in ax.patches] == [(1, 0, 0), (0, 0, 1)]
    with pytest.raises(InputError, match="colors: 'reddish', expected a name or"):
        visualize.display_instances(image, boxes, masks, class_ids, colors=["reddish", "red"])


def test_a_grid_shows_what_it_is_told_to(instances):
    axes = [Figure().add_subplot(), Figure().add_subplot()]
    hidden = {"show_mask": False, "show_bbox": False, "show_scores": False, "fontsize": 10, "linewidth": 3}
    assert visualize.display_grid(*grid_of(instances, 2), ax=np.array([axes]), **hidden) == axes
    assert np.array_equal(axes[0].images[0].get_array(), instances[0]) and len(axes[0].patches) == 0
    assert not axes[0].texts
    (ax,) = visualize.display_grid(*grid_of(instances, 1), captions=[["a", "b"]], colors=[[RED, BLUE]], linewidth=3)
    assert [text.get_text() for text in ax.texts] == ["a", "b"] and ax.texts[0].get_size() == pytest.approx(11.2)
    assert ax.patches[0].get_linewidth() == 3 and ax.patches[0].get_edgecolor()[:3] == RED


def test_a_grid_is_saved_as_the_notebook_of_the_original_does_it(instances, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    visualize.display_grid(*grid_of(instances, 1), figsize=(2, 2), save=True)
    assert (tmp_path / "grid.pdf").read_bytes().startswith(b"%PDF")


def test_a_grid_refuses_what_does_not_fit(instances):
    grid = grid_of(instances, 2)
    with pytest.raises(ValueError, match="masks_list: expected 2, one for each, got 1"):
        visualize.display_grid(*grid[:3], grid[3][:1], *grid[4:])
    with pytest.raises(ValueError, match="category_names_list: expected 2, one for each, got 1"):
        visualize.display_grid(*grid, ["a"])
    with pytest.raises(ValueError, match="ax: expected 2, one for each, got 1"):
        visualize.display_grid(*grid, ax=Figure().add_subplot())
    with pytest.raises(ValueError, match="image_list: expected a scene or several, got 0"):
        visualize.display_grid(*grid_of(instances, 0))
    with pytest.raises(ValueError, match="target_list: expected uint8"):
        visualize.display_grid([np.zeros((4, 4))], *(values[:1] for values in grid[1:]))
