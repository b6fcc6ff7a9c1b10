"""Drawings and plots, with Matterport's names, looked up on first use.

    from siamese_mrcnn_tf import visualize

    axes = visualize.display_instances(scene, found["rois"], found["masks"], found["class_ids"], scores=found["scores"])
    axes.figure.savefig("found.png")

The functions draw on the axes they are given or on those of a new figure, return them, and never show anything.

instances: detections over their image, beside their references, in a grid; overlays as arrays.
stages: inside the network: proposals, refinements, masks, differences to the ground truth, feature maps.
proposals: plots of many boxes: places, deltas, recall; maps of scores.
samples: training samples with references, anchors and targets.
diagnostics: losses, precision and recall, overlaps, statistics of weights.
overlays, margin: the finds of a search in their image, the references beside it.
palette, lettering: colors of categories and instances; fonts, texts and places of labels.
captions: labels on axes, placed when a figure is drawn.
style: colors, figures, axes and marks that all drawings share.
pages: HTML pages that open without a server, from page.html.
"""

from typing import TYPE_CHECKING

from .. import lazy_names

if TYPE_CHECKING:
    from .diagnostics import *  # noqa: F403
    from .instances import *  # noqa: F403
    from .palette import contrasting_colors
    from .proposals import *  # noqa: F403
    from .stages import *  # noqa: F403

_NAMES = {
    ".instances": "apply_mask display_boxes display_grid display_instances display_results draw_overlay random_colors",
    ".stages": "display_differences display_images display_matching display_top_masks draw_box draw_boxes draw_rois "
    "results_to_detections",
    ".palette": "contrasting_colors",
    ".proposals": "plot_box_deltas plot_box_places plot_recall score_map",
    ".diagnostics": "display_table display_weight_stats plot_losses plot_overlaps plot_precision_recall",
}

__all__ = [name for names in _NAMES.values() for name in names.split()]
__getattr__ = lazy_names(__name__, _NAMES)


def __dir__() -> list[str]:
    return __all__
