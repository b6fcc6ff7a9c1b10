"""`siamese-mrcnn evaluate`: the paper's one-shot protocol, and the report."""

import argparse
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from .options import (
    Commands,
    add_command,
    add_dataset_arguments,
    add_model_arguments,
    at_least,
    choose_config,
    open_dataset,
    open_predictor,
    picked,
    start_keras,
)

if TYPE_CHECKING:
    from ..data.dataset import IndexedCocoDataset
    from ..evaluation.coco_scores import EvaluationScores
    from ..evaluation.protocol import Evaluation
    from ..evaluation.queries import Detector
    from ..predictor import SiamesePredictor

_MODEL_NOTES = "--model random-boxes is the paper's baseline; {split} in --model stands for the number of the split."
_SPLIT_HELP = "category split of the paper, 1 to 4, or all of them in turn; 0 has no split (default 0)"
_CATEGORIES_HELP = "train and novel categories are those of the split (default all)"
_PROTOCOL_HELP = (
    "'paper' does not subtract the mean from references and sorts masks into sizes by their box, as the original does"
)
_CONTROL_HELP = (
    "search with references of a wrong category that is present in the image or absent from it: a model that ignores "
    "the reference scores as well with these"
)
_RESUME_HELP = "resume the evaluation in --out"
_SHARD_HELP = "evaluate part I of N, to share the images among processes or machines; --merge joins the parts"
_WORKERS_HELP = "threads that search images; results do not depend on their number (default 1)"
_MERGE_HELP = "join the parts in these folders to one evaluation in --out, instead of evaluating"
_RESULTS_HELP = "score the evaluation in this folder (or this file of it) again, instead of evaluating"


def add_parser(commands: Commands) -> None:
    text = "Score a model on a COCO-format data set by the paper's one-shot protocol, and report."
    parser = add_command(commands, "evaluate", run, text, epilog=_MODEL_NOTES)
    add_dataset_arguments(parser)
    parser.add_argument("--subset", default="val", help="'val' or 'train' (default val)")
    parser.add_argument("--split", choices=(*"01234", "all"), default="0", help=_SPLIT_HELP)
    parser.add_argument("--categories", choices=("train", "novel", "all"), default="all", help=_CATEGORIES_HELP)
    parser.add_argument("--shots", type=at_least(1), default=1, metavar="K", help="references of a query (default 1)")
    parser.add_argument("--runs", type=at_least(1), default=5, metavar="N", help="draws of references (default 5)")
    parser.add_argument("--seed", type=at_least(0), default=0, help="of the reference draws (default 0)")
    parser.add_argument("--limit", type=at_least(1), metavar="N", help="only the first N images with a category")
    parser.add_argument("--protocol", choices=("default", "paper"), default="default", help=_PROTOCOL_HELP)
    other_images = "draw references from other images than the scene"
    parser.add_argument("--exclude-query-image", action="store_true", help=other_images)
    parser.add_argument("--control", choices=("present", "absent"), help=_CONTROL_HELP)
    parser.add_argument("--out", default="evaluation", metavar="DIR", help="folder of results (default evaluation)")
    parser.add_argument("--resume", action="store_true", help=_RESUME_HELP)
    parser.add_argument("--workers", type=at_least(1), default=1, metavar="N", help=_WORKERS_HELP)
    parser.add_argument("--shard", type=shard, default=(1, 1), metavar="I/N", help=_SHARD_HELP)
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--merge", nargs="+", metavar="DIR", help=_MERGE_HELP)
    instead.add_argument("--results", metavar="DIR|FILE", help=_RESULTS_HELP)
    add_model_arguments(parser, required=False)


def shard(text: str) -> tuple[int, int]:
    """Argument type: I/N."""
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise argparse.ArgumentTypeError(f"expected a part I/N such as 2/8, got {text!r}")
    return int(found[1]), int(found[2])


def run(options: argparse.Namespace) -> None:
    from ..io.files import writable_folder
    from ..report.writer import write_report

    out = writable_folder(options.out)
    if options.split == "0" and options.categories != "all":
        raise ValueError(f"--categories {options.categories}: --split 0 has no novel categories, expected a split")
    splits = range(1, 5) if options.split == "all" else [int(options.split)]
    takes_over = bool(options.merge or options.results)
    if not takes_over:
        require_weights(options, splits)
    start_keras(options)
    folders = []
    for split in splits:
        folder = part_of(out, options, split)
        if takes_over:
            outcome, dataset = take_over(options, split, folder)
        else:
            outcome, dataset = run_split(options, split, folder)
        if outcome.scores is None:
            print(f"part {options.shard[0]} of {options.shard[1]} is in {folder}; join the parts with --merge")
            continue
        show(outcome.scores)
        folders.append(results_folder(options, split) if options.results else folder)
    if folders:
        paths = write_report(folders, out, dataset)
        print(f"\nTables and plots are in {out}, records in {', '.join(map(str, folders))}; begin with {paths[0]}")


def run_split(options: argparse.Namespace, split: int, folder: Path) -> "tuple[Evaluation, IndexedCocoDataset]":
    """(Evaluation of one split, its data set)."""
    from ..data.dataset import split_classes
    from ..evaluation import protocol

    detector, weights = open_detector(options, split)
    dataset, coco = open_dataset(options, options.subset)
    train, novel = split_classes(dataset.num_classes - 1, split)
    about = {"split": split, "category_set": options.categories, **picked(options, "protocol", "subset", "year")}
    settings = protocol.EvaluationSettings(
        class_ids={"train": list(train), "novel": list(novel), "all": None}[options.categories],
        area="box" if options.protocol == "paper" else "mask",
        about=about,
        **picked(options, "shots", "seed", "runs", "limit", "exclude_query_image", "control"),
    )
    chosen = picked(options, "resume", "shard", "workers")
    outcome = protocol.evaluate(detector, dataset, coco, settings, folder=folder, weights=weights, **chosen)
    return outcome, dataset


def open_detector(options: argparse.Namespace, split: int) -> "tuple[Detector | SiamesePredictor, Path | None]":
    """(detector, its weight file or None)."""
    from ..evaluation.queries import RandomBoxes

    if options.model is None:
        raise ValueError("--model: expected the weights to evaluate")
    if options.model == "random-boxes":
        if options.config or options.set or options.min_confidence is not None:
            raise ValueError("--model random-boxes: has no configuration; leave out --config, --set, --min-confidence")
        if options.control:
            raise ValueError(f"--control {options.control}: --model random-boxes takes no references")
        return RandomBoxes(), None
    options = argparse.Namespace(**{**vars(options), "model": model_of(options, split)})
    paper = {"MOLD_TARGETS_AT_INFERENCE": False} if options.protocol == "paper" else {}
    config, path = choose_config(options, paper)
    return open_predictor(options, config, path), path


def model_of(options: argparse.Namespace, split: int) -> str:
    """What --model names for a split."""
    return str(options.model).replace("{split}", str(split))


def require_weights(options: argparse.Namespace, splits: Iterable[int]) -> None:
    """Fail early if the weights of a later split are missing."""
    from ..weights.pretrained import find_weights

    if options.model in (None, "random-boxes", "untrained", "last") or "{split}" not in options.model:
        return
    for split in splits:
        find_weights(model_of(options, split), options.checkpoints)


def part_of(folder: str | Path, options: argparse.Namespace, split: int) -> Path:
    """The folder of a split in that of an evaluation: with --split all one of its own."""
    return Path(folder) / f"split_{split}" if options.split == "all" else Path(folder)


def results_folder(options: argparse.Namespace, split: int) -> Path:
    """The folder of the evaluation that --results names."""
    named = part_of(options.results, options, split)
    return named.parent if named.is_file() else named


def take_over(options: argparse.Namespace, split: int, folder: Path) -> "tuple[Evaluation, IndexedCocoDataset]":
    """(Evaluation joined from parts, or scored again, its data set)."""
    from ..evaluation import protocol

    dataset, coco = open_dataset(options, options.subset)
    if not options.merge:
        return protocol.rescore(results_folder(options, split), coco, dataset), dataset
    parts = [part_of(part, options, split) for part in options.merge]
    return protocol.merge(parts, folder, coco, dataset), dataset


def show(scores: "EvaluationScores") -> None:
    """Print the metrics: COCO's table of a single run, means with intervals of several."""
    runs = len(scores.runs)
    for name, one in scores.runs[0].items():
        counts = f"{scores.num_images} images, {scores.num_queries} queries, {scores.num_results} detections"
        print(f"\n{name}: {counts}, {runs} run{'s' if runs > 1 else ''}")
        print(one.table() if runs == 1 else scores.table(name))
    if scores.is_empty:
        print("\nnothing was detected: every metric is 0")
    print(f"\n{scores.seconds:.1f} s for the images, {scores.seconds / scores.num_queries:.2f} s a query")
