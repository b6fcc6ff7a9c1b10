"""Drawings of the inside of the network: what is drawn where on axes, by hand, and bad input."""

import io

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from siamese_mrcnn_tf import visualize
from siamese_mrcnn_tf.visualize import stages

NAMES = ["BG", "square", "bar"]
GRAY = stages._GRAY


@pytest.fixture
def image():
    return np.full((60, 80, 3), 100, np.uint8)


@pytest.fixture
def boxes():
    return np.array([[20, 10, 40, 30], [50, 40, 60, 80]])


@pytest.fixture
def masks():
    masks = np.zeros((60, 80, 2), bool)
    masks[20:40, 10:30, 0] = True
    masks[50:60, 40:80, 1] = True
    return masks


def corners(patch):
    """(y1, x1, y2, x2) in pixels of a rectangle on axes."""
    x, y = patch.get_xy()
    return [y + 0.5, x + 0.5, y + 0.5 + patch.get_height(), x + 0.5 + patch.get_width()]


def texts(ax):
    return [text.get_text() for text in ax.texts]


# ---- several images --------------------------------------------------------------------------------------------------
def test_display_images_in_rows(image):
    axes = visualize.display_images([image, image[..., 0], image], ["a", "b", "c"], cols=2, cmap="gray")
    assert [ax.get_title() for ax in axes] == ["a", "b", "c"]
    assert [ax.get_subplotspec().rowspan.start for ax in axes] == [0, 0, 1]
    assert axes[1].images[0].get_array().shape == (60, 80) and axes[1].images[0].get_cmap().name == "gray"
    mine = [Figure().add_subplot() for _ in range(3)]
    assert visualize.display_images([image] * 3, ax=mine) == mine
    assert visualize.display_images([]) == []


def test_display_images_refuses_what_does_not_fit(image):
    with pytest.raises(ValueError, match=r"images: expected .* got \(60,\) at 1"):
        visualize.display_images([image, np.zeros(60)])
    with pytest.raises(ValueError, match="titles: expected 1, one for each, got 2"):
        visualize.display_images([image], ["a", "b"])
    with pytest.raises(ValueError, match="ax: expected 2, one for each, got 1"):
        visualize.display_images([image, image], ax=[Figure().add_subplot()])


def test_display_top_masks_shows_the_largest_classes_first(image, masks):
    axes = visualize.display_top_masks(image, masks[..., [0, 1, 0]], [1, 2, 1], NAMES, limit=3)
    assert [ax.get_title() for ax in axes] == ["height x width = 60 x 80", "square", "bar", "-"]
    square, bar, empty = (np.asarray(ax.images[0].get_array()) for ax in axes[1:])
    assert square[30, 20] == 2 and np.count_nonzero(square) == 400  # the second instance lies over the first
    assert np.count_nonzero(bar) == 400 and bar[55, 60] == 1 and not empty.any()
    assert [ax.get_title() for ax in visualize.display_top_masks(image, masks, [1, 2], NAMES, limit=1)][1:] == [
        "square"
    ]
    nothing = visualize.display_top_masks(image, np.zeros((60, 80, 0)), [], NAMES, limit=2)
    assert [ax.get_title() for ax in nothing][1:] == ["-", "-"]
    with pytest.raises(ValueError, match=r"mask: expected shape \(60, 80, 1\), got \(60, 80, 2\)"):
        visualize.display_top_masks(image, masks, [1], NAMES)


# ---- boxes -----------------------------------------------------------------------------------------------------------
def test_draw_boxes_draws_refinements_with_lines_between_corners(image, boxes, masks):
    ax = Figure().add_subplot()
    returned = visualize.draw_boxes(image, boxes, boxes + 2, masks, ["a", "b"], [2, 1], "Boxes", ax)
    assert returned is ax and ax.get_title() == "Boxes" and texts(ax) == ["a", "b"]
    assert [corners(patch) for patch in ax.patches[:2]] == [[20, 10, 40, 30], [22, 12, 42, 32]]
    assert [patch.get_linestyle() for patch in ax.patches] == ["dashed", "solid", "dashed", "dotted"]
    assert [list(line.get_xdata()) for line in ax.lines] == [[9.5, 11.5], [39.5, 41.5]]
    assert list(ax.lines[0].get_ydata()) == [19.5, 21.5]
    painted = np.asarray(ax.images[0].get_array())
    assert np.any(painted[30, 20] != 100) and np.all(painted[0] == 100) and np.all(image == 100)
    assert len(ax.collections) == 2  # outlines
    assert ax.texts[0].get_position() == (12, 22)  # at the refined box


def test_captions_of_boxes_with_one_corner_do_not_lie_over_each_other(image):
    boxes = np.array([[10, 10, 50, 70], [10, 10, 40, 60], [10, 10, 55, 75]])
    ax = visualize.draw_boxes(image, boxes, captions=["0.91", "0.82", "0.73"])
    ax.figure.savefig(io.BytesIO())  # captions find their places when they are drawn
    extents = [text.get_window_extent() for text in ax.texts if text.get_visible()]
    assert len(extents) == 3
    assert not any(a.overlaps(b) for index, a in enumerate(extents) for b in extents[:index])


def test_draw_boxes_by_visibility(image, boxes):
    ax = visualize.draw_boxes(image, np.concatenate([boxes, boxes[:1] + 5]), visibilities=[0, 1, 2])
    assert [patch.get_linestyle() for patch in ax.patches] == ["dotted", "dotted", "solid"]
    colors = [to_rgb(patch.get_edgecolor()) for patch in ax.patches]
    assert colors[0] == GRAY and colors[1:] == visualize.random_colors(3)[1:]


def test_draw_boxes_of_nothing(image, boxes):
    ax = visualize.draw_boxes(image)
    assert not ax.patches and len(ax.images) == 1
    assert not visualize.draw_boxes(image, np.zeros((2, 4)), captions=["a", "b"]).texts  # rows of zeros are padding
    assert len(visualize.draw_boxes(image, refined_boxes=boxes).patches) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": np.zeros((60, 80))}, r"image: expected uint8 \[height, width, 3\]"),
        ({"boxes": np.zeros((2, 3))}, r"boxes: expected \[n, \(y1, x1, y2, x2\)\], got shape \(2, 3\)"),
        ({"refined_boxes": np.zeros((3, 4))}, "boxes and refined_boxes: expected 3, one for each, got 2"),
        ({"masks": np.zeros((60, 80, 3))}, r"masks: expected shape \(60, 80, 2\), got \(60, 80, 3\)"),
        ({"captions": ["a"]}, "captions: expected 2, one for each, got 1"),
        ({"visibilities": [1, 3]}, r"visibilities: expected 0, 1 or 2 for each box, got \[1, 3\]"),
    ],
)
def test_draw_boxes_refuses_what_does_not_fit(image, boxes, change, message):
    with pytest.raises(ValueError, match=message):
        visualize.draw_boxes(**{"image": image, "boxes": boxes, **change})


def test_draw_rois_shows_objects_with_their_masks(image, boxes):
    rois = np.concatenate([boxes, [[0, 0, 10, 10]], np.zeros((2, 4), int)])
    refined, ids = rois + 1, np.array([1, 0, 2, 0, 0])
    ax = visualize.draw_rois(image, rois, refined, np.ones((5, 28, 28)), ids, NAMES)
    assert ax.get_title() == "3 proposals, 2 of objects (67%)" and texts(ax) == ["square", "bar"]
    gray = [corners(patch) for patch in ax.patches if to_rgb(patch.get_edgecolor()) == GRAY]
    assert gray == [[50, 40, 60, 80]] and len(ax.patches) == 5  # background without refinement
    tinted = np.any(np.asarray(ax.images[0].get_array()) != 100, axis=-1)
    expected = np.zeros((60, 80), bool)
    expected[21:41, 11:31] = expected[1:11, 1:11] = True
    assert np.array_equal(tinted, expected)


def test_draw_rois_is_limited_and_takes_nothing(image, boxes):
    many = np.repeat(boxes, 20, axis=0)
    ax = visualize.draw_rois(image, many, many, None, np.ones(40, int), None, limit=3)
    assert ax.get_title().endswith("; 3 shown") and [corners(p)[0] for p in ax.patches] == [20, 20, 20, 20, 50, 50]
    nothing = visualize.draw_rois(image, np.zeros((0, 4)), np.zeros((0, 4)), None, [], NAMES)
    assert nothing.get_title() == "0 proposals, 0 of objects (0%)" and not nothing.patches
    with pytest.raises(ValueError, match="class_ids: expected 2, one for each, got 1"):
        visualize.draw_rois(image, boxes, boxes, None, [1], NAMES)


# ---- differences -----------------------------------------------------------------------------------------------------
def test_display_differences_pairs_detections_with_the_truth(image, boxes, masks):
    found = np.roll(masks, 4, axis=1)  # 16 of 24 columns shared by the square, 36 of 44 by the bar (40 before the edge)
    shifted = boxes + [0, 4, 0, 4]
    ax = visualize.display_differences(image, boxes, [1, 2], masks, shifted, [1, 1], [0.6, 0.9], found, NAMES)
    assert texts(ax) == ["0.90 / 0.00", "0.60 / 0.67*"]  # best first; the bar is of another class
    assert ax.get_title().startswith("1 of 2 found")
    colors = [to_rgb(patch.get_edgecolor()) for patch in ax.patches]
    assert colors == [stages._TRUE_COLOR] * 2 + [stages._FOUND_COLOR] * 2
    assert corners(ax.patches[2]) == [50, 44, 60, 84]


def test_display_differences_by_boxes_and_thresholds(image, boxes):
    ax = Figure().add_subplot()
    given = (image, boxes, None, None, boxes[::-1], None, [0.4, 0.6], None)
    assert visualize.display_differences(*given, title="t", ax=ax) is ax
    assert texts(ax) == ["0.60 / 1.00*"] and ax.get_title() == "t" and len(ax.patches) == 3
    hidden = visualize.display_differences(*given, show_box=False, score_threshold=0)
    assert not hidden.patches and not hidden.texts
    nothing = np.zeros((0, 4))
    empty = visualize.display_differences(image, nothing, [], None, nothing, [], [], None)
    assert empty.get_title().startswith("0 of 0 found")
    with pytest.raises(ValueError, match="pred_score: expected 2, one for each, got 1"):
        visualize.display_differences(image, boxes, None, None, boxes, None, [0.4], None)


def test_mask_overlaps_by_hand(masks):
    half = masks.copy()
    half[30:40, :, 0] = False
    assert stages.mask_overlaps(half, masks).tolist() == [[0.5, 0], [0, 1]]
    assert stages.mask_overlaps(np.zeros((60, 80, 1)), masks).tolist() == [[0, 0]]
    assert stages.mask_overlaps(np.zeros((60, 80, 0)), masks).shape == (0, 2)


# ---- maps ------------------------------------------------------------------------------------------------------------
def test_display_matching_takes_the_part_of_the_scene(image):
    molded = np.zeros((8, 8), np.float32)  # of a molded image of 128 pixels with the scene in rows 32 to 96
    molded[2:6] = np.linspace(0, 1, 8)
    molded[0] = 50  # in the padding
    maps = [molded, np.stack([molded, -3 * molded], axis=-1)[None]]
    axes = visualize.display_matching(image, maps, window=(32, 0, 96, 128), molded_shape=(128, 128, 3))
    assert [ax.get_title() for ax in axes] == ["P2, 8 x 8", "P3, 8 x 8"]
    for ax, factor in zip(axes, (1, 2), strict=True):  # the mean of 1 and |-3|
        scene, heat = ax.images
        assert np.array_equal(scene.get_array(), image) and heat.get_array().shape == (60, 80)
        values = np.asarray(heat.get_array())
        assert values[30, 0] == pytest.approx(0, abs=0.02) and values[30, 79] == pytest.approx(factor, abs=0.02)
        assert heat.get_clim() == pytest.approx((0, factor)) and heat.get_alpha() == 0.6  # what is shown, no padding
        assert len(ax.child_axes) == 1  # the color bar


def test_display_matching_of_the_image_itself(image):
    ax = Figure().add_subplot()
    values = np.arange(4.0).reshape(2, 2)
    assert visualize.display_matching(image, [values], names=["flat"], ax=[ax]) == [ax]
    assert ax.get_title() == "flat, 2 x 2" and ax.images[1].get_array()[0, 0] == pytest.approx(0)
    with pytest.raises(ValueError, match=r"maps: expected .* got shape \(2, 3, 4, 5\)"):
        visualize.display_matching(image, [np.zeros((2, 3, 4, 5))])
    with pytest.raises(ValueError, match="window and molded_shape: expected both or neither"):
        visualize.display_matching(image, [values], window=(0, 0, 1, 1))
    with pytest.raises(ValueError, match=r"window: expected a box inside \(64, 64\), got \(0, 0, 65, 64\)"):
        visualize.display_matching(image, [values], window=(0, 0, 65, 64), molded_shape=(64, 64, 3))
    with pytest.raises(ValueError, match="names: expected 1, one for each, got 2"):
        visualize.display_matching(image, [values], names=["a", "b"])


# ---- for other libraries ---------------------------------------------------------------------------------------------
def test_results_to_detections(boxes, masks):
    result = {"rois": boxes.astype(np.int32), "class_ids": np.array([1, 1], np.int32), "masks": masks}
    found = visualize.results_to_detections(result | {"scores": np.array([0.9, 0.8], np.float32)})
    assert found["xyxy"].tolist() == [[10, 20, 30, 40], [40, 50, 80, 60]] and found["xyxy"].dtype == np.float32
    assert found["mask"].shape == (2, 60, 80) and found["mask"].dtype == bool
    assert found["mask"][1].sum() == 400 and found["mask"][1, 55, 60]
    assert found["confidence"].dtype == np.float32 and found["class_id"].tolist() == [1, 1]


def test_results_to_detections_of_nothing_and_without_masks(boxes):
    nothing = {"rois": np.zeros((0, 4), np.int32), "scores": np.zeros(0), "masks": np.zeros((60, 80, 0), bool)}
    found = visualize.results_to_detections(nothing)
    assert found["xyxy"].shape == (0, 4) and found["mask"].shape == (0, 60, 80) and found["class_id"].shape == (0,)
    boxes_alone = visualize.results_to_detections(nothing | {"rois": boxes, "scores": [1, 0.5]})
    assert boxes_alone["mask"] is None and boxes_alone["class_id"].tolist() == [1, 1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": [0.5]}, "scores: expected 2, one for each, got 1"),
        ({"class_ids": [1]}, "class_ids: expected 2, one for each, got 1"),
        ({"masks": np.zeros((60, 80, 3))}, r"masks: expected shape \(60, 80, 2\), got \(60, 80, 3\)"),
        ({"rois": np.zeros((2, 5))}, "rois: expected"),
    ],
)
def test_results_that_do_not_fit(boxes, masks, change, message):
    with pytest.raises(ValueError, match=message):
        visualize.results_to_detections({"rois": boxes, "scores": [0.9, 0.8], "masks": masks} | change)
    with pytest.raises(ValueError, match="result: expected rois, scores and masks, 'scores' is missing"):
        visualize.results_to_detections({"rois": boxes, "masks": masks})


def test_draw_box_draws_into_the_image():
    image = np.zeros((8, 9, 3), np.uint8)
    assert visualize.draw_box(image, [1, 2, 20, 8], (255, 0, 9)) is image
    drawn = image.any(axis=-1)
    assert drawn[1:8, 2:8].sum() == drawn.sum() == 42 - 6 and not drawn[3:6, 4:6].any()
    assert image[1, 2].tolist() == [255, 0, 9]
    assert not visualize.draw_box(np.zeros((8, 9, 3), np.uint8), [3, 3, 3, 5], (1, 1, 1)).any()
