"""Members of zip archives, read up to a size that is known before they are unpacked."""

import lzma
import zipfile
import zlib

from .errors import InputError
from .files import StrPath, require_regular

# what zipfile raises on damaged, encrypted or foreign archives
DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    OSError,
    EOFError,
    LookupError,
    RuntimeError,
    ValueError,
    OverflowError,
    MemoryError,
)


def member_names(path: StrPath) -> list[str]:
    """The names in an archive; ValueError for one that is damaged, or no regular file."""
    require_regular(path)
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except DAMAGE as error:
        raise InputError(f"{path}: a damaged zip archive ({error}); fetch or copy it again") from error


def read_member(path: StrPath, name: str, *, limit: int, ratio: int = 0) -> bytes:
    """The bytes of a member.

    Args:
        limit: bytes that it may have unpacked.
        ratio: or this many times the bytes that it has in the archive, if that is more.

    Raises:
        ValueError: the archive is damaged or no regular file, or the member is missing or larger.
    """
    require_regular(path)
    try:
        with zipfile.ZipFile(path) as archive:
            found = archive.getinfo(name)
            allowed = max(limit, ratio * found.compress_size)
            if found.file_size > allowed:
                sizes = f"unpacks from {found.compress_size} to {found.file_size} bytes"
                raise InputError(f"{path}: {name} {sizes}, which is refused: expected at most {allowed}")
            return archive.read(found)
    except InputError:
        raise
    except DAMAGE as error:
        raise InputError(f"{path}: a damaged zip archive ({error}); fetch or copy it again") from error
