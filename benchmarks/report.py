"""Rows of a benchmark, their table, the machine that they were measured on, and comparison with earlier ones."""

import dataclasses
import datetime
import importlib.metadata
import os
import platform
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

from siamese_mrcnn_tf.io.files import read_json, write_json

FORMAT = 1  # of the JSON file
PACKAGES = ("tensorflow", "keras", "numpy", "openvino", "onnxruntime", "siamese-mrcnn-tf")
# of a processor
FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16", "amx_int8")
HEADER = (
    *("group", "configuration", "runtime", "references", "stage", "measured", "processor, s", "GFLOP"),
    *("share", "share of processor time"),
)
SHARE_NOTE = (
    "share: operations per second, divided by those of TensorFlow's float32 matrix product, measured between the "
    "stages of the same run; the second share is by processor seconds, which depend less on other programs. Large 3x3 "
    "convolutions are computed by Winograd's method with fewer products than are counted, and bfloat16 has faster "
    "products, so that a share can be above 100%."
)


@dataclasses.dataclass(frozen=True)
class Row:
    """One measured thing; the table shows medians.

    Attributes:
        group: of bench.GROUPS.
        configuration, runtime: names; the runtime includes its precision.
        references: number of references, where it matters.
        stage: what is measured.
        unit: "s", "GB", "GFLOP/s" or "1/s".
        values: of all repeats, in `unit`.
        processor: processor seconds of all repeats.
        gflop: operations of the stage.
        shares, processor_shares: of the matrix rate by second and by processor second, for all repeats.
    """

    group: str
    configuration: str
    runtime: str
    references: int | None
    stage: str
    unit: str
    values: list[float]
    processor: list[float] | None = None
    gflop: float | None = None
    shares: list[float] | None = None
    processor_shares: list[float] | None = None

    @property
    def key(self) -> tuple:
        """What rows of two runs have in common if they measure the same."""
        return self.group, self.configuration, self.runtime, self.references, self.stage, self.unit

    def cells(self) -> list[str]:
        """The columns of HEADER."""
        return [
            self.group,
            self.configuration or "-",
            self.runtime or "-",
            "-" if self.references is None else str(self.references),
            self.stage,
            f"{number(statistics.median(self.values))} {self.unit}",
            number(statistics.median(self.processor)) if self.processor else "-",
            number(self.gflop) if self.gflop else "-",
            _percentage(self.shares),
            _percentage(self.processor_shares),
        ]


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """All that a run of bench.py found."""

    machine: dict[str, Any]
    versions: dict[str, str]
    date: str
    options: dict[str, Any]
    gflop: dict[str, dict[str, float]]  # by configuration and part of the network
    notes: list[str]
    rows: list[Row]

    def write(self, path: str | Path) -> None:
        """Write a JSON file, atomically."""
        write_json(path, {"format": FORMAT, **dataclasses.asdict(self)}, indent=1)

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """What `write` wrote.

        Raises:
            ValueError: another file.
        """
        content = read_json(path)
        if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
            raise ValueError(f"{path}: not a file that bench.py --json writes")
        try:
            return cls(**{**content, "rows": [Row(**row) for row in content["rows"]]})
        except (KeyError, TypeError) as error:
            raise ValueError(f"{path}: {error}") from error

    def text(self, former: Self | None = None, name: str = "") -> str:
        """The table in Markdown, with what is needed to read it; `former`: another run, called `name`."""
        machine = f"{self.machine['processor']}, {self.machine['cores']} cores, {' '.join(self.machine['flags'])}"
        about = [machine, f"{self.date}, " + ", ".join(f"{key} {value}" for key, value in self.versions.items())]
        about.append(f"load before: {self.machine['load']:.1f}")
        notes = [SHARE_NOTE, *self.notes]
        if former:
            notes += [f"of {name}: seconds or other values, divided by those there"]
            changed = [key for key in ("processor", "cores", "flags") if self.machine[key] != former.machine[key]]
            notes += [f"{name} is of another machine: {former.machine['processor']}"] if changed else []
        for configuration, parts in self.gflop.items():
            listed = ", ".join(f"{part} {number(count)}" for part, count in parts.items())
            notes.append(f"{configuration}, GFLOP with one reference; of the mask head, for one detection: {listed}")
        return "\n\n".join(["\n".join(about), table(self.rows, former, name), "\n".join(f"- {note}" for note in notes)])


def table(rows: Iterable[Row], former: Benchmark | None = None, name: str = "") -> str:
    """Rows as a table in Markdown; with a former run, a last column has this run's median divided by that one's."""
    lines = [row.cells() for row in rows]
    header = list(HEADER)
    if former:
        header.append(f"of {name}")
        before = {row.key: statistics.median(row.values) for row in former.rows}
        for row, line in zip(rows, lines, strict=True):
            known = before.get(row.key)
            line.append(f"{statistics.median(row.values) / known:.2f}" if known else "-")
    return "\n".join(_line(cells) for cells in [header, ["---"] * len(header), *lines])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _percentage(shares: list[float] | None) -> str:
    return f"{statistics.median(shares):.0%}" if shares else "-"


def number(value: float) -> str:
    """Three digits, as far as they are behind the point."""
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
    return f"{value:.{digits}f}" if abs(value) >= 0.01 or not value else f"{value:.4f}"


def machine() -> dict[str, Any]:
    """The processor's name, the cores that this process may use, FLAGS, memory in GB, load average of a minute."""
    known = _cpu_info()
    pages = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": known.get("model name") or platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "flags": [flag for flag in FLAGS if flag in known.get("flags", "").split()],
        "memory": round(pages / 1e9, 1),
        "load": os.getloadavg()[0],
    }


def _cpu_info() -> dict[str, str]:
    """What the system says about its first core; empty where it has no such file."""
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return {}
    first = path.read_text(encoding="utf-8").split("\n\n")[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def versions() -> dict[str, str]:
    """Of Python and of PACKAGES, as far as they are installed."""
    found = {"Python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def today() -> str:
    return datetime.date.today().isoformat()
