"""One table of what detections, commands, training and the loader take on this machine.

    python benchmarks/bench.py --json now.json                    # all; idle machine, tens of minutes
    python benchmarks/bench.py --config small --only detection    # stages of a detection
    python benchmarks/bench.py --compare before.json              # a last column: this run divided by an earlier one

Stages of a detection are compared with the rate of a large matrix product, measured between them in the same run. Each
runtime and precision has a process of its own; those that are compared take turns. Values are medians.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(1, str(Path(__file__).resolve().parents[1]))

import report
from commands import measure_loader, measure_startup, measure_training
from detections import BASELINE, RUNS, Run, measure_detections

from siamese_mrcnn_tf.config import CONFIGS

GROUPS = ("detection", "runtimes", "startup", "training", "loader")
_SIDE, _QUICK_SIDE = 3072, 512  # of the matrix product
_SIZE, _QUICK_SIZE = 640, 160  # pixels of the loader's scenes, by default as large as COCO's
_STARTS = 3  # at most: repeats of whole commands


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    try:
        former = report.Benchmark.read(options.compare) if options.compare else None
    except (ValueError, OSError) as error:
        sys.exit(f"bench.py: error: {error}")
    machine = report.machine()
    settings = {"config": options.config, "only": options.only, "repeats": options.repeats, "quick": options.quick}
    found = report.Benchmark(machine, report.versions(), report.today(), settings, {}, [], [])
    failed = measure(options, found)
    print(found.text(former, Path(options.compare).name if options.compare else ""))
    return int(failed)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The options; --quick replaces the defaults of some."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--config", nargs="+", choices=sorted(CONFIGS), help="configurations (default small large)")
    add("--only", nargs="+", choices=GROUPS, help="measure these alone")
    add("--repeats", type=int, metavar="N", help="measurements, whose median is shown (default 5)")
    add("--samples", metavar="DIR", help="data set in COCO's layout for the loader (default: drawn scenes)")
    add("--json", metavar="FILE", help="also write all values, after each group of rows")
    add("--compare", metavar="FILE", help="add a column: values divided by those of an earlier --json")
    add("--quick", action="store_true", help="detection and loader of the tiny network, once")
    options = parser.parse_args(arguments)
    defaults = (["tiny"], ["detection", "loader"], 1) if options.quick else (["small", "large"], list(GROUPS), 5)
    for name, default in zip(("config", "only", "repeats"), defaults, strict=True):
        if getattr(options, name) is None:
            setattr(options, name, default)
    if options.repeats < 1:
        parser.error(f"--repeats {options.repeats}: expected 1 or more")
    return options


def measure(options: argparse.Namespace, into: report.Benchmark) -> bool:
    """Measure into rows, GFLOP and notes of a benchmark, and write it after each group; whether one failed."""
    rows, gflop, notes = into.rows, into.gflop, into.notes
    failed = []

    def attempt(name: str, function: Callable[[], None]) -> None:
        try:
            function()
        except RuntimeError as error:
            failed.append(name)
            notes.append(f"{name}: failed: {error}")
        if options.json:  # a run that is stopped later keeps what it has measured
            into.write(options.json)

    def detections(config: str) -> None:
        side = _QUICK_SIDE if options.quick else _SIDE
        found = measure_detections(config, chosen_runs(options), repeats=options.repeats, side=side, show=show)
        rows.extend(found.rows)
        notes.extend(found.notes)
        gflop[config] = found.gflop

    def startup() -> None:
        found, missing = measure_startup(repeats=min(options.repeats, _STARTS), show=show)
        rows.extend(found)
        notes.extend(missing)

    def training(config: str) -> None:
        rows.extend(measure_training(config, repeats=options.repeats, show=show))

    def loader() -> None:
        size = _QUICK_SIZE if options.quick else _SIZE
        rows.extend(measure_loader(options.config, options.samples, repeats=options.repeats, size=size, show=show))

    for config in options.config if {"detection", "runtimes"} & set(options.only) else ():
        attempt(f"detection, {config}", lambda config=config: detections(config))
    if "startup" in options.only:
        attempt("startup", startup)
    for config in options.config if "training" in options.only else ():
        attempt(f"training, {config}", lambda config=config: training(config))
    if "loader" in options.only:
        attempt("loader", loader)
    return bool(failed)


def chosen_runs(options: argparse.Namespace) -> list[Run]:
    """BASELINE, and the runs of the chosen groups; with --quick, BASELINE alone."""
    return [BASELINE, *(run for run in RUNS if run.group in options.only and not options.quick)]


def show(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
