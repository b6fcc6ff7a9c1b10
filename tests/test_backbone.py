"""Backbone and pyramid: names and shapes of the original, batch normalization, values against plain operations."""

import keras
import numpy as np
import pytest
from keras import ops

from siamese_mrcnn_tf.config import Config, TinyConfig
from siamese_mrcnn_tf.modeling import backbone
from siamese_mrcnn_tf.modeling.backbone import BatchNorm

BLOCKS = {"resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3)}
NARROW = {"BACKBONE_STEM_WIDTH": 4, "BACKBONE_WIDTHS": (4, 6, 8, 10), "BACKBONE_BOTTLENECK": 2}


def narrow_model(**changes):
    return backbone.build_resnet_model(Config().replace(**NARROW, **changes))


def fill(model, seed=0):
    """Random weights, variances positive."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        low, high = (0.5, 1.5) if weight.name in ("gamma", "moving_variance") else (-0.5, 0.5)
        weight.assign(rng.uniform(low, high, weight.shape))
    return model


def random_map(*shape, seed=1):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def convolution_names(architecture):
    """Names of all convolutions by the rule of the original files."""
    names = {"conv1"}
    for stage, count in enumerate(BLOCKS[architecture], start=2):
        names.add(f"res{stage}a_branch1")
        blocks = "abcdefghijklmnopqrstuvw"[:count]
        names |= {f"res{stage}{block}_branch2{part}" for block in blocks for part in "abc"}
    return names


def norm_of(convolution):
    return "bn_conv1" if convolution == "conv1" else "bn" + convolution.removeprefix("res")


# ---- ResNet ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("architecture", "count"), [("resnet50", 53), ("resnet101", 104)])
def test_resnet_has_the_layers_of_the_original(architecture, count):
    model = narrow_model(BACKBONE=architecture)
    convolutions = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    norms = [layer for layer in model.layers if isinstance(layer, BatchNorm)]
    assert {layer.name for layer in convolutions} == convolution_names(architecture)
    assert {layer.name for layer in norms} == {norm_of(layer.name) for layer in convolutions}
    assert len(convolutions) == len(norms) == count
    assert all(layer.use_bias for layer in convolutions)
    assert {(layer.epsilon, layer.momentum) for layer in norms} == {(1e-3, 0.99)}
    assert model.name == "resnet_model"


def test_stride_is_in_the_first_convolution_of_stages_3_to_5():
    strided = {layer.name for layer in narrow_model().layers if getattr(layer, "strides", 1) == (2, 2)}
    halving = {f"res{stage}a_branch{part}" for stage in (3, 4, 5) for part in ("1", "2a")}
    assert {name for name in strided if name.startswith(("conv", "res"))} == {"conv1"} | halving


def test_released_widths():
    model = backbone.build_resnet_model(Config())
    assert [stage.shape[-1] for stage in model.outputs] == [64, 256, 512, 1024, 2048]
    assert model.get_layer("res2a_branch2b").filters == 64 and model.get_layer("res5c_branch2a").filters == 512
    assert model.count_params() == 23_587_712


@pytest.mark.parametrize("size", [(64, 96), (32, 32), (96, 160)])
def test_strides_and_channels(size):
    stages = narrow_model(BACKBONE_BLOCKS=(1, 1, 1, 1))(random_map(2, *size, 3))
    strides, channels = (4, 4, 8, 16, 32), (4, 4, 6, 8, 10)
    expected = [
        (2, size[0] // stride, size[1] // stride, width) for stride, width in zip(strides, channels, strict=True)
    ]
    assert [tuple(stage.shape) for stage in stages] == expected


def test_blocks_replace_those_of_the_architecture():
    names = {layer.name for layer in narrow_model(BACKBONE_BLOCKS=(1, 2, 1, 1)).layers}
    assert "res3b_branch2a" in names and not names & {"res2b_branch2a", "res3c_branch2a"}
    tiny = backbone.build_resnet_model(TinyConfig())
    assert [stage.shape[-1] for stage in tiny.outputs] == [32, 48, 64, 96, 128]


def test_stem_by_hand():
    model = narrow_model(BACKBONE_BLOCKS=(1, 1, 1, 1))
    kernel = np.zeros((7, 7, 3, 4))
    kernel[3, 3, 0, 0] = kernel[3, 3, 0, 1] = 1  # the centre of the window, that is the pixel at 2 * index
    kernel[3, 3, 0, 2] = -1
    kernel[6, 3, 1, 3] = 1  # three rows below
    model.get_layer("conv1").set_weights([kernel, np.array([0, -5, 0, 0])])
    image = random_map(2, 32, 64, 3)
    norm = np.float32(1 / np.sqrt(1 + 1e-3))
    below = np.pad(image, ((0, 0), (0, 3), (0, 0), (0, 0)))[:, 3::2, ::2, 1]
    red = image[:, ::2, ::2, 0]
    filtered = np.maximum(np.stack([red, red - 5, -red, below[:, :16]], axis=-1) * norm, 0)
    padded = np.pad(filtered, ((0, 0), (0, 1), (0, 1), (0, 0)))  # "same" pooling of an even size pads at the end
    windows = [padded[:, y : y + 16 : 2, x : x + 32 : 2] for y in range(3) for x in range(3)]
    np.testing.assert_allclose(model(image)[0], np.max(windows, axis=0), rtol=1e-5)


@pytest.mark.parametrize(("stride", "project"), [(1, False), (1, True), (2, True)])
def test_residual_block_equals_plain_operations(stride, project):
    inputs = keras.Input((8, 12, 6))
    outputs = backbone.residual_block_graph(inputs, "4b_branch", 3, 6, stride=stride, project=project, train_bn=False)
    model = fill(keras.Model(inputs, outputs))

    def conv_bn(x, branch, step):
        kernel, bias = model.get_layer(f"res4b_branch{branch}").weights
        gamma, beta, mean, variance = model.get_layer(f"bn4b_branch{branch}").weights
        x = ops.conv(x, kernel, strides=step, padding="same") + bias
        return (x - mean) / ops.sqrt(variance + 1e-3) * gamma + beta

    x = random_map(2, 8, 12, 6)
    inner = ops.relu(conv_bn(ops.relu(conv_bn(x, "2a", stride)), "2b", 1))
    expected = ops.relu(conv_bn(inner, "2c", 1) + (conv_bn(x, "1", stride) if project else x))
    assert model.output_shape == (None, 8 // stride, 12 // stride, 6)
    np.testing.assert_allclose(model(x), expected, atol=1e-5)
    assert any(layer.name == "res4b_branch1" for layer in model.layers) == project


def test_without_stage_5():
    image = keras.Input((64, 64, 3))
    stages = backbone.resnet_graph(image, "resnet50", stage5=False, blocks=(1, 1, 1, 1), widths=(4, 4, 4, 4))
    assert len(stages) == 5 and stages[4] is None
    assert not any(layer.name.startswith("res5") for layer in keras.Model(image, stages[:4]).layers)


def test_unknown_architecture():
    with pytest.raises(ValueError, match="BACKBONE = 'vgg16': expected resnet50, resnet101 or a callable"):
        narrow_model(BACKBONE="vgg16")


@pytest.mark.parametrize("train_bn", [False, None])
def test_a_callable_backbone(train_bn):
    calls = []

    def pooling_pyramid(image, stage5, train_bn):
        calls.append((stage5, train_bn))
        return tuple(keras.layers.AveragePooling2D(stride)(image) for stride in (4, 4, 8, 16, 32))

    config = Config().replace(BACKBONE=pooling_pyramid, TRAIN_BN=train_bn)
    model = backbone.build_resnet_model(config)
    assert calls == [(True, train_bn)]
    image = random_map(1, 64, 64, 3)
    stages = model(image)
    assert [tuple(stage.shape) for stage in stages] == [(1, side, side, 3) for side in (16, 16, 8, 4, 2)]
    np.testing.assert_allclose(stages[4][0, 0, 0], image[0, :32, :32].mean(axis=(0, 1)), atol=1e-6)


def test_a_backbone_survives_a_file(tmp_path):
    model = fill(narrow_model(BACKBONE_BLOCKS=(1, 1, 1, 1), TRAIN_BN=None))
    model.save(tmp_path / "backbone.keras")
    restored = keras.saving.load_model(tmp_path / "backbone.keras")
    assert restored.get_layer("bn2a_branch2a").train_bn is None
    for before, after in zip(model(random_map(1, 64, 64, 3)), restored(random_map(1, 64, 64, 3)), strict=True):
        np.testing.assert_array_equal(before, after)


# ---- BatchNorm ---------------------------------------------------------------------------------------------------
def norm_layer(train_bn):
    layer = BatchNorm(train_bn)
    layer.build((None, 2))
    layer.set_weights([np.array(values) for values in ([2.0, 1.0], [0.0, 3.0], [1.0, -1.0], [3.999, 0.999])])
    return layer  # gamma, beta, moving mean, moving variance


X = np.array([[1.0, -1.0], [5.0, 1.0], [3.0, 0.0]], np.float32)
BY_MOVING_STATISTICS = [[0, 3], [4, 5], [2, 4]]


@pytest.mark.parametrize("training", [True, False, None])
def test_frozen_statistics_whatever_the_call_says(training):
    layer = norm_layer(False)
    before = [weight.numpy() for weight in layer.weights]
    np.testing.assert_allclose(layer(X, training=training), BY_MOVING_STATISTICS, atol=1e-5)
    for weight, value in zip(layer.weights, before, strict=True):
        np.testing.assert_array_equal(weight, value)


def test_statistics_of_the_batch_when_trained():
    layer = norm_layer(None)
    np.testing.assert_allclose(layer(X), BY_MOVING_STATISTICS, atol=1e-5)
    np.testing.assert_allclose(layer(X, training=False), BY_MOVING_STATISTICS, atol=1e-5)
    mean, variance = X.mean(axis=0), X.var(axis=0)
    expected = (X - mean) / np.sqrt(variance + 1e-3) * [2, 1] + [0, 3]
    np.testing.assert_allclose(layer(X, training=True), expected, atol=1e-5)
    np.testing.assert_allclose(layer.moving_mean, 0.99 * np.array([1, -1]) + 0.01 * mean, rtol=1e-5)


def test_gamma_and_beta_train_although_statistics_do_not():
    layer = norm_layer(False)
    assert [weight.name for weight in layer.trainable_weights] == ["gamma", "beta"]


@pytest.mark.parametrize("train_bn", [True, 0, 1, "False"])
def test_other_ways_to_normalize_are_refused(train_bn):
    with pytest.raises(ValueError, match=f"train_bn = {train_bn!r}: expected False .* or None"):
        BatchNorm(train_bn)


@pytest.mark.parametrize(("train_bn", "changes"), [(False, False), (None, True)])
def test_train_bn_reaches_every_layer_of_the_backbone(train_bn, changes):
    model = fill(narrow_model(BACKBONE_BLOCKS=(1, 1, 1, 1), TRAIN_BN=train_bn))
    image = random_map(2, 64, 64, 3)
    for plain, trained in zip(model(image), model(image, training=True), strict=True):
        assert np.array_equal(plain, trained) != changes


# ---- FPN ---------------------------------------------------------------------------------------------------------
SIDES, CHANNELS, WIDTH = ((24, 40), (12, 20), (6, 10), (3, 5)), (3, 4, 5, 6), 2


@pytest.fixture(scope="module")
def fpn():
    return fill(backbone.build_fpn_model(CHANNELS, WIDTH), seed=2)


@pytest.fixture(scope="module")
def stages():
    sizes = zip(SIDES, CHANNELS, strict=True)
    return [random_map(2, *side, channels, seed=index) for index, (side, channels) in enumerate(sizes)]


def test_fpn_names_and_shapes(fpn, stages):
    names = {f"fpn_c{level}p{level}" for level in (2, 3, 4, 5)} | {f"fpn_p{level}" for level in (2, 3, 4, 5)}
    assert {layer.name for layer in fpn.layers if layer.weights} == names
    assert fpn.name == "fpn_model"
    assert [tuple(level.shape) for level in fpn(stages)] == [(2, *side, WIDTH) for side in (*SIDES, (2, 3))]


def test_fpn_equals_plain_operations(fpn, stages):
    def conv(x, name):
        kernel, bias = fpn.get_layer(name).weights
        return np.asarray(ops.relu(ops.conv(x, kernel, padding="same") + bias))

    merged = [conv(stages[3], "fpn_c5p5")]
    for level, stage in ((4, stages[2]), (3, stages[1]), (2, stages[0])):
        upsampled = merged[0].repeat(2, axis=1).repeat(2, axis=2)
        merged.insert(0, upsampled + conv(stage, f"fpn_c{level}p{level}"))
    expected = [conv(top_down, f"fpn_p{level}") for level, top_down in enumerate(merged, start=2)]
    for found, level in zip(fpn(stages), [*expected, expected[3][:, ::2, ::2]], strict=True):
        np.testing.assert_allclose(found, level, atol=1e-5)
        assert np.min(level) == 0 < np.max(level)  # the ReLU cuts something off


def test_p6_is_every_second_cell_of_p5(fpn, stages):
    *_, p5, p6 = fpn(stages)
    np.testing.assert_array_equal(p6, p5[:, ::2, ::2])


def test_fpn_of_an_empty_batch(empty_convolutions, fpn):
    levels = fpn([np.zeros((0, *side, channels)) for side, channels in zip(SIDES, CHANNELS, strict=True)])
    assert [level.shape[0] for level in levels] == [0] * 5


def test_fpn_of_the_released_width():
    model = backbone.build_fpn_model((8, 8, 8, 8))
    assert [level.shape[-1] for level in model.outputs] == [256] * 5
