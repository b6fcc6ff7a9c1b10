"""The inference network in parts, as the predictor uses it.

A scene is encoded once. With one reference, `detector` matches and detects; with several, `scene_terms` computes what
they share, and `shared_detector` the rest. `segmenter` computes masks of the detections that are left, not of the rows
that pad them.
"""

import copy
import functools
from typing import TypeAlias

import keras

from ..config import Config
from ..ops.anchors import compute_backbone_shapes
from ..ops.box_ops import Tensor
from .backbone import LEVELS
from .folding import folded_layers
from .matching import embedding_graph, match_graph
from .network import (
    POOLED_LEVELS,
    SharedLayers,
    finds_graph,
    heads_of,
    image_shape,
    model_outputs,
    pyramid_graph,
    scene_inputs,
)
from .roi_align import ListedROIAlign
from .roi_heads import mask_head_graph
from .rpn import RPNHead, all_anchors_graph
from .shared_scene import SceneTerms, SharedMatching

MATCHED = [f"matched_{level}" for level in POOLED_LEVELS]  # outputs of the detectors that masks are pooled from

# (outputs of the RPN for all anchors by name, matched maps [batch, h, w, channels] by the names in MATCHED)
Matches: TypeAlias = tuple[dict[str, Tensor], dict[str, Tensor]]


class PredictorParts:
    """The parts; each is a Keras model, built when it is first used.

    Args:
        config: of `layers`.
        layers: of `network.build_layers`.

    Attributes:
        layers: the same, with their normalizations folded.
    """

    def __init__(self, config: Config, layers: SharedLayers) -> None:
        self._config, self.layers = config, folded_layers(layers)

    def with_detections(self, config: Config) -> "PredictorParts":
        """The same parts, with the detectors of another configuration of detections."""
        parts = copy.copy(self)
        parts._config = config
        for name in ("detector", "shared_detector"):
            vars(parts).pop(name, None)  # what was built
        return parts

    @functools.cached_property
    def scene_encoder(self) -> keras.Model:
        """image [batch, H, W, 3] -> [P2, P3, P4, P5, P6], each [batch, h, w, channels]."""
        image = keras.Input(image_shape(self._config), name="input_image")
        maps = pyramid_graph(image, self.layers)
        return keras.Model(image, [maps[level] for level in LEVELS], name="scene_encoder")

    @functools.cached_property
    def pyramid_encoder(self) -> keras.Model:
        """Images [batch, h, w, 3] of any size -> [P2, P3, P4, P5, P6]: `scene_encoder` for scenes and references."""
        image = keras.Input((None, None, 3), name="input_image")
        maps = pyramid_graph(image, self.layers)
        return keras.Model(image, [maps[level] for level in LEVELS], name="pyramid_encoder")

    @functools.cached_property
    def embedder(self) -> keras.Model:
        """P2..P6 of references, each [n, h, w, channels] -> embeddings [n, levels, channels]."""
        maps = {
            level: keras.Input(tensor.shape[1:], dtype=tensor.dtype, name=f"reference_{level}")
            for level, tensor in zip(LEVELS, self.pyramid_encoder.outputs, strict=True)
        }
        return keras.Model(list(maps.values()), embedding_graph(maps), name="embedder")

    @functools.cached_property
    def reference_encoder(self) -> keras.Model:
        """references [n, T, T, 3] -> embeddings [n, levels, channels]."""
        references = keras.Input(self._config.TARGET_SHAPE, name="input_references")
        embeddings = embedding_graph(pyramid_graph(references, self.layers))
        return keras.Model(references, embeddings, name="reference_encoder")

    @functools.cached_property
    def detector(self) -> keras.Model:
        """P2..P6, embedding [batch, levels, channels], image_meta, anchors -> outputs of `build_inference_model`
        without masks, and matched_P2..matched_P5, each [batch, h, w, channels]."""
        scene, embedding, image_meta, anchors = self._inputs()
        outputs = self._detected(*self.match(scene, embedding), image_meta, anchors)
        return keras.Model([*scene, embedding, image_meta, anchors], outputs, name="detector")

    def match(self, scene: list[Tensor], embedding: Tensor) -> Matches:
        """Matching and RPN: [P2..P6], each [batch, h, w, channels], and embedding [batch, levels, channels]."""
        matched = match_graph(scene, embedding, self.layers)
        rpn = RPNHead(self.layers.rpn_model)
        found = all_anchors_graph([rpn(level_map) for level_map in matched.values()])
        return found, {name: matched[name] for name in MATCHED}

    def match_shared(self, scene: list[Tensor], terms: list[Tensor], embedding: Tensor) -> Matches:
        """`match` for each of several embeddings and one scene, with what `SceneTerms` gives for it."""
        matched, rpn = SharedMatching(self.layers, name="shared_matching")([*scene, *terms, embedding])
        return all_anchors_graph(rpn), dict(zip(MATCHED, matched, strict=True))

    def _detected(
        self, rpn: dict[str, Tensor], matched: dict[str, Tensor], image_meta: Tensor, anchors: Tensor
    ) -> dict[str, Tensor]:
        """The outputs of a detector."""
        heads = heads_of(self.layers)
        tensors = finds_graph(rpn, list(matched.values()), image_meta, anchors, self._config, heads)
        return {**model_outputs(tensors), **matched}

    @functools.cached_property
    def segmenter(self) -> keras.Model | None:
        """Boxes [n, 4] normalized, the index int32 [n] of each one's image, image_meta, matched P2..P5
        -> masks [n, 28, 28]; None for "frcnn"."""
        config = self._config
        if not self.layers.mask:
            return None
        boxes, indices = keras.Input((4,), name="input_boxes"), keras.Input((), dtype="int32", name="input_indices")
        _, image_meta, _ = scene_inputs(config)
        shape, dtype = (None, None, config.MATCHED_FEATUREMAPS), self.layers.matching[LEVELS[0]].compute_dtype
        matched = [keras.Input(shape, dtype=dtype, name=name) for name in MATCHED]
        inputs = [boxes, indices, image_meta, *matched]
        pooled = ListedROIAlign((config.MASK_POOL_SIZE,) * 2, config.ROI_CANONICAL_SIZE)(inputs)
        return keras.Model(inputs, mask_head_graph(pooled, self.layers.mask)["mrcnn_mask"], name="segmenter")

    @functools.cached_property
    def scene_terms(self) -> keras.Model:
        """P2..P6 of one scene -> the tensors of `shared_scene.SceneTerms`."""
        scene = self._inputs()[0]
        return keras.Model(scene, SceneTerms(self.layers, name="terms")(scene), name="scene_terms")

    @functools.cached_property
    def shared_detector(self) -> keras.Model:
        """P2..P6 of one scene, its terms, embeddings [batch, levels, channels], image_meta, anchors -> the outputs of
        `detector` for each of the embeddings."""
        scene, embedding, image_meta, anchors = self._inputs()
        given = [
            keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=f"term_{number}")
            for number, tensor in enumerate(self.scene_terms.outputs)
        ]
        outputs = self._detected(*self.match_shared(scene, given, embedding), image_meta, anchors)
        return keras.Model([*scene, *given, embedding, image_meta, anchors], outputs, name="shared_detector")

    def _inputs(self) -> tuple:
        """Symbolic inputs of a detector: ([P2..P6], embedding, image_meta, anchors)."""
        config = self._config
        _, image_meta, anchors = scene_inputs(config)
        sizes: list[tuple[int | None, ...]] = [(None, None)] * len(LEVELS)
        if None not in image_shape(config):
            sizes = [tuple(map(int, size)) for size in compute_backbone_shapes(config, config.IMAGE_SHAPE)]
        dtype = self.layers.fpn_model.outputs[0].dtype
        scene = [
            keras.Input((*size, config.FPN_FEATUREMAPS), dtype=dtype, name=f"scene_{level}")
            for level, size in zip(LEVELS, sizes, strict=True)
        ]
        embedding = keras.Input((len(LEVELS), config.FPN_FEATUREMAPS), name="target_embedding")
        return scene, embedding, image_meta, anchors
