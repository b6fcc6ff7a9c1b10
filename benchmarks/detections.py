"""Measures detections by stage, over runtimes, precisions and numbers of references, which take turns."""

import contextlib
import dataclasses
import importlib.util
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

from processes import Worker, run_command
from report import Row

from siamese_mrcnn_tf.config import CONFIGS

Rates: TypeAlias = dict[str, float]  # GFLOP of a matrix product by second ("seconds") and by "processor" second
REFERENCES = (1, 3, 8)
TOTAL = "all stages"
_MAX_OPEN = 4  # processes with a network at a time: each takes gigabytes
_SHORT = 2e-4  # seconds; stages that take less and have no counted operations are not listed
_PACKAGES = {"onnx": ("onnxruntime", "tf2onnx"), "openvino": ("openvino",)}  # of an exported network's runtime


@dataclasses.dataclass(frozen=True)
class Run:
    """What a process measures.

    Attributes:
        group: "detection" or "runtimes".
        runtime, precision: of the predictor.
        references: numbers of references to search with.
        exported: whether it is a RuntimePredictor over exported parts.
        verified: whether finds are verified.
    """

    group: str
    runtime: str = "tensorflow"
    precision: str = "float32"
    references: tuple[int, ...] = REFERENCES
    exported: bool = False
    verified: bool = False

    @property
    def name(self) -> str:
        words = ["exported"] * self.exported + [self.runtime, self.precision] + ["verified"] * self.verified
        return " ".join(words)

    @property
    def missing(self) -> list[str]:
        """Packages that are not installed."""
        packages = _PACKAGES.get(self.runtime, ()) if self.exported else _PACKAGES.get(self.runtime, ())[:1]
        return [package for package in packages if importlib.util.find_spec(package) is None]

    def opening(self) -> dict[str, Any]:
        """Arguments of the worker's task "open"."""
        names = ("runtime", "precision", "exported", "verified", "references")
        return {name: getattr(self, name) for name in names}


BASELINE = Run("detection")  # it takes turns with all others
RUNS = (
    Run("runtimes", precision="bfloat16"),
    *(Run("runtimes", "openvino", precision) for precision in ("float32", "bfloat16", "int8")),
    Run("detection", references=(1,), verified=True),
    *(Run("runtimes", runtime, references=(1,), exported=True) for runtime in ("onnx", "openvino")),
)


@dataclasses.dataclass
class Detections:
    """What was measured of a configuration."""

    rows: list[Row]
    gflop: dict[str, float]  # by part of the network
    notes: list[str]


def measure_detections(
    config: str,
    runs: Sequence[Run],
    *,
    repeats: int,
    side: int,
    show: Callable[[str], None],
) -> Detections:
    """Measure a configuration.

    Args:
        config: its name.
        runs: to measure, BASELINE first.
        repeats: number of measurements.
        side: of the matrix product that stages are compared with.
        show: takes a line about progress.

    Raises:
        RuntimeError: the network cannot be prepared, exported, or opened by BASELINE.
    """
    notes = [f"{run.name}: {', '.join(run.missing)} is not installed" for run in runs if run.missing]
    usable = [run for run in runs if not run.missing]
    with tempfile.TemporaryDirectory() as folder, Worker() as matrix:
        memory = matrix.ask("start")
        show(f"{config}: preparing")
        case = matrix.ask("prepare", config=config, folder=folder)
        formats = [run.runtime for run in usable if run.exported]
        if formats:
            show(f"{config}: exporting for {', '.join(formats)}")
            with Worker() as exporter:
                exporter.ask("export", config=config, folder=folder, formats=formats)
        if any(run.precision == "int8" for run in usable):
            show(f"{config}: quantizing")
            _quantize(config, folder, notes)
        found: dict[Run, list[dict[str, Any]]] = {run: [] for run in usable}
        peaks: dict[Run, float] = {}
        opening = {"config": config, "folder": folder, "threshold": case["threshold"]}
        for block in blocks(usable):
            with _opened(block, opening, notes, show) as workers:
                if peaks and len(workers) == 1:  # the others are missing
                    continue
                needed = {count for run in workers for count in run.references if run != BASELINE}
                counts = needed if peaks else REFERENCES
                for number in range(repeats):
                    for run, worker in workers.items():
                        show(f"{config}, {run.name}: repeat {number + 1} of {repeats}")
                        chosen = [count for count in run.references if count in counts]
                        found[run].append(_repeat(chosen, worker, lambda: matrix.ask("matrix", side=side)))
                for run, worker in workers.items():
                    peaks.setdefault(run, worker.ask("peak"))
    rows = [Row("detection", config, "", None, "import tensorflow", "GB", [memory])]
    rates = [rate["seconds"] for repeats_found in found.values() for one in repeats_found for rate in one["rates"]]
    rows.append(Row("detection", config, "tensorflow float32", None, "matrix product", "GFLOP/s", rates))
    for run, repeats_found in found.items():
        if repeats_found:
            rows += _rows(config, run, repeats_found, function_gflop(config, run, case["gflop"]))
            rows.append(Row(run.group, config, run.name, None, "peak memory", "GB", [peaks[run]]))
    return Detections(rows, case["parts"], [*notes, *_finds_notes(config, found)])


def blocks(runs: Sequence[Run]) -> Iterator[list[Run]]:
    """Runs that take turns: at most _MAX_OPEN, the first of all among them."""
    first, *others = runs
    for start in range(0, max(len(others), 1), _MAX_OPEN - 1):
        yield [first, *others[start : start + _MAX_OPEN - 1]]


def _quantize(config: str, folder: str, notes: list[str]) -> None:
    """Quantize the prepared network by the package's command; what fails is noted."""
    images = ["--image", "scene.png", "--reference", "reference.png"]
    try:
        run_command(
            ["-m", "siamese_mrcnn_tf", "quantize", "--model", "weights.h5", "--config", config, *images], folder
        )
    except RuntimeError as error:
        notes.append(f"{config}, quantize: {str(error).splitlines()[-1]}")


@contextlib.contextmanager
def _opened(
    runs: list[Run], opening: dict[str, Any], notes: list[str], show: Callable[[str], None]
) -> Iterator[dict[Run, Worker]]:
    """Workers with open predictors; those that cannot be opened are noted and left out."""
    with contextlib.ExitStack() as stack:
        workers = {run: stack.enter_context(Worker(opening["folder"])) for run in runs}
        for run, worker in workers.items():
            show(f"{opening['config']}, {run.name}: opening")
            worker.tell("open", **opening, **run.opening())
        usable = {}
        for run, worker in workers.items():
            try:
                missing = worker.answer()
            except RuntimeError as error:
                if run == BASELINE:
                    raise
                missing = str(error)
            if missing:
                notes.append(f"{opening['config']}, {run.name}: {missing}")
            else:
                usable[run] = worker
        yield usable


def _repeat(references: Sequence[int], worker: Worker, matrix_rates: Callable[[], Rates]) -> dict[str, Any]:
    """One measurement: stages by number of references (None: of the scene), with the matrix rates around each."""
    rates = [matrix_rates()]
    stages, finds = {None: worker.ask("scene")}, {}
    rates.append(matrix_rates())
    around = {None: mean_rates(rates)}
    for count in references:
        found = worker.ask("search", references=count)
        rates.append(matrix_rates())
        stages[count], finds[count], around[count] = found["stages"], found["finds"], mean_rates(rates[-2:])
    return {"stages": stages, "finds": finds, "around": around, "rates": rates}


def mean_rates(rates: Sequence[Rates]) -> Rates:
    """The mean of some matrix rates."""
    return {kind: statistics.mean(rate[kind] for rate in rates) for kind in rates[0]}


def function_gflop(config: str, run: Run, counted: dict[str, float]) -> dict[str, float]:
    """GFLOP of the functions of a run's predictor for one row of their input.

    An exported detector also computes the masks of DETECTION_MAX_INSTANCES rows.
    """
    if not run.exported:
        return counted
    masks = CONFIGS[config].DETECTION_MAX_INSTANCES * counted["_segment"]
    return {**counted, "_detect": counted["_detect"] + masks}


def _rows(config: str, run: Run, repeats: list[dict[str, Any]], gflop: dict[str, float]) -> list[Row]:
    """The rows of a run: the scene's stages, and for each number of references its stages and their sum."""
    rows = []
    for count in (None, *run.references):
        having = [one for one in repeats if count in one["stages"]]
        parts = [one["stages"][count] for one in having]
        rates = [one["around"][count] for one in having]
        for stage in parts[0]:
            counts = parts[0][stage]["rows"]
            operations = sum(gflop[function] * number for function, number in counts.items())
            seconds = [part[stage]["seconds"] for part in parts]
            if not operations and statistics.median(seconds) < _SHORT:
                continue
            processor = [part[stage]["processor"] for part in parts]
            rows.append(_timed(run, config, count, stage, seconds, processor, operations, rates))
        if count is not None:
            rows.append(_total(run, config, count, having, rows))
    return rows


def _total(run: Run, config: str, count: int, repeats: list[dict[str, Any]], rows: list[Row]) -> Row:
    """All stages of a detection with new scene and references; `rows` are those of its stages, among others."""
    together = [[*one["stages"][None].values(), *one["stages"][count].values()] for one in repeats]
    seconds, processor = ([sum(part[key] for part in parts) for parts in together] for key in ("seconds", "processor"))
    operations = sum(row.gflop or 0 for row in rows if row.references in (None, count) and row.stage != TOTAL)
    rates = [mean_rates((one["around"][None], one["around"][count])) for one in repeats]
    return _timed(run, config, count, TOTAL, seconds, processor, operations, rates)


def _timed(
    run: Run,
    config: str,
    count: int | None,
    stage: str,
    seconds: list[float],
    processor: list[float],
    operations: float,
    rates: list[Rates],
) -> Row:
    """A row with the shares of the matrix rates, by seconds and by processor seconds, if it has operations."""
    row = Row(run.group, config, run.name, count, stage, "s", seconds, processor)
    if not operations:
        return row
    shares, of_processor = (
        [operations / one / rate[kind] for one, rate in zip(taken, rates, strict=True)]
        for kind, taken in (("seconds", seconds), ("processor", processor))
    )
    return dataclasses.replace(row, gflop=operations, shares=shares, processor_shares=of_processor)


def _finds_notes(config: str, found: dict[Run, list[dict[str, Any]]]) -> list[str]:
    """How many detections the searches end with, which masks and verification depend on."""
    by_run = {run.name: repeats[0]["finds"] for run, repeats in found.items() if repeats}
    listed = [f"{name} {next(iter(finds.values()))[0]}" for name, finds in by_run.items()]
    return [f"{config}, detections of a reference: {', '.join(listed)}"] if listed else []
