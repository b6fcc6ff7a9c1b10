"""Types of command line arguments, for argparse."""

import argparse


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
