"""The note on training images that show one category each."""

import coco_tree
import pytest

from siamese_mrcnn_tf import SmallConfig, TinyConfig
from siamese_mrcnn_tf.cli import train
from siamese_mrcnn_tf.cli.main import parse
from siamese_mrcnn_tf.data.single_category import one_category_note
from siamese_mrcnn_tf.training import distribution

ELLIPSE, RECTANGLE, TRIANGLE = 3, 7, 18


def write(root, *images, subset="train"):
    """A tree whose image k shows the categories of images[k]."""
    content = coco_tree.write_tree(root, subset=subset, num_images=len(images) + 1)
    places = zip(content["annotations"], [0, 0, None, *(n for k in range(1, len(images)) for n in (k, k))], strict=True)
    kept = []
    for annotation, image in places:
        if image is not None:
            used = [entry for entry in kept if entry["image_id"] == annotation["image_id"]]
            annotation["category_id"] = images[image][min(len(used), len(images[image]) - 1)]
            kept.append(annotation)
    content["annotations"] = kept
    coco_tree.write_annotations(root, content, subset=subset)
    return root


@pytest.fixture
def single(tmp_path):
    """Three images that show one category each, and one without objects."""
    return write(tmp_path / "single", [ELLIPSE], [RECTANGLE], [ELLIPSE])


def test_images_with_one_category_each(single):
    note = one_category_note(coco_tree.load(single), TinyConfig())
    assert note.startswith("3 of 3 training images with objects show one category alone, and ABSENT_REFERENCE_RATIO")
    assert "train --set ABSENT_REFERENCE_RATIO=0.35 also" in note and "evaluate --absent all" in note
    assert "ABSENT_REFERENCE_RATIO=0.35 FILL_NEGATIVE_ROIS=true also" in one_category_note(
        coco_tree.load(single), SmallConfig()
    )


def test_no_note_where_absent_references_are_drawn(single):
    assert one_category_note(coco_tree.load(single), TinyConfig().replace(ABSENT_REFERENCE_RATIO=0.1)) == ""


@pytest.mark.parametrize(
    ("images", "active", "is_noted"),
    [
        ([[ELLIPSE]] * 9 + [[RECTANGLE, TRIANGLE]], None, True),
        ([[ELLIPSE]] * 8 + [[RECTANGLE, TRIANGLE]], None, False),
        ([[ELLIPSE]] * 3, None, False),  # no other category can be absent
        ([[ELLIPSE], [RECTANGLE]], [1], False),  # the other one is not trained
        ([[ELLIPSE, TRIANGLE], [RECTANGLE]], [1, 2], False),  # a novel category in the scene is background
    ],
)
def test_share_of_images_and_number_of_categories(tmp_path, images, active, is_noted):
    dataset = coco_tree.load(write(tmp_path, *images), active=active)
    assert bool(one_category_note(dataset, TinyConfig())) == is_noted


def test_check_says_it_of_training_images(run, single, tmp_path):
    checked = ("check", "--dataset", single, "--samples", 0)
    assert "note: 3 of 3 training images" in run(*checked)[2]
    assert "training images" not in run(*checked, "--set", "ABSENT_REFERENCE_RATIO=0.3", "FILL_NEGATIVE_ROIS=true")[2]
    write(single, [ELLIPSE], [RECTANGLE], subset="val")
    assert "training images" not in run(*checked, "--subset", "val")[2]


def test_train_says_it_before_it_begins(single, tmp_path, monkeypatch, capsys):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "open_trainer", stop)
    monkeypatch.setattr(distribution, "prepare_backend", lambda **_: None)
    words = ("train", "--dataset", single, "--config", "tiny", "--model", "untrained", "--logs", tmp_path / "logs")
    words += ("--val-images", 0)
    for more, is_noted in ((), True), (("--set", "ABSENT_REFERENCE_RATIO=0.35"), False):
        options = parse([str(word) for word in (*words, *more)])
        with pytest.raises(KeyboardInterrupt):
            train.run(options)
        assert ("note: 3 of 3 training images" in capsys.readouterr().err) == is_noted
