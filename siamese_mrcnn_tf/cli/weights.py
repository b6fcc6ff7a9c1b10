"""Show the contents of a weight file, the configuration it fits and the weights that would not be loaded."""

import argparse

from .inputs import find_model
from .options import CHECKPOINTS_HELP, FILE_HELP, LOGS_HELP, RUNS_HELP, Commands, add_command


def add_parser(commands: Commands) -> None:
    parser = add_command(commands, "weights", run, __doc__)
    parser.add_argument("file", metavar="FILE|DIR|NAME", help=f"{FILE_HELP}; {RUNS_HELP}")
    parser.add_argument("--checkpoints", default="checkpoints", metavar="DIR", help=CHECKPOINTS_HELP)
    parser.add_argument("--logs", default="logs", metavar="DIR", help=LOGS_HELP)


def run(options: argparse.Namespace) -> None:
    from ..weights.loading import describe_weights
    from ..weights.thresholds import find_thresholds, threshold_path

    options.model = options.file
    path = find_model(options)
    print(describe_weights(path))
    calibration = find_thresholds(path)
    if calibration is not None:
        print(f"{threshold_path(path).name}: {calibration.summary()}")
