"""Measures whole commands, training steps and the loader."""

import importlib.util
import itertools
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

from processes import Usage, Worker, run_command
from report import Row

from siamese_mrcnn_tf.shapes.dataset import write_coco, write_demo

PRECISIONS = ("float32", "bfloat16")
_COMMAND = ("-m", "siamese_mrcnn_tf")
_EXPORTERS = {"onnx": ("onnxruntime", "tf2onnx"), "openvino": ("openvino",)}  # runtime -> packages
_TRAIN = Path(__file__).with_name("train.py")
_ROUNDS = 2  # of processes that train
_DRAWN = {"train": 60, "val": 1, "square": False, "seed": 0}  # scenes for the loader


def measure_startup(*, repeats: int, show: Callable[[str], None]) -> tuple[list[Row], list[str]]:
    """Rows of commands with the bundled weights and a drawn scene, from start to end, which take turns; notes."""
    with tempfile.TemporaryDirectory() as folder:
        reference = next(name for name in write_demo(folder, size=128, seed=19) if name != "scene.png")
        search = ["predict", "--image", "scene.png", "--reference", reference, "--force"]
        kinds = {
            "import tensorflow": ["-c", "import tensorflow"],
            "siamese-mrcnn --help": [*_COMMAND, "--help"],
            "predict, tensorflow": [*_COMMAND, *search, "--model", "shapes", "--out", "found"],
        }
        notes, formats = [], []
        for runtime, packages in _EXPORTERS.items():
            missing = [package for package in packages if importlib.util.find_spec(package) is None]
            if missing:
                notes.append(f"startup, exported {runtime}: {', '.join(missing)} is not installed")
                continue
            formats.append(runtime)
            arguments = [*search, "--model", "exported", "--runtime", runtime, "--out", f"found_{runtime}"]
            kinds[f"predict, exported {runtime}"] = [*_COMMAND, *arguments]
        if formats:
            show("startup: exporting the bundled weights")
            exporting = ["export", "--model", "shapes", "--out", "exported", "--format", *formats]
            run_command([*_COMMAND, *exporting], folder)
        found: dict[str, list[Usage]] = {name: [] for name in kinds}
        for _, name in itertools.product(range(repeats), kinds):
            show(f"startup: {name}")
            found[name].append(run_command(kinds[name], folder))
    rows = []
    for name, usages in found.items():
        processor = [usage.processor for usage in usages]
        rows.append(Row("startup", "", "", None, name, "s", [usage.seconds for usage in usages], processor))
        rows.append(Row("startup", "", "", None, f"{name}, peak memory", "GB", [usage.peak for usage in usages]))
    return rows, notes


def measure_training(config: str, *, repeats: int, show: Callable[[str], None]) -> list[Row]:
    """Rows of a step that trains all layers with one image, in processes of their own, which take turns."""
    found: dict[str, list[dict]] = {precision: [] for precision in PRECISIONS}
    with tempfile.TemporaryDirectory() as folder:
        for _, precision in itertools.product(range(_ROUNDS), PRECISIONS):
            show(f"training: {config}, {precision}")
            arguments = ["--config", config, "--repeats", str(repeats), "--child", "1", "1", precision]
            run_command([str(_TRAIN), *arguments], folder)
            lines = (Path(folder) / "output.txt").read_text(encoding="utf-8").splitlines()
            found[precision].append(json.loads(lines[-1]))
    rows = []
    for precision, turns in found.items():
        name, seconds = f"tensorflow {precision}", [second for turn in turns for second in turn["seconds"]]
        rows.append(Row("training", config, name, None, "step of 1 image", "s", seconds))
        rows.append(Row("training", config, name, None, "peak memory", "GB", [turn["peak"] for turn in turns]))
    return rows


def measure_loader(
    configs: list[str], samples: str | None, *, repeats: int, size: int, show: Callable[[str], None]
) -> list[Row]:
    """Rows of training samples per processor second, from a COCO folder or from drawn scenes of `size` pixels."""
    with tempfile.TemporaryDirectory() as folder, Worker() as worker:
        if samples is None:
            show("loader: drawing scenes")
            write_coco(folder, **_DRAWN, size=size, progress=False)
        found: dict[str, list[float]] = {config: [] for config in configs}
        for _, config in itertools.product(range(repeats), configs):
            show(f"loader: {config}")
            found[config].append(worker.ask("samples", config=config, folder=str(samples or folder)))
    stage = "samples per processor second, " + (f"drawn scenes of {size} pixels" if samples is None else "--samples")
    return [Row("loader", config, "", None, stage, "1/s", rates) for config, rates in found.items()]
