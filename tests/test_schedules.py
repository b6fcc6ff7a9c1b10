"""Schedules: what each layer selection names, the paper's stages, and stages from files."""

import dataclasses
import json
import math

import pytest

from siamese_mrcnn_tf.shapes.schedules import SHAPES_SCHEDULES
from siamese_mrcnn_tf.training import schedules
from siamese_mrcnn_tf.training.schedules import SCHEDULES, Stage, layer_pattern, load_schedule, shortened


@pytest.fixture(scope="module")
def names():
    """Names of all layers with weights, of a model with masks."""
    from siamese_mrcnn_tf import TinyConfig
    from siamese_mrcnn_tf.modeling import network
    from siamese_mrcnn_tf.training import trainable_layers

    layers = network.build_layers(TinyConfig()).layers
    return [layer.name for layer in trainable_layers.iter_layers(layers) if layer.weights]


def chosen(names, selection):
    return {name for name in names if layer_pattern(selection).fullmatch(name)}


STEM = {"conv1", "bn_conv1"}


def test_no_stage_of_the_backbone_has_the_stem(names):
    assert chosen(names, "all") == set(names) and STEM <= set(names)
    for selection in ("heads", "rpn", "2+", "3+", "4+", "5+"):
        assert not chosen(names, selection) & STEM, selection


def test_all_but_batch_normalization(names):
    left = set(names) - chosen(names, "no-bn")
    assert {"bn_conv1", "bn2a_branch2a", "bn5a_branch1", "mrcnn_class_bn1", "mrcnn_mask_bn4"} <= left
    assert left == {name for name in names if name.startswith("bn") or "_bn" in name}
    assert "conv1" not in left


def test_heads_are_all_that_comes_after_the_backbone(names):
    heads = chosen(names, "heads")
    assert {name.split("_")[0] for name in heads} == {"fpn", "rpn", "mrcnn"}
    assert {"fpn_distance_P3", "fpn_c5p5", "rpn_conv_shared", "mrcnn_mask", "mrcnn_class_bn1"} <= heads
    assert {name[:3] for name in set(names) - heads} == {"con", "bn_", "res", "bn2", "bn3", "bn4", "bn5"}


def test_rpn_leaves_the_classifier_and_the_masks_alone(names):
    rpn = chosen(names, "rpn")
    assert {"rpn_class_raw", "rpn_bbox_pred", "fpn_p2", "fpn_distance_P6"} <= rpn
    assert rpn == {name for name in chosen(names, "heads") if not name.startswith("mrcnn_")}


@pytest.mark.parametrize("first", [2, 3, 4, 5])
def test_stages_of_the_backbone(names, first):
    found = chosen(names, f"{first}+")
    for stage in (2, 3, 4, 5):
        of_stage = {name for name in names if name.startswith((f"res{stage}", f"bn{stage}"))}
        assert {f"res{stage}a_branch2a", f"bn{stage}a_branch2c", f"res{stage}a_branch1"} <= of_stage
        assert of_stage & found == (of_stage if stage >= first else set()), stage
    assert chosen(names, "heads") < found


def test_the_deepest_layers_of_the_published_backbones():
    pattern = layer_pattern("4+")
    assert all(map(pattern.fullmatch, ("res4a_branch2a", "res4w_branch2c", "bn5c_branch2c", "res5c_branch2b")))
    assert not any(map(pattern.fullmatch, ("res3d_branch2a", "bn3a_branch1", "res2a_branch1", "conv1", "bn_conv1")))


def test_expressions_are_for_whole_names():
    pattern = layer_pattern("res4.*|mrcnn_mask")
    assert pattern.fullmatch("res4a_branch1") and pattern.fullmatch("mrcnn_mask")
    assert not pattern.fullmatch("mrcnn_mask_conv1")
    for broken in ("res4(", None):
        with pytest.raises(ValueError, match=r"expected one of heads, rpn, 2\+, 3\+, 4\+, 5\+, all, .*or a regular"):
            layer_pattern(broken)


def test_the_schedules_of_the_paper():
    assert SCHEDULES["paper"] == (Stage(1, "heads", 0.02), Stage(120, "all", 0.02), Stage(160, "all", 0.002))
    assert SCHEDULES["paper-full"] == (Stage(1, "heads", 0.02), Stage(240, "all", 0.02), Stage(320, "all", 0.002))
    with pytest.raises(ValueError, match="'shapes': none of paper, paper-full, small;"):
        load_schedule("shapes")
    known = {**SCHEDULES, **SHAPES_SCHEDULES}
    for name, stages in known.items():
        assert load_schedule(name, known) is stages
        ends = [stage.epochs for stage in stages]
        assert ends == sorted(set(ends)) and ends[0] >= 1
        assert {stage.layers for stage in stages} <= set(schedules.LAYER_SELECTIONS)


def stage(**changes):
    return {"epochs": 1, "layers": "heads", "learning_rate": 0.02} | changes


def write(path, content):
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def test_a_schedule_from_a_file(tmp_path):
    content = [stage(), stage(epochs=4, layers="res5.*", learning_rate=1)]
    expected = (Stage(1, "heads", 0.02), Stage(4, "res5.*", 1))
    assert load_schedule(write(tmp_path / "mine.json", content)) == expected
    assert load_schedule(str(tmp_path / "mine.json")) == expected


def test_a_decay_from_a_file(tmp_path):
    content = [stage(), stage(epochs=4, decay_to=9), stage(epochs=5, decay_to=5), stage(epochs=6, decay_to=None)]
    stages = load_schedule(write(tmp_path / "mine.json", content))
    assert [stage.decay_to for stage in stages] == [None, 9, 5, None]
    assert stages[1] == Stage(4, "heads", 0.02, decay_to=9)


BROKEN = {
    "no list": ({"epochs": 1}, "expected a list of stages that is not empty"),
    "empty": ([], "expected a list of stages that is not empty"),
    "no object": ([stage(), 3], r"\[1\]: expected an object with the keys epochs, layers, learning_rate, got 3"),
    "missing key": ([{"epochs": 1, "layers": "all"}], r"\[0\]: expected an object with the keys .*learning_rate"),
    "other key": ([stage(momentum=0.5)], r"\[0\]: expected an object .* 'momentum': 0.5"),
    "no epochs": ([stage(epochs=0)], r"\[0\]: epochs = 0, expected a whole number of 1 or more"),
    "half an epoch": ([stage(epochs=1.5)], r"\[0\]: epochs = 1.5, expected a whole number"),
    "epochs true": ([stage(epochs=True)], r"\[0\]: epochs = True, expected a whole number"),
    "same end": ([stage(), stage()], r"\[1\]: epochs = 1, expected an epoch after 1"),
    "earlier end": ([stage(epochs=5), stage(epochs=8), stage(epochs=7)], r"\[2\]: epochs = 7, expected .* after 8"),
    "learning rate text": ([stage(learning_rate="0.1")], r"\[0\]: learning_rate = '0.1', expected a number above 0"),
    "learning rate 0": ([stage(learning_rate=0)], r"\[0\]: learning_rate = 0, expected a number above 0"),
    "learning rate true": ([stage(learning_rate=True)], r"\[0\]: learning_rate = True"),
    "learning rate infinite": ([stage(learning_rate=math.inf)], r"\[0\]: learning_rate = inf"),
    "learning rate nan": ([stage(learning_rate=math.nan)], r"\[0\]: learning_rate = nan"),
    "learning rate of 400 digits": (
        [stage(learning_rate=10**400)],
        r"line 1.*: the number 1000.* of 401 digits is too large",
    ),
    "epochs of 400 digits": ([stage(epochs=10**400)], r"line 1.*: the number 1000.* of 401 digits is too large"),
    "layers without an end": (
        [stage(layers="a{99999999999}")],
        r"\[0\]: layers 'a\{9+\}': expected one of heads",
    ),
    "decay before the end": (
        [stage(), stage(epochs=4, decay_to=3)],
        r"\[1\]: decay_to = 3, expected an epoch from 4 on",
    ),
    "half a decay": ([stage(decay_to=1.5)], r"\[0\]: decay_to = 1.5, expected an epoch from 1 on"),
    "decay true": ([stage(decay_to=True)], r"\[0\]: decay_to = True, expected an epoch from 1 on"),
    "decay alone": ([{"epochs": 1, "decay_to": 1}], r"\[0\]: expected an object with the keys epochs, layers, learn"),
    "layers number": ([stage(layers=5)], r"\[0\]: layers = 5, expected a selection or a regular expression"),
    "layers no expression": (
        [stage(), stage(epochs=2, layers="res(")],
        r"\[1\]: layers 'res\(': expected one of heads",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_files_are_named_with_entry_key_and_value(tmp_path, case):
    content, message = BROKEN[case]
    path = write(tmp_path / "broken.json", content)
    with pytest.raises(ValueError, match=rf"schedule .*broken\.json'?: .*{message}"):
        load_schedule(path)


def test_what_is_no_schedule_at_all(tmp_path):
    with pytest.raises(ValueError, match="schedule 'papr': none of paper, paper-full, small.*; papr: cannot be read"):
        load_schedule("papr")
    (tmp_path / "text.json").write_text("[{'epochs': 1}]")
    with pytest.raises(ValueError, match=r"text\.json: not JSON at line 1"):
        load_schedule(tmp_path / "text.json")


@pytest.mark.parametrize(
    ("epochs", "ends"), [(1, [1]), (2, [1, 2]), (120, [1, 120]), (121, [1, 120, 121]), (500, [1, 120, 160])]
)
def test_shortened(epochs, ends):
    stages = shortened(SCHEDULES["paper"], epochs)
    assert [stage.epochs for stage in stages] == ends
    for short, whole in zip(stages, SCHEDULES["paper"], strict=False):
        assert (short.layers, short.learning_rate) == (whole.layers, whole.learning_rate)


def test_shortened_stages_decay_as_the_whole_ones_do():
    stages = (Stage(2, "heads", 0.02), Stage(15, "all", 0.001, decay_to=15))
    assert shortened(stages, 6) == (stages[0], Stage(6, "all", 0.001, decay_to=15))
    for [whole] in SHAPES_SCHEDULES.values():
        assert shortened([whole], 3) == (dataclasses.replace(whole, epochs=3),) and whole.decay_to == whole.epochs > 3
    assert [stage.decay_to for stage in SCHEDULES["paper"]] == [None] * 3
