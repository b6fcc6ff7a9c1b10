"""Detection in image files."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from siamese_mrcnn_tf import SiamesePredictor
from siamese_mrcnn_tf.cli import predict
from siamese_mrcnn_tf.io import images as image_files


@pytest.fixture
def images(tmp_path, scene, crop):
    folder = tmp_path / "images"
    folder.mkdir()
    Image.fromarray(scene).save(folder / "a.png")
    Image.fromarray(scene[::-1]).save(folder / "b.jpg", quality=95)
    (folder / "notes.txt").write_text("no image")
    Image.fromarray(crop).save(tmp_path / "thing.png")
    return folder


def test_images_by_file_folder_and_pattern(images):
    a, b = images / "a.png", images / "b.jpg"
    assert predict.find_images([a]) == [a]
    assert predict.find_images([images]) == [a, b]
    assert predict.find_images([str(images / "*.png"), images]) == [a, b]
    for source, message in (
        (images / "c.png", "no such file"),
        (images / "*.tif", "no such file, folder or match"),
    ):
        with pytest.raises(ValueError, match=message):
            predict.find_images([a, source])
    (images / "empty").mkdir()
    with pytest.raises(ValueError, match="no image .* in this folder"):
        predict.find_images([images / "empty"])


def test_companions_are_passed_over(images):
    a, b = images / "a.png", images / "b.jpg"
    (images / "__MACOSX").mkdir()
    for name in ("._b.jpg", ".DS_Store", "Thumbs.db", "__MACOSX/._b.jpg", "__MACOSX/b.jpg", ".c.png"):
        (images / name).write_bytes(b"\0\5\x16\7")
    (images / "folder.png").mkdir()
    assert predict.find_images([images]) == [a, b]
    assert predict.find_images([str(images / "*.[pj]*")]) == [a, b]
    assert predict.find_images([str(images / "**" / "*.jpg")]) == [b]
    with pytest.raises(ValueError, match="no such file, folder or match"):
        predict.find_images([str(images / "._*")])
    with pytest.raises(ValueError, match="no image .* in this folder"):
        predict.find_images([images / "__MACOSX"])


def test_tags_of_images_and_references_are_obeyed_or_ignored(tmp_path, scene):
    exif = Image.Exif()
    exif[0x0112] = 3
    path = tmp_path / "a.png"
    Image.fromarray(scene).save(path, exif=exif)
    for rule, expected in (("obey", scene[::-1, ::-1]), ("auto", scene[::-1, ::-1]), ("ignore", scene)):
        np.testing.assert_array_equal(predict.image_reader([path], orientation=rule)(path), expected)


def test_the_references_of_an_upright_and_a_turned_photograph_are_equal(tmp_path, tiny_model, crop):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(crop).save(tmp_path / "a.png")
    Image.fromarray(np.ascontiguousarray(crop.swapaxes(0, 1)[::-1])).save(tmp_path / "b.png", exif=exif)
    a, b = (predict.read_references([str(tmp_path / name)], tiny_model.config).crops[0] for name in ("a.png", "b.png"))
    np.testing.assert_array_equal(a, b)


def test_images_of_12_and_16_bits_find_what_8_bits_find(tmp_path, tiny_model, scene):
    grey, found = scene[..., 1], []
    for bits in (8, 12, 16):
        values = np.rint(grey / 255 * (2**bits - 1)).astype(np.uint16 if bits > 8 else np.uint8)
        path = tmp_path / f"g{bits}.png"
        Image.fromarray(values).save(path)
        read = predict.image_reader([path])
        references = predict.read_references([f"{path}:10,20,60,90"], tiny_model.config, read)
        out = tmp_path / str(bits)
        found.append(predict.predict_files(tiny_model.predictor, [path], [references], out, read=read, progress=False))
    assert found[0] and found[1] == found[0] and found[2] == found[0]


def test_a_reference_has_the_range_of_the_images(tmp_path, scene):
    dark, bright = tmp_path / "dark.png", tmp_path / "bright.png"
    Image.fromarray(np.full((40, 40), 800, np.uint16)).save(dark)
    Image.fromarray(np.full((40, 40), 4000, np.uint16)).save(bright)
    read = predict.image_reader([bright], [f"{dark}:0,0,20,20"])
    assert read(dark)[0, 0, 0] == 50 and read(bright)[0, 0, 0] == 249


def test_references_from_crops_and_boxes(images, tiny_model, scene, crop, tmp_path):
    config = tiny_model.config
    references = predict.read_references([str(tmp_path / "thing.png"), f"{images / 'a.png'}:10,20,60,90"], config)
    assert references.name == "thing"
    assert [one.shape for one in references.crops] == [(64, 64, 3)] * 2
    assert predict.read_references([f"{images / 'a.png'}:10,20,60,90"], config).name == "a"


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ("10,20,60,900", "a.png:10,20,60,900.*90 x 120 pixels"),
        ("60,20,10,90", "a.png:60,20,10,90"),
        ("10,20,10,90", "a.png:10,20,10,90"),
        ("1,2,3", "a.png:1,2,3"),
        ("-5,2,30,40", "a.png:-5,2,30,40"),
        ("1, 2, 30, 40", "no spaces"),
    ],
)
def test_bad_boxes_are_named(images, tiny_model, box, message):
    with pytest.raises(ValueError, match=message):
        predict.read_references([f"{images / 'a.png'}:{box}"], tiny_model.config)


def test_bad_references_are_named(images, tiny_model):
    with pytest.raises(ValueError, match="notes.txt"):
        predict.read_references([str(images / "notes.txt")], tiny_model.config)
    with pytest.raises(ValueError, match="gone.png"):
        predict.read_references([str(images / "gone.png")], tiny_model.config)
    with pytest.raises(ValueError, match="at least one"):
        predict.read_references([], tiny_model.config)


def test_what_is_written(images, tiny_model, tmp_path, scene):
    out = tmp_path / "out"
    config = tiny_model.config
    references = [predict.read_references([str(tmp_path / "thing.png")], config)]
    references.append(predict.read_references([f"{images / 'a.png'}:10,20,60,90", str(tmp_path / "thing.png")], config))
    paths = predict.find_images([images])
    results = predict.predict_files(tiny_model.predictor, paths, references, out, progress=False)
    assert sorted(path.name for path in out.iterdir()) == ["images.json", "masks", "overlays", "results.json"]
    names = {f"{image}.{category}.png" for image in ("a", "b") for category in ("thing", "a")}
    assert {path.name for path in (out / "overlays").iterdir()} == names
    assert json.loads((out / "results.json").read_text()) == results and results
    loaded = COCO(str(out / "images.json")).loadRes(str(out / "results.json"))
    assert len(loaded.anns) == len(results) == len(list((out / "masks").iterdir()))
    overlay = np.asarray(Image.open(out / "overlays" / "a.thing.png"))
    assert overlay.shape == scene.shape and not np.array_equal(overlay, scene)
    best = next(iter(loaded.loadAnns(loaded.getAnnIds(imgIds=1, catIds=1))))
    mask = np.asarray(Image.open(out / "masks" / "a.thing.001.png"))
    np.testing.assert_array_equal(mask > 0, loaded.annToMask(best) > 0)
    tiny_model.predictor.set_image(scene)
    assert best["score"] == pytest.approx(
        float(tiny_model.predictor.detect(references[0].crops)["scores"][0]), abs=1e-5
    )


def test_masks_of_an_earlier_run_do_not_stay(images, tiny_model, tmp_path):
    references = predict.read_references([str(tmp_path / "thing.png")], tiny_model.config)
    stale = tmp_path / "out" / "masks" / "a.thing.999.png"
    other = tmp_path / "out" / "masks" / "b.thing.999.png"
    stale.parent.mkdir(parents=True)
    stale.touch()
    other.touch()
    predict.predict_files(tiny_model.predictor, [images / "a.png"], [references], tmp_path / "out", progress=False)
    assert not stale.exists() and other.exists()


def test_a_model_without_masks(images, tiny_model, tmp_path, scene):
    config = tiny_model.config.replace(MODEL="frcnn")
    references = predict.read_references([str(tmp_path / "thing.png")], config)
    predictor = SiamesePredictor(config, layers=dataclasses.replace(tiny_model.predictor.layers, mask={}))
    results = predict.predict_files(predictor, [images / "a.png"], [references], tmp_path / "out", progress=False)
    assert results and not any("segmentation" in result for result in results)
    assert (tmp_path / "out" / "overlays" / "a.thing.png").exists() and not (tmp_path / "out" / "masks").exists()


def test_out_that_is_a_file_is_found_first(images, tiny_model, tmp_path):
    references = predict.read_references([str(tmp_path / "thing.png")], tiny_model.config)
    for out in (tmp_path / "thing.png", tmp_path / "thing.png" / "below"):
        with pytest.raises(ValueError, match="thing.png is a file"):
            predict.predict_files(tiny_model.predictor, [images / "a.png"], [references], out, progress=False)


def test_an_unreadable_image_does_not_stop_the_others(images, tiny_model, tmp_path):
    (images / "a2.png").write_bytes((images / "a.png").read_bytes()[:500])
    references = predict.read_references([str(tmp_path / "thing.png")], tiny_model.config)
    with pytest.raises(ValueError, match="a2.png: .*; the results of the other 2 are in "):
        predict.predict_files(tiny_model.predictor, predict.find_images([images]), [references], tmp_path / "out")
    written = json.loads((tmp_path / "out" / "images.json").read_text())["images"]
    assert [(image["id"], image["file_name"]) for image in written] == [
        (1, str(images / "a.png")),
        (3, str(images / "b.jpg")),
    ]
    assert {result["image_id"] for result in json.loads((tmp_path / "out" / "results.json").read_text())} == {1, 3}


def test_nothing_is_written_if_no_image_can_be_read(images, tiny_model, tmp_path):
    references = predict.read_references([str(tmp_path / "thing.png")], tiny_model.config)
    with pytest.raises(ValueError, match="notes.txt"):
        predict.predict_files(tiny_model.predictor, [images / "notes.txt"], [references], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_each_image_is_decoded_once(images, tiny_model, tmp_path, monkeypatch):
    references = predict.read_references([str(tmp_path / "thing.png")], tiny_model.config)
    opened, read = [], image_files.read_image
    monkeypatch.setattr(image_files, "read_image", lambda path, **how: opened.append(path) or read(path, **how))
    paths = predict.find_images([images])
    predict.predict_files(tiny_model.predictor, paths, [references], tmp_path / "out", progress=False)
    assert opened == paths


def test_names_that_repeat_get_their_place(images, tiny_model, tmp_path):
    references = predict.read_references([str(tmp_path / "thing.png")], tiny_model.config)
    Image.open(images / "a.png").save(images / "a.jpg")
    paths = [images / "a.png", images / "a.jpg"]
    predict.predict_files(tiny_model.predictor, paths, [references], tmp_path / "out", progress=False)
    assert sorted(path.name for path in (tmp_path / "out" / "overlays").iterdir()) == ["a-2.thing.png", "a.thing.png"]


def test_output_names_never_collide():
    assert predict._unique(["a", "a", "a-2", "a.b", "a_b"]) == ["a", "a-2", "a-2-2", "a_b", "a_b-2"]
