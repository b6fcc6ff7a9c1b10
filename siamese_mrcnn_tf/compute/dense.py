"""The parts of the network that OpenVINO computes, as functions of tensors."""

import functools
from collections.abc import Callable

import numpy as np
from keras import ops

from ..config import Config
from ..modeling.backbone import LEVELS
from ..modeling.network import SharedLayers, heads_of
from ..modeling.parts import MATCHED, Matches, PredictorParts
from ..modeling.roi_heads import mask_head_graph
from ..modeling.shared_scene import SceneTerms
from ..ops.box_ops import Tensor
from .conversion import DensePart

Shape = list[int | None]
_MATCHES = ("rpn_class", "rpn_bbox")  # what proposals need of the RPN


class DenseParts:
    """Makes the parts, each from the layers of the network.

    Scenes and their maps come one by one, with the shape of the configuration where it has one; references and pooled
    maps in any number.

    Args:
        config: of `layers`.
        layers: of `network.build_layers`, in float32.
    """

    def __init__(self, config: Config, layers: SharedLayers) -> None:
        self._config, self._parts = config, PredictorParts(config, layers)

    def part(self, name: str) -> DensePart:
        """A part by name, one of the methods below."""
        makers: dict[str, Callable[[], DensePart]] = {
            "scene_encoder": self._scene_encoder,
            "reference_encoder": self._reference_encoder,
            "matcher": self._matcher,
            "scene_terms": self._scene_terms,
            "shared_matcher": self._shared_matcher,
            "class_head": self._class_head,
            "mask_head": self._mask_head,
            "presence": self._presence,
        }
        return makers[name]()

    def _scene_encoder(self) -> DensePart:
        """image -> P2..P6."""
        encoder = self._parts.scene_encoder

        def encode(image: Tensor) -> dict[str, Tensor]:
            return dict(zip(LEVELS, encoder(image, training=False), strict=True))

        return DensePart({"image": _single(encoder.inputs[0])}, encode)

    def _reference_encoder(self) -> DensePart:
        """references [n, T, T, 3] -> embedding [n, levels, channels]."""
        encoder = self._parts.reference_encoder
        references: Shape = [None, *self._config.TARGET_SHAPE]
        return DensePart({"references": references}, lambda crops: {"embedding": encoder(crops, training=False)})

    def _matcher(self) -> DensePart:
        """P2..P6, embedding -> rpn_class, rpn_bbox and the maps in MATCHED."""

        def match(*inputs: Tensor) -> dict[str, Tensor]:
            *scene, embedding = inputs
            return _named(self._parts.match(scene, embedding))

        return DensePart({**self._scene, **self._embedding}, match)

    def _scene_terms(self) -> DensePart:
        """P2..P6 -> the terms of `SceneTerms`, term_00, term_01, ... Its composed kernels are constants."""
        layer = SceneTerms(self._parts.layers, name="terms")
        kernels = layer.scene_kernels()

        def share(*scene: Tensor) -> dict[str, Tensor]:
            return dict(zip(self._terms, layer.terms(list(scene), kernels), strict=True))

        return DensePart(self._scene, share)

    def _shared_matcher(self) -> DensePart:
        """P2..P6, terms, embedding -> the outputs of the matcher. The composed kernels are its constants."""
        kernels = SceneTerms(self._parts.layers, name="terms").kernels()

        def match(*inputs: Tensor) -> dict[str, Tensor]:
            scene, terms, embedding = list(inputs[: len(LEVELS)]), list(inputs[len(LEVELS) : -1]), inputs[-1]
            return _named(self._parts.match_shared(scene, [*terms, *kernels], embedding))

        return DensePart({**self._scene, **self._terms, **self._embedding}, match)

    def _class_head(self) -> DensePart:
        """pooled [n, pool, pool, channels] -> mrcnn_class_logits, mrcnn_bbox."""
        classify = heads_of(self._parts.layers).classify

        def run(pooled: Tensor) -> dict[str, Tensor]:
            outputs = classify(pooled)
            return {name: outputs[name] for name in ("mrcnn_class_logits", "mrcnn_bbox")}

        return DensePart({"pooled": self._pooled(self._config.POOL_SIZE)}, run)

    def _mask_head(self) -> DensePart:
        """pooled [n, pool, pool, channels] -> mrcnn_mask [n, 2 pool, 2 pool]."""
        layers = self._parts.layers.mask

        def run(pooled: Tensor) -> dict[str, Tensor]:
            return {"mrcnn_mask": mask_head_graph(pooled, layers)["mrcnn_mask"]}

        return DensePart({"pooled": self._pooled(self._config.MASK_POOL_SIZE)}, run)

    def _presence(self) -> DensePart:
        """The maps in MATCHED -> presence_logit, presence."""
        maps = [[*shape[:-1], self._config.MATCHED_FEATUREMAPS] for shape in self._scene.values()]
        presence = heads_of(self._parts.layers).presence
        assert presence is not None  # the network has the output
        return DensePart(dict(zip(MATCHED, maps, strict=False)), lambda *inputs: presence(list(inputs)))

    @functools.cached_property
    def _scene(self) -> dict[str, Shape]:
        return dict(zip(LEVELS, map(_single, self._parts.scene_encoder.outputs), strict=True))

    @functools.cached_property
    def _terms(self) -> dict[str, Shape]:
        terms = self._parts.scene_terms.outputs[: -len(LEVELS)]  # the rest are kernels
        return {f"term_{number:02}": _single(tensor) for number, tensor in enumerate(terms)}

    @property
    def _embedding(self) -> dict[str, Shape]:
        return {"embedding": [1, len(LEVELS), self._config.FPN_FEATUREMAPS]}

    def _pooled(self, side: int) -> Shape:
        return [None, side, side, self._config.MATCHED_FEATUREMAPS]


def _single(tensor: Tensor) -> Shape:
    """The shape of a symbolic tensor, for a batch of 1."""
    return [1, *tensor.shape[1:]]


def _named(matches: Matches) -> dict[str, Tensor]:
    rpn, matched = matches
    # the maximum changes no value: without it OpenVINO transposes these outputs by a slow kernel, a tenth of the time
    maps = {name: ops.maximum(level_map, np.finfo(np.float32).min) for name, level_map in matched.items()}
    return {name: rpn[name] for name in _MATCHES} | maps
