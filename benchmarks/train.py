"""Time and memory of a training step, and the rate at which samples are prepared.

    python benchmarks/train.py                                   # steps, small configuration, all layers
    taskset -c 0 python benchmarks/train.py --samples DIR        # samples of a COCO-format folder, on one core

Each kind of step runs in a process of its own, whose peak resident memory is reported; the kinds alternate, and medians
over all rounds are printed. The rate of samples is per second of processor time, and includes JPEG decoding, references
and molding.
"""

import argparse
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from siamese_mrcnn_tf.config import CONFIGS, Config

SAMPLES_COUNTED = 60
INSTANCES = 3  # of a generated training sample


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", choices=sorted(CONFIGS), default="small")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 2], help="samples per step (default 1 2)")
    parser.add_argument("--precision", nargs="+", choices=("float32", "bfloat16"), default=["float32", "bfloat16"])
    parser.add_argument("--queries", type=int, nargs="+", default=[1], help="samples per scene in a batch (default 1)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds over all kinds of step (default 3)")
    parser.add_argument("--repeats", type=int, default=5, help="steps measured in each round (default 5)")
    parser.add_argument("--samples", metavar="DIR", help="measure samples of this folder instead")
    parser.add_argument("--child", nargs=3, metavar=("BATCH", "QUERIES", "PRECISION"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        batch, queries, precision = options.child
        print(json.dumps(measure_steps(options.config, int(batch), int(queries), precision, options.repeats)))
    elif options.samples:
        for name in ("small", "large"):
            print(f"{name}: {measure_samples(name, options.samples):.1f} samples per second", flush=True)
    else:
        print_steps(options)


def print_steps(options: argparse.Namespace) -> None:
    """Print the table of steps."""
    kinds = list(itertools.product(options.batch, options.queries, options.precision))
    kinds = [kind for kind in kinds if kind[0] % kind[1] == 0]  # a batch holds all samples of a scene
    if not kinds:
        sys.exit("benchmarks/train.py: error: expected a --batch that is a multiple of a --queries")
    found: dict[tuple, list[dict]] = {kind: [] for kind in kinds}
    for _, kind in itertools.product(range(options.rounds), kinds):
        command = [sys.executable, __file__, "--config", options.config, "--repeats", str(options.repeats)]
        finished = subprocess.run([*command, "--child", *map(str, kind)], stdout=subprocess.PIPE, check=True, text=True)
        found[kind].append(json.loads(finished.stdout.splitlines()[-1]))
    print("| configuration | batch | samples per scene | precision | s per step | peak GB |\n|---|---|---|---|---|---|")
    for (batch, queries, precision), turns in found.items():
        seconds = statistics.median(itertools.chain.from_iterable(turn["seconds"] for turn in turns))
        memory = statistics.median(turn["peak"] for turn in turns)
        print(f"| {options.config} | {batch} | {queries} | {precision} | {seconds:.2f} | {memory:.2f} |", flush=True)


def measure_steps(name: str, batch_size: int, queries: int, precision: str, repeats: int) -> dict[str, Any]:
    """{"seconds": of each step, "peak": peak resident memory in GB} of training all layers."""
    from siamese_mrcnn_tf.modeling import network
    from siamese_mrcnn_tf.training import distribution, trainable_layers, training_model

    distribution.prepare_backend(seed=0)
    settings = {"IMAGES_PER_GPU": batch_size, "QUERIES_PER_IMAGE": queries, "PRECISION": precision}
    config = CONFIGS[name]().replace(**settings)
    layers = network.build_layers(config)
    model = training_model.build_training_model(config, layers)
    trainable_layers.select_layers(layers.layers, "all")
    training_model.compile_model(model, config, learning_rate=1e-6)
    batch = generated_batch(config)
    model.train_on_batch(batch)
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        model.train_on_batch(batch)
        seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # Linux counts in kB
    return {"seconds": seconds, "peak": peak}


def generated_batch(config: Config) -> dict[str, np.ndarray]:
    """A batch of random images with a few boxes in each."""
    from siamese_mrcnn_tf.data.data_generator import Sample, collate
    from siamese_mrcnn_tf.data.rpn_targets import build_rpn_targets
    from siamese_mrcnn_tf.ops.anchors import pyramid_anchors
    from siamese_mrcnn_tf.ops.image_meta import compose_image_meta

    rng, side, target = np.random.default_rng(0), config.IMAGE_MAX_DIM, config.TARGET_MAX_DIM
    anchors, samples = pyramid_anchors(config, config.IMAGE_SHAPE), []
    for number in range(config.BATCH_SIZE):
        corners = rng.integers(0, side // 2, (INSTANCES, 2))
        boxes = np.concatenate([corners, corners + rng.integers(side // 8, side // 2, (INSTANCES, 2))], axis=1)
        classes = np.ones(INSTANCES, np.int32)
        match, deltas = build_rpn_targets(config.IMAGE_SHAPE, anchors, classes, boxes, config, rng=rng)
        whole = (0, 0, side, side)
        if number % config.QUERIES_PER_IMAGE == 0:
            image = rng.integers(0, 256, config.IMAGE_SHAPE, np.uint8)
        samples.append(
            Sample(
                image_id=number,
                class_id=1,
                references=[],
                image=image,
                image_meta=compose_image_meta(number, config.IMAGE_SHAPE, config.IMAGE_SHAPE, whole, 1, [1, 1]),
                targets=rng.integers(0, 256, (config.NUM_TARGETS, target, target, 3), np.uint8),
                rpn_match=match,
                rpn_bbox=deltas,
                gt_class_ids=classes,
                gt_boxes=boxes.astype(np.int32),
                gt_masks=np.ones((*config.MINI_MASK_SHAPE, INSTANCES), bool),
            )
        )
    return collate(samples, config)


def measure_samples(name: str, folder: str) -> float:
    """Training samples of a folder per second of processor time."""
    from siamese_mrcnn_tf.data.data_generator import TrainingSamples, collate
    from siamese_mrcnn_tf.data.dataset import IndexedCocoDataset

    dataset, config = IndexedCocoDataset(), CONFIGS[name]()
    dataset.load_coco(folder, "train")
    dataset.prepare()
    dataset.build_indices()
    samples = TrainingSamples(dataset, config)
    collate([samples[0]], config)
    start = time.process_time()
    for number in range(SAMPLES_COUNTED):
        collate([samples[number]], config)
    return SAMPLES_COUNTED / (time.process_time() - start)


if __name__ == "__main__":
    main()
