"""Categories of the grammar: many, drawable, different from each other and from the named ones."""

import itertools

import numpy as np
import pytest

from siamese_mrcnn_tf.shapes import dataset, grammar, outlines, parts, scenes


def spectrum(name):
    return grammar.polar_spectrum(outlines.unit_outline(name))


def test_names_and_numbers():
    names = outlines.category_names(1000)
    assert len(set(names)) == 1000 and names[:20] == outlines.CATEGORIES
    assert [outlines.category_id(name) for name in names] == list(range(1, 1001))
    assert outlines.category_names(25) == names[:25] and outlines.category_names() == outlines.CATEGORIES


@pytest.mark.parametrize("count", [1, 1001])
def test_number_of_categories_is_limited(count):
    with pytest.raises(ValueError, match=f"categories = {count}: expected 2 to 1000"):
        outlines.category_names(count)


def test_recorded_seeds_are_those_of_the_grammar():
    found = grammar.accepted_seeds(outlines.named_outlines().values())
    assert tuple(itertools.islice(found, 60)) == grammar.seeds()[:60]
    assert len(grammar.seeds()) == 980


def test_similarity_is_that_of_the_masks():
    """1 for a turned mirror image; for other shapes near the best overlap of turned and mirrored masks."""
    turned = [(parts.rotated(corners, 40) * (-1, 1), adds) for corners, adds in outlines.unit_outline("key")]
    same = grammar.similarities(spectrum("key"), np.array([grammar.polar_spectrum(turned)]))
    assert same == pytest.approx(1, abs=0.06)
    expected = 0.0
    first = parts.paint(outlines.unit_outline("heart"), 48) > 0
    for degrees, mirror in itertools.product(range(0, 360, 5), (-1, 1)):
        moved = [
            (parts.rotated(corners * (mirror, 1), degrees), adds) for corners, adds in outlines.unit_outline("tee")
        ]
        second = parts.paint(moved, 48) > 0
        expected = max(expected, np.count_nonzero(first & second) / np.count_nonzero(first | second))
    found = grammar.similarities(spectrum("heart"), np.array([spectrum("tee")]))
    assert found == pytest.approx(expected, abs=0.06)  # cells of a polar grid are coarser


def test_generated_categories_differ():
    names = outlines.category_names(1000)
    chosen = [*names[:20], *np.random.default_rng(0).choice(names[20:], 60, replace=False)]
    spectra = np.array([spectrum(name) for name in chosen])
    for index, name in enumerate(chosen[20:], 20):
        found = grammar.similarities(spectra[index], spectra[:index])
        assert found[:20].max() <= grammar.MAX_SIMILARITY_TO_NAMED, name
        assert found.max() <= grammar.MAX_SIMILARITY, name
        assert grammar.is_drawable(outlines.unit_outline(name)), name


def test_instances_of_a_generated_category_vary():
    name = outlines.category_names(60)[40]
    plain, bent = outlines.draw(name, 30), outlines.draw(name, 30, bend=(0.1, 0.04, -0.04))
    assert bent.shape[0] >= plain.shape[0] and (bent > 0).any()
    middle = (bent.shape[0] - plain.shape[0]) // 2
    inner = bent[middle : middle + len(plain), middle : middle + len(plain)]
    assert 0 < np.count_nonzero((inner > 127) != (plain > 127)) < 0.35 * np.count_nonzero(plain > 127)
    stamps = [outlines.make_stamp(np.random.default_rng(seed), name, 128) for seed in range(20)]
    for stamp in stamps:
        assert not stamp[0].any() and not stamp[-1].any() and not stamp[:, 0].any() and not stamp[:, -1].any()


def test_scenes_have_the_categories_asked_for(tmp_path):
    counts = dataset.write_coco(tmp_path, train=30, val=4, size=64, seed=0, categories=50)
    content = dataset.read_json(tmp_path / "annotations" / "instances_train2017.json")
    assert [entry["name"] for entry in content["categories"]] == list(outlines.category_names(50))
    assert content["info"]["categories"] == 50 and len(content["annotations"]) == counts["train"]
    ids = {entry["category_id"] for entry in content["annotations"]}
    assert max(ids) <= 50 and max(ids) > 20 and len(ids) > 30
    with pytest.raises(ValueError, match="categories = 0"):
        dataset.write_coco(tmp_path, train=1, val=1, size=64, seed=0, categories=0)
    assert (tmp_path / "annotations" / "instances_train2017.json").is_file()


def test_scene_of_generated_categories():
    names = outlines.category_names(300)[297:]
    image, masks, class_ids = scenes.make_scene(np.random.default_rng(3), 96, 96, categories=names)
    assert image.shape == (96, 96, 3) and masks.shape[-1] == len(class_ids)
    assert set(class_ids.tolist()) <= {298, 299, 300}
