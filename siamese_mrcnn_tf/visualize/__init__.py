"""All drawing functions under one name, as Matterport's `visualize` had them.

    from .. import visualize

    axes = visualize.display_instances(scene, found["rois"], found["masks"], found["class_ids"], scores=found["scores"])
    axes.figure.savefig("found.png")

They draw on the axes they are given or on those of a new figure, and return them. They never show anything:
`axes.figure.savefig(path)` writes the drawing, a notebook displays `axes.figure`. What they do is written in `drawing`
(detections), `figures` (proposals, differences, maps) and `diagnostics` (numbers).
"""

from .diagnostics import display_weight_stats, plot_losses, plot_overlaps, plot_precision_recall
from .instances import (
    apply_mask,
    display_boxes,
    display_grid,
    display_instances,
    display_results,
    draw_overlay,
    random_colors,
)
from .stages import (
    display_differences,
    display_images,
    display_matching,
    display_top_masks,
    draw_boxes,
    draw_rois,
    results_to_detections,
)

__all__ = [
    "apply_mask",
    "display_boxes",
    "display_differences",
    "display_grid",
    "display_images",
    "display_instances",
    "display_matching",
    "display_results",
    "display_top_masks",
    "display_weight_stats",
    "draw_boxes",
    "draw_overlay",
    "draw_rois",
    "plot_losses",
    "plot_overlaps",
    "plot_precision_recall",
    "random_colors",
    "results_to_detections",
]
