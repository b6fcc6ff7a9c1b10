"""A case of the corpus: what is made, the command line, and what has to come of it."""

import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path

WORKS, ERROR, FINDS, SKIPS, EITHER = "works", "clear error", "check finds", "skips the image", "works or clear error"
OUTCOMES = (
    "worked",
    "clear error",
    "misleading",
    "refused",
    "left files",
    "traceback",
    "death",
    "hang",
    "silent",
)
GOOD = OUTCOMES[:2]
_ACCEPTED = {WORKS: {0}, ERROR: {2}, FINDS: {1, 2}, SKIPS: {1}, EITHER: {0, 1, 2}}

Make = Callable[[Path], object]


def nothing(folder: Path) -> None:
    """Make no input."""


@dataclasses.dataclass(frozen=True)
class Case:
    """One input with its command line.

    Attributes:
        name: unique, such as "images/predict/truncated.png".
        words: the command line; "{base}" stands for the folder of good inputs.
        expected: WORKS, ERROR, FINDS (`check` exits 1), SKIPS (`predict` leaves the image out and exits 1), EITHER.
        mentions: what the message of an error must have: file and place. "a|b" is one or the other.
        make: makes the inputs in the working folder.
        needs: the good inputs that it takes, names in `base.MAKERS`.
        fault: what is wrong with the result of a command that worked, None if nothing is.
        touches: what may be in the working folder after an error, beside the inputs.
    """

    name: str
    words: tuple[str, ...]
    expected: str
    mentions: tuple[str, ...] = ()
    make: Make = nothing
    needs: tuple[str, ...] = ()
    fault: Callable[[Path, str], str | None] | None = None
    touches: tuple[str, ...] = ()

    @property
    def family(self) -> str:
        return self.name.partition("/")[0]


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a process ended."""

    code: int  # negative: the signal
    is_late: bool
    output: str
    errors: str
    seconds: float
    new_files: tuple[str, ...] = ()
    fault: str | None = None


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of a case: `kind`, one of OUTCOMES, and why."""

    name: str
    family: str
    kind: str
    text: str
    command: str
    seconds: float

    @property
    def is_good(self) -> bool:
        return self.kind in GOOD


def judge(case: Case, ended: Ended) -> tuple[str, str]:
    """(one of OUTCOMES, why)."""
    said = f"{ended.output}\n{ended.errors}"
    last = ended.errors.strip().splitlines()[-1:] or ended.output.strip().splitlines()[-1:] or [""]
    if ended.is_late:
        return "hang", f"still running after {ended.seconds:.0f} s"
    if ended.code < 0 or ended.code >= 128 and ended.code != 130:
        return "death", f"signal {-ended.code if ended.code < 0 else ended.code - 128}: {last[0]}"
    if "Traceback (most recent call last)" in said or ": bug: " in ended.errors or ended.code == 3:
        return "traceback", last[0]
    if ended.code not in _ACCEPTED[case.expected]:
        text = f"exit {ended.code}, expected {case.expected}: {last[0]}"
        return ("silent" if ended.code == 0 else "refused" if case.expected == WORKS else "misleading"), text
    if ended.code == 0:
        return ("silent", ended.fault) if ended.fault else ("worked", "")
    if lacking := [words for words in case.mentions if not any(word in said for word in words.split("|"))]:
        return "misleading", f"no {', '.join(lacking)} in: {last[0]}"
    if ended.code == 2 and ended.new_files:
        return "left files", f"{', '.join(ended.new_files[:5])}: {last[0]}"
    return "clear error", last[0]


def unique(cases: Iterable[Case]) -> list[Case]:
    """The cases, once their names are known to be unique."""
    found: dict[str, Case] = {}
    for case in cases:
        if case.name in found:
            raise AssertionError(f"two cases are called {case.name}")
        found[case.name] = case
    return list(found.values())
