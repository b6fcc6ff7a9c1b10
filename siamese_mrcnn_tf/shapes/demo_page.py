"""The page that the demo writes: figures, loss curves, examples."""

import csv

from ..data.dataset import split_classes
from ..evaluation.coco_scores import over_categories, score_records
from ..evaluation.intervals import mean_text
from ..evaluation.protocol import SCORES_FILE
from ..evaluation.records import read_records
from ..io import files
from ..report.gallery import examples
from ..visualize.diagnostics import plot_losses
from ..visualize.pages import code, figure, image_grid, section, table, write_page

PAGE_FILE, METRICS_FILE = "index.html", "metrics.json"
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


def write_demo_page(out, dataset, annotations, *, commands, histories, seconds, split):
    """Write the page and its figures as JSON.

    Args:
        out: folder of the demo, with evaluation/.
        dataset: IndexedCocoDataset that was searched.
        annotations: its `pycocotools.coco.COCO`.
        commands: list of str, what was run.
        histories: name of a run -> Path of its history.csv.
        seconds: name of a step -> how long it took now.
        split: category split.

    Returns:
        Path of the page.
    """
    classes = dict(zip(PARTS, split_classes(dataset.num_classes - 1, split), strict=True))
    categories = {part: [dataset.class_info[class_id]["id"] for class_id in ids] for part, ids in classes.items()}
    scores = class_scores(out, annotations)
    figures = figures_of(scores, categories)
    files.write_json(out / METRICS_FILE, figures | {"seconds": seconds}, indent=1)
    images = files.read_json(out / "evaluation" / "1-shot" / SCORES_FILE)["num_images"]
    about = _FIGURES_TEXT.format(images=images, runs=len(scores["1-shot"]))
    sections = [
        _INTRODUCTION.format(seen=len(classes["seen"]), held_out=len(classes["held-out"])),
        section("Figures", about, figures_table(figures), *category_tables(scores["1-shot"], dataset, categories)),
        section("Losses", *loss_curves(histories)),
        *(section(f"Examples: {part} categories", *gallery(out, dataset, ids)) for part, ids in categories.items()),
        section("How this was made", code("\n".join(commands)), table(["step", "seconds"], seconds_rows(seconds))),
    ]
    write_page(out / PAGE_FILE, "Siamese Mask R-CNN on Shapes", sections)
    return out / PAGE_FILE


# ---- figures ---------------------------------------------------------------------------------------------------------


def class_scores(out, annotations):
    """{evaluation: for each run {iou type: {category id as text: {"AP50": ...}}}} of the evaluations in `out`."""
    folders = {name: out / "evaluation" / name for name in _ROWS if name != _SAME_SCENES}
    runs = {name: files.read_json(folder / SCORES_FILE)["runs"] for name, folder in folders.items()}
    records = read_records(folders["1-shot"])
    images = read_records(folders["control-present"]).settings["images"]
    runs[_SAME_SCENES] = score_records(annotations, records, image_ids=images).to_dict()["runs"]
    return {name: [{kind: _by_text(run["per_class"][kind]) for kind in KINDS} for run in runs[name]] for name in _ROWS}


def figures_of(scores, categories):
    """AP50 in percent: {evaluation: {part: {"boxes": [mean, interval], "masks": [...]}}}; of a part, the mean of it."""
    return {
        name: {part: {what: _ap50(runs, kind, ids) for kind, what in KINDS.items()} for part, ids in categories.items()}
        for name, runs in scores.items()
    }


def figures_table(figures):
    """The table of all evaluations."""
    heads = ["searched with", *(f"{part}, {kind}" for part in PARTS for kind in KINDS.values())]
    cells = {
        name: [mean_text(mean, interval, digits=(1, 1)) for part in PARTS for mean, interval in parts[part].values()]
        for name, parts in figures.items()
    }
    return table(heads, [[_ROWS[name], *row] for name, row in cells.items()])


def category_tables(runs, dataset, categories):
    """Of each part the AP50 of every category with one reference, the mean of all draws."""
    names = {info["id"]: info["name"] for info in dataset.class_info}
    tables = []
    for part, ids in categories.items():
        rows = [[names[one], *(f"{_ap50(runs, kind, [one])[0]:.1f}" for kind in KINDS)] for one in ids]
        rows.sort(key=lambda row: float(row[1]), reverse=True)
        tables.append(
            table(["category", *KINDS.values()], rows, caption=f"AP50 of the {part} categories, one reference")
        )
    return tables


def _ap50(runs, kind, category_ids):
    """[mean, 95% interval] over runs of the mean over categories that there are instances of, in percent."""
    ids = [str(category_id) for category_id in category_ids]
    mean, interval = over_categories([run[kind] for run in runs], ids)
    return [100 * mean, None if interval is None else 100 * interval]


def _by_text(per_class):
    return {str(category_id): scores for category_id, scores in per_class.items()}


# ---- the rest --------------------------------------------------------------------------------------------------------


def loss_curves(histories):
    """The curves of each run."""
    found = []
    for name, path in histories.items():
        with open(path, encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        found.append(figure(plot_losses(rows, title=name.capitalize()), caption=name.capitalize()))
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
    shown = [part for one in chosen for part in (one.title, image_grid([one.cells]))]
    return [_EXAMPLES_TEXT.format(threshold=_THRESHOLD), *shown]


def seconds_rows(seconds):
    """Rows of the table of times."""
    return [[name, f"{value:.0f}"] for name, value in seconds.items()]
