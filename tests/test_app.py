"""The page to try it: images, sessions, downloads, the network."""

import contextlib
import io
import json
import os
import zipfile

import numpy as np
import pytest
from app_parts import THRESHOLD, FakeSearcher, image_file
from PIL import Image
from pycocotools.coco import COCO

from siamese_mrcnn_tf.app import exports, images
from siamese_mrcnn_tf.app.images import Limits, StoredImage
from siamese_mrcnn_tf.app.searcher import Searcher, outlines_of, raw_config
from siamese_mrcnn_tf.app.session import NotOpen, Session
from siamese_mrcnn_tf.app.sessions import CROWDED_SECONDS, EXPIRY_SECONDS, MAX_SESSIONS, Sessions, TooManySessions
from siamese_mrcnn_tf.data.embeddings import ReferenceEmbedding
from siamese_mrcnn_tf.data.formats.labelme import read_labelme


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
