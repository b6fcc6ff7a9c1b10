"""The configuration to detect with: that of the weights, with what `calibrate` stored beside them, and own settings.

The command line and `from_pretrained` choose by these rules. Nothing here needs Keras.
"""

import logging
from pathlib import Path
from typing import Any

from ..config import CONFIGS, RUNTIME_PRECISIONS, Config, load_config
from ..io.errors import InputError
from ..io.files import StrPath, read_json
from .loading import identify_file
from .pretrained import find_weights
from .runs import find_run_weights, read_run_config, run_in, run_of
from .thresholds import Calibration, find_thresholds

logger = logging.getLogger(__name__)


def config_of(path: Path, base: str | None = None) -> Config:
    """The configuration to detect with weights: `base`, that of their run, or the one that they fit.

    A presence output in the file is used unless the configuration file sets USE_PRESENCE.

    Args:
        path: weight file.
        base: name of a configuration, or a JSON file; None takes that of the weights.

    Raises:
        ValueError: the weights cannot detect, or fit no named configuration; says what works.
    """
    if base:
        config = load_config(base)
        states_it = base not in CONFIGS and "USE_PRESENCE" in read_json(base)
        return config if states_it or not identify_file(path).has_presence else config.replace(USE_PRESENCE=True)
    if run := run_of(path):
        return read_run_config(run)
    info = identify_file(path)
    if info.kind != "siamese":
        raise InputError(f"{path}: {info.text}. It cannot detect by itself: {info.use(path)}")
    if info.config is None:
        raise InputError(f"{path}: {info.text}, fits none of {', '.join(CONFIGS)}. Name its --config; {info.advice}")
    return load_config(info.config).replace(**info.fits[info.config])


def calibrated_settings(calibration: Calibration | None, *, verify: bool = True) -> dict[str, Any]:
    """The settings that a threshold file gives; none without verification where it needs one."""
    if calibration is None:
        return {}
    if calibration.verification is None:
        return {"DETECTION_MIN_CONFIDENCE": calibration.threshold}
    if not verify:
        return {}  # a threshold of verified scores means nothing for others
    return {"DETECTION_MIN_CONFIDENCE": calibration.threshold, "VERIFY_DETECTIONS": True}


def with_settings(config: Config, calibrated: dict[str, Any], changes: dict[str, Any]) -> Config:
    """A configuration with the settings of a threshold file where it leaves them open, then with `changes`.

    Raises:
        ValueError: an unknown setting, or values that do not go together.
    """
    settings = dict(calibrated)
    if config.DETECTION_MIN_CONFIDENCE != Config.DETECTION_MIN_CONFIDENCE:  # a configuration's own
        settings.pop("DETECTION_MIN_CONFIDENCE", None)
    config = config.replace(**{**settings, **changes})
    config.validate()
    return config


def with_precision(config: Config, runtime: str, precision: str | None) -> Config:
    """A configuration to detect with in a runtime, with PRECISION for what is not int8; None leaves it.

    Raises:
        ValueError: an unknown runtime, or one that lacks the precision.
    """
    if runtime not in RUNTIME_PRECISIONS:
        raise InputError(f"runtime {runtime!r}: expected one of {', '.join(RUNTIME_PRECISIONS)}")
    if precision is None:
        return config
    if precision not in RUNTIME_PRECISIONS[runtime]:
        expected = f"expected one of {', '.join(RUNTIME_PRECISIONS[runtime])}"
        other = f"; runtime openvino has {precision}" if precision in RUNTIME_PRECISIONS["openvino"] else ""
        raise InputError(f"precision {precision!r}: with runtime {runtime} {expected}{other}")
    return config.replace(PRECISION="bfloat16" if precision == "bfloat16" else "float32")


def choose_pretrained(
    name: StrPath, checkpoints: StrPath, settings: dict[str, Any]
) -> tuple[Path, Config, Calibration | None]:
    """(weight file, configuration, threshold file beside it or None) for a name.

    Args:
        name: as for `find_weights`; a folder is that of a training run, which stands for its best weights.
        checkpoints: folder where known files are looked for first.
        settings: changes of the configuration that fits the weights.

    Raises:
        ValueError, OSError: as `find_weights`, `config_of` and `find_thresholds`.
    """
    path = find_weights(name, checkpoints, runs=_run_weights, tell=logger.warning)  # seen without set-up of logging
    calibration = find_thresholds(path)
    calibrated = calibrated_settings(calibration, verify=settings.get("VERIFY_DETECTIONS", True))
    return path, with_settings(config_of(path), calibrated, settings), calibration


def _run_weights(name: str) -> Path:
    """The best weights of the run in a folder."""
    if not Path(name).is_dir():  # "last" and "best"
        raise InputError(f"weights {name!r}: of which training run? Expected its folder")
    return find_run_weights(run_in(name)).path
