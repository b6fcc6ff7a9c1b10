"""Annotations of the VGG Image Annotator: every shape and version, what is refused, and training on what comes out."""

import csv
import json

import coco_tree
import matplotlib.path
import numpy as np
import pycocotools.mask as coco_mask
import pytest
import via_samples
from PIL import Image
from pycocotools.coco import COCO
from via_samples import SHAPES, region

from siamese_mrcnn_tf.cli.main import main
from siamese_mrcnn_tf.data.formats import via
from siamese_mrcnn_tf.data.formats.via_tree import convert_via
from siamese_mrcnn_tf.io.images import read_image

HEIGHT, WIDTH = 120, 160


def save_image(path, height=HEIGHT, width=WIDTH, seed=0, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)).save(path, **options)
    return path


def oriented(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.fixture
def photos(tmp_path):
    """Folder with a.png and b.png."""
    for seed, name in enumerate(("a.png", "b.png")):
        save_image(tmp_path / "photos" / name, seed=seed)
    return tmp_path / "photos"


@pytest.fixture
def convert(tmp_path, photos):
    """Convert images, a dict of lists of regions by file name: the content of the annotation file."""

    def run(images, form="json2", **options):
        path = via_samples.write(tmp_path / "via" / "mine.json", images, form)
        (content,) = convert_via([path], photos, tmp_path / "set", progress=False, **options).values()
        return content

    return run


# ---- shapes --------------------------------------------------------------------------------------------------------


def inside_shape(shape):
    """The pixels whose centre is in a shape of VIA: bool [HEIGHT, WIDTH], by the equation of the shape."""
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    if shape["name"] == "rect":
        is_across = (x > shape["x"]) & (x < shape["x"] + shape["width"])
        return is_across & (y > shape["y"]) & (y < shape["y"] + shape["height"])
    if "all_points_x" in shape:
        corners = list(zip(shape["all_points_x"], shape["all_points_y"], strict=True))
        outline = matplotlib.path.Path([*corners, corners[0]], closed=True)
        return outline.contains_points(np.stack([x.ravel(), y.ravel()], axis=1)).reshape(HEIGHT, WIDTH)
    x, y = x - shape["cx"], y - shape["cy"]
    angle = shape.get("theta", 0.0)
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    rx, ry = (shape["r"],) * 2 if shape["name"] == "circle" else (shape["rx"], shape["ry"])
    return (along / rx) ** 2 + (across / ry) ** 2 < 1


@pytest.mark.parametrize("form", via_samples.FORMATS)
def test_each_shape_of_each_version(convert, tmp_path, form):
    regions = [region(shape, kind=name) for name, shape in SHAPES.items()]
    convert({"a.png": regions, "b.png": []}, form)
    coco = COCO(tmp_path / "set" / "annotations" / "instances_train2017.json")
    assert [image["file_name"] for image in coco.loadImgs([1, 2])] == ["a.png", "b.png"]
    assert [category["name"] for category in coco.loadCats([1, 2, 3, 4, 5, 6])] == sorted(SHAPES)
    annotations = coco.loadAnns(coco.getAnnIds())
    assert len(annotations) == len(SHAPES) and {one["image_id"] for one in annotations} == {1}
    for annotation in annotations:
        name = coco.cats[annotation["category_id"]]["name"]
        found, expected = coco.annToMask(annotation).astype(bool), inside_shape(SHAPES[name])
        assert (found & expected).sum() / (found | expected).sum() >= 0.95, name
        assert annotation["area"] == found.sum()
        rows, columns = np.flatnonzero(found.any(axis=1)), np.flatnonzero(found.any(axis=0))
        box = [columns[0], rows[0], np.ptp(columns) + 1, np.ptp(rows) + 1]
        assert annotation["bbox"] == box, name


@pytest.mark.parametrize("radius", [0.5, 3, 40, 3000])
def test_arcs_are_near_their_chords(radius):
    outline = via.region_outline(via.Region("r", {"name": "circle", "cx": 7, "cy": -2, "r": radius}, {}))
    np.testing.assert_allclose(np.linalg.norm(outline - (7, -2), axis=1), radius)
    middles = (outline + np.roll(outline, 1, axis=0)) / 2
    assert radius - np.linalg.norm(middles - (7, -2), axis=1).min() <= 0.05 + 1e-9


def test_polygons_are_cut_off_at_the_image():
    square = np.array([[-5.0, -5], [5, -5], [5, 5], [-5, 5]])
    assert set(map(tuple, via.clip_outline(square, 10, 10))) == {(0, 0), (5, 0), (5, 5), (0, 5)}
    np.testing.assert_array_equal(via.clip_outline(square + 5, 10, 10), square + 5)
    assert not len(via.clip_outline(square - 20, 10, 10))
    wide = np.array([[-10.0, 4], [40, 4], [40, 6], [-10, 6]])
    assert set(map(tuple, via.clip_outline(wide, 10, 20))) == {(0, 4), (20, 4), (20, 6), (0, 6)}


def test_what_reaches_out_is_cut_off_and_told(convert, caplog):
    shapes = [{"name": "rect", "x": -2, "y": 100, "width": 30, "height": 22}, {**SHAPES["disk"], "cx": 155}]
    first, second = convert({"a.png": [region(shape, kind="box") for shape in shapes]})["annotations"]
    assert first["bbox"] == [0, 100, 28, 20] and first["area"] == 28 * 20
    assert second["bbox"][0] + second["bbox"][2] == WIDTH
    assert "region 2: reaches 12 pixels out of the image" in caplog.text and "region 1" not in caplog.text


def test_points_are_left_out_and_named(convert, caplog):
    point = region({"name": "point", "cx": 4, "cy": 5})
    content = convert({"a.png": [point, region(SHAPES["box"], kind="box")], "b.png": [point]})
    assert [one["image_id"] for one in content["annotations"]] == [1] and len(content["images"]) == 2
    assert "image 'a.png', region 1; " in caplog.text and "image 'b.png', region 1" in caplog.text


def test_polylines_are_closed_and_named(convert, caplog):
    convert({"a.png": [region(SHAPES["bay"], kind="bay")]})
    assert "closed, and taken as polygons" in caplog.text and "region 1" in caplog.text


# ---- categories ----------------------------------------------------------------------------------------------------


def regions_with(*attributes):
    return [via.Region(f"region {number}", SHAPES["box"], values) for number, values in enumerate(attributes, 1)]


@pytest.mark.parametrize(
    ("attributes", "found"),
    [
        ([{"a": "x"}, {"a": "y"}], "a"),
        ([{"a": "x", "b": ""}, {"a": "y", "b": "z"}], "a"),
        ([{"Class": "x", "colour": "red"}, {"Class": "y", "colour": "blue"}], "Class"),
        ([{"kind": {"cat": True, "dog": False}}], "kind"),
    ],
)
def test_the_attribute_is_found(attributes, found):
    assert via.find_attribute(regions_with(*attributes)) == found


@pytest.mark.parametrize(
    ("attributes", "named"),
    [
        ([{"a": "x", "b": "y"}, {"a": "x", "b": "z"}], "'a' (2 of 2), 'b' (2 of 2)"),
        ([{"name": "x", "type": "y"}], "'name' (1 of 1), 'type' (1 of 1)"),
        ([{"a": "x"}, {"b": "y"}], "'a' (1 of 2), 'b' (1 of 2)"),
        ([{}, {"a": ""}], "no attributes"),
    ],
)
def test_the_attributes_are_named_if_it_is_not_clear(attributes, named):
    with pytest.raises(ValueError, match="which region attribute") as caught:
        via.find_attribute(regions_with(*attributes))
    assert named in str(caught.value)


def test_categories_are_numbered_by_name_or_as_told():
    regions = regions_with({"kind": " dog "}, {"kind": {"cat": True, "dog": False}})
    assert via.region_categories(regions) == (["dog", "cat"], {"cat": 1, "dog": 2})
    names, ids = via.region_categories(regions, "kind", categories=["dog", "emu", "cat"])
    assert names == ["dog", "cat"] and ids == {"dog": 1, "emu": 2, "cat": 3}
    assert via.region_categories(regions_with({}, {}), category="balloon") == (["balloon"] * 2, {"balloon": 1})
    for categories, named in ((["dog"], "region 2: category 'cat', expected one of dog"), (["a", "a"], "each once")):
        with pytest.raises(ValueError, match=named):
            via.region_categories(regions, "kind", categories=categories)
    with pytest.raises(ValueError, match="no regions"):
        via.region_categories([], category="balloon")


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (3, "kind = 3, expected text"),
        ("", "'kind' has no value; the regions have 'kind' \\(1 of 2\\)"),
        ({"cat": True, "dog": True}, "kind has \\['cat', 'dog'\\] ticked"),
        ({"cat": False}, "kind has nothing ticked"),
    ],
)
def test_a_category_that_is_not_clear_names_the_region(value, named):
    with pytest.raises(ValueError, match="region 2: .*" + named):
        via.region_categories(regions_with({"kind": "cat"}, {"kind": value}), "kind")


def test_an_unknown_attribute_is_named():
    with pytest.raises(ValueError, match="the attribute 'sort' has no value; the regions have 'kind'"):
        via.region_categories(regions_with({"kind": "cat"}), "sort")


# ---- what is refused -----------------------------------------------------------------------------------------------


def changed(shape, **values):
    """A shape with other values; None takes the key out."""
    return {key: value for key, value in (shape | values).items() if value is not None}


BAD_SHAPES = [
    (changed(SHAPES["box"], name="square"), "shape name = 'square'"),
    (changed(SHAPES["box"], name=None), "shape name = None"),
    (changed(SHAPES["box"], width=None), "the key 'width' is missing"),
    (changed(SHAPES["box"], width=0), "width = 0, expected a size above 0"),
    (changed(SHAPES["box"], x="ten"), "x = 'ten', expected a number"),
    (changed(SHAPES["box"], y=True), "y = True, expected a number"),
    (changed(SHAPES["box"], x=500), "has no pixel of the image, 160 x 120"),
    (changed(SHAPES["disk"], r=-1), "r = -1"),
    (changed(SHAPES["disk"], cx=float("nan")), "cx = nan"),
    (changed(SHAPES["disk"], cx=10**30), "cx = 1e+30"),
    (changed(SHAPES["leaf"], theta=float("inf")), "theta = inf"),
    (changed(SHAPES["leaf"], ry=None), "the key 'ry' is missing"),
    (changed(SHAPES["arrow"], all_points_x=[1, 2]), "all_points_x has 2 values, all_points_y 5"),
    (changed(SHAPES["arrow"], all_points_y=[1, 2, None, 4, 5]), "all_points_y[2] = None"),
    (changed(SHAPES["arrow"], all_points_x=7), "all_points_x = 7, expected a list"),
    (changed(SHAPES["arrow"], all_points_x=[1, 9, 1], all_points_y=[1, 9, 1]), "polygon of 3 points"),
    (changed(SHAPES["bay"], all_points_x=[1, 9], all_points_y=[1, 9]), "polyline of 2 points"),
    (changed(SHAPES["arrow"], all_points_x=[1, 5, 9], all_points_y=[1, 5, 9]), "has no pixel"),
]


@pytest.mark.parametrize(("shape", "named"), BAD_SHAPES, ids=[named for _, named in BAD_SHAPES])
def test_bad_shapes_name_file_and_region(convert, tmp_path, shape, named):
    with pytest.raises(ValueError) as caught:
        convert({"a.png": [region(SHAPES["box"], kind="box"), region(shape, kind="box")]})
    assert named in str(caught.value)
    assert str(caught.value).startswith(f"{tmp_path / 'via' / 'mine.json'}: image 'a.png', region 2: ")
    assert not (tmp_path / "set").exists()


BAD_FILES = [
    ("{", "not JSON at line 1"),
    ("[]", "expected annotations of VIA"),
    ("{}", "no images"),
    ('{"images": [], "annotations": [], "categories": []}', "a COCO file"),
    ('{"_via_img_metadata": []}', "_via_img_metadata = [], expected a dict"),
    ('{"a.png1": 3}', "'a.png1': 3, expected a dict"),
    ('{"a.png1": {"regions": []}}', "'a.png1': the key 'filename' is missing"),
    ('{"a.png1": {"filename": "a.png"}}', "image 'a.png': the key 'regions' is missing"),
    ('{"a.png1": {"filename": "a.png", "regions": 3}}', "regions = 3, expected a dict or list"),
    ('{"a.png1": {"filename": "a.png", "regions": [{}]}}', "region 1: the key 'shape_attributes' is missing"),
    (
        '{"a.png1": {"filename": "a.png", "regions": []}, "a.png2": {"filename": "a.png", "regions": []}}',
        "image 'a.png': ",
    ),
]


@pytest.mark.parametrize(("text", "named"), BAD_FILES, ids=[named for _, named in BAD_FILES])
def test_bad_files_are_named(tmp_path, text, named):
    path = tmp_path / "mine.json"
    path.write_text(text)
    with pytest.raises(ValueError) as caught:
        via.read_via([path])
    assert str(caught.value).startswith(f"{path}: ") and named in str(caught.value)


BAD_TABLES = [
    ("name,size\n", "the header"),
    (via_samples.CSV_HEADER + "\na.png,1\n", "line 2: 2 columns, expected 7"),
    (via_samples.CSV_HEADER + '\na.png,1,"{}",1,0,"{}}","{}"', "line 2, image 'a.png': region_shape_attributes"),
    (via_samples.CSV_HEADER + '\na.png,1,"{}",1,0,"{}","[]"', "line 2, image 'a.png': region_attributes"),
    (via_samples.CSV_HEADER + '\na.png,1,"{}",1,0,"{', "line 2: no row of a table"),
]


@pytest.mark.parametrize(("text", "named"), BAD_TABLES, ids=[named for _, named in BAD_TABLES])
def test_bad_tables_are_named(tmp_path, text, named):
    path = tmp_path / "mine.csv"
    path.write_text(text)
    with pytest.raises(ValueError) as caught:
        via.read_via([path])
    assert str(caught.value).startswith(f"{path}: ") and named in str(caught.value)


def test_a_table_that_lost_rows_is_told_of(tmp_path, caplog):
    path = via_samples.write(tmp_path / "mine.json", {"a.png": [region(SHAPES["box"])] * 3}, "csv2")
    path.write_text("\n".join(path.read_text().splitlines()[:-1]))
    assert len(via.read_via([path])[0].regions) == 2
    assert "'a.png': region_count = 3, found 2" in caplog.text


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"subset": "test"}, "subset = 'test'"),
        ({"val_share": 1.0}, "val_share = 1.0"),
        ({"val_share": 0.5, "subset": "val"}, "expected the subset 'train'"),
        ({"year": "/../../2017"}, "leads out of the folder"),
        ({"category": ""}, "expected names"),
    ],
)
def test_bad_arguments_are_named(convert, tmp_path, options, named):
    with pytest.raises(ValueError, match=named):
        convert({"a.png": [region(SHAPES["box"], kind="box")], "b.png": []}, **options)
    assert not (tmp_path / "set").exists()


# ---- images and the tree -----------------------------------------------------------------------------------------


def test_images_that_are_missing_or_broken_are_named(convert, photos, tmp_path):
    with pytest.raises(ValueError, match=r"mine.json: image 'c.png': no such file in .*photos"):
        convert({"a.png": [region(SHAPES["box"], kind="box")], "c.png": []})
    with pytest.raises(ValueError, match="image '/x/a.png': is the file .*a.png, as is 'a.png' in "):
        convert({"a.png": [region(SHAPES["box"], kind="box")], "/x/a.png": []})
    (photos / "b.png").write_bytes((photos / "a.png").read_bytes()[:200])
    with pytest.raises(ValueError, match="b.png: the image cannot be read"):
        convert({"a.png": [region(SHAPES["box"], kind="box")], "b.png": []})
    assert not (tmp_path / "set").exists()


def test_paths_and_addresses_are_looked_for_by_their_last_part(convert, photos, tmp_path):
    save_image(photos / "deep" / "c.png")
    names = ["https://here.example/files/a.png", "C:\\Users\\me\\b.png", "deep/c.png"]
    content = convert({name: [region(SHAPES["box"], kind="box")] for name in names})
    assert [image["file_name"] for image in content["images"]] == ["a.png", "b.png", "deep/c.png"]
    assert (tmp_path / "set" / "train2017" / "deep" / "c.png").is_file()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(40, 60), (50, 50)])
def test_images_are_upright_whatever_the_tag(convert, photos, tmp_path, orientation, size):
    source = save_image(photos / "a.png", *size, exif=oriented(orientation))
    content = convert({"a.png": [region(SHAPES["arrow"], kind="arrow")]})
    upright = read_image(source)
    image = content["images"][0]
    assert (image["height"], image["width"]) == upright.shape[:2]
    data = coco_tree.load(tmp_path / "set")
    np.testing.assert_array_equal(data.load_image(0), upright)
    np.testing.assert_array_equal(read_image(tmp_path / "set" / "train2017" / "a.png"), upright)


def test_orientation_tags_can_be_ignored(convert, photos, tmp_path):
    source = save_image(photos / "a.png", 40, 60, exif=oriented(6))
    image = convert({"a.png": [region(SHAPES["arrow"], kind="arrow")]}, ignore_orientation=True)["images"][0]
    assert (image["height"], image["width"]) == (40, 60)
    np.testing.assert_array_equal(coco_tree.load(tmp_path / "set").load_image(0), read_image(source, (40, 60)))


@pytest.mark.parametrize(
    ("option", "size"),
    [
        ([], (60, 40)),
        (["--orientation", "obey"], (60, 40)),
        (["--orientation", "ignore"], (40, 60)),
        (["--ignore-orientation"], (40, 60)),
    ],
)
def test_the_options_of_orientation(photos, tmp_path, option, size):
    save_image(photos / "a.png", 40, 60, exif=oriented(6))
    path = via_samples.write(tmp_path / "mine.json", {"a.png": [region(SHAPES["arrow"], kind="arrow")]})
    arguments = ["convert", str(path), "--images", str(photos), "--out", str(tmp_path / "set"), *option]
    assert main(arguments) == 0
    info = coco_tree.load(tmp_path / "set").image_info[0]
    assert (info["height"], info["width"]) == size


@pytest.mark.parametrize("orientation", range(1, 9))
def test_ignored_tags_of_square_images_are_not_written(convert, photos, tmp_path, orientation):
    source = save_image(photos / "a.png", 50, 50, exif=oriented(orientation))
    convert({"a.png": [region(SHAPES["arrow"], kind="arrow")]}, ignore_orientation=True)
    stored = read_image(source, rule="ignore")
    np.testing.assert_array_equal(coco_tree.load(tmp_path / "set").load_image(0), stored)
    np.testing.assert_array_equal(read_image(tmp_path / "set" / "train2017" / "a.png"), stored)


def test_deep_images_with_an_undecided_tag_are_refused(convert, photos):
    photos.mkdir(exist_ok=True)
    Image.fromarray(np.zeros((50, 50), np.uint16)).save(photos / "a.png", exif=oriented(3))
    with pytest.raises(ValueError, match=r"a.png: its orientation tag 3 is not decided by its size, and more than 8"):
        convert({"a.png": [region(SHAPES["arrow"], kind="arrow")]})


def test_images_are_copied_or_linked(convert, photos, tmp_path):
    images = {"a.png": [region(SHAPES["box"], kind="box")], "b.jpg": []}
    save_image(photos / "b.jpg", 50, 50, exif=oriented(3))
    convert(images)
    folder = tmp_path / "set" / "train2017"
    assert not (folder / "a.png").is_symlink() and (folder / "a.png").read_bytes() == (photos / "a.png").read_bytes()
    convert(images, link=True, year="2018")
    folder = tmp_path / "set" / "train2018"
    assert (folder / "a.png").is_symlink() and (folder / "a.png").samefile(photos / "a.png")
    assert not (folder / "b.jpg").is_symlink()  # written anew, upright
    with Image.open(folder / "b.jpg") as image:
        assert image.format == "JPEG" and not image.getexif()


def test_nothing_is_replaced_unless_told_to(convert, photos, tmp_path):
    images = {"a.png": [region(SHAPES["box"], kind="box")]}
    path, copied = (tmp_path / "set" / name for name in ("annotations/instances_train2017.json", "train2017/a.png"))
    convert(images)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="instances_train2017.json: is there already"):
        convert(images)
    path.unlink()
    convert(images)  # the same image may be there, as after a run that was stopped
    assert path.read_bytes() == before
    path.unlink()
    save_image(copied, seed=5)
    with pytest.raises(ValueError, match="a.png: another image is there already"):
        convert(images)
    assert not path.exists()
    for folder in (path.parent, copied.parent, tmp_path / "set" / "val2017"):  # of a run that was killed
        folder.mkdir(exist_ok=True)
        (folder / ".0123abcd-b.png").touch()
    convert(images, force=True)
    assert not list((tmp_path / "set").glob("*/.*"))
    assert path.read_bytes() == before and copied.read_bytes() == (photos / "a.png").read_bytes()
    assert not list(path.parent.glob(".*")) and not list(copied.parent.glob(".*"))


def test_images_may_be_in_their_place(tmp_path):
    folder = tmp_path / "set" / "train2017"
    before = save_image(folder / "a.jpg").read_bytes()
    annotations = via_samples.write(tmp_path / "mine.json", {"a.jpg": [region(SHAPES["box"], kind="box")]})
    convert_via([annotations], folder, tmp_path / "set", progress=False)
    assert (folder / "a.jpg").read_bytes() == before
    save_image(folder / "a.jpg", exif=oriented(3))
    with pytest.raises(
        ValueError, match="a.jpg: has to be written without its orientation tag, but is the image itself"
    ):
        convert_via([annotations], folder, tmp_path / "set", progress=False, force=True)


def test_val_is_a_share_that_stays(tmp_path):
    names = [f"{number}.png" for number in range(10)]
    for name in names:
        save_image(tmp_path / "photos" / name, 20, 30)
    drawn = {}
    for count in (8, 10):
        images = {name: [region({**SHAPES["disk"], "cx": 9, "cy": 9, "r": 5}, kind="disk")] for name in names[:count]}
        path = via_samples.write(tmp_path / f"{count}.json", images)
        found = convert_via([path], tmp_path / "photos", tmp_path / str(count), val_share=0.3, seed=1, progress=False)
        drawn[count] = {part: {one["file_name"] for one in found[part]["images"]} for part in found}
        ids = [one["id"] for content in found.values() for one in content["images"]]
        assert sorted(ids) == list(range(1, count + 1))
        assert found["train2017"]["categories"] == found["val2017"]["categories"]
        for part, content in found.items():
            assert {one["image_id"] for one in content["annotations"]} == {one["id"] for one in content["images"]}
            assert coco_tree.load(tmp_path / str(count), subset=part[:-4]).num_images == len(content["images"])
    assert len(drawn[8]["val2017"]) == 2 and len(drawn[10]["val2017"]) == 3
    assert not drawn[8]["val2017"] & drawn[8]["train2017"]
    displaced, added = drawn[8]["val2017"] - drawn[10]["val2017"], drawn[10]["val2017"] & {"8.png", "9.png"}
    assert len(displaced) <= len(added)


def test_several_files_make_one_set(tmp_path, photos):
    paths = [
        via_samples.write(tmp_path / f"{name}.json", {f"{name}.png": [region(SHAPES["box"], kind=name)]}, form)
        for name, form in (("a", "json1"), ("b", "csv2"))
    ]
    content = convert_via(paths, photos, tmp_path / "set", progress=False)["train2017"]
    assert [one["id"] for one in content["images"]] == [one["id"] for one in content["annotations"]] == [1, 2]
    with pytest.raises(ValueError, match="a.json: image 'a.png': .*a.json has it already"):
        via.read_via([paths[0], paths[0]])


# ---- from VIA to training ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def via_of_training_tree(training_tree, tmp_path_factory):
    """The polygons of the training tree, as annotations of VIA."""
    content = json.loads((training_tree / "annotations" / "instances_train2017.json").read_text())
    names = {category["id"]: category["name"] for category in content["categories"]}
    images = {image["file_name"]: [] for image in content["images"]}
    files = {image["id"]: image["file_name"] for image in content["images"]}
    for annotation in content["annotations"]:
        if isinstance(annotation["segmentation"], list):
            (points,) = annotation["segmentation"]
            shape = {"name": "polygon", "all_points_x": points[0::2], "all_points_y": points[1::2]}
            images[files[annotation["image_id"]]].append(region(shape, name=names[annotation["category_id"]]))
    return via_samples.write(tmp_path_factory.mktemp("via") / "mine.json", images)


def test_masks_are_those_that_were_drawn(via_of_training_tree, training_tree, tmp_path):
    convert_via([via_of_training_tree], training_tree / "train2017", tmp_path, progress=False)
    drawn, converted = coco_tree.load(training_tree), coco_tree.load(tmp_path)
    assert converted.class_names == ["BG", "ellipse", "rectangle", "triangle"]
    for image_id in range(7):
        np.testing.assert_array_equal(converted.instance_mask(image_id, 0), drawn.instance_mask(image_id, 0))
        annotation = converted.image_info[image_id]["annotations"][0]
        rle = coco_mask.encode(np.asfortranarray(drawn.instance_mask(image_id, 0).astype(np.uint8)))
        assert annotation["area"] == coco_mask.area(rle) and annotation["bbox"] == coco_mask.toBbox(rle).tolist()


@pytest.mark.slow
def test_a_converted_set_trains(via_of_training_tree, training_tree, micro_config, tmp_path):
    from siamese_mrcnn_tf import SiameseMaskRCNN
    from siamese_mrcnn_tf.data.data_generator import TrainingSamples, collate

    convert_via([via_of_training_tree], training_tree / "train2017", tmp_path, progress=False)
    samples = TrainingSamples(coco_tree.load(tmp_path), micro_config)
    model = SiameseMaskRCNN("training", micro_config, tmp_path / "logs", seed=0)
    model.set_trainable("mrcnn_class_logits|rpn_class_raw")
    model.compile(learning_rate=0.01, momentum=0.9)
    batch = collate([samples[0], samples[1]], micro_config)
    losses = model.keras_model.train_on_batch(list(batch.values()), return_dict=True)
    assert np.isfinite(list(map(float, losses.values()))).all() and float(losses["loss"]) > 0


# ---- the command ---------------------------------------------------------------------------------------------------


def test_from_photos_to_a_checked_set(run, via_of_training_tree, training_tree, tmp_path):
    images = ("--images", training_tree / "train2017")
    out = ("--out", tmp_path / "set")
    code, text, _ = run("convert", via_of_training_tree, *images, *out, "--val-share", 0.3, "--attribute", "name")
    assert code == 0
    assert "train2017: 5 images, " in text and "val2017: 3 images, " in text and "instances: ellipse " in text
    assert str(tmp_path / "set") in text
    checked = ("check", "--dataset", tmp_path / "set", "--skip-images", "--samples", 0, "--config", "tiny")
    code, text, _ = run(*checked, "--out", tmp_path / "images")
    assert code == 0 and "train2017: 5 images" in text
    code, _, errors = run("convert", via_of_training_tree, *images, *out)
    assert code == 2 and "instances_train2017.json: is there already" in errors


def test_one_category_for_all(run, via_of_training_tree, training_tree, tmp_path):
    arguments = ("--images", training_tree / "train2017", "--out", tmp_path, "--category", "balloon", "--link")
    code, text, _ = run("convert", via_of_training_tree, *arguments)
    assert code == 0 and "train2017: 8 images, 1 of them without annotations; instances: balloon 7\n" in text


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--val-share", "1"), "expected a share from 0 to below 1, got '1'"),
        (("--val-share", "some"), "expected a share from 0 to below 1, got 'some'"),
        (("--attribute", "a", "--category", "b"), "not allowed with argument"),
    ],
)
def test_options_are_checked(capsys, arguments, named):
    with pytest.raises(SystemExit) as stopped:
        main(["convert", "a.json", "--images", "d", "--out", "o", *arguments])
    assert stopped.value.code == 2 and named in capsys.readouterr().err


def test_mistakes_exit_with_2(run, tmp_path):
    code, _, errors = run("convert", tmp_path / "gone.json", "--images", tmp_path, "--out", tmp_path / "set")
    assert (
        code == 2
        and errors.startswith("siamese-mrcnn convert: error: ")
        and "gone.json: no such file or folder" in errors
    )


def test_cells_of_a_table_may_be_long(tmp_path):
    usual = csv.field_size_limit()
    points = [10 + (number % 100) for number in range(40_000)]
    shape = {"name": "polygon", "all_points_x": points, "all_points_y": points[::-1]}
    cells = ["a.png", "1", "{}", "1", "0", json.dumps(shape), '{"name": "a"}']
    with open(tmp_path / "a.csv", "w", newline="") as file:
        csv.writer(file).writerows([via._COLUMNS.split(","), cells])
    (image,) = via.read_via([tmp_path / "a.csv"])
    assert len(image.regions[0].shape["all_points_x"]) == 40_000 and csv.field_size_limit() == usual
