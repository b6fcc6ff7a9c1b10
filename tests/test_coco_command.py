"""The command line, as a user types it."""

import json
import pathlib
import subprocess
import sys

import coco_tree
import pytest
from PIL import Image

SCRIPT = pathlib.Path(__file__).resolve().parents[1] / "samples" / "coco" / "coco.py"


@pytest.fixture
def tree(tmp_path):
    coco_tree.write_tree(tmp_path / "set", num_images=3)
    return tmp_path / "set"


@pytest.fixture
def pictures(tmp_path, scene, crop):
    Image.fromarray(scene).save(tmp_path / "scene.png")
    Image.fromarray(crop).save(tmp_path / "crop.png")
    return tmp_path


def test_help_does_not_start_tensorflow():
    code = f"import sys, runpy; sys.argv = ['coco.py', '--help']; runpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
    probe = f"import sys\ntry:\n exec({code!r})\nexcept SystemExit:\n pass\nsys.exit('keras' in sys.modules)"
    finished = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    assert all(command in finished.stdout for command in ("evaluate", "predict", "weights"))


@pytest.mark.parametrize("command", ["train", "check", "evaluate", "predict", "weights"])
def test_each_command_has_help(coco, capsys, command):
    with pytest.raises(SystemExit) as stopped:
        coco.main([command, "--help"])
    assert stopped.value.code == 0
    assert "usage: coco.py" in capsys.readouterr().out


def test_evaluate_prints_tables_and_writes_records(run, tree, tiny_weights, tmp_path):
    out = tmp_path / "out"
    common = ("evaluate", "--dataset", tree, "--model", tiny_weights, "--min-confidence", 0, "--runs", 2)
    code, text, _ = run(*common, "--out", out)
    assert code == 0
    assert text.count("Average Precision  (AP) @[ IoU=0.50 ") == 2 and text.count("+-") == 24
    assert "bbox: 2 images, 8 queries" in text
    names = {path.name for path in out.iterdir()}
    assert {"settings.json", "records-0001-of-0001.jsonl", "scores.json", "analysis.json", "report.md"} <= names
    assert {"results_run_0.json", "results_run_1.json"} <= names
    settings = json.loads((out / "settings.json").read_text())
    assert settings["config"]["NAME"] == "tiny" and settings["config"]["MOLD_TARGETS_AT_INFERENCE"] is True
    scores = json.loads((out / "scores.json").read_text())
    assert set(scores["mean"]) == {"bbox", "segm"} and len(scores["runs"]) == 2
    assert run(*common, "--out", out)[0] == 2  # what is there is not overwritten
    assert run("evaluate", "--dataset", tree, "--results", out, "--out", tmp_path / "again")[0] == 0
    assert json.loads((out / "scores.json").read_text()) == scores


def test_evaluation_in_parts_is_joined(run, tree, tiny_weights, tmp_path):
    common = ("evaluate", "--dataset", tree, "--split", 1, "--categories", "train")
    model = ("--model", tiny_weights, "--min-confidence", 0, "--runs", 2)
    parts = [tmp_path / "one", tmp_path / "two"]
    for number, part in enumerate(parts, start=1):
        code, text, _ = run(*common, *model, "--shard", f"{number}/2", "--out", part)
        assert code == 0 and f"part {number} of 2" in text
    assert run(*common, "--merge", *parts, "--out", tmp_path / "joined")[0] == 0
    assert run(*common, *model, "--out", tmp_path / "whole")[0] == 0
    joined, whole = (json.loads((tmp_path / name / "scores.json").read_text()) for name in ("joined", "whole"))
    assert joined["mean"] == whole["mean"] and joined["runs"] == whole["runs"]


def test_evaluate_with_references_of_the_wrong_category(run, tree, tiny_weights, tmp_path):
    common = ("evaluate", "--dataset", tree, "--model", tiny_weights, "--min-confidence", 0, "--runs", 1)
    images = {"present": [10, 20], "absent": [20]}  # image 10 has all three categories, one as a crowd
    for control, chosen in images.items():
        out = tmp_path / control
        assert run(*common, "--control", control, "--out", out)[0] == 0
        settings = json.loads((out / "settings.json").read_text())
        assert settings["control"] == control and settings["images"] == chosen
        assert f"reference of a category that is {control}" in (out / "report.md").read_text()


def test_controls_are_two(coco, capsys):
    with pytest.raises(SystemExit):
        coco.main(["evaluate", "--dataset", "d", "--model", "m", "--control", "other"])
    assert "'present', 'absent'" in capsys.readouterr().err


def test_random_boxes_over_all_splits(run, tree, tmp_path):
    common = ("evaluate", "--dataset", tree, "--model", "random-boxes", "--runs", 2)
    assert run(*common, "--out", tmp_path / "all")[0] == 0
    text = (tmp_path / "all" / "report.md").read_text()
    assert "random" in text.lower()


def test_parts_of_all_splits_are_joined_and_scored_again(run, tree, tmp_path):
    common = ("evaluate", "--dataset", tree, "--split", "all")
    model = ("--categories", "train", "--model", "random-boxes", "--runs", 2)
    assert run(*common, *model, "--out", tmp_path / "whole")[0] == 0
    parts = [tmp_path / "part1", tmp_path / "part2"]
    for number, part in enumerate(parts, 1):
        assert run(*common, *model, "--shard", f"{number}/2", "--out", part)[0] == 0
    assert run(*common, "--merge", *parts, "--out", tmp_path / "joined")[0] == 0
    assert run(*common, "--results", tmp_path / "joined", "--out", tmp_path / "again")[0] == 0
    tables = [(tmp_path / name / "metrics.csv").read_text() for name in ("whole", "joined", "again")]
    assert tables[0] == tables[1] == tables[2] and ",mean," in tables[0]


def test_weights_of_all_splits_are_found_before_the_first_is_evaluated(run, tree, tmp_path):
    (tmp_path / "weights_1.h5").touch()
    model = tmp_path / "weights_{split}.h5"
    code, _, errors = run("evaluate", "--dataset", tree, "--split", "all", "--model", model, "--out", tmp_path / "out")
    assert code == 2 and "weights_2.h5" in errors and "no such file" in errors


def test_evaluate_paper_protocol(run, tree, tiny_weights, tmp_path):
    common = ("--dataset", tree, "--model", tiny_weights, "--min-confidence", 0, "--protocol", "paper", "--limit", 1)
    assert run("evaluate", *common, "--out", tmp_path / "out")[0] == 0
    settings = json.loads((tmp_path / "out" / "settings.json").read_text())
    assert settings["config"]["MOLD_TARGETS_AT_INFERENCE"] is False
    areas = [
        (result["area"], pytest.approx(result["bbox"][2] * result["bbox"][3]))
        for result in json.loads((tmp_path / "out" / "results_run_0.json").read_text())
    ]
    assert areas and all(area == of_box for area, of_box in areas)


def test_predict_with_several_queries(run, pictures, tiny_weights):
    box = f"{pictures / 'scene.png'}:5,5,50,60"
    references = ("--reference", pictures / "crop.png", box, "--reference", box)
    image = ("--image", pictures / "scene.png")
    model = ("--model", tiny_weights, "--set", "DETECTION_MIN_CONFIDENCE=0")
    code, text, _ = run("predict", *image, *references, *model, "--out", pictures / "out")
    assert code == 0 and "in 1 pictures for 2 queries" in text
    assert {path.name for path in (pictures / "out" / "overlays").iterdir()} == {"scene.crop.png", "scene.scene.png"}


def test_repeated_options_add_up(coco):
    arguments = "predict --model m --reference r --image a --image b c --set A=1 --set B=2".split()
    options = coco.build_parser().parse_args(arguments)
    assert options.image == ["a", "b", "c"] and options.set == ["A=1", "B=2"]


def test_numbers_are_checked(coco, capsys):
    with pytest.raises(SystemExit) as stopped:
        coco.main("evaluate --dataset d --model m --limit none".split())
    assert stopped.value.code == 2
    assert "expected a whole number of 1 or more, got 'none'" in capsys.readouterr().err


def test_records_are_either_joined_or_scored_again(coco, capsys):
    with pytest.raises(SystemExit) as stopped:
        coco.main("evaluate --dataset d --merge a b --results c".split())
    assert stopped.value.code == 2
    assert "--results: not allowed with argument --merge" in capsys.readouterr().err


def test_last_checkpoint_of_the_named_run(run, pictures, tiny_model, tmp_path):
    folder = tmp_path / "logs" / "siamese_mrcnn_tiny_mine"
    folder.mkdir(parents=True)
    for epoch in (1, 3):
        tiny_model.save_weights(folder / f"siamese_mrcnn_{epoch:04d}.h5")
    query = ("--image", pictures / "scene.png", "--reference", pictures / "crop.png", "--out", pictures / "out")
    chosen = ("--model", "last", "--logs", tmp_path / "logs", "--config", "tiny", "--set", "EXPERIMENT=mine")
    assert run("predict", *query, *chosen)[0] == 0


def test_predict_untrained_says_so(run, pictures):
    arguments = ("--image", pictures / "scene.png", "--reference", pictures / "crop.png", "--out", pictures / "out")
    code, _, errors = run("predict", "--model", "untrained", *arguments)
    assert code == 0 and "means nothing" in errors


def test_weights_describes(run, tiny_weights):
    code, text, _ = run("weights", tiny_weights)
    assert code == 0 and "tiny" in text and "resnet_model" in text


def bad_inputs(pictures, tree, weights):
    """(name, arguments, what the message must name) of every mistake a user can make."""
    scene, crop = pictures / "scene.png", pictures / "crop.png"
    predict = ["predict", "--out", pictures / "out", "--model", weights, "--image"]
    evaluate = ["evaluate", "--out", pictures / "out", "--model", weights, "--dataset"]
    train = ["train", "--logs", pictures / "out", "--config", "tiny", "--dataset"]
    (pictures / "broken.png").write_bytes(scene.read_bytes()[:300])
    coco_tree.write_tree(pictures / "train", subset="train")
    (pictures / "config.json").write_text('{"BASE": "tiny", "IMAGE_MAX_DIMS": 128}')
    return {
        "missing image": ([*predict, pictures / "gone.png", "--reference", crop], "gone.png"),
        "broken image": ([*predict, pictures / "broken.png", "--reference", crop], "broken.png"),
        "missing reference": ([*predict, scene, "--reference", pictures / "gone.png"], "gone.png"),
        "box outside": ([*predict, scene, "--reference", f"{scene}:0,0,500,500"], "0,0,500,500"),
        "empty crop": ([*predict, scene, "--reference", f"{scene}:5,5,5,9"], "5,5,5,9"),
        "bad threshold": (
            [*predict, scene, "--reference", crop, "--set", "RPN_NMS_THRESHOLD=2"],
            "RPN_NMS_THRESHOLD = 2",
        ),
        "bad confidence": (
            [*predict, scene, "--reference", crop, "--min-confidence", 70],
            "DETECTION_MIN_CONFIDENCE = 70",
        ),
        "bad side": ([*predict, scene, "--reference", crop, "--set", "IMAGE_MAX_DIM=500"], "IMAGE_MAX_DIM = 500"),
        "unknown key": (
            [*predict, scene, "--reference", crop, "--set", "IMAGE_MAXDIM=5"],
            "did you mean IMAGE_MAX_DIM",
        ),
        "no value": ([*predict, scene, "--reference", crop, "--set", "IMAGE_MAX_DIM"], "KEY=VALUE"),
        "unknown key in file": (
            [*predict, scene, "--reference", crop, "--config", pictures / "config.json"],
            "config.json: IMAGE_MAX_DIMS",
        ),
        "wrong configuration": ([*predict, scene, "--reference", crop, "--config", "small"], "tiny"),
        "missing tree": ([*evaluate, pictures / "nowhere"], "nowhere"),
        "missing subset": ([*evaluate, tree, "--subset", "train"], "instances_train2017.json"),
        "missing known file": (["weights", "imagenet-687", "--checkpoints", pictures], "github.com/bethgelab"),
        "missing weights": (["weights", pictures / "gone.h5"], "gone.h5"),
        "no weights at all": (["weights", crop], "crop.png"),
        "nothing to train on": (["train", "--logs", pictures / "out"], "--dataset: expected the folder"),
        "no training images": ([*train, tree], "instances_train2017.json"),
        "unknown stages": ([*train, tree, "--stages", "papers"], "schedule 'papers'"),
        "uneven batch": ([*train, tree, "--batch", 3, "--devices", 2], "--batch 3: cannot be shared evenly"),
        "no weights to start from": ([*train, pictures / "train", "--model", pictures / "gone.h5"], "gone.h5"),
        "no run to resume": (["train", "--resume", pictures / "nowhere"], "nowhere: no run to resume"),
        "images that are not there": ([*evaluate, tree, "--images", 10, 11], "has no [11]"),
        "no weights to evaluate": (["evaluate", "--out", pictures / "out", "--dataset", tree], "--model: which"),
        "nothing held out": ([*evaluate, tree, "--categories", "novel"], "--split 0 has no categories held out"),
        "settings of random boxes": (
            [
                "evaluate",
                "--out",
                pictures / "out",
                "--dataset",
                tree,
                "--model",
                "random-boxes",
                "--set",
                "POOL_SIZE=7",
            ],
            "random-boxes: has no configuration",
        ),
        "control of random boxes": (
            [*evaluate, tree, "--model", "random-boxes", "--control", "absent"],
            "--control absent: --model random-boxes takes no references",
        ),
        "no set to check": (["check", "--dataset", pictures / "nowhere", "--out", pictures / "out"], "nowhere"),
        "last without a run": (
            ["predict", "--model", "last", "--logs", pictures, "--image", scene, "--reference", crop],
            "no checkpoint",
        ),
    }


MISTAKES = (
    "missing image",
    "broken image",
    "missing reference",
    "box outside",
    "empty crop",
    "bad threshold",
    "bad confidence",
    "bad side",
    "unknown key",
    "no value",
    "unknown key in file",
    "wrong configuration",
    "missing tree",
    "missing subset",
    "missing known file",
    "missing weights",
    "no weights at all",
    "nothing to train on",
    "no training images",
    "unknown stages",
    "uneven batch",
    "no weights to start from",
    "no run to resume",
    "images that are not there",
    "no weights to evaluate",
    "nothing held out",
    "settings of random boxes",
    "control of random boxes",
    "no set to check",
    "last without a run",
)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_named_and_leave_nothing(run, pictures, tree, tiny_weights, mistake):
    arguments, culprit = bad_inputs(pictures, tree, tiny_weights)[mistake]
    code, _, errors = run(*arguments)
    assert code == 2
    assert culprit in errors and errors.startswith("coco.py: error: ")
    assert "Traceback" not in errors
    assert not (pictures / "out").exists()


def test_every_mistake_is_tried(pictures, tree, tiny_weights):
    assert set(bad_inputs(pictures, tree, tiny_weights)) == set(MISTAKES)


@pytest.mark.parametrize(
    ("change", "culprit"),
    [
        (lambda content: content.pop("categories"), "categories"),
        (lambda content: content["annotations"][0].pop("bbox"), "bbox"),
        (lambda content: content["images"][0].update(file_name="../escape.png"), "../escape.png"),
    ],
)
def test_bad_annotation_files(run, tree, tiny_weights, tmp_path, change, culprit):
    content = json.loads((tree / "annotations" / "instances_val2017.json").read_text())
    change(content)
    coco_tree.write_annotations(tree, content)
    code, _, errors = run("evaluate", "--dataset", tree, "--model", tiny_weights, "--out", tmp_path / "out")
    assert code == 2 and culprit in errors and "instances_val2017.json" in errors
    assert not (tmp_path / "out").exists()


def test_a_category_without_instances_is_no_error(run, tree, tiny_weights, tmp_path):
    content = json.loads((tree / "annotations" / "instances_val2017.json").read_text())
    content["categories"].append({"id": 99, "name": "unicorn"})
    coco_tree.write_annotations(tree, content)
    assert run("evaluate", "--dataset", tree, "--model", tiny_weights, "--out", tmp_path / "out", "--limit", 1)[0] == 0


def test_debug_shows_the_traceback(coco, pictures):
    with pytest.raises(ValueError, match="gone.h5"):
        coco.main(["weights", str(pictures / "gone.h5"), "--debug"])


def test_backbone_weights_cannot_detect(run, pictures, tiny_model, tmp_path):
    from siamese_mrcnn_tf.weights import loading

    class Backbone:
        layers = [tiny_model.predictor.layers.resnet_model]

    loading.save_weights(Backbone, tmp_path / "imagenet.h5")
    arguments = ("--image", pictures / "scene.png", "--reference", pictures / "crop.png", "--out", pictures / "out")
    code, _, errors = run("predict", "--model", tmp_path / "imagenet.h5", "--config", "tiny", *arguments)
    assert code == 2 and "cannot detect" in errors and "fpn_c5p5" in errors


# ---- check -------------------------------------------------------------------------------------------------------
def test_check_counts_and_draws(run, tree, tmp_path):
    out = tmp_path / "pictures"
    code, text, _ = run("check", "--dataset", tree, "--subset", "val", "--config", "tiny", "--out", out, "--samples", 2)
    assert code == 0
    assert "val2017: 3 images, 1 of them without annotations; 5 annotations, 1 of them crowds" in text
    assert "2 training samples are drawn" in text
    assert sorted(path.name for path in out.iterdir()) == ["sample_00.png", "sample_01.png"]


def test_check_fails_on_broken_pictures(run, tree, tmp_path):
    (tree / "val2017" / "000000000020.png").unlink()
    checked = ("check", "--dataset", tree, "--subset", "val", "--config", "tiny", "--out", tmp_path, "--samples", 0)
    code, text, _ = run(*checked)
    assert code == 1
    assert "000000000020.png" in text
    assert run(*checked, "--skip-pictures")[0] == 0
