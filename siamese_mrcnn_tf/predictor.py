"""One-shot inference: encode a scene once, then detect with any number of references.

    predictor = SiamesePredictor.from_pretrained("large")
    predictor.set_image(scene)
    detections = predictor.detect([crop])

`encode_scenes`, `encode_references`, `match` and `verify` are the same steps for batches; `SiameseMaskRCNN.detect` uses
them.

With a `Verification` a find is asked a second time: it is cut from the scene, encoded as a reference, and compared with
the query, crop against crop.
"""

import dataclasses
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self, TypeAlias, cast

import keras
import numpy as np

from .config import Config
from .data import molding
from .data.embeddings import ReferenceEmbedding as ReferenceEmbedding
from .modeling import network
from .ops.anchors import pyramid_anchors
from .ops.boxes import norm_boxes
from .ops.similarity import Verification, views_of
from .weights import choice, loading, thresholds

_log = logging.getLogger(__name__)
_CROPS_AT_ONCE = 32  # crops encoded in one batch

PathLike: TypeAlias = str | Path


References: TypeAlias = np.ndarray | Sequence[np.ndarray] | ReferenceEmbedding  # one crop, K crops, or encoded
Images: TypeAlias = Sequence[np.ndarray] | np.ndarray
Arrays: TypeAlias = dict[str, np.ndarray]  # outputs or detections by name


@dataclasses.dataclass(frozen=True)
class EncodedScenes:
    """Scenes after backbone and pyramid."""

    pyramid: list[Any]  # tensors P2..P6, each [scenes, h, w, channels]
    image_metas: np.ndarray  # float32 [scenes, meta]
    windows: np.ndarray  # int [scenes, (y1, x1, y2, x2)], the images inside their padding, in molded pixels
    anchors: np.ndarray  # float32 [scenes, anchors, (y1, x1, y2, x2)] normalized
    images: list[np.ndarray]  # the original images, uint8 [height, width, RGB]
    shapes: list[tuple[int, ...]]  # their (height, width, channels)
    molded_shape: tuple[int, ...]  # (height, width, channels) of all scenes


class SiamesePredictor:
    """Detects and segments objects of the category that references show.

    Args:
        config: a Config; detection reads MOLD_TARGETS_AT_INFERENCE, VERIFY_* and the DETECTION_* settings.
        weights: path of a legacy .h5 file with all weights, or None to keep the initial ones.
        layers: SharedLayers to use, by default new ones.
        verification: used with VERIFY_DETECTIONS.
        calibrated: use the threshold file beside `weights`, if there is one (`weights.thresholds`): its verification,
            unless one is given, and its threshold where `config` has the default DETECTION_MIN_CONFIDENCE.

    Attributes:
        config: the Config in use, with the threshold and VERIFY_DETECTIONS of the threshold file.

    Raises:
        ValueError: the network cannot be built with a setting, weights do not fit or are missing, the threshold file
            is not for them, or it has no verification though VERIFY_DETECTIONS is set.
    """

    def __init__(
        self,
        config: Config,
        *,
        weights: PathLike | None = None,
        layers: network.SharedLayers | None = None,
        verification: Verification | None = None,
        calibrated: bool = True,
    ) -> None:
        self.config, self._verification = config, verification
        self.layers = network.build_layers(config) if layers is None else layers
        self._anchors: dict[tuple[int, ...], np.ndarray] = {}
        self._scene: EncodedScenes | None = None
        if weights is not None:
            report = self.load_weights(weights)
            if report.missing:
                missing = f"{len(report.missing)} weights are missing\n{report.summary()}"
                info = loading.identify_file(weights)
                way = f"\n{info.use(weights)}" if info.kind in ("matterport", "backbone") else ""
                raise ValueError(f"{weights}: cannot detect, {missing}{way}")
            self._take(thresholds.find_thresholds(weights) if calibrated else None)
            if self.config.VERIFY_DETECTIONS and self._verification is None:
                self._verification = thresholds.find_verification(weights)
        parts = network.build_parts(self._network_config(), self.layers)
        self._encode_scene = compiled(parts.scene_encoder)
        self._encode_reference = compiled(parts.reference_encoder)
        self._detect = compiled(parts.detector)

    @classmethod
    def from_pretrained(cls, name: PathLike, *, checkpoints: PathLike = "checkpoints", **settings: Any) -> Self:
        """A predictor with the weights that a name stands for, downloaded if necessary, and what fits them.

            predictor = SiamesePredictor.from_pretrained("large", DETECTION_MIN_CONFIDENCE=0.5)

        As on the command line: the configuration is that of the training run of the weights or the one that they fit,
        and a threshold file beside them is used.

        Args:
            name: "shapes", "large", "small" or another known name, a weight file, or the folder of a training run.
            checkpoints: folder where known files are looked for first.
            settings: of the configuration to change; a threshold given here replaces that of the threshold file.

        Raises:
            ValueError: no such file, weights that cannot detect, or an unknown setting.
            OSError: the file cannot be downloaded.
        """
        path, config, calibration = choice.choose_pretrained(name, checkpoints, settings)
        verification = calibration.verification if calibration and config.VERIFY_DETECTIONS else None
        return cls(config, weights=path, verification=verification, calibrated=False)

    def _take(self, calibration: thresholds.Calibration | None) -> None:
        """Use what `calibrate` found for the weights, where the configuration leaves it open."""
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
    def verification(self) -> Verification | None:
        """How finds are verified where VERIFY_DETECTIONS is set; assign another or None to change it."""
        return self._verification

    @verification.setter
    def verification(self, verification: Verification | None) -> None:
        before, self._verification = self.verifies, verification
        if self.verifies != before:
            self._detect = compiled(network.build_detector(self._network_config(), self.layers))

    @property
    def verifies(self) -> bool:
        """Whether finds are verified."""
        return self.config.VERIFY_DETECTIONS and self._verification is not None

    def _network_config(self) -> Config:
        """The configuration of the compiled detector: the score that counts is the verified one, if there is any."""
        if not self.verifies:
            return self.config
        minimum = self.config.VERIFY_MIN_CONFIDENCE
        return self.config.replace(DETECTION_MIN_CONFIDENCE=minimum, DETECTION_ARGMAX=False)

    def load_weights(self, path: PathLike, *, exclude: Sequence[str] = ()) -> loading.LoadReport:
        """Load a weight file, and forget the scene of `set_image`.

        A threshold file beside it is not read; assign `verification` for the new weights.
        """
        self._scene = None
        return loading.load_weights(self.layers, path, exclude=exclude)

    def set_image(self, image: np.ndarray) -> None:
        """Encode the scene for `detect`: uint8 [height, width, RGB]."""
        self._scene = None  # an invalid image must not leave the previous scene in its place
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
            raise RuntimeError("no scene to search: call set_image(image) first")
        return self.detect_in(self._scene, [references])[0]

    def detect_in(self, scenes: EncodedScenes, references: Sequence[References]) -> list[Arrays]:
        """Detect in encoded scenes, with references for each of them: `match`, `verify`, then `unmold`."""
        queries = self.encode_queries(references)
        return self.unmold(scenes, self.verify(scenes, self.match(scenes, queries), queries))

    def encode_scenes(self, images: Images) -> EncodedScenes:
        """Encode scenes, each uint8 [height, width, RGB], for any number of queries."""
        molded, image_metas, windows = molding.mold_inputs(list(images), self.config)
        anchors = self.get_anchors(molded.shape[1:])
        return EncodedScenes(
            pyramid=self._encode_scene(molded),
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

    def match(self, scenes: EncodedScenes, references: Sequence[References]) -> Arrays:
        """Outputs of `network.build_inference_model` for encoded scenes, with references as in `detect` for each.

        Where finds are verified, these are all with a score of VERIFY_MIN_CONFIDENCE or more.

        Raises:
            ValueError: the numbers of scenes and queries differ.
        """
        count = len(scenes.shapes)
        if len(references) != count:
            raise ValueError(f"references: expected one query for each of {count} scenes, got {len(references)}")
        queries = self.encode_queries(references)
        expected = (len(network.LEVELS), self.config.FPN_FEATUREMAPS)
        for query in queries:
            if query.vectors.shape[1:] != expected:
                shape = f"[references, {expected[0]}, {expected[1]}]"
                raise ValueError(f"embedding: expected {shape}, got {query.vectors.shape}")
        embedding = np.stack([query.mean for query in queries]).astype(np.float32)
        outputs = self._detect(*scenes.pyramid, embedding, scenes.image_metas, scenes.anchors)
        return {name: np.asarray(output) for name, output in outputs.items()}

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
            _keep(verified, index, np.flatnonzero(verification.can_reach(scores, minimum)))
        for index, similarities in enumerate(self.similarities(scenes, verified, references)):
            count, known = len(similarities), np.flatnonzero(np.isfinite(similarities))
            rows[index, known, 5] = verification.rescore(rows[index, known, 5], similarities[known])
            order = np.argsort(-rows[index, :count, 5], kind="stable")
            _keep(verified, index, order[rows[index, order, 5] >= minimum])
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
            raise RuntimeError("no verification to compare finds with: fit one with siamese-mrcnn calibrate")
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
        shape = (0, len(network.LEVELS), self.config.FPN_FEATUREMAPS)
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


def _keep(outputs: Arrays, index: int, chosen: np.ndarray) -> None:
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
        raise ValueError("references: expected at least one crop, got none")
    return crops


def compiled(model: keras.Model) -> Callable[..., Any]:
    """A compiled function of a model's inputs, one argument each.

    On TensorFlow it returns tensors, so that feature maps are not copied between models; otherwise arrays.
    """
    single = len(model.inputs) == 1
    if keras.backend.backend() != "tensorflow":
        return lambda *inputs: model.predict_on_batch(inputs[0] if single else list(inputs))
    import tensorflow as tf

    @tf.function(input_signature=[tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in model.inputs])
    def run(*inputs: Any) -> Any:
        return model(inputs[0] if single else list(inputs), training=False)

    return cast(Callable[..., Any], run)
