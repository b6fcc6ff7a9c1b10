"""`siamese-mrcnn demo`."""

from .options import add_common_arguments, at_least

_TEXT = "The whole of the method within minutes, without COCO: on scenes that the program draws itself."
_NOTES = (
    "Makes the Shapes data set, pre-trains backbone and FPN on crops of three quarters of its categories, trains the "
    "tiny configuration on these, and searches for all categories, with one reference, with five, and with references "
    "of the wrong category. Writes a page with the metrics, the loss curves and examples. A demo that is stopped "
    "resumes when it is started again."
)
_STAGES_HELP = "recipe (default shapes); shapes-long takes six to seven times as long: docs/shapes.md"


def add_parser(commands):
    parser = commands.add_parser("demo", help=_TEXT, description=_TEXT, epilog=_NOTES)
    parser.set_defaults(command=run)
    parser.add_argument("--out", default="demo", metavar="DIR", help="where all of it goes (default demo)")
    parser.add_argument("--seed", type=at_least(0), default=0, help="of weights and samples (default 0)")
    parser.add_argument("--split", type=int, choices=range(1, 5), default=1, help="category split (default 1)")
    parser.add_argument("--stages", choices=("shapes", "shapes-long"), default="shapes", help=_STAGES_HELP)
    parser.add_argument("--images", type=at_least(1), metavar="N", help="validation scenes to search (default: all)")
    parser.add_argument("--runs", type=at_least(1), default=3, metavar="N", help="draws of references (default 3)")
    add_common_arguments(parser)


def run(options):
    from ..shapes.demo import DemoSettings, run_demo

    settings = DemoSettings(
        out=options.out,
        seed=options.seed,
        split=options.split,
        stages=options.stages,
        images=options.images,
        runs=options.runs,
    )
    return run_demo(settings, options.run_command)
