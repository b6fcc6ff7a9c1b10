"""Requests to web servers: http and https only, proxies of the environment, redirects that stay as safe."""

import functools
import http.client
import io
import json
import os
import re
import socket
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

OFFLINE = "SIAMESE_MRCNN_OFFLINE"  # environment variable that forbids requests
_TIMEOUT = 30  # seconds without a byte after which a connection counts as dropped
SLOWEST = 1024  # bytes a second, on average over PACE_WINDOW, below which a server counts as one that never ends
PACE_WINDOW = 60  # seconds
_BUSY = (http.HTTPStatus.TOO_MANY_REQUESTS, *range(500, 600))  # HTTP statuses that a retry may change
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_MESSAGE = 200  # characters of a server's message that are shown


class FailedRequest(Exception):
    """A request that failed; `retry` tells whether another try may succeed."""

    def __init__(self, reason: object, *, retry: bool = True) -> None:
        super().__init__(reason)
        self.retry = retry


class TooSlow(TimeoutError):
    """A server sends less than SLOWEST bytes a second."""


class _Paced(io.RawIOBase):
    """The bytes of a connection; TooSlow if they come in drops, each in time and the whole never."""

    def __init__(self, raw: io.RawIOBase) -> None:
        self._raw, self._since, self._came = raw, time.monotonic(), 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        now = time.monotonic()
        if now - self._since > PACE_WINDOW:
            if self._came < SLOWEST * PACE_WINDOW:
                raise TooSlow(f"{self._came} bytes came in {now - self._since:.0f} s, that is too slow")
            self._since, self._came = now, 0
        count: int | None = self._raw.readinto(buffer)
        self._came += count or 0
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Response(http.client.HTTPResponse):
    """A response that is paced from its first byte on."""

    def __init__(self, sock: socket.socket, *arguments: Any, **options: Any) -> None:
        super().__init__(sock, *arguments, **options)
        self.fp = io.BufferedReader(_Paced(self.fp.detach()))


class _Http(http.client.HTTPConnection):
    response_class = _Response


class _Https(http.client.HTTPSConnection):
    response_class = _Response


class _HttpHandler(urllib.request.HTTPHandler):
    def http_open(self, req: Any) -> Any:
        return self.do_open(_Http, req)


class _HttpsHandler(urllib.request.HTTPSHandler):
    def https_open(self, req: Any) -> Any:
        return self.do_open(_Https, req)


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to http and https only, from https to https only, and from this machine to no plain http."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        schemes = [urllib.parse.urlsplit(url).scheme.lower() for url in (req.full_url, newurl)]
        leaves = is_safe_address(req.full_url) and not is_safe_address(newurl)
        if schemes[1] not in ("http", "https") or schemes == ["https", "http"] or leaves:
            raise FailedRequest(f"{req.full_url} redirects to {newurl}, which is less safe", retry=False)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


@functools.cache
def _opener() -> urllib.request.OpenerDirector:
    """An opener of http and https alone: the default one also reads files, FTP servers and data in addresses.

    It takes the proxies of the environment when the first request is made.
    """
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        _HttpHandler(),
        _HttpsHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
        _SafeRedirects(),
    ):
        opener.add_handler(handler)
    return opener


def is_offline() -> bool:
    """Whether SIAMESE_MRCNN_OFFLINE is set, to anything but 0."""
    return os.environ.get(OFFLINE, "0") not in ("", "0")


def is_web_address(url: str) -> bool:
    """Whether `url` is a whole http or https address."""
    return re.fullmatch(r"https?://[^\s/]\S*", url, re.IGNORECASE) is not None


def is_safe_address(url: str) -> bool:
    """Whether an address is of https, or of this machine."""
    try:
        parts = urllib.parse.urlsplit(url)
    except ValueError:
        return False
    return parts.scheme.lower() == "https" or parts.hostname in _LOOPBACK


def open_url(url: str, headers: dict[str, str] | None = None) -> Any:
    """The response of a GET request, also one that is an error; a context manager.

    Raises:
        FailedRequest: no response, no http or https address, or a redirect to a less safe one.
    """
    if not is_web_address(url):
        raise FailedRequest(f"{url!r} is no http or https address", retry=False)
    if is_offline():
        raise FailedRequest(f"{OFFLINE} is set", retry=False)
    try:
        request = urllib.request.Request(url, headers={"User-Agent": "siamese-mrcnn", **(headers or {})})
        return _opener().open(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        return error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        lasting = isinstance(reason, (socket.gaierror, ssl.SSLCertVerificationError, TooSlow))
        words = reason.strerror if isinstance(reason, OSError) and reason.strerror else reason
        raise FailedRequest(words, retry=not lasting) from error
    except ValueError as error:  # an address, or that of a redirect, that is none
        raise FailedRequest(f"not an address: {error}", retry=False) from error


def refuse_error(response: Any) -> None:
    """Raise FailedRequest for a response that is not a success, such as an error or a redirect to nowhere."""
    if not 200 <= response.status < 300:
        raise FailedRequest(answer_of(response), retry=response.status in _BUSY)


def answer_of(response: Any) -> str:
    """The HTTP status of a response in words."""
    return f"HTTP status {response.status} {response.reason}"


def read_json_from(url: str, *, limit: int = 16 * 2**20) -> Any:
    """The content of a JSON document of at most `limit` bytes.

    Raises:
        FailedRequest: no such document; has the server's answer, with the message of a JSON answer.
    """
    try:
        with open_url(url, {"Accept": "application/json"}) as response:
            text = response.read(limit + 1)
            status = response.status
            answer = answer_of(response)
    except (OSError, http.client.HTTPException) as error:
        raise FailedRequest(f"the connection broke off: {error!r}") from error
    try:
        content = json.loads(text[: limit + 1]) if len(text) <= limit else None
    except (ValueError, RecursionError):
        content = None
    if not 200 <= status < 300:
        message = content.get("message") if isinstance(content, dict) else None
        raise FailedRequest(f"{answer}: {message[:_MESSAGE]}" if isinstance(message, str) else answer)
    if content is None:
        raise FailedRequest(f"{url} is no JSON document", retry=False)
    return content
