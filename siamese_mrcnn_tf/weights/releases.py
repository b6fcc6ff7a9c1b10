"""Assets of the releases of a GitHub repository, from GitHub's public API."""

import dataclasses
import re
from typing import Any

from ..io.web import FailedRequest, is_web_address, read_json_from

API = "https://api.github.com"
_PER_PAGE, _PAGES = 100, 10  # the most that the API gives at once; pages that are read


@dataclasses.dataclass(frozen=True)
class Asset:
    """A file of a release.

    Attributes:
        url: its address.
        size: in bytes; None if the listing does not say.
        digest: "sha256:..."; None if the listing does not say, as of older assets.
    """

    url: str
    size: int | None = None
    digest: str | None = None


def find_asset(repository: str, name: str) -> Asset | None:
    """The asset `name` of the newest release that has one; None if no release has.

    Args:
        repository: owner/name.

    Raises:
        FailedRequest: the API cannot be reached, refuses (as above its rate limit), or answers something else.
    """
    for page in range(1, _PAGES + 1):
        url = f"{API}/repos/{repository}/releases?per_page={_PER_PAGE}&page={page}"
        releases = read_json_from(url)
        try:
            found = [asset for release in releases for asset in release["assets"] if asset["name"] == name]
            if found:
                return _asset(found[0])
            if len(releases) < _PER_PAGE:
                return None
        except (TypeError, KeyError, AttributeError) as error:
            raise FailedRequest(f"{url} is no listing of releases ({error!r})", retry=False) from error
    return None


def _asset(content: dict[str, Any]) -> Asset:
    url, size, digest = content["browser_download_url"], content.get("size"), content.get("digest")
    if not is_web_address(url) or (API.startswith("https:") and not url.startswith("https:")):
        raise FailedRequest(f"the releases name the address {url!r}, expected https", retry=False)
    has_digest = isinstance(digest, str) and re.fullmatch("sha256:[0-9a-fA-F]{64}", digest) is not None
    return Asset(url, size if type(size) is int and size > 0 else None, digest if has_digest else None)
