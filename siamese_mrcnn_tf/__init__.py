"""Siamese Mask R-CNN (arXiv 1811.11507): find and segment every object that looks like one example.

Importing the package imports neither TensorFlow nor Keras: names are looked up on first use.
"""

import importlib
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .config import Config, LargeConfig, SmallConfig, TinyConfig
    from .data.data_generator import load_image_gt, siamese_data_generator
    from .data.dataset import CocoDataset, Dataset, IndexedCocoDataset
    from .data.embeddings import ReferenceEmbedding
    from .data.molding import mold_image, unmold_image, unmold_mask
    from .data.references import get_one_target
    from .data.resize import expand_mask, minimize_mask, resize_image, resize_mask
    from .data.rpn_targets import build_rpn_targets
    from .evaluation.average_precision import compute_ap, compute_ap_range, compute_matches, compute_recall
    from .evaluation.original import build_coco_results, customCOCOeval, evaluate_coco, evaluate_dataset
    from .model import SiameseMaskRCNN
    from .ops.anchors import compute_backbone_shapes, generate_anchors, generate_pyramid_anchors
    from .ops.boxes import (
        apply_box_deltas,
        box_refinement,
        compute_overlaps,
        denorm_boxes,
        extract_bboxes,
        non_max_suppression,
        norm_boxes,
    )
    from .ops.image_meta import compose_image_meta, parse_image_meta
    from .predictor import SiamesePredictor
    from .visualize.diagnostics import (
        display_table,
        display_weight_stats,
        plot_losses,
        plot_overlaps,
        plot_precision_recall,
    )
    from .visualize.instances import display_boxes, display_grid, display_instances, display_results, draw_overlay
    from .visualize.palette import contrasting_colors
    from .visualize.proposals import plot_box_deltas, plot_box_places, plot_recall, score_map
    from .visualize.stages import (
        display_differences,
        display_images,
        display_matching,
        display_top_masks,
        draw_box,
        draw_boxes,
        draw_rois,
        results_to_detections,
    )

__version__ = "0.1.0"

_PUBLIC_NAMES = {  # module -> names
    "config": "Config SmallConfig LargeConfig TinyConfig",
    "model": "SiameseMaskRCNN",
    "predictor": "SiamesePredictor",
    "data.custom": "indexed_dataset",
    "data.dataset": "CocoDataset Dataset IndexedCocoDataset",
    "data.embeddings": "ReferenceEmbedding",
    "data.references": "get_one_target",
    "data.data_generator": "siamese_data_generator load_image_gt",
    "data.rpn_targets": "build_rpn_targets",
    "data.resize": "resize_image resize_mask minimize_mask expand_mask",
    "data.molding": "mold_image unmold_image unmold_mask",
    "ops.anchors": "compute_backbone_shapes generate_anchors generate_pyramid_anchors",
    "ops.boxes": "extract_bboxes norm_boxes denorm_boxes box_refinement apply_box_deltas compute_overlaps "
    "non_max_suppression",
    "ops.image_meta": "compose_image_meta parse_image_meta",
    "evaluation.original": "evaluate_dataset evaluate_coco build_coco_results customCOCOeval",
    "evaluation.average_precision": "compute_matches compute_ap compute_ap_range compute_recall",
    "visualize.instances": "display_instances display_results display_grid draw_overlay display_boxes",
    "visualize.stages": "draw_box draw_boxes draw_rois display_images "
    "display_top_masks display_differences display_matching results_to_detections",
    "visualize.palette": "contrasting_colors",
    "visualize.proposals": "plot_box_deltas plot_box_places plot_recall score_map",
    "visualize.diagnostics": "plot_losses plot_precision_recall plot_overlaps display_table display_weight_stats",
}

# Modules and names of version 0.1 and what they are now; code that imports them keeps working.
_FORMER_MODULES = dict(
    pair.split("=")
    for pair in """
    analysis=evaluation.analysis+evaluation.intervals annotations=data.annotations arguments=cli.options
    augmentation=data.augmentation backbone=modeling.backbone baselines=evaluation.queries box_ops=ops.box_ops
    boxes=ops.boxes+ops.anchors checkpoints=training.checkpoints+cli.inputs
    data_generator=data.data_generator+data.rpn_targets dataset=data.dataset+data.references
    detection_targets=modeling.detection_targets devices=training.distribution diagnostics=visualize.diagnostics
    drawing=visualize.instances+visualize.style evaluation_original=evaluation.original
    evaluation_queries=evaluation.queries+evaluation.references
    evaluation_records=evaluation.records+evaluation.settings evaluation_results=report.experiments
    evaluation_scores=evaluation.coco_scores figures=visualize.stages files=io.files+io.download
    gallery=report.gallery heads=modeling.roi_heads+modeling.rpn html_pages=visualize.pages+visualize.style
    image_meta=ops.image_meta imagenet=pretraining.imagenet imagenet_classes=pretraining.imagenet images=io.images
    inspection=data.checks+visualize.samples instance_crops=pretraining.instance_crops kernels=ops.kernels
    known_weights=weights.pretrained+weights.known_files layer_selection=training.trainable_layers
    layers=modeling.matching+modeling.rpn+modeling.roi_align+modeling.detection losses=modeling.losses
    molding=data.molding+data.resize network=modeling.network+modeling.parts+modeling.training_network
    plots=report.plots
    prediction=search.queries+search.sources published=report.published report_contents=report.tables
    schedules=training.schedules scoring=evaluation.coco_scores training_batches=data.loader+training.batches
    training_model=training.training_model
    via=data.formats.via via_tree=data.formats.via_tree
    weight_files=weights.legacy_h5 weight_kinds=weights.identify
""".split()
)
_FORMER_MODULES["utils"] = "+".join(  # mrcnn/utils.py and lib/utils.py
    """
    ops.boxes ops.anchors data.resize data.molding data.dataset data.references data.data_generator
    evaluation.original evaluation.average_precision visualize.instances visualize.stages
""".split()
)
_FORMER_NAMES = dict(
    pair.split("=")
    for pair in """
    SampleMaker=TrainingSamples make_batch=collate DrawnReferences=RandomReferenceSampler
    ControlReferences=MismatchedReferenceSampler RecordedReferences=ReplayReferenceSampler
    ReferenceSearch=OneShotDetector query_rule=scene_resize_args query_shape=resized_scene_shape
    judge=identify_weights FIGURES=METRICS figure_rows=metric_rows RunFolder=CheckpointManager RunState=TrainerState
    Pictures=ImageFolder Instances=InstanceCrops LabelledCrop=LabeledImage gather_rows=gather_batched
    leaves=iter_layers abridged=summarize_names most_positive_rois=max_positive_rois Verdict=WeightsInfo
    find_pictures=find_images picture_grid=image_grid picture_uri=image_uri checked_picture=checked_image
    draw_picture=draw_image proposals_graph=propose_graph INTERVAL=Z_95
    build_parts=PredictorParts compute_overlaps_masks=mask_overlaps
    Query=QueryMatches mean_and_interval=mean_and_ci Picture=GridImage+AnnotatedImage FIGURE_DPI=DPI
""".split()
)

__all__ = ["__version__", *(name for names in _PUBLIC_NAMES.values() for name in names.split())]


def lazy_names(package: str, names: dict[str, str]) -> Callable[[str], Any]:
    """A `__getattr__` for `package` that imports a module when one of its names is looked up.

    Args:
        package: absolute name, such as `siamese_mrcnn_tf.weights`.
        names: module in the package, such as ".loading" -> its names, separated by spaces.
    """
    homes = {name: module for module, listed in names.items() for name in listed.split()}

    def look_up(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return _find(name, [importlib.import_module(homes[name], package)])

    return look_up


def _find(name: str, modules: list[ModuleType]) -> Any:
    """What `name`, perhaps of version 0.1, stands for in the first of the modules that has it."""
    for module in modules:
        for known in (name, *_FORMER_NAMES.get(name, name).split("+")):
            if hasattr(module, known):
                return getattr(module, known)
    raise AttributeError(f"{', '.join(module.__name__ for module in modules)}: has no attribute {name!r}")


class _FormerModules(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports a module of `_FORMER_MODULES`: an empty one that looks its names up where they are now."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        package, _, name = fullname.rpartition(".")
        is_former = package == __name__ and name in _FORMER_MODULES
        return importlib.machinery.ModuleSpec(fullname, self) if is_former else None

    def exec_module(self, module: ModuleType) -> None:
        homes = _FORMER_MODULES[module.__name__.rpartition(".")[2]].split("+")

        def look_up(name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(name)
            return _find(name, [importlib.import_module(f"{__name__}.{home}") for home in homes])

        module.__getattr__ = look_up  # type: ignore[method-assign]


sys.meta_path.append(_FormerModules())
_public_name = lazy_names(__name__, {f".{module}": names for module, names in _PUBLIC_NAMES.items()})


def __getattr__(name: str) -> Any:
    return importlib.import_module(f".{name}", __name__) if name in _FORMER_MODULES else _public_name(name)


def __dir__() -> list[str]:
    return __all__
