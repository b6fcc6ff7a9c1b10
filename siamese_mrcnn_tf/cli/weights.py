"""`siamese-mrcnn weights`."""

from .options import add_common_arguments


def add_parser(commands):
    text = "Say what is in a weight file, which configuration it fits and what would be left out."
    parser = commands.add_parser("weights", help=text, description=text)
    parser.set_defaults(command=run)
    parser.add_argument("file", metavar="FILE", help="an .h5 file, or a known file by name")
    parser.add_argument(
        "--checkpoints", default="checkpoints", metavar="DIR", help="where known files are looked for and downloaded to"
    )
    add_common_arguments(parser)


def run(options):
    from ..weights.loading import describe_weights
    from ..weights.pretrained import find_weights

    print(describe_weights(find_weights(options.file, options.checkpoints)))
