"""Draw a synthetic COCO-format data set of simple shapes, or one scene and its reference crops."""

import argparse
import shlex
import sys
from pathlib import Path

from .effects import say_other_options
from .inputs import picked
from .options import Commands, add_command, at_least, num_workers, seed


def add_parser(commands: Commands) -> None:
    parser = add_command(commands, "shapes", run, __doc__)
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to write to")
    parser.add_argument(
        "--train", type=at_least(0, 1_000_000), default=200, metavar="N", help="training scenes (default 200)"
    )
    parser.add_argument(
        "--val", type=at_least(0, 1_000_000), default=50, metavar="N", help="validation scenes (default 50)"
    )
    categories = "number of categories, 2 to 1000: 20 named ones, then generated ones (default 20)"
    parser.add_argument("--categories", type=at_least(2, 1000), default=20, metavar="N", help=categories)
    parser.add_argument(
        "--size", type=at_least(1, 8192), default=256, metavar="N", help="long side in pixels (default 256)"
    )
    parser.add_argument("--vary-sides", action="store_true", help="draw short sides of 3/4 to all of the long one")
    parser.add_argument("--seed", type=seed, default=0, metavar="N", help="seed of the scenes (default 0)")
    parser.add_argument("--segmentation", choices=("rle", "polygons"), default="rle", help="mask format (default rle)")
    parser.add_argument("--workers", type=num_workers, default=1, metavar="N", help="processes that draw (default 1)")
    parser.add_argument("--demo", action="store_true", help="write one scene and reference crops of it instead")


def run(options: argparse.Namespace) -> None:
    _write_scene(options) if options.demo else _write_data_set(options)


def _write_scene(options: argparse.Namespace) -> None:
    from ..io.files import remove_temporaries, writable_folder
    from ..io.locks import exclusive
    from ..shapes.dataset import write_demo

    say_other_options(options, {"demo", "size", "seed"}, "with --demo")
    command = [*options.launcher, "predict", "--model", "shapes", "--image", str(Path(options.out) / "scene.png")]
    with exclusive(writable_folder(options.out)):
        remove_temporaries(options.out, below=False)
        written = write_demo(options.out, size=options.size, seed=options.seed)
    for name, box in written.items():
        path = Path(options.out) / name
        print(path if box is None else f"{path} cut at y1,x1,y2,x2 = {','.join(map(str, box))}")
        command += [] if box is None else ["--reference", str(path)]
    print(f"To search the scene: {shlex.join(command)}", file=sys.stderr)


def _write_data_set(options: argparse.Namespace) -> None:
    from ..shapes.dataset import YEAR, write_coco

    chosen = picked(options, "train", "val", "categories", "size", "seed", "segmentation", "workers")
    for split, count in write_coco(options.out, **chosen, square=not options.vary_sides).items():
        print(f"{options.out}: {split}{YEAR} with {chosen[split]} scenes, {count} objects")
