"""The page itself, in a browser that is installed on this machine."""

import contextlib
import dataclasses
import io
import re
import shutil
import zipfile

import numpy as np
import pytest
from app_parts import image_file, served
from pycocotools.coco import COCO

from siamese_mrcnn_tf.app.images import Limits
from siamese_mrcnn_tf.app.searcher import Searcher, raw_config
from siamese_mrcnn_tf.app.sessions import Sessions
from siamese_mrcnn_tf.data.embeddings import ReferenceEmbedding
from siamese_mrcnn_tf.data.formats.labelme import read_labelme
from siamese_mrcnn_tf.ops.boxes import extract_bboxes
from siamese_mrcnn_tf.shapes.outlines import category_id
from siamese_mrcnn_tf.shapes.scenes import make_scene

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
