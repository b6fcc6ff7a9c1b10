"""Search in picture files."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from siamese_mrcnn_tf import SiamesePredictor
from siamese_mrcnn_tf.cli import predict


@pytest.fixture
def pictures(tmp_path, scene, crop):
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.fromarray(scene).save(folder / "a.png")
    Image.fromarray(scene[::-1]).save(folder / "b.jpg", quality=95)
    (folder / "notes.txt").write_text("no picture")
    Image.fromarray(crop).save(tmp_path / "thing.png")
    return folder


def test_pictures_by_file_folder_and_pattern(pictures):
    a, b = pictures / "a.png", pictures / "b.jpg"
    assert predict.find_pictures([a]) == [a]
    assert predict.find_pictures([pictures]) == [a, b]
    assert predict.find_pictures([str(pictures / "*.png"), pictures]) == [a, b]
    for source, message in (
        (pictures / "c.png", "no such file"),
        (pictures / "*.tif", "no such file, folder or match"),
    ):
        with pytest.raises(ValueError, match=message):
            predict.find_pictures([a, source])
    (pictures / "empty").mkdir()
    with pytest.raises(ValueError, match="no picture .* in this folder"):
        predict.find_pictures([pictures / "empty"])


def test_query_from_crops_and_boxes(pictures, tiny_model, scene, crop, tmp_path):
    config = tiny_model.config
    query = predict.read_query([str(tmp_path / "thing.png"), f"{pictures / 'a.png'}:10,20,60,90"], config)
    assert query.name == "thing"
    assert [one.shape for one in query.crops] == [(64, 64, 3)] * 2
    assert predict.read_query([f"{pictures / 'a.png'}:10,20,60,90"], config).name == "a"


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
def test_bad_boxes_are_named(pictures, tiny_model, box, message):
    with pytest.raises(ValueError, match=message):
        predict.read_query([f"{pictures / 'a.png'}:{box}"], tiny_model.config)


def test_bad_references_are_named(pictures, tiny_model):
    with pytest.raises(ValueError, match="notes.txt"):
        predict.read_query([str(pictures / "notes.txt")], tiny_model.config)
    with pytest.raises(ValueError, match="gone.png"):
        predict.read_query([str(pictures / "gone.png")], tiny_model.config)
    with pytest.raises(ValueError, match="at least one"):
        predict.read_query([], tiny_model.config)


def test_what_is_written(pictures, tiny_model, tmp_path, scene):
    out = tmp_path / "out"
    config = tiny_model.config
    queries = [predict.read_query([str(tmp_path / "thing.png")], config)]
    queries.append(predict.read_query([f"{pictures / 'a.png'}:10,20,60,90", str(tmp_path / "thing.png")], config))
    paths = predict.find_pictures([pictures])
    results = predict.predict_files(tiny_model.predictor, paths, queries, out, progress=False)
    assert sorted(path.name for path in out.iterdir()) == ["images.json", "masks", "overlays", "results.json"]
    names = {f"{picture}.{query}.png" for picture in ("a", "b") for query in ("thing", "a")}
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
    assert best["score"] == pytest.approx(float(tiny_model.predictor.detect(queries[0].crops)["scores"][0]), abs=1e-5)


def test_masks_of_an_earlier_run_do_not_stay(pictures, tiny_model, tmp_path):
    query = predict.read_query([str(tmp_path / "thing.png")], tiny_model.config)
    stale = tmp_path / "out" / "masks" / "a.thing.999.png"
    other = tmp_path / "out" / "masks" / "b.thing.999.png"
    stale.parent.mkdir(parents=True)
    stale.touch()
    other.touch()
    predict.predict_files(tiny_model.predictor, [pictures / "a.png"], [query], tmp_path / "out", progress=False)
    assert not stale.exists() and other.exists()


def test_a_model_without_masks(pictures, tiny_model, tmp_path, scene):
    config = tiny_model.config.replace(MODEL="frcnn")
    query = predict.read_query([str(tmp_path / "thing.png")], config)
    predictor = SiamesePredictor(config, layers=dataclasses.replace(tiny_model.predictor.layers, mask={}))
    results = predict.predict_files(predictor, [pictures / "a.png"], [query], tmp_path / "out", progress=False)
    assert results and not any("segmentation" in result for result in results)
    assert (tmp_path / "out" / "overlays" / "a.thing.png").exists() and not (tmp_path / "out" / "masks").exists()


def test_out_that_is_a_file_is_found_first(pictures, tiny_model, tmp_path):
    query = predict.read_query([str(tmp_path / "thing.png")], tiny_model.config)
    for out in (tmp_path / "thing.png", tmp_path / "thing.png" / "below"):
        with pytest.raises(ValueError, match="thing.png is a file"):
            predict.predict_files(tiny_model.predictor, [pictures / "a.png"], [query], out, progress=False)


def test_a_broken_picture_stops_before_anything_is_written(pictures, tiny_model, tmp_path):
    (pictures / "c.png").write_bytes((pictures / "a.png").read_bytes()[:500])
    query = predict.read_query([str(tmp_path / "thing.png")], tiny_model.config)
    with pytest.raises(ValueError, match="c.png"):
        predict.predict_files(tiny_model.predictor, predict.find_pictures([pictures]), [query], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_names_that_repeat_get_their_place(pictures, tiny_model, tmp_path):
    query = predict.read_query([str(tmp_path / "thing.png")], tiny_model.config)
    Image.open(pictures / "a.png").save(pictures / "a.jpg")
    paths = [pictures / "a.png", pictures / "a.jpg"]
    predict.predict_files(tiny_model.predictor, paths, [query], tmp_path / "out", progress=False)
    assert sorted(path.name for path in (tmp_path / "out" / "overlays").iterdir()) == ["a-2.thing.png", "a.thing.png"]


def test_output_names_never_collide():
    assert predict._unique(["a", "a", "a-2", "a.b", "a_b"]) == ["a", "a-2", "a-2-2", "a_b", "a_b-2"]
