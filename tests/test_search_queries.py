"""References of a search: files, boxes, folders, names, saved embeddings, and categories of a data set."""

import dataclasses

import coco_tree
import numpy as np
import pytest
from PIL import Image

from siamese_mrcnn_tf import TinyConfig
from siamese_mrcnn_tf.data.embeddings import ReferenceEmbedding
from siamese_mrcnn_tf.data.references import NoReferenceError, choose_references, cut_reference
from siamese_mrcnn_tf.search.queries import categories_of, read_queries, read_query, read_set_queries, reference_paths

CONFIG = TinyConfig()


@pytest.fixture
def images(tmp_path, scene, crop):
    folder = tmp_path / "images"
    folder.mkdir()
    Image.fromarray(scene).save(folder / "a.png")
    Image.fromarray(crop).save(tmp_path / "thing.png")
    Image.fromarray(crop[::-1]).save(tmp_path / "thing2.png")
    return folder


def embedding(**about):
    return ReferenceEmbedding(np.ones((1, 5, CONFIG.FPN_FEATUREMAPS), np.float32), **about)


def test_references_from_crops_and_boxes(images, tmp_path):
    query = read_query([str(tmp_path / "thing.png"), f"{images / 'a.png'}:10,20,60,90"], CONFIG)
    assert query.name == "thing" and query.sources == [str(tmp_path / "thing.png"), f"{images / 'a.png'}:10,20,60,90"]
    assert [one.shape for one in query.crops] == [(64, 64, 3)] * 2
    assert read_query([f"{images / 'a.png'}:10,20,60,90"], CONFIG).name == "a"


def test_the_references_of_an_upright_and_a_turned_photograph_are_equal(tmp_path, crop):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(crop).save(tmp_path / "a.png")
    Image.fromarray(np.ascontiguousarray(crop.swapaxes(0, 1)[::-1])).save(tmp_path / "b.png", exif=exif)
    a, b = (read_query([str(tmp_path / name)], CONFIG).crops[0] for name in ("a.png", "b.png"))
    np.testing.assert_array_equal(a, b)


def test_names_folders_and_patterns(images, tmp_path):
    folder, pattern = str(tmp_path), str(tmp_path / "thing*.png")
    groups = [[folder], [pattern], [f"bolt={pattern}"], [f"nut={images / 'a.png'}:1,2,30,40"]]
    queries = read_queries(groups, CONFIG)
    assert [query.name for query in queries] == [tmp_path.name, "thing", "bolt", "nut"]
    assert [len(query.crops) for query in queries] == [2, 2, 2, 1]
    assert reference_paths(groups) == [*[tmp_path / "thing.png", tmp_path / "thing2.png"] * 3, images / "a.png"]
    np.testing.assert_array_equal(queries[0].crops[1], queries[1].crops[1])


def test_groups_of_one_given_name_are_one_category(images, tmp_path):
    thing, other = str(tmp_path / "thing.png"), str(tmp_path / "thing2.png")
    queries = read_queries([[f"bolt={thing}"], [thing], [f"bolt={other}"], [thing]], CONFIG)
    assert [(query.name, len(query.crops)) for query in queries] == [("bolt", 2), ("thing", 1), ("thing", 1)]
    assert [one.name for one in categories_of(queries, 0.5)] == ["bolt", "thing", "thing-2"]
    with pytest.raises(ValueError, match="have the names bolt, nut: repeat --reference"):
        read_queries([[f"bolt={thing}", f"nut={other}"]], CONFIG)


def test_paths_that_exist_are_taken_as_they_are(images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("x=y.png", "z.png:1,2,3,4"):
        (tmp_path / "thing.png").rename(tmp_path / name)
        assert read_query([name], CONFIG).name == name.rpartition(".")[0]
        (tmp_path / name).rename(tmp_path / "thing.png")
    (tmp_path / "thing.png").rename(tmp_path / "x=y.png")
    query = read_query(["name=x=y.png:1,2,12,14"], CONFIG)
    assert query.name == "name" and query.sources == ["x=y.png:1,2,12,14"]


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ("10,20,60,900", "a.png:10,20,60,900.*90 x 120 pixels"),
        ("60,20,10,90", "a.png:60,20,10,90"),
        ("10,20,10,90", "a.png:10,20,10,90"),
        ("1,2,3", "a.png:1,2,3: a box of 3 numbers, expected the 4 of y1,x1,y2,x2 in pixels"),
        ("1", "a.png:1: a box of 1 number, expected the 4"),
        ("1,2,3.4.5,6", "a.png:1,2,3.4.5,6: expected FILE"),
        ("-5,2,30,40", "a.png:-5,2,30,40"),
        ("1, 2, 30, 40", "no spaces"),
    ],
)
def test_bad_boxes_are_named(images, box, message):
    with pytest.raises(ValueError, match=message):
        read_query([f"{images / 'a.png'}:{box}"], CONFIG)


def test_references_that_are_not_there(tmp_path):
    for text in ("gone.png", "gone.png:1,2,3,4", "name=gone.png"):
        with pytest.raises(ValueError, match="gone.png.*: no such file; expected FILE"):
            read_query([text], CONFIG)
    with pytest.raises(ValueError, match=r"reference .*no such file, folder or match"):
        read_query([str(tmp_path / "*.png")], CONFIG)
    for groups in ([], [[]]):
        with pytest.raises(ValueError, match="references: expected at least one, got none"):
            read_queries(groups, CONFIG)


def test_saved_embeddings_bring_name_and_threshold(images, tmp_path):
    embedding(name="gear", threshold=0.25, weights_sha256="ab" * 32).save(tmp_path / "saved.npz")
    embedding().save(tmp_path / "old.npz")
    thing = str(tmp_path / "thing.png")
    groups = [[str(tmp_path / "saved.npz"), thing], [str(tmp_path / "old.npz")], [f"n={tmp_path / 'saved.npz'}"]]
    queries = read_queries(groups, CONFIG, weights_sha256="ab" * 32)
    assert [query.name for query in queries] == ["gear", "old", "n"]
    assert [one.threshold for one in categories_of(queries, 0.7)] == [0.25, 0.7, 0.25]
    assert [one.threshold for one in categories_of(queries, 0.7, 0.4)] == [0.4, 0.4, 0.4]
    assert [len(query.crops) for query in queries] == [1, 0, 0]
    with pytest.raises(ValueError, match=r"saved\.npz: .* abababababab\.\.\., .* cdcdcdcdcdcd\.\.\."):
        read_queries(groups, CONFIG, weights_sha256="cd" * 32)
    ReferenceEmbedding(np.ones((1, 5, 8), np.float32)).save(tmp_path / "other.npz")
    with pytest.raises(ValueError, match=r"other\.npz: expected an embedding \[references, 5, 64\]"):
        read_queries([[str(tmp_path / "other.npz")]], CONFIG)


def test_checksums_are_of_what_is_searched_with(images, tmp_path):
    thing = read_query([str(tmp_path / "thing.png")], CONFIG)
    Image.open(tmp_path / "thing.png").save(tmp_path / "copy.bmp")
    assert read_query([str(tmp_path / "copy.bmp")], CONFIG).checksums() == thing.checksums()
    assert read_query([str(tmp_path / "thing2.png")], CONFIG).checksums() != thing.checksums()
    saved = dataclasses.replace(thing, crops=(), saved=[embedding()])
    renamed = dataclasses.replace(thing, crops=(), saved=[embedding(name="x")])
    assert saved.checksums() == renamed.checksums() != thing.checksums()


def test_categories_of_a_set(tmp_path, content):
    data = coco_tree.load(tmp_path, "val")
    path = tmp_path / "annotations" / "instances_val2017.json"
    queries = read_set_queries(path, CONFIG, shots=2)
    names = {query.name: len(query.crops) for query in queries}
    assert names == {"ellipse": 2, "rectangle": 2, "triangle": 2}
    same = read_set_queries(path, CONFIG, images=tmp_path / "val2017", categories=["triangle"], shots=2)
    assert len(same) == 1 and same[0].checksums() == queries[list(names).index("triangle")].checksums()
    class_id = data.class_names.index("triangle")
    chosen = choose_references(data, class_id, 2, CONFIG)
    np.testing.assert_array_equal(same[0].crops[0], cut_reference(data, CONFIG, *chosen[0]))
    assert same[0].sources[0].startswith(f"{path}#triangle in ")
    with pytest.raises(ValueError, match="no category 'triangel'; did you mean triangle"):
        read_set_queries(path, CONFIG, categories=["triangel"])


def test_instances_of_different_images_come_first(tmp_path, content):
    data = coco_tree.load(tmp_path, "val")
    class_id = data.class_names.index("triangle")
    chosen = choose_references(data, class_id, 100, CONFIG)
    assert len(set(chosen)) == len(chosen) == sum(len(data.instances_of(i, class_id)) for i in range(data.num_images))
    images = [image for image, _ in chosen]
    assert len(set(images[: len(set(images))])) == len(set(images))
    assert choose_references(data, class_id, 1, CONFIG) == chosen[:1]
    data.category_image_index[class_id] = np.array([], int)
    with pytest.raises(NoReferenceError, match="triangle.* has no instance"):
        choose_references(data, class_id, 1, CONFIG)
