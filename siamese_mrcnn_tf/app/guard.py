"""Which requests are answered: none that another web site sends through the user's browser.

On a loopback address the Host header must name one: otherwise a web site whose name is made to lead to 127.0.0.1 (DNS
rebinding) could read the user's images. Requests that change something must come from the page itself.
"""

import ipaddress
from collections.abc import Mapping
from urllib.parse import urlsplit

READING = ("GET", "HEAD")
_SAME_SITE = ("same-origin", "none")  # values of Sec-Fetch-Site: the page itself, or typed by the user


def is_loopback(host: str) -> bool:
    """Whether a host name or address is one of this machine that no other can reach."""
    name = host.strip("[]").lower().removesuffix(".")
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def refusal(method: str, headers: Mapping[str, str], *, loopback: bool) -> str | None:
    """Why a request is not answered; None if it is.

    `headers` are by lower-case name; `loopback` says that the server listens on a loopback address only.
    """
    host = headers.get("host", "")
    if loopback and not is_loopback(_hostname(f"//{host}")):
        return f"Host {host!r}: expected the address that the program printed"
    origin = headers.get("origin")
    if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
        return f"Origin {origin!r}: requests of other sites are not answered"
    site = headers.get("sec-fetch-site")
    if method not in READING and site is not None and site not in _SAME_SITE:
        return f"Sec-Fetch-Site {site!r}: requests of other sites are not answered"
    return None


def _hostname(address: str) -> str:
    try:
        return urlsplit(address).hostname or ""
    except ValueError:
        return ""
