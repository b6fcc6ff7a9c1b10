"""Kills: SIGKILL at random moments, then the command again; its result equals that of an undisturbed run.

Of two kills, the second one hits the run that follows the first: 20 kills take about as long as 20 undisturbed runs.
"""

import random
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .case import Ended
from .processes import Forked
from .recipes import Recipe, contents, differences, leftovers, work_folder

_LONGEST = 900  # seconds of a run
_NOTHING = "no run to resume"
_IN_A_ROW = 2  # kills, before a run is left to end


def kill_command(
    recipe: Recipe, root: Path, *, kills: int, seed: int, tell: Callable[[str], object] = print
) -> dict[str, Any]:
    """Kill a command `kills` times; counts, and the kills after which something was wrong.

    Each kill has a moment of its own within the time that an undisturbed run takes. The process alone is killed: what
    it started has to end by itself.
    """
    recipe.make_needs(root)
    folder = Path(tempfile.mkdtemp(prefix=f"kill-{recipe.name}-", dir=root))
    began = time.monotonic()
    whole = work_folder(recipe, root, folder / "whole")
    undisturbed = Forked(recipe.first(root, whole), whole, folder / "whole.log").wait(_LONGEST)
    if undisturbed.code:
        return _failed(recipe, seed, f"the undisturbed run: exit {undisturbed.code}: {undisturbed.errors[-300:]}")
    expected, length = contents(whole / recipe.out), undisturbed.seconds
    rng, wrong, effective = random.Random(f"{seed} {recipe.name}"), [], 0
    equal = 0
    for number in range(0, kills, _IN_A_ROW):
        moments = [rng.uniform(0.05, 1.0) * length for _ in range(min(_IN_A_ROW, kills - number))]
        work = work_folder(recipe, root, folder / f"kill{number}")
        killed, faults = _some_kills(recipe, root, work, folder / f"kill{number}.log", moments, expected)
        effective += killed
        shown = " and ".join(f"{moment:.2f}" for moment in moments)
        if faults:
            wrong.append({"kill": number + len(moments), "second": shown, "faults": faults})
        else:
            equal += len(moments)
        what = "; ".join(faults) or "equal"
        tell(f"{recipe.name}: {number + len(moments)} of {kills} kills, after {shown} of {length:.2f} s: {what}")
        shutil.rmtree(work, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)
    counts = {
        "kills": kills,
        "killed": effective,
        "equal": equal,
        "seconds": round(time.monotonic() - began),
    }
    return {"command": recipe.name, "seed": seed, "compared": recipe.compares, **counts, "wrong": wrong}


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


def _some_kills(
    recipe: Recipe, root: Path, work: Path, log: Path, moments: list[float], expected: dict[str, Any]
) -> tuple[int, list[str]]:
    """(how often it ran when it was killed, what was wrong)."""
    faults, killed = [], 0
    for number, moment in enumerate(moments):
        process, ended = _run(recipe, root, work, log, moment, is_first=not number)
        killed += ended is None
        if ended is not None and ended.code:
            return killed, [*faults, _failure(ended, "again" if number else "at first")]
        process.kill()
        if orphans := process.orphans():
            faults.append(f"{len(orphans)} orphans")
        if ended is not None:  # it was done before
            break
    else:
        process, ended = _run(recipe, root, work, log, _LONGEST, is_first=False)
    if ended is None or ended.code:
        process.kill()
        return killed, [*faults, _failure(ended, "again")]
    if different := differences(expected, contents(work / recipe.out)):
        faults.append(f"differs in {', '.join(different[:5])} ({len(different)} files)")
    if left := leftovers(work):
        faults.append(f"left {', '.join(left[:5])}")
    return killed, faults


def _run(
    recipe: Recipe, root: Path, work: Path, log: Path, seconds: float, *, is_first: bool
) -> tuple[Forked, Ended | None]:
    """(the process, how it ended in `seconds`; None if it runs). It begins anew if there is nothing to resume."""
    anew = recipe.first(root, work)
    for words in (anew,) if is_first else (recipe.second(root, work), anew):
        log.unlink(missing_ok=True)
        process = Forked(words, work, log)
        ended = process.within(seconds)
        if ended is None or not (ended.code == 2 and (not (work / recipe.out).exists() or _NOTHING in ended.errors)):
            break
    return process, ended


def _failure(ended: Ended | None, when: str) -> str:
    if ended is None:
        return f"{when}: still there after {_LONGEST} s"
    last = ended.errors.strip().splitlines()[-1:] or [""]
    return f"{when}: exit {ended.code}: {last[0][:300]}"
