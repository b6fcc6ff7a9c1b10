"""One-shot inference without a framework: the steps from images and references to detections, written once.

`BasePredictor` molds, keeps the scene, matches, verifies and unmolds. Its subclasses bring the network: with Keras
(`predictor.SiamesePredictor`), or as exported models (`runtime.predictor.RuntimePredictor`). Neither Keras nor
TensorFlow is imported here.

With a `Verification` a find is asked a second time: it is cut from the scene, encoded as a reference, and compared with
the query, crop against crop.
"""

import dataclasses
import logging
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from .config import Config
from .data import molding
from .data.embeddings import ReferenceEmbedding
from .io.errors import InputError, StateError
from .ops.anchors import pyramid_anchors
from .ops.boxes import norm_boxes
from .ops.similarity import Verification, views_of
from .weights.thresholds import Calibration

_log = logging.getLogger(__name__)
_CROPS_AT_ONCE = 32  # crops encoded in one batch
_MATCHED = "matched_"  # start of the names of the detector's outputs that masks are computed from

References: TypeAlias = np.ndarray | Sequence[np.ndarray] | ReferenceEmbedding  # one crop, K crops, or encoded
Images: TypeAlias = Sequence[np.ndarray] | np.ndarray
Arrays: TypeAlias = dict[str, np.ndarray]  # outputs or detections by name


@dataclasses.dataclass(frozen=True)
class EncodedScenes:
    """Scenes after backbone and pyramid."""

    pyramid: list[Any]  # arrays or tensors P2..P6, each [scenes, h, w, channels]
    image_metas: np.ndarray  # float32 [scenes, meta]
    windows: np.ndarray  # int [scenes, (y1, x1, y2, x2)], the images inside their padding, in molded pixels
    anchors: np.ndarray  # float32 [scenes, anchors, (y1, x1, y2, x2)] normalized
    images: list[np.ndarray]  # the original images, uint8 [height, width, RGB]
    shapes: list[tuple[int, ...]]  # their (height, width, channels)
    molded_shape: tuple[int, ...]  # (height, width, channels) of all scenes
    terms: list[Any] = dataclasses.field(default_factory=list)  # what the references of a scene share, once computed

    def for_queries(self, count: int) -> "EncodedScenes":
        """A single scene for `count` queries: everything but `pyramid` and `terms` is repeated."""
        return dataclasses.replace(
            self,
            image_metas=np.repeat(self.image_metas, count, axis=0),
            windows=np.repeat(self.windows, count, axis=0),
            anchors=np.broadcast_to(self.anchors[0], (count, *self.anchors.shape[1:])),
            images=self.images * count,
            shapes=self.shapes * count,
        )


@dataclasses.dataclass(frozen=True)
class Matched:
    """What the detector found, before masks."""

    outputs: Arrays
    maps: list[Any]  # arrays or tensors, matched P2..P5, that masks are computed from; empty if `outputs` has masks


class BasePredictor:
    """Detects and segments objects of the category that references show, with the network that a subclass brings.

    A subclass sets three functions:

    - `_encode_scene`: molded scenes float32 [batch, H, W, RGB] -> [P2..P6], each [batch, h, w, channels].
    - `_encode_reference`: molded references float32 [n, T, T, RGB] -> embeddings [n, levels, channels].
    - `_detect`: P2..P6, embedding [batch, levels, channels], image_metas [batch, meta], anchors [batch, anchors, 4] ->
      outputs by name, mrcnn_detection [batch, D, (y1, x1, y2, x2, class_id, score)] among them.

    It may set three more, which save time:

    - `_segment`: boxes [n, 4] normalized, index int32 [n] of each one's scene, image_metas, matched P2..P5 -> masks
      [n, 28, 28]. Then `_detect` returns matched_P2..matched_P5 in place of masks.
    - `_share`: P2..P6 of one scene -> its terms, what all its references share.
    - `_detect_shared`: as `_detect` for several embeddings of one scene; takes the terms after P2..P6.

    Args:
        config: a Config; detection reads MOLD_TARGETS_AT_INFERENCE, VERIFY_* and the DETECTION_* settings.
        verification: used with VERIFY_DETECTIONS.
    """

    _encode_scene: Callable[[np.ndarray], Sequence[Any]]
    _encode_reference: Callable[[np.ndarray], Any]
    _detect: Callable[..., dict[str, Any]]
    _segment: Callable[..., Any] | None = None
    _share: Callable[..., Sequence[Any]] | None = None
    _detect_shared: Callable[..., dict[str, Any]]

    def __init__(self, config: Config, verification: Verification | None = None) -> None:
        self.config, self._verification = config, verification
        self._anchors: dict[tuple[int, ...], np.ndarray] = {}
        self._scene: EncodedScenes | None = None
        self._queries = 0  # that were searched in it

    @property
    def verification(self) -> Verification | None:
        """How finds are verified where VERIFY_DETECTIONS is set; assign another or None to change it."""
        return self._verification

    @verification.setter
    def verification(self, verification: Verification | None) -> None:
        before, self._verification = self.verifies, verification
        if self.verifies != before:
            self._verifies_changed()

    def _verifies_changed(self) -> None:
        """Called after `verifies` has changed; the detector's threshold depends on it."""

    @property
    def verifies(self) -> bool:
        """Whether finds are verified."""
        return self.config.VERIFY_DETECTIONS and self._verification is not None

    def take(self, calibration: Calibration | None) -> None:
        """Use what `calibrate` found for the weights, where the configuration leaves it open.

        That is its verification, unless there is one, and its threshold where the configuration has the default
        DETECTION_MIN_CONFIDENCE.
        """
        if calibration is None:
            return
        changes: dict[str, Any] = {}
        if self.config.DETECTION_MIN_CONFIDENCE == Config.DETECTION_MIN_CONFIDENCE:
            changes["DETECTION_MIN_CONFIDENCE"] = calibration.threshold
        if self._verification is None and calibration.verification is not None:
            self._verification, changes["VERIFY_DETECTIONS"] = calibration.verification, True
        self.config = self.config.replace(**changes)
        _log.info("%s", calibration.summary())

    @property
    def _levels(self) -> int:
        return len(self.config.BACKBONE_STRIDES)

    def _detection_config(self) -> Config:
        """The configuration of the detector: the score that counts is the verified one, if there is any."""
        if not self.verifies:
            return self.config
        minimum = self.config.VERIFY_MIN_CONFIDENCE
        return self.config.replace(DETECTION_MIN_CONFIDENCE=minimum, DETECTION_ARGMAX=False)

    def set_image(self, image: np.ndarray) -> None:
        """Encode the scene for `detect`: uint8 [height, width, RGB]."""
        self._scene, self._queries = None, 0  # an invalid image must not leave the previous scene in its place
        self._scene = self.encode_scenes([image])

    def detect(self, references: References) -> Arrays:
        """Detect the objects that look like the references in the scene of `set_image`.

        Args:
            references: a crop uint8 [h, w, RGB], K crops of one category (K-shot), or a ReferenceEmbedding.

        Returns:
            dict, in descending order of score: rois int32 [n, (y1, x1, y2, x2)] in pixels of the scene, class_ids
            int32 [n] (all 1), scores float32 [n], masks bool [height, width, n] ([height, width, 0] for "frcnn").

        Raises:
            RuntimeError: no scene was set.
            ValueError: no reference, or a crop that is empty or not an image.
        """
        if self._scene is None:
            raise StateError("no scene to search: call set_image(image) first")
        self._queries += 1
        return self.detect_all(self._scene, [references], more=self._queries > 1)[0]

    def detect_in(self, scenes: EncodedScenes, references: Sequence[References]) -> list[Arrays]:
        """Detect in encoded scenes, with references for each of them: `match`, `verify`, then `unmold`."""
        queries = self._checked_queries(scenes, references)
        found = self._match(scenes, queries)
        verified = Matched(self.verify(scenes, found.outputs, queries), found.maps)
        return self.unmold(scenes, self._with_masks(scenes, verified))

    def detect_all(
        self, scene: EncodedScenes, references: Sequence[References], *, batch: int = 1, more: bool = False
    ) -> list[Arrays]:
        """Detect in one encoded scene with each of several queries.

        What the queries share is computed once, so that two or more take less time than one by one. Scores differ from
        those of `detect_in` by rounding.

        Args:
            scene: of `encode_scenes` for one image.
            references: for each query, as in `detect`.
            batch: queries that are matched at once; more take more memory, and less time for a narrow network.
            more: whether there are other queries of this scene, in other calls.

        Raises:
            ValueError: more than one scene, or as `detect`.
        """
        if len(scene.shapes) != 1:
            raise InputError(f"scene: expected one image, got {len(scene.shapes)}")
        if len(references) > 1 or more:
            self.share(scene)
        if not scene.terms:
            return [self.detect_in(scene, [one])[0] for one in references]
        found = []
        for start in range(0, len(references), batch):
            part = references[start : start + batch]
            found += self.detect_in(scene.for_queries(len(part)), part)
        return found

    def share(self, scene: EncodedScenes) -> None:
        """Compute what all references of an encoded scene share, if the network can use it and it is not done yet.

        `scene.for_queries(count)` is then one scene for several queries, for `detect_in` and `match`.
        """
        if self._share is not None and not scene.terms:
            scene.terms.extend(self._share(*scene.pyramid))

    def encode_scenes(self, images: Images) -> EncodedScenes:
        """Encode scenes, each uint8 [height, width, RGB], for any number of queries."""
        molded, image_metas, windows = molding.mold_inputs(list(images), self.config)
        anchors = self.get_anchors(molded.shape[1:])
        return EncodedScenes(
            pyramid=list(self._encode_scene(molded)),
            image_metas=image_metas.astype(np.float32),
            windows=windows,
            anchors=np.broadcast_to(anchors, (len(images), *anchors.shape)),
            images=[np.array(image) for image in images],
            shapes=[np.shape(image) for image in images],
            molded_shape=molded.shape[1:],
        )

    def get_anchors(self, image_shape: Sequence[int]) -> np.ndarray:
        """Anchors of a molded image: float32 [anchors, (y1, x1, y2, x2)] normalized."""
        shape = tuple(image_shape[:2])
        if shape not in self._anchors:
            self._anchors[shape] = norm_boxes(pyramid_anchors(self.config, shape), shape)
        return self._anchors[shape]

    def encode_references(self, crops: Images) -> ReferenceEmbedding:
        """Encode references of one category: one crop uint8 [h, w, RGB] or a sequence of them."""
        references = molding.mold_references(crops_of(crops), self.config, subtract_mean=self._subtracts_mean)
        views = 1 if self._verification is None else self._verification.views
        vectors = self._encode_views(references, views)
        return ReferenceEmbedding(vectors[0], np.asarray(np.mean(vectors, axis=0)) if views > 1 else None, views)

    def encode_views(self, crops: Images, views: int) -> np.ndarray:
        """Embeddings float32 [n, levels, channels] of n crops, each the mean over its `similarity.views_of`."""
        molded = molding.mold_references(crops_of(crops), self.config, subtract_mean=self._subtracts_mean)
        return np.asarray(np.mean(self._encode_views(molded, views), axis=0))

    def _encode_views(self, molded: np.ndarray, views: int) -> list[np.ndarray]:
        """Embeddings of molded crops, [n, levels, channels] for each view, the first of the crops as they are."""
        starts = range(0, len(molded), _CROPS_AT_ONCE)
        return [
            np.concatenate([np.asarray(self._encode_reference(view[i : i + _CROPS_AT_ONCE])) for i in starts])
            for view in views_of(molded, views)
        ]

    @property
    def _subtracts_mean(self) -> bool:
        return self.config.MOLD_TARGETS_AT_INFERENCE

    def encode_queries(self, references: Sequence[References]) -> list[ReferenceEmbedding]:
        """The embeddings of several queries, each with references as in `detect`."""
        return [item if isinstance(item, ReferenceEmbedding) else self.encode_references(item) for item in references]

    def match(self, scenes: EncodedScenes, references: Sequence[References], *, masks: bool = True) -> Arrays:
        """Outputs of `network.build_inference_model` for encoded scenes, with references as in `detect` for each.

        Where finds are verified, these are all with a score of VERIFY_MIN_CONFIDENCE or more. Masks are those of the
        detections, and zero in the rows that pad them; `masks`: whether to compute them.

        Raises:
            ValueError: the numbers of scenes and queries differ.
        """
        found = self._match(scenes, self._checked_queries(scenes, references))
        return self._with_masks(scenes, found) if masks else found.outputs

    def _checked_queries(self, scenes: EncodedScenes, references: Sequence[References]) -> list[ReferenceEmbedding]:
        """The encoded queries; ValueError if they do not fit the network, or are not one for each of the scenes."""
        count = len(scenes.shapes)
        if len(references) != count:
            raise InputError(f"references: expected one query for each of {count} scenes, got {len(references)}")
        queries = self.encode_queries(references)
        expected = (self._levels, self.config.FPN_FEATUREMAPS)
        for query in queries:
            if query.vectors.shape[1:] != expected:
                shape = f"[references, {expected[0]}, {expected[1]}]"
                raise InputError(f"embedding: expected {shape}, got {query.vectors.shape}")
        return queries

    def _match(self, scenes: EncodedScenes, queries: Sequence[ReferenceEmbedding]) -> Matched:
        """Run the detector, with the terms of the scene where there are any."""
        embedding = np.stack([query.mean for query in queries]).astype(np.float32)
        given = (embedding, scenes.image_metas, scenes.anchors)
        if scenes.terms:
            outputs = self._detect_shared(*scenes.pyramid, *scenes.terms, *given)
        else:
            outputs = self._detect(*scenes.pyramid, *given)
        maps = [outputs[name] for name in outputs if name.startswith(_MATCHED)]
        arrays = {name: np.asarray(output) for name, output in outputs.items() if not name.startswith(_MATCHED)}
        return Matched(arrays, maps)

    def _with_masks(self, scenes: EncodedScenes, found: Matched) -> Arrays:
        """The outputs with mrcnn_mask [batch, D, 28, 28], computed for the detections alone."""
        rows = found.outputs["mrcnn_detection"]
        if self._segment is None:
            return found.outputs
        masks = np.zeros((*rows.shape[:2], *self.config.MASK_SHAPE), np.float32)
        images, places = np.nonzero(rows[..., 4])
        if len(images):
            padding = (0, bucket(len(images)) - len(images))
            boxes = np.pad(rows[images, places, :4], (padding, (0, 0)))
            of_image = np.pad(images.astype(np.int32), padding)
            computed = self._segment(boxes, of_image, scenes.image_metas, *found.maps)
            masks[images, places] = np.asarray(computed)[: len(images)]
        return {**found.outputs, "mrcnn_mask": masks}

    def verify(self, scenes: EncodedScenes, outputs: Arrays, references: Sequence[References]) -> Arrays:
        """The outputs of `match` with verified scores, in descending order, from DETECTION_MIN_CONFIDENCE on.

        They are unchanged where finds are not verified.
        """
        verification = self._verification if self.verifies else None
        if verification is None:
            return outputs
        verified = {name: values.copy() for name, values in outputs.items()}
        rows, minimum = verified["mrcnn_detection"], self.config.DETECTION_MIN_CONFIDENCE
        for index, found in enumerate(rows):  # finds that stay below the minimum, however similar, are not encoded
            scores = found[: np.count_nonzero(found[:, 4]), 5]
            keep_detections(verified, index, np.flatnonzero(verification.can_reach(scores, minimum)))
        for index, similarities in enumerate(self.similarities(scenes, verified, references)):
            count, known = len(similarities), np.flatnonzero(np.isfinite(similarities))
            rows[index, known, 5] = verification.rescore(rows[index, known, 5], similarities[known])
            order = np.argsort(-rows[index, :count, 5], kind="stable")
            keep_detections(verified, index, order[rows[index, order, 5] >= minimum])
        return verified

    def similarities(
        self, scenes: EncodedScenes, outputs: Arrays, references: Sequence[References]
    ) -> list[np.ndarray]:
        """For each scene the similarities [n] of its n finds in the outputs of `match` to its references.

        NaN stands for a find whose box is smaller than a pixel of the image.

        Raises:
            RuntimeError: there is no verification.
        """
        if self._verification is None:
            raise StateError("no verification to compare finds with: fit one with siamese-mrcnn calibrate")
        crops, places, similarities = [], [], []
        for index, rows in enumerate(outputs["mrcnn_detection"]):
            count = np.count_nonzero(rows[:, 4])
            shapes = scenes.shapes[index], scenes.molded_shape, scenes.windows[index]
            boxes = molding.unmold_boxes(rows[:count, :4], *shapes)
            similarities.append(np.full(count, np.nan))
            for number in np.flatnonzero((boxes[:, 2:] > boxes[:, :2]).all(axis=1)):
                crops.append(molding.reference_from_box(scenes.images[index], boxes[number], self.config))
                places.append((index, number))
        queries = self.encode_queries(references)
        for views in {query.num_views for query in queries} - {None, self._verification.views}:
            fitted = f"verification was fitted for {self._verification.views}; encode the references again"
            _log.warning("embedding: its references are averaged over %d views, but %s", views, fitted)
        shape = (0, self._levels, self.config.FPN_FEATUREMAPS)
        vectors = self.encode_views(crops, self._verification.find_views) if crops else np.zeros(shape, np.float32)
        for index, query in enumerate(queries):
            mine = [place for place, (owner, _) in enumerate(places) if owner == index]
            numbers = [places[place][1] for place in mine]
            similarities[index][numbers] = self._verification.similarity(query.verified, vectors[mine])
        return similarities

    def unmold(self, scenes: EncodedScenes, outputs: Arrays) -> list[Arrays]:
        """Detections in pixels of the original images, from the outputs of `match`: one dict per scene, as `detect`."""
        masks = outputs.get("mrcnn_mask", [None] * len(scenes.shapes))
        results = []
        for index, shape in enumerate(scenes.shapes):
            unmolded = molding.unmold_detections(
                outputs["mrcnn_detection"][index], masks[index], shape, scenes.molded_shape, scenes.windows[index]
            )
            results.append(dict(zip(("rois", "class_ids", "scores", "masks"), unmolded, strict=True)))
        return results


def bucket(count: int) -> int:
    """The least of the sizes 1 to 8, 10, 12, 14, 16, 20, 24, ... that is not below `count`.

    A compiled function then meets few sizes, and a quarter of its rows at most is padding.
    """
    step = 1 << max(count.bit_length() - 3, 0)
    return -(-count // step) * step


def keep_detections(outputs: Arrays, index: int, chosen: np.ndarray) -> None:
    """Keep these detections [n] of one scene in `outputs`, in this order, and fill up with zeros."""
    for name in {"mrcnn_detection", "mrcnn_mask"} & set(outputs):
        kept = outputs[name][index, chosen]
        outputs[name][index] = 0
        outputs[name][index, : len(chosen)] = kept


def crops_of(references: Images) -> list[np.ndarray]:
    """List of crops from one crop [h, w, RGB], an array [K, h, w, RGB] or a sequence of crops.

    Raises:
        ValueError: no crop.
    """
    if isinstance(references, np.ndarray) and references.ndim == 3:
        return [references]
    crops = list(references)
    if not crops:
        raise InputError("references: expected at least one crop, got none")
    return crops
