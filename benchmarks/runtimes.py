"""Seconds of a detection in TensorFlow, ONNX Runtime and OpenVINO, measured alternately in one run.

    python benchmarks/runtimes.py [--config tiny small] [--repeats 5] [--json FILE]

The network is exported first (minutes), with the bundled weights for tiny and initial ones for the others. One
detection has a new scene and a new reference: molding, encoding, matching, proposals, heads, masks, unmolding.
TensorFlow is `SiamesePredictor`, the others are `RuntimePredictor`. Each figure is the median of the repeats; processor
seconds are those of all cores together, and depend less on what else the machine does.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import keras
import numpy as np

from siamese_mrcnn_tf.base_predictor import BasePredictor
from siamese_mrcnn_tf.config import CONFIGS, Config
from siamese_mrcnn_tf.export import formats, graphs
from siamese_mrcnn_tf.predictor import SiamesePredictor
from siamese_mrcnn_tf.runtime.manifest import PARTS, model_path
from siamese_mrcnn_tf.runtime.predictor import RuntimePredictor
from siamese_mrcnn_tf.runtime.sessions import open_session
from siamese_mrcnn_tf.shapes.dataset import reference_crops
from siamese_mrcnn_tf.shapes.scenes import make_scene
from siamese_mrcnn_tf.weights.pretrained import find_weights

EXPORTED = ("onnx", "openvino")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", nargs="+", choices=sorted(CONFIGS), default=["tiny", "small"])
    parser.add_argument("--repeats", type=int, default=5, help="number of measurements; the median is reported")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the seconds of all repeats")
    options = parser.parse_args()
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores", flush=True)
    print("| configuration | runtime | s a detection | set_image | detect | processor s | of TensorFlow's s |")
    print("|---|---|---|---|---|---|---|", flush=True)
    found = {}
    for name in options.config:
        found[name] = measure(name, options.repeats)
        seconds = {runtime: statistics.median(sum(row[:2]) for row in rows) for runtime, rows in found[name].items()}
        for runtime, rows in found[name].items():
            scene, query, processor = np.median(rows, axis=0)
            ratio = seconds[runtime] / seconds["tensorflow"]
            columns = f"{seconds[runtime]:.3f} | {scene:.3f} | {query:.3f} | {processor:.3f} | {ratio:.2f}"
            print(f"| {name} | {runtime} | {columns} |", flush=True)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def measure(name: str, repeats: int) -> dict[str, list[tuple[float, float, float]]]:
    """By runtime: [(seconds of set_image, seconds of detect, processor seconds of both)] for each repeat."""
    keras.utils.set_random_seed(0)
    config = CONFIGS[name]()
    side = config.IMAGE_MAX_DIM
    scene = make_scene(np.random.default_rng(19), side * 3 // 4, side)
    crops = [crop for crop, _ in reference_crops(*scene).values()]
    with tempfile.TemporaryDirectory() as folder:
        weights = find_weights("shapes", "checkpoints") if name == "tiny" else None
        predictors = open_all(config, weights, folder)
        for predictor in predictors.values():  # compiles
            detection(predictor, scene[0], crops[-1])
        rows: dict[str, list[tuple[float, float, float]]] = {runtime: [] for runtime in predictors}
        for _ in range(repeats):
            for runtime, predictor in predictors.items():
                rows[runtime].append(detection(predictor, scene[0], crops[-1]))
    return rows


def open_all(config: Config, weights: Path | None, folder: str) -> dict[str, BasePredictor]:
    """The predictors by runtime, with the same weights."""
    network = SiamesePredictor(config.replace(DETECTION_MIN_CONFIDENCE=0.0), weights=weights, calibrated=False)
    predictors: dict[str, BasePredictor] = {"tensorflow": network}
    models = graphs.build_graphs(network.config, network.layers)
    for name in EXPORTED:
        (Path(folder) / name).mkdir()
        parts = {}
        for part in PARTS:
            path = model_path(folder, name, part)
            formats.FORMATS[name](models[part], path)
            parts[part] = open_session(name, path, models[part].interface)
        predictors[name] = RuntimePredictor(network.config, parts)
    return predictors


def detection(predictor: BasePredictor, scene: np.ndarray, crop: np.ndarray) -> tuple[float, float, float]:
    """(seconds of set_image, seconds of detect, processor seconds of both)."""
    start, processor = time.perf_counter(), time.process_time()
    scenes = predictor.encode_scenes([scene])
    np.asarray(scenes.pyramid[-1])  # TensorFlow returns before it has finished
    middle = time.perf_counter()
    predictor.detect_in(scenes, [crop])
    return middle - start, time.perf_counter() - middle, time.process_time() - processor


if __name__ == "__main__":
    main()
