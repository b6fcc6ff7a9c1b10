"""Show the contents of a weight file, the configuration it fits and the weights that would not be loaded."""

import argparse

from .options import CHECKPOINTS_HELP, FILE_HELP, Commands, add_command


def add_parser(commands: Commands) -> None:
    parser = add_command(commands, "weights", run, __doc__)
    parser.add_argument("file", metavar="FILE", help=FILE_HELP)
    parser.add_argument("--checkpoints", default="checkpoints", metavar="DIR", help=CHECKPOINTS_HELP)


def run(options: argparse.Namespace) -> None:
    from ..weights.loading import describe_weights
    from ..weights.pretrained import find_weights
    from ..weights.thresholds import find_thresholds, threshold_path

    path = find_weights(options.file, options.checkpoints)
    print(describe_weights(path))
    calibration = find_thresholds(path)
    if calibration is not None:
        print(f"{threshold_path(path).name}: {calibration.summary()}")
