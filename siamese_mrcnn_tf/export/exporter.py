"""`export_network`: a folder with the network and its parts in several formats, each run again and compared."""

import dataclasses
import importlib.metadata
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from ..config import Config
from ..io.errors import InputError
from ..io.files import StrPath, atomic_folder, checksum
from ..modeling import network
from ..predictor import PathLike, SiamesePredictor
from ..runtime.manifest import (
    NAME,
    NETWORK,
    PARTS,
    RUNTIMES,
    THRESHOLD_NAME,
    Manifest,
    checksums,
    model_path,
    require_free,
    write_manifest,
)
from ..runtime.predictor import RuntimePredictor
from ..runtime.sessions import open_session
from ..weights.keras_files import write_model, write_state
from ..weights.thresholds import find_thresholds, save_thresholds
from .comparison import Case, Differences, make_case
from .formats import FORMATS, check_packages
from .graphs import Graph, build_graphs, open_config

_log = logging.getLogger(__name__)
KERAS = "keras"
CHOICES = (*FORMATS, KERAS)


def export_network(
    out: StrPath,
    formats: Sequence[str],
    config: Config,
    *,
    image: np.ndarray,
    references: Sequence[np.ndarray],
    weights: PathLike | None = None,
    layers: network.SharedLayers | None = None,
    replace: bool = False,
    progress: Callable[[str], None] = _log.info,
) -> Manifest:
    """Write an exported folder. Each format is opened again and searches the scene before the folder appears.

    Args:
        out: the folder.
        formats: of CHOICES.
        config: the configuration of the network, without the threshold and verification of its threshold file.
        image: the scene for the comparison, uint8 [height, width, RGB].
        references: crops of an object in it, uint8 [h, w, RGB]; the exported network takes as many.
        weights: weight file; its threshold file is exported, too.
        layers: SharedLayers to export in place of new ones.
        replace: whether an exported folder at `out` is replaced.
        progress: takes a line about each step.

    Raises:
        ValueError: a format that is not known or needs a package; a setting that does not allow an export; a folder
            in use; nothing is found in the scene; or a format finds something else, then nothing is written.
    """
    formats = list(dict.fromkeys(formats))
    _check(formats, config)
    require_free(out, replace=replace)
    opened = open_config(config.replace(PRECISION="float32"))
    predictor = SiamesePredictor(opened, weights=weights, layers=layers, calibrated=False)
    case = make_case(predictor, image, references)
    graphs = build_graphs(opened, predictor.layers, shots=len(case.references))
    case = dataclasses.replace(case, expected=graphs[NETWORK].run(case.inputs))
    with atomic_folder(out, replace=replace) as folder:
        differences = {}
        for name in formats:
            progress(f"{name}: writing")
            write_format(name, graphs, opened, predictor.layers, folder)
            differences[name] = compare_format(name, graphs, opened, folder, case)
            progress(f"{name}: {differences[name].summary()}")
            if not differences[name].are_small:
                found = f"finds something else than the network: {differences[name].summary()}"
                raise InputError(f"{name}: {found}; try another --image, where no find is on the edge of a threshold")
        calibration = None if weights is None else find_thresholds(weights)
        if calibration is not None:
            save_thresholds(calibration, folder / THRESHOLD_NAME)
        manifest = Manifest(
            config=config.replace(PRECISION="float32"),
            interfaces={name: graph.interface for name, graph in graphs.items()},
            formats=formats,
            files=checksums(folder),
            weights=None if weights is None else Path(weights).name,
            weights_sha256=None if weights is None else checksum(weights),
            about={
                "versions": _versions(formats),
                "differences": {name: vars(found) for name, found in differences.items()},
            },
        )
        write_manifest(manifest, folder)
    return manifest


def write_format(
    name: str, graphs: dict[str, Graph], config: Config, layers: network.SharedLayers, folder: Path
) -> None:
    """Write all models of one format below an exported folder."""
    (folder / name).mkdir(parents=True, exist_ok=True)
    if name == KERAS:
        model = network.build_inference_model(config, layers).model
        path = model_path(folder, KERAS, NETWORK)
        write_model(model, path)
        write_state(model, path.with_suffix(".weights.h5"))
        return
    for model_name, graph in graphs.items():
        FORMATS[name](graph, model_path(folder, name, model_name))


def compare_format(name: str, graphs: dict[str, Graph], config: Config, folder: Path, case: Case) -> Differences:
    """The larger differences of the exported parts and of the exported network."""
    if name == KERAS:
        return case.differences(_run_keras(model_path(folder, KERAS, NETWORK), case))
    runtime = next(runtime for runtime, format_name in RUNTIMES.items() if format_name == name)

    def open_model(model: str) -> Any:
        return open_session(runtime, model_path(folder, name, model), graphs[model].interface)

    whole = case.differences(open_model(NETWORK)(*case.inputs.values()))
    predictor = RuntimePredictor(config, {part: open_model(part) for part in PARTS})
    query = predictor.encode_references(case.references)
    parts = case.differences(predictor.match(predictor.encode_scenes([case.image]), [query]))
    values = ((getattr(one, field) for one in (whole, parts)) for field in ("boxes", "scores", "masks"))
    return Differences(whole.finds, *(max(pair) for pair in values))


def _run_keras(path: Path, case: Case) -> dict[str, np.ndarray]:
    """Outputs of a .keras file, loaded again."""
    model = keras.models.load_model(path)
    inputs = {name.replace("references", "target"): value for name, value in case.inputs.items()}
    outputs = model.predict_on_batch(inputs)
    return {name: np.asarray(value) for name, value in outputs.items()}


def _check(formats: list[str], config: Config) -> None:
    if keras.backend.backend() != "tensorflow":
        raise InputError(f"KERAS_BACKEND = {keras.backend.backend()}: expected tensorflow for an export")
    for name in formats:
        if name not in CHOICES:
            raise InputError(f"format {name!r}: expected one of {', '.join(CHOICES)}")
    if not formats:
        raise InputError(f"formats: expected at least one of {', '.join(CHOICES)}")
    if config.IMAGE_RESIZE_MODE != "square":
        fixed = "an exported network takes images of one size, IMAGE_RESIZE_MODE = 'square'"
        raise InputError(f"IMAGE_RESIZE_MODE = {config.IMAGE_RESIZE_MODE!r}: {fixed}")
    if callable(config.BACKBONE):
        raise InputError(f"BACKBONE = {config.BACKBONE!r}: a callable cannot be stored in {NAME}, expected a name")
    check_packages(formats)


def _versions(formats: Sequence[str]) -> dict[str, str]:
    """Versions of the packages that wrote the formats."""
    packages = ["keras", "tensorflow"]
    packages += ["tf2onnx", "onnx", "onnxruntime"] if "onnx" in formats else []
    packages += ["openvino"] if "openvino" in formats else []
    return {name: importlib.metadata.version(name) for name in packages}
