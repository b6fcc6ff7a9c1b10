"""Load: thousands of detections and training steps; the slope of the memory, fitted with its error."""

import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from . import base
from .processes import Forked

# Left out. Buffers of TensorFlow's threads grow over some thousand detections in jumps of 0.6 MB, and then no more.
WARM_UP = {"detections": 5000, "steps": 500}
_CODE = 75


def resident(pid: int) -> float:
    """Resident memory of a process in MB."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def slope(counts: Sequence[float], sizes: Sequence[float]) -> tuple[float, float]:
    """(MB per 1,000, its standard error) of a line through the memory.

    Neighbouring samples are alike, so that the error is that of a line through the means of ten blocks.

    Raises:
        ValueError: less than three samples.
    """
    if len(counts) < 3:
        raise ValueError(f"{len(counts)} samples of the memory, expected 3 or more")
    x = np.asarray(counts, float) / 1000
    y = np.asarray(sizes, float)
    blocks = np.array_split(np.arange(len(x)), min(10, len(x)))
    x, y = (np.array([values[block].mean() for block in blocks]) for values in (x, y))
    centered = x - x.mean()
    gradient = float((centered * y).sum() / (centered**2).sum())
    rest = y - y.mean() - gradient * centered
    error = float(np.sqrt((rest**2).sum() / (len(x) - 2) / (centered**2).sum()))
    return gradient, error


def is_flat(gradient: float, error: float) -> bool:
    """Whether a slope is 0 within its error, or below what would matter: 0.1 MB per 1,000."""
    return gradient <= max(3 * error, 0.1)


def _result(what: str, number: int, counts: list[float], sizes: list[float], began: float) -> dict[str, Any]:
    gradient, error = slope(counts, sizes)
    return {
        "what": what,
        "number": number,
        "first_mb": round(sizes[0], 1),
        "last_mb": round(sizes[-1], 1),
        "slope": round(gradient, 4),
        "error": round(error, 4),
        "is_flat": is_flat(gradient, error),
        "seconds": round(time.monotonic() - began),
    }


def detections(root: Path, number: int, tell: Callable[[str], object] = print) -> dict[str, Any]:
    """Memory over `number` detections of the smallest network after a warm-up, a new scene for every tenth."""
    base.make("micro.h5", root), base.make("micro.json", root)
    folder, began = Path(tempfile.mkdtemp(prefix="load-", dir=root)), time.monotonic()
    pid = os.fork()
    if not pid:
        code = _CODE
        try:
            _detect(root, folder / "samples", number)
            code = 0
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code:
        raise RuntimeError(f"{number} detections: exit {code}")
    counts, sizes = np.loadtxt(folder / "samples").T.tolist()
    shutil.rmtree(folder)
    found = _result("detections", number, counts, sizes, began)
    tell(f"detections: {found}")
    return found


def _detect(root: Path, path: Path, number: int) -> None:
    from siamese_mrcnn_tf.config import load_config
    from siamese_mrcnn_tf.predictor import SiamesePredictor

    predictor = SiamesePredictor(load_config(root / "base" / "micro.json"), weights=root / "base" / "micro.h5")
    rng = np.random.default_rng(0)
    crop = rng.integers(0, 256, (20, 20, 3), dtype=np.uint8)
    with open(path, "w") as file:
        for index in range(-WARM_UP["detections"], number):
            if index % 10 == 0:
                predictor.set_image(rng.integers(0, 256, (60, 64, 3), dtype=np.uint8))
            predictor.detect(crop)
            if index >= 0 and index % max(number // 200, 1) == 0:
                file.write(f"{index} {resident(os.getpid())}\n")


def steps(root: Path, number: int, tell: Callable[[str], object] = print) -> dict[str, Any]:
    """Memory over `number` training steps of the smallest network after a warm-up: `train` is watched from outside."""
    base.make("set", root), base.make("micro.json", root)
    folder, began = Path(tempfile.mkdtemp(prefix="load-", dir=root)), time.monotonic()
    before = WARM_UP["steps"]
    words = [
        "train",
        "--dataset",
        root / "base" / "set",
        "--config",
        root / "base" / "micro.json",
        "--model",
        "untrained",
    ]
    words += ["--stages", "shapes", "--epochs", "1", "--steps", number + before, "--val-images", "0", "--batch", "2"]
    words += ["--workers", "1", "--save-every", 30, "--logs", folder / "logs"]
    process = Forked([str(word) for word in words], folder, folder / "log")
    counts, sizes = [], []
    while process.poll() is None:
        done = _steps_done(folder / "log")
        if done >= before and (not counts or done > counts[-1]):
            counts.append(done), sizes.append(resident(process.pid))
        time.sleep(0.2)
    ended = process.poll()
    if ended is None or ended.code:
        raise RuntimeError(f"{number} steps: exit {ended and ended.code}: {ended and ended.errors[-300:]}")
    shutil.rmtree(folder)
    found = _result("training steps", number, counts, sizes, began)
    tell(f"steps: {found}")
    return found


def _steps_done(log: Path) -> int:
    """The step that the progress bar of `train` shows last."""
    if not log.exists():
        return 0
    with open(log, "rb") as file:
        file.seek(max(log.stat().st_size - 2000, 0))
        found = re.findall(rb"\| (\d+)/\d+ \[", file.read())
    return int(found[-1]) if found else 0
