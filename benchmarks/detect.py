"""Time of one detection, compared with the machine's float32 matrix rate, measured alternately in one run.

    python benchmarks/detect.py [--config small large] [--repeats 7]

One detection has a new scene and a new reference: molding, encoding, matching, proposals, heads, masks, unmolding. The
share is the network's operations per second, divided by the rate of a matrix product on the same cores, measured before
and after. Two rates are given: TensorFlow's matrix product, and numpy's, which is faster on some processors.
"""

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import keras
import numpy as np
import tensorflow as tf

from siamese_mrcnn_tf.config import CONFIGS
from siamese_mrcnn_tf.predictor import SiamesePredictor

GIGA_OPERATIONS = {"small": 203, "large": 790}  # of one detection: multiplications and additions of the convolutions
MATRIX_SIDE = 4096


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", nargs="+", choices=sorted(GIGA_OPERATIONS), default=["small", "large"])
    parser.add_argument("--repeats", type=int, default=7, help="number of measurements; the median is reported")
    options = parser.parse_args()
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, TensorFlow {tf.__version__}", flush=True
    )
    print(
        "| configuration | s a detection | set_image | detect | TensorFlow, GFLOP/s | share | numpy, GFLOP/s | share |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name in options.config:
        rows = np.array(measure(name, options.repeats))
        scene, query, *rates = np.median(rows, axis=0)
        shares = np.median(GIGA_OPERATIONS[name] / rows[:, :2].sum(axis=1, keepdims=True) / rows[:, 2:], axis=0)
        columns = " | ".join(f"{rate:.0f} | {share:.0%}" for rate, share in zip(rates, shares, strict=True))
        print(f"| {name} | {scene + query:.2f} | {scene:.2f} | {query:.2f} | {columns} |", flush=True)


def measure(name: str, repeats: int) -> list[tuple[float, ...]]:
    """[(seconds of set_image, seconds of detect, TensorFlow's rate, numpy's rate in GFLOP/s)] for each repeat."""
    keras.utils.set_random_seed(0)
    predictor = SiamesePredictor(CONFIGS[name]().replace(DETECTION_MIN_CONFIDENCE=0.0))
    rng = np.random.default_rng(0)
    scene = rng.integers(0, 256, (480, 640, 3), np.uint8)
    reference = rng.integers(0, 256, (150, 120, 3), np.uint8)
    predictor.set_image(scene)
    predictor.detect(reference)
    rows = []
    for _ in range(repeats):
        before = matrix_rates()
        scene_seconds = seconds(lambda: predictor.encode_scenes([scene]).pyramid[-1].numpy())
        query_seconds = seconds(lambda: predictor.detect(reference))
        rates = np.mean([before, matrix_rates()], axis=0)
        rows.append((scene_seconds, query_seconds, *rates))
    return rows


def matrix_rates() -> list[float]:
    """GFLOP/s of a float32 matrix product by TensorFlow and by numpy."""
    matrix = np.random.default_rng(0).standard_normal((MATRIX_SIDE, MATRIX_SIDE), np.float32)
    tensor = tf.constant(matrix)
    products = (lambda: tf.matmul(tensor, tensor)[0, 0].numpy(), lambda: matrix @ matrix)
    return [2 * MATRIX_SIDE**3 / seconds(product) / 1e9 for product in products]


def seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
