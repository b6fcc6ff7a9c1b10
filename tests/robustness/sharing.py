"""Two processes and one output: the second is told at once who holds it, and the first ends as if it were alone."""

import contextlib
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .processes import Forked
from .recipes import Recipe, contents, differences, leftovers, work_folder

_LONGEST = 900
_MOMENT = 0.05  # seconds
_AT_ONCE = 60  # seconds: of a start under load, not of a wait for the other


def share(recipe: Recipe, root: Path) -> dict[str, Any]:
    """Start a command twice into one output, the second while the first writes."""
    recipe.make_needs(root)
    folder = Path(tempfile.mkdtemp(prefix=f"share-{recipe.name}-", dir=root))
    for name in ("alone", "both"):
        work_folder(recipe, root, folder / name)
    alone = Forked(recipe.first(root, folder / "alone"), folder / "alone", folder / "alone.log").wait(_LONGEST)
    first = Forked(recipe.first(root, folder / "both"), folder / "both", folder / "first.log")
    _until_it_writes(first, folder / "both", alone.seconds, len(recipe.copies))
    time.sleep(_MOMENT)  # in which it writes its name into the lock
    is_writing = first.poll() is None
    with _paused(first.pid):  # a short command would end before the second one looks
        second = Forked(recipe.second(root, folder / "both"), folder / "both", folder / "second.log")
        ended = second.wait(_AT_ONCE)
    faults = []
    last = (ended.errors.strip().splitlines() or [""])[-1]
    if not is_writing:
        faults.append("the first had ended before it was seen to write: nothing was shown")
    elif ended.is_late:
        faults.append(f"the second was still there after {_AT_ONCE} s")
    elif ended.code != 2:
        faults.append(f"the second: exit {ended.code}: {last[:200]}")
    elif str(first.pid) not in ended.errors:
        faults.append(f"the second does not name process {first.pid}: {last[:200]}")
    whole = first.wait(_LONGEST)
    if whole.code or alone.code:
        faults.append(f"the first: exit {whole.code}: {(whole.errors.strip().splitlines() or [''])[-1][:200]}")
    elif different := differences(contents(folder / "alone" / recipe.out), contents(folder / "both" / recipe.out)):
        faults.append(f"the first differs from one alone in {', '.join(different[:5])}")
    if left := leftovers(folder / "both"):
        faults.append(f"left {', '.join(left[:5])}")
    shutil.rmtree(folder, ignore_errors=True)
    said, *faults = (text.replace(str(folder), "FOLDER") for text in (last[:300], *faults))
    return {"command": recipe.name, "said": said, "seconds": round(ended.seconds, 1), "wrong": faults}


@contextlib.contextmanager
def _paused(pid: int) -> Iterator[None]:
    """Stop a process while the block runs."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def _until_it_writes(process: Forked, work: Path, length: float, given: int) -> None:
    """Wait until a command has made something besides what was given, at most as long as it takes."""
    end = time.monotonic() + length
    while process.poll() is None and len(list(work.iterdir())) == given and time.monotonic() < end:
        time.sleep(0.002)
