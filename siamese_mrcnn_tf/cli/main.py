"""The `siamese-mrcnn` command: train and evaluate on COCO-format data, search images, inspect weights."""

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from . import check, convert, demo, evaluate, predict, pretrain, shapes, train, weights

_COMMANDS = (demo, predict, train, evaluate, check, convert, weights, pretrain, shapes)
_STOPPED = 130  # exit code after Ctrl-C


def main(arguments: Sequence[str] | None = None, *, program: Sequence[str] = ("siamese-mrcnn",)) -> int:
    """Run one command.

    Args:
        arguments: of the command line; None takes those of this process.
        program: words that start this program, for usage and messages.

    Returns:
        The exit code: 0, 2 after an error that the user can mend, 130 where the command was stopped.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    options = parse(arguments, program=program)
    logging.basicConfig(level=logging.INFO if options.verbose else logging.WARNING, format="%(message)s")
    if not options.debug:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow's start-up lines
    name = f"{_name_of(program)} {options.command_name}"
    return exit_code(name, lambda: options.command(options), debug=options.debug)


def parse(arguments: Sequence[str], *, program: Sequence[str] = ("siamese-mrcnn",)) -> argparse.Namespace:
    """The options of a command line, and with them `arguments`, `program`, and `parse`, which reads other arguments."""
    options = build_parser(_name_of(program)).parse_args(arguments)
    options.arguments, options.program = list(arguments), list(program)
    options.parse = lambda others: parse(others, program=program)
    options.run_command = lambda others: main(others, program=program)
    return options


def build_parser(name: str = "siamese-mrcnn") -> argparse.ArgumentParser:
    """The argument parser of all commands."""
    parser = argparse.ArgumentParser(prog=name, description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command_name")
    for module in _COMMANDS:
        module.add_parser(commands)
    return parser


def exit_code(program: str, work: Callable[[], int | None], *, debug: bool = False) -> int:
    """Do the work of a program; what the user can mend becomes a message on the error stream.

    Args:
        program: its name, for messages.
        work: callable that returns an exit code, or None for 0.
        debug: let errors through with their traceback.

    Returns:
        int: that of `work`, 2 for an error, 130 where it was interrupted.
    """
    try:
        return work() or 0
    except (ImportError, ValueError, RuntimeError, OSError) as error:
        if debug:
            raise
        sys.stderr.write(f"{program}: error: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write(f"{program}: stopped\n")
        return _STOPPED


def _name_of(program: Sequence[str]) -> str:
    return Path(program[-1]).name if program[-1].endswith(".py") else "siamese-mrcnn"
