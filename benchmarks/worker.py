"""A process that measures for bench.py: it takes a JSON object a line and answers with one.

It keeps a predictor between the lines, so that the processes of what is compared can take turns. Keras and TensorFlow
are imported by the tasks that need them.
"""

import dataclasses
import functools
import inspect
import json
import math
import os
import resource
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

REST = "rest"
VERIFICATION = "verification"
STAGES = {  # functions of a predictor -> stages of a detection; what they call of each other is not theirs
    "encode_scenes": "molding",
    "_encode_scene": "scene encoder",
    "encode_queries": "reference molding",
    "_encode_reference": "reference encoder",
    "_share": "shared terms",
    "_detect": "detector",
    "_detect_shared": "detector",
    "verify": VERIFICATION,
    "_with_masks": "masks",
    "_segment": "masks",
    "unmold": "unmolding",
}
FINDS = 10  # of each reference in the scene
_SEED = 19
_SMALL = 1e-4


class StageTimer:
    """Measures the stages of a predictor's detections; verification includes the references that it encodes."""

    def __init__(self, predictor: Any) -> None:
        self._open: list[str] = []
        self._found: dict[str, dict[str, Any]] = {}
        self._before = 0.0, 0.0
        for name, stage in STAGES.items():
            function = getattr(predictor, name, None)
            if function is not None:
                setattr(predictor, name, functools.partial(self._call, name, stage, function))

    def run(self, function: Callable[..., Any], *args: Any) -> tuple[Any, dict[str, dict[str, Any]]]:
        """What a function returns, and by stage: seconds, processor seconds, and rows by network function."""
        self._found = {}
        return self._call("", REST, function, *args), self._found

    def _call(self, name: str, stage: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        stage = VERIFICATION if VERIFICATION in self._open else stage
        self._charge()
        self._open.append(stage)
        found = self._found.setdefault(stage, {"seconds": 0.0, "processor": 0.0, "rows": {}})
        try:
            outputs = function(*args, **kwargs)
            if name.startswith("_encode") or name in ("_share", "_detect", "_detect_shared", "_segment"):
                wait_for(outputs)
                found["rows"][name] = found["rows"].get(name, 0) + len(args[0])
        finally:
            self._charge()
            self._open.pop()
        return outputs

    def _charge(self) -> None:
        """Add the time since the last call to the stage that is running."""
        now = time.perf_counter(), time.process_time()
        if self._open:
            found = self._found[self._open[-1]]
            found["seconds"] += now[0] - self._before[0]
            found["processor"] += now[1] - self._before[1]
        self._before = now


def wait_for(outputs: Any) -> None:
    """Return when the outputs of a network function are computed, by reading the smallest one."""
    np.asarray(min(_leaves(outputs), key=lambda tensor: math.prod(tensor.shape)))


def _leaves(outputs: Any) -> Iterator[Any]:
    if isinstance(outputs, (list, tuple)):
        for output in outputs:
            yield from _leaves(output)
    elif isinstance(outputs, dict):
        yield from _leaves(list(outputs.values()))
    else:
        yield outputs


# ---- cases: a scene, a reference, weights and a threshold ----------------------------------------------------------
def drawn_scene(config: Any) -> tuple[np.ndarray, np.ndarray]:
    """(a scene of 640x480 pixels, or smaller for a small network; a crop of its largest object)."""
    from siamese_mrcnn_tf.shapes.dataset import reference_crops
    from siamese_mrcnn_tf.shapes.scenes import make_scene

    width = min(640, config.IMAGE_MAX_DIM * 5 // 4)
    scene = make_scene(np.random.default_rng(_SEED), width * 3 // 4, width)
    return scene[0], [crop for crop, _ in reference_crops(*scene).values()][-1]


def prepare(config: str, folder: str) -> dict[str, Any]:
    """Write weights and a verification to a folder; its threshold, and GFLOP by network function and by part.

    The weights are initial ones, or for tiny the bundled ones. The threshold lets about FINDS detections pass, as in a
    scene that shows the category.
    """
    import keras
    from flops import by_part, count_steps

    from siamese_mrcnn_tf.config import CONFIGS
    from siamese_mrcnn_tf.ops.similarity import fit_statistics
    from siamese_mrcnn_tf.predictor import SiamesePredictor
    from siamese_mrcnn_tf.shapes.scenes import write_image
    from siamese_mrcnn_tf.weights import loading
    from siamese_mrcnn_tf.weights.pretrained import find_weights

    keras.utils.set_random_seed(0)
    chosen = CONFIGS[config]().replace(DETECTION_MIN_CONFIDENCE=0.0, DETECTION_ARGMAX=False)
    weights = find_weights("shapes", "checkpoints") if config == "tiny" else None
    predictor = SiamesePredictor(chosen, weights=weights, calibrated=False)
    scene, crop = drawn_scene(chosen)
    if weights is None:
        _spread_scores(predictor, scene, crop)
    predictor.set_image(scene)
    scores = np.append(predictor.detect(crop)["scores"], 0.0)
    last = min(FINDS, len(scores) - 1)
    loading.save_weights(predictor.layers, Path(folder) / "weights.h5")
    verification = fit_statistics(predictor.encode_views([scene, crop], 1))  # it changes no score
    np.savez(Path(folder) / "verification.npz", mean=verification.mean, deviation=verification.deviation)
    for name, image in (("scene.png", scene), ("reference.png", crop)):
        write_image(Path(folder) / name, image)
    steps = count_steps(chosen, predictor.layers)
    return {
        "threshold": float(scores[last - 1] + scores[last]) / 2,
        "gflop": {name: counts.total() / 1e9 for name, counts in steps.items()},
        "parts": by_part(steps),
    }


def _spread_scores(predictor: Any, scene: np.ndarray, crop: np.ndarray) -> None:
    """Scale and shift the logits of initial weights, whose scores are all 0 or 1, to deviation 1 and mean 0."""
    layer = predictor.layers.classifier["mrcnn_class_logits"]
    layer.kernel.assign(layer.kernel * _SMALL)  # to scores that have logits
    scores = predictor.match(predictor.encode_scenes([scene]), [crop], masks=False)["mrcnn_class"][0, :, 1]
    logits = np.log(scores / (1 - scores))
    layer.kernel.assign(layer.kernel / logits.std())
    layer.bias.assign([0.0, -logits.mean() / logits.std()])


def export(config: str, folder: str, formats: list[str]) -> None:
    """Write the parts of the prepared network for other runtimes."""
    from siamese_mrcnn_tf.config import CONFIGS
    from siamese_mrcnn_tf.export.formats import FORMATS
    from siamese_mrcnn_tf.export.graphs import build_graphs, open_config
    from siamese_mrcnn_tf.predictor import SiamesePredictor
    from siamese_mrcnn_tf.runtime.manifest import PARTS, Manifest, checksums, model_path, write_manifest

    opened = open_config(CONFIGS[config]())
    predictor = SiamesePredictor(opened, weights=Path(folder) / "weights.h5", calibrated=False)
    graphs, out = build_graphs(opened, predictor.layers), Path(folder) / "exported"
    for name in formats:
        (out / name).mkdir(parents=True)
        for part in PARTS:
            FORMATS[name](graphs[part], model_path(out, name, part))
    interfaces = {name: graph.interface for name, graph in graphs.items()}
    write_manifest(Manifest(CONFIGS[config](), interfaces, formats, checksums(out)), out)


# ---- tasks ---------------------------------------------------------------------------------------------------------
class Tasks:
    """What the process can be asked for; each method is a task."""

    def __init__(self) -> None:
        self._predictor: Any = None
        self._timer: StageTimer | None = None
        self._scenes: Any = None
        self._scene: np.ndarray | None = None
        self._crop: np.ndarray | None = None

    def start(self) -> float:
        """Import TensorFlow: peak memory in GB then."""
        import tensorflow  # noqa: F401  is what is measured

        return self.peak()

    def peak(self) -> float:
        """Peak resident memory in GB."""
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # Linux counts in kB

    def matrix(self, side: int) -> dict[str, float]:
        """GFLOP of a float32 matrix product in TensorFlow by second and by processor second."""
        import tensorflow as tf

        matrix = tf.random.stateless_normal((side, side), (0, 1))
        tf.matmul(matrix, matrix)[0, 0].numpy()  # the first one is slower
        start, processor = time.perf_counter(), time.process_time()
        tf.matmul(matrix, matrix)[0, 0].numpy()
        seconds, processor = time.perf_counter() - start, time.process_time() - processor
        return {name: 2e-9 * side**3 / taken for name, taken in (("seconds", seconds), ("processor", processor))}

    def prepare(self, config: str, folder: str) -> dict[str, Any]:
        return prepare(config, folder)

    def export(self, config: str, folder: str, formats: list[str]) -> None:
        export(config, folder, formats)

    def open(self, references: list[int], **chosen: Any) -> str | None:
        """Open a predictor and search once with each number of references; what is missing, if it cannot."""
        predictor = open_predictor(**chosen)
        if isinstance(predictor, str):
            return predictor
        self._predictor, self._timer = predictor, StageTimer(predictor)
        self._scene, self._crop = drawn_scene(predictor.config)
        self.scene()
        for count in references:
            self.search(count)
        return None

    def scene(self) -> dict[str, Any]:
        """Encode the scene: its stages."""
        self._scenes, stages = self._timer.run(self._predictor.encode_scenes, [self._scene])
        return stages

    def search(self, references: int) -> dict[str, Any]:
        """Detect in the encoded scene: {"stages", "finds": their number with each of the references}."""
        scenes = self._new_scenes()
        found, stages = self._timer.run(self._predictor.detect_all, scenes, [self._crop] * references)
        return {"stages": stages, "finds": [len(one["rois"]) for one in found]}

    def _new_scenes(self) -> Any:
        """The encoded scene without the terms that an earlier search has computed."""
        return dataclasses.replace(self._scenes, terms=[])

    def samples(self, config: str, folder: str) -> float:
        """Training samples per second of processor time."""
        from train import measure_samples

        return measure_samples(config, folder)


def open_predictor(
    config: str, folder: str, threshold: float, runtime: str, precision: str, exported: bool, verified: bool
) -> Any:
    """The predictor of a prepared network, or what is missing for it."""
    from siamese_mrcnn_tf.config import CONFIGS

    settings = {"DETECTION_MIN_CONFIDENCE": threshold, "DETECTION_ARGMAX": False, "VERIFY_DETECTIONS": verified}
    chosen = CONFIGS[config]().replace(**settings, VERIFY_MIN_CONFIDENCE=threshold)
    if exported:
        from siamese_mrcnn_tf.runtime import predictor

        return predictor.open_predictor(Path(folder) / "exported", runtime, config=chosen, calibrated=False)
    from siamese_mrcnn_tf.ops.similarity import Verification
    from siamese_mrcnn_tf.predictor import SiamesePredictor

    options: dict[str, Any] = {"weights": Path(folder) / "weights.h5", "calibrated": False}
    if runtime != "tensorflow":
        missing = {"runtime", "precision"} - set(inspect.signature(SiamesePredictor).parameters)
        if missing:
            return f"SiamesePredictor has no {' and no '.join(sorted(missing))}"
        options |= {"runtime": runtime, "precision": precision}
    else:
        chosen = chosen.replace(PRECISION=precision)
    if verified:
        with np.load(Path(folder) / "verification.npz") as statistics:
            options["verification"] = Verification(**statistics)
    return SiamesePredictor(chosen, **options)


def main() -> None:
    tasks, answers = Tasks(), sys.stdout
    sys.stdout = sys.stderr  # answers alone are written to the pipe
    for line in sys.stdin:
        arguments = json.loads(line)
        task = arguments.pop("task")
        try:
            found = {"answer": getattr(tasks, task)(**arguments)}
        except Exception as error:
            traceback.print_exc()
            found = {"error": f"{task}: {type(error).__name__}: {error}"}
        print(json.dumps(found), file=answers, flush=True)


if __name__ == "__main__":
    main()
