"""Search drawn scenes with the bundled weights, offline: a gallery within a minute.

Draws scenes of shapes and a reference of each of four categories, and runs `predict` on them. It prints the command, to
be tried with other images and references.
"""

import argparse
import shlex
import sys
import webbrowser
from pathlib import Path

from .options import Commands, add_command, at_least, seed

CATEGORIES = ("star", "ring", "comb", "gear")


def add_parser(commands: Commands) -> None:
    parser = add_command(commands, "example", run, __doc__)
    add, positive = parser.add_argument, at_least(1)
    add("--out", default="example", metavar="DIR", help="folder of scenes, references and finds (default example)")
    add("--scenes", type=positive, default=24, metavar="N", help="number of scenes (default 24)")
    add(
        "--size",
        type=at_least(64, 8192),
        default=128,
        metavar="N",
        help="long side of the scenes in pixels (default 128)",
    )
    add("--seed", type=seed, default=0, metavar="N", help="seed of the scenes (default 0)")
    add("--force", action="store_true", help="clear the finds of an earlier example in --out")
    add("--open", action="store_true", help="open the gallery in the browser")


def run(options: argparse.Namespace) -> int:
    from ..io.files import writable_folder
    from ..io.locks import exclusive

    with exclusive(writable_folder(options.out)):
        return _run(options)


def _run(options: argparse.Namespace) -> int:
    from ..io.files import remove_temporaries
    from ..search.journal import require_free
    from ..shapes.dataset import write_example

    out = Path(options.out)
    require_free(out / "found", force=options.force, ways="choose another folder (--out)")
    for part in ("scenes", "references"):
        remove_temporaries(out / part)
    write_example(out, CATEGORIES, scenes=options.scenes, size=options.size, seed=options.seed)
    command = ["predict", "--model", "shapes", "--image", str(out / "scenes")]
    for name in CATEGORIES:
        command += ["--reference", str(out / "references" / f"{name}.png")]
    command += ["--out", str(out / "found"), *(["--force"] if options.force else [])]
    print(f"$ {shlex.join([*options.launcher, *command])}", file=sys.stderr)
    code: int = options.run_command(command)
    if not code and options.open:
        webbrowser.open((out / "found" / "index.html").absolute().as_uri())
    return code
