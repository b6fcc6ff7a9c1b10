"""`siamese-mrcnn evaluate`."""

import argparse
import re
from pathlib import Path

from .options import add_dataset_arguments, add_model_arguments, at_least, choose_config, open_dataset, open_predictor

_MODEL_NOTES = (
    "--model random-boxes is the paper's baseline; {split} in the name of --model stands for the category split."
)
_SPLIT_HELP = "category split of the paper, 1 to 4, or all of them one after the other; 0 has no split (default 0)"
_CATEGORIES_HELP = "those that the split trains, those that it holds out (novel), or all (default all)"
_PROTOCOL_HELP = (
    "'paper' feeds references without subtracting the mean and sorts masks into sizes by their box, as the original did"
)
_CONTROL_HELP = (
    "search with references of the wrong category, drawn from those that are in the image or from those that are not: "
    "a model that compares finds little with them"
)
_RESUME_HELP = "go on with a stopped evaluation in --out"
_SHARD_HELP = "evaluate part I of N, to share the images among processes or machines; --merge joins the parts"
_WORKERS_HELP = "images searched at once, by threads; results do not depend on it (default 1)"
_MERGE_HELP = "join the parts in these folders to one evaluation in --out, instead of evaluating"
_RESULTS_HELP = "score the evaluation in this folder (or this file of it) again, instead of evaluating"


def add_parser(commands):
    text = "Score a model on a COCO-format data set by the paper's one-shot protocol, and report."
    parser = commands.add_parser("evaluate", help=text, description=text, epilog=_MODEL_NOTES)
    parser.set_defaults(command=run)
    add_dataset_arguments(parser)
    parser.add_argument("--subset", default="val", help="'val' or 'train' (default val)")
    parser.add_argument("--split", choices=(*"01234", "all"), default="0", help=_SPLIT_HELP)
    parser.add_argument("--categories", choices=("train", "novel", "all"), default="all", help=_CATEGORIES_HELP)
    parser.add_argument("--shots", type=at_least(1), default=1, metavar="K", help="references of a query (default 1)")
    parser.add_argument("--runs", type=at_least(1), default=5, metavar="N", help="with fresh references (default 5)")
    parser.add_argument("--seed", type=at_least(0), default=0, help="of the reference draws (default 0)")
    parser.add_argument("--limit", type=at_least(1), metavar="N", help="only the first N images that have a category")
    parser.add_argument("--protocol", choices=("default", "paper"), default="default", help=_PROTOCOL_HELP)
    parser.add_argument(
        "--exclude-query-image", action="store_true", help="draw references from other images than the query's"
    )
    parser.add_argument("--control", choices=("present", "absent"), help=_CONTROL_HELP)
    parser.add_argument("--out", default="evaluation", metavar="DIR", help="where results go (default evaluation)")
    parser.add_argument("--resume", action="store_true", help=_RESUME_HELP)
    parser.add_argument("--workers", type=at_least(1), default=1, metavar="N", help=_WORKERS_HELP)
    parser.add_argument("--shard", type=shard, default=(1, 1), metavar="I/N", help=_SHARD_HELP)
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--merge", nargs="+", metavar="DIR", help=_MERGE_HELP)
    instead.add_argument("--results", metavar="DIR|FILE", help=_RESULTS_HELP)
    add_model_arguments(parser, model_required=False)


def shard(text):
    """Argument type: I/N."""
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise argparse.ArgumentTypeError(f"expected a part I/N such as 2/8, got {text!r}")
    return int(found[1]), int(found[2])


def run(options):
    from ..io.files import writable_folder
    from ..report.writer import write_report

    out = writable_folder(options.out)
    if options.split == "0" and options.categories != "all":
        raise ValueError(f"--categories {options.categories}: --split 0 has no categories held out, expected a split")
    splits = range(1, 5) if options.split == "all" else [int(options.split)]
    takes_over = bool(options.merge or options.results)
    if not takes_over:
        require_weights(options, splits)
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
        show(outcome)
        folders.append(results_folder(options, split) if options.results else folder)
    if folders:
        paths = write_report(folders, out, dataset)
        print(f"\nTables and plots are in {out}, records in {', '.join(map(str, folders))}; begin with {paths[0]}")


def run_split(options, split, folder):
    """(Evaluation of one split, its data set)."""
    from ..data.dataset import split_classes
    from ..evaluation import protocol

    searcher, path = open_searcher(options, split)
    dataset, coco = open_dataset(options, options.subset)
    trained, held_out = split_classes(dataset.num_classes - 1, split)
    about = {"split": split, "category_set": options.categories, "protocol": options.protocol}
    about |= {"subset": options.subset, "year": options.year}
    outcome = protocol.evaluate(
        searcher,
        dataset,
        coco,
        class_ids={"train": trained, "novel": held_out, "all": None}[options.categories],
        shots=options.shots,
        seed=options.seed,
        runs=options.runs,
        limit=options.limit,
        area="box" if options.protocol == "paper" else "mask",
        exclude_query_image=options.exclude_query_image,
        control=options.control,
        folder=folder,
        resume=options.resume,
        shard=options.shard,
        workers=options.workers,
        about=about,
        weights=path,
    )
    if outcome.scores is not None:
        analyse(outcome, coco, folder)
    return outcome, dataset


def open_searcher(options, split):
    """(what is searched with, weight file or None)."""
    from ..evaluation.queries import RandomBoxes

    if options.model is None:
        raise ValueError("--model: which weights are to be evaluated?")
    if options.model == "random-boxes":
        if options.config or options.set or options.min_confidence is not None:
            raise ValueError("--model random-boxes: has no configuration; leave out --config, --set, --min-confidence")
        if options.control:
            raise ValueError(f"--control {options.control}: --model random-boxes takes no references")
        return RandomBoxes(), None
    options = argparse.Namespace(**{**vars(options), "model": model_of(options, split)})
    paper = {"MOLD_TARGETS_AT_INFERENCE": False} if options.protocol == "paper" else {}
    config, path = choose_config(options, paper)
    return open_predictor(config, path), path


def model_of(options, split):
    """What --model names for a split."""
    return options.model.replace("{split}", str(split))


def require_weights(options, splits):
    """Find weights that are missing before the hours that the splits before them take, not after."""
    from ..weights.pretrained import find_weights

    if options.model in (None, "random-boxes", "untrained", "last") or "{split}" not in options.model:
        return
    for split in splits:
        find_weights(model_of(options, split), options.checkpoints)


def part_of(folder, options, split):
    """Where a split is in the folder of an evaluation: with --split all, in one of its own."""
    return Path(folder) / f"split_{split}" if options.split == "all" else Path(folder)


def results_folder(options, split):
    """The folder of the evaluation that --results names."""
    named = part_of(options.results, options, split)
    return named.parent if named.is_file() else named


def take_over(options, split, folder):
    """(Evaluation joined from parts, or scored again, its data set)."""
    from ..evaluation import protocol

    dataset, coco = open_dataset(options, options.subset)
    if options.merge:
        parts = [part_of(part, options, split) for part in options.merge]
        outcome = protocol.merge(parts, folder, coco, dataset)
    else:
        folder = results_folder(options, split)
        outcome = protocol.rescore(folder, coco, dataset)
    analyse(outcome, coco, folder)
    return outcome, dataset


def analyse(outcome, coco, folder):
    """Write beside the scores: COCO results of each run, figures by number of instances, confusion of categories."""
    from ..evaluation import analysis
    from ..io import files

    settings = outcome.records.settings
    for run in range(settings["runs"]):
        files.write_json(folder / f"results_run_{run}.json", outcome.records.results(run))
    found = analysis.analyse(
        coco,
        (outcome.records.results(run) for run in range(settings["runs"])),
        image_ids=settings["images"],
        category_ids=[category["id"] for category in settings["categories"]],
        iou_types=tuple(outcome.scores.mean),
    )
    files.write_json(folder / "analysis.json", found)


def show(outcome):
    """Print the figures: COCO's table of a single run, means with intervals of several."""
    scores, runs = outcome.scores, len(outcome.scores.runs)
    for name, one in scores.runs[0].items():
        counts = f"{scores.num_images} images, {scores.num_queries} queries, {scores.num_results} detections"
        print(f"\n{name}: {counts}, {runs} run{'s' if runs > 1 else ''}")
        print(one.table() if runs == 1 else scores.table(name))
    if scores.is_empty:
        print("\nnothing was detected: every figure is 0 for want of detections")
    print(f"\n{scores.seconds:.1f} s for the images, {scores.seconds / scores.num_queries:.2f} s a query")
