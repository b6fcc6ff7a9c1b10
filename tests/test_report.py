"""Reports: tables, CSV, JSON and plots of evaluations, and what cannot be reported."""

import base64
import csv
import html
import io
import json
import re
import warnings

import coco_tree
import numpy as np
import pytest
from matplotlib import cbook
from matplotlib.text import Text
from PIL import Image
from pycocotools.coco import COCO

from siamese_mrcnn_tf import IndexedCocoDataset, TinyConfig
from siamese_mrcnn_tf.data.coco import CATEGORIES as COCO_CATEGORIES
from siamese_mrcnn_tf.data.coco import split_category_ids
from siamese_mrcnn_tf.evaluation import coco_scores, presence, protocol
from siamese_mrcnn_tf.io import files
from siamese_mrcnn_tf.ops.boxes import extract_bboxes
from siamese_mrcnn_tf.report import about, experiments, gallery, markup, plots, published, tables, writer

CATEGORIES = {3: "ellipse", 7: "rectangle", 18: "triangle"}
BINS = ["1", "2", "11+"]


def write_evaluation(folder, *, base=0.2, runs=3, masks=True, analysis=True, ids=(3, 7, 18), coco=False, **settings):
    """An evaluation whose metric k of run r is base + k / 100 + r / 1000; masks are 0.05 below boxes.

    With `coco` it is of COCO val2017, though only the categories `ids` have scores.
    """
    kinds = {"bbox": base, "segm": base - 0.05} if masks else {"bbox": base}
    scores = {"runs": [], "num_images": 1234, "num_queries": 5000, "num_results": 99}
    for run in range(runs):
        metrics = {
            kind: {name: at + k / 100 + run / 1000 for k, name in enumerate(published.METRICS)}
            for kind, at in kinds.items()
        }
        rows = {kind: {i: {"AP": at, "AP50": at + run / 1000 + i / 100} for i in ids} for kind, at in kinds.items()}
        scores["runs"].append(metrics | {"per_class": rows})
    files.write_json(folder / "scores.json", scores)
    described = {"split": 1, "shots": 1, "runs": runs, "protocol": "paper", "category_set": "novel"} | settings
    described["categories"] = [{"id": i, "name": CATEGORIES[i]} for i in ids]
    if coco:
        of_split = split_category_ids(described["split"], described["category_set"] if described["split"] else "all")
        described["categories"] = [{"id": i, "name": COCO_CATEGORIES[i]} for i in of_split]
        described |= {"coco": "val2017", "set": "val2017", "dataset": "anywhere"}
    files.write_json(folder / "settings.json", described)
    if analysis:
        files.write_json(folder / "analysis.json", make_analysis(kinds, runs, ids))
    return folder


def make_analysis(kinds, runs, ids):
    numbers = {"bins": BINS, "num_queries": [1000, 50, 0], "num_instances": [1000, 100, 0]}
    numbers["runs"] = [
        {kind: {name: [at + run / 100, at / 2, None] for name in ("AP", "AP50")} for kind, at in kinds.items()}
        for run in range(runs)
    ]
    matrix = [[0.5 if i == j else None if 18 in (i, j) else 0.1 for j in ids] for i in ids]
    histogram = {"histogram": [0.1] * len(ids), "histogram_interval": [None] + [0.01] * (len(ids) - 1)}
    confusion = {"category_ids": list(ids)} | {kind: {"matrix": matrix, **histogram} for kind in kinds}
    return {
        "category_names": {str(i): CATEGORIES[i] for i in ids},
        "num_instances": {str(i): 1 if i == 7 else 1500 for i in ids},
        "by_number": numbers,
        "confusion": confusion,
    }


@pytest.fixture(scope="module")
def four_splits(tmp_path_factory):
    """Evaluations of COCO's four splits."""
    folder = tmp_path_factory.mktemp("splits")
    return [write_evaluation(folder / f"s{split}", split=split, base=0.1 * split, coco=True) for split in (3, 1, 4, 2)]


@pytest.fixture(scope="module")
def split_report(tmp_path_factory, four_splits):
    """The folder of their report, and the paths that `write_report` returned."""
    out = tmp_path_factory.mktemp("report")
    return out, writer.write_report(four_splits, out)


def rows_of(text, first):
    """Cells of the lines of a Markdown table that start with a cell, and of the line after each."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    return [(line, after) for line, after in zip(lines, lines[1:], strict=False) if line[0] == first]


# ---- published metrics -----------------------------------------------------------------------------------------------


def test_published_means_are_the_papers():
    """The AP50 of the paper's text: mean of the splits, detection and segmentation."""
    expected = {
        (1, published.MEAN, "train"): (37.6, 34.9),
        (1, published.MEAN, "novel"): (16.3, 14.5),
        (5, published.MEAN, "train"): (41.3, 38.4),
        (5, published.MEAN, "novel"): (18.5, 16.8),
        (1, 0, "all"): (35.5, 33.1),
    }
    for (shots, split, categories), pair in expected.items():
        found = [published.published(shots, split, categories, kind)["AP50"][0] for kind in ("bbox", "segm")]
        assert tuple(found) == pair
    random = [published.published(1, published.MEAN, "novel", kind, model="random-boxes") for kind in ("bbox", "segm")]
    assert [metrics["AP50"][0] for metrics in random] == [1.2, 0.5] and set(random[0]) == {"AP50"}


def test_published_tables_are_whole_and_consistent():
    for shots in (1, 5):
        for categories in ("train", "novel"):
            for kind in ("bbox", "segm"):
                rows = [published.published(shots, split, categories, kind) for split in (1, 2, 3, 4)]
                mean = published.published(shots, published.MEAN, categories, kind)
                assert all(tuple(row) == published.METRICS for row in [*rows, mean])
                for name in published.METRICS:
                    assert mean[name][0] == pytest.approx(np.mean([row[name][0] for row in rows]), abs=0.1)
    assert published.published(1, 0, "train", "bbox") == published.published(1, 0, "all", "bbox")


def test_metrics_are_those_of_scoring():
    assert published.METRICS == coco_scores.METRICS


def test_what_was_not_published_is_empty():
    assert published.published(3, 1, "novel", "bbox") == published.published(1, 1, "all", "bbox") == {}
    published.published(1, 1, "novel", "bbox").clear()
    assert published.published(1, 1, "novel", "bbox")["AP50"] == (15.3, 0.24)


# ---- tables ----------------------------------------------------------------------------------------------------------


def test_main_table_of_four_splits(split_report):
    out, _ = split_report
    text = (out / "report.md").read_text()
    assert "| AP50 in percent |  | S1 | S2 | S3 | S4 | mean |" in text
    (here, there), (masks, _) = rows_of(text, "1-shot, novel categories")[4:6]  # after the four sources
    interval = f"{1.96 * np.std([0, 0.1, 0.2]) / np.sqrt(3):.2f}"
    assert here[2:] == [f"{value} ± {interval}" for value in ("11.1", "21.1", "31.1", "41.1", "26.1")]
    assert masks[2] == f"6.1 ± {interval}"
    assert there[1:3] == ["*published*", "*15.3 ± 0.24*"] and there[-1] == "*16.3 ± 0.06*"


def test_the_published_mean_stands_only_beside_all_splits(tmp_path, four_splits):
    writer.write_report(four_splits[:2], tmp_path / "out")
    text = (tmp_path / "out" / "report.md").read_text()
    here, there = rows_of(text, "1-shot, novel categories")[2]
    assert "| AP50 in percent |  | S1 | S3 | mean |" in text
    assert here[-1].startswith("21.1") and there[2:] == ["*15.3 ± 0.24*", "*16.7 ± 0.36*", ""]


@pytest.fixture
def table_1(tmp_path):
    """Folder with evaluations of all splits: train and novel categories, one and five references, random boxes."""
    found = [tmp_path / "results" / name for name in ("random", "novel_1", "train_1", "novel_5")]
    bases = (("random-boxes", "novel", 1, 0.05), (None, "novel", 1, 0.2), (None, "train", 1, 0.4))
    for folder, (model, part, shots, base) in zip(found, (*bases, (None, "novel", 5, 0.3)), strict=True):
        for split in (1, 2, 3, 4):
            about_it = {"split": split, "category_set": part, "shots": shots, "model": model, "base": base}
            write_evaluation(folder / f"split_{split}", coco=True, **about_it)
    return tmp_path / "results"


def test_one_table_in_the_form_of_the_papers(table_1, tmp_path, run):
    code, text, _ = run(
        "evaluate", "--report", table_1 / "random", *sorted(table_1.glob("*_?")), "--out", tmp_path / "out"
    )
    assert code == 0
    assert (
        "| AP50 in percent | detection, train | detection, novel | segmentation, train | segmentation, novel |" in text
    )
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()[4:10]]
    assert [row[0] for row in rows] == ["1-shot", "*published*", "5-shot", "*published*", "Random boxes", "*published*"]
    interval = f"{1.96 * np.std([0, 0.1, 0.2]) / np.sqrt(3):.2f}"
    assert rows[0][1:] == [f"{value} ± {interval}" for value in ("41.1", "21.1", "36.1", "16.1")]
    assert [cell[:5] for cell in rows[1][1:]] == ["*37.6", "*16.3", "*34.9", "*14.5"]
    assert rows[2][1:] == ["", f"31.1 ± {interval}", "", f"26.1 ± {interval}"] and rows[5][1] == ""
    assert "| 1-shot | 41.1" in (tmp_path / "out" / "report.md").read_text()


def test_a_table_is_printed_without_a_folder(table_1, run, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    code, text, errors = run("evaluate", "--report", table_1 / "novel_1" / "split_2", "--runs", 1)
    assert code == 0 and "| 1-shot | 21.1" in text and "--runs has no effect with --report" in errors
    assert not (tmp_path / "evaluation").exists()
    assert "| 1-shot | 41.1" in run("evaluate", "--report", table_1)[1]
    (tmp_path / "empty").mkdir()
    code, _, errors = run("evaluate", "--report", tmp_path / "empty")
    assert code == 2 and "no finished evaluation there" in errors


def test_unfinished_and_repeated_folders_in_a_table(table_1, run, caplog):
    (table_1 / "novel_5" / "split_3" / "scores.json").unlink()
    code, text, _ = run("evaluate", "--report", table_1, table_1 / "novel_1" / "split_2")
    assert code == 0 and "left out, without scores.json: " in caplog.text and "split_3" in caplog.text
    assert "(S1, S2, S4) |" in text and "(S1, S2, S3, S4) |" in text  # as the splits differ
    assert text.count("| S3 |") == 3 and text.count("| S2 |") == 4  # of the evaluations, each once


def test_experiments_stand_in_the_order_of_the_paper(tmp_path):
    kinds = [(5, "novel", 1, "net"), (1, "novel", 1, "random-boxes"), (1, "novel", 1, "net"), (1, "train", 1, "net")]
    kinds += [(1, "all", 0, "net"), (2, "train", 1, "net")]
    folders = [
        write_evaluation(tmp_path / str(n), shots=shots, category_set=part, split=split, model=model, coco=True)
        for n, (shots, part, split, model) in enumerate(kinds)
    ]
    found = experiments.read_experiments(folders)
    assert [experiment.title for experiment in found] == [
        "1-shot, all 80 categories",
        "1-shot, train categories",
        "1-shot, novel categories",
        "2-shot, train categories",
        "5-shot, novel categories",
        "random boxes, novel categories",
    ]
    text = tables.as_markdown(tables.contents(found))
    assert "| AP50 in percent |  | S1 | all |" in text
    here, there = rows_of(text, "Random boxes, novel categories")[1]
    assert there[2:] == ["*0.8 ± 0.04*", ""]
    assert rows_of(text, "2-shot, train categories")[1][1][0] == "5-shot, novel categories"  # nothing was published


def test_controls_are_experiments_of_their_own_without_published_metrics(tmp_path):
    kinds = [(1, "present"), (5, "absent"), (1, None), (5, "present"), (1, "absent")]
    folders = [
        write_evaluation(
            tmp_path / f"{shots}{control}", shots=shots, coco=True, **{"control": control} if control else {}
        )
        for shots, control in kinds
    ]
    found = experiments.read_experiments(folders)
    assert [(experiment.model, experiment.shots) for experiment in found] == [
        *((None, 1), ("control-absent", 1), ("control-absent", 5), ("control-present", 1), ("control-present", 5))
    ]
    assert found[1].title == "1-shot, reference of a category that is absent, novel categories"
    assert [experiment.is_control for experiment in found] == [False, True, True, True, True]
    assert len({experiment.slug for experiment in found}) == 5
    assert found[0].published(1, "bbox") and not any(control.published(1, "bbox") for control in found[1:])
    here, there = rows_of(tables.as_markdown(tables.contents(found)), found[1].title)[1]
    assert here[-1].startswith("21.1") and there[1] == "here"


def test_own_data_is_named_and_has_nothing_of_the_paper(tmp_path):
    names = {"split": 0, "set": "val2017", "dataset": "mine", "weights_file": "last.h5", "protocol": "default"}
    folder = write_evaluation(tmp_path / "a", images=[5, 6], **names)
    writer.write_report([folder], tmp_path / "out")
    for name in ("report.md", "report.html"):
        text = (tmp_path / "out" / name).read_text()
        words = re.sub(r"data:image/[^\"]+|<style>.*?</style>", "", text, flags=re.DOTALL)
        assert not re.search(r"80|COCO val|[Pp]ublished|paper|default|split", words)
        assert "Evaluation on mine (val2017)" in words
    text = (tmp_path / "out" / "report.md").read_text()
    assert text.splitlines()[2] == "`last.h5` on mine (val2017): 2 images, 3 categories, 3 runs."
    (main, _), *_ = rows_of(text, "1-shot, all 3 categories")[1:]
    assert len(main) == 3 and main[1].startswith("21.1 ± ")  # detection and segmentation in one table
    assert "| category | instances | AP50 detection (%) |" in text
    found = json.loads((tmp_path / "out" / "report.json").read_text())["about"]
    assert found == {"weights": ["last.h5"], "data": "mine (val2017)", "images": 2, "categories": 3, "runs": 3}


def test_published_results_need_the_images_and_the_categories(tmp_path):
    of_coco = write_evaluation(tmp_path / "a", split=0, coco=True)
    (one,) = experiments.read_experiments([of_coco])
    assert one.published(0, "bbox")["AP50"] == (35.5, 0.15) and one.title == "1-shot, all 80 categories"
    assert about.data_name(one.evaluations[0].settings) == "COCO val2017"
    for change in ({"coco": "train2017"}, {"coco": None}, {"categories": [{"id": 1, "name": "person"}]}):
        settings = json.loads((of_coco / "settings.json").read_text()) | change
        files.write_json(write_evaluation(tmp_path / "b", split=0) / "settings.json", settings)
        (other,) = experiments.read_experiments([tmp_path / "b"])
        assert other.published(0, "bbox") == {}


def test_a_single_category_has_no_confusion(tmp_path):
    folder = write_evaluation(tmp_path / "a", ids=(7,), split=0)
    paths = writer.write_report([folder], tmp_path / "out")
    text = (tmp_path / "out" / "report.md").read_text()
    assert "Confusion" not in text and not any("confusion" in path.name for path in paths)
    assert "1-shot, one category" in text


def test_what_was_evaluated_in_words():
    settings = [{"weights_file": f"{n}.h5", "dataset": "x", "set": "x", "images": [n], "runs": 1} for n in range(4)]
    assert about.about_text(settings[:2]) == "`0.h5`, `1.h5` on x: 2 images, 1 run."
    assert about.about_text(settings) == "4 weight files on x: 4 images, 1 run."
    assert about.about_text([{"model": "random-boxes", "set": "val"}]) == "Random boxes on val."
    assert about.about_text([{}]) == "A model without a weight file on a data set."


def test_full_tables_have_all_metrics(tmp_path, four_splits):
    found = experiments.read_experiments(four_splits)
    text = tables.as_markdown(tables.contents(found))
    header = "| in percent | split |  | AP | AP50 | AP75 | APs | APm | APl | AR1 | AR10 | AR100 | ARs | ARm | ARl |"
    assert header in text
    here, there = rows_of(text.partition(header)[2], "detection")[0]
    assert here[1] == "S1" and [cell[:4] for cell in here[3:5]] == ["10.1", "11.1"] and here[-1].startswith("21.1")
    assert there[3] == "*8.6 ± 0.17*" and there[-1] == "*43.2 ± 0.91*"


def test_csv_and_json_hold_every_metric(split_report):
    out, _ = split_report
    with open(out / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 5 * 2 * 12
    row = next(row for row in rows if (row["split"], row["kind"], row["metric"]) == ("mean", "segm", "AP50"))
    assert [float(row[f"run_{n}"]) for n in range(3)] == pytest.approx([21.0, 21.1, 21.2])
    assert float(row["mean"]) == pytest.approx(21.1) and float(row["published"]) == 14.5
    content = json.loads((out / "report.json").read_text())
    assert len(content["metrics"]) == len(rows) and content["evaluations"][0]["settings"]["split"] == 1
    assert [row["name"] for row in content["per_class"]] == ["ellipse", "rectangle", "triangle"]
    assert content["per_class"][0]["bbox_AP50"] == pytest.approx(28.1)


def test_categories_by_number_and_confusion(split_report):
    out, paths = split_report
    text = (out / "report.md").read_text()
    ((line, _),) = rows_of(text, "rectangle")[-1:]
    assert line[1:3] == ["S1, S2, S3, S4", "1"] and "Of a category with a single instance" in text
    numbers = text.partition("instances of the category |")[2]
    queries, boxes = rows_of(numbers, "1-shot, novel categories")[0]
    assert queries[2:] == ["4,000", "200"] and boxes[2].startswith("26.0 ± ") and boxes[3:] == ["12.5 ± 0.00"]
    assert ["ellipse", "rectangle", "10.0"] in [line for line, _ in rows_of(text, "ellipse")]
    confusion = (out / "confusion_1shot_novel_s1_bbox.csv").read_text().splitlines()
    assert confusion[0] == "searched \\ found,ellipse,rectangle,triangle" and confusion[1] == "ellipse,50.0,10.0,"
    assert {path.name for path in paths} >= {"by_number.csv", "per_class.csv", "by_number_1shot.png"}
    assert {path.name for path in paths} == {path.name for path in out.iterdir()}


def test_categories_of_different_splits_are_put_together(tmp_path):
    folders = [write_evaluation(tmp_path / "a", ids=(3,)), write_evaluation(tmp_path / "b", ids=(7, 18), split=2)]
    (experiment,) = experiments.read_experiments(folders)
    found = experiment.classes()
    assert [(row["name"], row["splits"]) for row in found] == [("ellipse", [1]), ("rectangle", [2]), ("triangle", [2])]


def test_one_evaluation_without_masks_and_analysis(tmp_path):
    folder = write_evaluation(tmp_path / "a", masks=False, analysis=False, runs=1, shots=3)
    paths = writer.write_report([folder], tmp_path / "out")
    text = (tmp_path / "out" / "report.md").read_text()
    assert "Segmentation" not in text and "Figure 5" not in text and "in percent, of one run." in text
    assert rows_of(text, "3-shot, novel categories")[1][0][1:] == ["21.0"]  # a single run has no interval
    assert [path.name for path in paths] == [
        *("report.html", "report.md", "metrics.csv", "per_class.csv", "report.json", "per_class_3shot_novel.png"),
    ]


def test_metrics_without_ground_truth(tmp_path):
    folder = write_evaluation(tmp_path / "a")
    scores = json.loads((folder / "scores.json").read_text())
    for run in scores["runs"]:
        run["bbox"]["AP_large"] = run["per_class"]["bbox"]["18"]["AP50"] = -1
    files.write_json(folder / "scores.json", scores)
    writer.write_report([folder], tmp_path / "out")
    text = (tmp_path / "out" / "report.md").read_text()
    assert rows_of(text, "detection")[0][0][7] == "n/a"
    assert rows_of(text, "triangle")[-1][0][3] == "n/a"
    assert '"mean": null' in (tmp_path / "out" / "report.json").read_text()


def test_the_same_report_every_time(tmp_path, four_splits, split_report):
    """Also with the folders in another order."""
    out, _ = split_report
    first = {path.name: path.read_bytes() for path in out.iterdir()}
    writer.write_report(four_splits[::-1], tmp_path)
    again = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    texts = [name for name in first if not name.endswith(".png")]
    assert again.keys() == first.keys() and all(again[name] == first[name] for name in texts)


# ---- the page --------------------------------------------------------------------------------------------------------


class Seeing:
    """A detector that finds the first instance of the category, and beside it a box at the upper left."""

    needs_references, name, config = True, "seeing", TinyConfig()

    def search(self, dataset, image_id, queries):
        found = []
        for query in queries:
            first = dataset.instance_mask(image_id, dataset.instances_of(image_id, query.class_id)[0])
            corner = np.zeros_like(first)
            corner[:6, :6] = True
            masks = np.stack([first, corner, corner], axis=-1)
            scores = np.array([0.9, 0.7, 0.2])
            found.append({"rois": extract_bboxes(masks), "scores": scores, "masks": masks, "class_ids": [1, 1, 1]})
        return found


@pytest.fixture
def evaluated(tmp_path):
    """A finished evaluation on images: (folder, data set); 3 images with 2 of 3 categories each."""
    coco_tree.write_tree(tmp_path / "tree", subset="val")
    dataset = IndexedCocoDataset()
    coco = dataset.load_coco(tmp_path / "tree", "val", return_coco=True)
    dataset.prepare()
    dataset.build_indices()
    about = {"split": 0, "category_set": "all"}
    protocol.evaluate(
        Seeing(), dataset, coco, shots=2, runs=1, folder=tmp_path / "run", about=about, exclude_query_image=True
    )
    return tmp_path / "run", dataset


def images_of(page):
    uris = re.findall(r'src="data:image/[a-z]+;base64,([^"]+)"', page)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(uri))).convert("RGB")) for uri in uris]


def test_page_has_tables_and_plots(split_report):
    out, paths = split_report
    page = paths[0].read_text()
    assert paths[0].name == "report.html" and "<h2>Examples</h2>" not in page
    assert page.count("<h1>") == 1 and "<em>15.3 ± 0.24</em>" in page and "<code>s1</code>" in page
    assert "<em>Published</em>: the paper" in page and "1.96 * std / sqrt(runs)" in page and "confusion_*.csv" in page
    headings = re.findall(r"<h[23]>(.*?)</h[23]>", page)
    in_text = re.findall(r"^##+ (.*)$", (out / "report.md").read_text(), re.MULTILINE)
    assert [html.unescape(heading) for heading in headings] == in_text
    plotted = [np.asarray(Image.open(path).convert("RGB")) for path in paths if path.suffix == ".png"]
    shown = images_of(page)
    assert len(shown) == len(plotted) == 1 + 1 + 4 * 2
    assert sorted(plot.shape for plot in shown) == sorted(plot.shape for plot in plotted)


def test_page_escapes_names(tmp_path, monkeypatch):
    monkeypatch.setitem(CATEGORIES, 3, "<b>evil</b>")
    paths = writer.write_report([write_evaluation(tmp_path / "a<i>")], tmp_path / "out")
    page = paths[0].read_text()
    assert "&lt;b&gt;evil&lt;/b&gt;" in page and "<b>" not in page and "<i>" not in page


def test_long_tables_are_folded():
    table = tables.Table(["n"], [[str(number)] for number in range(31)])
    (folded,) = tables.as_html([tables.Section("t", [table])], None)
    assert folded.startswith("<details>\n<summary>31 rows</summary>")
    table = tables.Table(["n"], table.rows[:30])
    assert "<details>" not in tables.as_html([tables.Section("t", [table])], None)[0]


def test_examples_stand_behind_the_main_tables(tmp_path, evaluated):
    folder, dataset = evaluated
    writer.write_report([folder], tmp_path / "out", dataset, limit=4)
    page = (tmp_path / "out" / "report.html").read_text()
    headings = re.findall(r"<h2>(.*?)</h2>", page)
    assert headings[:3] == ["AP50", "Examples", "All metrics"]
    titles = re.findall(r"<h4>(.*?)</h4>", page)
    assert len(titles) == 4 and re.fullmatch(r"ellipse, \d+\.png: 1 of 1 found, 1 false \(rank 1 of 2\)", titles[0])
    row = page.partition('<div class="row">')[2].partition("</div>")[0]
    captions = re.findall("<figcaption>(.*?)</figcaption>", row)
    assert re.fullmatch(r"reference: ellipse, \d+\.png", captions[0]) and len(captions) == 4
    assert captions[2:] == ["detections: 1 right, 1 false (score 0.5 or more)", "ground truth: 1, none missed"]
    assert [max(image.shape) for image in images_of(row)] == [200, 200, 500, 500]


def test_gallery_paints_what_is_right_and_what_is_wrong(evaluated):
    folder, dataset = evaluated
    example = gallery.examples(folder, dataset, limit=1)[0]
    found, truth = (cell.pixels.astype(int) for cell in example.cells[2:])
    assert found[0, 0].tolist() == [255, 128, 0]  # the frame of the false detection
    blue = np.all(found == (26, 115, 255), axis=-1)
    assert blue.any() and np.array_equal(np.all(truth == (26, 115, 255), axis=-1).any(axis=0), blue.any(axis=0))
    assert not np.any(np.all(truth == (255, 128, 0), axis=-1))
    everything = gallery.examples(folder, dataset, limit=1, threshold=0.1)[0]
    assert "1 of 1 found, 2 false" in everything.title
    nothing = gallery.examples(folder, dataset, limit=1, threshold=0.95)[0]
    assert "0 of 1 found, 0 false" in nothing.title and nothing.cells[3].caption == "ground truth: 1, 1 missed"
    assert np.all(nothing.cells[3].pixels == (255, 128, 0), axis=-1).any()


class Silent(Seeing):
    """Finds nothing where the category is absent, but for one category."""

    def search(self, dataset, image_id, queries):
        present = [query for query in queries if dataset.instances_of(image_id, query.class_id)]
        found = iter(super().search(dataset, image_id, present))
        corner = np.zeros((*coco_tree.SIZE, 1), bool)
        corner[:6, :6] = True
        false = {"rois": extract_bboxes(corner), "scores": np.array([0.9]), "masks": corner, "class_ids": [1]}
        none = {name: values[..., :0] if name == "masks" else values[:0] for name, values in false.items()}
        return [next(found) if query in present else false if query.class_id == 1 else none for query in queries]


def test_gallery_of_absent_categories(tmp_path, evaluated):
    folder, dataset = evaluated
    coco = COCO(tmp_path / "tree" / "annotations" / "instances_val2017.json")
    protocol.evaluate(Silent(), dataset, coco, runs=1, absent="all", folder=tmp_path / "open")
    shown = gallery.examples(tmp_path / "open", dataset, limit=20, absent=True)
    assert len(shown) > 3
    for example in shown:
        fires = example.title.startswith(dataset.class_names[1])
        assert ("not there, 1 false" if fires else "not there, nothing found") in example.title
        assert example.cells[-1].caption == "ground truth: 0, none missed"
        orange = np.all(example.cells[-2].pixels == (255, 128, 0), axis=-1)
        assert orange.any() == fires
    present = gallery.examples(tmp_path / "open", dataset, limit=20)
    assert present and not any("not there" in example.title for example in present)


def test_references_of_the_gallery_are_the_recorded_instances(evaluated):
    folder, dataset = evaluated
    records = [json.loads(line) for line in (folder / "records-0001-of-0001.jsonl").read_text().splitlines()[1:]]
    (example,) = gallery.examples(folder, dataset, limit=1)
    image_id = int(re.search(r"(\d+)\.png", example.title)[1])
    query = next(r for r in records if r["image_id"] == image_id)["queries"][0]
    coco_id, annotation_id = query["references"][0]
    assert example.cells[0].caption.endswith(f"{coco_id:012d}.png")
    info = dataset.image_info[dataset.image_from_source_map[f"coco.{coco_id}"]]
    place = [entry["id"] for entry in info["annotations"]].index(annotation_id)
    y1, x1, y2, x2 = extract_bboxes(dataset.instance_mask(info["id"] // 10 - 1, place)[..., None])[0]
    height, width = example.cells[0].pixels.shape[:2]
    assert max(height, width) == 200 and height / width == pytest.approx((y2 - y1) / (x2 - x1), abs=0.02)


def test_missing_images_and_crops_leave_notes(tmp_path, evaluated, caplog):
    folder, dataset = evaluated
    for path in (tmp_path / "tree" / "val2017").iterdir():
        path.unlink()
    writer.write_report([folder], tmp_path / "out", dataset)
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count('<p class="note">') == 6 * 3 and "no such file" in page and "no such file" in caplog.text
    assert gallery._reference(dataset, None).startswith("The reference was given as a crop")
    assert "has no annotation 999 in val2017" in gallery._reference(dataset, [10, 999])
    assert "image 999 is not in val2017" in gallery._reference(dataset, [999, 1])


def test_examples_of_another_data_set_or_without_records(tmp_path, evaluated):
    folder, dataset = evaluated
    coco_tree.write_tree(tmp_path / "other", subset="val", first_id=500)
    other = IndexedCocoDataset()
    other.load_coco(tmp_path / "other", "val")
    other.prepare()
    writer.write_report([folder], tmp_path / "out", other)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "No examples: image 10 is not in val2017: the records are of another data set" in page
    bare = write_evaluation(tmp_path / "bare")
    writer.write_report([bare], tmp_path / "out", dataset)
    assert "No examples: " in (tmp_path / "out" / "report.html").read_text()


def test_examples_are_spread_over_categories_with_best_and_worst():
    ranked = {category: [f"{category}{place}" for place in "abcd"] for category in range(1, 9)}
    assert gallery.choose(ranked, 4) == ["1a", "1d", "8a", "8d"]
    assert gallery.choose(ranked, 6) == ["1a", "1d", "5a", "5d", "8a", "8d"]
    assert gallery.choose({3: ["a", "b", "c"], 5: ["d"]}, 10) == ["a", "b", "c", "d"]
    assert gallery.choose({3: list("abcdef")}, 4) == ["a", "b", "e", "f"]
    assert gallery.choose({}, 4) == []


# ---- what cannot be reported -----------------------------------------------------------------------------------------


def test_folders_without_an_evaluation(tmp_path):
    with pytest.raises(ValueError, match="expected the folder of an evaluation or several, got none"):
        writer.write_report([], tmp_path / "out")
    with pytest.raises(ValueError, match="nowhere: no finished evaluation there, settings.json is missing"):
        writer.write_report([tmp_path / "nowhere"], tmp_path / "out")
    folder = write_evaluation(tmp_path / "a")
    (folder / "scores.json").unlink()
    with pytest.raises(ValueError, match="a: no finished evaluation there, scores.json is missing"):
        writer.write_report([folder], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split": 5}, "settings.json: split = 5, expected one of 0, 1, 2, 3, 4"),
        ({"category_set": "some"}, "category_set = 'some', expected one of all, train, novel"),
        ({"shots": 0}, "shots = 0, expected the number of references of a query"),
    ],
)
def test_bad_settings(tmp_path, change, message):
    folder = write_evaluation(tmp_path / "a", **change)
    with pytest.raises(ValueError, match=re.escape(message)):
        experiments.read_evaluation(folder)


def test_settings_without_a_split_are_of_all_categories(tmp_path):
    folder = write_evaluation(tmp_path / "a")
    settings = json.loads((folder / "settings.json").read_text())
    files.write_json(folder / "settings.json", {"shots": 2, "categories": settings["categories"]})
    assert experiments.read_evaluation(folder).experiment == (None, 2, "all")


def test_old_scores_have_an_interval_of_a_single_run(tmp_path):
    """Scores written by version 0.1 hold 0.0 where there is null now."""
    for name, interval in (("old", 0.0), ("new", None)):
        folder = write_evaluation(tmp_path / name, runs=1)
        means = {"mean": {"bbox": {"AP": 0.2}}, "interval": {"bbox": {"AP": interval}}}
        change_scores(folder, lambda scores, means=means: scores.update(means))
        (experiment,) = experiments.read_experiments([folder])
        assert experiment.metric(1, "bbox", "AP") == (pytest.approx(20), None)


def test_the_kind_of_categories_may_stand_under_categories(tmp_path):
    folder = write_evaluation(tmp_path / "a")
    settings = json.loads((folder / "settings.json").read_text())
    del settings["category_set"]
    files.write_json(folder / "settings.json", settings | {"categories": "train"})
    assert experiments.read_evaluation(folder).experiment == (None, 1, "train")


def change_scores(folder, change):
    scores = json.loads((folder / "scores.json").read_text())
    change(scores)
    files.write_json(folder / "scores.json", scores)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda scores: scores.pop("runs"), "scores.json: the key 'runs' is missing"),
        (lambda scores: scores["runs"].clear(), r"scores.json: runs = \[\]: expected array of length >= 1"),
        (lambda scores: scores.update(format=2), "scores.json: format = 2: written by a newer version"),
        (lambda scores: scores["runs"].pop(), "scores.json: holds 2 of 3 runs"),
        (lambda scores: scores["runs"][1].pop("segm"), r"scores.json: runs\[1\]\.segm: the key 'AP' is missing"),
        (lambda scores: scores["runs"][2]["bbox"].pop("AP75"), r"runs\[2\]\.bbox: the key 'AP75' is missing"),
        (lambda scores: scores["runs"][0].pop("per_class"), r"runs\[0\]: the key 'per_class' is missing"),
        (lambda scores: scores["runs"][0]["bbox"].update(AP="high"), r"runs\[0\]\.bbox\.AP = 'high': expected int"),
    ],
)
def test_scores_of_another_layout(tmp_path, change, message):
    folder = write_evaluation(tmp_path / "a")
    change_scores(folder, change)
    with pytest.raises(ValueError, match=message):
        experiments.read_evaluation(folder)


def test_a_scores_file_cut_short(tmp_path):
    folder = write_evaluation(tmp_path / "a")
    path = folder / "scores.json"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(ValueError, match="scores.json: not JSON at line 1"):
        writer.write_report([folder], tmp_path / "out")


def test_an_analysis_of_something_else(tmp_path):
    folder = write_evaluation(tmp_path / "a", runs=2)
    files.write_json(folder / "analysis.json", make_analysis({"bbox": 0.1, "segm": 0.1}, 3, (3, 7)))
    with pytest.raises(ValueError, match="analysis.json: does not belong to the scores.json beside it"):
        experiments.read_evaluation(folder)
    files.write_json(folder / "analysis.json", {"by_number": {}})
    with pytest.raises(ValueError, match="analysis.json: by_number: the key 'bins' is missing"):
        experiments.read_evaluation(folder)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"protocol": "default"}, "b does not belong to .*a: protocol = 'default' there and 'paper' here"),
        ({"runs": 5}, "runs = 5 there and 3 here"),
        ({"limit": 100}, "limit = 100 there and None here"),
        ({"masks": False}, "only one of them has masks"),
        ({"config": {"DETECTION_MIN_CONFIDENCE": 0.5}}, "DETECTION_MIN_CONFIDENCE = 0.5 there and None here"),
    ],
)
def test_evaluations_that_do_not_belong_together(tmp_path, settings, message):
    folders = [write_evaluation(tmp_path / "a"), write_evaluation(tmp_path / "b", **{"split": 2} | settings)]
    with pytest.raises(ValueError, match=message):
        writer.write_report(folders, tmp_path / "out")


def test_the_same_evaluation_twice(tmp_path):
    folders = [write_evaluation(tmp_path / "a"), write_evaluation(tmp_path / "b")]
    with pytest.raises(
        ValueError, match="b: is of 1-shot, novel categories, split 1, and so is .*a; a report takes one"
    ):
        writer.write_report(folders, tmp_path / "out")


# ---- the open protocol -----------------------------------------------------------------------------------------------


def make_presence(*, runs=3, kinds=("bbox", "segm"), ids=(3, 7, 18), groups=(), base=0.4):
    """Metric k of run r is base + k / 100 + r / 1000; IL_MCC is negative, cgF1 in percent."""
    names = {presence.QUERIES: presence.QUERY_METRICS}
    names |= dict.fromkeys(kinds, dict.fromkeys((*published.METRICS, *presence.INSTANCE_METRICS)))
    signs, found = {"IL_MCC": -1, "cgF1": 100}, []
    for run in range(runs):
        of_kinds = {}
        for kind, of_kind in names.items():
            of_kinds[kind] = {n: signs.get(n, 1) * (base + k / 100 + run / 1000) for k, n in enumerate(of_kind)}
        found.append(of_kinds)
    curve = {"thresholds": [0.9, 0.5], "false_detections": [0.0, 0.4], "absent_firing": [0.0, 0.2]}
    curve |= {kind: [0.3, 0.6] for kind in kinds}
    about = {"threshold": 0.6, "minimum": 0.05, "absent": "all", "category_ids": list(ids)}
    about |= {"runs": found, "mean": found[0], "interval": found[0], "curve": curve}
    about["histogram"] = {"edges": [0, 0.5, 1], "present": [0.2, 0.8], "absent": [0.9, 0.1]}
    parts = {name: make_presence(runs=runs, kinds=kinds, ids=part, base=base) for name, part in groups}
    return about | {"groups": parts}


def open_evaluation(folder, *, base=0.4, groups=(), **settings):
    write_evaluation(folder, **settings)
    files.write_json(folder / "presence.json", make_presence(base=base, groups=groups))
    return folder


def test_presence_stands_beside_the_metrics_of_the_paper(tmp_path):
    groups = (("train", (3, 7)), ("novel", (18,)))
    folder = open_evaluation(tmp_path / "a", category_set="all", groups=groups)
    paths = writer.write_report([folder], tmp_path / "out")
    text = (tmp_path / "out" / "report.md").read_text()
    section = text[text.index("## Presence") : text.index("## All metrics")]
    of_queries, *of_kinds = section.split("###")
    rows = [line for line, _ in rows_of(of_queries, "1-shot, all 3 categories")]
    assert [row[2] for row in rows] == ["all", "train", "novel"]
    assert rows[0][1:8] == ["S1", "all", "all", "0.6", "0.401 ± 0.001", "-0.411 ± 0.001", "42.1 ± 0.09"]
    boxes = [line for line, _ in rows_of(of_kinds[0], "1-shot, all 3 categories")]
    heads = [cell.strip() for cell in of_kinds[0].splitlines()[2].strip("|").split("|")]
    # by category the AP50 of boxes is 0.2 + id / 100, so that it is 38.0 of category 18 alone, plus 0.1 by run
    assert boxes[2][heads.index("AP50, present only")].startswith("38.1")
    assert boxes[1][heads.index("AP50, present only")].startswith("25.1")
    assert boxes[0][heads.index("AP50, absent too")].startswith("41.1")
    assert tmp_path / "out" / "presence_1shot_all_s1.png" in paths
    with Image.open(tmp_path / "out" / "presence_1shot_all_s1.png") as image:
        assert image.format == "PNG"
    assert "Presence (the open protocol)" in (tmp_path / "out" / "report.html").read_text()


def test_presence_rows_hold_every_metric_and_run(tmp_path):
    folders = [open_evaluation(tmp_path / f"s{split}", split=split, base=0.1 * split) for split in (1, 2)]
    writer.write_report(folders, tmp_path / "out")
    rows = list(csv.DictReader((tmp_path / "out" / "presence.csv").read_text().splitlines()))
    per_line = len(presence.QUERY_METRICS) + 2 * len({*published.METRICS, *presence.INSTANCE_METRICS}) + 2 * 2
    assert len(rows) == 3 * per_line and {row["group"] for row in rows} == {"novel"}
    [mean] = [row for row in rows if (row["split"], row["metric"]) == ("mean", "IL_MCC")]
    assert float(mean["mean"]) == pytest.approx(-(0.15 + 0.01 + 0.001)) and float(mean["run_2"]) == pytest.approx(
        -0.162
    )
    [firing] = [row for row in rows if (row["split"], row["metric"]) == ("2", "absent_firing")]
    assert float(firing["run_0"]) == pytest.approx(23.0)
    assert json.loads((tmp_path / "out" / "report.json").read_text())["presence"][0]["metric"] == "AUROC"


def test_splits_without_presence_leave_it_out(tmp_path):
    folders = [open_evaluation(tmp_path / "s1", split=1), write_evaluation(tmp_path / "s2", split=2)]
    paths = writer.write_report(folders, tmp_path / "out")
    assert "Presence" not in (tmp_path / "out" / "report.md").read_text()
    assert not any(path.name.startswith("presence") for path in paths)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "presence.json: the key 'category_ids' is missing"),
        (make_presence(runs=2), "presence.json: does not belong to the scores.json beside it"),
        (make_presence(kinds=("bbox",)), "presence.json: does not belong to the scores.json beside it"),
    ],
)
def test_presence_of_something_else(tmp_path, content, message):
    files.write_json(write_evaluation(tmp_path) / "presence.json", content)
    with pytest.raises(ValueError, match=message):
        experiments.read_evaluation(tmp_path)


def test_presence_is_plotted_by_group(tmp_path):
    found = {name: make_presence() for name in ("train categories", "novel categories")}
    left, right = plots.plot_presence(found, title="t").axes
    lines = [line for line in left.lines if line.get_label()[0] != "_"]
    assert [line.get_label() for line in lines][:2] == ["train categories, boxes", "train categories, masks"]
    assert lines[0].get_xdata().tolist() == [0, 0.4] and lines[0].get_ydata().tolist() == pytest.approx([30, 60])
    assert len(left.lines) == 8  # with the dots at the threshold
    assert [patch.get_data().values.tolist() for patch in right.patches][:2] == [[20, 80], [90, 10]]
    nothing = make_presence()
    nothing["curve"] |= {"false_detections": None, "bbox": None, "segm": None}
    nothing["mean"]["queries"]["false_detections"] = None
    plots.save_plot(plots.plot_presence({"all": nothing}, title="t"), tmp_path / "plot.png")


# ---- plots -----------------------------------------------------------------------------------------------------------


def test_plots_are_images(tmp_path):
    figure = plots.plot_classes(["a", "b"], {"bbox": ([20.0, None], [1.0, None])}, title="t")
    plots.save_plot(figure, tmp_path / "plot.png")
    with Image.open(tmp_path / "plot.png") as image:
        assert image.format == "PNG" and min(image.size) > 500
        assert np.asarray(image.convert("L")).std() > 5


def test_bars_are_sorted_and_say_what_is_missing():
    scores = {"bbox": ([20.0, None, 60.0], [1.0, None, 2.0]), "segm": ([10.0, None, 50.0], [1.0, None, 2.0])}
    axes = plots.plot_classes(["a", "b", "c"], scores, title="AP50 by category").axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["c", "a", "b"]
    assert [bar.get_height() for bar in axes.patches][:2] == [60, 20]
    assert [text.get_text() for text in axes.texts] == ["no instance"]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["boxes (mean 40.0)", "masks (mean 30.0)"]
    assert axes.get_title(loc="left") == "AP50 by category"


def test_by_number_has_a_line_a_series():
    series = [("train", "bbox", [30.0, 20.0], [1.0, 2.0]), ("train", "segm", [25.0, None], [1.0, None])]
    axes = plots.plot_by_number(["1", "2+"], series, counts={"train": [1000, 5]}, title="t").axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1\n(1,000)", "2+\n(5)"]
    lines = [container.lines[0] for container in axes.containers]
    assert lines[0].get_ydata().tolist() == [30, 20] and lines[0].get_color() == lines[1].get_color()
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["train, boxes", "train, masks"]


def test_confusion_has_heat_map_and_histogram():
    matrix = [[50.0, 10.0, None], [5.0, 60.0, None], [None, None, 1.0]]
    figure = plots.plot_confusion(["a", "b", "c"], matrix, [5.0, 10.0, None], [0.5, 1.0, None], title="t")
    top, heat = figure.axes[:2]
    assert [bar.get_height() for bar in top.patches] == [5, 10, 0]
    assert np.ma.filled(heat.images[0].get_array(), -1).tolist() == [[50, 10, -1], [5, 60, -1], [-1, -1, 1]]
    assert sorted(text.get_text() for text in heat.texts) == ["1", "10", "5", "50", "60"]
    many = [str(number) for number in range(30)]
    crowded = plots.plot_confusion(many, np.eye(30).tolist(), [1.0] * 30, [0.0] * 30, title="t")
    assert not crowded.axes[1].texts  # no room for numbers


def test_plots_of_nothing():
    nothing = [None, None]
    plots.plot_classes(["a", "b"], {"bbox": (nothing, nothing)}, title="t")
    plots.plot_by_number(["1", "2"], [("all", "bbox", nothing, nothing)], counts={"all": [0, 0]}, title="t")
    plots.plot_confusion(["a", "b"], [nothing, nothing], nothing, nothing, title="t")


def test_pyplot_is_left_alone(tmp_path):
    from matplotlib import pyplot

    before = pyplot.get_fignums()
    writer.write_report([write_evaluation(tmp_path / "a")], tmp_path / "out")
    assert pyplot.get_fignums() == before


def test_plots_without_any_success(tmp_path):
    names, nothing = [f"category {number}" for number in range(30)], [None] * 20
    figure = plots.plot_classes(names, {"bbox": ([0.0] * 10 + nothing, [0.0] * 10 + nothing)}, title="none")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib's, of a layout that does not fit
        plots.save_plot(figure, tmp_path / "none.png")
    assert figure.axes[0].get_ylim() == (0, 1)


# ---- names as texts --------------------------------------------------------------------------------------------------
NAMES = [r"$\frac{$", "a$b$c", "a\\$b", "x" * 3000, "|*_<b>`", "two\nlines", "\N{SCRIPT SMALL G}", "\U000f1234"]


@pytest.mark.parametrize("plot", ["classes", "number", "confusion", "presence"])
def test_names_in_plots_are_texts(tmp_path, plot):
    count = len(NAMES)
    ones = [1.0] * count
    if plot == "classes":
        figure = plots.plot_classes(NAMES, {"bbox": (ones, ones)}, title=NAMES[0])
    elif plot == "number":
        series = [(name, "bbox", [1.0], [1.0]) for name in NAMES[:4]]
        figure = plots.plot_by_number(["1"], series, counts={name: [1] for name in NAMES[:4]}, title=NAMES[0])
    elif plot == "confusion":
        figure = plots.plot_confusion(NAMES, np.ones((count, count)), ones, ones, title=NAMES[0])
    else:
        curve = {"false_detections": [0.0, 1.0], "bbox": [0.0, 1.0]}
        mean = {"queries": {"false_detections": 0.5}, "bbox": {"recall": 0.5}}
        histogram = {"edges": [0, 0.5, 1], "present": [0.5, 0.5], "absent": [1, 0]}
        found = {name: {"curve": curve, "mean": mean, "histogram": histogram} for name in NAMES[:4]}
        figure = plots.plot_presence(found, title=NAMES[0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plots.save_plot(figure, tmp_path / "a.png")
    texts = [text.get_text() for text in figure.findobj(Text)]
    assert any(r"\$\frac{\$" in text for text in texts) and max(map(len, texts)) < 1000
    assert all(not cbook.is_math_text(text) for text in texts if "frac" in text or "a$b" in text)


@pytest.mark.parametrize("name", [name for name in NAMES if len(name) < 200])
def test_names_in_markdown_and_html_are_texts(name):
    shown = " ".join(name.split())
    assert markup.plain(markup.escaped(name)) == shown
    assert html.unescape(str(markup.inline(markup.escaped(name)))) == shown
    assert "|" not in re.sub(r"\\.", "", markup.escaped(name))
    assert len(markup.escaped(name * 300)) < 450
