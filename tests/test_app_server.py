"""The web server of the page, and its command."""

import contextlib
import http.client
import io
import json
import re
import socket
import sys

import pytest
from app_parts import THRESHOLD, FakeSearcher, image_file, served
from PIL import Image

from siamese_mrcnn_tf.app.guard import is_loopback, refusal
from siamese_mrcnn_tf.app.images import Limits
from siamese_mrcnn_tf.app.searcher import Searcher
from siamese_mrcnn_tf.app.sessions import Sessions

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")


@pytest.fixture
def searcher():
    return FakeSearcher()


# ---- requests of others ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.8.9.1", "::1", "[::1]", "LOCALHOST."])
def test_loopback_addresses(host):
    assert is_loopback(host)


@pytest.mark.parametrize(
    ("method", "headers", "loopback", "refused"),
    [
        ("GET", {"host": "127.0.0.1:7860"}, True, None),
        ("GET", {"host": "[::1]:7860"}, True, None),
        ("GET", {"host": "evil.example:7860"}, True, "Host"),
        ("GET", {"host": "127.0.0.1.evil.example"}, True, "Host"),
        ("GET", {}, True, "Host"),
        ("GET", {"host": "[::1"}, True, "Host"),
        ("GET", {"host": "machine:7860"}, False, None),
        ("POST", {"host": "localhost:1", "origin": "http://localhost:1"}, True, None),
        ("POST", {"host": "localhost:1", "origin": "http://evil.example"}, True, "Origin"),
        ("POST", {"host": "localhost:1", "origin": "http://localhost:2"}, True, "Origin"),
        ("POST", {"host": "localhost:1", "origin": "null"}, True, "Origin"),
        ("POST", {"host": "machine:1", "origin": "http://evil.example"}, False, "Origin"),
        ("POST", {"host": "localhost:1", "sec-fetch-site": "cross-site"}, True, "Sec-Fetch-Site"),
        ("POST", {"host": "localhost:1", "sec-fetch-site": "same-origin"}, True, None),
        ("GET", {"host": "localhost:1", "sec-fetch-site": "cross-site"}, True, None),
    ],
)
def test_requests_of_other_sites(method, headers, loopback, refused):
    reason = refusal(method, headers, loopback=loopback)
    assert reason is None if refused is None else reason.startswith(refused)


# ---- the server --------------------------------------------------------------------------------------------------
@pytest.fixture
def ask(searcher):
    """A function that sends a request to a served session: (status, content, headers)."""
    sessions = Sessions(searcher, threshold=THRESHOLD, limits=Limits(upload_mb=1, pixels=10_000))
    with served(sessions, examples=lambda: {"example.png": image_file()}) as place:

        def send(method, path, body=None, **headers):
            connection = http.client.HTTPConnection(*place, timeout=20)
            body = json.dumps(body) if isinstance(body, dict) else body
            headers = {name.replace("_", "-"): value for name, value in headers.items()}
            with contextlib.closing(connection):
                connection.request(method, path.replace("SESSION", token), body, headers)
                answer = connection.getresponse()
                content = answer.read()
            is_json = answer.headers["content-type"] == "application/json"
            return answer.status, json.loads(content) if is_json else content, answer.headers

        token = ""
        token = send("POST", "/api/sessions")[1]["session"]
        yield send


def test_a_session_over_http(ask, searcher):
    assert ask("GET", "/api/SESSION")[1]["examples"]
    assert [one["name"] for one in ask("POST", "/api/SESSION/examples")[1]["images"]] == ["example.png"]
    assert ask("POST", "/api/SESSION/images?name=b.png", image_file())[1]["id"] == 2
    for size in ("view", "thumbnail"):
        status, content, headers = ask("GET", f"/api/SESSION/images/2/{size}")
        assert status == 200 and headers["content-type"] == "image/png"
        assert Image.open(io.BytesIO(content)).size == (60, 40)
    assert ask("POST", "/api/SESSION/categories", {"name": "corner"})[1]["threshold"] == THRESHOLD
    status, record, _ = ask("POST", "/api/SESSION/categories/1/references", {"image": 1, "box": [0, 0, 10.4, 9.6]})
    reference = record["references"][0]
    assert status == 201 and reference["box"] == [0, 0, 10, 10]
    status, crop, _ = ask("GET", f"/api/SESSION/categories/1/references/{reference['id']}")
    assert Image.open(io.BytesIO(crop)).size == (10, 10)
    assert ask("POST", "/api/SESSION/categories/1/finds/2")[1]["scores"] == pytest.approx([0.9, 0.3])
    assert ask("PATCH", "/api/SESSION/categories/1", {"threshold": 0.2})[1]["threshold"] == 0.2
    status, content, headers = ask("GET", "/api/SESSION/export/coco")
    assert len(content["annotations"]) == 4 and 'filename="annotations.json"' in headers["content-disposition"]
    assert ask("DELETE", f"/api/SESSION/categories/1/references/{reference['id']}")[1]["references"] == []
    assert len(ask("DELETE", "/api/SESSION/images/1")[1]["images"]) == 1
    assert ask("DELETE", "/api/SESSION/categories/1")[1]["categories"] == []


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "message"),
    [
        ("POST", "/api/SESSION/images?name=a.png", b"text", 400, "a.png: not an image that can be opened"),
        ("POST", "/api/SESSION/images?name=a.png", bytes(2**20 + 1), 413, "a.png: the file has 1.0 MB, at most 1 MB"),
        ("POST", "/api/SESSION/categories", b"{", 400, "request: not JSON"),
        ("POST", "/api/SESSION/categories", b"[]", 400, "expected a JSON object with the keys name"),
        ("POST", "/api/SESSION/categories", {"frob": 1}, 400, "expected a JSON object with the keys name"),
        ("POST", "/api/SESSION/categories", bytes(2**17), 413, "expected 65536 or fewer"),
        ("POST", "/api/SESSION/categories/9/references", {"image": 1, "box": [1, 2, 3, "4x"]}, 400, "box = "),
        ("POST", "/api/SESSION/categories/9/references", {"image": 1}, 400, "expected the keys image and box"),
        ("POST", "/api/SESSION/categories/9/references", {"image": 1, "box": [0, 0, 9, 9]}, 404, "category 9"),
        ("GET", "/api/SESSION/images/9/view", None, 404, "image 9 is not open"),
        ("GET", "/api/SESSION/export/coco", None, 400, "draw a box around an object first"),
        ("GET", "/api/SESSION/export/frob", None, 404, "expected one of coco, labelme, embeddings"),
        ("GET", "/api/other", None, 404, "this session has expired"),
    ],
)
def test_errors_over_http(ask, method, path, body, status, message):
    found, content, _ = ask(method, path, body)
    assert found == status and message in content["error"]


def test_a_failure_inside_is_told(ask, searcher, monkeypatch):
    ask("POST", "/api/SESSION/examples")
    ask("POST", "/api/SESSION/categories", {})
    ask("POST", "/api/SESSION/categories/1/references", {"image": 1, "box": [0, 0, 9, 9]})
    monkeypatch.setattr(searcher, "search", lambda *_: {}["out of memory"])
    status, content, _ = ask("POST", "/api/SESSION/categories/1/finds/1")
    assert status == 500 and content["error"] == "the program failed (KeyError); its log says more"


def test_other_sites_are_refused(ask):
    assert ask("GET", "/", host="evil.example")[0] == 403
    assert ask("POST", "/api/sessions", origin="http://evil.example")[0] == 403
    status, content, headers = ask("GET", "/")
    assert status == 200 and b"/static/page.js" in content
    assert "script-src 'self'" in headers["content-security-policy"] and headers["x-content-type-options"] == "nosniff"


def test_the_page_asks_no_other_machine():
    from siamese_mrcnn_tf.app.server import STATIC

    texts = [path.read_text(encoding="utf-8") for path in STATIC.iterdir()]
    found = {link for text in texts for link in re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s\"']*", text)}
    assert found == {"http://www.w3.org/2000/svg"}  # a name, not an address


# ---- the command -------------------------------------------------------------------------------------------------
def test_images_of_the_command(tmp_path):
    from siamese_mrcnn_tf.cli.app import open_images

    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "1.png").write_bytes(image_file())
    sources = [str(tmp_path / "a"), str(tmp_path / "b")]
    assert [image.name for image in open_images(sources, Limits())] == ["1.png", "1-2.png"]
    assert open_images([], Limits()) == []
    with pytest.raises(ValueError, match="2 images, at most --max-images 1"):
        open_images(sources, Limits(images=1))
    with pytest.raises(ValueError, match=r"1\.png: 60 x 40 pixels"):
        open_images(sources, Limits(pixels=100))


def test_addresses_of_the_command(run):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, _, error = run("app", "--model", "shapes", "--port", port)
    assert code == 2 and f"--host 127.0.0.1 --port {port}: cannot listen there" in error
    assert run("app", "--model", "shapes", "--host", "192.0.2.1", "--port", 0)[0] == 2


def test_the_extra_is_named_where_it_is_missing(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    code, _, error = run("app", "--model", "shapes")
    assert code == 2 and 'pip install "siamese-mrcnn-tf[app]"' in error


def test_a_warning_where_others_can_reach_the_page(run, monkeypatch):
    uvicorn = pytest.importorskip("uvicorn")
    monkeypatch.setattr("siamese_mrcnn_tf.cli.app.open_predictor", lambda options, config, weights: None)
    monkeypatch.setattr(Searcher, "warm_up", lambda self: None)
    monkeypatch.setattr(uvicorn.Server, "run", lambda self, sockets: None)
    for host, warns in (("0.0.0.0", True), ("127.0.0.1", False), ("localhost", False)):
        code, out, error = run("app", "--model", "shapes", "--host", host, "--port", 0)
        assert code == 0 and "The page is at http://" in out
        assert ("anyone who can reach this address" in error) == warns
