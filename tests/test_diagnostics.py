"""Plots and tables of numbers: what is drawn on axes, by hand, and bad input."""

import csv
import io
import math
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.figure import Figure

from siamese_mrcnn_tf import visualize

NAMES = ["BG", "square", "bar"]


# ---- losses ----------------------------------------------------------------------------------------------------------
def history(epochs=4):
    rows = []
    for epoch in range(1, epochs + 1):
        row = {"epoch": epoch, "learning_rate": 0.02 if epoch < 3 else 0.002, "rpn_class_loss": 1 / epoch}
        rows.append(row | {"loss": 2 / epoch, "val_loss": abs(epoch - 3) + 1.0, "val_rpn_class_loss": 0.5})
    return rows


def test_plot_losses_has_a_panel_for_each_loss():
    rows = history()
    rows[1]["val_loss"] = math.nan
    figure = visualize.plot_losses(rows, title="run 7")
    assert figure.get_suptitle() == "run 7"
    titles = [ax.get_title(loc="left") for ax in figure.axes]
    assert titles == ["loss", "rpn class loss", "learning rate"]
    total, part, rate = figure.axes
    assert total.lines[0].get_ydata().tolist() == pytest.approx([2, 1, 2 / 3, 0.5])
    assert total.lines[1].get_xdata().tolist() == [1, 2, 3, 4] and np.isnan(total.lines[1].get_ydata()[1])
    assert total.get_title(loc="right") == "best: epoch 3, 1"
    assert [text.get_text() for text in part.get_legend().get_texts()] == ["training", "validation"]
    assert [line.get_xdata()[0] for line in part.lines if line.get_linestyle() == ":"] == [2.5]
    assert rate.get_yscale() == "log" and [t.get_text() for t in rate.get_yticklabels()][:2] == ["0.002", "0.02"]


def test_plot_losses_takes_rows_of_history_csv():
    text = io.StringIO()
    writer = csv.DictWriter(text, list(history()[0]))
    writer.writeheader()
    writer.writerows(history())
    rows = list(csv.DictReader(io.StringIO(text.getvalue())))
    lines = visualize.plot_losses(rows).axes[0].lines
    assert lines[1].get_ydata().tolist() == [3, 2, 1, 2]


def test_plot_losses_without_validation_and_with_one_epoch():
    rows = [{key: value for key, value in row.items() if not key.startswith("val_")} for row in history(1)]
    figure = visualize.plot_losses(rows)
    assert [len(ax.lines) for ax in figure.axes] == [1, 1, 1] and figure.axes[0].get_title(loc="right") == ""
    with pytest.raises(ValueError, match="history: expected a row for each epoch, got none"):
        visualize.plot_losses([])
    with pytest.raises(ValueError, match="expected rows with a number under 'epoch', got the keys loss"):
        visualize.plot_losses([{"loss": 1}])


def test_a_rate_that_always_changes_has_no_lines():
    rows = [{"epoch": epoch, "loss": 1, "learning_rate": 0.1 / epoch} for epoch in range(1, 30)]
    assert not [line for line in visualize.plot_losses(rows).axes[0].lines if line.get_linestyle() == ":"]


# ---- scores ----------------------------------------------------------------------------------------------------------
def test_plot_precision_recall():
    ax = Figure().add_subplot()
    assert visualize.plot_precision_recall(0.4321, [1, 0.5], [0.2, 0.8], ax=ax) is ax
    assert ax.lines[0].get_xdata().tolist() == [0.2, 0.8] and ax.lines[0].get_ydata().tolist() == [1, 0.5]
    assert "0.432" in ax.get_title(loc="left")
    visualize.plot_precision_recall(0, [], [])
    with pytest.raises(ValueError, match="recalls: expected 2 like precisions, got 1"):
        visualize.plot_precision_recall(0, [1, 1], [1])


def test_plot_overlaps_says_what_matches():
    overlaps = [[0.8, 0.1], [0.6, 0.0], [0, 0]]
    ax = visualize.plot_overlaps([1, 2], [1, 2, 0], [0.9, 0.75, 0], overlaps, NAMES)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["square (0.90)", "bar (0.75)"]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["square", "bar"]
    assert [text.get_text() for text in ax.texts] == ["0.80\nmatch", "0.10", "0.60\nwrong", "0.00"]
    assert np.asarray(ax.images[0].get_array()).tolist() == [[0.8, 0.1], [0.6, 0]]
    ax = Figure().add_subplot()
    assert visualize.plot_overlaps([1], [], [], np.zeros((0, 1)), NAMES, ax=ax) is ax and not ax.texts
    with pytest.raises(ValueError, match=r"overlaps: expected \[2 detections, 1 instances\], got \(1, 1\)"):
        visualize.plot_overlaps([1], [1, 1], [1, 1], np.zeros((1, 1)), NAMES)
    with pytest.raises(ValueError, match="pred_scores: expected one for each of 1 detections, got 0"):
        visualize.plot_overlaps([1], [1], [], np.zeros((1, 1)), NAMES)


# ---- weights ---------------------------------------------------------------------------------------------------------
class Weight:
    def __init__(self, path, values):
        self.path, self.values = path, np.asarray(values, np.float32)

    def __array__(self, dtype=None, copy=None):
        return self.values


def test_display_weight_stats_marks_what_is_suspicious():
    weights = [Weight("a/kernel", [[1, -3]]), Weight("a/bias", [0, 0]), Weight("<b>/kernel", [2, 2])]
    weights += [Weight("c/kernel", [0, 2000]), Weight("d/kernel", [0, math.nan])]
    stats = visualize.display_weight_stats(SimpleNamespace(weights=weights))
    assert [row["remark"] for row in stats.rows] == ["", "", "dead?", "overflow?", "not finite"]
    assert stats.rows[0] == {
        **{"name": "a/kernel", "shape": (1, 2), "min": -3, "max": 1, "mean": -1, "std": 2, "remark": ""},
    }
    lines = str(stats).splitlines()
    assert len(lines) == 6 and lines[1].split() == ["a/kernel", "(1,", "2)", "-3.0000", "+1.0000", "-1.0000", "+2.0000"]
    markup = stats._repr_html_()
    assert "&lt;b&gt;/kernel" in markup and "<em>dead?</em>" in markup and markup.count("<tr>") == 6
    facade = SimpleNamespace(keras_model=SimpleNamespace(weights=weights[:1]))
    assert len(visualize.display_weight_stats(facade).rows) == 1


def test_display_weight_stats_of_a_network(tiny_model):
    stats = visualize.display_weight_stats(tiny_model)
    assert len(stats.rows) == len(tiny_model.keras_model.weights)
    assert all(row["min"] <= row["mean"] <= row["max"] for row in stats.rows)
    assert "rpn_class_raw/kernel" in "\n".join(row["name"] for row in stats.rows)


def test_log_describes_arrays(capsys):
    from siamese_mrcnn_tf.model import log

    log("rois", np.arange(6, dtype=np.float32).reshape(2, 3))
    log("none", np.zeros((0, 4)))
    log("only a text")
    rois, none, text = capsys.readouterr().out.splitlines()
    assert rois.split() == "rois (2, 3) float32 min 0.00000 max 5.00000".split()
    assert none.endswith("empty") and text == "only a text"


def test_display_table_is_a_table_in_notebooks_and_text():
    table = visualize.display_table([["name", "count"], ["<b>", 2]])
    assert "&lt;b&gt;" in table._repr_html_() and str(table).splitlines()[1] == "<b>  2"
    assert visualize.display_table([])._repr_html_() == ""
