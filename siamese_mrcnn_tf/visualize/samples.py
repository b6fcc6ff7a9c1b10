"""Drawings of training samples: a scene with its ground truth, references, positive anchors, and where they move.

Boxes are (y1, x1, y2, x2) in pixels of the molded scene, y2 and x2 exclusive.
"""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from ..config import Config
from ..data import resize
from ..data.checks import counted
from ..data.data_generator import Sample, TrainingSamples
from ..data.dataset import CocoDataset
from ..io.files import StrPath, atomic_path, writable_folder
from ..ops.boxes import compute_overlaps
from .instances import display_boxes, display_instances
from .lettering import plot_name
from .palette import contrasting_colors
from .style import draw_image, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

logger = logging.getLogger(__name__)

_FIGURE_SIZE, _DPI = (20, 6.4), 100  # inches, and pixels per inch: a scene of 512 pixels is shown in its own size
_CROWD_COLOR, _NEGATIVE_COLOR, _LOST_COLOR = (0.85, 0.85, 0.85), (0.5, 0.5, 0.5), (1.0, 0.9, 0.1)
_PANELS = (4, 1.2, 4, 4)  # widths: ground truth, references, anchors, targets
_REFERENCE_ROWS = 5  # references above each other
_TITLE_LETTERS, _REFERENCE_LETTERS = 60, 26  # of a file name; those above references share a line
_NEGATIVES = 25  # negative anchors that are drawn
_LANDED_IOU = 0.9  # of a moved anchor with a ground truth box


def draw_samples(
    samples: TrainingSamples, config: Config, out: StrPath, count: int = 10, *, first: int = 0, progress: bool = True
) -> list[Path]:
    """Draw `count` training samples, from `first` on, to the folder `out`: sample_00.png, ...; returns the files.

    Samples that cannot be made are logged and left out.
    """
    out, written = writable_folder(out), []
    for number in tqdm(range(first, first + count), desc="samples", unit="sample", disable=not progress):
        try:
            sample = samples[number]
        except RuntimeError as error:
            logger.warning("%s", error)
            continue
        path = out / f"sample_{number:02d}.png"
        with atomic_path(path) as temporary:
            figure = draw_sample(sample, samples.dataset, config, samples.anchors, number=number)
            figure.savefig(temporary, format="png", dpi=_DPI)
        written.append(path)
    return written


def draw_sample(
    sample: Sample, dataset: CocoDataset, config: Config, anchors: np.ndarray, *, number: int = 0
) -> "Figure":
    """A matplotlib Figure of a training sample: ground truth, references, positive anchors, and where they move.

    Args:
        anchors: [anchors, (y1, x1, y2, x2)] in pixels of the scene.
        number: of the sample, for the title.
    """
    figure = new_figure(_FIGURE_SIZE)
    grid = figure.add_gridspec(1, len(_PANELS), width_ratios=_PANELS)
    name, image = dataset.class_names[sample.class_id], _image_text(dataset, sample.image_id)
    figure.suptitle(f"sample {number}: {plot_name(name)} (class {sample.class_id}) in {image}", fontsize=16)
    masks = sample.gt_masks
    if config.USE_MINI_MASK:
        masks = resize.expand_mask(sample.gt_boxes, masks, sample.image.shape)
    colors = np.array(contrasting_colors(sample.image, masks)).reshape(-1, 3)
    colors[sample.gt_class_ids < 0] = _CROWD_COLOR
    _draw_ground_truth(figure.add_subplot(grid[0]), sample, masks, colors)
    _draw_references(figure, grid[1], sample, dataset)
    _draw_anchors(figure.add_subplot(grid[2]), figure.add_subplot(grid[3]), sample, config, anchors, colors)
    return figure


def _image_text(dataset: CocoDataset, image_id: int, letters: int = _TITLE_LETTERS, blank: str = " ") -> str:
    """The file name and COCO id of an image; a long name is cut."""
    info = dataset.image_info[image_id]
    return f"{plot_name(Path(info['path']).name, letters)}{blank}(id {info['id']})"


def _draw_ground_truth(axes: "Axes", sample: Sample, masks: np.ndarray, colors: np.ndarray) -> None:
    shown = sample.gt_class_ids != 0  # class 0: objects of other categories
    boxes, class_ids = sample.gt_boxes[shown], sample.gt_class_ids[shown]
    captions = ["crowd" if crowd else "" for crowd in class_ids < 0]
    title = f"ground truth: {counted((class_ids > 0).sum(), 'instance')}"
    title += f", {counted((class_ids < 0).sum(), 'crowd')}" if (class_ids < 0).any() else ""
    how: dict[str, Any] = {"title": title, "ax": axes, "colors": colors[shown], "captions": captions}
    display_instances(sample.image, boxes, masks[..., shown], class_ids, **how)


def _draw_references(figure: "Figure", cell: Any, sample: Sample, dataset: CocoDataset) -> None:
    columns = -(-len(sample.targets) // _REFERENCE_ROWS)
    rows = -(-len(sample.targets) // columns)
    places = cell.subgridspec(rows, columns)
    letters = max(_REFERENCE_LETTERS // columns, 2)
    for shot, (image_id, _) in enumerate(sample.references):
        axes = figure.add_subplot(places[shot % rows, shot // rows])
        draw_image(axes, sample.targets[shot], "", margin=0)
        where = "this image" if image_id == sample.image_id else _image_text(dataset, image_id, letters, "\n")
        axes.set_title(f"reference {shot + 1}:\n{where}" if columns == 1 else where, fontsize=10 if columns == 1 else 7)


def _draw_anchors(
    positive_axes: "Axes", moved_axes: "Axes", sample: Sample, config: Config, anchors: np.ndarray, colors: np.ndarray
) -> None:
    """The positive anchors on the first axes; on the second where their targets move them, and negative anchors."""
    positive, negative = (anchors[sample.rpn_match == value] for value in (1, -1))
    moved = _moved(positive, sample.rpn_bbox[: len(positive)] * config.RPN_BBOX_STD_DEV)
    is_truth = sample.gt_class_ids > 0
    truth, colors = sample.gt_boxes[is_truth], np.concatenate([colors[is_truth], [_LOST_COLOR]])
    overlaps = np.pad(compute_overlaps(moved, truth), ((0, 0), (0, 1)), constant_values=_LANDED_IOU)
    aims = overlaps.argmax(axis=1)  # the last column stands for none
    landed = aims < len(truth)
    numbers = f"{len(positive)} positive (drawn), {len(negative)} negative, {(sample.rpn_match == 0).sum()} neutral"
    groups: list[tuple[np.ndarray, Any, dict[str, Any]]] = [(positive, colors[aims], {"linewidth": 1.5})]
    display_boxes(sample.image, groups, title=f"anchors: {numbers}", ax=positive_axes)
    few = negative[np.linspace(0, len(negative) - 1, min(_NEGATIVES, len(negative))).astype(int)]
    groups = [
        (few, _NEGATIVE_COLOR, {"linewidth": 0.9}),
        (truth, colors[:-1], {"linewidth": 3.5}),
        (moved[landed], "white", {"linewidth": 1.3, "linestyle": "dashed"}),
        (moved[~landed], _LOST_COLOR, {"linewidth": 1.5, "linestyle": "dashed"}),
    ]
    title = f"targets: {landed.sum()} of {len(moved)} anchors, moved (dashed), meet ground truth"
    title += f"\ngray: {len(few)} negative anchors" + ("" if landed.all() else "; yellow: of instances left out")
    display_boxes(sample.image, groups, title=title, ax=moved_axes)


def _moved(boxes: np.ndarray, deltas: np.ndarray) -> np.ndarray:
    """Boxes [n, (y1, x1, y2, x2)] moved by deltas [n, (dy, dx, log(dh), log(dw))]: inverse of `box_refinement`."""
    sides = boxes[:, 2:] - boxes[:, :2]
    centers = boxes[:, :2] + sides / 2 + deltas[:, :2] * sides
    halves = sides * np.exp(deltas[:, 2:]) / 2
    return np.concatenate([centers - halves, centers + halves], axis=1)
