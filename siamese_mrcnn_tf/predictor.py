"""One-shot inference: encode a scene once, then detect with any number of references.

    predictor = SiamesePredictor.from_pretrained("large")
    predictor.set_image(scene)
    detections = predictor.detect([crop])

`encode_scenes`, `encode_references`, `match` and `verify` are the same steps for batches; `SiameseMaskRCNN.detect` uses
them. These steps are in `base_predictor`; the network behind them is here.
"""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self, TypeAlias

import keras
import numpy as np

from .base_predictor import BasePredictor, bucket
from .base_predictor import EncodedScenes as EncodedScenes
from .base_predictor import crops_of as crops_of
from .config import Config
from .data.embeddings import ReferenceEmbedding as ReferenceEmbedding
from .io.errors import InputError
from .io.files import checksum
from .memory import check_memory
from .modeling import network
from .modeling.compiled import compiled
from .modeling.parts import PredictorParts
from .ops import winograd
from .ops.devices import warn_of_precision
from .ops.similarity import Verification
from .weights import choice, loading, thresholds

PathLike: TypeAlias = str | Path


class SiamesePredictor(BasePredictor):
    """Detects and segments objects of the category that references show.

    Args:
        config: a Config; detection reads MOLD_TARGETS_AT_INFERENCE, VERIFY_* and the DETECTION_* settings.
        weights: path of a legacy .h5 file with all weights, or None to keep the initial ones.
        layers: SharedLayers to use, by default new ones.
        verification: used with VERIFY_DETECTIONS.
        calibrated: use the threshold file beside `weights`, if there is one (`weights.thresholds`): its verification,
            unless one is given, and its threshold where `config` has the default DETECTION_MIN_CONFIDENCE.
        winograd: compute the convolutions of large maps by `ops.winograd` in TensorFlow and float32: less time for each
            scene, but a few seconds more for the first and more memory (docs/speed.md), and rounding differences of
            about 1e-5. The configuration "tiny" has no maps that are large enough.
        runtime: what computes the dense parts, "tensorflow" or "openvino". OpenVINO takes the weights as they are when
            a part is first used.
        precision: "float32", "bfloat16", or with OpenVINO "int8" (`compute.quantization`); None: that of `config`.

    Attributes:
        config: the Config in use, with the threshold and VERIFY_DETECTIONS of the threshold file.
        parts: the dense parts, with runtime "openvino".

    Raises:
        ValueError: the network cannot be built with a setting, weights do not fit or are missing, the threshold file
            is not for them, or it has no verification though VERIFY_DETECTIONS is set. Or the runtime is not
            installed, or lacks the precision or what it needs.
    """

    def __init__(
        self,
        config: Config,
        *,
        weights: PathLike | None = None,
        layers: network.SharedLayers | None = None,
        verification: Verification | None = None,
        calibrated: bool = True,
        winograd: bool = True,
        runtime: str = "tensorflow",
        precision: str | None = None,
    ) -> None:
        super().__init__(choice.with_precision(config, runtime, precision), verification)
        if layers is None:
            self.config.validate()
            check_memory(self.config, "detection")
        self._winograd = winograd
        self.runtime, self.precision = runtime, precision or self.config.PRECISION
        if layers is None:
            warn_of_precision(self.precision)
        self._given_layers, self._weights = layers, weights
        if runtime == "tensorflow" or weights is None or layers is not None:
            self.layers  # noqa: B018  # errors of settings and weights come at once
        if weights is not None:
            self.take(thresholds.find_thresholds(weights) if calibrated else None)
            if self.config.VERIFY_DETECTIONS and self._verification is None:
                self._verification = thresholds.find_verification(weights)
        self._build()

    @classmethod
    def from_pretrained(
        cls,
        name: PathLike,
        *,
        checkpoints: PathLike = "checkpoints",
        runtime: str = "tensorflow",
        precision: str | None = None,
        winograd: bool = True,
        **settings: Any,
    ) -> Self:
        """A predictor with the weights that a name stands for, downloaded if necessary, and what fits them.

            predictor = SiamesePredictor.from_pretrained("large", DETECTION_MIN_CONFIDENCE=0.5)

        As on the command line: the configuration is that of the training run of the weights or the one that they fit,
        and a threshold file beside them is used.

        Args:
            name: "shapes", "large", "small" or another known name, a weight file, or the folder of a training run.
            checkpoints: folder where known files are looked for first.
            runtime, precision, winograd: as in the constructor.
            settings: of the configuration to change; a threshold given here replaces that of the threshold file.

        Raises:
            ValueError: no such file, weights that cannot detect, or an unknown setting.
            ConnectionError: the file cannot be downloaded.
        """
        path, config, calibration = choice.choose_pretrained(name, checkpoints, settings)
        verification = calibration.verification if calibration and config.VERIFY_DETECTIONS else None
        return cls(
            config,
            weights=path,
            verification=verification,
            calibrated=False,
            runtime=runtime,
            precision=precision,
            winograd=winograd,
        )

    def without_masks(self, config: Config, verification: Verification | None) -> Self:
        """A predictor of boxes with the same weights and another configuration of detections."""
        chosen: dict[str, Any] = {"verification": verification, "calibrated": False, "runtime": self.runtime}
        if self.runtime == "openvino" and self._weights is not None:
            predictor = type(self)(config, weights=self._weights, precision=self.precision, **chosen)
        else:
            precision = None if self.runtime == "tensorflow" else self.precision
            predictor = type(self)(config, layers=self.layers, precision=precision, **chosen)
        predictor._segment = None
        return predictor

    @functools.cached_property
    def layers(self) -> network.SharedLayers:
        """All layers with their weights; with OpenVINO they are built when its cache lacks something."""
        precision = "float32" if self.runtime == "openvino" else self.config.PRECISION
        layers = self._given_layers or network.build_layers(self.config.replace(PRECISION=precision))
        if self.runtime == "openvino" and layers.matching["P2"].compute_dtype != "float32":
            raise InputError("layers: compute in bfloat16; for runtime openvino expected PRECISION = 'float32'")
        if self._weights is not None:
            load_all_weights(layers, self._weights)
        return layers

    def _build(self) -> None:
        """Compile the parts of the network; each is built when it is first called."""
        if self.runtime == "openvino":
            self._open_openvino()
        else:
            self._parts = PredictorParts(self._detection_config(), self.layers)
            self._compile_encoders(self._parts)
        self._build_detectors()

    def _build_detectors(self) -> None:
        """Compile what depends on the settings of detections."""
        if self.runtime == "openvino":
            from .compute.steps import OpenVinoSteps

            steps = OpenVinoSteps(self._detection_config(), self.parts)
            self._encode_scene, self._encode_reference = steps.encode_scene, steps.encode_reference
            self._detect, self._segment = steps.detect, steps.segment if self.config.MODEL == "mrcnn" else None
            self._share, self._detect_shared = steps.share, steps.detect_shared
            return
        parts, function = self._parts, self._compiled
        self._detect, self._detect_shared = function(lambda: parts.detector), function(lambda: parts.shared_detector)

    def _compile_encoders(self, parts: PredictorParts) -> None:
        function = self._compiled
        if self._winograd and self._has_large_maps():  # they are faster at a fixed size
            self._encode_scene = function(lambda: parts.scene_encoder)
            encode_reference = function(lambda: parts.reference_encoder)
        else:  # one function for scenes and references: half of the time to build both
            self._encode_scene, average = function(lambda: parts.pyramid_encoder), function(lambda: parts.embedder)
            encode_reference = _chained(self._encode_scene, average)
        by_shape = self.config.USE_XLA or keras.backend.backend() != "tensorflow"
        self._encode_reference = _padded(encode_reference) if by_shape else encode_reference
        self._segment = function(lambda: parts.segmenter) if self.config.MODEL == "mrcnn" else None
        self._share = function(lambda: parts.scene_terms)

    def _compiled(self, build: Callable[[], keras.Model]) -> Callable[..., Any]:
        return compiled(build, xla=self.config.USE_XLA, allow_winograd=self._winograd)

    def _has_large_maps(self) -> bool:
        """Whether P2 has a fixed size that is large enough for `ops.winograd`, and its precision."""
        if self.config.IMAGE_RESIZE_MODE in ("pad64", "none") or self.config.PRECISION != "float32":
            return False
        height, width = (side // self.config.BACKBONE_STRIDES[0] for side in self.config.IMAGE_SHAPE[:2])
        return winograd.fits(height, width)

    def _open_openvino(self) -> None:
        from .compute.openvino_parts import OpenVinoParts, checksum_of_layers

        if keras.backend.backend() != "tensorflow":
            raise InputError(f"runtime openvino: needs Keras' backend tensorflow, not {keras.backend.backend()}")

        def sha256() -> str:
            return checksum_of_layers(self.layers) if self._weights is None else checksum(self._weights)

        quantized = self._find_quantized(sha256()) if self.precision == "int8" else {}
        self.parts = OpenVinoParts(self.config, lambda: self.layers, sha256, self.precision, quantized)

    def _find_quantized(self, sha256: str) -> dict[str, Path]:
        """The parts in int8 beside the weights; ValueError says how to make them."""
        from .compute.quantization import find_quantized, quantized_folder

        if self._weights is None:
            raise InputError("precision int8: needs the weight file that was quantized, not weights in memory")
        command = f"siamese-mrcnn quantize --model {self._weights} --image FILE ... --reference FILE"
        return find_quantized(quantized_folder(self._weights), sha256, self.config, command)

    def _verifies_changed(self) -> None:
        if self.runtime == "tensorflow":
            self._parts = self._parts.with_detections(self._detection_config())
        self._build_detectors()

    def load_weights(self, path: PathLike, *, exclude: Sequence[str] = ()) -> loading.LoadReport:
        """Load a weight file, and forget the scene of `set_image`.

        A threshold file beside it is not read; assign `verification` for the new weights.
        """
        self._scene = None
        report = loading.load_weights(self.layers, path, exclude=exclude)
        if self.runtime == "openvino":
            self._weights = None  # no longer those of a file
            self._build()
        return report


def load_all_weights(layers: network.SharedLayers, path: PathLike) -> loading.LoadReport:
    """Load a weight file that has all weights; ValueError says which are missing."""
    report = loading.load_weights(layers, path)
    if report.missing:
        missing = f"{len(report.missing)} weights are missing\n{report.summary()}"
        info = loading.identify_file(path)
        way = f"\n{info.use(path)}" if info.kind in ("matterport", "backbone") else ""
        raise InputError(f"{path}: cannot detect, {missing}{way}")
    return report


def _chained(encode: Callable[..., Any], average: Callable[..., Any]) -> Callable[[np.ndarray], Any]:
    """Embeddings of references from the maps that `encode` returns."""
    return lambda references: average(*encode(references))


def _padded(function: Callable[[np.ndarray], Any]) -> Callable[[np.ndarray], np.ndarray]:
    """A function of rows [n, ...], called with as many as `bucket` says: XLA then compiles it for few shapes."""

    def call(rows: np.ndarray) -> np.ndarray:
        count = len(rows)
        padding = ((0, bucket(count) - count), *((0, 0),) * (rows.ndim - 1))
        return np.asarray(function(np.pad(rows, padding)))[:count]

    return call
