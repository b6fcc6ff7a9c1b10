"""Draws the figures of the docs.

`python docs/figures.py` draws the paper's Figures 2 and 3 from a configuration: docs/images/figure*.svg.
`python docs/figures.py --search` searches a drawn scene with the bundled weights: docs/images/search.png.
"""

import argparse
import math
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from siamese_mrcnn_tf.config import CONFIGS, Config
from siamese_mrcnn_tf.io.files import atomic_path
from siamese_mrcnn_tf.ops.anchors import compute_backbone_shapes

INK, LINE = "#1f2933", "#52606d"
FILLS = {"image": "#e4e7eb", "plain": "#d5e3f7", "siamese": "#fde3c8", "out": "#d8f0dc"}
FONT = {"color": INK, "ha": "center", "va": "center"}
LEVELS = ("P2", "P3", "P4", "P5", "P6")
SEARCHED = ("star", "heart", "gear", "flower")  # novel categories: the bundled weights are not trained on them
OTHERS = ("key", "cross", "spiral")  # may be in the scene, too
REFERENCE_SEED, SCENE_SEED = 2, 90
SCENE_SIDES = (480, 640)  # height and width in pixels


class Sketch:
    """Boxes with texts, and arrows between them, in inches."""

    def __init__(self, width: float, height: float) -> None:
        self.figure = Figure((width, height))
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set(xlim=(0, width), ylim=(0, height))
        self.axes.axis("off")

    def box(self, x: float, y: float, text: str, kind: str, *, width: float = 1.7, height: float = 0.9) -> tuple:
        """A box around (x, y), its first line bold; returns (x, y, width, height)."""
        corner = (x - width / 2, y - height / 2)
        shape = {"boxstyle": "round,pad=0,rounding_size=0.08", "facecolor": FILLS[kind], "edgecolor": LINE}
        self.axes.add_patch(FancyBboxPatch(corner, width, height, linewidth=0.9, **shape))
        lines = text.split("\n")
        for number, line in enumerate(lines):
            offset = ((len(lines) - 1) / 2 - number) * 0.2
            self.axes.text(x, y + offset, line, fontsize=9, weight="normal" if number else "bold", **FONT)
        return x, y, width, height

    def axes_at(self, x: float, y: float, width: float, height: float) -> Axes:
        """Axes for an image, without ticks and frame, with the lower left corner at (x, y)."""
        full_width, full_height = self.figure.get_size_inches()
        axes = self.figure.add_axes((x / full_width, y / full_height, width / full_width, height / full_height))
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        return axes

    def text(self, x: float, y: float, text: str, **style: object) -> None:
        self.axes.text(x, y, text, **(FONT | {"fontsize": 9} | style))

    def arrow(self, start: tuple, stop: tuple, label: str = "", *, bend: bool = False) -> None:
        """From the edge of a box to that of another, horizontally, or vertically where the second is above or below."""
        (x1, y1, w1, h1), (x2, y2, w2, h2) = start, stop
        if math.isclose(x1, x2):
            sign = math.copysign(1, y2 - y1)
            ends = (x1, y1 + sign * h1 / 2), (x2, y2 - sign * h2 / 2)
        else:
            sign = math.copysign(1, x2 - x1)
            ends = (x1 + sign * w1 / 2, y1), (x2 - sign * w2 / 2, y2)
        style = {"connectionstyle": "angle,angleA=0,angleB=90,rad=6"} if bend else {}
        if bend:
            ends = ends[0], (x2, y2 - math.copysign(h2 / 2, y2 - y1))
        self.axes.add_patch(FancyArrowPatch(*ends, arrowstyle="-|>", mutation_scale=9, color=LINE, shrinkA=1, **style))
        if label:
            self.text((ends[0][0] + ends[1][0]) / 2, (ends[0][1] + ends[1][1]) / 2 + 0.12, label, fontsize=8)


def size(*sides: int) -> str:
    return " x ".join(map(str, sides))


def draw_networks(config: Config) -> Figure:
    """Figure 2: Mask R-CNN above, Siamese Mask R-CNN below; orange is what it adds."""
    sketch, shapes = Sketch(11.6, 6.6), compute_backbone_shapes(config, config.IMAGE_SHAPE)
    maps = f"{shapes[0][0]}..{shapes[-1][0]} cells, {config.FPN_FEATUREMAPS} channels"
    heads = f"{size(config.POOL_SIZE, config.POOL_SIZE)} and {size(config.MASK_POOL_SIZE, config.MASK_POOL_SIZE)}"
    columns = (1.1, 3.2, 5.4, 7.6, 10.5)
    sketch.text(0.25, 6.3, "Mask R-CNN", ha="left", fontsize=12, weight="bold")
    top = 5.1
    image = sketch.box(columns[0], top, f"image\n{size(*config.IMAGE_SHAPE)}", "image")
    encoder = sketch.box(columns[1], top, "ResNet and FPN\nP2..P6\n" + maps.split(", ")[1], "plain")
    rpn = sketch.box(columns[2], top, f"RPN\n{config.POST_NMS_ROIS_INFERENCE} proposals", "plain")
    pool = sketch.box(columns[3], top, f"RoI Align\n{heads}\nfrom P2..P5", "plain")
    outs = _outputs(sketch, columns[4], top, "one of N classes", "a mask per class")
    _chain(sketch, [image, encoder, rpn, pool])
    _fan(sketch, pool, outs)

    sketch.text(0.25, 3.5, "Siamese Mask R-CNN", ha="left", fontsize=12, weight="bold")
    low = 2.45
    scene = sketch.box(columns[0], low, f"scene\n{size(*config.IMAGE_SHAPE)}", "image")
    encoder = sketch.box(columns[1], low, f"{_backbone(config)} and FPN\nP2..P6\n{maps.split(', ')[0]}", "plain")
    reference = sketch.box(columns[0], 0.85, f"reference\n{size(*config.TARGET_SHAPE)}", "siamese")
    same = sketch.box(columns[1], 0.85, "the same weights\nP2..P6\naveraged", "siamese")
    match = sketch.box(columns[2], low, f"matching\n{config.MATCHED_FEATUREMAPS} channels\nper level", "siamese")
    rpn = sketch.box(columns[3], low, f"RPN, RoI Align\n{config.POST_NMS_ROIS_INFERENCE} proposals", "plain")
    outs = _outputs(sketch, columns[4], low, "match or background", "one mask")
    _chain(sketch, [scene, encoder, match, rpn])
    _chain(sketch, [reference, same])
    sketch.arrow(same, match, bend=True)
    sketch.text(
        (columns[1] + columns[2]) / 2 + 0.45, 1.02, f"{len(LEVELS)} x {config.FPN_FEATUREMAPS} numbers", fontsize=8
    )
    sketch.axes.plot([columns[1]] * 2, [low - 0.45, 0.85 + 0.45], color=LINE, linestyle="dotted", linewidth=1.2)
    _fan(sketch, rpn, outs)
    return sketch.figure


def _outputs(sketch: Sketch, x: float, y: float, classes: str, masks: str) -> list[tuple]:
    texts = (f"class\n{classes}", "box\n4 deltas", f"mask\n{masks}")
    return [
        sketch.box(x, y + shift, text, "out", width=1.8, height=0.6)
        for text, shift in zip(texts, (0.75, 0, -0.75), strict=True)
    ]


def _chain(sketch: Sketch, boxes: list[tuple]) -> None:
    for start, stop in zip(boxes, boxes[1:], strict=False):
        sketch.arrow(start, stop)


def _fan(sketch: Sketch, start: tuple, stops: list[tuple]) -> None:
    for stop in stops:
        sketch.arrow(start, stop)


def _backbone(config: Config) -> str:
    name = config.BACKBONE if isinstance(config.BACKBONE, str) else "backbone"
    return name.replace("resnet", "ResNet-")


def draw_matching(config: Config) -> Figure:
    """Figure 3: matching at one level, the finest."""
    sketch, cells = Sketch(11.6, 4.0), compute_backbone_shapes(config, config.IMAGE_SHAPE)[0]
    reference_cells = compute_backbone_shapes(config, config.TARGET_SHAPE)[0]
    channels, matched, level = config.FPN_FEATUREMAPS, config.MATCHED_FEATUREMAPS, LEVELS[0]
    top, low = 2.9, 1.0
    scene = sketch.box(1.2, top, f"scene, {level}\n{size(*cells, channels)}", "plain", width=1.9)
    reference = sketch.box(1.2, low, f"reference, {level}\n{size(*reference_cells, channels)}", "siamese", width=1.9)
    mean = sketch.box(3.7, low, f"average t\n{size(1, 1, channels)}", "siamese", width=1.6)
    difference = sketch.box(5.9, low, f"|P - t|\n{size(*cells, channels)}", "siamese", width=1.8)
    both = sketch.box(7.9, top, f"concat\n{size(*cells, 2 * channels)}", "siamese", width=1.8)
    out = sketch.box(10.4, top, f"matched, {level}\n{size(*cells, matched)}", "out", width=1.9)
    sketch.arrow(reference, mean, "mean")
    sketch.arrow(mean, difference)
    sketch.arrow(scene, both)
    sketch.arrow(difference, both, bend=True)
    sketch.arrow(both, out, "1 x 1")
    down = (difference[0], top, 0, 0)
    sketch.arrow(down, difference)
    sketch.text(difference[0] - 0.18, (top + low) / 2 + 0.2, "P", fontsize=8)
    sketch.text(10.4, 2.15, "to RPN and heads", fontsize=8)
    sketch.text(
        5.8,
        0.2,
        f"each of {', '.join(LEVELS)} has a convolution of its own; several references: the mean of their t",
        fontsize=8,
    )
    return sketch.figure


# ---- a search ----------------------------------------------------------------------------------------------------
def draw_search() -> Figure:
    """References of four categories, a scene, and what the bundled weights find in it with each reference."""
    from siamese_mrcnn_tf import SiamesePredictor
    from siamese_mrcnn_tf.shapes.dataset import reference_crops
    from siamese_mrcnn_tf.shapes.scenes import make_scene
    from siamese_mrcnn_tf.visualize.palette import category_colors

    rng, references = np.random.default_rng(REFERENCE_SEED), []
    for name in SEARCHED:
        references.append(reference_crops(*make_scene(rng, 480, 480, categories=[name]))[name][0])
    scene, _, _ = make_scene(np.random.default_rng(SCENE_SEED), *SCENE_SIDES, categories=[*SEARCHED, *OTHERS])
    predictor = SiamesePredictor.from_pretrained("shapes")
    predictor.set_image(scene)
    found = [predictor.detect([reference]) for reference in references]
    return _search_figure(references, scene, found, category_colors([[scene]] * len(SEARCHED)))


def _search_figure(references: list[np.ndarray], scene: np.ndarray, found: list[dict], colors: list[tuple]) -> Figure:
    """References on the left, framed in their colors; the scene in the middle, the finds on the right."""
    sketch, side, gap, margin = Sketch(8.0, 2.66), 0.51, 0.075, 0.08
    height = 4 * side + 3 * gap
    width = height * SCENE_SIDES[1] / SCENE_SIDES[0]
    middle, right, top = 1.64, 8.0 - margin - width, margin + height
    for number, (name, reference, finds, color) in enumerate(zip(SEARCHED, references, found, colors, strict=True)):
        bottom, count = top - side - number * (side + gap), len(finds["scores"])
        axes = sketch.axes_at(margin, bottom, side, side)
        axes.imshow(reference, aspect="auto")
        axes.spines[:].set(visible=True, color=color, linewidth=2.5)
        sketch.text(0.72, bottom + side / 2 + 0.09, name, ha="left", weight="bold")
        sketch.text(0.72, bottom + side / 2 - 0.09, f"{count} found" if count else "none found", ha="left", fontsize=8)
    for x, text in ((margin, "references"), (middle, "scene"), (right, "what is found")):
        sketch.text(x, top + 0.16, text, ha="left", fontsize=10)
    sketch.axes_at(middle, margin, width, height).imshow(scene)
    for x in (middle - 0.11, right - 0.11):
        ends = (x - 0.09, margin + height / 2), (x + 0.09, margin + height / 2)
        sketch.axes.add_patch(
            FancyArrowPatch(*ends, arrowstyle="-|>", mutation_scale=10, color=LINE, shrinkA=0, shrinkB=0)
        )
    _draw_finds(sketch.axes_at(right, margin, width, height), scene, found, colors)
    return sketch.figure


def _draw_finds(axes: Axes, scene: np.ndarray, found: list[dict], colors: list[tuple]) -> None:
    """The scene with masks, boxes and scores in the colors of their references."""
    from siamese_mrcnn_tf.visualize.instances import display_instances
    from siamese_mrcnn_tf.visualize.style import draw_box

    boxes, class_ids, scores = (
        np.concatenate([finds[key] for finds in found]) for key in ("rois", "class_ids", "scores")
    )
    masks = np.concatenate([finds["masks"] for finds in found], axis=-1)
    shades = [color for color, finds in zip(colors, found, strict=True) for _ in finds["scores"]]
    captions = [f"{score:.2f}" for score in scores]
    given = {"show_bbox": False, "colors": shades, "captions": captions, "fontsize": 6}
    display_instances(scene, boxes, masks, class_ids, ax=axes, **given)
    for box, color in zip(boxes, shades, strict=True):
        draw_box(axes, box, color, linewidth=1.2)
    axes.set(xlim=(-0.5, SCENE_SIDES[1] - 0.5), ylim=(SCENE_SIDES[0] - 0.5, -0.5))


FIGURES = {"figure2": draw_networks, "figure3": draw_matching}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", choices=sorted(CONFIGS), default="small")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "images")
    parser.add_argument("--format", choices=["svg", "png"], default="svg")
    parser.add_argument("--search", action="store_true", help="draw search.png instead, with the bundled weights")
    given = parser.parse_args(arguments)
    if given.search:
        with rc_context({"font.family": "DejaVu Sans"}), atomic_path(given.out / "search.png") as temporary:
            draw_search().savefig(temporary, format="png", dpi=200)
        return
    for name, draw in FIGURES.items():
        path = given.out / f"{name}.{given.format}"
        about = {"metadata": {"Date": None}} if given.format == "svg" else {"dpi": 110}
        with rc_context({"svg.hashsalt": name, "font.family": "DejaVu Sans"}), atomic_path(path) as temporary:
            draw(CONFIGS[given.config]()).savefig(temporary, format=given.format, **about)


if __name__ == "__main__":
    main()
