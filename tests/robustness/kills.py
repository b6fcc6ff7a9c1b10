"""Kills: SIGKILL at random moments, then the command again; its result equals that of an undisturbed run."""

import random
import shlex
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import base
from .processes import Forked
from .recipes import Recipe, contents, differences, leftovers

_LONGEST = 900  # seconds of a run


def kill_command(
    recipe: Recipe, root: Path, *, kills: int, seed: int, tell: Callable[[str], object] = print
) -> dict[str, Any]:
    """Kill a command `kills` times; counts, and the kills after which something was wrong.

    Each kill has a moment of its own within the time that an undisturbed run takes. The process alone is killed: what
    it started has to end by itself.
    """
    for need in recipe.needs:
        base.make(need, root)
    folder = Path(tempfile.mkdtemp(prefix=f"kill-{recipe.name}-", dir=root))
    began = time.monotonic()
    whole = _work(folder, "whole")
    undisturbed = Forked(recipe.first(root, whole), whole, folder / "whole.log").wait(_LONGEST)
    if undisturbed.code:
        return _failed(recipe, seed, f"the undisturbed run: exit {undisturbed.code}: {undisturbed.errors[-300:]}")
    expected, length = contents(whole / recipe.out), undisturbed.seconds
    rng, wrong, effective = random.Random(f"{seed} {recipe.name}"), [], 0
    for number in range(kills):
        moment = rng.uniform(0.05, 1.0) * length
        work = _work(folder, f"kill{number}")
        is_killed, faults = _one_kill(recipe, root, work, folder / f"kill{number}.log", moment, expected)
        effective += is_killed
        if faults:
            wrong.append({"kill": number, "second": round(moment, 3), "of": round(length, 3), "faults": faults})
        what = "; ".join(faults) or "equal"
        tell(f"{recipe.name}: kill {number + 1}/{kills} after {moment:.2f} of {length:.2f} s: {what}")
        shutil.rmtree(work, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)
    counts = {
        "kills": kills,
        "killed": effective,
        "equal": kills - len(wrong),
        "seconds": round(time.monotonic() - began),
    }
    return {"command": recipe.name, "seed": seed, "compared": recipe.compares, **counts, "wrong": wrong}


def _work(folder: Path, name: str) -> Path:
    work = folder / name
    work.mkdir()
    return work


def _failed(recipe: Recipe, seed: int, text: str) -> dict[str, Any]:
    wrong = [{"kill": None, "faults": [text]}]
    return {
        "command": recipe.name,
        "seed": seed,
        "compared": recipe.compares,
        "kills": 0,
        "killed": 0,
        "equal": 0,
        "seconds": 0,
        "wrong": wrong,
    }


def _one_kill(
    recipe: Recipe, root: Path, work: Path, log: Path, moment: float, expected: dict[str, Any]
) -> tuple[bool, list[str]]:
    """(whether it ran when it was killed, what was wrong)."""
    faults = []
    process = Forked(recipe.first(root, work), work, log)
    time.sleep(moment)
    is_killed = process.poll() is None
    process.kill()
    if orphans := process.orphans():
        faults.append(f"{len(orphans)} orphans")
    for words in (recipe.second(root, work), recipe.first(root, work)):
        log.unlink(missing_ok=True)
        again = Forked(words, work, log).wait(_LONGEST)
        begun_anew = again.code == 2 and not (work / recipe.out).exists() or "no run to resume" in again.errors
        if not begun_anew:  # killed before it wrote anything: there is nothing to resume
            break
    if again.code:
        last = again.errors.strip().splitlines()[-1:] or [""]
        return is_killed, [*faults, f"{shlex.join(words[:1])} again: exit {again.code}: {last[0][:300]}"]
    if different := differences(expected, contents(work / recipe.out)):
        faults.append(f"differs in {', '.join(different[:5])} ({len(different)} files)")
    if left := leftovers(work):
        faults.append(f"left {', '.join(left[:5])}")
    return is_killed, faults
