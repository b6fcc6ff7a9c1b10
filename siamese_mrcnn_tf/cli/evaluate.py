"""Evaluate a model on a COCO-format data set by the paper's one-shot protocol and write a report.

{split} in --model stands for the number of the split.
"""

import argparse
import contextlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..io.errors import InputError
from ..settings import shown
from .effects import say_other_options, say_unused_options
from .inputs import (
    calibrated_settings,
    choose_config,
    find_model,
    open_dataset,
    open_keras_predictor,
    picked,
    start_keras,
)
from .options import (
    Commands,
    add_command,
    add_dataset_arguments,
    add_model_arguments,
    at_least,
    name_part,
    num_shots,
    num_workers,
    number,
    seed,
)

if TYPE_CHECKING:
    from ..data.dataset import IndexedCocoDataset
    from ..evaluation.coco_scores import EvaluationScores
    from ..evaluation.protocol import Evaluation
    from ..evaluation.queries import Detector
    from ..predictor import SiamesePredictor

_SPLIT_HELP = "category split: 1 to 4, 'all' for the four in turn, 0 for none (default 0)"
_CATEGORIES_HELP = "evaluate the train categories of the split, its novel categories, or all (default all)"
_LIMIT_HELP = "evaluate only the first N images that contain an evaluated category"
_PROTOCOL_HELP = (
    "'paper' reproduces the original: the mean is not subtracted from references, and masks are sorted into size "
    "classes by the area of their box"
)
_CONTROL_HELP = (
    "search with references of a wrong category that is present in the image or absent from it: a model that ignores "
    "the reference scores as well with these"
)
_ABSENT_HELP = (
    "open protocol: also search each image for N categories that are not in it, or for 'all' of them, and measure "
    "presence; a low --min-confidence, such as 0.05, shows the whole curve of recall and false detections"
)
_THRESHOLD_HELP = "minimum score of a detection for the metrics of presence (default: the calibrated one, or 0.7)"
_LOW_CONFIDENCE = 0.05
_SHARD_HELP = "evaluate part I of N, to share the images among processes or machines; --merge joins the parts"
_WORKERS_HELP = "threads that search images; results do not depend on their number (default 1)"
_MERGE_HELP = "join the parts in these folders to one evaluation in --out, instead of evaluating"
_COMPARE_HELP = (
    "compare the evaluations in these folders (their --out) with the first of them, instead of evaluating; all must be "
    "of the same images and categories"
)
_REPORT_HELP = (
    "print one table of all evaluations in these folders, at any depth, in the form of the paper's Table 1, instead of "
    "evaluating: train and novel categories, numbers of shots, splits; with --out a report of all of them is written"
)
_RESULTS_HELP = "score the evaluation in this folder (or this file of it) again, instead of evaluating"


_OF_SEARCH = """
    model config set min_confidence verify checkpoints logs runtime precision shots runs seed limit protocol
    exclude_query_image control resume workers shard
""".split()


def add_parser(commands: Commands) -> None:
    parser = add_command(commands, "evaluate", run, __doc__)
    add = parser.add_argument
    add_dataset_arguments(parser)
    add("--subset", type=name_part, default="val", help="'val' or 'train' (default val)")
    add("--split", choices=(*"01234", "all"), default="0", help=_SPLIT_HELP)
    add("--categories", choices=("train", "novel", "all"), default="all", help=_CATEGORIES_HELP)
    add("--shots", type=num_shots, default=1, metavar="K", help="references per query (K-shot) (default 1)")
    runs = "runs, each with its own draw of references (default 5)"
    add("--runs", type=at_least(1, 10_000), default=5, metavar="N", help=runs)
    add("--seed", type=seed, default=0, help="seed of the reference draws (default 0)")
    add("--limit", type=at_least(1), metavar="N", help=_LIMIT_HELP)
    add("--protocol", choices=("default", "paper"), default="default", help=_PROTOCOL_HELP)
    add("--exclude-query-image", action="store_true", help="draw no reference from the image that is searched")
    add("--control", choices=("present", "absent"), help=_CONTROL_HELP)
    add("--absent", type=count_or_all, metavar="N|all", help=_ABSENT_HELP)
    above_zero = number(lambda value: 0 < value <= 1, "a number above 0 and at most 1")
    add("--threshold", type=above_zero, metavar="P", help=_THRESHOLD_HELP)
    add(
        "--out",
        metavar="DIR",
        help="folder of results (default evaluation; with --compare and --report none are written)",
    )
    add("--resume", action="store_true", help="resume the evaluation in --out")
    add("--workers", type=num_workers, default=1, metavar="N", help=_WORKERS_HELP)
    add("--shard", type=shard, default=(1, 1), metavar="I/N", help=_SHARD_HELP)
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--merge", nargs="+", metavar="DIR", help=_MERGE_HELP)
    instead.add_argument("--compare", nargs="+", metavar="DIR", help=_COMPARE_HELP)
    instead.add_argument("--report", nargs="+", metavar="DIR", help=_REPORT_HELP)
    instead.add_argument("--results", metavar="DIR|FILE", help=_RESULTS_HELP)
    add_model_arguments(parser, more=", or 'random-boxes' (the paper's baseline)", required=False, runtimes=True)


def shard(text: str) -> tuple[int, int]:
    """Argument type: I/N."""
    found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise argparse.ArgumentTypeError(f"expected a part I/N such as 2/8, got {shown(text)}")
    return int(found[1]), int(found[2])


def count_or_all(text: str) -> int | str:
    """Argument type: a whole number of 1 or more, or "all"."""
    if text != "all" and not (re.fullmatch("[0-9]{1,9}", text) and int(text)):
        raise argparse.ArgumentTypeError(f"expected 'all' or a whole number of 1 or more, got {shown(text)}")
    return text if text == "all" else int(text)


def run(options: argparse.Namespace) -> None:
    from ..io.files import remove_temporaries, writable_folder
    from ..io.locks import exclusive

    if options.compare:
        say_other_options(options, {"compare"}, "with --compare")
        show_comparison(options)
        return
    if options.report:
        say_other_options(options, {"report"}, "with --report")
        show_report(options)
        return
    for name in ("merge", "results"):
        if getattr(options, name):
            say_unused_options(options, _OF_SEARCH, f"with --{name}: what was searched is in the records")
    out = writable_folder(options.out or "evaluation")
    check_options(options)
    with contextlib.ExitStack() as stack:
        for path in written(options, out):
            stack.enter_context(exclusive(path))
        if options.shard[1] == 1:
            remove_temporaries(out, below=False)
        evaluate_splits(options, out)


def check_options(options: argparse.Namespace) -> None:
    """Raise ValueError for options that do not go together."""
    if options.split == "0" and options.categories != "all":
        raise InputError(f"--categories {options.categories}: --split 0 has no novel categories, expected a split")
    if options.threshold is not None and not (options.absent or options.merge or options.results):
        raise InputError(f"--threshold {options.threshold:g}: needs the metrics of presence, expected --absent too")
    if options.absent and (options.merge or options.results):
        raise InputError(f"--absent {options.absent}: what was searched is in the records, leave it out")


def written(options: argparse.Namespace, out: Path) -> list[Path]:
    """The folders that are written, or the records of a part: others may write theirs into the same folder."""
    from ..evaluation.records import records_name
    from ..io.files import writable_folder

    if options.shard[1] > 1 and not (options.merge or options.results):
        return [part_of(out, options, split) / records_name(options.shard) for split in splits_of(options)]
    scored = {part_of(options.results, options, split) for split in splits_of(options)} if options.results else set()
    return [out, *map(writable_folder, sorted(scored - {out}))]


def splits_of(options: argparse.Namespace) -> list[int]:
    """The numbers of the splits."""
    return [1, 2, 3, 4] if options.split == "all" else [int(options.split)]


def evaluate_splits(options: argparse.Namespace, out: Path) -> None:
    """Evaluate one split after the other, and write the report."""
    from ..report.about import about_text
    from ..report.markup import plain
    from ..report.writer import write_report

    splits, evaluate_split = splits_of(options), take_over if options.merge or options.results else run_split
    if evaluate_split is run_split:
        check_splits(options, out)
    start_keras(options)
    if options.merge and len(splits) > 1:
        check_parts(options, out)
    folders = []
    for split in splits:
        folder = part_of(options.results or out, options, split)
        outcome, dataset = evaluate_split(options, split, folder)
        if outcome.scores is None:
            print(f"part {options.shard[0]} of {options.shard[1]} is in {folder}; join the parts with --merge")
            continue
        print(f"\n{plain(about_text([outcome.records.settings]))}")
        show(outcome.scores)
        if outcome.presence is not None:
            show_presence(outcome.presence)
        searched = sum(len(record["queries"]) for record in outcome.records)
        seconds = outcome.scores.seconds
        print(f"\n{seconds:.1f} s for the images, {seconds / searched:.2f} s a query")
        folders.append(folder)
    if folders:
        paths = write_report(folders, out, dataset)
        print(f"\nTables and plots are in {out}, records in {', '.join(map(str, folders))}; begin with {paths[0]}")


def check_splits(options: argparse.Namespace, out: Path) -> None:
    """Fail early where a later split would: its weights are missing, or its folder holds another evaluation."""
    from ..evaluation.records import require_free

    for split in splits_of(options):
        require_free(part_of(out, options, split), options.shard, resume=options.resume)
        if "{split}" in (options.model or ""):
            find_model(model_of(options, split))


def check_parts(options: argparse.Namespace, out: Path) -> None:
    """Raise ValueError for parts that cannot be joined, those of any split, before those of the first are written."""
    from ..evaluation import protocol

    dataset, coco = open_dataset(options, options.subset)
    for split in splits_of(options):
        parts, folder = [part_of(part, options, split) for part in options.merge], part_of(out, options, split)
        protocol.check_merge(parts, folder, coco, dataset, threshold=options.threshold)


def show_comparison(options: argparse.Namespace) -> None:
    """Print the comparison of finished evaluations, and write it with --out."""
    from ..io.files import remove_temporaries, writable_folder
    from ..io.locks import exclusive
    from ..report.comparison import compare

    out = writable_folder(options.out) if options.out else None
    with exclusive(out) if out is not None else contextlib.nullcontext():
        start_keras(options)
        comparison = compare(options.compare)
        print(comparison.text())
        if out is not None:
            remove_temporaries(out, below=False)
            print(f"It is in {', '.join(map(str, comparison.write(out)))}")


def show_report(options: argparse.Namespace) -> None:
    """Print one table of finished evaluations, and write the report of all of them with --out."""
    from ..io.files import remove_temporaries, writable_folder
    from ..io.locks import exclusive

    out = writable_folder(options.out) if options.out else None
    with exclusive(out) if out is not None else contextlib.nullcontext():
        from ..report.experiments import evaluations_in, read_experiments
        from ..report.tables import Section, as_markdown, sources_table, summary_table
        from ..report.writer import write_report

        folders = evaluations_in(options.report)
        experiments = read_experiments(folders)
        sections = [Section("AP50", [summary_table(experiments)]), Section("Evaluations", [sources_table(experiments)])]
        print(as_markdown(sections))
        if out is not None:
            remove_temporaries(out, below=False)
            paths = write_report(folders, out)
            print(f"Tables and plots are in {out}; begin with {paths[0]}")


def run_split(options: argparse.Namespace, split: int, folder: Path) -> "tuple[Evaluation, IndexedCocoDataset]":
    """(Evaluation of one split, its data set)."""
    from ..data.dataset import split_classes
    from ..evaluation import protocol

    detector, weights = open_detector(options, split)
    dataset, coco = open_dataset(options, options.subset)
    train, novel = split_classes(dataset.num_classes - 1, split)
    settings = protocol.EvaluationSettings(
        class_ids={"train": list(train), "novel": list(novel), "all": None}[options.categories],
        area="box" if options.protocol == "paper" else "mask",
        about={
            "split": split,
            "category_set": options.categories,
            **picked(options, "protocol", "subset", "year"),
            **computing(options),
        },
        threshold=chosen_threshold(options, weights),
        **picked(options, "shots", "seed", "runs", "limit", "exclude_query_image", "control", "absent"),
    )
    chosen = picked(options, "resume", "shard", "workers")
    return protocol.evaluate(detector, dataset, coco, settings, folder=folder, weights=weights, **chosen), dataset


def computing(options: argparse.Namespace) -> dict[str, str]:
    """What computes, as keys of settings.json; without --runtime and --precision none, as in earlier versions."""
    return {name: value for name, value in picked(options, "runtime", "precision").items() if value}


def chosen_threshold(options: argparse.Namespace, weights: Path | None) -> float:
    """The minimum score of a detection for the metrics of presence.

    It is --threshold, or that of the threshold file beside the weights, or the published 0.7.
    """
    from ..evaluation.settings import DEFAULT_THRESHOLD

    calibrated = calibrated_settings(options, weights).get("DETECTION_MIN_CONFIDENCE", DEFAULT_THRESHOLD)
    return float(calibrated if options.threshold is None else options.threshold)


def open_detector(options: argparse.Namespace, split: int) -> "tuple[Detector | SiamesePredictor, Path | None]":
    """(detector, its weight file or None)."""
    from ..evaluation.queries import RandomBoxes

    if options.model is None:
        raise InputError("--model: expected the weights to evaluate")
    if options.model == "random-boxes":
        if options.config or options.set or options.min_confidence is not None or not options.verify:
            unused = "--config, --set, --min-confidence, --no-verify"
            raise InputError(f"--model random-boxes: has no configuration; leave out {unused}")
        if options.control:
            raise InputError(f"--control {options.control}: --model random-boxes takes no references")
        return RandomBoxes(), None
    options = model_of(options, split)
    config, path = choose_config(options, {"MOLD_TARGETS_AT_INFERENCE": False} if options.protocol == "paper" else {})
    return open_keras_predictor(options, config, path), path


def model_of(options: argparse.Namespace, split: int) -> argparse.Namespace:
    """The options with --model for a split."""
    return argparse.Namespace(**{**vars(options), "model": options.model.replace("{split}", str(split))})


def part_of(folder: str | Path, options: argparse.Namespace, split: int) -> Path:
    """The folder of a split in that of an evaluation (or in that of its file): with --split all one of its own."""
    part = Path(folder) / f"split_{split}" if options.split == "all" else Path(folder)
    return part.parent if part.is_file() else part


def take_over(options: argparse.Namespace, split: int, folder: Path) -> "tuple[Evaluation, IndexedCocoDataset]":
    """(Evaluation joined from parts, or scored again, its data set)."""
    from ..evaluation import protocol

    dataset, coco = open_dataset(options, options.subset)
    chosen = picked(options, "threshold")
    if not options.merge:
        return protocol.rescore(folder, coco, dataset, **chosen), dataset
    parts = [part_of(part, options, split) for part in options.merge]
    return protocol.merge(parts, folder, coco, dataset, **chosen), dataset


def show(scores: "EvaluationScores") -> None:
    """Print the metrics: COCO's table of a single run, means with intervals of several."""
    from ..evaluation.intervals import INTERVALS_COVER

    runs = len(scores.runs)
    for name, one in scores.runs[0].items():
        counts = f"{scores.num_images} images, {scores.num_queries} queries, {scores.num_results} detections"
        print(f"\n{name}: {counts}, {runs} run{'s' if runs > 1 else ''}; metrics from 0 to 1")
        print(one.table() if runs == 1 else scores.table(name))
    if runs > 1:
        print(f"\n{INTERVALS_COVER}")
    if any(value < 0 for of_kind in scores.mean.values() for value in of_kind.values()):
        print("\n-1.000: the images have no such instances")
    if scores.is_empty:
        print("\nnothing was detected: every metric is 0")


def show_presence(found: dict[str, Any]) -> None:
    """Print the metrics of presence, and whether the minimum score hides a part of the curve."""
    from ..evaluation.presence import table

    print(f"\n{table(found)}")
    if found["minimum"] > _LOW_CONFIDENCE:
        cut = f"detections below {found['minimum']:g} were not kept: curves of recall and false detections end there"
        print(f"\n{cut}; --min-confidence {_LOW_CONFIDENCE} shows more")
