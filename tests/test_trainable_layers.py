"""Which layers a selection trains."""

import pytest
import toy

from siamese_mrcnn_tf.training.trainable_layers import select_layers, summarize_names


def test_select_layers_reaches_into_nested_models():
    model, layers = toy.build_model()
    assert select_layers(layers.layers, "heads") == ["rpn_a", "mrcnn_a"]
    assert {path.split("/")[0] for path in trainable(model)} == {"rpn_a", "mrcnn_a"}
    layers.layers[0].trainable = False  # the nested model as a whole
    assert select_layers(layers.layers, "4+") == ["res4a", "rpn_a", "mrcnn_a"]
    assert len(layers.layers[0].trainable_weights) == 2
    assert {path.split("/")[-2] for path in trainable(model)} == {"res4a", "rpn_a", "mrcnn_a"}
    assert select_layers(layers.layers, "conv.|res4") == ["conv1"]
    assert {path.split("/")[-2] for path in trainable(model)} == {"conv1"}


def trainable(model):
    return [variable.path for variable in model.trainable_variables]


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        ("head", r"layers 'head': no layer of that name; expected one of heads, rpn, 2\+, 3\+, 4\+, 5\+, all, .*or an"),
        ("conv", "layers 'conv': no layer of that name"),  # a part of a name
        ("resnet_model", "layers 'resnet_model': no layer of that name"),
        ("conv(", r"layers 'conv\(': expected one of heads, .* or a regular expression"),
    ],
)
def test_selections_that_select_nothing(selection, message):
    with pytest.raises(ValueError, match=message):
        select_layers(toy.build_model()[1].layers, selection)


def test_abridged_names():
    names = ["conv1", "res4a_branch1", "res4b_branch2a", "res4c_branch2c", "rpn_a"]
    assert summarize_names(names) == "conv1, res4a_branch1 .. res4c_branch2c (3), rpn_a"
