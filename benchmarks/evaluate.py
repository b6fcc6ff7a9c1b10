"""Time of an evaluation, compared with the same detections one by one, measured alternately in one run.

    python benchmarks/evaluate.py DIR [--config small] [--repeats 3]

DIR is a COCO-format folder. Its first image with three categories is searched for each of them in five runs, each with
another reference: 15 queries. The evaluation includes reading the image and cutting the references.
"""

import argparse
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import keras
import numpy as np

from siamese_mrcnn_tf import IndexedCocoDataset, SiameseMaskRCNN
from siamese_mrcnn_tf.config import CONFIGS, Config
from siamese_mrcnn_tf.data.references import cut_reference
from siamese_mrcnn_tf.evaluation.queries import OneShotDetector, Query, queries_of
from siamese_mrcnn_tf.evaluation.references import RandomReferenceSampler

CATEGORIES, RUNS = 3, 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", metavar="DIR")
    parser.add_argument("--config", choices=sorted(CONFIGS), default="small")
    parser.add_argument("--repeats", type=int, default=3, help="number of measurements; the median is reported")
    options = parser.parse_args()
    rows = np.array(measure(CONFIGS[options.config](), options.dataset, options.repeats))
    together, alone = np.median(rows, axis=0)
    ratio = np.median(rows[:, 1] / rows[:, 0])
    queries = CATEGORIES * RUNS
    print("| configuration | queries | evaluation, s | one by one, s | times as fast |\n|---|---|---|---|---|")
    print(f"| {options.config} | {queries} | {together:.1f} | {alone:.1f} | {ratio:.2f} |")


def measure(config: Config, folder: str, repeats: int) -> list[tuple[float, float]]:
    """[(seconds of the evaluation, seconds of detections one by one)] for each repeat."""
    keras.utils.set_random_seed(0)
    dataset = IndexedCocoDataset()
    dataset.load_coco(folder, "val")
    dataset.prepare()
    dataset.build_indices()
    model = SiameseMaskRCNN("inference", config.replace(DETECTION_MIN_CONFIDENCE=0.0), "logs")
    image_id, present = next(query for query in queries_of(dataset) if len(query[1]) == CATEGORIES)
    draw = RandomReferenceSampler(dataset, config, seed=0)
    queries = [
        Query(0, run, class_id, tuple(draw(image_id, class_id, run, 1))) for run in range(RUNS) for class_id in present
    ]
    image = dataset.load_image(image_id)
    crops = [cut_reference(dataset, config, *query.references[0]) for query in queries]
    model.detect([[crops[0]]], [image])  # compile both sides before measuring
    OneShotDetector(model.predictor).search(dataset, image_id, queries[:1])
    rows = []
    for _ in range(repeats):
        start = time.perf_counter()
        OneShotDetector(model.predictor).search(dataset, image_id, queries)
        middle = time.perf_counter()
        for crop in crops:
            model.detect([[crop]], [image])
        rows.append((middle - start, time.perf_counter() - middle))
    return rows


if __name__ == "__main__":
    main()
