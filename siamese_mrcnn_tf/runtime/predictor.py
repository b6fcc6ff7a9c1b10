"""`RuntimePredictor`: detection with the exported parts of a network, without Keras and TensorFlow.

predictor = open_predictor("exported", "onnx")
predictor.set_image(scene)
detections = predictor.detect([crop])
"""

from pathlib import Path

import numpy as np

from ..base_predictor import Arrays, BasePredictor, keep_detections
from ..config import Config
from ..io.errors import InputError
from ..io.files import StrPath
from ..ops.similarity import Verification
from .manifest import NAME, PARTS, RUNTIMES, Manifest, check_files, model_path, read_calibration, read_export
from .sessions import Session, is_installed, open_session

# what is done outside of the exported models, and may differ from what was exported
FREE_SETTINGS = (
    "DETECTION_MIN_CONFIDENCE",
    "DETECTION_ARGMAX",
    "VERIFY_DETECTIONS",
    "VERIFY_MIN_CONFIDENCE",
    "MOLD_TARGETS_AT_INFERENCE",
)


class RuntimePredictor(BasePredictor):
    """A predictor over exported parts; used as `SiamesePredictor`.

    The exported detector returns finds of every score; the threshold is applied here.

    Args:
        config: the configuration of the exported network; FREE_SETTINGS may differ.
        parts: the sessions of scene_encoder, reference_encoder and detector, each for a batch of 1.
        verification: used with VERIFY_DETECTIONS.
    """

    def __init__(self, config: Config, parts: dict[str, Session], verification: Verification | None = None) -> None:
        super().__init__(config, verification)
        self._scene_encoder, self._reference_encoder, self._detector = (parts[name] for name in PARTS)
        self._encode_scene = self._run_scene_encoder
        self._encode_reference = self._run_reference_encoder
        self._detect = self._run_detector

    def _run_scene_encoder(self, molded: np.ndarray) -> list[np.ndarray]:
        return list(_batched(self._scene_encoder, molded).values())

    def _run_reference_encoder(self, molded: np.ndarray) -> np.ndarray:
        return _batched(self._reference_encoder, molded)["embedding"]

    def _run_detector(self, *inputs: np.ndarray) -> Arrays:
        outputs = _batched(self._detector, *inputs)
        config = self._detection_config()
        for index, rows in enumerate(outputs["mrcnn_detection"]):  # in descending order of score, zeros at the end
            chosen = (rows[:, 4] > 0) & (rows[:, 5] >= config.DETECTION_MIN_CONFIDENCE)
            if config.DETECTION_ARGMAX:
                chosen &= rows[:, 5] > 0.5  # above background
            keep_detections(outputs, index, np.flatnonzero(chosen))
        return outputs


def open_predictor(
    folder: StrPath,
    runtime: str | None = None,
    *,
    config: Config | None = None,
    calibrated: bool = True,
) -> RuntimePredictor:
    """The predictor over an exported folder.

    Args:
        folder: written by `siamese-mrcnn export`.
        runtime: "onnx", "openvino" or "tensorflow"; None takes the first of RUNTIMES that was exported and is
            installed.
        config: in place of the exported configuration; FREE_SETTINGS may differ from it.
        calibrated: use the threshold file in the folder, as `SiamesePredictor` does.

    Raises:
        ValueError: no exported folder, not in a format for the runtime, a file is missing or has changed, a setting is
            part of the exported network, or the runtime is not installed.
    """
    manifest, runtime = read_export(folder), choose_runtime(folder, runtime)
    check_files(folder, manifest, RUNTIMES[runtime])
    config = check_config(folder, manifest, config or manifest.config)
    parts = {
        name: open_session(runtime, model_path(folder, RUNTIMES[runtime], name), manifest.interfaces[name])
        for name in PARTS
    }
    calibration = read_calibration(folder)
    if calibrated:
        predictor = RuntimePredictor(config, parts)
        predictor.take(calibration)
        return predictor
    return RuntimePredictor(
        config, parts, calibration.verification if calibration and config.VERIFY_DETECTIONS else None
    )


def choose_runtime(folder: StrPath, runtime: str | None = None) -> str:
    """`runtime`, or the first that can be used; ValueError where the folder has no format for it, or none is there."""
    manifest = read_export(folder)
    exported = [name for name, format_name in RUNTIMES.items() if format_name in manifest.formats]
    if runtime is None:
        usable = [name for name in exported if is_installed(name)]
        if not usable:
            found = f"formats {', '.join(manifest.formats)}; runtimes for them: {', '.join(exported) or 'none'}"
            raise InputError(f"{Path(folder) / NAME}: {found}, not installed")
        return usable[0]
    if runtime not in RUNTIMES:
        raise InputError(f"runtime {runtime!r}: expected one of {', '.join(RUNTIMES)}")
    if runtime not in exported:
        fix = f"export it with --format {RUNTIMES[runtime]}"
        raise InputError(f"{Path(folder) / NAME}: {', '.join(manifest.formats)}, nothing for {runtime}; {fix}")
    return runtime


def check_config(folder: StrPath, manifest: Manifest, config: Config) -> Config:
    """`config`, once it is known to fit the exported network; ValueError for a setting that is part of the network."""
    stored = manifest.config.to_dict()
    for name, value in config.to_dict().items():
        if name in stored and name not in FREE_SETTINGS and value != stored[name]:
            fixed = f"the exported network has {stored[name]!r}; export it again with {name}={value!r}"
            raise InputError(f"{Path(folder) / NAME}: {name} = {value!r}: {fixed}")
    return config


def _batched(session: Session, *inputs: np.ndarray) -> Arrays:
    """The outputs of a session for a batch of 1, for a batch of any size."""
    rows = [session(*(one[index : index + 1] for one in inputs)) for index in range(len(inputs[0]))]
    if len(rows) == 1:
        return rows[0]
    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
