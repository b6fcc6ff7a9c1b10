"""Siamese Mask R-CNN (arXiv 1811.11507): find and segment every object that looks like one example.

Names are looked up on first use, so that importing the package imports neither TensorFlow nor Keras.
"""

import importlib

__version__ = "0.1.0"

_HOMES = {
    "Config": "config",
    "SmallConfig": "config",
    "LargeConfig": "config",
    "TinyConfig": "config",
    "SiameseMaskRCNN": "model",
    "SiamesePredictor": "predictor",
    "ReferenceEmbedding": "predictor",
    "CocoDataset": "dataset",
    "Dataset": "dataset",
    "IndexedCocoDataset": "dataset",
    "get_one_target": "dataset",
    "siamese_data_generator": "data_generator",
    "evaluate_dataset": "evaluation_original",
    "display_instances": "drawing",
    "display_results": "drawing",
    "display_grid": "drawing",
    "draw_overlay": "drawing",
    "display_boxes": "drawing",
    "draw_boxes": "figures",
    "draw_rois": "figures",
    "display_images": "figures",
    "display_top_masks": "figures",
    "display_differences": "figures",
    "display_matching": "figures",
    "results_to_detections": "figures",
    "plot_losses": "diagnostics",
    "plot_precision_recall": "diagnostics",
    "plot_overlaps": "diagnostics",
    "display_weight_stats": "diagnostics",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)


def __dir__():
    return __all__
