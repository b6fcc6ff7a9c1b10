"""The command predict: options, messages, exit codes, and the files of a search."""

import dataclasses
import json
import logging
import sys
import types

import keras
import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from search_samples import contents

from siamese_mrcnn_tf import ReferenceEmbedding, SiamesePredictor
from siamese_mrcnn_tf.cli import predict
from siamese_mrcnn_tf.cli.main import build_parsers, parse
from siamese_mrcnn_tf.io.files import checksum
from siamese_mrcnn_tf.ops.devices import use_device
from siamese_mrcnn_tf.search.journal import SETTINGS_FILE
from siamese_mrcnn_tf.search.outputs import KINDS
from siamese_mrcnn_tf.search.queries import categories_of, read_query
from siamese_mrcnn_tf.search.run import Detector


@pytest.fixture
def images(tmp_path, scene, crop):
    folder = tmp_path / "images"
    folder.mkdir()
    Image.fromarray(scene).save(folder / "a.png")
    Image.fromarray(scene[::-1]).save(folder / "b.jpg", quality=95)
    (folder / "notes.txt").write_text("no image")
    Image.fromarray(crop).save(tmp_path / "thing.png")
    return folder


@pytest.fixture
def opened(monkeypatch, tiny_model):
    """How often the model was opened; it is the shared one, which stands for its weight file."""
    calls = []

    def open_predictor(options, config, weights):
        calls.append(config)
        tiny_model.predictor.config = config
        return tiny_model.predictor

    before = tiny_model.predictor.config
    monkeypatch.setattr(predict, "open_predictor", open_predictor)
    yield calls
    tiny_model.predictor.config = before


@pytest.fixture
def search(run, opened, tiny_weights, images, tmp_path):
    """Run predict with the tiny model on the images, for thing.png and all scores: (exit code, output, errors)."""

    def run_predict(*options, image=images, threshold=0.0, reference=tmp_path / "thing.png"):
        words = ["predict", "--model", tiny_weights, "--image", image, "--out", tmp_path / "out"]
        words += ["--threshold", threshold] if threshold is not None else []
        return run(*words, *(["--reference", reference] if reference else []), *options)

    return run_predict


def test_an_example_in_a_used_folder_offers_what_it_has(run, tmp_path):
    (tmp_path / "found").mkdir()
    (tmp_path / "found" / SETTINGS_FILE).write_text("{}")
    code, _, errors = run("example", "--out", tmp_path)
    assert code == 2 and "found: has a search already; choose another folder (--out), --force clears" in errors
    assert "--resume" not in errors


@pytest.mark.parametrize("again", [(), ("--force",), ("--resume",)])
def test_an_interrupted_search_tells_the_command_that_resumes_it(capsys, again):
    words = ["predict", "--model", "shapes", "--image", "a b.png", "--reference", "b.png"]
    summary = types.SimpleNamespace(num_images=1, num_finds=0, skipped=(), is_interrupted=True)
    assert predict._report(parse([*words, *again]), summary, 1) == 130
    command = "siamese-mrcnn predict --model shapes --image 'a b.png' --reference b.png --resume\n"
    assert capsys.readouterr().err == f"siamese-mrcnn predict: interrupted. To resume: {command}"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reference": None}, "--reference: expected at least one"),
        ({"reference": "gone.png"}, "reference gone.png: no such file"),
    ],
)
def test_skipped_files_are_not_told_beside_an_error(search, options, message):
    code, _, errors = search(**options)
    assert code == 2 and message in errors and "skipped" not in errors


def test_a_search_writes_results_that_coco_reads(search, images, tmp_path, tiny_model, scene, crop):
    box = f"box={images / 'a.png'}:10,20,60,90"
    code, text, errors = search("--reference", box)
    assert code == 0 and "images: 2, categories: 2, detections: " in text and "skipped 1 file: .txt 1" in errors
    out = tmp_path / "out"
    results = json.loads((out / "results.json").read_text())
    loaded = COCO(str(out / "images.json")).loadRes(str(out / "results.json"))
    assert len(loaded.anns) == len(results) == len(list((out / "masks").iterdir())) > 0
    assert [category["name"] for category in loaded.loadCats([1, 2])] == ["thing", "box"]
    best = next(iter(loaded.loadAnns(loaded.getAnnIds(imgIds=1, catIds=1))))
    tiny_model.predictor.set_image(scene)
    found = tiny_model.predictor.detect(read_query([str(tmp_path / "thing.png")], tiny_model.config).crops)
    assert best["score"] == pytest.approx(float(found["scores"][0]), abs=1e-5)
    np.testing.assert_array_equal(loaded.annToMask(best) > 0, found["masks"][..., 0])


def test_options_of_a_search(search, tmp_path, opened, tiny_weights):
    code, _, _ = search("--max-detections", 2, "--save", "coco", "--save-embeddings", tmp_path / "saved", "--quiet")
    assert code == 0 and (opened[0].DETECTION_MAX_INSTANCES, opened[0].DETECTION_MIN_CONFIDENCE) == (2, 0)
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results and not (tmp_path / "out" / "overlays").exists()
    saved = ReferenceEmbedding.load(tmp_path / "saved" / "thing.npz")
    assert (saved.name, saved.threshold, saved.weights_sha256) == ("thing", 0, checksum(tiny_weights))
    again = ("--force", "--save", "coco,masks", "--max-detections", 2)
    code, _, _ = search(*again, reference=tmp_path / "saved/thing.npz")
    assert code == 0 and json.loads((tmp_path / "out" / "results.json").read_text()) == results
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"masks", "search.json"}
    saved = dataclasses.replace(saved, weights_sha256="ab" * 32)
    saved.save(tmp_path / "other.npz")
    code, _, errors = search("--force", reference=tmp_path / "other.npz")
    assert code == 2 and "SHA-256 abababababab..." in errors and checksum(tiny_weights)[:12] in errors


def test_thresholds_of_saved_embeddings_are_kept_for_their_categories(images, tmp_path, tiny_model, scene):
    query = read_query([str(tmp_path / "thing.png")], tiny_model.config)
    saved = dataclasses.replace(query.encode(tiny_model.predictor), threshold=0.78)
    queries = [query, dataclasses.replace(query, crops=(), saved=[saved])]
    found = Detector(lambda: tiny_model.predictor, queries, categories_of(queries, 0.0))(scene)
    assert 0 < len(found[1]) == (found[0].scores >= 0.78).sum() < len(found[0])


def test_quiet_prints_errors_alone(search, images, caplog):
    (images / "c.png").write_bytes((images / "a.png").read_bytes()[:500])
    level = logging.getLogger().level
    code, text, errors = search("--quiet")
    assert code == 1 and text == "" and "1 image was skipped:\n" in errors and "c.png: the image cannot be" in errors
    assert errors.count("\n") == 2 and not caplog.messages and logging.getLogger().level == level
    code, text, errors = search("--quiet", "--resume", "--every", 3)
    assert code == 2 and text == "" and "options.every: 1 then, 3 now" in errors


def test_broken_images_are_listed_and_strict_stops(search, images, tmp_path):
    (images / "a2.png").write_bytes((images / "a.png").read_bytes()[:500])
    code, text, errors = search("--strict")
    assert code == 1 and "images: 1, categories: 1" in text and "a2.png" in errors
    code, text, errors = search("--resume")
    assert code == 1 and "images: 2, categories: 1" in text and errors.count("a2.png") == 2
    (images / "a2.png").write_bytes((images / "a.png").read_bytes())
    code, text, errors = search("--resume")
    assert code == 0 and "images: 3, categories: 1" in text and "a2.png" not in errors


def test_a_finished_search_opens_no_model(search, opened, tmp_path):
    assert search("--resume")[0] == 0  # nothing to go on with: it begins
    before = contents(tmp_path / "out")
    assert len(opened) == 1 and search("--resume")[0] == 0
    assert len(opened) == 1 and contents(tmp_path / "out") == before
    assert search()[0] == 2 and search("--force")[0] == 0 and len(opened) == 2


def test_errors_of_use_leave_the_folder_as_it_is(search, images, tmp_path):
    search()
    before = contents(tmp_path / "out")
    for options, message in (
        (("--force", "--save", "postcards"), "--save postcards: expected some of overlays"),
        (("--force", "--categories", "x"), "--categories: is for --reference-set, which is missing"),
        (("--force", "--device", "cuda:9"), "device 'cuda:9': TensorFlow sees "),
        (("--resume", "--threshold", 0.5), "categories.thing.threshold: 0.0 then, 0.5 now"),
    ):
        code, _, errors = search(*options)
        assert code == 2 and message in errors
    code, _, errors = search("--force", reference=None)
    assert code == 2 and "--reference: expected at least one, or --reference-set" in errors
    assert contents(tmp_path / "out") == before


def test_categories_of_a_set_are_references(search, content, tmp_path):
    path = tmp_path / "annotations" / "instances_val2017.json"
    code, text, _ = search("--reference-set", path, "--categories", "ellipse", "triangle", "--shots", 1)
    assert code == 0 and "categories: 3" in text


def test_every_frame_of_a_video(search, tmp_path, scene):
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "clip.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width, stream.height, stream.pix_fmt = scene.shape[1], scene.shape[0], "yuv420p"
        for number in range(4):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.roll(scene, 8 * number, 1).copy(), "rgb24")))
        container.mux(stream.encode())
    code, text, _ = search("--every", 2, image=tmp_path / "clip.mp4")
    assert code == 0 and "images: 2, categories: 1" in text
    lines = (tmp_path / "out" / "journal.jsonl").read_text().splitlines()
    found = [json.loads(line)["result"] for line in lines[:-1]]
    assert [(one["name"], one["frame"], one["seconds"]) for one in found] == [
        ("clip-000000", 0, 0),
        ("clip-000002", 2, 0.4),
    ]


def test_frames_of_a_webcam_end_with_ctrl_c(search, tmp_path, monkeypatch, scene):
    import cv2

    class Camera:
        left = 3

        def isOpened(self):
            return True

        def read(self):
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
            return True, scene[..., ::-1]

        def release(self):
            pass

    monkeypatch.setattr(cv2, "VideoCapture", lambda device: Camera())
    code, text, _ = search(image="webcam")
    assert code == 0 and "images: 3, categories: 1" in text and (tmp_path / "out" / "results.json").exists()
    code, text, _ = search("--force", "--frames", 2, image="webcam:2")
    assert code == 0 and "images: 2" in text


def test_images_of_12_and_16_bits_find_what_8_bits_find(search, tmp_path, scene):
    found = []
    for bits in (8, 12, 16):
        values = np.rint(scene[..., 1] / 255 * (2**bits - 1)).astype(np.uint16 if bits > 8 else np.uint8)
        path = tmp_path / "grey.png"
        Image.fromarray(values).save(path)
        assert search("--force", image=path, reference=f"{path}:10,20,60,90")[0] == 0
        found.append(json.loads((tmp_path / "out" / "results.json").read_text()))
    assert found[0] and found[1] == found[0] and found[2] == found[0]


def test_a_model_without_masks(images, tiny_model, tmp_path, scene):
    config = tiny_model.config.replace(MODEL="frcnn")
    predictor = SiamesePredictor(config, layers=dataclasses.replace(tiny_model.predictor.layers, mask={}))
    queries = [read_query([str(tmp_path / "thing.png")], config)]
    (found,) = Detector(lambda: predictor, queries, categories_of(queries, 0.0))(scene)
    assert len(found) and found.masks is None


def test_photographs_are_named_once_for_the_bundled_weights(run, opened, tmp_path, images, scene):
    weights = ("--model", "shapes", "--reference", tmp_path / "thing.png", "--out", tmp_path / "out", "--threshold", 0)
    code, _, errors = run("predict", "--image", images, *weights)
    assert code == 0 and "photograph" not in errors
    large = np.tile(scene, (1, 5, 1))
    for name in ("c.png", "d.png"):
        Image.fromarray(large).save(images / name)
    code, _, errors = run("predict", "--image", images, "--force", *weights)
    assert code == 0 and errors.count("photograph, ") == 1 and "c.png looks like a photograph" in errors


@pytest.mark.parametrize(("exif", "expected"), [({0x010F: "Maker"}, True), ({0x0112: 1}, False)])
def test_what_names_its_camera_may_be_a_photograph(tmp_path, scene, exif, expected):
    tags = Image.Exif()
    tags.update(exif)
    Image.fromarray(scene).save(tmp_path / "a.jpg", exif=tags)
    assert predict.is_photograph(str(tmp_path / "a.jpg"), 90, 120) == expected


def test_help_names_every_kind_of_output():
    (save,) = (one for one in build_parsers()[1]["predict"]._actions if "--save" in one.option_strings)
    assert all(kind in save.help for kind in KINDS)


def test_devices(monkeypatch):
    import tensorflow as tf

    chosen, gpus = [], ["GPU 0", "GPU 1"]
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: gpus)
    monkeypatch.setattr(tf.config, "set_visible_devices", lambda devices, kind: chosen.append(devices))
    for name in ("cpu", "gpu", "cuda:1", "gpu:0"):
        use_device(name)
    assert chosen == [[], gpus, ["GPU 1"], ["GPU 0"]]
    with pytest.raises(ValueError, match="'cuda:2': TensorFlow sees the GPUs 0 to 1"):
        use_device("cuda:2")
    gpus.clear()
    with pytest.raises(ValueError, match="'gpu': TensorFlow sees no GPU here"):
        use_device("gpu")
    for name in ("cpu:1", "tpu", "cuda:", "cuda:x"):
        with pytest.raises(ValueError, match="expected cpu, gpu or cuda:N"):
            use_device(name)
    assert "keras" in sys.modules


def test_devices_of_jax(monkeypatch):
    jax = pytest.importorskip("jax")
    chosen, found = [], {"cpu": ["CPU 0"], "gpu": ["GPU 0", "GPU 1"]}
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    monkeypatch.setattr(jax, "devices", found.__getitem__)
    monkeypatch.setattr(jax.config, "update", lambda name, value: chosen.append((name, value)))
    for name in ("cpu", "gpu", "cuda:1"):
        use_device(name)
    assert chosen == [("jax_default_device", device) for device in ("CPU 0", "GPU 0", "GPU 1")]
    with pytest.raises(ValueError, match="'cuda:2': JAX sees the GPUs 0 to 1"):
        use_device("cuda:2")
    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    with pytest.raises(ValueError, match="KERAS_BACKEND is torch"):
        use_device("cpu")
