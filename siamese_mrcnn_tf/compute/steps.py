"""The steps of a predictor over `OpenVinoParts`; what is not dense stays in TensorFlow, in float32.

TensorFlow's functions call the heads in the middle: `finds_graph` is the same as with Keras layers.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from ..config import Config
from ..modeling.backbone import LEVELS
from ..modeling.network import Heads, finds_graph, model_outputs
from ..modeling.parts import MATCHED
from ..modeling.roi_align import ListedROIAlign
from ..ops.box_ops import Tensor
from .openvino_parts import ALIGNMENT, Arrays, OpenVinoParts

_RPN = ("rpn_class", "rpn_bbox")


class OpenVinoSteps:
    """The functions that `BasePredictor` asks for.

    Args:
        config: of the detector.
        parts: of the same network.
    """

    def __init__(self, config: Config, parts: OpenVinoParts) -> None:
        self._config, self._parts = config, parts

    def encode_scene(self, molded: np.ndarray) -> list[np.ndarray]:
        """Scenes [batch, H, W, 3] -> [P2..P6], each [batch, h, w, channels]."""
        maps = _joined([self._parts("scene_encoder", molded[row : row + 1]) for row in range(len(molded))])
        return [maps[level] for level in LEVELS]

    def encode_reference(self, molded: np.ndarray) -> np.ndarray:
        """References [n, T, T, 3] -> embeddings [n, levels, channels]."""
        return self._parts("reference_encoder", molded)["embedding"]

    def detect(self, *inputs: Any) -> dict[str, Any]:
        """P2..P6, embedding, image_metas, anchors -> the outputs of `PredictorParts.detector`."""
        *scene, embedding, image_metas, anchors = inputs
        rows = range(len(embedding))
        matched = [self._parts("matcher", *(one[row : row + 1] for one in (*scene, embedding))) for row in rows]
        return self._find(_joined(matched), image_metas, anchors)

    def share(self, *scene: np.ndarray) -> list[np.ndarray]:
        """P2..P6 of one scene -> its terms."""
        return [value for _, value in sorted(self._parts("scene_terms", *scene).items())]

    def detect_shared(self, *inputs: Any) -> dict[str, Any]:
        """P2..P6 of one scene, its terms, embeddings, image_metas, anchors -> as `detect` for each embedding."""
        *given, embedding, image_metas, anchors = inputs
        rows = range(len(embedding))
        matched = [self._parts("shared_matcher", *given, embedding[row : row + 1]) for row in rows]
        return self._find(_joined(matched), image_metas, anchors)

    def segment(self, boxes: np.ndarray, indices: np.ndarray, image_metas: np.ndarray, *maps: np.ndarray) -> Any:
        """Boxes [n, 4], index [n] of each one's scene, image_metas, matched P2..P5 -> masks [n, 28, 28]."""
        return self._segment(boxes, indices, image_metas, maps)

    def _find(self, matched: Arrays, image_metas: np.ndarray, anchors: np.ndarray) -> dict[str, Any]:
        maps = {name: _tensor(matched[name]) for name in MATCHED}
        found = self._detections({name: matched[name] for name in _RPN}, list(maps.values()), image_metas, anchors)
        return {**found, **maps}

    @functools.cached_property
    def _detections(self) -> Callable[..., dict[str, Tensor]]:
        """From the outputs of the RPN and the matched maps to detections, as one TensorFlow function."""
        config = self._config
        heads = Heads(self._classify, self._presence if config.USE_PRESENCE else None)

        def run(rpn: dict[str, Tensor], maps: list[Tensor], image_metas: Tensor, anchors: Tensor) -> dict[str, Tensor]:
            return model_outputs(finds_graph(rpn, maps, image_metas, anchors, config, heads))

        rpn = {name: tf.TensorSpec([None, None, size]) for name, size in zip(_RPN, (2, 4), strict=True)}
        about = tf.TensorSpec([None, config.IMAGE_META_SIZE]), tf.TensorSpec([None, None, 4])
        return tf.function(run, input_signature=[rpn, self._map_specs, *about])

    @functools.cached_property
    def _segment(self) -> Callable[..., Tensor]:
        config, shape = self._config, tuple(self._config.MASK_SHAPE)
        align = ListedROIAlign((config.MASK_POOL_SIZE,) * 2, config.ROI_CANONICAL_SIZE)

        def run(boxes: Tensor, indices: Tensor, image_metas: Tensor, maps: list[Tensor]) -> Tensor:
            pooled = align([boxes, indices, image_metas, *maps])
            return self._called("mask_head", [pooled], {"mrcnn_mask": (None, *shape)})["mrcnn_mask"]

        about = tf.TensorSpec([None, 4]), tf.TensorSpec([None], tf.int32), tf.TensorSpec([None, config.IMAGE_META_SIZE])
        return tf.function(run, input_signature=[*about, tuple(self._map_specs)])

    @property
    def _map_specs(self) -> list[tf.TensorSpec]:
        return [tf.TensorSpec([None, None, None, self._config.MATCHED_FEATUREMAPS]) for _ in MATCHED]

    def _classify(self, pooled: Tensor) -> dict[str, Tensor]:
        shapes = {"mrcnn_class_logits": (None, self._config.NUM_CLASSES), "mrcnn_bbox": (None, 4)}
        return self._called("class_head", [pooled], shapes)

    def _presence(self, maps: list[Tensor]) -> dict[str, Tensor]:
        shapes = {"presence_logit": (None, 1), "presence": (None, 1)}
        return self._called("presence", maps, shapes, single=True)

    def _called(
        self, name: str, inputs: list[Tensor], shapes: Mapping[str, Sequence[int | None]], *, single: bool = False
    ) -> dict[str, Tensor]:
        """The outputs of a part, with these shapes, in a TensorFlow graph; `single`: it takes one row at a time."""

        def call(*arrays: np.ndarray) -> list[np.ndarray]:
            starts = range(len(arrays[0])) if single else [0]
            stop = 1 if single else len(arrays[0])
            outputs = _joined([self._parts(name, *(one[row : row + stop] for one in arrays)) for row in starts])
            return [outputs[output] for output in shapes]

        found = tf.numpy_function(call, inputs, [tf.float32] * len(shapes))
        return {output: tf.ensure_shape(value, shapes[output]) for output, value in zip(shapes, found, strict=True)}


def _tensor(array: np.ndarray) -> Tensor:
    """An array as a tensor, in the same memory where it is aligned."""
    if array.ctypes.data % ALIGNMENT:
        return tf.convert_to_tensor(array)
    return tf.experimental.dlpack.from_dlpack(array.__dlpack__())


def _joined(rows: Sequence[Arrays]) -> Arrays:
    """The outputs for several rows as those of a batch."""
    return rows[0] if len(rows) == 1 else {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
