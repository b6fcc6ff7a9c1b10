"""`siamese-mrcnn shapes`."""

from pathlib import Path

from .options import add_common_arguments

_TEXT = "Draw seeded scenes of simple objects, with masks: a COCO-format data set, or one scene and its crops."


def add_parser(commands):
    parser = commands.add_parser("shapes", help=_TEXT, description=_TEXT)
    parser.set_defaults(command=run)
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to write to")
    parser.add_argument("--train", type=int, default=200, metavar="N", help="training scenes (200)")
    parser.add_argument("--val", type=int, default=50, metavar="N", help="validation scenes (50)")
    parser.add_argument("--size", type=int, default=256, metavar="PIXELS", help="long side of a scene (256)")
    parser.add_argument("--vary-sides", action="store_true", help="short sides of 3/4 to all of the long one")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="another seed, other scenes (0)")
    parser.add_argument(
        "--segmentation", choices=("rle", "polygons"), default="rle", help="how masks are written (rle)"
    )
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes that draw (1)")
    parser.add_argument("--demo", action="store_true", help="write one scene and reference crops of it instead")
    add_common_arguments(parser)


def run(options):
    _write_scene(options) if options.demo else _write_data_set(options)


def _write_scene(options):
    from ..shapes.dataset import write_demo

    for name, box in write_demo(options.out, size=options.size, seed=options.seed).items():
        where = "" if box is None else f" cut at y1,x1,y2,x2 = {','.join(map(str, box))}"
        print(f"{Path(options.out) / name}{where}")


def _write_data_set(options):
    from ..shapes.dataset import YEAR, write_coco

    scenes = {"train": options.train, "val": options.val}
    written = write_coco(
        options.out,
        **scenes,
        size=options.size,
        seed=options.seed,
        square=not options.vary_sides,
        segmentation=options.segmentation,
        workers=options.workers,
    )
    for split, count in written.items():
        print(f"{options.out}: {split}{YEAR} with {scenes[split]} scenes, {count} objects")
