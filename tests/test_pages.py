"""HTML pages: what is escaped, which images are inside, and what browsers need."""

import base64
import io
import re

import numpy as np
import pytest
from html_reader import Reader
from matplotlib.figure import Figure
from PIL import Image

from siamese_mrcnn_tf.visualize import pages
from siamese_mrcnn_tf.visualize.pages import GridImage, Html

EVIL = "<script>alert('a & \"b\"')</script>"


def decoded(uri):
    head, _, content = uri.partition(";base64,")
    image = Image.open(io.BytesIO(base64.b64decode(content, validate=True)))
    assert head == f"data:image/{image.format.lower()}"
    return image


# ---- pages -----------------------------------------------------------------------------------------------------------
def test_page_is_whole_and_refers_to_nothing_outside(tmp_path):
    plot = Figure(figsize=(2, 1))
    plot.add_subplot().plot([1, 2])
    parts = [pages.figure(plot, caption="c"), pages.table(["a"], [[1]]), pages.code("make test")]
    path = tmp_path / "new" / "page.html"
    pages.write_page(path, "Run 7", [pages.section("Plots", *parts), "loose text"])
    text = path.read_text(encoding="utf-8")
    reader = Reader(text)
    assert text.startswith("<!DOCTYPE html>") and 'charset="utf-8"' in text
    assert reader.all("title")[0][1] == reader.all("h1")[0][1] == "Run 7"
    assert [text for _, text in reader.all("h2")] == ["Plots"]
    assert ({"class": "text"}, "loose text") in reader.all("p")
    assert ({"name": "viewport", "content": "width=device-width, initial-scale=1"}, "") in reader.all("meta")
    assert "prefers-color-scheme: dark" in text and not reader.all("script")
    assert not re.search(r"https?:|url\(|@import", text)
    addresses = [value for _, attributes, _ in reader.elements for key, value in attributes.items() if key in ("src",)]
    assert len(addresses) == 1 and all(value.startswith("data:") for value in addresses)
    assert [path.name for path in path.parent.iterdir()] == ["page.html"]


def test_all_text_is_escaped():
    grid = pages.image_grid([[GridImage(np.zeros((2, 2, 3), np.uint8), EVIL, EVIL), EVIL]])
    parts = [EVIL, pages.paragraph(EVIL), pages.note(EVIL), pages.code(EVIL), pages.emphasis(EVIL)]
    parts += [pages.table([EVIL], [[EVIL]], caption=EVIL), pages.folded(EVIL, EVIL), grid]
    page = pages.page(EVIL, [pages.section(EVIL, *parts)])
    reader = Reader(page)
    assert not reader.all("script") and "<script" not in page
    for tag in ("title", "h1", "h2", "p", "code", "em", "th", "td", "caption", "summary", "figcaption"):
        assert reader.all(tag)[-1][1].strip() == EVIL, tag
    assert reader.all("img")[0][0]["alt"] == EVIL


def test_markup_is_kept_as_it_is():
    cell = pages.emphasis("1 < 2")
    assert cell == "<em>1 &lt; 2</em>" and pages.paragraph(cell) == f'<p class="text">{cell}</p>'
    assert isinstance(pages.page("t", []), Html)


def test_headings_have_levels():
    inner = pages.section("below", level=3)
    assert [text for _, text in Reader(pages.section("above", inner)).all("h3")] == ["below"]
    for level in (1, 7, "2"):
        with pytest.raises(ValueError, match="expected 2 to 6"):
            pages.section("h", level=level)


# ---- tables ----------------------------------------------------------------------------------------------------------
def test_table_has_its_cells():
    reader = Reader(pages.table(["name", "AP"], [["cat", 12.5], [Html("<b>dog</b>"), None]], caption="scores"))
    assert [text for _, text in reader.all("th")] == ["name", "AP"] and reader.all("caption")[0][1] == "scores"
    assert [text for _, text in reader.all("td")] == ["cat", "12.5", "dog", ""]
    assert len(reader.all("tr")) == 3 and len(reader.all("b")) == 1
    assert [text for _, text in Reader(pages.table(["only heads"], [])).all("th")] == ["only heads"]


@pytest.mark.parametrize(
    ("cells", "is_number"),
    [
        ([1, 2.5, None], True),
        (["1,234", "12.5 ± 0.30", "n/a", ""], True),
        (["1.92 s", "-3e-05", "\N{MINUS SIGN}2", "50%", "94 MB/s"], True),
        ([np.float32(2), float("nan"), pages.emphasis("15.3 ± 0.24")], True),
        (["1-shot", "5-shot"], False),
        ([1, "many"], False),
        (["", None], False),
        (["S1"], False),
        (["3 of 4"], False),
        ([True], False),
    ],
)
def test_columns_of_numbers_stand_to_the_right(cells, is_number):
    reader = Reader(pages.table(["n", "x"], [["a", cell] for cell in cells]))
    expected = [{}, {"class": "number"}] if is_number else [{}, {}]
    assert [attributes for attributes, _ in reader.all("td")] == expected * len(cells)
    assert [attributes for attributes, _ in reader.all("th")] == expected


def test_rows_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="row 1 of a table: expected 2 cells like its heads, got 1"):
        pages.table(["a", "b"], [[1, 2], [3]])


# ---- images ----------------------------------------------------------------------------------------------------------
def test_figures_are_png_of_their_size():
    plot = Figure(figsize=(3, 2))
    plot.add_subplot()
    reader = Reader(pages.figure(plot, caption="losses", alt="a plot", dpi=50))
    image = decoded(reader.all("img")[0][0]["src"])
    assert image.format == "PNG" and image.size == (150, 100)
    assert reader.all("img")[0][0]["alt"] == "a plot" and reader.all("figcaption")[0][1] == "losses"


def test_images_keep_their_pixels():
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    exact = decoded(pages.image_uri(pixels, lossless=True))
    assert exact.format == "PNG" and np.array_equal(np.asarray(exact), pixels)
    flat = np.full((20, 30, 3), (200, 30, 60), np.uint8)
    near = decoded(pages.image_uri(flat))
    assert near.format == "JPEG" and np.abs(np.asarray(near).astype(int) - flat).max() < 6
    assert decoded(pages.image_uri(pixels, max_side=15)).size == (15, 10)
    assert decoded(pages.image_uri(pixels, max_side=500)).size == (30, 20)


def test_grid_has_rows_captions_and_notes():
    pixels = np.zeros((4, 6, 3), np.uint8)
    row = [GridImage(pixels, "reference"), GridImage(pixels, "found", alt="two dogs", lossless=True), "no such file"]
    reader = Reader(pages.image_grid([row, [GridImage(pixels)]], max_side=3))
    assert [attributes["class"] for attributes, _ in reader.all("div")] == ["row", "row"]
    assert [attributes["alt"] for attributes, _ in reader.all("img")] == ["reference", "two dogs", ""]
    images = [decoded(attributes["src"]) for attributes, _ in reader.all("img")]
    assert [image.format for image in images] == ["JPEG", "PNG", "JPEG"] and {image.size for image in images} == {
        (3, 2)
    }
    assert [text for _, text in reader.all("figcaption")] == ["reference", "found"]
    assert reader.all("p") == [({"class": "note"}, "no such file")]
    assert pages.image_grid([]) == ""


@pytest.mark.parametrize("bad", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)])
def test_what_is_no_image_is_refused(bad):
    with pytest.raises(ValueError, match=r"image: expected uint8 \[height, width, 3\], got"):
        pages.image_grid([[GridImage(bad)]])
