"""A server on the loopback address that behaves as GitHub and the storage behind it, well or badly as told."""

import contextlib
import hashlib
import http.server
import json
import re
import threading
import urllib.parse


class Server(http.server.ThreadingHTTPServer):
    """Serves files as assets of releases.

    Attributes:
        assets: {(tag, name): content}; the releases of every repository, the newest first.
        requests: [(path, Range or None)] of all GET requests.
        cuts: bytes that the storage sends of an answer before it drops the connection, for each of the next answers.
        redirects: {path: address} that come before everything else.
        replies: {path: (status, headers, body)} that come before assets.
        pages: the listing is cut into pages of so many releases.
        digests: whether the listing has checksums, as that of newer assets.
        lies: {name: what the listing says in place of its "size" or the like}.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.reset()

    def reset(self):
        self.assets, self.requests, self.cuts, self.redirects, self.replies = {}, [], [], {}, {}
        self.pages, self.digests, self.lies = 100, False, {}

    def listing(self, page):
        tags = list(dict.fromkeys(tag for tag, _ in self.assets))[self.pages * (page - 1) : self.pages * page]
        return [{"tag_name": tag, "assets": [self.asset(*key) for key in self.assets if key[0] == tag]} for tag in tags]

    def asset(self, tag, name):
        content = self.assets[tag, name]
        return {
            "name": name,
            "size": len(content),
            "digest": f"sha256:{hashlib.sha256(content).hexdigest()}" if self.digests else None,
            "browser_download_url": f"{self.url}/owner/name/releases/download/{tag}/{name}",
            **self.lies.get(name, {}),
        }

    @property
    def downloads(self):
        """Ranges asked of the storage."""
        return [asked for path, asked in self.requests if path.startswith("/storage/")]


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server, address = self.server, urllib.parse.urlsplit(self.path)
        server.requests.append((address.path, self.headers["Range"]))
        if address.path in server.redirects:
            self.answer(302, {"Location": server.redirects[address.path]})
        elif address.path in server.replies:
            self.answer(*server.replies[address.path])
        elif re.fullmatch(r"/repos/\w[\w-]*/\w[\w.-]*/releases", address.path):
            page = int(urllib.parse.parse_qs(address.query)["page"][0])
            self.answer(200, {"Content-Type": "application/json"}, json.dumps(server.listing(page)).encode())
        elif match := re.fullmatch(r"/[\w-]+/[\w.-]+/releases/download/(.+)", address.path):
            self.answer(302, {"Location": f"{server.url}/storage/{match[1]}?signature=abc"})
        else:
            self.send_stored(server.assets.get(tuple(address.path.split("/")[2:])))

    def send_stored(self, content):
        if content is None:
            self.answer(404)
            return
        tag = f'"{hashlib.md5(content).hexdigest()}"'
        asked = self.headers["Range"] if self.headers["If-Range"] in (None, tag) else None
        start = int((asked or "bytes=0-")[len("bytes=") : -1])
        headers = {"ETag": tag, "Accept-Ranges": "bytes"}
        if start >= len(content):
            self.answer(416, {"Content-Range": f"bytes */{len(content)}"})
            return
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        cut = self.server.cuts.pop(0) if self.server.cuts else None
        self.answer(206 if start else 200, headers, content[start:], cut)

    def answer(self, status, headers=(), body=b"", cut=None):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **dict(headers)}.items():
            self.send_header(name, value)
        self.end_headers()
        with contextlib.suppress(ConnectionError):  # the client may hang up on what it refuses
            self.wfile.write(body[:cut])

    def log_message(self, *arguments):
        pass


@contextlib.contextmanager
def running():
    """Context of a `Server` that answers."""
    with Server() as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server
        server.shutdown()
