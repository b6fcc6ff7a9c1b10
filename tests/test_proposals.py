"""Plots of boxes and of their deltas: what is drawn, by hand, and bad input."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from siamese_mrcnn_tf import visualize
from siamese_mrcnn_tf.visualize.proposals import score_map


def areas(ax):
    """The area below each histogram of a plot."""
    outlines = [patch.get_xy() for patch in ax.patches]
    return [abs(np.sum(x[:-1] * y[1:] - x[1:] * y[:-1])) / 2 for x, y in (np.array(each).T for each in outlines)]


def test_box_deltas_have_a_plot_each_and_groups_of_one_area():
    rng = np.random.default_rng(0)
    many, few = rng.normal(size=(500, 4)), rng.normal(size=(30, 4)) + [3, 0, 0, 0]
    axes = visualize.plot_box_deltas({"all": many, "best": few})
    assert [ax.get_title(loc="left") for ax in axes] == ["dy", "dx", "log(dh)", "log(dw)"]
    assert [text.get_text() for text in axes[0].get_legend().get_texts()] == ["all", "best"]
    assert areas(axes[0])[0] == pytest.approx(1, rel=1e-6)
    lines = [patch.get_xy() for patch in axes[0].patches]
    assert lines[1][lines[1][:, 1].argmax(), 0] > 1.5 > lines[0][lines[0][:, 1].argmax(), 0]  # their peaks
    mine = Figure().subplots(2, 2)
    assert visualize.plot_box_deltas({"none move": np.zeros((3, 4))}, ax=mine) == list(mine.ravel())


def test_box_places_are_centers_and_sides():
    boxes = np.array([[10, 20, 30, 80], [0, 0, 0, 0]])
    centers, sides = visualize.plot_box_places({"rois": boxes}, (60, 100, 3))
    assert centers.collections[0].get_offsets().tolist() == [[50, 20]]  # (x, y); the row of zeros is padding
    assert sides.collections[0].get_offsets().tolist() == [[60, 20]]
    assert centers.get_xlim() == (0, 100) and centers.get_ylim() == (60, 0) and sides.get_ylim() == (0, 60)


def test_recall_of_the_best_boxes_of_all_scenes():
    scenes = [np.array([[0, 0, 10, 10], [0, 0, 10, 6], [20, 20, 30, 30]]), np.array([[5, 5, 9, 9]] * 3)]
    truth = [np.array([[20, 20, 30, 30], [0, 0, 10, 5]]), np.array([[50, 50, 60, 60]])]
    ax = visualize.plot_recall({"boxes": scenes}, truth, (0.5, 0.8))
    at_half, at_more = (line.get_ydata().tolist() for line in ax.lines)
    assert at_half == pytest.approx([1 / 3, 1 / 3, 2 / 3])  # the first overlaps (0, 0, 10, 5) by 0.5
    assert at_more == pytest.approx([0, 1 / 3, 2 / 3])
    assert [text.get_text() for text in ax.get_legend().get_texts()][0] == "boxes, IoU 0.5: 0.667 of 3"


def test_score_map_has_the_best_anchor_of_all_levels():
    scores = np.zeros(2 * (4 * 4 + 2 * 2))  # two anchors a place, levels of 4 x 4 and 2 x 2
    scores[2 * 5 + 1], scores[2 * 16], scores[-1] = 0.9, 0.4, 0.6
    expected = [[0.4, 0.4, 0, 0], [0.4, 0.9, 0, 0], [0, 0, 0.6, 0.6], [0, 0, 0.6, 0.6]]
    assert score_map(scores, [[4, 4], [2, 2]]).tolist() == expected
    with pytest.raises(ValueError, match="scores: expected a multiple of 20 places, got 39"):
        score_map(scores[1:], [[4, 4], [2, 2]])


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"groups\['a'\]: expected \[n, \(dy, .*, got shape \(2, 3\)"):
        visualize.plot_box_deltas({"a": np.zeros((2, 3))})
    with pytest.raises(ValueError, match="groups: expected deltas under a name or several, got none"):
        visualize.plot_box_deltas({})
    with pytest.raises(ValueError, match=r"groups\['b'\]: expected \[n, \(y1, x1, y2, x2\)\]"):
        visualize.plot_box_places({"b": np.zeros((2, 3))})
    with pytest.raises(ValueError, match="ax: expected 2, one for each, got 1"):
        visualize.plot_box_places({}, ax=[Figure().add_subplot()])
    with pytest.raises(ValueError, match=r"groups\['c'\]: expected 1, one for each, got 2"):
        visualize.plot_recall({"c": [np.zeros((1, 4))] * 2}, [np.ones((1, 4))])
    with pytest.raises(ValueError, match="gt_boxes: expected an instance or more, got none"):
        visualize.plot_recall({}, [np.zeros((0, 4))])
