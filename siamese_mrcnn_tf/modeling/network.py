"""The network: all layers with weights, and the inference models built over them.

`build_layers` makes each layer once. The single inference model (Matterport's inputs and outputs), the parts behind the
predictor (`parts`) and the training graph (`training_network`) share the layers, so that weights loaded into one are
loaded into all.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator

import keras
from keras import layers as KL
from keras import ops

from ..config import Config
from ..ops.box_ops import Tensor
from .backbone import LEVELS, build_fpn_model, build_resnet_model
from .detection import DetectionLayer, refined_rois_graph, window_norm_graph
from .matching import MatchingLayer, MeanOverReferences, embedding_graph, match_graph
from .presence import build_presence_layers, gated_graph, presence_graph
from .roi_align import roi_levels_graph
from .roi_heads import (
    build_chain,
    build_classifier_layers,
    build_fpn_mask_graph,
    build_mask_layers,
    class_head_graph,
    fpn_classifier_graph,
)
from .rpn import RefinedAnchorsLayer, all_anchors_graph, build_rpn_model, propose_graph

POOLED_LEVELS = LEVELS[:4]  # only the RPN uses P6
_POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16"}  # PRECISION -> Keras dtype policy


@dataclasses.dataclass(frozen=True)
class SharedLayers:
    """All layers with weights."""

    resnet_model: keras.Model  # nested models, as in the original weight files
    fpn_model: keras.Model
    rpn_model: keras.Model
    matching: dict[str, MatchingLayer]  # by level name
    classifier: dict[str, KL.Layer]  # the class and box head, by name
    mask: dict[str, KL.Layer]  # the mask head, by name; empty for MODEL = "frcnn"
    presence: dict[str, KL.Layer]  # the presence output, by name; empty without USE_PRESENCE

    @property
    def layers(self) -> list[KL.Layer]:
        """All of them in a list, like the `layers` of a Keras model, for loading and saving weights."""
        heads = [*self.matching.values(), self.rpn_model, *self.classifier.values(), *self.mask.values()]
        return [self.resnet_model, self.fpn_model, *heads, *self.presence.values()]


@dataclasses.dataclass(frozen=True)
class Heads:
    """What `finds_graph` computes with weights.

    Attributes:
        classify: pooled maps [n, pool, pool, channels] -> the outputs of `roi_heads.class_head_graph`, or those that
            `fpn_classifier_graph` needs.
        presence: matched P2..P5 -> the outputs of `presence_graph`; None without USE_PRESENCE.
    """

    classify: Callable[[Tensor], dict[str, Tensor]]
    presence: Callable[[list[Tensor]], dict[str, Tensor]] | None


def heads_of(layers: SharedLayers) -> Heads:
    """The heads with their layers."""
    presence = functools.partial(presence_graph, layers=layers.presence) if layers.presence else None
    return Heads(functools.partial(class_head_graph, layers=layers.classifier), presence)


@dataclasses.dataclass(frozen=True)
class InferenceNetwork:
    """The single inference model and its intermediate tensors."""

    model: keras.Model
    tensors: dict[str, Tensor]  # symbolic tensors of every stage by name, for `SiameseMaskRCNN.run_graph`


def build_layers(config: Config) -> SharedLayers:
    """All layers of a configuration, with their weights.

    Raises:
        ValueError: the network cannot be built with a setting (`Config.validate`).
    """
    config.validate()
    depth, ratios, bn = config.MATCHED_FEATUREMAPS, len(config.RPN_ANCHOR_RATIOS), config.TRAIN_BN
    with dtype_policy(config.PRECISION):  # initial weights depend on the order of construction
        resnet = build_resnet_model(config)
        fpn = build_fpn_model([stage.shape[-1] for stage in resnet.outputs[1:]], config.FPN_FEATUREMAPS)
        rpn = build_rpn_model(config.RPN_ANCHOR_STRIDE, ratios, depth, config.RPN_CONV_CHANNELS)
        matching = {level: MatchingLayer(depth, name=f"fpn_distance_{level}") for level in LEVELS}
        fc_size = config.FPN_CLASSIF_FC_LAYERS_SIZE
        classifier = build_classifier_layers(config.POOL_SIZE, config.NUM_CLASSES, train_bn=bn, fc_layers_size=fc_size)
        mask = build_mask_layers(train_bn=bn, channels=config.MASK_HEAD_CHANNELS) if config.MODEL == "mrcnn" else {}
    layers = SharedLayers(resnet, fpn, rpn, matching, classifier, mask, presence={})
    _build_heads(config, layers)
    if config.USE_PRESENCE:  # last, so that the other initial weights are those of a network without it
        layers = dataclasses.replace(layers, presence=build_presence_layers(depth, fc_size))
    return layers


@contextlib.contextmanager
def dtype_policy(precision: str) -> Iterator[None]:
    """Context in which layers are built for a PRECISION."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(_POLICIES[precision])
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def build_inference_model(config: Config, layers: SharedLayers) -> InferenceNetwork:
    """Matterport's single inference model; `layers` are those of `build_layers` for this configuration.

    Returns:
        InferenceNetwork. Inputs, in this order or by name: input_image [batch, H, W, 3] and input_target
        [batch, K, T, T, 3] (both float32, mean subtracted as configured), input_image_meta [batch, meta],
        input_anchors [batch, anchors, 4] normalized. Outputs by name: mrcnn_detection [batch, D, (y1, x1, y2, x2,
        class_id, score)], mrcnn_class [batch, rois, 2], mrcnn_bbox [batch, rois, 4], mrcnn_mask [batch, D, 28, 28]
        (not for "frcnn"), ROI [batch, rois, 4], rpn_class [batch, anchors, 2], rpn_bbox [batch, anchors, 4], with
        USE_PRESENCE presence [batch, 1], which multiplies the scores of mrcnn_detection but not mrcnn_class;
        `detections` and `rpn_rois` are the names that code for the original uses for mrcnn_detection and ROI.
    """
    image, image_meta, anchors = scene_inputs(config)
    references = keras.Input((None, *config.TARGET_SHAPE), name="input_target")
    tensors = encoders_graph(image, references, layers)
    scene = [tensors[f"img_{level}"] for level in LEVELS]
    tensors.update(detector_graph(scene, tensors["target_embedding"], image_meta, anchors, config, layers))
    outputs = model_outputs(tensors)
    outputs["detections"], outputs["rpn_rois"] = outputs["mrcnn_detection"], outputs["ROI"]
    model = keras.Model([image, image_meta, references, anchors], outputs, name="mask_rcnn")
    return InferenceNetwork(model, {**tensors, **_intermediates(tensors, anchors, image_meta, config), **outputs})


def _build_heads(config: Config, layers: SharedLayers) -> None:
    """Let the layers of matching and of the heads create their weights."""
    channels, depth = config.FPN_FEATUREMAPS, config.MATCHED_FEATUREMAPS
    for matching in layers.matching.values():
        matching.build([(None, None, None, channels), (None, channels)])
    *shared, logits, deltas = layers.classifier.values()
    pooled = build_chain(shared, (None, config.POOL_SIZE, config.POOL_SIZE, depth))
    for dense in (logits, deltas):
        dense.build((None, pooled[-1]))
    build_chain(layers.mask.values(), (None, config.MASK_POOL_SIZE, config.MASK_POOL_SIZE, depth))


def pyramid_graph(image: Tensor, layers: SharedLayers) -> dict[str, Tensor]:
    """Backbone and pyramid of images [batch, h, w, 3]: dict of C1..C5 and P2..P6, each [batch, h, w, channels]."""
    stages = layers.resnet_model(image)
    pyramid = layers.fpn_model(stages[1:])
    names = [f"C{index}" for index in range(1, len(stages) + 1)]
    return dict(zip([*names, *LEVELS], [*stages, *pyramid], strict=True))


def encoders_graph(image: Tensor, references: Tensor, layers: SharedLayers) -> dict[str, Tensor]:
    """Scenes [batch, H, W, 3] and references [batch, K, T, T, 3] through the same backbone and pyramid.

    Returns:
        dict: img_C1..img_P6, tgt_C1..tgt_P6 (of all references), target_embedding [batch, levels, channels].
    """
    tensors = {f"img_{name}": tensor for name, tensor in pyramid_graph(image, layers).items()}
    reference_maps = pyramid_graph(ops.reshape(references, (-1, *references.shape[2:])), layers)
    tensors.update({f"tgt_{name}": tensor for name, tensor in reference_maps.items()})
    mean = MeanOverReferences(name="target_embedding")
    tensors["target_embedding"] = mean([embedding_graph(reference_maps), references])
    return tensors


def detector_graph(
    scene: list[Tensor], embedding: Tensor, image_meta: Tensor, anchors: Tensor, config: Config, layers: SharedLayers
) -> dict[str, Tensor]:
    """Matching, proposals, heads and detections: the tensors of all stages, by name.

    Args:
        scene: [P2..P6], each [batch, h, w, channels].
        embedding: [batch, levels, channels].
        image_meta: [batch, meta].
        anchors: [batch, anchors, (y1, x1, y2, x2)] normalized.
    """
    tensors = match_graph(scene, embedding, layers)
    matched = list(tensors.values())
    rpn = all_anchors_graph([layers.rpn_model(level_map) for level_map in matched])
    pooled_maps = matched[: len(POOLED_LEVELS)]
    tensors.update(finds_graph(rpn, pooled_maps, image_meta, anchors, config, heads_of(layers)))
    if layers.mask:
        boxes = tensors["mrcnn_detection"][..., :4]
        tensors.update(mask_outputs_graph(boxes, pooled_maps, image_meta, config, layers))
    return tensors


def finds_graph(
    rpn: dict[str, Tensor],
    pooled_maps: list[Tensor],
    image_meta: Tensor,
    anchors: Tensor,
    config: Config,
    heads: Heads,
) -> dict[str, Tensor]:
    """Proposals, class and box head, and detections without masks: the tensors of these stages, by name.

    Args:
        rpn: the outputs of the RPN for all anchors, rpn_class and rpn_bbox among them (`rpn.all_anchors_graph`).
        pooled_maps: matched P2..P5, each [batch, h, w, channels].
        image_meta, anchors: as in `detector_graph`.
    """
    tensors = propose_graph(rpn, anchors, config.POST_NMS_ROIS_INFERENCE, config)
    tensors.update(classifier_outputs_graph(tensors["ROI"], pooled_maps, image_meta, config, heads))
    probabilities = tensors["mrcnn_class"]
    if heads.presence:
        tensors.update(heads.presence(pooled_maps))
        probabilities = gated_graph(probabilities, tensors["presence"])
    detect = _detection_layer(config, argmax=config.DETECTION_ARGMAX, name="mrcnn_detection")
    detections = detect([tensors["ROI"], probabilities, tensors["mrcnn_bbox"], image_meta])
    tensors["first_detections"] = detections
    for number in range(1, config.DETECTION_REFINEMENTS + 1):
        detections = refinement_graph(detections, pooled_maps, image_meta, config, heads, name=f"refined_{number}")
    return {**tensors, "mrcnn_detection": detections}


def refinement_graph(
    detections: Tensor,
    pooled_maps: list[Tensor],
    image_meta: Tensor,
    config: Config,
    heads: Heads,
    *,
    name: str,
) -> Tensor:
    """Detections [batch, D, 6] as rois of the box head again: moved by its deltas, near-duplicates dropped.

    Scores stay. It is the iterative box regression that Cascade R-CNN starts from (arXiv 1712.00726, section 3.1).
    """
    boxes, scores = detections[..., :4], detections[..., 5:]
    again = classifier_outputs_graph(boxes, pooled_maps, image_meta, config, heads, prefix=f"{name}_")
    probabilities = ops.concatenate([1.0 - scores, scores], axis=-1)
    return _detection_layer(config, argmax=False, name=name)([boxes, probabilities, again["mrcnn_bbox"], image_meta])


def _detection_layer(config: Config, *, argmax: bool, name: str) -> DetectionLayer:
    limits = config.DETECTION_MAX_INSTANCES, config.DETECTION_MIN_CONFIDENCE, config.DETECTION_NMS_THRESHOLD
    return DetectionLayer(*limits, config.BBOX_STD_DEV, argmax=argmax, name=name)


def classifier_outputs_graph(
    rois: Tensor,
    pooled_maps: list[Tensor],
    image_meta: Tensor,
    config: Config,
    heads: Heads | SharedLayers,
    *,
    prefix: str = "",
) -> dict[str, Tensor]:
    """`roi_heads.fpn_classifier_graph` with the sizes of a configuration; `heads` as functions, or their layers."""
    if isinstance(heads, SharedLayers):
        heads = heads_of(heads)
    sizes = {"pool_size": config.POOL_SIZE, "canonical_size": config.ROI_CANONICAL_SIZE}
    return fpn_classifier_graph(rois, pooled_maps, image_meta, heads.classify, **sizes, prefix=prefix)


def mask_outputs_graph(
    rois: Tensor, pooled_maps: list[Tensor], image_meta: Tensor, config: Config, layers: SharedLayers
) -> dict[str, Tensor]:
    """`roi_heads.build_fpn_mask_graph` with the sizes of a configuration."""
    sizes = {"pool_size": config.MASK_POOL_SIZE, "canonical_size": config.ROI_CANONICAL_SIZE}
    return build_fpn_mask_graph(rois, pooled_maps, image_meta, layers.mask, **sizes)


def _intermediates(
    tensors: dict[str, Tensor], anchors: Tensor, image_meta: Tensor, config: Config
) -> dict[str, Tensor]:
    """Intermediate results of the layers, for visualization.

    Returns:
        dict: tensors of `refined_anchors_graph`; roi_levels int32 [batch, n], the pyramid level that each roi is pooled
        from; refined_rois [batch, n, (y1, x1, y2, x2)] normalized, moved by mrcnn_bbox and clipped.
    """
    candidates = RefinedAnchorsLayer(config.PRE_NMS_LIMIT, config.RPN_BBOX_STD_DEV, name="refined_anchors")
    deltas = tensors["mrcnn_bbox"] * ops.convert_to_tensor(config.BBOX_STD_DEV, dtype="float32")
    return {
        **candidates([tensors["rpn_class"], tensors["rpn_bbox"], anchors]),
        "roi_levels": roi_levels_graph(tensors["ROI"], image_meta, canonical_size=config.ROI_CANONICAL_SIZE),
        "refined_rois": refined_rois_graph(tensors["ROI"], deltas, window_norm_graph(image_meta)),
    }


def model_outputs(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors that are outputs of the inference models, by name."""
    names = ("mrcnn_detection", "mrcnn_class", "mrcnn_bbox", "mrcnn_mask", "ROI", "rpn_class", "rpn_bbox", "presence")
    return {name: tensors[name] for name in names if name in tensors}


def scene_inputs(config: Config) -> tuple[Tensor, Tensor, Tensor]:
    """Symbolic inputs: images [batch, H, W, 3], image_meta [batch, meta], anchors [batch, anchors, 4]."""
    return (
        keras.Input(image_shape(config), name="input_image"),
        keras.Input((config.IMAGE_META_SIZE,), name="input_image_meta"),
        keras.Input((None, 4), name="input_anchors"),
    )


def image_shape(config: Config) -> tuple[int | None, int | None, int]:
    """Shape of the image input: not fixed in the resize modes whose result depends on the image."""
    return (None, None, 3) if config.IMAGE_RESIZE_MODE in ("pad64", "none") else config.IMAGE_SHAPE
