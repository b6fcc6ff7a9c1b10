"""The network: one set of layers, and the models built over it.

`build_layers` makes every layer that has weights, once. The training graph, the single inference model (Matterport's
inputs and outputs) and the three parts behind the predictor (scene encoder, reference encoder, detector) are graphs
over the same layers, so that loading weights into one loads them into all.
"""

import contextlib
import dataclasses

import keras
from keras import layers as KL
from keras import ops

from .backbone import build_fpn_model, build_resnet_model
from .detection import DetectionLayer, inner_graph
from .matching import MatchingLayer, MeanOverReferences
from .roi_heads import build_classifier_layers, build_fpn_mask_graph, build_mask_layers, fpn_classifier_graph
from .rpn import ProposalLayer, build_rpn_model

LEVELS = ("P2", "P3", "P4", "P5", "P6")
POOLED_LEVELS = LEVELS[:4]  # P6 serves the RPN alone
_POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16"}  # PRECISION -> Keras' dtype policy


@dataclasses.dataclass(frozen=True)
class SharedLayers:
    """Every layer with weights.

    Attributes:
        resnet_model, fpn_model, rpn_model: nested models, as in the original files.
        matching: level name -> MatchingLayer.
        classifier: name -> layer of the class and box head.
        mask: name -> layer of the mask head; empty for MODEL = "frcnn".
    """

    resnet_model: keras.Model
    fpn_model: keras.Model
    rpn_model: keras.Model
    matching: dict
    classifier: dict
    mask: dict

    @property
    def layers(self):
        """All of them in a list, as a Keras model has them; this is what the weights module reads and writes."""
        heads = [*self.matching.values(), self.rpn_model, *self.classifier.values(), *self.mask.values()]
        return [self.resnet_model, self.fpn_model, *heads]


@dataclasses.dataclass(frozen=True)
class InferenceNetwork:
    """The single inference model and its inner tensors.

    Attributes:
        model: the Keras model; inputs input_image, input_image_meta, input_target, input_anchors; outputs by name.
        tensors: name -> symbolic tensor of every stage, for `SiameseMaskRCNN.run_graph`.
    """

    model: keras.Model
    tensors: dict


@dataclasses.dataclass(frozen=True)
class PredictorParts:
    """The inference model cut in three.

    Attributes:
        scene_encoder: image [batch, H, W, 3] -> [P2, P3, P4, P5, P6].
        reference_encoder: references [n, T, T, 3] -> embeddings [n, levels, channels].
        detector: [P2..P6], embedding [batch, levels, channels], image_meta, anchors -> dict of outputs.
    """

    scene_encoder: keras.Model
    reference_encoder: keras.Model
    detector: keras.Model


def build_layers(config):
    """All layers of a configuration, with their weights.

    Raises:
        ValueError: a setting the network cannot be built with (`Config.validate`).
    """
    config.validate()
    with dtype_policy(config.PRECISION):
        shared = _build_shared_layers(config)
    build_detector(config, shared)  # the heads get their weights when they are first applied
    return shared


def _build_shared_layers(config):
    resnet_model = build_resnet_model(config)
    fpn_model = build_fpn_model([stage.shape[-1] for stage in resnet_model.outputs[1:]], config.FPN_FEATUREMAPS)
    depth = config.MATCHED_FEATUREMAPS
    return SharedLayers(
        resnet_model=resnet_model,
        fpn_model=fpn_model,
        rpn_model=build_rpn_model(
            config.RPN_ANCHOR_STRIDE, len(config.RPN_ANCHOR_RATIOS), depth, config.RPN_CONV_CHANNELS
        ),
        matching={level: MatchingLayer(depth, name=f"fpn_distance_{level}") for level in LEVELS},
        classifier=build_classifier_layers(
            config.POOL_SIZE,
            config.NUM_CLASSES,
            train_bn=config.TRAIN_BN,
            fc_layers_size=config.FPN_CLASSIF_FC_LAYERS_SIZE,
        ),
        mask=build_mask_layers(train_bn=config.TRAIN_BN, channels=config.MASK_HEAD_CHANNELS)
        if config.MODEL == "mrcnn"
        else {},
    )


@contextlib.contextmanager
def dtype_policy(precision):
    """Context in which layers are built for this precision; others are not touched."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(_POLICIES[precision])
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def build_inference_model(config, layers):
    """Matterport's single inference model.

    Args:
        config: the configuration that `layers` was built for.
        layers: of `build_layers`.

    Returns:
        InferenceNetwork. Inputs, in this order or by name: input_image [batch, H, W, 3] and input_target
        [batch, K, T, T, 3] (both float32, mean subtracted as the configuration says), input_image_meta [batch, meta],
        input_anchors [batch, anchors, 4] normalized. Outputs by name: mrcnn_detection [batch, D, (y1, x1, y2, x2,
        class_id, score)], mrcnn_class [batch, rois, 2], mrcnn_bbox [batch, rois, 4], mrcnn_mask [batch, D, 28, 28]
        (not for "frcnn"), ROI [batch, rois, 4], rpn_class [batch, anchors, 2], rpn_bbox [batch, anchors, 4];
        `detections` and `rpn_rois` are further names of mrcnn_detection and ROI, used by code for the original.
    """
    image, image_meta, anchors = _scene_inputs(config)
    references = keras.Input((None, *config.TARGET_SHAPE), name="input_target")
    tensors = encoders_graph(image, references, layers)
    scene = [tensors[f"img_{level}"] for level in LEVELS]
    tensors.update(detector_graph(scene, tensors["target_embedding"], image_meta, anchors, config, layers))
    outputs = _model_outputs(tensors)
    outputs["detections"], outputs["rpn_rois"] = outputs["mrcnn_detection"], outputs["ROI"]
    model = keras.Model([image, image_meta, references, anchors], outputs, name="mask_rcnn")
    inner = inner_graph(
        tensors,
        anchors,
        image_meta,
        pre_nms_limit=config.PRE_NMS_LIMIT,
        rpn_bbox_std_dev=config.RPN_BBOX_STD_DEV,
        bbox_std_dev=config.BBOX_STD_DEV,
        canonical_size=config.ROI_CANONICAL_SIZE,
    )
    return InferenceNetwork(model, {**tensors, **inner, **outputs})


def build_parts(config, layers):
    """The three models behind the predictor; arguments as in `build_inference_model`."""
    image = keras.Input(_image_shape(config), name="input_image")
    maps = pyramid_graph(image, layers)
    references = keras.Input(config.TARGET_SHAPE, name="input_references")
    embeddings = embedding_graph(pyramid_graph(references, layers))
    return PredictorParts(
        scene_encoder=keras.Model(image, [maps[level] for level in LEVELS], name="scene_encoder"),
        reference_encoder=keras.Model(references, embeddings, name="reference_encoder"),
        detector=build_detector(config, layers),
    )


def build_detector(config, layers):
    """The model that matches an encoded scene with an embedding and detects; see `PredictorParts`."""
    image, image_meta, anchors = _scene_inputs(config)
    maps = pyramid_graph(image, layers)
    scene = [keras.Input(maps[level].shape[1:], dtype=maps[level].dtype, name=f"scene_{level}") for level in LEVELS]
    embedding = keras.Input((len(LEVELS), config.FPN_FEATUREMAPS), name="target_embedding")
    outputs = _model_outputs(detector_graph(scene, embedding, image_meta, anchors, config, layers))
    return keras.Model([*scene, embedding, image_meta, anchors], outputs, name="detector")


def pyramid_graph(image, layers):
    """Backbone and pyramid, the same for scenes and references.

    Args:
        image: [batch, h, w, 3].
        layers: SharedLayers.

    Returns:
        dict of C1..C5 and P2..P6, each [batch, h, w, channels].
    """
    stages = layers.resnet_model(image)
    pyramid = layers.fpn_model(stages[1:])
    names = [f"C{index}" for index in range(1, len(stages) + 1)]
    return dict(zip([*names, *LEVELS], [*stages, *pyramid], strict=True))


def encoders_graph(image, references, layers):
    """Scene and references through the same backbone and pyramid.

    Args:
        image: [batch, H, W, 3].
        references: [batch, K, T, T, 3].
        layers: SharedLayers.

    Returns:
        dict: img_C1..img_P6, tgt_C1..tgt_P6 (of all references), target_embedding [batch, levels, channels].
    """
    tensors = {f"img_{name}": tensor for name, tensor in pyramid_graph(image, layers).items()}
    reference_maps = pyramid_graph(ops.reshape(references, (-1, *references.shape[2:])), layers)
    tensors.update({f"tgt_{name}": tensor for name, tensor in reference_maps.items()})
    mean = MeanOverReferences(name="target_embedding")
    tensors["target_embedding"] = mean([embedding_graph(reference_maps), references])
    return tensors


def embedding_graph(reference_maps):
    """What matching needs of a reference: [n, levels, channels], the averages of P2..P6, padding included."""
    averages = [KL.GlobalAveragePooling2D(dtype="float32")(reference_maps[level]) for level in LEVELS]
    return ops.stack(averages, axis=1)


def detector_graph(scene, embedding, image_meta, anchors, config, layers):
    """Matching, proposals, heads and detections.

    Args:
        scene: [P2..P6], each [batch, h, w, channels].
        embedding: [batch, levels, channels].
        image_meta: [batch, meta].
        anchors: [batch, anchors, (y1, x1, y2, x2)] normalized.
        config, layers: see `build_inference_model`.

    Returns:
        dict of every tensor on the way, by name.
    """
    tensors = match_graph(scene, embedding, layers)
    matched = [tensors[f"matched_{level}"] for level in LEVELS]
    tensors.update(proposals_graph(matched, anchors, config.POST_NMS_ROIS_INFERENCE, config, layers))
    pooled_maps = matched[: len(POOLED_LEVELS)]
    tensors.update(classifier_outputs_graph(tensors["ROI"], pooled_maps, image_meta, config, layers))
    tensors["mrcnn_detection"] = DetectionLayer(
        config.DETECTION_MAX_INSTANCES,
        config.DETECTION_MIN_CONFIDENCE,
        config.DETECTION_NMS_THRESHOLD,
        config.BBOX_STD_DEV,
        argmax=config.DETECTION_ARGMAX,
        name="mrcnn_detection",
    )([tensors["ROI"], tensors["mrcnn_class"], tensors["mrcnn_bbox"], image_meta])
    if layers.mask:
        boxes = tensors["mrcnn_detection"][..., :4]
        tensors.update(mask_outputs_graph(boxes, pooled_maps, image_meta, config, layers))
    return tensors


def classifier_outputs_graph(rois, pooled_maps, image_meta, config, layers):
    """`roi_heads.fpn_classifier_graph` as the configuration says."""
    sizes = {"pool_size": config.POOL_SIZE, "canonical_size": config.ROI_CANONICAL_SIZE}
    return fpn_classifier_graph(rois, pooled_maps, image_meta, layers.classifier, **sizes)


def mask_outputs_graph(rois, pooled_maps, image_meta, config, layers):
    """`roi_heads.build_fpn_mask_graph` as the configuration says."""
    sizes = {"pool_size": config.MASK_POOL_SIZE, "canonical_size": config.ROI_CANONICAL_SIZE}
    return build_fpn_mask_graph(rois, pooled_maps, image_meta, layers.mask, **sizes)


def match_graph(scene, embedding, layers):
    """dict matched_P2..matched_P6 [batch, h, w, 3/2 channels]; arguments as in `detector_graph`."""
    return {
        f"matched_{level}": layers.matching[level]([scene[index], embedding[:, index]])
        for index, level in enumerate(LEVELS)
    }


def proposals_graph(matched, anchors, proposal_count, config, layers):
    """Scores and deltas of all anchors, and the proposals made of them.

    Args:
        matched: matched P2..P6.
        anchors: [batch, anchors, (y1, x1, y2, x2)] normalized.
        proposal_count: rows of ROI.
        config, layers: see `build_inference_model`.

    Returns:
        dict: rpn_class_logits, rpn_class [batch, anchors, 2], rpn_bbox [batch, anchors, 4],
        ROI [batch, proposal_count, 4] normalized.
    """
    by_level = [layers.rpn_model(level_map) for level_map in matched]
    tensors = {
        name: KL.Concatenate(axis=1, name=name)([outputs[name] for outputs in by_level])
        for name in ("rpn_class_logits", "rpn_class", "rpn_bbox")
    }
    tensors["ROI"] = ProposalLayer(
        proposal_count, config.RPN_NMS_THRESHOLD, config.PRE_NMS_LIMIT, config.RPN_BBOX_STD_DEV, name="ROI"
    )([tensors["rpn_class"], tensors["rpn_bbox"], anchors])
    return tensors


def _model_outputs(tensors):
    names = ("mrcnn_detection", "mrcnn_class", "mrcnn_bbox", "mrcnn_mask", "ROI", "rpn_class", "rpn_bbox")
    return {name: tensors[name] for name in names if name in tensors}


def _scene_inputs(config):
    return (
        keras.Input(_image_shape(config), name="input_image"),
        keras.Input((config.IMAGE_META_SIZE,), name="input_image_meta"),
        keras.Input((None, 4), name="input_anchors"),
    )


def _image_shape(config):
    """Shape of the image input: free in the resize modes whose result depends on the picture."""
    return (None, None, 3) if config.IMAGE_RESIZE_MODE in ("pad64", "none") else config.IMAGE_SHAPE
