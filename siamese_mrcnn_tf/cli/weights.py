"""`siamese-mrcnn weights`: what is in a weight file."""

import argparse

from .options import Commands, add_checkpoints_argument, add_command


def add_parser(commands: Commands) -> None:
    text = "Say what is in a weight file, which configuration it fits and what would be left out."
    parser = add_command(commands, "weights", run, text)
    parser.add_argument("file", metavar="FILE", help="an .h5 file, or a known file by name")
    add_checkpoints_argument(parser)


def run(options: argparse.Namespace) -> None:
    from ..weights.loading import describe_weights
    from ..weights.pretrained import find_weights

    print(describe_weights(find_weights(options.file, options.checkpoints)))
