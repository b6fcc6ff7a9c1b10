"""Evaluations side by side: differences, their intervals, and what cannot be compared."""

import csv
import json
import re

import pytest
from test_report import open_evaluation, write_evaluation

from siamese_mrcnn_tf.report.comparison import compare

SAME = {"seed": 0, "images": [1, 2], "subset": "val"}


@pytest.fixture
def two(tmp_path):
    """AP50 of boxes: 21, 21.1, 21.2 before and 31, 31.1, 31.2 after."""
    folders = [tmp_path / "before", tmp_path / "after"]
    for folder, base in zip(folders, (0.2, 0.3), strict=True):
        write_evaluation(folder, base=base, **SAME)
    return folders


def row_of(comparison, part, kind, metric):
    return next(row for row in comparison.rows if (row.part, row.kind, row.metric) == (part, kind, metric))


def test_differences_run_by_run(two):
    comparison = compare(two)
    row = row_of(comparison, "S1, novel categories", "boxes", "AP50")
    assert [mean for mean, _ in row.values] == pytest.approx([21.1, 31.1])
    assert row.values[0][1] == pytest.approx(1.96 * 0.1 * (2 / 3) ** 0.5 / 3**0.5)
    assert row.differences[0] == pytest.approx((10, 0), abs=1e-9)  # each run gains the same
    masks = row_of(comparison, "S1, novel categories", "masks", "AP")
    assert [mean for mean, _ in masks.values] == pytest.approx([15.1, 25.1])
    ellipse = row_of(comparison, "S1, category ellipse", "boxes", "AP50")
    assert ellipse.values[0][0] == pytest.approx(23.1) and ellipse.differences[0][0] == pytest.approx(10)
    assert "run by run" in comparison.notes[0] and len(comparison.notes) == 3
    assert "not the choice of images" in comparison.notes[1]
    assert comparison.notes[2] == "S1, one instance, so the score says little: 1 of 3 categories (rectangle)."


def test_independent_runs(two):
    """Other seeds draw other references: intervals add up as those of independent runs."""
    write_evaluation(two[1], base=0.3, **SAME | {"seed": 1})
    comparison = compare(two)
    row = row_of(comparison, "S1, novel categories", "boxes", "AP50")
    assert row.differences[0] == pytest.approx((10, 2**0.5 * row.values[0][1]))
    assert "independent runs" in comparison.notes[0] and comparison.notes[3].startswith("seed: 0 in ")


def test_losses_and_a_single_run(two):
    for folder, base in zip(two, (0.3, 0.2), strict=True):
        write_evaluation(folder, base=base, runs=1, masks=False, **SAME)
    comparison = compare(two)
    row = row_of(comparison, "S1, novel categories", "boxes", "AP50")
    assert row.differences[0][0] == pytest.approx(-10) and row.differences[0][1] is None
    line = next(line for line in comparison.text().splitlines() if "AP50" in line)
    assert line.split() == ["S1,", "novel", "categories", "boxes", "AP50", "%", "31.0", "21.0", "-10.0"]
    assert not any("ntervals" in note for note in comparison.notes[1:])  # a single run has none


def test_train_and_novel_groups(two):
    """Of split 1 the first of the three categories is novel; ids are 3, 7 and 18."""
    for folder in two:
        write_evaluation(folder, base=0.2, category_set="all", **SAME)
    comparison = compare(two)
    assert row_of(comparison, "S1, novel categories", "boxes", "AP50").values[0][0] == pytest.approx(20 + 3 + 0.1)
    assert row_of(comparison, "S1, train categories", "boxes", "AP50").values[0][0] == pytest.approx(20 + 12.5 + 0.1)


def test_all_splits_and_three_folders(tmp_path):
    folders = [tmp_path / name for name in ("a", "b", "c")]
    for folder in folders:
        for split in (1, 2):
            write_evaluation(folder / f"split_{split}", split=split, **SAME)
    comparison = compare(folders)
    assert {row.part for row in comparison.rows} >= {"S1, novel categories", "S2, novel categories"}
    assert all(len(row.values) == 3 and len(row.differences) == 2 for row in comparison.rows)


def test_written_files(two, tmp_path, run):
    code, text, _ = run("evaluate", "--compare", *two, "--out", tmp_path / "out")
    assert code == 0 and "+10.0 ± 0.00" in text and "after - before" in text
    with open(tmp_path / "out" / "comparison.csv", newline="") as file:
        row = next(row for row in csv.DictReader(file) if (row["kind"], row["metric"]) == ("boxes", "AP50"))
    assert float(row["after"]) == pytest.approx(31.1) and float(row["after - before"]) == pytest.approx(10)
    content = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert content["evaluations"] == ["before", "after"] and len(content["rows"]) == 10
    assert "| +10.0 ± 0.00 |" in (tmp_path / "out" / "comparison.md").read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": [1, 3, 4]}, "images = 3 entries there and 2 entries here"),
        ({"subset": "train"}, "subset = 'train' there and 'val' here"),
        ({"category_set": "train"}, "category_set = 'train' there and 'novel' here"),
        ({"shots": 5}, "shots = 5 there and 1 here"),
        ({"masks": False}, "only one of them has masks"),
        ({"split": 2}, "is of split 2, but .* of split 1"),
    ],
)
def test_what_cannot_be_compared(two, change, message):
    write_evaluation(two[1], **SAME | change)
    with pytest.raises(ValueError, match=message):
        compare(two)


def test_other_annotations_are_not_compared(two):
    """Sets of the same name, image ids and categories; without an analysis nobody knows."""
    path = two[1] / "analysis.json"
    content = json.loads(path.read_text())
    content["num_instances"]["3"] = 1499
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="1499 instances of ellipse there and 1500 here$"):
        compare(two)
    path.unlink()
    assert compare(two).rows


def test_other_settings_are_named(two):
    config = {"DETECTION_MIN_CONFIDENCE": 0.7}
    write_evaluation(two[0], config=config, **SAME)
    write_evaluation(two[1], config={"DETECTION_MIN_CONFIDENCE": 0.05}, **SAME | {"protocol": "default"})
    notes = compare(two).notes
    assert notes[3].startswith("protocol: 'paper' in ")
    assert notes[4].startswith("DETECTION_MIN_CONFIDENCE: 0.7 in ")
    assert "same --min-confidence and with --no-verify" in notes[5] and len(notes) == 6


@pytest.mark.parametrize(("name", "is_threshold"), [("VERIFY_DETECTIONS", True), ("DETECTION_MAX_INSTANCES", False)])
def test_advice_where_thresholds_or_verification_differ(two, name, is_threshold):
    for folder, value in zip(two, (1, 0), strict=True):
        write_evaluation(folder, config={name: value}, **SAME)
    assert any("--min-confidence" in note for note in compare(two).notes) == is_threshold


def test_categories_with_few_instances_are_named(two, run, tmp_path):
    """As `evaluate` names them, in the text and in the files."""
    for folder in two:
        path = folder / "analysis.json"
        content = json.loads(path.read_text())
        content["num_instances"] |= {"3": 0}
        path.write_text(json.dumps(content))
    code, text, _ = run("evaluate", "--compare", *two, "--out", tmp_path / "out")
    named = ["S1, no instance in the images, so no score: 1 of 3 categories (ellipse)."]
    named.append("S1, one instance, so the score says little: 1 of 3 categories (rectangle).")
    assert code == 0 and all(line in text.splitlines() for line in named)
    for suffix in ("md", "json"):
        assert all(line in (tmp_path / "out" / f"comparison.{suffix}").read_text() for line in named)


def test_each_metric_has_a_unit(two, run, tmp_path):
    for folder in two:
        open_evaluation(folder, **SAME | {"absent": 3})
    comparison = compare(two)
    units = {row.metric: row.unit for row in comparison.rows}
    assert units["AP50"] == units["recall"] == "%" and units["IL_MCC"] == "-1 to 1" and units["cgF1"] == "0 to 100"
    assert comparison.table().heads[3] == "unit"


def test_one_folder_is_not_compared(two, run):
    code, _, errors = run("evaluate", "--compare", two[0])
    assert code == 2 and "expected two evaluations or more" in errors
    code, _, errors = run("evaluate", "--compare", two[0], two[0].parent)
    assert code == 2 and "no finished evaluation there" in errors


def test_one_of_two_searched_for_absent_categories(two):
    """What both have is compared; images without any category, which only the open protocol searches, do not count."""
    open_evaluation(two[1], **SAME | {"absent": 3, "images": [1, 2, 9]})
    comparison = compare(two)
    assert row_of(comparison, "S1, novel categories", "boxes", "AP50").differences[0][0] == pytest.approx(0)
    assert not any("absent" in row.part for row in comparison.rows)
    assert len(comparison.notes) == 4 and re.search("Presence is left out.*: none in .*, 3 in ", comparison.notes[3])
    open_evaluation(two[0], **SAME | {"absent": "all", "images": [1, 2, 8, 9]})
    assert re.search("left out.*: all in .*before, 3 in .*after", compare(two).notes[3])
    open_evaluation(two[0], **SAME | {"absent": 3, "images": [1, 2, 9]})
    assert any("absent" in row.part for row in compare(two).rows) and len(compare(two).notes) == 3


def test_other_images_are_not_those_of_the_open_protocol(two):
    open_evaluation(two[1], **SAME | {"absent": 3, "images": [1, 3]})
    with pytest.raises(ValueError, match="images = 2 entries there and 2 entries here"):
        compare(two)
    open_evaluation(two[1], **SAME | {"absent": 3, "images": [1, 2, 3]})
    scores = json.loads((two[1] / "scores.json").read_text())
    (two[1] / "scores.json").write_text(json.dumps(scores | {"num_images": 1235}))
    with pytest.raises(ValueError, match="images = 3 entries there"):
        compare(two)


def test_a_comparison_begins_with_weights_and_data(two):
    for folder, weights in zip(two, ("a.h5", "b.h5"), strict=True):
        write_evaluation(folder, **SAME | {"weights_file": weights, "dataset": "mine", "set": "val2017"})
    comparison = compare(two)
    assert comparison.about[1] == "after: `b.h5` on mine (val2017): 2 images, 3 categories, 3 runs."
    assert comparison.text().startswith("before: a.h5 on mine (val2017)")
