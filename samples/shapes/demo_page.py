"""The page that the demo writes: figures, loss curves, examples."""

import csv

from siamese_mrcnn_tf import files
from siamese_mrcnn_tf.dataset import IndexedCocoDataset, split_classes
from siamese_mrcnn_tf.diagnostics import plot_losses
from siamese_mrcnn_tf.evaluation_records import read_records
from siamese_mrcnn_tf.evaluation_scores import score_records
from siamese_mrcnn_tf.gallery import examples
from siamese_mrcnn_tf.html_pages import code, figure, picture_grid, section, table, write_page

PAGE_FILE, FIGURES_FILE = "index.html", "figures.json"
KINDS = {"bbox": "boxes", "segm": "masks"}
PARTS = ("seen", "held-out")  # categories

_ROWS = {  # evaluation -> what stands in the table
    "random-boxes": "random boxes: the right number of outlines of the right sizes, at random places",
    "1-shot": "one reference",
    "5-shot": "five references",
    "1-shot, two categories": "one reference, in scenes of two categories or more",
    "control-present": "control: one reference, of another category that is in the scene",
    "control-absent": "control: one reference, of a category that is not in the scene",
}
_SAME_SCENES = "1-shot, two categories"  # the right reference where control-present has a wrong one
_THRESHOLD = 0.85  # score from which on detections are drawn
_EXAMPLES = 12  # of the seen categories, and of the held-out ones

_INTRODUCTION = """\
Siamese Mask R-CNN is shown a picture of a thing, and finds and segments every such thing in a scene, also things of
categories that it was never trained on. Here that is tried on scenes drawn by a program: {seen} categories ("seen")
were trained, {held_out} ("held-out") were in the training scenes as background only and never a reference.
"""
_FIGURES_TEXT = """\
COCO's average precision at an overlap of 0.5 (AP50), in percent, on {images} validation scenes: the mean of {runs}
draws of references and its 95% interval. A network that ignores its reference scores as high with a wrong one as with
the right one: the controls tell that apart.
"""
_EXAMPLES_TEXT = """\
From left to right: the references, what was found with a score of {threshold:g} or more, the ground truth. Blue: found.
Orange: a false detection, or an instance that was missed. Of each category the best and the worst searches are shown.
"""


def write_demo_page(out, data_folder, *, commands, seconds, split):
    """Write the page and its figures as JSON.

    Args:
        out: folder of the demo, with pretraining/, logs/ and evaluation/.
        data_folder: of the data set.
        commands: list of str, what was run.
        seconds: name of a step -> how long it took now.
        split: category split.

    Returns:
        Path of the page.
    """
    dataset = IndexedCocoDataset()
    annotations = dataset.load_coco(data_folder, "val", return_coco=True)
    dataset.prepare()
    dataset.build_indices()
    classes = dict(zip(PARTS, split_classes(dataset.num_classes - 1, split), strict=True))
    categories = {part: [dataset.class_info[class_id]["id"] for class_id in ids] for part, ids in classes.items()}
    scores = score_all(out, annotations, categories)
    files.write_json(out / FIGURES_FILE, figures_of(scores) | {"seconds": seconds}, indent=1)
    sections = [
        _INTRODUCTION.format(seen=len(classes["seen"]), held_out=len(classes["held-out"])),
        section("Figures", _figures_text(scores), figures_table(scores), *category_tables(scores, dataset, categories)),
        section("Losses", *loss_curves(out)),
        *(section(f"Examples: {part} categories", *gallery(out, dataset, ids)) for part, ids in categories.items()),
        section("How this was made", code("\n".join(commands)), table(["step", "seconds"], seconds_rows(seconds))),
    ]
    write_page(out / PAGE_FILE, "Siamese Mask R-CNN on Shapes", sections)
    return out / PAGE_FILE


# ---- figures ---------------------------------------------------------------------------------------------------------


def score_all(out, annotations, categories):
    """{evaluation: {"seen" or "held-out": EvaluationScores}} of the evaluations in `out`."""
    records = {folder.name: read_records(folder) for folder in sorted((out / "evaluation").iterdir())}
    images = dict.fromkeys(records)
    records[_SAME_SCENES] = records["1-shot"]
    images[_SAME_SCENES] = records["control-present"].settings["images"]
    return {
        name: {
            part: score_records(annotations, records[name], image_ids=images[name], category_ids=ids)
            for part, ids in categories.items()
        }
        for name in _ROWS
        if name in records
    }


def figures_of(scores):
    """AP50 in percent as plain values: {evaluation: {part: {"boxes": [mean, interval], "masks": [...]}}}."""
    return {
        name: {part: {KINDS[kind]: _ap50(one, kind) for kind in one.mean} for part, one in parts.items()}
        for name, parts in scores.items()
    }


def figures_table(scores):
    """The table of all evaluations."""
    heads = ["searched with", *(f"{part}, {kind}" for part in PARTS for kind in KINDS.values())]
    rows = []
    for name, parts in scores.items():
        cells = [_cell(_ap50(parts[part], kind)) for part in PARTS for kind in KINDS]
        rows.append([_ROWS[name], *cells])
    return table(heads, rows)


def category_tables(scores, dataset, categories):
    """Of each part the AP50 of every category with one reference, the mean of all draws."""
    names = {info["id"]: info["name"] for info in dataset.class_info}
    tables = []
    for part, ids in categories.items():
        runs, rows = scores["1-shot"][part].runs, []
        for category in ids:
            values = [[run[kind].per_class[category]["AP50"] for run in runs] for kind in KINDS]
            rows.append([names[category], *(f"{100 * sum(one) / len(one):.1f}" for one in values)])
        rows.sort(key=lambda row: float(row[1]), reverse=True)
        heads = ["category", *KINDS.values()]
        tables.append(table(heads, rows, caption=f"AP50 of the {part} categories, one reference"))
    return tables


def _figures_text(scores):
    one = scores["1-shot"]["seen"]
    return _FIGURES_TEXT.format(images=one.num_images, runs=len(one.runs))


def _ap50(one, kind):
    return [100 * one.mean[kind]["AP50"], 100 * one.interval[kind]["AP50"]]


def _cell(figures):
    mean, interval = figures
    return f"{mean:.1f} ± {interval:.1f}"


# ---- the rest --------------------------------------------------------------------------------------------------------


def loss_curves(out):
    """The curves of both runs, as far as they are there."""
    found = []
    for title, pattern in (("Pre-training", "pretraining/history.csv"), ("Training", "logs/*/history.csv")):
        for path in sorted(out.glob(pattern)):
            with open(path, encoding="utf-8", newline="") as file:
                found.append(figure(plot_losses(list(csv.DictReader(file)), title=title), caption=title))
    return found


def gallery(out, dataset, category_ids):
    """Text and pictures of some searches."""
    chosen = examples(
        out / "evaluation" / "1-shot",
        dataset,
        limit=_EXAMPLES,
        threshold=_THRESHOLD,
        category_ids=set(category_ids),
    )
    shown = [part for one in chosen for part in (one.title, picture_grid([one.cells]))]
    return [_EXAMPLES_TEXT.format(threshold=_THRESHOLD), *shown]


def seconds_rows(seconds):
    """Rows of the table of times."""
    return [[name, f"{value:.0f}"] for name, value in seconds.items()]
