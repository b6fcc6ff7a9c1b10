"""A data set looked over before a run: what is in it, what is broken, and pictures of what the network is given.

`check_dataset` counts and reads everything once and returns a `Report`; `draw_samples` draws training samples with
their references, anchors and targets. Boxes of the annotation file are [x, y, width, height] in pixels of the picture,
all others (y1, x1, y2, x2) in pixels of the molded scene, y2 and x2 exclusive.
"""

import logging

import numpy as np
from tqdm import tqdm

from ..data import resize
from ..data.checks import (
    _CROWD_COLOR,
    _DOTS,
    _FIGURE_SIZE,
    _LOST_COLOR,
    _NEGATIVE_COLOR,
    counted,
)
from ..io.files import atomic_path, writable_folder
from ..ops.boxes import compute_overlaps
from . import instances

logger = logging.getLogger(__name__)


def draw_samples(maker, config, out, count=10, *, first=0, progress=True):
    """Write pictures of training samples to `out`: sample_00.png, ...; the log tells of those that cannot be made.

    Args:
        maker, config: TrainingSamples and its Config.
        out: folder.
        count: samples `first` to `first + count - 1` of the maker are drawn.
        progress: show a progress bar.

    Returns:
        list of Path, the files written.
    """
    out, written = writable_folder(out), []
    for number in tqdm(range(first, first + count), desc="samples", unit="sample", disable=not progress):
        try:
            sample = maker[number]
        except RuntimeError as error:
            logger.warning("%s", error)
            continue
        path = out / f"sample_{number:02d}.png"
        with atomic_path(path) as temporary:
            draw_sample(sample, maker.dataset, config, maker.anchors, number=number).savefig(temporary, format="png")
        written.append(path)
    return written


# ---- drawings ------------------------------------------------------------------------------------------------------
_PANELS = (4, 1.2, 4, 4)  # widths: ground truth, references, anchors, targets
_REFERENCE_ROWS = 5  # references above each other
_NEGATIVES = 25  # negative anchors that are drawn
_LANDED_IOU = 0.9  # of a moved anchor with a ground truth box


def draw_sample(sample, dataset, config, anchors, *, number=0):
    """A matplotlib Figure of a training sample: ground truth, references, positive anchors, and where they move.

    Args:
        sample, dataset, config: Sample, the data set it is from, and its Config.
        anchors: [anchors, (y1, x1, y2, x2)] in pixels of the scene.
        number: of the sample, for the title.
    """
    from matplotlib.figure import Figure  # slow to import

    figure = Figure(figsize=_FIGURE_SIZE, dpi=_DOTS, layout="constrained")
    grid = figure.add_gridspec(1, len(_PANELS), width_ratios=_PANELS)
    name, coco_id = dataset.class_names[sample.class_id], dataset.image_info[sample.image_id]["id"]
    figure.suptitle(f"sample {number}: {name} (class {sample.class_id}) in image {coco_id}", fontsize=16)
    colors = np.array(instances.random_colors(len(sample.gt_class_ids))).reshape(-1, 3)
    colors[sample.gt_class_ids < 0] = _CROWD_COLOR
    _draw_ground_truth(figure.add_subplot(grid[0]), sample, config, colors)
    _draw_references(figure, grid[1], sample, dataset)
    _draw_anchors(figure.add_subplot(grid[2]), figure.add_subplot(grid[3]), sample, config, anchors, colors)
    return figure


def _draw_ground_truth(axes, sample, config, colors):
    shown = sample.gt_class_ids != 0  # others are objects of other classes
    boxes, masks, class_ids = sample.gt_boxes[shown], sample.gt_masks[..., shown], sample.gt_class_ids[shown]
    if config.USE_MINI_MASK:
        masks = resize.expand_mask(boxes, masks, sample.image.shape)
    settings = {"colors": colors[shown], "captions": ["crowd" if crowd else "" for crowd in class_ids < 0], "ax": axes}
    title = f"ground truth: {counted((class_ids > 0).sum(), 'instance')}"
    title += f", {counted((class_ids < 0).sum(), 'crowd')}" if (class_ids < 0).any() else ""
    instances.display_instances(sample.image, boxes, masks, class_ids, title=title, **settings)


def _draw_references(figure, cell, sample, dataset):
    columns = -(-len(sample.targets) // _REFERENCE_ROWS)
    rows = -(-len(sample.targets) // columns)
    places = cell.subgridspec(rows, columns)
    for shot, (image_id, _) in enumerate(sample.references):
        axes = figure.add_subplot(places[shot % rows, shot // rows])
        instances.display_boxes(sample.targets[shot], [], ax=axes, margin=0)
        where = "this image" if image_id == sample.image_id else f"image {dataset.image_info[image_id]['id']}"
        axes.set_title(f"reference {shot + 1}:\n{where}" if columns == 1 else where, fontsize=10 if columns == 1 else 7)


def _draw_anchors(positive_axes, moved_axes, sample, config, anchors, colors):
    """The positive anchors on the first axes; on the second where their targets move them, beside negative ones."""
    positive, negative = (anchors[sample.rpn_match == value] for value in (1, -1))
    moved = _moved(positive, sample.rpn_bbox[: len(positive)] * config.RPN_BBOX_STD_DEV)
    is_truth = sample.gt_class_ids > 0
    truth, colors = sample.gt_boxes[is_truth], np.concatenate([colors[is_truth], [_LOST_COLOR]])
    overlaps = np.pad(compute_overlaps(moved, truth), ((0, 0), (0, 1)), constant_values=_LANDED_IOU)
    aims = overlaps.argmax(axis=1)  # the last stands for none
    landed = aims < len(truth)
    numbers = f"{len(positive)} positive (drawn), {len(negative)} negative, {(sample.rpn_match == 0).sum()} neutral"
    groups = [(positive, colors[aims], {"linewidth": 1.5})]
    instances.display_boxes(sample.image, groups, title=f"anchors: {numbers}", ax=positive_axes)
    few = negative[np.linspace(0, len(negative) - 1, min(_NEGATIVES, len(negative))).astype(int)]
    groups = [
        (few, _NEGATIVE_COLOR, {"linewidth": 0.9}),
        (truth, colors[:-1], {"linewidth": 3.5}),
        (moved[landed], "white", {"linewidth": 1.3, "linestyle": "dashed"}),
        (moved[~landed], _LOST_COLOR, {"linewidth": 1.5, "linestyle": "dashed"}),
    ]
    title = f"targets: {landed.sum()} of {len(moved)} anchors, moved (dashed), meet ground truth"
    title += f"\ngrey: {len(few)} negative anchors" + ("" if landed.all() else "; yellow: of instances left out")
    instances.display_boxes(sample.image, groups, title=title, ax=moved_axes)


def _moved(boxes, deltas):
    """Boxes [n, (y1, x1, y2, x2)] moved by deltas [n, (dy, dx, log(dh), log(dw))]: undoes `boxes.box_refinement`."""
    sides = boxes[:, 2:] - boxes[:, :2]
    centres = boxes[:, :2] + sides / 2 + deltas[:, :2] * sides
    halves = sides * np.exp(deltas[:, 2:]) / 2
    return np.concatenate([centres - halves, centres + halves], axis=1)
