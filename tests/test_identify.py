"""What weights are, inferred from their shapes."""

import pytest
from weight_models import backbone_shapes, network_shapes

from siamese_mrcnn_tf.config import Config, LargeConfig, SmallConfig, TinyConfig
from siamese_mrcnn_tf.weights.identify import identify_weights


def test_released_resnets_fit_both_configurations():
    for name, needed in (("resnet50", {}), ("resnet101", {"BACKBONE": "resnet101"})):
        info = identify_weights(backbone_shapes(Config().replace(BACKBONE=name)))
        assert info.kind == "backbone" and info.fits == {"small": needed, "large": needed}
        assert info.settings["BACKBONE"] == name and info.config is None


@pytest.mark.parametrize(
    ("config", "name", "text"),
    [
        (SmallConfig(), "small", "siamese weights, small configuration, ResNet-50, with mask head"),
        (LargeConfig(), "large", "siamese weights, large configuration, ResNet-50, with mask head"),
        (TinyConfig(), "tiny", "siamese weights, tiny configuration, ResNet with 1+1+1+1 blocks, with mask head"),
        (LargeConfig().replace(BACKBONE="resnet101"), "large", "large configuration, ResNet-101, with mask head"),
        (SmallConfig().replace(MODEL="frcnn"), "small", "small configuration, ResNet-50, without mask head"),
        (TinyConfig().replace(USE_PRESENCE=True), "tiny", "1+1+1+1 blocks, with mask head, with presence output"),
        (SmallConfig().replace(RPN_CONV_CHANNELS=64), None, "of no named configuration, ResNet-50"),
    ],
)
def test_info_of_siamese_weights(config, name, text):
    info = identify_weights(network_shapes(config))
    assert info.kind == "siamese" and info.config == name and text in info.text


def test_presence_is_a_setting_to_change():
    info = identify_weights(network_shapes(TinyConfig().replace(USE_PRESENCE=True)))
    assert info.fits == {"tiny": {"USE_PRESENCE": True}} and info.has_presence
    assert info.fits_text == "config tiny with USE_PRESENCE = True"
    plain = identify_weights(network_shapes(TinyConfig()))
    assert plain.fits == {"tiny": {}} and not plain.has_presence and "USE_PRESENCE" not in plain.settings


def test_info_of_other_widths_names_the_settings():
    info = identify_weights(network_shapes(SmallConfig().replace(RPN_CONV_CHANNELS=64, BACKBONE_BLOCKS=[1, 2, 1, 1])))
    assert info.fits == {}
    assert "config small with RPN_CONV_CHANNELS = 64, BACKBONE_BLOCKS = (1, 2, 1, 1) would do" in info.fits_text


@pytest.mark.parametrize("shapes", [{}, {"a/kernel": ()}, {"fpn_p2/kernel": (), "rpn_conv_shared/kernel": (3,)}])
def test_info_of_unknown_weights(shapes):
    assert identify_weights(shapes).text == "weights of an unknown network" and identify_weights(shapes).fits == {}
