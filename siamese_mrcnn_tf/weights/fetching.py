"""Downloads of known weight files into the per-user folder of downloads, verified by the weights in them."""

import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from ..io.cache import cache_folder
from ..io.download import download
from ..io.errors import InputError, StateError, TransferError
from ..io.files import StrPath, checksum, require_regular
from ..io.locks import LOCKS, locked
from ..io.web import OFFLINE, FailedRequest, is_offline
from .hdf5 import WeightFileError
from .identify import identify_weights
from .known_files import KNOWN_FILES
from .legacy_h5 import read_weights
from .releases import Asset, find_asset
from .trusted import Trusted, is_as_remembered, read_trusted, refuse_changed, remember, stamp_of

logger = logging.getLogger(__name__)
Tell = Callable[[str], None]  # is called with what happens, in words
_MB = 10**6
_BY_HAND = "put there by hand"


def fetch(known: str, checkpoints: StrPath, *, wanted: str = "", tell: Tell = logger.info) -> Path:
    """Download a known file into the folder of downloads; another process that does so is waited for.

    Args:
        known: a name of KNOWN_FILES.
        checkpoints: folder that errors name besides that of downloads.
        wanted: the known file that it stands in for.

    Raises:
        ValueError: what arrived is not the file, or not the one trusted so far; nothing of it is kept.
        ConnectionError: no source has it; says what each answered, and how to get it by hand.
        ValueError: the file cannot be written.
    """
    path, way = cache_folder() / known, by_hand(known, checkpoints, wanted)
    if is_offline():
        raise TransferError(f"{path}: no such file, and {OFFLINE} is set: nothing is downloaded. {way}")
    try:
        with locked(path.parent / LOCKS / f"{known}.lock", f"download of {known}"):
            if not path.is_file():
                _download_from_any(path, tell)
    except TransferError as error:
        raise TransferError(f"{error}. {way}") from error
    except ValueError as error:
        raise InputError(f"{error}. {way}") from error
    except OSError as error:  # of the folder of downloads, its locks and records
        raise InputError(f"{path}: {error.strerror or error}. {way}") from error
    return path


def find_fetched(known: str, tell: Tell = logger.info) -> Path | None:
    """A known file in the folder of downloads; None if it is not there.

    A file that was put there by hand is verified and remembered; one that has changed since is refused.

    Raises:
        ValueError: it is not that file, or not the one trusted so far.
    """
    path = cache_folder() / known
    require_regular(path, "a weight file")
    if not path.is_file():
        return None
    if not is_as_remembered(path):
        sha256 = checksum(path)
        refuse_changed(known, sha256, str(path), "; or remove it, and the trusted one is downloaded")
        before = read_trusted(known)
        source = before.source if before else _BY_HAND
        entry = Trusted(sha256, source, verify(known, path, f"{path}: this"), stamp=stamp_of(path))
        try:
            remember(known, entry)
        except (OSError, ValueError) as error:  # a folder that others fill
            logger.warning("%s: its checksum is not remembered (%s)", path, error)
        tell(f"{path}: {entry.verified}; sha256 {sha256}")
    return path


def verify(known: str, path: Path, what: str) -> str:
    """What the weights in a file are, in words.

    Raises:
        ValueError: they are not those of the known file, by names and shapes; begins with `what`.
    """
    try:
        info = identify_weights(read_weights(path, values=False).shapes)
    except WeightFileError as error:
        raise InputError(f"{what} is not {known} but {str(error).removeprefix(f'{path}: ')}") from error
    if misfit := KNOWN_FILES[known].misfit(info):
        raise InputError(f"{what} is not {known} but {misfit}")
    return info.text


def by_hand(known: str, checkpoints: StrPath, wanted: str = "") -> str:
    """How to get a known file without a download, or the one that it stands in for; a sentence."""
    entry = KNOWN_FILES[known]
    other = f" (or {wanted} from {KNOWN_FILES[wanted].source})" if wanted not in ("", known) else ""
    size = f", about {entry.megabytes} MB" if entry.megabytes else ""
    text = f"{known} is {entry.what}{size}: get it from {entry.source}{other} and put it into"
    return f"{text} {checkpoints} or {cache_folder()}"


def _download_from_any(path: Path, tell: Tell) -> None:
    """Download from the first source that has the file."""
    failures: list[str] = []
    for asset in _sources(path.name, failures):
        try:
            _download_from(asset, path, tell)
        except ConnectionError as error:
            failures.append(str(error))
        else:
            if failures:
                tell(f"{failures[0]}: no published size or checksum to compare, {path.name} is checked by its weights")
            return
    raise TransferError(_without_repeated_reason(failures))


def _without_repeated_reason(failures: list[str]) -> str:
    """The failures in one line; of neighbours with the same reason in brackets at their end the last alone has it."""
    reasons = [found[0] if (found := re.search(r" \([^()]*\)$", text)) else "" for text in failures]
    pairs = zip(failures, reasons, [*reasons[1:], None], strict=True)
    return "; ".join(text.removesuffix(reason) if reason == following else text for text, reason, following in pairs)


def _sources(known: str, failures: list[str]) -> Iterator[Asset]:
    """Where a known file may be: its address, or the asset that is listed, then the address that its tag suggests."""
    entry, listed = KNOWN_FILES[known], None
    if entry.url:
        yield Asset(entry.url, digest=entry.digest)
        return
    try:
        listed = find_asset(entry.repository, known)
        failures += [] if listed else [f"the releases of {entry.repository} list no {known}"]
    except FailedRequest as error:
        failures.append(f"the releases of {entry.repository} cannot be listed ({error})")
    if listed:
        yield listed
    address = entry.release_url(known)
    if address and (listed is None or address != listed.url):
        yield Asset(address)


def _download_from(asset: Asset, path: Path, tell: Tell) -> None:
    """Download one asset, verified and remembered."""
    found: list[str] = []

    def check(part: Path) -> None:
        what = f"{path}: what came from {asset.url}"
        found[:] = [checksum(part), verify(path.name, part, what)]
        refuse_changed(path.name, found[0], what)

    entry = KNOWN_FILES[path.name]
    about = f" (about {entry.megabytes} MB)" if entry.megabytes else ""
    size = about if asset.size is None else f" ({asset.size / _MB:.1f} MB)"
    tell(f"{path.name}{size}, {entry.what}: download from {asset.url} into {path.parent}")
    try:
        download(asset.url, path, size=asset.size, digest=asset.digest, check=check)
    except (TransferError, StateError):  # what came so far is kept
        raise
    except ValueError as error:
        raise InputError(f"{error}. Nothing of it is kept") from error
    sha256, verified = found
    remember(path.name, Trusted(sha256, asset.url, verified, stamp=stamp_of(path)))
    kept = f"sha256 {sha256}, which is remembered: a later file must have it, too"
    tell(f"{path}: {path.stat().st_size} bytes, {verified}; {kept}")
