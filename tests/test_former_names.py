"""Names and modules of version 0.1: code that imports them keeps working."""

import importlib
import json
import pathlib

import pytest

import siamese_mrcnn_tf

# module of version 0.1 -> its public names, in one text: all that it defined
FORMER = json.loads((pathlib.Path(__file__).parent / "data" / "former_names.json").read_text(encoding="utf-8"))

GONE = {  # module -> names that are private now, or do something else under another name
    "annotations": "coco_layout",
    "arguments": "exit_code",
    "config": "OPTIMIZERS PRECISIONS",
    "evaluation_records": "file_sha256",
    "evaluation_scores": "over_runs",
    "html_pages": "data_uri",
    "imagenet_classes": "WNIDS",
    "layers": "inner_graph",
    "network": "build_detector",
    "prediction": "predict_files",
    "pretraining": "Encoder",
    "report_contents": "markdown",
    "sample_processes": "make_in_process start_process",
}


@pytest.mark.parametrize("name", siamese_mrcnn_tf.__all__)
def test_public_names_can_be_imported(name):
    assert getattr(siamese_mrcnn_tf, name) is not None
    assert name in dir(siamese_mrcnn_tf)


@pytest.mark.parametrize("module", sorted(FORMER.keys() - {"sample_processes"}))
def test_a_former_module_hands_on_its_names(module):
    found = importlib.import_module(f"siamese_mrcnn_tf.{module}")
    assert getattr(siamese_mrcnn_tf, module) is found  # from siamese_mrcnn_tf import MODULE
    missing = [name for name in FORMER[module].split() if not hasattr(found, name)]
    assert missing == GONE.get(module, "").split()


def test_every_former_module_is_recorded():
    assert set(siamese_mrcnn_tf._FORMER_MODULES) <= set(FORMER)


def test_a_former_name_is_the_object_of_the_new_one():
    from siamese_mrcnn_tf import data_generator, training_batches
    from siamese_mrcnn_tf.data import data_generator as new
    from siamese_mrcnn_tf.data.loader import SampleLoader

    assert data_generator.SampleMaker is new.TrainingSamples and data_generator.make_batch is new.collate
    assert training_batches.SampleLoader is SampleLoader


@pytest.mark.parametrize("module", ["siamese_mrcnn_tf", "siamese_mrcnn_tf.layers", "siamese_mrcnn_tf.weights"])
def test_an_unknown_name_is_an_attribute_error(module):
    with pytest.raises(AttributeError, match="has no attribute 'unheard_of'"):
        importlib.import_module(module).unheard_of  # noqa: B018


def test_an_unknown_module_is_not_found():
    with pytest.raises(ModuleNotFoundError, match="unheard_of"):
        importlib.import_module("siamese_mrcnn_tf.unheard_of")
