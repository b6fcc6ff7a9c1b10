"""The face of the drawings: its names, and what they import and leave behind."""

import subprocess
import sys

import numpy as np
import pytest

import siamese_mrcnn_tf
from siamese_mrcnn_tf import visualize

NAMES = ["BG", "square", "bar"]
HISTORY = [{"epoch": epoch, "learning_rate": 0.02, "loss": 2 / epoch, "val_loss": 1} for epoch in (1, 2, 3)]


def test_everything_can_be_written_and_pyplot_is_left_alone(tmp_path):
    from matplotlib import pyplot

    image, boxes = np.full((60, 80, 3), 100, np.uint8), np.array([[20, 10, 40, 30], [50, 40, 60, 80]])
    masks = np.zeros((60, 80, 2), bool)
    masks[20:40, 10:30, 0] = masks[50:60, 40:80, 1] = True
    drawn = [
        visualize.display_images([image])[0].figure,
        visualize.display_top_masks(image, masks, [1, 2], NAMES)[0].figure,
        visualize.draw_boxes(image, boxes, boxes + 3, masks, ["a", "b"], [0, 1]).figure,
        visualize.draw_rois(image, boxes, boxes, np.ones((2, 28, 28)), [0, 1], NAMES).figure,
        visualize.display_differences(image, boxes, None, masks, boxes, None, [1, 1], masks).figure,
        visualize.display_matching(image, [np.ones((3, 3))])[0].figure,
        visualize.plot_box_deltas({"a": boxes})[0].figure,
        visualize.plot_box_places({"a": boxes, "b": boxes})[0].figure,
        visualize.plot_recall({"a": [boxes]}, [boxes]).figure,
        visualize.plot_losses(HISTORY),
        visualize.plot_precision_recall(0.1, [1], [1]).figure,
        visualize.plot_overlaps([1], [1], [1], [[1]], NAMES).figure,
    ]
    for number, figure in enumerate(drawn):
        figure.savefig(tmp_path / f"{number}.png", dpi=40)
    assert len(list(tmp_path.iterdir())) == 12 and not pyplot.get_fignums()


def test_all_names_are_exported():
    for name in visualize.__all__:
        if name not in ("apply_mask", "random_colors"):
            assert getattr(siamese_mrcnn_tf, name) is getattr(visualize, name)
    assert set(visualize.__all__) <= set(dir(visualize))
    with pytest.raises(AttributeError, match="has no attribute 'display_nothing'"):
        visualize.display_nothing  # noqa: B018


def test_the_face_is_imported_alone():
    code = "import sys, siamese_mrcnn_tf.visualize; assert not {'numpy', 'PIL', 'matplotlib'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_neither_pyplot_nor_matplotlib_is_imported_for_overlays():
    code = (
        "import sys, numpy as np; from siamese_mrcnn_tf import visualize as v; image = np.zeros((9, 9, 3), np.uint8);"
        "v.draw_overlay(image, [[1, 1, 8, 8]], None, [0.5]); assert 'matplotlib' not in sys.modules;"
        "v.display_instances(image, [[1, 1, 8, 8]], None, [1]); assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
