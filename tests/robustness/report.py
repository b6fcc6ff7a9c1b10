"""The page docs/reliability.md, written from the results in docs/reliability.json."""

import csv
import json
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

from .case import OUTCOMES

_LIBRARIES = ("tensorflow", "keras", "numpy", "h5py", "pillow", "pycocotools", "hypothesis")
_INTRO = """# Reliability

How the commands behave when something goes wrong: inputs that are broken or built to break them, kills, full disks, two
processes at one output, and long runs. `make robustness` makes every input, runs all of it and writes this page; the
numbers of a table are of the run that is named above it. `make robustness PARTS="corpus kills"` runs some parts and
leaves the tables of the others. A short part of it is in `make test`.
"""
_PARTS = {
    "corpus": (
        "## Inputs that should break a command",
        """Each case is a command line with its inputs, made by code in `tests/robustness/corpus`, and what has to come
of it: it works, or it ends with exit code 2 (1 for what `check` finds, and for images that `predict` skips) and a
message that names the file and the place. *Misleading* is a message without them, or another exit code; *refused* an
error for what should work; *left files* an error that left something in the folder; *silent* exit code 0 where an
error is due, or a wrong result.""",
    ),
    "kills": (
        "## Kills",
        """SIGKILL at random moments of a run, to the process alone; then the command again, with `--resume` where it
has it. *Equal*: the result is that of an undisturbed run, no process that the killed one had started lived on for 5
seconds, and no temporary or lock file is left.""",
    ),
    "disk": (
        "## Full disks",
        """Each command writes to a file system in memory that is smaller than its result. It has to end with exit code
2 and a message with a path on that file system, without a signal.""",
    ),
    "sharing": (
        "## Two processes, one output",
        """The command is started again into the output of one that is writing. The second has to end with exit code 2
and name the process that holds the output; the result of the first has to be that of one alone.""",
    ),
    "fuzz": (
        "## Fuzzing of readers",
        """Valid files with values and bytes changed by hypothesis, in forked processes. Only `InputError` may come out;
a signal, or a round of more than 90 seconds, is a finding, too.""",
    ),
    "load": (
        "## Load",
        """Resident memory of one process of the smallest network over its work, after a warm-up of 5,000 detections or
500 steps, in which the buffers of TensorFlow's threads reach their size. The slope is of a line through the means of
ten blocks, with its standard error; *flat* is within three of these, or below 0.1 MB per 1,000.""",
    ),
}

_MENDED = """## Found and mended

The suite began after 1,170 attempts: 697 ended with a clear error and 271 worked; 100 messages were misleading
or without file and key; there were 70 tracebacks, 7 deaths, 5 hangs and 20 wrong results without a word. What they had
in common was mended and became cases of this suite."""


def machine() -> str:
    """The machine in general words."""
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in _LIBRARIES)
    return f"{os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}, {versions}"


def write(folder: Path, results: dict[str, Any]) -> None:
    """Store the results of parts beside those of the others, and write the page of all."""
    path = folder / "reliability.json"
    stored = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    stored = {part: {**stored, **results}[part] for part in _PARTS if part in {**stored, **results}}
    text = json.dumps(stored, indent=1, ensure_ascii=True)
    path.write_text(text + "\n", encoding="utf-8")
    (folder / "reliability.md").write_text(page(json.loads(text)), encoding="utf-8", errors="backslashreplace")


def page(results: dict[str, Any]) -> str:
    """The page."""
    sections = [_INTRO]
    for part, result in results.items():
        title, text = _PARTS[part]
        how = f"Measured on {result['date']}, seed {result['seed']}, in {result['seconds']} s, on {result['machine']}."
        sections.append(f"{title}\n\n{text}\n\n{how}\n\n{_TABLES[part](result)}\n")
    sections.append(f"{_MENDED}\n\n{_mended()}\n")
    return "\n".join(sections)


def _mended() -> str:
    """The table of what was found before, from mended.csv."""
    with open(Path(__file__).with_name("mended.csv"), encoding="utf-8", newline="") as file:
        rows = [(row["found"], row["now"], f"`make robustness {row['again']}`") for row in csv.DictReader(file)]
    return table(("found", "now", "again"), rows)


def _corpus(result: dict[str, Any]) -> str:
    families = result["rows"]["families"]
    heads = ("family", "tried", *OUTCOMES)
    rows = [
        (name, *(counts[head] for head in heads[1:]), _again("corpus", "only", f"{name}/"))
        for name, counts in families.items()
    ]
    total = ("all", *(sum(counts[head] for counts in families.values()) for head in heads[1:]), _again("corpus"))
    wrong = result["rows"]["wrong"]
    return table((*heads, "again"), [*rows, total]) + _listed("What was wrong:", wrong)


def _kills(result: dict[str, Any]) -> str:
    heads = ("command", "kills", "while it ran", "equal", "compared", "again")
    seed = result["seed"]
    rows = [
        (
            one["command"],
            one["kills"],
            one["killed"],
            one["equal"],
            one["compared"],
            _again("kills", "commands", one["command"], seed),
        )
        for one in result["rows"]
    ]
    wrong = [
        f"{one['command']}, kill {kill['kill']}: {'; '.join(kill['faults'])}"
        for one in result["rows"]
        for kill in one["wrong"]
    ]
    from .recipes import NOT_KILLED

    notes = [f"`{name}`: {why}" for name, why in NOT_KILLED.items()]
    return table(heads, rows) + _listed("What was wrong:", wrong) + _listed("Not killed on their own:", notes)


def _disk(result: dict[str, Any]) -> str:
    if result["rows"]["skipped"]:
        return f"Skipped: {result['rows']['skipped']}."
    rows = [
        (one["command"], one["disks"], one["disks"] - len(one["wrong"]), _again("disk", "commands", one["command"]))
        for one in result["rows"]["commands"]
    ]
    wrong = [f"{one['command']}: {text}" for one in result["rows"]["commands"] for text in one["wrong"]]
    return table(("command", "disks", "clear error", "again"), rows) + _listed("What was wrong:", wrong)


def _sharing(result: dict[str, Any]) -> str:
    rows = [
        (one["command"], "no" if one["wrong"] else "yes", one["seconds"], _again("sharing", "commands", one["command"]))
        for one in result["rows"]
    ]
    wrong = [f"{one['command']}: {text}" for one in result["rows"] for text in one["wrong"]]
    heads = ("command", "second told, first equal", "seconds of the second", "again")
    return table(heads, rows) + _listed("What was wrong:", wrong)


def _fuzz(result: dict[str, Any]) -> str:
    rows = [(one["reader"], one["inputs"], one["seconds"], len(one["wrong"])) for one in result["rows"]]
    total = ("all", *(round(sum(row[column] for row in rows)) for column in (1, 2, 3)))
    wrong = [f"{one['reader']}: {text}" for one in result["rows"] for text in one["wrong"]]
    again = f"\n\nAgain: {_again('fuzz', seed=result['seed'])}"
    return (
        table(("reader", "inputs", "seconds", "findings"), [*rows, total]) + again + _listed("What was wrong:", wrong)
    )


def _load(result: dict[str, Any]) -> str:
    rows = [
        (
            one["what"],
            f"{one['number']:,}",
            one["first_mb"],
            one["last_mb"],
            f"{one['slope']:.3f} ± {one['error']:.3f}",
            "yes" if one["is_flat"] else "no",
            _again("load"),
        )
        for one in result["rows"]
    ]
    return table(("work", "number", "MB at first", "MB at last", "MB per 1,000", "flat", "again"), rows)


_TABLES = {"corpus": _corpus, "kills": _kills, "disk": _disk, "sharing": _sharing, "fuzz": _fuzz, "load": _load}


def _again(part: str, option: str = "", value: str = "", seed: int | None = None) -> str:
    """The command that measures a row again."""
    words = [f"--{option} {value}"] if option else []
    words += [f"--seed {seed}"] if seed is not None else []
    more = f' ROBUSTNESS="{" ".join(words)}"' if words else ""
    return f"`make robustness PARTS={part}{more}`"


def table(heads: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    """A table of Markdown."""
    lines = ["| " + " | ".join(map(str, cells)) + " |" for cells in (heads, ["---"] * len(heads), *rows)]
    return "\n".join(lines)


def _listed(title: str, items: list[str], most: int = 60) -> str:
    """A list below a table, cut after `most` items; empty without items."""
    if not items:
        return ""
    shown = [
        f"- {' '.join(item.split())[:240].replace('<', '&lt;').replace('|', chr(92) + '|')}" for item in items[:most]
    ]
    more = [f"- and {len(items) - most} more, in docs/reliability.json"] if len(items) > most else []
    return "\n\n" + "\n".join([title, "", *shown, *more])


def _text(fault: Any) -> str:
    """A fault in words; that of a kill has its moment."""
    if isinstance(fault, str):
        return fault
    return f"kill {fault['kill']} at {fault.get('second')} s: {'; '.join(fault['faults'])}"


def faults(results: dict[str, Any]) -> list[str]:
    """What was wrong in all parts, a line each."""
    found: list[str] = []
    for part, result in results.items():
        rows = result["rows"]
        if part == "corpus":
            found += rows["wrong"]
        elif part == "load":
            found += [f"{one['what']}: {one['slope']} MB per 1,000" for one in rows if not one["is_flat"]]
        else:
            for one in rows["commands"] if part == "disk" else rows:
                what = one.get("command") or one["reader"]
                found += [f"{part}: {what}: {_text(text)}" for text in one["wrong"]]
    return found
