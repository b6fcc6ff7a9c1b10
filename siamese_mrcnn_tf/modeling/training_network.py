"""The training graph: from a batch of samples to the predictions and targets that the losses compare.

It applies the layers of `network.build_layers`; detection targets are assigned between the RPN and the heads.
"""

import dataclasses

import keras
from keras import ops

from ..config import Config
from ..ops.anchors import pyramid_anchors
from ..ops.box_ops import Tensor, norm_boxes_graph
from ..ops.boxes import norm_boxes
from .backbone import LEVELS
from .detection_targets import DetectionTargetLayer
from .matching import match_graph
from .network import (
    POOLED_LEVELS,
    SharedLayers,
    classifier_outputs_graph,
    encoders_graph,
    heads_of,
    mask_outputs_graph,
)
from .presence import presence_graph
from .reference_classifier import reference_logits_graph
from .rpn import AnchorLayer, all_anchors_graph, propose_graph

_PREDICTIONS = ("rpn_class_logits", "rpn_class", "rpn_bbox", "mrcnn_class_logits", "mrcnn_class", "mrcnn_bbox")


@dataclasses.dataclass(frozen=True)
class TrainingNetwork:
    """Symbolic inputs and outputs of the training graph."""

    inputs: list[Tensor]  # named and ordered as in the original, see `_training_inputs`
    outputs: dict[str, Tensor]  # predictions and targets


def build_training_network(config: Config, layers: SharedLayers, *, seed: int | None = None) -> TrainingNetwork:
    """The graph from a batch of samples to predictions and targets.

    QUERIES_PER_IMAGE consecutive samples share one image, which is encoded once. The mask head runs only on the first
    rows, where the positive ones are (TRAIN_MASK_ROIS_PER_IMAGE); with TRAIN_BN = None it runs on all rows, which its
    statistics depend on.

    `layers` are those of `build_layers` for this configuration; `seed` is that of the sampling of rois.

    Returns:
        TrainingNetwork. Outputs: rpn_class_logits, rpn_class, rpn_bbox; rpn_rois [batch, POST_NMS_ROIS_TRAINING, 4]
        normalized; output_rois [batch, rois, 4] normalized, target_class_ids, target_bbox, target_mask of
        `detection_targets_graph`; mrcnn_class_logits, mrcnn_class, mrcnn_bbox; mrcnn_mask [batch, rows, 28, 28] (not
        for "frcnn"); with USE_PRESENCE presence_logit [batch, 1] and target_presence bool [batch, 1], whether the scene
        has an object or a crowd of the category; and the inputs input_rpn_match, input_rpn_bbox.

    Raises:
        ValueError: a configuration that cannot be trained.
    """
    config.validate_training()
    inputs = _training_inputs(config)
    image, image_meta = inputs["input_image"], inputs["input_image_meta"]
    queries = config.QUERIES_PER_IMAGE
    scenes = image if queries == 1 else ops.reshape(image, (-1, queries, *image.shape[1:]))[:, 0]
    tensors = encoders_graph(scenes, inputs["input_target"], layers)
    maps = [tensors[f"img_{level}"] for level in LEVELS]
    if queries > 1:
        maps = [ops.repeat(level, queries, axis=0) for level in maps]
    matched = list(match_graph(maps, tensors["target_embedding"], layers).values())
    anchors = AnchorLayer(norm_boxes(pyramid_anchors(config, config.IMAGE_SHAPE), config.IMAGE_SHAPE), name="anchors")
    rpn = all_anchors_graph([layers.rpn_model(level_map) for level_map in matched])
    tensors.update(propose_graph(rpn, anchors(image), config.POST_NMS_ROIS_TRAINING, config))
    gt_boxes_norm = norm_boxes_graph(inputs["input_gt_boxes"], config.IMAGE_SHAPE[:2])
    targets = DetectionTargetLayer(
        config.TRAIN_ROIS_PER_IMAGE,
        config.ROI_POSITIVE_RATIO,
        config.BBOX_STD_DEV,
        config.MASK_SHAPE,
        config.USE_MINI_MASK,
        shuffle=config.SHUFFLE_ROIS,
        seed=seed,
        jittered=config.NUM_JITTERED_GT_ROIS,
        fill_negatives=config.FILL_NEGATIVE_ROIS,
        name="proposal_targets",
    )([tensors["ROI"], inputs["input_gt_class_ids"], gt_boxes_norm, inputs["input_gt_masks"]])
    pooled_maps = matched[: len(POOLED_LEVELS)]
    tensors.update(classifier_outputs_graph(targets["rois"], pooled_maps, image_meta, config, heads_of(layers)))
    outputs = {
        **{name: tensors[name] for name in _PREDICTIONS},
        **{"rpn_rois": tensors["ROI"], "output_rois": targets["rois"], "target_class_ids": targets["target_class_ids"]},
        **{"target_bbox": targets["target_deltas"], "target_mask": targets["target_masks"]},
        **{name: inputs[name] for name in ("input_rpn_match", "input_rpn_bbox")},
    }
    if layers.mask:
        rows = slice(None) if config.TRAIN_BN is None else slice(max_mask_rois(config))
        masks = mask_outputs_graph(targets["rois"][:, rows], pooled_maps, image_meta, config, layers)
        outputs["mrcnn_mask"] = masks["mrcnn_mask"]
    if layers.presence:
        outputs["presence_logit"] = presence_graph(pooled_maps, layers.presence)["presence_logit"]
        outputs["target_presence"] = ops.any(inputs["input_gt_class_ids"] != 0, axis=-1, keepdims=True)
    if config.REFERENCE_CLASSES:
        outputs["reference_logits"] = reference_logits_graph(tensors["target_embedding"], config.REFERENCE_CLASSES)
        outputs["target_class"] = inputs["input_target_class"]
    return TrainingNetwork(list(inputs.values()), outputs)


def max_positive_rois(config: Config) -> int:
    """Maximum number of positive rows among TRAIN_ROIS_PER_IMAGE."""
    return max(int(config.TRAIN_ROIS_PER_IMAGE * config.ROI_POSITIVE_RATIO), 1)


def max_mask_rois(config: Config) -> int:
    """Maximum number of positive rows that train the mask head."""
    return min(config.TRAIN_MASK_ROIS_PER_IMAGE or config.TRAIN_ROIS_PER_IMAGE, max_positive_rois(config))


def _training_inputs(config: Config) -> dict[str, Tensor]:
    """The training inputs by name, in the original's order."""
    mask_shape = config.MINI_MASK_SHAPE if config.USE_MINI_MASK else config.IMAGE_SHAPE[:2]
    shapes = {
        "input_image": (config.IMAGE_SHAPE, "float32"),
        "input_image_meta": ((config.IMAGE_META_SIZE,), "float32"),
        "input_target": ((config.NUM_TARGETS, *config.TARGET_SHAPE), "float32"),
        "input_rpn_match": ((None, 1), "int32"),
        "input_rpn_bbox": ((None, 4), "float32"),
        "input_gt_class_ids": ((None,), "int32"),
        "input_gt_boxes": ((None, 4), "float32"),
        "input_gt_masks": ((*mask_shape, None), "bool"),
    }
    if config.REFERENCE_CLASSES:
        shapes["input_target_class"] = ((), "int32")
    return {name: keras.Input(shape, dtype=dtype, name=name) for name, (shape, dtype) in shapes.items()}
