"""Downloads resume, are checked, and appear whole or not at all."""

import contextlib
import hashlib
import http.server
import os
import re
import socket
import threading
import time
import types
import urllib.request

import numpy as np
import pytest

from siamese_mrcnn_tf.io import download, web
from siamese_mrcnn_tf.io.errors import InputError

CONTENT = np.random.default_rng(0).integers(0, 256, 1_000_003, dtype=np.uint8).tobytes()
MD5 = hashlib.md5(CONTENT).hexdigest()


class _Handler(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT as /model.h5; the server's attributes say how well, and keep the Range of each request."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        start = int((self.headers["Range"] or "bytes=0-")[len("bytes=") : -1])
        self.server.ranges.append(self.headers["Range"])
        if self.server.statuses:
            self.send_error(self.server.statuses.pop(0))
        elif self.path != "/model.h5":
            self.send_error(404)
        elif start >= len(CONTENT):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(CONTENT)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
        else:
            self._send(start if self.server.knows_ranges else 0)

    def _send(self, start):
        self.send_response(206 if start else 200)
        if start:
            claimed = start + self.server.range_error
            self.send_header("Content-Range", f"bytes {claimed}-{len(CONTENT) - 1}/{len(CONTENT)}")
        if self.server.tells_length:
            self.send_header("Content-Length", str(len(CONTENT) - start))
        self.send_header("Connection", "close")
        self.end_headers()
        body = CONTENT[start:]
        with contextlib.suppress(ConnectionError):  # the client may hang up on what it refuses
            self.wfile.write(body[: self.server.cuts.pop(0)] if self.server.cuts else body)
        self.close_connection = True

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(monkeypatch):
    """A server on the loopback address; no waiting between tries."""
    monkeypatch.setattr(download, "_WAITS", (0, 0))
    monkeypatch.delenv("SIAMESE_MRCNN_OFFLINE")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        server.ranges, server.statuses, server.cuts = [], [], []
        server.knows_ranges, server.tells_length, server.range_error = True, True, 0
        server.url = f"http://127.0.0.1:{server.server_port}/model.h5"
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server
        server.shutdown()


def _download(server, path, **options):
    return download.download(server.url, path, progress=False, **options)


def test_download_writes_the_whole_file(tmp_path, server, capsys):
    path = tmp_path / "new" / "model.h5"
    download.download(server.url, path, digest="md5:" + MD5.upper())
    assert path.read_bytes() == CONTENT and os.listdir(path.parent) == ["model.h5"]
    assert server.ranges == [None]
    output = capsys.readouterr()
    assert "model.h5: 100%" in output.err and not output.out


def test_download_without_progress_or_length_is_silent(tmp_path, server, capsys):
    server.tells_length = False
    _download(server, tmp_path / "model.h5")
    assert (tmp_path / "model.h5").read_bytes() == CONTENT and capsys.readouterr() == ("", "")


def test_download_replaces_an_old_file_only_at_the_end(tmp_path, server):
    path = tmp_path / "model.h5"
    path.write_text("old")
    server.statuses = [404]
    with pytest.raises(ConnectionError):
        _download(server, path)
    assert path.read_text() == "old"
    _download(server, path)
    assert path.read_bytes() == CONTENT


def test_download_goes_on_where_an_earlier_one_stopped(tmp_path, server):
    (tmp_path / "model.h5.part").write_bytes(CONTENT[:12345])
    _download(server, tmp_path / "model.h5", digest="md5:" + MD5)
    assert (tmp_path / "model.h5").read_bytes() == CONTENT and os.listdir(tmp_path) == ["model.h5"]
    assert server.ranges == ["bytes=12345-"]


def test_download_takes_a_part_that_is_already_complete(tmp_path, server):
    (tmp_path / "model.h5.part").write_bytes(CONTENT)
    _download(server, tmp_path / "model.h5", digest="md5:" + MD5)
    assert (tmp_path / "model.h5").read_bytes() == CONTENT


def test_download_starts_anew_after_a_part_that_is_too_long(tmp_path, server):
    (tmp_path / "model.h5.part").write_bytes(CONTENT + b"more")
    _download(server, tmp_path / "model.h5", digest="md5:" + MD5)
    assert server.ranges == [f"bytes={len(CONTENT) + 4}-", None]


def test_download_starts_anew_where_the_server_knows_no_ranges(tmp_path, server):
    server.knows_ranges = False
    (tmp_path / "model.h5.part").write_bytes(b"x" * 2_000_000)
    with pytest.raises(ConnectionError):  # its answer to an impossible range is the same as of others
        server.statuses = [403]
        _download(server, tmp_path / "model.h5")
    (tmp_path / "model.h5.part").write_bytes(b"x" * 500)
    _download(server, tmp_path / "model.h5", digest="md5:" + MD5)
    assert (tmp_path / "model.h5").read_bytes() == CONTENT


def test_download_resumes_after_cut_connections(tmp_path, server, caplog):
    server.cuts = [400_000, 300_000, 200_000, 100_000]  # more than the tries that bring nothing
    _download(server, tmp_path / "model.h5", digest="md5:" + MD5)
    assert (tmp_path / "model.h5").read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=400000-", "bytes=700000-", "bytes=900000-", "bytes=1000000-"]
    assert "broke off after 400000" in caplog.messages[0]


def test_download_gives_up_and_keeps_the_part(tmp_path, server):
    server.cuts = [500, 0, 0]
    message = (
        r"model\.h5: cannot be downloaded from http://127.*broke off after 500 .*; 500 bytes are kept in model\.h5"
    )
    with pytest.raises(ConnectionError, match=message):
        _download(server, tmp_path / "model.h5")
    assert len(server.ranges) == 3 and os.listdir(tmp_path) == ["model.h5.part"]
    _download(server, tmp_path / "model.h5", digest="md5:" + MD5)
    assert server.ranges[-1] == "bytes=500-" and os.listdir(tmp_path) == ["model.h5"]


def test_download_gives_up_on_a_server_that_always_starts_anew_and_cuts(tmp_path, server):
    server.knows_ranges, server.cuts = False, [500] * 10
    with pytest.raises(ConnectionError, match="broke off after 500 of 1000003 bytes"):
        _download(server, tmp_path / "model.h5")


def test_download_removes_what_has_another_checksum(tmp_path, server):
    (tmp_path / "model.h5").write_text("old")
    message = rf"model\.h5: the 1000003 bytes .*127.* checksum {MD5}, expected {'0' * 32}"
    with pytest.raises(ValueError, match=message):
        _download(server, tmp_path / "model.h5", digest="md5:" + "0" * 32)
    assert (tmp_path / "model.h5").read_text() == "old" and os.listdir(tmp_path) == ["model.h5"]


def test_download_names_what_the_server_answered(tmp_path, server):
    with pytest.raises(ConnectionError, match=r"b\.h5: cannot .* from http://.*/none \(HTTP status 404 Not Found\)$"):
        download.download(server.url.replace("model.h5", "none"), tmp_path / "b.h5", progress=False)
    assert len(server.ranges) == 1 and not os.listdir(tmp_path)


def test_download_tries_again_when_the_server_is_busy(tmp_path, server):
    server.statuses = [503, 429]
    _download(server, tmp_path / "model.h5", digest="md5:" + MD5)
    server.statuses = [500] * 3
    with pytest.raises(ConnectionError, match="HTTP status 500"):
        _download(server, tmp_path / "model.h5")
    assert len(server.ranges) == 6


def test_download_refuses_an_answer_that_is_no_success(tmp_path, server):
    server.statuses = [304]
    with pytest.raises(ConnectionError, match="HTTP status 304 Not Modified"):
        _download(server, tmp_path / "model.h5")
    assert not os.listdir(tmp_path)


def test_download_refuses_an_answer_of_another_range(tmp_path, server):
    server.range_error = 1
    (tmp_path / "model.h5.part").write_bytes(CONTENT[:10])
    with pytest.raises(ConnectionError, match="asked for the bytes from 10 on, the answer is of the range 'bytes 11-"):
        _download(server, tmp_path / "model.h5")


@pytest.mark.parametrize(
    "answer",
    ["bytes 10-9/1000003", "bytes 10-1000003/1000003", "bytes 10-99/50", "bytes 10-99/" + "9" * 5000, "bytes ١٠-9/*"],
)
def test_download_refuses_a_range_that_cannot_be(tmp_path, answer):
    (tmp_path / "a.h5.part").write_bytes(CONTENT[:10])
    response = types.SimpleNamespace(status=206, reason="", headers={"Content-Range": answer})
    with pytest.raises(web.FailedRequest, match="asked for the bytes from 10 on, the answer is of the range 'bytes"):
        download._extent(response, tmp_path / "a.h5.part", 10, "")


def test_download_starts_anew_where_the_rest_is_of_another_version(tmp_path):
    (tmp_path / "a.h5.part").write_bytes(CONTENT[:10])
    response = types.SimpleNamespace(status=206, reason="", headers={"Content-Range": "bytes 10-19/20", "ETag": '"b"'})
    with pytest.raises(web.FailedRequest, match="another version of the file, starting anew"):
        download._extent(response, tmp_path / "a.h5.part", 10, '"a"')
    assert not os.listdir(tmp_path)


def test_download_keeps_nothing_of_a_file_without_an_end(tmp_path, server, monkeypatch):
    monkeypatch.setattr(download, "_LIMIT", 500_000)
    with pytest.raises(ConnectionError, match="the server has 1000003 bytes, expected at most 500000"):
        _download(server, tmp_path / "model.h5")
    server.tells_length = False
    with pytest.raises(ConnectionError, match="the server sent more than 500000 bytes; they are not kept"):
        _download(server, tmp_path / "model.h5")
    assert not os.listdir(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in the folders of this system")
@pytest.mark.parametrize("make", [lambda path: os.mkfifo(path), lambda path: os.link(path.parent / "precious", path)])
def test_download_writes_to_no_other_file(tmp_path, server, make):
    (tmp_path / "precious").write_text("old")
    make(tmp_path / "model.h5.part")
    with pytest.raises(InputError, match=r"cannot be written \(model\.h5\.part is no file of its own, remove it\)"):
        _download(server, tmp_path / "model.h5")
    assert (tmp_path / "precious").read_text() == "old"


def test_download_ignores_a_tag_that_is_none(tmp_path, server):
    (tmp_path / "model.h5.part").write_bytes(CONTENT[:10])
    (tmp_path / "model.h5.part.tag").write_bytes(b'"a"\r\nHost: b')
    _download(server, tmp_path / "model.h5")
    assert (tmp_path / "model.h5").read_bytes() == CONTENT


def test_plain_http_needs_a_checksum(tmp_path):
    with pytest.raises(InputError, match=r"a\.h5: .* http://host/a without a checksum, expected an https address"):
        download.download("http://host/a", tmp_path / "a.h5")


@pytest.mark.parametrize("url", ["file:///etc/passwd", "data:,a", "ftp://host/a", "http://[::1", "http://a:99999999/"])
def test_other_addresses_are_not_opened(monkeypatch, url):
    monkeypatch.delenv("SIAMESE_MRCNN_OFFLINE")
    with pytest.raises(web.FailedRequest):
        web.open_url(url)


def test_proxies_are_those_of_the_time_of_the_first_request(monkeypatch):
    monkeypatch.setenv("https_proxy", "http://proxy:1")
    opener = web._opener.__wrapped__()
    assert any(getattr(one, "proxies", {}).get("https") == "http://proxy:1" for one in opener.handlers)


def test_download_says_that_nobody_answers(tmp_path, server):
    server.shutdown()
    server.server_close()
    with pytest.raises(ConnectionError, match=r"model\.h5: cannot be downloaded from .*refused"):
        _download(server, tmp_path / "model.h5")
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://host/a", "model.h5", "http://", "http://a b/", ""])
def test_download_refuses_other_addresses(tmp_path, url):
    with pytest.raises(ValueError, match=f"a.h5: cannot be downloaded from {re.escape(repr(url))}, expected an http"):
        download.download(url, tmp_path / "a.h5")


def test_download_names_the_file_that_cannot_be_written(tmp_path, server):
    with pytest.raises(ValueError, match="is a folder, expected a file"):
        _download(server, tmp_path)
    (tmp_path / "model.h5.part").mkdir()
    with pytest.raises(
        InputError, match=r"model\.h5: the download from http://.* cannot be written \(Is a directory\)"
    ):
        _download(server, tmp_path / "model.h5")


@pytest.mark.skipif(not hasattr(os, "O_NOFOLLOW"), reason="links of this system need rights")
def test_download_does_not_write_through_links(tmp_path, server):
    (tmp_path / "precious").write_text("old")
    (tmp_path / "model.h5.part").symlink_to(tmp_path / "precious")
    with pytest.raises(InputError, match=r"model\.h5: .* cannot be written \(model\.h5\.part is a symbolic"):
        _download(server, tmp_path / "model.h5")
    (tmp_path / "model.h5.part").unlink()
    for name in ("model.h5", "model.h5.part.tag"):
        (tmp_path / name).symlink_to(tmp_path / "precious")
    _download(server, tmp_path / "model.h5")
    assert (tmp_path / "precious").read_text() == "old" and not (tmp_path / "model.h5").is_symlink()
    assert (tmp_path / "model.h5").read_bytes() == CONTENT


def test_link_that_appears_between_check_and_opening_is_not_followed(tmp_path, monkeypatch):
    (tmp_path / "precious").write_text("old")
    (tmp_path / "model.h5.part").symlink_to(tmp_path / "precious")
    monkeypatch.setattr(type(tmp_path), "is_symlink", lambda path: False)
    with pytest.raises(OSError, match="symbolic links"):
        download._open_part(tmp_path / "model.h5.part")
    assert (tmp_path / "precious").read_text() == "old"


def test_download_refuses_another_size(tmp_path, server):
    with pytest.raises(ConnectionError, match="the server has 1000003 bytes, expected 5"):
        _download(server, tmp_path / "model.h5", size=5)
    server.tells_length = False
    with pytest.raises(ConnectionError, match=r"the server sent more than 5 bytes; they are not kept"):
        _download(server, tmp_path / "model.h5", size=5)
    with pytest.raises(ValueError, match=r"the 1000003 bytes that came .* should be 1000004; they are not kept"):
        _download(server, tmp_path / "model.h5", size=1_000_004)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
    ("before", "after", "safe"),
    [
        ("https://a/x", "https://b/y", True),
        ("http://a/x", "https://b/y", True),
        ("http://a/x", "http://b/y", True),
        ("https://a/x", "http://b/y", False),
        ("HTTPS://a/x", "HTTP://b/y", False),
        ("http://a/x", "ftp://b/y", False),
        ("http://a/x", "file:///etc/passwd", False),
        ("http://localhost:80/x", "http://127.0.0.1/y", True),
        ("http://localhost/x", "http://b/y", False),
    ],
)
def test_redirects_stay_as_safe(before, after, safe):
    request, follow = urllib.request.Request(before), web._SafeRedirects().redirect_request
    if safe:
        assert follow(request, None, 302, "Found", {}, after).full_url == after
    else:
        with pytest.raises(web.FailedRequest, match=re.escape(f"{before} redirects to {after}, which is less safe")):
            follow(request, None, 302, "Found", {}, after)


@pytest.mark.parametrize("start", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n"])
def test_a_server_that_sends_drops_is_left(tmp_path, monkeypatch, start):
    monkeypatch.delenv("SIAMESE_MRCNN_OFFLINE")
    monkeypatch.setattr(web, "PACE_WINDOW", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def drip():
            for _ in range(2):
                connection, _ = listening.accept()
                with connection, contextlib.suppress(OSError):
                    connection.sendall(start)
                    for _ in range(2000):
                        connection.sendall(b"H")
                        time.sleep(0.01)

        threading.Thread(target=drip, daemon=True).start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/model.h5"
        with pytest.raises(ConnectionError, match=r"model\.h5: .*bytes came in .* too slow"):
            download.download(url, tmp_path / "model.h5", progress=False)
        with pytest.raises(web.FailedRequest, match="too slow"):
            web.read_json_from(url)
    kept = tmp_path / "model.h5.part"
    assert kept.stat().st_size > 5 if b"Length" in start else not kept.exists()
