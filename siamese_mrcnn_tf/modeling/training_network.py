"""The network: one set of layers, and the models built over it.

`build_layers` makes every layer that has weights, once. The training graph, the single inference model (Matterport's
inputs and outputs) and the three parts behind the predictor (scene encoder, reference encoder, detector) are graphs
over the same layers, so that loading weights into one loads them into all.
"""

import dataclasses

import keras
from keras import ops

from ..ops.anchors import pyramid_anchors
from ..ops.box_ops import norm_boxes_graph
from ..ops.boxes import norm_boxes
from .detection_targets import DetectionTargetLayer
from .network import (
    LEVELS,
    POOLED_LEVELS,
    classifier_outputs_graph,
    encoders_graph,
    mask_outputs_graph,
    match_graph,
    proposals_graph,
)
from .rpn import AnchorLayer

_TRAINING_OUTPUTS = (
    *("rpn_class_logits", "rpn_class", "rpn_bbox", "rpn_rois", "output_rois"),
    *("mrcnn_class_logits", "mrcnn_class", "mrcnn_bbox", "mrcnn_mask"),
    *("target_class_ids", "target_bbox", "target_mask", "input_rpn_match", "input_rpn_bbox"),
)


@dataclasses.dataclass(frozen=True)
class TrainingNetwork:
    """The graph of training.

    Attributes:
        inputs: list of symbolic tensors, named and ordered as in the original: input_image, input_image_meta,
            input_target, input_rpn_match, input_rpn_bbox, input_gt_class_ids, input_gt_boxes, input_gt_masks.
        outputs: name -> symbolic tensor of everything that the losses need, and of what a look inside wants.
    """

    inputs: list
    outputs: dict


def build_training_network(config, layers, *, seed=None):
    """The graph from a batch of samples to what the losses compare.

    Anchors are those of the configuration. Of QUERIES_PER_IMAGE samples in a row, which search one image, the first
    one's scene is encoded for all. The mask head runs on the rows that can be positive alone, which come first; with
    TRAIN_BN = None on all, as its statistics are then those of all rows.

    Args:
        config: the configuration that `layers` was built for.
        layers: of `build_layers`.
        seed: of the choice of rois.

    Returns:
        TrainingNetwork. Outputs: rpn_class_logits, rpn_class, rpn_bbox; rpn_rois [batch, POST_NMS_ROIS_TRAINING, 4]
        normalized; output_rois [batch, rois, 4] normalized, target_class_ids, target_bbox, target_mask of
        `detection_targets_graph`; mrcnn_class_logits, mrcnn_class, mrcnn_bbox; mrcnn_mask [batch, rows, 28, 28] (not
        for "frcnn"); and the inputs input_rpn_match, input_rpn_bbox.

    Raises:
        ValueError: a configuration that cannot be trained.
    """
    _check_trainable(config)
    inputs = _training_inputs(config)
    image, image_meta = inputs["input_image"], inputs["input_image_meta"]
    queries = config.QUERIES_PER_IMAGE
    scenes = image if queries == 1 else ops.reshape(image, (-1, queries, *image.shape[1:]))[:, 0]
    tensors = encoders_graph(scenes, inputs["input_target"], layers)
    maps = [tensors[f"img_{level}"] for level in LEVELS]
    if queries > 1:
        maps = [ops.repeat(level, queries, axis=0) for level in maps]
    tensors.update(match_graph(maps, tensors["target_embedding"], layers))
    matched = [tensors[f"matched_{level}"] for level in LEVELS]
    anchors = AnchorLayer(norm_boxes(pyramid_anchors(config, config.IMAGE_SHAPE), config.IMAGE_SHAPE), name="anchors")
    tensors.update(proposals_graph(matched, anchors(image), config.POST_NMS_ROIS_TRAINING, config, layers))
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
    tensors.update(classifier_outputs_graph(targets["rois"], pooled_maps, image_meta, config, layers))
    if layers.mask:
        rows = slice(None) if config.TRAIN_BN is None else slice(most_positive_rois(config))
        tensors.update(mask_outputs_graph(targets["rois"][:, rows], pooled_maps, image_meta, config, layers))
    tensors.update(
        rpn_rois=tensors["ROI"],
        output_rois=targets["rois"],
        target_class_ids=targets["target_class_ids"],
        target_bbox=targets["target_deltas"],
        target_mask=targets["target_masks"],
        input_rpn_match=inputs["input_rpn_match"],
        input_rpn_bbox=inputs["input_rpn_bbox"],
    )
    return TrainingNetwork(
        list(inputs.values()), {name: tensors[name] for name in _TRAINING_OUTPUTS if name in tensors}
    )


def most_positive_rois(config):
    """The most rows of TRAIN_ROIS_PER_IMAGE that can be positive; positive rows come first."""
    return max(int(config.TRAIN_ROIS_PER_IMAGE * config.ROI_POSITIVE_RATIO), 1)


def _training_inputs(config):
    """The inputs of training by name, in the original's order."""
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
    return {name: keras.Input(shape, dtype=dtype, name=name) for name, (shape, dtype) in shapes.items()}


def _check_trainable(config):
    if config.IMAGE_RESIZE_MODE not in ("square", "crop"):
        raise ValueError(
            f"IMAGE_RESIZE_MODE = {config.IMAGE_RESIZE_MODE!r}: training needs scenes of one size, 'square' or 'crop'"
        )
    if not config.USE_RPN_ROIS:
        raise ValueError("USE_RPN_ROIS = False: training on given rois is not supported, expected True")
    if config.IMAGES_PER_GPU % config.QUERIES_PER_IMAGE:
        raise ValueError(
            f"IMAGES_PER_GPU = {config.IMAGES_PER_GPU}: expected a multiple of QUERIES_PER_IMAGE = "
            f"{config.QUERIES_PER_IMAGE}, as each scene is encoded once for its samples"
        )
