"""The program: `python -m robustness [PART ...]`, with `tests` on PYTHONPATH; `make robustness` runs it.

Parts: corpus, kills, disk, sharing, fuzz, load. The results of each are kept in docs/reliability.json, and the page
docs/reliability.md is written from them; a run of some parts leaves the others as they were measured.
"""

import argparse
import contextlib
import json
import secrets
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PARTS = ("corpus", "kills", "disk", "sharing", "fuzz", "load")
ROOT = Path(__file__).resolve().parents[2]
_SHORT_READERS = ("annotations", "settings", "thresholds", "embeddings", "via2", "png images")
_SHORT_EVERY = 40  # of the cases that need no network, one of so many is in the short part


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="robustness", description=__doc__)
    add = parser.add_argument
    add("parts", nargs="*", metavar="PART", help=f"some of {', '.join(PARTS)} (default all)")
    add("--only", nargs="+", default=[], metavar="WORD", help="cases with one of these words in their name")
    add("--every", type=int, default=1, metavar="N", help="every N-th case (default 1); the page is not written then")
    add("--commands", nargs="+", default=[], metavar="NAME", help="commands to kill, to fill disks with, to share")
    add("--kills", type=int, default=20, metavar="N", help="kills of a command (default 20)")
    add("--seconds", type=float, default=40, metavar="S", help="fuzzing of a reader (default 40)")
    add("--detections", type=int, default=10_000, metavar="N", help="default 10000")
    add("--steps", type=int, default=5_000, metavar="N", help="default 5000")
    add("--workers", type=int, default=2, metavar="N", help="cases at a time (default 2)")
    add("--seed", type=int, help="of kills and fuzzing (default: a new one, which is printed)")
    add("--work", metavar="DIR", help="folder of good inputs, kept for the next run (default: a temporary one)")
    add("--short", action="store_true", help="the part of `make test`: under a minute, without the network")
    add("--json", metavar="FILE", help="write the results there, and no page")
    options = parser.parse_args(arguments)
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"{', '.join(sorted(unknown))}: expected some of {', '.join(PARTS)}")
    options.parts = options.parts or list(PARTS)
    options.seed = secrets.randbelow(10**6) if options.seed is None else options.seed
    if options.short:
        options.parts, options.commands, options.kills, options.seconds = (
            ["corpus", "kills", "sharing", "fuzz"],
            ["shapes"],
            1,
            0.5,
        )
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run parts; 1 if any shows a fault."""
    options = parse(arguments)
    from . import report, runner

    say(f"seed {options.seed}")
    runner.import_package()
    results, began = {}, time.monotonic()
    with _work_folder(options.work) as folder:
        for part in options.parts:
            say(f"---- {part}")
            before = time.monotonic()
            rows = _RUN[part](options, Path(folder))
            results[part] = {"rows": rows, "seed": options.seed, "seconds": round(time.monotonic() - before)}
            results[part] |= {"date": time.strftime("%Y-%m-%d"), "machine": report.machine()}
    faults = report.faults(results)
    is_whole = options.every == 1 and not (options.only or options.commands or options.short)
    if options.json:
        Path(options.json).write_text(json.dumps(results, indent=1), encoding="utf-8", errors="replace")
    elif is_whole:
        report.write(ROOT / "docs", results)
        say("written: docs/reliability.md")
    say(f"{round(time.monotonic() - began)} s, {len(faults)} faults")
    for fault in faults:
        say(f"  {fault}")
    return 1 if faults else 0


def _work_folder(given: str | None) -> contextlib.AbstractContextManager[str]:
    if given is None:
        return tempfile.TemporaryDirectory(prefix="robustness-", ignore_cleanup_errors=True)
    Path(given).mkdir(parents=True, exist_ok=True)
    return contextlib.nullcontext(str(Path(given).absolute()))


def say(text: str) -> None:
    """Print a line of progress at once; what is no text is escaped."""
    print(text.encode("utf-8", "backslashreplace").decode("utf-8"), flush=True)


def run_corpus(options: argparse.Namespace, root: Path) -> dict[str, Any]:
    """The counts of each family, and what was wrong."""
    from . import corpus, runner
    from .case import OUTCOMES, Outcome

    cases = corpus.all_cases(tuple(options.only))[:: options.every]
    if options.short:
        cases = [case for case in cases if set(case.needs) <= {"set", "scene.png", "crop.png"}][::_SHORT_EVERY]
    done = 0

    def tell(outcome: Outcome) -> None:
        nonlocal done
        done += 1
        if not outcome.is_good:
            say(f"{outcome.kind}: {outcome.name}: {outcome.text}")
        elif done % 200 == 0:
            say(f"{done} of {len(cases)}")

    outcomes = runner.run_cases(cases, root, workers=options.workers, on_outcome=tell)
    families: dict[str, dict[str, Any]] = {}
    for one in outcomes:
        counts = families.setdefault(one.family, dict.fromkeys(("tried", *OUTCOMES), 0) | {"seconds": 0.0})
        counts["tried"] += 1
        counts[one.kind] += 1
        counts["seconds"] = round(counts["seconds"] + one.seconds, 1)
    wrong = [f"{one.kind}: {one.name}: {one.text}" for one in outcomes if not one.is_good]
    return {"families": families, "wrong": wrong}


def run_kills(options: argparse.Namespace, root: Path) -> list[dict[str, Any]]:
    """Counts of each command."""
    from . import kills, recipes

    how: dict[str, Any] = {"kills": options.kills, "seed": options.seed, "tell": say}
    return [kills.kill_command(recipe, root, **how) for recipe in recipes.by_name(tuple(options.commands))]


def run_disk(options: argparse.Namespace, root: Path) -> dict[str, Any]:
    """Counts of each command, or why there are none."""
    from . import disk, recipes

    reason = disk.why_not()
    rows = []
    for recipe in [] if reason else recipes.by_name(tuple(options.commands)):
        rows.append(disk.fill(recipe, root))
        say(f"{rows[-1]}")
    return {"skipped": reason, "commands": rows}


def run_sharing(options: argparse.Namespace, root: Path) -> list[dict[str, Any]]:
    """What the second process of each command said, and what was wrong."""
    from . import recipes, sharing

    rows = []
    for recipe in recipes.by_name(tuple(options.commands)):
        rows.append(sharing.share(recipe, root))
        say(f"{rows[-1]}")
    return rows


def run_fuzz(options: argparse.Namespace, root: Path) -> list[dict[str, Any]]:
    """Inputs, seconds and findings of each reader."""
    from . import fuzz

    rows = []
    for target in fuzz.targets():
        if options.short and target.name not in _SHORT_READERS:
            continue
        rows.append(fuzz.fuzz(target, root, options.seconds, options.seed))
        say(f"{rows[-1]}")
    return rows


def run_load(options: argparse.Namespace, root: Path) -> list[dict[str, Any]]:
    """Slopes of the memory."""
    from . import load

    return [load.detections(root, options.detections, say), load.steps(root, options.steps, say)]


_RUN = {
    "corpus": run_corpus,
    "kills": run_kills,
    "disk": run_disk,
    "sharing": run_sharing,
    "fuzz": run_fuzz,
    "load": run_load,
}

if __name__ == "__main__":
    sys.exit(main())
