"""The experiments of the paper: commands of `siamese-mrcnn evaluate`, with the published results.

    python samples/coco/experiments.py --list
    python samples/coco/experiments.py s1_1shot_novel --dataset data/coco

Further options go to the command (`--limit 50` for a first look); `--dry-run` prints it. Results go to results/NAME.
Data: COCO 2017, its validation images. Weights: assets of github.com/bethgelab/siamese-mask-rcnn/releases, trained with
one reference. The published random boxes are shifted detections of a model, so that they compare in kind only.
"""

import argparse
import shlex
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # runs from a checkout that is not installed

from siamese_mrcnn_tf.cli.main import main as siamese_mrcnn
from siamese_mrcnn_tf.evaluation.intervals import mean_text
from siamese_mrcnn_tf.report.published import MEAN, RANDOM_BOXES, published

EXPERIMENTS = {  # name -> model, split, categories, shots
    "full_1shot": ("large_siamese_mrcnn_coco_full_0320", "0", "all", 1),
    "full_5shot": ("large_siamese_mrcnn_coco_full_0320", "0", "all", 5),
    **{
        f"s{split}_{shots}shot_{categories}": (f"large_siamese_mrcnn_coco_i{split}_0160", split, categories, shots)
        for split in "1234"
        for shots in (1, 5)
        for categories in ("train", "novel")
    },
    "random_boxes": (RANDOM_BOXES, "all", "novel", 1),
}


def arguments_of(name: str, further: list[str]) -> list[str]:
    """The arguments of `siamese-mrcnn` for an experiment and further options."""
    model, split, categories, shots = EXPERIMENTS[name]
    arguments = ["evaluate", "--model", model, "--split", split, "--categories", categories, "--shots", str(shots)]
    arguments += ["--runs", "5", "--protocol", "paper", "--out", f"results/{name}", *further]
    has_dataset = any(text.split("=")[0] == "--dataset" for text in further)
    return arguments if has_dataset else [*arguments, "--dataset", "data/coco"]


def table() -> str:
    """Name, weights, published AP50 and command of all experiments, as Markdown."""
    lines = ["| name | weights | AP50 detection | AP50 segmentation | command |", "|---|---|---|---|---|"]
    for name, (model, split, categories, shots) in EXPERIMENTS.items():
        weights = "none" if model == RANDOM_BOXES else f"{model}.h5"
        line = MEAN if split == "all" else int(split)
        known = [published(shots, line, categories, kind, model=model)["AP50"] for kind in ("bbox", "segm")]
        command = shlex.join(["siamese-mrcnn", *arguments_of(name, [])])
        lines.append(f"| {name} | {weights} | {' | '.join(mean_text(*pair) for pair in known)} | `{command}` |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout, allow_abbrev=False)
    parser.add_argument("name", nargs="?", choices=EXPERIMENTS, metavar="NAME", help="of an experiment, see --list")
    parser.add_argument("--list", action="store_true", help="print a table of the experiments")
    parser.add_argument("--dry-run", action="store_true", help="print the command")
    options, further = parser.parse_known_args(arguments)
    if options.list:
        print(table())
        return 0
    if options.name is None:
        parser.error("NAME: which experiment? See --list")
    command = arguments_of(options.name, further)
    if options.dry_run:
        print(shlex.join(["siamese-mrcnn", *command]))
        return 0
    return siamese_mrcnn(command)


if __name__ == "__main__":
    sys.exit(main())
