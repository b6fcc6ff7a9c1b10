"""One-shot instance segmentation with Siamese Mask R-CNN: detect, train, evaluate and prepare data."""

import argparse
import io
import logging
import os
import re
import shutil
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TextIO

from .. import __version__
from ..io.errors import InputError
from . import (
    app,
    calibrate,
    check,
    convert,
    demo,
    evaluate,
    example,
    export,
    predict,
    pretrain,
    quantize,
    settings,
    shapes,
    train,
    weights,
)
from .parser import Parser, refuse_unknown_command, refuse_unknown_options

PROGRAM = "siamese-mrcnn"
_ABSENT = object()
_COMMANDS = (
    example,
    predict,
    app,
    demo,
    train,
    evaluate,
    calibrate,
    check,
    convert,
    weights,
    settings,
    export,
    quantize,
    pretrain,
    shapes,
)


_TEXT_OPTIONS = ("--set", "--categories", "--category", "--attribute")  # whose values are no paths
_PIXELS = "SIAMESE_MRCNN_MAX_PIXELS"  # `io.decoding.VARIABLE`, which comes with Pillow
_MAX_NAME = 255  # bytes of the name of a file or folder


def main(
    arguments: Sequence[str] | None = None, *, program: Sequence[str] | None = None, command: str | None = None
) -> int:
    """Run one command and return its exit code.

    It is 0, 1 where `check` finds something broken or `predict` skips images, 2 after an error that the user can
    correct, 3 after a bug, 130 after an interrupt, 141 if what reads the output has ended.

    Args:
        arguments: of the command line; None takes those of this process.
        program: words that start this program, for usage and messages; None takes what the user typed.
        command: the only command of a program that is named after it, such as samples/imagenet/pretrain.py.
    """
    program = program or (typed_program() if arguments is None else [PROGRAM])
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names may have bytes that are no characters
    pixels = os.environ.get(_PIXELS)
    try:
        code = _run(sys.argv[1:] if arguments is None else arguments, program, command)
        _flush_output()
        return code
    except BrokenPipeError:  # what reads the output has ended, such as `head`
        _drop(sys.stdout)
        return 141
    except _OutputError as error:
        _drop(sys.stdout)
        _say(f"{name_of(program)}: error: standard output: cannot be written ({error})")
        return 2
    finally:  # --max-pixels is of one command, also where a program calls several
        if pixels is None:
            os.environ.pop(_PIXELS, None)
        else:
            os.environ[_PIXELS] = pixels


def _run(arguments: Sequence[str], program: Sequence[str], command: str | None) -> int:
    try:
        options = parse(arguments, program=program, command=command)
    except SystemExit:
        _flush_output()  # of --help
        raise
    except OSError as error:
        _flush_output(after=error)
        raise
    logging.basicConfig(level=logging.INFO if options.verbose else logging.WARNING, format="%(message)s")
    if not options.debug:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # what it hides reaches the user as an exception too
    try:
        return options.command(options) or 0
    except KeyboardInterrupt:
        _say(f"{options.prog}: interrupted")
        return 130
    except BrokenPipeError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and not isinstance(error, InputError):
            _flush_output(after=error)
        if options.debug:
            raise
        return _report(error, options.prog)


class _OutputError(Exception):
    """Standard output cannot be written, for lack of space for instance."""


def _flush_output(after: OSError | None = None) -> None:
    """Write what has been printed so far; _OutputError if that fails.

    Args:
        after: an error that may be of standard output, which is tried again with an empty line.
    """
    if sys.stdout is None:  # closed by whoever started the program
        return
    try:
        if after is not None:
            sys.stdout.write("\n")
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise _OutputError(error.strerror or str(error)) from error


def _drop(stream: TextIO) -> None:
    """Let go what a stream has not written, which would be tried again when Python ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _say(text: str) -> None:
    """Print a line on standard error, if that can be written."""
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        _drop(sys.stderr)


def _report(error: Exception, prog: str) -> int:
    """Print an error and return its exit code: 2 for one that the user can correct, 3 for a bug."""
    if isinstance(error, InputError):
        _say(f"{prog}: error: {error}")
        return 2
    place = traceback.extract_tb(error.__traceback__)[-1]
    _say(
        f"{prog}: bug: {type(error).__name__}: {error} ({Path(place.filename).name}, line {place.lineno}). Please run "
        "the command again with --debug and report what it prints."
    )
    return 3


def parse(
    arguments: Sequence[str], *, program: Sequence[str] = (PROGRAM,), command: str | None = None
) -> argparse.Namespace:
    """The options of a command line.

    Besides the command's own: `arguments`; `given`, the names of the attributes that were typed; `said`, the notes that
    were printed (`effects`); `launcher`, the words that start any command; `program`, those that start
    this one; `prog`, its name in messages; `parse`, which reads other arguments; `run_command`, which runs others.
    """
    parser, commands = build_parsers(name_of(program))
    arguments = list(arguments)
    if command is not None:
        commands[command].prog = name_of(program)
        arguments = arguments if arguments[:1] == [command] else [command, *arguments]
    options = _parse_command(parser, commands, arguments)
    options.given, options.said = typed_options(commands[options.command_name], arguments[1:], options), set()
    if getattr(options, "max_pixels", None):
        from ..io.decoding import allow_pixels  # with Pillow, which --help does without

        allow_pixels(options.max_pixels)
    options.arguments, options.prog = arguments, commands[options.command_name].prog
    options.launcher = [PROGRAM] if command else list(program)
    options.program = list(program) if command else [*program, options.command_name]
    options.parse = lambda others: parse(others, program=program, command=command)
    options.run_command = lambda others: main(others, program=options.launcher)
    return options


def _parse_command(
    parser: argparse.ArgumentParser, commands: Mapping[str, argparse.ArgumentParser], arguments: list[str]
) -> argparse.Namespace:
    """The options of arguments that begin with a command; its own parser reads them, and errors have its name."""
    name = next(iter(arguments), "")
    if name not in commands:
        _refuse_values(parser, arguments)
        refuse_unknown_command(parser, commands, arguments)
        return parser.parse_args(arguments)
    refuse_unknown_options(commands[name], arguments[1:])
    _refuse_values(commands[name], arguments)
    return commands[name].parse_args(arguments[1:], argparse.Namespace(command_name=name))


def typed_options(
    parser: argparse.ArgumentParser, arguments: Sequence[str], options: argparse.Namespace
) -> frozenset[str]:
    """The attributes of `options` that come from arguments and not from defaults."""
    blank = {name: [] if isinstance(value, list) else _ABSENT for name, value in vars(options).items()}
    found = vars(parser.parse_args(arguments, argparse.Namespace(**blank)))
    return frozenset(name for name, value in found.items() if value is not _ABSENT and value != [])


def _refuse_values(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> None:
    """End with an error of use if a value is empty, which as a path would be the current folder, or can be no path."""
    name = "arguments"
    for argument in arguments:
        option, equals, value = argument.partition("=")
        if option.startswith("--"):
            name = option
            argument = value if equals else option
        if not argument.strip():
            parser.error(f"{name}: expected a value, got an empty text")
        if "\udc80" <= max(argument) <= "\udcff":
            parser.error(f"{name} {argument!r}: has bytes that are no characters; rename the file")
        is_number = argument.lstrip("+-").isdecimal()  # its own check says more
        if (
            name not in _TEXT_OPTIONS
            and not is_number
            and max(len(part.encode()) for part in re.split(r"[/\\]", argument)) > _MAX_NAME
        ):
            parser.error(f"{name} {argument[:40]}...: a name of more than {_MAX_NAME} bytes")


def build_parsers(name: str = PROGRAM) -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """(the parser of all commands, the parser of each by its name)."""
    parser: argparse.ArgumentParser = Parser(prog=name, description=__doc__)
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command_name")
    for module in _COMMANDS:
        module.add_parser(commands)
    return parser, commands.choices


def typed_program() -> list[str]:
    """The words that started this process, without its arguments, such as ["python", "-m", "siamese_mrcnn_tf"]."""
    words = sys.orig_argv[: len(sys.orig_argv) - len(sys.argv) + 1]
    if not words or sys.orig_argv[len(words) :] != sys.argv[1:]:
        return [PROGRAM]
    if Path(words[-1]).stem == PROGRAM:  # the installed command; Python put its interpreter in front
        return [PROGRAM if shutil.which(PROGRAM) == words[-1] else words[-1]]
    return words


def name_of(program: Sequence[str]) -> str:
    """A program's name in usage and messages: `coco.py`, `python -m siamese_mrcnn_tf` or `siamese-mrcnn`."""
    if program[-1].endswith(".py"):
        return Path(program[-1]).name
    return " ".join(["python", *program[1:]]) if "-m" in program else PROGRAM
