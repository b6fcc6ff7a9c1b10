"""The parser of the command line: an error is one line that names what was mistyped and suggests what was meant."""

import argparse
import difflib
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

_SIMILARITY = 0.7  # of names, from which on one is suggested for another
_NUMBER = re.compile(r"-\.?[0-9]")  # how a negative number begins
_HELP = " See "  # begins the end of an error


class Parser(argparse.ArgumentParser):
    """A parser that prints errors without the usage, and does not ignore what standard output says."""

    def error(self, message: str) -> NoReturn:
        end = "" if message.endswith("?") else "."
        self.exit(2, f"{self.prog}: error: {message}{end}{_HELP}{self.prog} --help\n")

    def _print_message(self, message: str, file: Any = None) -> None:
        if file is None or file is not sys.stdout:
            super()._print_message(message, file)
        else:
            file.write(message)


def error_in(printed: str) -> str:
    """The message of the error that a Parser has printed; empty for none."""
    return printed.strip().rpartition("error: ")[2].rpartition(_HELP)[0].removesuffix(".")


def refuse_unknown_options(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> None:
    """End with an error for an option that the parser does not know, before it misses those that are required."""
    known = parser._option_string_actions
    for word in arguments:
        name = word.partition("=")[0]
        if word == "--":  # what follows are values
            return
        if _is_option(name) and not any(option.startswith(name) for option in known):
            parser.error(f"unknown option {name}{did_you_mean(name, known)}")


def refuse_unknown_command(parser: argparse.ArgumentParser, commands: Iterable[str], arguments: Sequence[str]) -> None:
    """End with an error if the arguments of a program begin with neither a command nor an option of the program."""
    first = next(iter(arguments), "")
    if first.startswith("-"):
        refuse_unknown_options(parser, [first])
    elif first and first not in commands:
        parser.error(f"unknown command {first!r}{did_you_mean(first, commands)}")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """End of a sentence that suggests the most similar name; empty where none is similar."""
    close = difflib.get_close_matches(name, known, 1, _SIMILARITY)
    return f"; did you mean {close[0]}?" if close else ""


def _is_option(name: str) -> bool:
    """Whether argparse takes a word, without "=" and what follows, for an option."""
    return name.startswith("-") and name != "-" and " " not in name and not _NUMBER.match(name)
