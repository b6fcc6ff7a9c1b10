"""The page to try it: sessions, limits, downloads, the server, and the page itself in a browser."""

import contextlib
import dataclasses
import http.client
import io
import json
import os
import re
import shutil
import socket
import sys
import threading
import zipfile

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from siamese_mrcnn_tf.app import exports, images
from siamese_mrcnn_tf.app.guard import is_loopback, refusal
from siamese_mrcnn_tf.app.images import Limits, StoredImage
from siamese_mrcnn_tf.app.searcher import RawFinds, Searcher, outlines_of, raw_config
from siamese_mrcnn_tf.app.session import NotOpen, Session
from siamese_mrcnn_tf.app.sessions import CROWDED_SECONDS, EXPIRY_SECONDS, MAX_SESSIONS, Sessions, TooManySessions
from siamese_mrcnn_tf.data.embeddings import ReferenceEmbedding
from siamese_mrcnn_tf.data.formats.labelme import read_labelme
from siamese_mrcnn_tf.ops.boxes import extract_bboxes
from siamese_mrcnn_tf.shapes.outlines import category_id
from siamese_mrcnn_tf.shapes.scenes import make_scene

THRESHOLD = 0.6


def image_file(pixels=None, kind="PNG", **options):
    """Bytes of an image file; pixels uint8 [height, width, RGB], by default 40 x 60."""
    content = io.BytesIO()
    pixels = np.full((40, 60, 3), 90, np.uint8) if pixels is None else pixels
    Image.fromarray(pixels).save(content, kind, **options)
    return content.getvalue()


class FakeSearcher:
    """Finds two objects with scores 0.9 and 0.3 in each image: one in the corner, one in the middle."""

    BOXES = np.array([[0, 0, 10, 10], [15, 20, 30, 40]], np.int32)

    def __init__(self, has_masks=True):
        self.num_searches, self.forgotten, self.has_masks = 0, [], has_masks

    def encode_reference(self, pixels, box):
        assert pixels.shape[:2] == (40, 60)
        return ReferenceEmbedding(np.full((1, 5, 4), float(box[0]), np.float32))

    def search(self, image, embedding):
        self.num_searches += 1
        masks = np.zeros((image.height, image.width, 2), bool)
        for number, (y1, x1, y2, x2) in enumerate(self.BOXES):
            masks[y1:y2, x1:x2, number] = True
        rles = images_rle(masks) if self.has_masks else None
        outlines = [outlines_of(masks[..., number], box) for number, box in enumerate(self.BOXES)]
        return RawFinds(self.BOXES, np.array([0.9, 0.3], np.float32), rles, outlines, (image.height, image.width))

    def forget(self, image):
        self.forgotten.append(image.name)


def images_rle(masks):
    from pycocotools import mask

    return mask.encode(np.asfortranarray(masks, np.uint8))


@pytest.fixture
def searcher():
    return FakeSearcher()


@pytest.fixture
def session(searcher):
    session = Session(searcher, threshold=THRESHOLD, limits=Limits(upload_mb=1, pixels=10_000, images=3))
    yield session
    session.close()


@pytest.fixture
def searched(session):
    """A session with images 1 and 2, and category 1 whose reference is the corner of image 1."""
    for name in ("a.png", "b.png"):
        session.add_image(image_file(), name)
    session.add_category("corner")
    session.add_reference(1, 1, (0, 0, 10, 10))
    return session


# ---- images ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"just text", r"photo\.png: not an image that can be opened; expected an image file \(PNG, JPEG"),
        (image_file(kind="EPS"), "not an image that can be opened"),
        (image_file(kind="PPM"), "not an image that can be opened"),
        (image_file(np.zeros((101, 100, 3), np.uint8)), "100 x 101 pixels, at most 10,000 pixels in all"),
        (image_file(np.random.default_rng(0).integers(0, 256, (80, 80, 3), np.uint8))[:-9000], "truncated or broken"),
        (bytes(2**20 + 1), r"photo\.png: the file has 1\.0 MB, at most 1 MB"),
        (b"", "not an image that can be opened"),
    ],
    ids=["text", "EPS", "PPM", "pixels", "truncated", "size", "empty"],
)
def test_files_that_are_refused(session, content, message):
    with pytest.raises(ValueError, match=message):
        session.add_image(content, "photo.png")
    assert not session.state()["images"] and not os.listdir(session._folder)


def test_pixels_are_counted_before_they_are_decoded(session, monkeypatch):
    monkeypatch.setattr(images, "read_image", lambda *_, **__: pytest.fail("decoded"))
    with pytest.raises(ValueError, match="200 x 200 pixels"):
        session.add_image(image_file(np.zeros((200, 200, 3), np.uint8)), "large.png")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF"])
def test_formats_that_are_opened(session, kind):
    assert session.add_image(image_file(kind=kind), f"a.{kind}") == {
        "id": 1,
        "name": f"a.{kind}",
        "height": 40,
        "width": 60,
    }


def test_photographs_of_phones_are_opened(session):
    pytest.importorskip("pillow_heif")
    assert "HEIF" in images.usable_formats()
    record = session.add_image(image_file(kind="HEIF"), "a.heic")
    assert (record["height"], record["width"]) == (40, 60)
    first, second = (Image.fromarray(np.full((40, 60, 3), value, np.uint8)) for value in (90, 20))
    content = io.BytesIO()
    first.save(content, "MPO", save_all=True, append_images=[second])  # a JPEG file with a second image
    session.add_image(content.getvalue(), "b.jpg")
    assert abs(int(session.image(2).pixels().mean()) - 90) <= 1


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
def test_photographs_are_turned_upright(session, kind):
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[:, :30] = 255
    record = session.add_image(image_file(pixels, kind, exif=exif), "turned")
    assert (record["height"], record["width"]) == (60, 40)
    upright = session.image(1).pixels()
    assert upright.shape == (60, 40, 3) and upright[:25].min() > 200 and upright[35:].max() < 50


def test_names_of_uploads_are_no_paths(session):
    names = ["../../etc/passwd", "..\\a\x00b.png", "..", "x" * 500 + ".png"]
    assert [images.shown_name(name) for name in names[:3]] == ["passwd", "a b.png", ".."]
    assert len(images.shown_name(names[3])) == images.MAX_NAME
    for _ in range(2):
        session.add_image(image_file(), names[0])
    assert [one["name"] for one in session.state()["images"]] == ["passwd", "passwd-2"]
    assert sorted(os.listdir(session._folder)) == ["1.png", "2.png"]


def test_no_more_images_than_allowed(session):
    for _ in range(3):
        session.add_image(image_file(), "a.png")
    with pytest.raises(ValueError, match=r"a\.png: 3 images are the most"):
        session.add_image(image_file(), "a.png")


def test_a_large_view_is_a_jpeg_of_the_screens_size():
    content, kind = images.encoded(np.zeros((900, 3000, 3), np.uint8), images.VIEW_SIDE)
    assert kind == "image/jpeg" and Image.open(io.BytesIO(content)).size == (2048, 614)
    assert images.encoded(np.zeros((90, 30, 3), np.uint8), images.VIEW_SIDE)[1] == "image/png"


# ---- sessions ----------------------------------------------------------------------------------------------------
def test_finds_are_searched_for_once(searched, searcher):
    record = searched.finds_record(1, 1)
    assert (
        record["scores"] == pytest.approx([0.9, 0.3]) and record["examples"] == [True, False] and record["version"] == 1
    )
    assert searched.finds_record(1, 1) == record and searcher.num_searches == 1
    assert searched.finds_record(1, 2)["examples"] == [False, False]
    searched.change_category(1, threshold=0.2)
    exports.coco_file(searched)
    assert searcher.num_searches == 2  # a threshold and a download need no search
    searched.add_reference(1, 2, (15, 20, 30, 40))
    assert searched.finds_record(1, 1)["version"] == 2 and searcher.num_searches == 3


def test_several_references_are_joined(searched):
    searched.add_reference(1, 2, (15, 20, 30, 40))
    vectors = searched.category(1).embedding.vectors
    assert vectors.shape == (2, 5, 4) and vectors[:, 0, 0].tolist() == [0, 15]
    reference = searched.state()["categories"][0]["references"][0]
    searched.remove_reference(1, reference["id"])
    assert searched.category(1).embedding.vectors[:, 0, 0].tolist() == [15]


def test_an_image_is_closed_with_its_references(searched, searcher):
    searched.add_reference(1, 2, (15, 20, 30, 40))
    searched.remove_image(1)
    state = searched.state()
    assert [one["id"] for one in state["images"]] == [2]
    assert [one["image"] for one in state["categories"][0]["references"]] == [2]
    assert searcher.forgotten == ["a.png"] and os.listdir(searched._folder) == ["2.png"]
    with pytest.raises(NotOpen, match="image 1 is not open"):
        searched.finds_record(1, 1)


def test_changes_of_categories(searched):
    assert searched.add_category()["name"] == "Category 2"
    assert searched.change_category(2, name="  big  ones ")["name"] == "big ones"
    for changes, message in (
        ({"name": "Corner"}, "there is a category 'Corner' already"),
        ({"name": " "}, "expected 1 to 60 characters, got 0"),
        ({"threshold": 1.5}, "threshold = 1.5: expected 0 to 1"),
        ({"threshold": float("nan")}, "threshold = nan"),
    ):
        with pytest.raises(ValueError, match=message):
            searched.change_category(2, **changes)
    with pytest.raises(ValueError, match="big ones: no reference yet"):
        searched.raw_finds(2, 1)
    searched.remove_category(1)
    assert [one["name"] for one in searched.state()["categories"]] == ["big ones"]
    with pytest.raises(ValueError, match="draw a box around an object first"):
        exports.coco_file(searched)


def test_images_that_a_session_starts_with_stay(tmp_path, searcher):
    path = tmp_path / "mine.png"
    path.write_bytes(image_file())
    session = Session(searcher, threshold=0.5, limits=Limits(), images=[StoredImage.open(path, "mine.png", Limits())])
    assert session.add_image(image_file(), "mine.png") == {"id": 2, "name": "mine-2.png", "height": 40, "width": 60}
    session.remove_image(1)
    session.close()
    assert path.exists() and not session._folder.exists()


def test_sessions_do_not_see_each_other(searcher):
    sessions = Sessions(searcher, threshold=0.5)
    first, second = sessions.create(), sessions.create()
    sessions.get(first).add_image(image_file(), "mine.png")
    assert len(first) > 20 and first != second and not sessions.get(second).state()["images"]
    sessions.close()
    assert len(sessions) == 0


def test_idle_sessions_expire(searcher):
    now = [0.0]
    sessions = Sessions(searcher, threshold=0.5, clock=lambda: now[0])
    first, second = sessions.create(), sessions.create()
    folder = sessions.get(first)._folder
    now[0] = EXPIRY_SECONDS / 2
    sessions.get(second)
    now[0] = EXPIRY_SECONDS + 1
    assert sessions.get(second) and not folder.exists()
    with pytest.raises(NotOpen, match="expired"):
        sessions.get(first)
    while len(sessions) < MAX_SESSIONS:
        sessions.create()
    with pytest.raises(TooManySessions, match="32 sessions are in use"):
        sessions.create()
    now[0] += CROWDED_SECONDS + 1
    sessions.create()
    assert len(sessions) == 1
    sessions.close()


# ---- downloads ---------------------------------------------------------------------------------------------------
def test_coco_annotations_have_finds_and_examples(searched, tmp_path):
    path = tmp_path / "coco.json"
    path.write_bytes(exports.coco_file(searched))
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(path)
    assert [image["file_name"] for image in coco.loadImgs(coco.getImgIds())] == ["a.png", "b.png"]
    found = coco.loadAnns(coco.getAnnIds())
    assert [(one["image_id"], one["score"]) for one in found] == [(1, 1.0), (2, pytest.approx(0.9))]
    assert [one["id"] for one in found] == [1, 2] and [int(coco.annToMask(one).sum()) for one in found] == [100, 100]
    searched.change_category(1, threshold=0.3)
    assert len(json.loads(exports.coco_file(searched))["annotations"]) == 4


@pytest.mark.parametrize("has_masks", [True, False])
def test_an_example_that_the_model_does_not_find_is_its_box(searched, searcher, has_masks):
    searcher.has_masks = has_masks
    searched.add_reference(1, 2, (30, 45, 40, 60))
    found = json.loads(exports.coco_file(searched))["annotations"]
    boxes = [(one["image_id"], one["bbox"], round(one["score"], 3)) for one in found]
    assert boxes == [(1, [0, 0, 10, 10], 1), (2, [45, 30, 15, 10], 1), (2, [0, 0, 10, 10], 0.9)]
    assert [one["area"] for one in found] == [100, 150, 100]


def test_labelme_files_are_read_again(searched, tmp_path):
    with zipfile.ZipFile(io.BytesIO(exports.labelme_archive(searched))) as archive:
        archive.extractall(tmp_path)
    read = read_labelme([tmp_path])
    assert [(image.name, len(image.objects), image.size) for image in read] == [
        ("a.png", 1, (40, 60)),
        ("b.png", 1, (40, 60)),
    ]
    assert {one.category for image in read for one in image.objects} == {"corner"}


def test_embeddings_are_loaded_again(searched, tmp_path):
    searched.add_category("a/b: c")
    searched.add_reference(2, 2, (15, 20, 30, 40))
    with zipfile.ZipFile(io.BytesIO(exports.embeddings_archive(searched))) as archive:
        assert archive.namelist() == ["corner.npz", "a_b_ c.npz"]
        archive.extractall(tmp_path)
    assert ReferenceEmbedding.load(tmp_path / "a_b_ c.npz").vectors[0, 0, 0] == 15


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


# ---- the network -------------------------------------------------------------------------------------------------
@pytest.fixture
def stored(tmp_path, scene):
    """Two image files."""
    paths = [tmp_path / "1.png", tmp_path / "2.png"]
    for path, pixels in zip(paths, (scene, scene[::-1]), strict=True):
        Image.fromarray(pixels).save(path)
    return [StoredImage.open(path, path.name, Limits()) for path in paths]


@pytest.fixture
def network(tiny_model):
    return Searcher(tiny_model.predictor)


def test_raw_finds_are_those_of_the_predictor(network, tiny_model, stored, scene, crop, monkeypatch):
    embedding = tiny_model.predictor.encode_references([crop])
    (expected,) = tiny_model.predictor.detect_in(tiny_model.predictor.encode_scenes([scene]), [embedding])
    assert len(expected["rois"]) > 2
    for pixels in (2**26, 2 * scene[..., 0].size):  # all masks at once, and two at a time
        monkeypatch.setattr("siamese_mrcnn_tf.app.searcher._MASK_PIXELS", pixels)
        raw = network.search(stored[0], embedding)
        chosen = raw.chosen(range(len(raw.scores)))
        np.testing.assert_array_equal(chosen.boxes, expected["rois"])
        np.testing.assert_allclose(chosen.scores, expected["scores"], rtol=1e-5)
        np.testing.assert_array_equal(chosen.masks, expected["masks"])
        assert len(raw.outlines) == len(raw.scores) and raw.chosen([]).masks.shape == (*scene.shape[:2], 0)


def test_encoded_scenes_are_kept_within_a_bound(network, tiny_model, stored, crop):
    embedding = tiny_model.predictor.encode_references([crop])
    for image in (stored[0], stored[0], stored[1], stored[0]):
        network.search(image, embedding)
    assert network.num_encoded == 2 and network.num_searches == 4
    network.cache_bytes = network.cached_bytes - 1
    for image in (stored[1], stored[0]):  # there is room for one: the first is encoded again
        network.search(image, embedding)
    assert network.num_encoded == 3 and 0 < network.cached_bytes <= network.cache_bytes
    network.forget(stored[0])
    assert network.cached_bytes == 0


def test_boxes_that_are_too_small(network, scene):
    for box in ((10, 10, 13, 40), (10, 10, 40, 13), (10, 40, 40, 10)):
        with pytest.raises(ValueError, match=r"the box is too small: \d+ x \d+ pixels, expected 4 x 4 or more"):
            network.encode_reference(scene, box)
    with pytest.raises(ValueError, match="leaves the image of 90 x 120 pixels"):
        network.encode_reference(scene, (10, 10, 100, 40))


def test_the_raw_configuration_keeps_weak_finds(tiny_model):
    config = tiny_model.config.replace(DETECTION_MIN_CONFIDENCE=0.7, DETECTION_ARGMAX=True)
    assert raw_config(config).DETECTION_MIN_CONFIDENCE == 0.05 and not raw_config(config).DETECTION_ARGMAX
    assert raw_config(config.replace(DETECTION_MIN_CONFIDENCE=0.01)).DETECTION_MIN_CONFIDENCE == 0.01


def test_outlines_follow_the_mask():
    mask = np.zeros((50, 60), bool)
    mask[10:30, 20:50] = True
    mask[15:20, 30:40] = False
    outer, hole = sorted(outlines_of(mask, (10, 20, 30, 50)), key=len, reverse=True)
    for outline, (low, high) in ((outer, ([20, 10], [50, 30])), (hole, ([30, 15], [40, 20]))):
        assert np.abs(np.min(outline, axis=0) - low).max() <= 0.5
        assert np.abs(np.max(outline, axis=0) - high).max() <= 0.5
    assert outlines_of(mask[:, :0], (1, 2, 3, 4)) == [[[2, 1], [4, 1], [4, 3], [2, 3]]]
    large = np.ones((2000, 3000), bool)
    (outline,) = outlines_of(large, (0, 0, 2000, 3000))
    assert len(outline) < 10 and np.abs(np.max(outline, axis=0) - [3000, 2000]).max() <= 12


# ---- the server --------------------------------------------------------------------------------------------------
@contextlib.contextmanager
def served(sessions, **options):
    """The page of these sessions at a port of this machine: its (host, port)."""
    uvicorn = pytest.importorskip("uvicorn")
    from siamese_mrcnn_tf.app.server import build_app

    app = build_app(sessions, about="a model", loopback=True, **options)
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=2))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield listening.getsockname()
        finally:
            server.should_exit = True
            thread.join(20)


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


# ---- the page in a browser ---------------------------------------------------------------------------------------
PATIENCE = 60_000  # milliseconds, of a machine with other work


@pytest.fixture
def browser():
    """A headless Chromium that is installed on this machine."""
    playwright = pytest.importorskip("playwright.sync_api")
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        pytest.skip(f"none of {', '.join(names)} is installed")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def shapes_searcher():
    """The bundled weights."""
    from siamese_mrcnn_tf import SiamesePredictor
    from siamese_mrcnn_tf.config import TinyConfig
    from siamese_mrcnn_tf.weights.pretrained import find_weights
    from siamese_mrcnn_tf.weights.thresholds import find_thresholds

    weights = find_weights("shapes", "checkpoints")
    calibration = find_thresholds(weights)
    config = raw_config(TinyConfig().replace(VERIFY_DETECTIONS=True))
    return Searcher(SiamesePredictor(config, weights=weights, verification=calibration.verification, calibrated=False))


@dataclasses.dataclass
class Drawn:
    """A scene of two gears and a star or more."""

    content: bytes
    boxes: dict[str, list]  # category -> boxes (y1, x1, y2, x2)


def draw(seed):
    """A drawn scene."""
    names = ("star", "gear", "heart")
    image, masks, class_ids = make_scene(np.random.default_rng(seed), 256, 256, categories=names)
    boxes = {name: extract_bboxes(masks[..., class_ids == category_id(name)]).tolist() for name in names}
    return Drawn(image_file(image), boxes)


class Visitor:
    """What a user does on the page."""

    def __init__(self, page):
        from playwright.sync_api import expect

        self.page, self.expect = page, expect
        expect.set_options(timeout=PATIENCE)
        page.set_default_timeout(PATIENCE)

    def open(self, *files):
        payload = [{"name": name, "mimeType": "image/png", "buffer": content} for name, content in files]
        self.page.set_input_files("#open", payload)

    def drag(self, box, size=256):
        """Draw a box (y1, x1, y2, x2) in pixels of a square image of `size` by the mouse."""
        canvas = self.page.locator("#canvas").bounding_box()
        side = min(canvas["width"], canvas["height"]) - 28  # a margin of 14
        left, top = (canvas[a] + (canvas[b] - side) / 2 for a, b in (("x", "width"), ("y", "height")))
        y1, x1, y2, x2 = (edge / size * side for edge in box)
        self.page.mouse.move(left + x1, top + y1)
        self.page.mouse.down()
        self.page.mouse.move(left + (x1 + x2) / 2, top + (y1 + y2) / 2)
        self.page.mouse.move(left + x2, top + y2)
        self.page.mouse.up()

    def wait(self, categories, references):
        """Wait until this many references are there and everything is searched."""
        self.expect(self.page.locator(".category")).to_have_count(categories)
        self.expect(self.page.locator(".reference")).to_have_count(references)
        self.expect(self.page.locator("#status")).to_have_text(re.compile("found in"))

    def counts(self, category):
        """(found in all images, found in each image) of a category, from 1 on."""
        total = self.page.locator(".category .count").nth(category - 1).inner_text()
        cells = self.page.locator(".cell").all()
        return int(total), [int(cell.locator(".badge").nth(category - 1).inner_text()) for cell in cells]

    def move_threshold(self, category, value):
        slider = self.page.locator(".category input[type=range]").nth(category - 1)
        slider.fill(str(value))  # as a mouse: "input", then "change"

    def download(self, kind, folder):
        with self.page.expect_download() as started:
            self.page.click(f"[data-export={kind}]")
        path = folder / started.value.suggested_filename
        started.value.save_as(path)
        return path

    def message(self):
        """The text of the newest message, which is then closed."""
        self.page.wait_for_selector(".message")
        text = self.page.locator(".message span").last.inner_text()
        self.page.locator(".message .close").last.click()
        return text


@pytest.mark.slow
def test_the_page_in_a_browser(browser, shapes_searcher, tmp_path):
    sessions = Sessions(shapes_searcher, threshold=0.8, limits=Limits(upload_mb=1, pixels=500_000))
    scenes = [draw(seed) for seed in (9, 3, 15)]
    with served(sessions) as (host, port):
        page = browser.new_page(viewport={"width": 1280, "height": 820})
        requests, failures = [], []
        page.on("request", lambda request: requests.append(request.url))
        page.on("pageerror", lambda error: failures.append(str(error)))
        page.goto(f"http://{host}:{port}/")
        visitor = Visitor(page)
        visitor.expect(page.locator("#empty")).to_be_visible()
        check_opening(visitor, scenes)
        check_finds(visitor, scenes)
        check_threshold(visitor, requests)
        check_second_category(visitor, scenes)
        check_downloads(visitor, tmp_path)
        check_errors(visitor)
        page.reload()
        visitor.wait(categories=2, references=3)
        assert visitor.page.locator(".name").nth(1).input_value() == "stars"
    assert not failures
    assert {url.split("/")[2] for url in requests if not url.startswith("blob:")} == {f"{host}:{port}"}


def check_opening(visitor, scenes):
    visitor.open(*((f"scene {number}.png", scene.content) for number, scene in enumerate(scenes, 1)))
    visitor.expect(visitor.page.locator(".cell")).to_have_count(3)
    visitor.expect(visitor.page.locator("#caption")).to_have_text("scene 1.png · 256 × 256")
    visitor.expect(visitor.page.locator("#empty")).to_be_hidden()


def check_finds(visitor, scenes):
    """One box finds the other gears of this image and those of the others; a second box is a second reference."""
    gears = [len(scene.boxes["gear"]) for scene in scenes]
    visitor.drag(scenes[0].boxes["gear"][1])
    visitor.wait(categories=1, references=1)
    total, each = visitor.counts(1)
    assert total == sum(each) and each[0] == gears[0] - 1  # without the example
    assert all(each)
    visitor.drag(scenes[0].boxes["gear"][0])
    visitor.wait(categories=1, references=2)
    assert visitor.counts(1)[1][0] == gears[0] - 2


def check_threshold(visitor, requests):
    """The count follows the threshold, without a search."""
    before = visitor.counts(1)[0]
    requests.clear()
    visitor.move_threshold(1, 0.05)
    assert visitor.counts(1)[0] >= before
    visitor.move_threshold(1, 1)
    assert visitor.counts(1)[0] < before
    visitor.move_threshold(1, 0.8)
    assert visitor.counts(1)[0] == before
    assert not [url for url in requests if "/finds/" in url]


def check_second_category(visitor, scenes):
    visitor.page.click("#add-category")
    visitor.expect(visitor.page.locator(".category")).to_have_count(2)
    name = visitor.page.locator(".name").nth(1)
    name.fill("stars")
    name.press("Enter")
    visitor.page.locator(".frame").nth(2).click()
    visitor.expect(visitor.page.locator("#caption")).to_have_text("scene 3.png · 256 × 256")
    visitor.drag(scenes[2].boxes["star"][0])
    visitor.wait(categories=2, references=3)
    assert visitor.counts(2)[1][0] == len(scenes[0].boxes["star"])
    visitor.page.locator(".frame").nth(0).click()


def check_downloads(visitor, folder):
    """What is counted on the page and the examples are downloaded."""
    counted = visitor.counts(1)[0], visitor.counts(2)[0]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(visitor.download("coco", folder))
    names = {category["id"]: category["name"] for category in coco.loadCats(coco.getCatIds())}
    assert list(names.values()) == ["Category 1", "stars"]
    downloaded = [len(coco.getAnnIds(catIds=[number])) for number in names]
    assert downloaded == [counted[0] + 2, counted[1] + 1]

    (folder / "labelme").mkdir()
    zipfile.ZipFile(visitor.download("labelme", folder)).extractall(folder / "labelme")
    read = read_labelme([folder / "labelme"])
    assert [image.name for image in read] == ["scene 1.png", "scene 2.png", "scene 3.png"]
    labels = [one.category for image in read for one in image.objects]
    assert [labels.count(name) for name in names.values()] == downloaded

    zipfile.ZipFile(visitor.download("embeddings", folder)).extractall(folder)
    lengths = [len(ReferenceEmbedding.load(folder / f"{name}.npz").vectors) for name in names.values()]
    assert lengths == [2, 1]


def check_errors(visitor):
    """What is refused is said on the page, and changes nothing."""
    visitor.open(("notes.png", b"just text"))
    assert "notes.png: not an image that can be opened" in visitor.message()
    visitor.open(("large.png", bytes(2**20 + 1)))
    assert "large.png: the file has 1.0 MB, at most 1 MB can be opened" in visitor.message()
    visitor.open(("wide.png", image_file(np.zeros((600, 1000, 3), np.uint8))))
    assert "1000 x 600 pixels, at most 500,000 pixels in all" in visitor.message()
    visitor.drag((100, 100, 102, 140))
    assert "the box is too small: 40 x 2 pixels" in visitor.message()
    visitor.expect(visitor.page.locator(".cell")).to_have_count(3)
    visitor.expect(visitor.page.locator(".reference")).to_have_count(3)
