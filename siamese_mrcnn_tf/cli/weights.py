"""Show known weight files, or get one and show its contents, origin and the configuration it fits.

Without a name all known files are listed, with the place of those that are here. A known file that is missing is
downloaded, verified by the names and shapes of its weights, and its checksum is remembered.
"""

import argparse
from pathlib import Path

from ..io.errors import InputError
from .inputs import find_model
from .options import CHECKPOINTS_HELP, FILE_HELP, LOGS_HELP, RUNS_HELP, Commands, add_command

_ACCEPT_HELP = "trust the known file with this sha256 checksum from now on, in place of the one that is remembered"


def add_parser(commands: Commands) -> None:
    parser = add_command(commands, "weights", run, __doc__)
    names = f"{FILE_HELP}; {RUNS_HELP}; without it known files are listed"
    parser.add_argument("file", nargs="?", metavar="FILE|DIR|NAME", help=names)
    parser.add_argument("--accept", metavar="SHA256", help=_ACCEPT_HELP)
    parser.add_argument("--checkpoints", default="checkpoints", metavar="DIR", help=CHECKPOINTS_HELP)
    parser.add_argument("--logs", default="logs", metavar="DIR", help=LOGS_HELP)


def run(options: argparse.Namespace) -> None:
    from ..weights.known_files import KNOWN_FILES, known_name
    from ..weights.loading import describe_weights
    from ..weights.thresholds import find_thresholds, threshold_path
    from ..weights.trusted import accept

    known = known_name(options.file or "")
    if options.accept:
        if known is None:
            raise InputError(f"--accept {options.accept}: expected the name of a known file: {', '.join(KNOWN_FILES)}")
        accept(known, options.accept)
    if options.file is None:
        print(listing(options.checkpoints))
        return
    options.model = options.file
    path = find_model(options)
    print(f"{describe_weights(path)}\n\n{origin(path)}")
    calibration = find_thresholds(path)
    if calibration is not None:
        print(f"{threshold_path(path).name}: {calibration.summary()}")


def origin(path: Path) -> str:
    """Place, size, checksum and source of a weight file as lines of text."""
    from ..io.files import checksum
    from ..weights.known_files import KNOWN_FILES
    from ..weights.pretrained import bundled_weights
    from ..weights.trusted import read_trusted

    sha256, source, verified = checksum(path), "unknown", "not a known file"
    entry = read_trusted(path.name) if path.name in KNOWN_FILES else None
    if path == bundled_weights():
        source, verified = "bundled with the package", "comes with the package"
    elif entry is not None and entry.sha256 == sha256:
        source, verified = entry.source, f"on {entry.date} as {entry.verified}"
    elif entry is not None:
        verified = f"no: not the file of {entry.date} ({entry.source}), whose sha256 is {entry.sha256}"
    elif path.name in KNOWN_FILES:
        verified = fitness(path)
    rows = {
        "file": path.absolute(),
        "size": f"{path.stat().st_size:,} bytes",
        "sha256": sha256,
        "source": source,
        "verified": verified,
    }
    return "\n".join(f"{title + ':':9} {value}" for title, value in rows.items())


def fitness(path: Path) -> str:
    """Whether the weights in a file are those of the known file of its name, in words."""
    from ..weights.fetching import verify

    try:
        return f"its weights fit its name: {verify(path.name, path, 'it')}"
    except ValueError as error:
        return f"no: {error}"


def listing(checkpoints: str) -> str:
    """Known files, their short names, and where they are, as lines of text."""
    from ..io.cache import cache_folder
    from ..weights.known_files import KNOWN_FILES
    from ..weights.pretrained import bundled_weights

    rows = [("name", "short name", "present")]
    rows.append((bundled_weights().name, "shapes", "bundled"))
    for name, entry in KNOWN_FILES.items():
        places = [folder for folder in (Path(checkpoints), cache_folder()) if (folder / name).is_file()]
        absent = "not yet, downloaded on first use" if entry.can_be_downloaded else "no"
        absent += f", {entry.substitute} is used" if entry.substitute else ""
        rows.append((name, entry.alias, f"in {places[0]}" if places else absent))
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    lines = [f"{row[0]:{widths[0]}}  {row[1]:{widths[1]}}  {row[2]}" for row in rows]
    return "\n".join([*lines, "", f"downloads are kept in {cache_folder()} (SIAMESE_MRCNN_CACHE names another folder)"])
