"""Compares finished evaluations of the same images: metrics side by side, and their differences to the first.

Runs draw the same references where seed, shots and data are the same. Then a difference is the mean over the runs of
the difference of each run, and its 95% interval is that of these differences: what both share cancels out.
"""

import csv
import dataclasses
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..data.dataset import split_classes
from ..evaluation.analysis import scarce_categories
from ..evaluation.intervals import INTERVALS_COVER, MeanAndInterval, mean_and_ci, mean_text
from ..evaluation.presence import QUERIES, SIGNED
from ..evaluation.settings import SETTINGS_FILE
from ..io import files
from ..io.errors import InputError
from ..io.files import StrPath
from .about import about_text
from .experiments import Evaluated, Experiment, read_evaluation
from .markup import escaped, plain
from .tables import Section, Table, as_markdown

# settings without which two evaluations do not ask the same; the others that differ are named
_SAME = (
    *("set", "subset", "year", "split", "category_set", "categories", "shots", "limit", "area"),
    *("exclude_query_image", "control", "rules"),
)
_NAMED = ("protocol", "runs", "seed")
_KIND_NAMES = {"bbox": "boxes", "segm": "masks"}
_METRICS = ("AP", "AP50")
_PRESENCE = {QUERIES: ("AUROC", "IL_MCC", "present_firing", "absent_firing", "false_detections")}
_PRESENCE_OF_INSTANCES = ("AP", "AP50", "precision", "recall", "F1", "cgF1")
_THREE_DIGITS = ("AUROC", "IL_MCC")
_UNITS = {  # of metrics that are not in percent
    "AUROC": "0 to 1",
    "IL_MCC": "-1 to 1",
    "cgF1": "0 to 100",
    "false_detections": "per absent query",
}
_THRESHOLDS = ("DETECTION_MIN_CONFIDENCE", "VERIFY_")  # beginnings of settings that choose what is kept
_THRESHOLD_TEXT = (
    "The score threshold or the verification differs: the differences are partly due to it, not to the weights alone. "
    "Evaluate both with the same --min-confidence and with --no-verify, or calibrate both."
)
_PRESENCE_THRESHOLD_TEXT = (
    "The threshold of the metrics of presence differs: their differences are partly due to it. Give both the same "
    "--threshold, or calibrate both."
)
_NOTHING = "n/a"
_COUNTS_SHOWN = 3
_INTERVAL_TEXT = {
    True: "Differences are those of the same references, run by run, with their 95% confidence interval.",
    False: "Seeds or numbers of runs differ: the 95% interval of a difference is that of independent runs.",
}

Runs = list[float | None]


@dataclasses.dataclass(frozen=True)
class Compared:
    """A metric of several evaluations.

    Attributes:
        part: such as "S1, novel categories", "category ellipse", or "presence".
        kind: "boxes", "masks" or "queries".
        metric: its name.
        unit: "%", or such as "0 to 1".
        values: (mean, interval) in each evaluation.
        differences: (mean, interval) of each evaluation but the first, minus the first.
    """

    part: str
    kind: str
    metric: str
    unit: str
    values: list[MeanAndInterval]
    differences: list[MeanAndInterval]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Evaluations side by side.

    Attributes:
        names: of the evaluations, for columns.
        about: weights and data of each evaluation, in words.
        rows: of all metrics, category by category last.
        notes: what the intervals cover, which categories have few instances, what differs between the evaluations
            besides the weights, and what is left out, in words.
    """

    names: list[str]
    about: list[str]
    rows: list[Compared]
    notes: list[str]

    def table(self) -> Table:
        """The rows as text."""
        heads = ["", "", "metric", "unit", *self.names, *(f"{name} - {self.names[0]}" for name in self.names[1:])]
        return Table(heads, [_texts(row) for row in self.rows])

    def text(self) -> str:
        """The table with aligned columns, and the notes, to print."""
        table = self.table()
        lines = [table.heads, *table.rows]
        widths = [max(len(line[column]) for line in lines) for column in range(len(table.heads))]
        shown = ["  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)) for line in lines]
        about, notes = (list(map(plain, texts)) for texts in (self.about, self.notes))
        return "\n".join([*about, "", *(line.rstrip() for line in shown), "", *notes])

    def write(self, folder: StrPath) -> list[Path]:
        """Write comparison.md, comparison.csv and comparison.json; returns their paths."""
        paths = [Path(folder) / f"comparison.{suffix}" for suffix in ("md", "csv", "json")]
        table = self.table()
        shown = Table(list(map(escaped, table.heads)), [[escaped(row[0]), *row[1:]] for row in table.rows])
        files.write_text(paths[0], as_markdown([Section("Comparison", [*self.about, *self.notes, shown], 1)]))
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        pairs = [f"{name}{what}" for name in self.names for what in ("", " interval")]
        pairs += [f"{name} - {self.names[0]}{what}" for name in self.names[1:] for what in ("", " interval")]
        writer.writerow(["part", "kind", "metric", "unit", *pairs])
        for row in self.rows:
            numbers = [value for pair in (*row.values, *row.differences) for value in pair]
            writer.writerow([row.part, row.kind, row.metric, row.unit, *numbers])
        files.write_text(paths[1], text.getvalue())
        content = dataclasses.asdict(self)
        files.write_json(paths[2], {"format": 1, "evaluations": content.pop("names"), **content}, indent=1)
        return paths


def compare(folders: Sequence[StrPath]) -> Comparison:
    """Compare the evaluations in folders with the first of them.

    A folder is the --out of an evaluation, also of all splits. Metrics of presence are compared where all evaluations
    searched for the same absent categories; otherwise they are left out, and a note says so.

    Raises:
        ValueError: fewer than two folders, a folder without a finished evaluation, or evaluations that do not ask the
            same: other images, categories, splits, shots, or only one of them with masks.
    """
    if len(folders) < 2:
        named = ", ".join(map(str, folders)) or "no folder"
        raise InputError(f"{named}: expected two evaluations or more to compare")
    groups = [[read_evaluation(part) for part in _parts_of(Path(folder))] for folder in folders]
    rows: list[Compared] = []
    notes: list[str] = []
    for group, folder in zip(groups[1:], folders[1:], strict=True):
        if [part.split for part in group] != [part.split for part in groups[0]]:
            splits = [", ".join(str(part.split) for part in one) for one in (group, groups[0])]
            raise InputError(f"{folder}: is of split {splits[0]}, but {folders[0]} of split {splits[1]}")
    for parts in zip(*groups, strict=True):
        notes += _scarce(parts[0])
        for part in parts[1:]:
            _require_same(parts[0], part)
        notes += [note for part in parts[1:] for note in _differences(parts[0], part)]
        rows += _rows(parts)
    is_paired = all(_is_paired(parts) for parts in zip(*groups, strict=True))
    names = _names([Path(folder) for folder in folders])
    texts = [about_text([part.settings for part in group]) for group in groups]
    about = [f"{escaped(name)}: {text}" for name, text in zip(names, texts, strict=True)]
    has_intervals = any(interval is not None for row in rows for _, interval in row.values)
    covered = [_INTERVAL_TEXT[is_paired], *([INTERVALS_COVER] if has_intervals else [])]
    return Comparison(names, about, rows, [*covered, *dict.fromkeys(notes)])


# ---- what is compared ------------------------------------------------------------------------------------------------


def _parts_of(folder: Path) -> list[Path]:
    """The folders of one split each."""
    parts = sorted(folder.glob(f"split_*/{SETTINGS_FILE}"))
    is_whole = (folder / SETTINGS_FILE).is_file() or not parts
    return [folder] if is_whole else [path.parent for path in parts]


def _require_same(first: Evaluated, other: Evaluated) -> None:
    pairs = [(key, first.settings.get(key), other.settings.get(key)) for key in _SAME]
    differing = [
        f"{key} = {_shown(theirs)} there and {_shown(ours)} here" for key, ours, theirs in pairs if ours != theirs
    ]
    differing += _differing_images(first, other)
    ours, theirs = (part.analysis.get("num_instances", {}) for part in (first, other))
    if not differing and ours and theirs:
        differing += [
            f"{theirs.get(key, 0)} instances of {first.class_name(key)} there and {ours.get(key, 0)} here"
            for key in dict.fromkeys((*ours, *theirs))
            if ours.get(key, 0) != theirs.get(key, 0)
        ][:_COUNTS_SHOWN]
    if first.kinds != other.kinds:
        differing.append("only one of them has masks")
    if differing:
        raise InputError(f"{other.folder} cannot be compared with {first.folder}: {'; '.join(differing)}")


def _differing_images(first: Evaluated, other: Evaluated) -> list[str]:
    """A difference in the images that have a category; those without any are searched for absent categories alone."""
    ours, theirs = (part.settings.get("images") for part in (first, other))
    if ours == theirs:
        return []
    if ours and theirs and _absent(first) != _absent(other):
        is_part = set(ours) <= set(theirs) or set(theirs) <= set(ours)
        if is_part and first.counts["num_images"] == other.counts["num_images"]:
            return []
    return [f"images = {_shown(theirs)} there and {_shown(ours)} here"]


def _absent(part: Evaluated) -> int | str | None:
    """The number of absent categories that were searched in an image, "all", or None."""
    return part.settings.get("absent") if part.presence else None


def _scarce(part: Evaluated) -> list[str]:
    """The notes on categories with no instance or one, as `evaluate` gives them."""
    counts = part.analysis.get("num_instances", {})
    texts = scarce_categories([(escaped(part.class_name(key)), counts[key]) for key in counts])
    return [f"S{part.split}, {text}." if part.split else f"{text[0].upper()}{text[1:]}." for text in texts]


def _differences(first: Evaluated, other: Evaluated) -> list[str]:
    """What differs between two evaluations besides their weights, in words."""
    pairs: list[tuple[str, Any, Any]] = [(key, first.settings.get(key), other.settings.get(key)) for key in _NAMED]
    ours, theirs = (part.settings.get("config") or {} for part in (first, other))
    names = [key for key in ours if key in theirs and key.startswith(("DETECTION_", "VERIFY_", "MOLD_", "POST_NMS"))]
    pairs += [(key, ours[key], theirs[key]) for key in names]
    differing = [(key, here, there) for key, here, there in pairs if here != there]
    notes = [_differing(key, here, there, first, other) for key, here, there in differing]
    notes += [_THRESHOLD_TEXT] if any(key.startswith(_THRESHOLDS) for key, *_ in differing) else []
    asked = [_absent(part) for part in (first, other)]
    if asked[0] == asked[1]:
        here, there = (part.presence.get("threshold") for part in (first, other))
        named = _differing("threshold", here, there, first, other)
        return notes + ([named, _PRESENCE_THRESHOLD_TEXT] if here != there else [])
    texts = [f"{one or 'none'} in {escaped(part.folder)}" for one, part in zip(asked, (first, other), strict=True)]
    return [*notes, f"Presence is left out, as the absent categories asked differ: {', '.join(texts)}."]


def _differing(key: str, here: Any, there: Any, first: Evaluated, other: Evaluated) -> str:
    texts = [f"{value:.4g}" if isinstance(value, float) else repr(value) for value in (here, there)]
    folders = [escaped(part.folder) for part in (first, other)]
    return f"{key}: {texts[0]} in {folders[0]}, {texts[1]} in {folders[1]}"


def _shown(value: Any) -> str:
    return f"{len(value)} entries" if isinstance(value, list) else repr(value)


def _names(folders: Sequence[Path]) -> list[str]:
    """Short names of folders: their last part where these differ, else the whole path."""
    names = [folder.resolve().name for folder in folders]
    return names if len(set(names)) == len(names) else [str(folder) for folder in folders]


def _rows(parts: Sequence[Evaluated]) -> list[Compared]:
    """The metrics of evaluations of one split."""
    first = parts[0]
    split = f"S{first.split}, " if first.split else ""
    chosen = first.settings.get("category_set", "all") if first.split else "all"
    rows = []
    for kind in first.kinds:
        for name in _METRICS:
            runs = [[run[kind][name] for run in part.runs] for part in parts]
            rows.append(_compared(f"{split}{chosen} categories", _KIND_NAMES[kind], name, runs, parts))
    for group, keys in _groups(first).items():
        for kind in first.kinds:
            for name in _METRICS:
                runs = [
                    [_mean([run[kind].get(key, {}).get(name) for key in keys]) for run in part.per_class]
                    for part in parts
                ]
                rows.append(_compared(f"{split}{group} categories", _KIND_NAMES[kind], name, runs, parts))
    rows += _presence_rows(parts, split)
    for key in sorted(first.per_class[0]["bbox"], key=int):
        for kind in first.kinds:
            runs = [[run[kind].get(key, {}).get("AP50") for run in part.per_class] for part in parts]
            rows.append(_compared(f"{split}category {first.class_name(key)}", _KIND_NAMES[kind], "AP50", runs, parts))
    return rows


def _groups(part: Evaluated) -> dict[str, list[str]]:
    """Train and novel categories of a split that was evaluated as a whole: group -> category ids as text."""
    if not part.split or part.settings.get("category_set") != "all":
        return {}
    ids = [str(entry["id"]) for entry in part.settings.get("categories", ())]
    groups = zip(("train", "novel"), split_classes(len(ids), part.split), strict=True)
    return {name: [ids[class_id - 1] for class_id in class_ids] for name, class_ids in groups}


def _presence_rows(parts: Sequence[Evaluated], split: str) -> list[Compared]:
    """The metrics of presence, of all categories and of each group; [] unless all asked for the same absent ones."""
    if len({_absent(part) for part in parts}) > 1 or not parts[0].presence:
        return []
    alone = [Experiment(None, part.settings["shots"], "all", {part.split: part}) for part in parts]
    kinds = {**_PRESENCE, **dict.fromkeys(parts[0].kinds, _PRESENCE_OF_INSTANCES)}
    rows = []
    for group in alone[0].presence_groups:
        title = f"{split}{group + ' categories, ' if group else ''}absent ones asked too"
        for kind, names in kinds.items():
            for name in names:
                runs = [
                    one.presence_values(part.split, group, kind, name) for one, part in zip(alone, parts, strict=True)
                ]
                rows.append(_compared(title, _KIND_NAMES.get(kind, "queries"), name, runs, parts))
    return rows


def _compared(part: str, kind: str, name: str, runs: list[Runs], parts: Sequence[Evaluated]) -> Compared:
    is_signed = name in SIGNED
    values = [mean_and_ci(one, signed=is_signed) for one in runs]
    differences: list[MeanAndInterval] = []
    for one, value in zip(runs[1:], values[1:], strict=True):
        mean, interval = values[0]
        if mean is None or value[0] is None:
            differences.append((None, None))
        elif _is_paired(parts):
            paired = [None if a is None or b is None else a - b for a, b in zip(one, runs[0], strict=True)]
            differences.append(mean_and_ci(paired, signed=True))
        else:
            known = interval is not None and value[1] is not None
            differences.append((value[0] - mean, math.hypot(value[1] or 0, interval or 0) if known else None))
    return Compared(part, kind, name, _UNITS.get(name, "%"), values, differences)


def _is_paired(parts: Sequence[Evaluated]) -> bool:
    """Whether the runs of evaluations drew the same references."""
    return len({(part.settings.get("seed"), len(part.runs)) for part in parts}) == 1


def _mean(values: Runs) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _texts(row: Compared) -> list[str]:
    digits = (3, 3) if row.metric in _THREE_DIGITS else (1, 2)
    cells = [_NOTHING if mean is None else mean_text(mean, width, digits=digits) for mean, width in row.values]
    for mean, width in row.differences:
        text = _NOTHING if mean is None else mean_text(mean, width, digits=digits)
        cells.append(text if mean is None or text.startswith("-") else f"+{text}")
    return [row.part, row.kind, row.metric, row.unit, *cells]
