"""What command lines share: types of arguments, for argparse, and the exit code."""

import argparse
import sys


def at_least(bound):
    """Argument type: a whole number from `bound` on."""

    def number(text):
        if not text.isdecimal() or int(text) < bound:
            raise argparse.ArgumentTypeError(f"expected a whole number of {bound} or more, got {text!r}")
        return int(text)

    return number


def above_zero(text):
    """Argument type: a number above 0."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return number


def exit_code(program, work, *, debug=False):
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
        return 130
