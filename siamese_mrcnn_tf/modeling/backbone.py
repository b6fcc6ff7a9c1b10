"""Backbone and feature pyramid: a ResNet with biases in its convolutions, and an FPN with ReLU after every convolution.

Layer names are those of the original weight files (He et al.'s ResNet as in Matterport's Mask R-CNN). Maps are
[batch, height, width, channels].
"""

from collections.abc import Sequence
from typing import Any

import keras
from keras import layers as KL

from ..config import RESNET_BLOCKS, Config
from ..io.errors import InputError
from ..ops import winograd
from ..ops.box_ops import Tensor

LEVELS = ("P2", "P3", "P4", "P5", "P6")


@keras.saving.register_keras_serializable(package="siamese_mrcnn_tf")
class BatchNorm(KL.BatchNormalization):
    """Batch normalization that follows TRAIN_BN, also when the model is called with `training=True`.

    Args:
        train_bn: False: always use the moving statistics (gamma and beta still train); None: use the statistics of the
            batch in training.

    Raises:
        ValueError: any other train_bn.
    """

    def __init__(self, train_bn: bool | None = False, **kwargs: Any) -> None:
        if train_bn is not False and train_bn is not None:  # 0 equals False, and would train
            raise InputError(f"train_bn = {train_bn!r}: expected False (moving statistics) or None (train them)")
        super().__init__(**kwargs)
        self.train_bn = train_bn

    def call(self, inputs: Tensor, training: bool | None = None, mask: Tensor = None) -> Tensor:
        return super().call(inputs, training=False if self.train_bn is False else training, mask=mask)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "train_bn": self.train_bn}


@keras.saving.register_keras_serializable(package="siamese_mrcnn_tf")
class MapConv(KL.Conv2D):
    """A convolution of large maps, with "same" padding; computed by `ops.winograd` where that is allowed and faster."""

    def convolution_op(self, inputs: Tensor, kernel: Tensor) -> Tensor:
        if self.padding == "same" and winograd.applies(inputs, kernel, self.strides):
            return winograd.convolve(inputs, kernel)
        return super().convolution_op(inputs, kernel)


def build_resnet_model(config: Config) -> keras.Model:
    """The backbone as a model `resnet_model`: image [batch, h, w, 3], mean subtracted -> [C1, C2, C3, C4, C5]."""
    image = keras.Input((None, None, 3), name="input_image")
    if callable(config.BACKBONE):
        stages = config.BACKBONE(image, stage5=True, train_bn=config.TRAIN_BN)
    else:
        stages = resnet_graph(
            image,
            config.BACKBONE,
            train_bn=config.TRAIN_BN,
            blocks=config.BACKBONE_BLOCKS,
            stem_width=config.BACKBONE_STEM_WIDTH,
            widths=config.BACKBONE_WIDTHS,
            bottleneck=config.BACKBONE_BOTTLENECK,
        )
    return keras.Model(image, list(stages), name="resnet_model")


def build_fpn_model(stage_channels: Sequence[int], feature_maps: int = 256) -> keras.Model:
    """The pyramid as a model `fpn_model`: [C2, C3, C4, C5] with `stage_channels` channels -> [P2, P3, P4, P5, P6]."""
    stages = [keras.Input((None, None, channels), name=f"input_C{i}") for i, channels in enumerate(stage_channels, 2)]
    C2, C3, C4, C5 = stages
    return keras.Model(stages, fpn_graph(C2, C3, C4, C5, feature_maps), name="fpn_model")


def resnet_graph(
    input_image: Tensor,
    architecture: str,
    stage5: bool = True,
    train_bn: bool | None = False,
    *,
    blocks: Sequence[int] | None = None,
    stem_width: int = 64,
    widths: Sequence[int] = (256, 512, 1024, 2048),
    bottleneck: int = 4,
) -> list[Tensor]:
    """A ResNet.

    Args:
        input_image: [batch, h, w, 3].
        architecture: "resnet50" or "resnet101".
        stage5: whether to build C5; if not, the result has None in its place.
        train_bn: see `BatchNorm`.
        blocks: residual blocks of stages 2 to 5, by default the architecture's.
        stem_width: channels of C1.
        widths: channels of C2..C5.
        bottleneck: `widths` divided by the channels inside a residual block.

    Returns:
        [C1, C2, C3, C4, C5] at strides 4, 4, 8, 16, 32.

    Raises:
        ValueError: unknown architecture.
    """
    if architecture not in RESNET_BLOCKS:
        raise InputError(f"BACKBONE = {architecture!r}: expected {', '.join(RESNET_BLOCKS)} or a callable")
    x = KL.ZeroPadding2D((3, 3))(input_image)
    x = KL.Conv2D(stem_width, 7, strides=2, name="conv1")(x)
    x = KL.Activation("relu")(BatchNorm(train_bn, name="bn_conv1")(x))
    stages = [KL.MaxPooling2D(3, strides=2, padding="same")(x)]
    for stage, (count, width) in enumerate(zip(blocks or RESNET_BLOCKS[architecture], widths, strict=True), start=2):
        if stage == 5 and not stage5:
            return [*stages, None]
        x = stages[-1]
        for index in range(count):
            stride = 2 if index == 0 and stage > 2 else 1
            name = f"{stage}{chr(ord('a') + index)}_branch"
            x = residual_block_graph(
                x, name, width // bottleneck, width, stride=stride, project=index == 0, train_bn=train_bn
            )
        stages.append(x)
    return stages


def residual_block_graph(
    x: Tensor, name: str, inner_width: int, width: int, *, stride: int, project: bool, train_bn: bool | None
) -> Tensor:
    """One bottleneck block: [batch, h, w, channels] -> [batch, h / stride, w / stride, width].

    Args:
        x: input; the stride is in the first convolution.
        name: such as "2a_branch"; layers are named res{name}2a, bn{name}2a, ...
        inner_width, width: channels inside the block and of its output.
        project: whether the shortcut is a convolution (first block of a stage).
    """

    def conv_bn(inputs: Tensor, branch: str, filters: int, size: int, strides: int = 1) -> Tensor:
        outputs = KL.Conv2D(filters, size, strides=strides, padding="same", name=f"res{name}{branch}")(inputs)
        return BatchNorm(train_bn, name=f"bn{name}{branch}")(outputs)

    inner = KL.Activation("relu")(conv_bn(x, "2a", inner_width, 1, stride))
    inner = KL.Activation("relu")(conv_bn(inner, "2b", inner_width, 3))
    inner = conv_bn(inner, "2c", width, 1)
    shortcut = conv_bn(x, "1", width, 1, stride) if project else x
    return KL.Activation("relu", name=f"res{name.removesuffix('_branch')}_out")(KL.Add()([inner, shortcut]))


def fpn_graph(C2: Tensor, C3: Tensor, C4: Tensor, C5: Tensor, feature_maps: int = 256) -> list[Tensor]:
    """Feature pyramid with ReLU after every convolution, unlike Matterport's.

    Args:
        C2, C3, C4, C5: stages of the backbone, each half the size of the previous one.
        feature_maps: channels of the result.

    Returns:
        [P2, P3, P4, P5, P6]; P6 is every second cell of P5.
    """

    def lateral(stage: Tensor, name: str) -> Tensor:
        return KL.Conv2D(feature_maps, 1, activation="relu", name=name)(stage)

    def merge(coarse: Tensor, stage: Tensor, coarse_level: int, level: int) -> Tensor:
        upsampled = KL.UpSampling2D(2, name=f"fpn_p{coarse_level}upsampled")(coarse)
        return KL.Add(name=f"fpn_p{level}add")([upsampled, lateral(stage, f"fpn_c{level}p{level}")])

    P5 = lateral(C5, "fpn_c5p5")
    P4 = merge(P5, C4, 5, 4)
    P3 = merge(P4, C3, 4, 3)
    P2 = merge(P3, C2, 3, 2)
    P2, P3, P4, P5 = (
        MapConv(feature_maps, 3, padding="same", activation="relu", name=f"fpn_p{level}")(top_down)
        for level, top_down in ((2, P2), (3, P3), (4, P4), (5, P5))
    )
    P6 = KL.MaxPooling2D(1, strides=2, name="fpn_p6")(P5)
    return [P2, P3, P4, P5, P6]
