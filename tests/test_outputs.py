"""Files of a search: COCO, tables, LabelMe, label maps, cut-outs, videos, the page; names, repetition, no finds."""

import base64
import csv
import io
import json
import re
import shutil
from fractions import Fraction

import numpy as np
import pytest
from html_reader import Reader
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from test_overlays import disc_finds

from siamese_mrcnn_tf.data.annotations import load_annotations
from siamese_mrcnn_tf.data.formats.common import joined_groups, object_rle
from siamese_mrcnn_tf.data.formats.labelme import read_labelme
from siamese_mrcnn_tf.search import video_files
from siamese_mrcnn_tf.search.formats import coco_annotations, coco_results, label_map, labelme_json
from siamese_mrcnn_tf.search.names import file_stems
from siamese_mrcnn_tf.search.outputs import DEFAULT_KINDS, KINDS, Outputs
from siamese_mrcnn_tf.search.results import Category, Finds, ImageResult

SIZE = (96, 128)
RED, BLUE = (np.full((24, 20, 3), color, np.uint8) for color in ((230, 20, 20), (20, 20, 230)))
CATEGORIES = [
    Category(1, 'disc, "round"', 0.8, (RED,), ("red.png",)),
    Category(2, "环/ring", 0.75, (BLUE, RED), ("blue.png", "red.png")),
]
NONE = disc_finds([], shape=SIZE)


def ring_finds():
    """A ring, and two discs as one object."""
    outer, inner, left, right = (
        disc_finds([center], radius=radius).masks[..., 0]
        for center, radius in (((60, 40), 20), ((60, 40), 9), ((20, 90), 8), ((20, 115), 8))
    )
    masks = np.stack([outer & ~inner, left | right], axis=-1)
    boxes = np.array([[40, 20, 81, 61], [12, 82, 29, 124]], np.int32)
    return Finds(boxes, np.array([0.97, 0.8125], np.float32), masks)


def results_of_images():
    return [
        ImageResult(1, "yard", "in/yard.jpg", *SIZE, (disc_finds([(30, 30), (60, 90)]), NONE)),
        ImageResult(2, "empty", "in/empty.jpg", *SIZE, (NONE, NONE)),
        ImageResult(3, "broken", "in/broken.jpg", 0, 0, error="in/broken.jpg: <not> an image"),
        ImageResult(4, "street #1", "in/street #1.png", *SIZE, (disc_finds([(60, 44)]), ring_finds())),
    ]


def results_of_video(count=6, first_id=5):
    return [
        ImageResult(
            first_id + frame, f"film_{frame:06d}", "in/film.avi", 90, 121,
            (disc_finds([(40, 20 + 10 * frame)], shape=(90, 121)), disc_finds([], shape=(90, 121))),
            frame=frame, seconds=frame / 8,
        )
        for frame in range(count)
    ]  # fmt: skip


def pixels_of(result):
    return np.full((result.height, result.width, 3), 90, np.uint8)


def write(out, results, kinds=KINDS, categories=CATEGORIES, about=None):
    outputs = Outputs(out, kinds, categories, {"model": "shapes"} if about is None else about)
    for result in results:
        outputs.add(result, pixels_of(result))
    outputs.finish(results)
    return out


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return write(tmp_path_factory.mktemp("search"), results_of_images())


def files_of(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def read_table(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def iou(first, second):
    return np.count_nonzero(first & second) / np.count_nonzero(first | second)


# ---- what is written ---------------------------------------------------------------------------------------------
def test_files_of_a_search(written):
    names = set(files_of(written))
    whole = {"results.json", "images.json", "annotations.json", "detections.csv", "counts.csv", "index.html"}
    images = {f"{folder}/{name}.{suffix}" for name in ("yard", "empty", "street #1") for folder, suffix in (
        ("overlays", "png"), ("thumbnails", "jpg"), ("labelmaps", "png"), ("labelmaps", "json"), ("labelme", "json"),
    )}  # fmt: skip
    parts = ["yard.disc, _round_.001", "yard.disc, _round_.002", "street #1.disc, _round_.001"]
    parts += ["street #1.环_ring.001", "street #1.环_ring.002"]
    instances = {f"{folder}/{part}.png" for folder in ("masks", "cutouts") for part in parts}
    assert names == whole | images | instances


def test_each_kind_alone_and_the_usual_ones(tmp_path):
    results, seen = results_of_images()[:1], {}
    for kind in KINDS:
        seen[kind] = set(files_of(write(tmp_path / kind, results, [kind])))
        assert seen[kind] or kind == "video"
    assert set(files_of(write(tmp_path / "usual", results, DEFAULT_KINDS))) == set().union(
        *map(seen.get, DEFAULT_KINDS)
    )
    assert set(DEFAULT_KINDS) < set(KINDS)


def test_the_same_results_give_the_same_bytes(written, tmp_path):
    again = write(tmp_path, results_of_images())
    assert files_of(again) == files_of(written)
    assert files_of(write(tmp_path, results_of_images())) == files_of(written)


def test_a_resumed_search_ends_with_the_same_files(written, tmp_path):
    results = results_of_images()
    first = Outputs(tmp_path, KINDS, CATEGORIES, {"model": "shapes"})
    first.add(results[0], pixels_of(results[0]))
    second = Outputs(tmp_path, KINDS, CATEGORIES, {"model": "shapes"})
    for result in results[1:]:
        second.add(result, pixels_of(result))
    second.finish([ImageResult.from_record(json.loads(json.dumps(result.to_record()))) for result in results])
    assert files_of(tmp_path) == files_of(written)


def test_files_of_an_earlier_search_of_an_image_are_replaced(tmp_path):
    (many, *_), name = results_of_images(), "masks/yard.disc, _round_.002.png"
    write(tmp_path, [many], ["masks", "overlays"])
    (tmp_path / "overlays" / "yard.jpg").write_bytes(b"of a larger image")
    assert (tmp_path / name).is_file()
    write(
        tmp_path, [ImageResult(1, "yard", "in/yard.jpg", *SIZE, (disc_finds([(30, 30)]), NONE))], ["masks", "overlays"]
    )
    assert sorted(files_of(tmp_path)) == ["masks/yard.disc, _round_.001.png", "overlays/yard.png"]


def test_large_overlays_are_jpeg(tmp_path):
    finds = (Finds(np.zeros((0, 4), np.int32), np.zeros(0, np.float32)),) * 2
    write(tmp_path, [ImageResult(1, "large", "large.tif", 1300, 1600, finds)], ["overlays", "page"])
    with Image.open(tmp_path / "overlays" / "large.jpg") as image:
        assert image.format == "JPEG" and image.width > 1600
    with Image.open(tmp_path / "thumbnails" / "large.jpg") as image:
        assert max(image.size) == 480
    assert 'href="overlays/large.jpg"' in (tmp_path / "index.html").read_text(encoding="utf-8")


def test_masks_and_cutouts(written):
    finds = ring_finds()
    with Image.open(written / "masks" / "street #1.环_ring.001.png") as image:
        assert np.array_equal(np.array(image), finds.masks[..., 0] * np.uint8(255))
    with Image.open(written / "cutouts" / "street #1.环_ring.001.png") as image:
        assert image.mode == "RGBA" and image.size == (41, 41)
        assert np.array_equal(np.array(image)[..., 3] > 0, finds.masks[40:81, 20:61, 0])


def test_arguments_that_cannot_be(tmp_path):
    with pytest.raises(ValueError, match="save = overlay: expected some of overlays, masks"):
        Outputs(tmp_path, ["overlay"], CATEGORIES, {})
    with pytest.raises(ValueError, match="categories"):
        Outputs(tmp_path, KINDS, [], {})
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file"):
        Outputs(tmp_path / "file", KINDS, CATEGORIES, {})
    result = results_of_images()[0]
    with pytest.raises(ValueError, match="yard.jpg: expected pixels"):
        Outputs(tmp_path, KINDS, CATEGORIES, {}).add(result, pixels_of(result)[1:])


# ---- COCO --------------------------------------------------------------------------------------------------------
def test_pycocotools_reads_results_and_annotations(written):
    loaded = COCO(str(written / "images.json")).loadRes(str(written / "results.json"))
    found = COCO(str(written / "annotations.json"))
    for coco in (loaded, found):
        assert len(coco.anns) == 5 and sorted(coco.imgs) == [1, 2, 4]
        assert [one["name"] for one in coco.loadCats([1, 2])] == [category.name for category in CATEGORIES]
        ring = coco.anns[4]
        assert ring["bbox"] == [20, 40, 41, 41] and ring["score"] == pytest.approx(0.97) and ring["iscrowd"] == 0
        assert np.array_equal(coco.annToMask(ring), ring_finds().masks[..., 0])
    assert found.anns[4]["area"] == ring_finds().masks[..., 0].sum()


def test_pycocotools_reads_a_search_without_finds(tmp_path):
    write(tmp_path, results_of_images()[1:3], ["coco"])
    assert json.loads((tmp_path / "results.json").read_text()) == []
    found = COCO(str(tmp_path / "annotations.json"))
    assert (len(found.imgs), len(found.cats), len(found.anns)) == (1, 2, 0)
    assert found.getAnnIds(imgIds=[2]) == []


def test_annotations_are_those_of_a_data_set(written):
    content, repairs = load_annotations(written / "annotations.json")
    assert len(content["annotations"]) == 5 and not any(repairs.found.values())


def test_annotations_of_frames_and_of_finds_without_mask():
    boxes = Finds(np.array([[10, 20, 30, 60]], np.int32), np.array([0.9], np.float32))
    empty = Finds(boxes.boxes, boxes.scores, np.zeros((*SIZE, 1), bool))
    result = ImageResult(7, "film_3", "film.avi", *SIZE, (boxes, empty), frame=3, seconds=0.5)
    content = coco_annotations([result], CATEGORIES)
    about = {"file_name": "film_3.png", "video": "film.avi", "frame": 3, "seconds": 0.5}
    assert content["images"] == [{"id": 7, "height": 96, "width": 128} | about]
    for annotation in content["annotations"]:
        assert annotation["area"] == 800 and "segmentation" not in annotation
    assert [record["category_id"] for record in coco_results([result], CATEGORIES)] == [1, 2]


# ---- tables ------------------------------------------------------------------------------------------------------
def test_tables(written):
    rows = read_table(written / "detections.csv")
    assert [row["category"] for row in rows] == ['disc, "round"'] * 3 + ["环/ring"] * 2
    assert rows[3] == {
        "image": "street #1", "source": "in/street #1.png", "frame": "", "seconds": "", "category": "环/ring",
        "number": "1", "score": "0.9700", "y1": "40", "x1": "20", "y2": "81", "x2": "61",
        "area": str(ring_finds().masks[..., 0].sum()),
    }  # fmt: skip
    counts = read_table(written / "counts.csv")
    assert [(row["image"], row["total"], row["环/ring"]) for row in counts] == [
        ("yard", "2", "0"), ("empty", "0", "0"), ("broken", "", ""), ("street #1", "3", "2"),
    ]  # fmt: skip
    assert counts[2]["error"] == "in/broken.jpg: <not> an image"


# ---- LabelMe and label maps --------------------------------------------------------------------------------------
def test_labelme_files_give_back_the_masks(written):
    (image,) = read_labelme([written / "labelme" / "street #1.json"])
    assert image.size == SIZE and image.name == "street #1.png"
    with Image.open(io.BytesIO(image.data)) as embedded:
        assert np.array_equal(np.array(embedded), np.full((*SIZE, 3), 90))
    result = results_of_images()[3]
    expected = [mask for finds in result.finds for mask in np.moveaxis(finds.masks, -1, 0)]
    objects = joined_groups(image.objects, *SIZE)
    assert [one.category for one in objects] == ['disc, "round"', "环/ring", "环/ring"]
    for one, mask in zip(objects, expected, strict=True):
        assert iou(coco_mask.decode(object_rle(one, *SIZE)).astype(bool), mask) > 0.98
    ring = coco_mask.decode(object_rle(objects[1], *SIZE)).astype(bool)
    assert np.array_equal(ring, expected[1])  # it has a hole


def test_labelme_shapes():
    shapes = labelme_json(results_of_images()[3], CATEGORIES)["shapes"]
    assert [shape["shape_type"] for shape in shapes] == ["polygon", "mask", "polygon", "polygon"]
    assert [shape["group_id"] for shape in shapes] == [None, None, 1, 1]
    assert shapes[1]["description"] == "score 0.9700"
    assert Image.open(io.BytesIO(base64.b64decode(shapes[1]["mask"]))).size == (41, 41)
    boxes = Finds(np.array([[10, 20, 30, 60]], np.int32), np.array([0.9], np.float32))
    content = labelme_json(ImageResult(1, "a", "in/a.jpg", *SIZE, (boxes, boxes)), CATEGORIES)
    assert content["shapes"][0]["points"] == [[20.0, 10.0], [60.0, 30.0]]
    assert (content["imagePath"], content["imageData"]) == ("in/a.jpg", None)


def test_a_label_map_has_the_higher_score_on_top(tmp_path):
    finds = disc_finds([(40, 40), (40, 50)])  # they overlap, the first has the higher score
    result = ImageResult(1, "a", "a.png", *SIZE, (finds, NONE))
    ids, records = label_map(result, CATEGORIES)
    assert ids.dtype == np.uint16 and ids[40, 45] == 2 and ids[40, 60] == 1 and ids[0, 0] == 0
    assert [(one["id"], one["score"]) for one in records] == [(1, 0.98), (2, 0.99)]
    assert [one["pixels"] for one in records] == [np.count_nonzero(ids == number) for number in (1, 2)]
    write(tmp_path, [result], ["labelmap"])
    with Image.open(tmp_path / "labelmaps" / "a.png") as image:
        assert image.mode.startswith("I") and np.array_equal(np.array(image), ids)


# ---- names -------------------------------------------------------------------------------------------------------
def test_names_of_files_are_safe_and_unique():
    names = ["a/b", "a:b", "A.B", "\n", "", "x" * 300, "环" * 100]
    stems = file_stems(names)
    assert stems[:3] == ["a_b", "a_b-2", "A_B-3"] and len({stem.casefold() for stem in stems}) == len(names)
    assert all(0 < len(stem.encode()) <= 90 for stem in stems)


# ---- videos ------------------------------------------------------------------------------------------------------
def read_video(path):
    import cv2

    video, frames = cv2.VideoCapture(str(path)), []
    while (one := video.read())[0]:
        frames.append(one[1][..., ::-1])
    return frames, video.get(cv2.CAP_PROP_FPS)


@pytest.mark.parametrize("without_pyav", [False, True])
def test_frames_become_an_annotated_video(tmp_path, monkeypatch, without_pyav):
    if without_pyav:
        monkeypatch.setitem(__import__("sys").modules, "av", None)
    else:
        pytest.importorskip("av")
    results = results_of_video()
    write(tmp_path, results)
    frames, rate = read_video(tmp_path / "videos" / "film.mp4")
    assert len(frames) == 6 and rate == pytest.approx(8)
    assert frames[0].shape[0] % 2 == 0 and frames[0].shape[1] % 2 == 0
    assert np.abs(frames[0].astype(int) - frames[5]).max() > 60  # the disc has moved
    names = set(files_of(tmp_path))
    assert not any(name.startswith(("videos/frames", "overlays")) for name in names)
    assert "thumbnails/film.video.jpg" in names and 'src="videos/film.mp4"' in (tmp_path / "index.html").read_text()
    before = files_of(tmp_path)
    Outputs(tmp_path, KINDS, CATEGORIES, {"model": "shapes"}).finish(results)  # its frames are gone, it stays
    assert files_of(tmp_path) == before


def test_videos_of_one_name_and_frames_that_are_not_there(tmp_path, caplog):
    results = results_of_video(2)
    others = [
        ImageResult(20 + one.frame, f"other_{one.frame}", "else/film.mp4", 90, 121, one.finds, one.frame, one.seconds)
        for one in results_of_video(3)
    ]
    outputs = Outputs(tmp_path, ["video"], CATEGORIES, {})
    for result in [*results, *others[:2]]:
        outputs.add(result, pixels_of(result))
    outputs.finish([*results, *others])
    assert sorted(files_of(tmp_path)) == ["videos/film-2.mp4", "videos/film.mp4"]
    assert "only 2 of 3 frames are there" in caplog.text


def test_without_the_kind_video_frames_are_images(tmp_path):
    write(tmp_path, results_of_video(2), ["overlays", "page"])
    assert {"overlays/film_000000.png", "thumbnails/film_000001.jpg"} < set(files_of(tmp_path))


def test_frame_rates():
    assert video_files.frame_rate([n * 1001 / 30000 for n in range(9)]) == Fraction(30000, 1001)
    seconds = [n / 6 for n in (0, 1, 2, 5, 6)]
    assert video_files.frame_rate(seconds) == 6
    assert video_files.frame_positions(seconds, Fraction(6)) == [0, 1, 2, 5, 6]
    assert video_files.frame_positions([0.0, 0.0, 0.01], Fraction(6)) == [0, 1, 2]
    assert video_files.frame_rate([None, None]) == video_files.frame_rate([0.5]) == video_files.DEFAULT_RATE
    assert video_files.frame_positions([None, None], Fraction(6)) == [0, 1]


def test_videos_that_cannot_be_written(tmp_path):
    with pytest.raises(ValueError, match="no frames"):
        video_files.write_video(tmp_path / "a.mp4", [], Fraction(5))
    frames = enumerate([np.zeros((8, 8, 3), np.uint8), np.zeros((8, 10, 3), np.uint8)])
    with pytest.raises(ValueError, match="expected one size"):
        video_files.write_video(tmp_path / "a.mp4", frames, Fraction(5))
    assert not list(tmp_path.iterdir())


# ---- the page ----------------------------------------------------------------------------------------------------
def test_the_page_has_the_best_images_first_and_works_without_script(written):
    text = (written / "index.html").read_text(encoding="utf-8")
    reader = Reader(text)
    assert [title for _, title in reader.all("h3")][2:] == ["yard", "street #1", "empty"]
    assert "3 images searched" in re.sub(r"<[^>]+>", "", text) and "<td>&lt;not&gt; an image</td>" in text
    assert reader.all("form")[0][0].keys() >= {"hidden"}  # until the script shows it
    assert any(attributes.get("title") == "in/yard.jpg" for attributes, _ in reader.all("h3"))
    images = [attributes for attributes, _ in reader.all("img")]
    assert all(image["alt"] for image in images)
    assert any("2 disc" in image["alt"] for image in images)
    scores = [json.loads(one["data-scores"]) for one, _ in reader.all("article") if "data-scores" in one]
    assert scores == [{"1": [0.99, 0.98]}, {"1": [0.99], "2": [0.97, 0.8125]}]


def test_links_of_the_page_are_relative_and_lead_to_files(written, tmp_path):
    from urllib.parse import unquote

    moved = shutil.copytree(written, tmp_path / "moved")
    reader = Reader((moved / "index.html").read_text(encoding="utf-8"))
    links = [one.get("href") or one.get("src") for tag in ("a", "img") for one, _ in reader.all(tag)]
    local = [link for link in links if not link.startswith("data:")]
    assert len(local) == 4 + 2 * 3 and "overlays/street%20%231.png" in local
    assert all((moved / unquote(link)).is_file() for link in local)


def test_a_page_without_finds_and_one_with_text_that_looks_like_markup(tmp_path):
    evil = "<script>alert(1)</script>"
    categories = [Category(1, evil, 0.5), Category(2, "ring", 0.5)]
    write(tmp_path, results_of_images()[1:2], ["page"], categories, {"model": evil})
    text = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "Nothing was found" in text and text.count("<script>") == 1 and "&lt;script&gt;alert" in text


def test_the_page_of_many_images_stays_small(tmp_path):
    finds = disc_finds([(30, 30), (60, 90)])
    results = [ImageResult(n, f"image_{n}", f"in/image_{n}.jpg", *SIZE, (finds, NONE)) for n in range(1, 1001)]
    Outputs(tmp_path, ["page"], CATEGORIES, {}).finish(results)
    assert (tmp_path / "index.html").stat().st_size < 2_000_000
    assert (tmp_path / "index.html").read_text(encoding="utf-8").count('loading="lazy"') == 1000
