"""The estimate of memory, and what is refused by it."""

import pytest

from siamese_mrcnn_tf import memory
from siamese_mrcnn_tf.config import CONFIGS, Config, LargeConfig, SmallConfig, TinyConfig
from siamese_mrcnn_tf.memory import check_memory, estimate, machine_memory

GIB = 2**30
MEASURED = {  # GiB of the process at its peak: one detection, or two steps with the batch of the configuration
    ("small", "detection"): 1.50,
    ("large", "detection"): 2.12,
    ("tiny", "detection"): 0.89,
    ("small", "training"): 3.30,
    ("tiny", "training"): 1.31,
}


@pytest.fixture
def machine(monkeypatch):
    """A machine with 16 GiB, and the warnings of it."""
    memory._warn_once.cache_clear()
    monkeypatch.setattr(memory, "machine_memory", lambda: 16 * GIB)
    monkeypatch.setattr(memory, "_ACCELERATORS", ())


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(
    ("purpose", "changes", "causes"),
    [
        ("detection", {"IMAGE_MAX_DIM": 65536}, "IMAGE_MAX_DIM = 65536"),
        ("detection", {"IMAGE_RESIZE_MODE": "crop", "IMAGE_MIN_DIM": 65536}, "IMAGE_MIN_DIM = 65536"),
        ("detection", {"TARGET_MAX_DIM": 65536}, "TARGET_MAX_DIM = 65536"),
        ("detection", {"FPN_FEATUREMAPS": 65536}, "FPN_FEATUREMAPS = 65536"),
        ("detection", {"DETECTION_MAX_INSTANCES": 10**6}, "DETECTION_MAX_INSTANCES = 1000000"),
        ("detection", {"POST_NMS_ROIS_INFERENCE": 10**6}, "POST_NMS_ROIS_INFERENCE = 1000000"),
        ("detection", {"BACKBONE_WIDTHS": (65536,) * 4}, r"BACKBONE_WIDTHS = \(65536, 65536, 65536, 65536\)"),
        ("training", {"IMAGES_PER_GPU": 100_000}, "IMAGES_PER_GPU = 100000"),
        ("training", {"BACKBONE_BLOCKS": (1000,) * 4}, r"BACKBONE_BLOCKS = \(1000, 1000, 1000, 1000\)"),
        ("training", {"MAX_GT_INSTANCES": 100_000, "USE_MINI_MASK": False}, "MAX_GT_INSTANCES = 100000"),
        ("training", {"NUM_TARGETS": 10_000, "IMAGES_PER_GPU": 12}, "NUM_TARGETS = 10000, IMAGES_PER_GPU = 12"),
        ("samples", {"IMAGE_MAX_DIM": 65536}, "IMAGE_MAX_DIM = 65536"),
    ],
)
def test_what_is_clearly_impossible_is_refused(purpose, changes, causes):
    text = rf"^{causes}: {memory._PURPOSES[purpose]} needs about [\d,.]+ GiB of memory, this machine has 16.0 GiB$"
    with pytest.raises(ValueError, match=text):
        check_memory(Config().replace(**changes), purpose)


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize("config", [SmallConfig(), LargeConfig(), TinyConfig()])
def test_named_configurations_are_possible(config, caplog):
    for purpose in ("detection", "training", "samples"):
        check_memory(config, purpose)
    check_memory(config.replace(IMAGES_PER_GPU=32), "pretraining", side=96)
    assert not caplog.records


@pytest.mark.usefixtures("machine")
def test_what_may_be_possible_is_warned_of_once(caplog):
    for _ in range(2):
        check_memory(SmallConfig().replace(IMAGES_PER_GPU=20), "training")
    assert [record.message.partition(":")[2] for record in caplog.records] == [
        " IMAGES_PER_GPU = 20: training needs about 44.4 GiB of memory, this machine has 16.0 GiB; it may end for lack "
        "of memory"
    ]


@pytest.mark.usefixtures("machine")
def test_an_accelerator_may_have_more(tmp_path, monkeypatch, caplog):
    (tmp_path / "nvidia3").touch()
    monkeypatch.setattr(memory, "_ACCELERATORS", (str(tmp_path / "nvidia[0-9]*"),))
    check_memory(LargeConfig().replace(IMAGES_PER_GPU=12), "training")
    assert not caplog.records


def test_no_estimate_is_compared_where_the_system_does_not_say(monkeypatch):
    monkeypatch.setattr(memory, "machine_memory", lambda: None)
    check_memory(Config().replace(IMAGE_MAX_DIM=65536), "detection")


def test_the_limit_of_a_container_counts(tmp_path, monkeypatch):
    (tmp_path / "max").write_text("max\n")
    monkeypatch.setattr(memory, "_LIMITS", (str(tmp_path / "max"), str(tmp_path / "gone")))
    whole = machine_memory()
    (tmp_path / "max").write_text(f"{2**20}\n")
    assert machine_memory() == 2**20 < whole


@pytest.mark.parametrize(("name", "purpose"), MEASURED)
def test_the_estimate_is_near_what_was_measured(name, purpose):
    needed = sum(estimate(CONFIGS[name](), purpose).values()) / GIB
    assert MEASURED[name, purpose] / 1.5 < needed < MEASURED[name, purpose] * 1.5
