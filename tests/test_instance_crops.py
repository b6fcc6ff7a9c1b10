"""Instances as images to classify: which there are, how they are cut, and what a numbered sample depends on."""

import subprocess
import sys

import coco_tree
import numpy as np
import pytest

from siamese_mrcnn_tf.pretraining import instance_crops
from siamese_mrcnn_tf.pretraining.imagenet import NO_LABEL, CentreCrops, RandomCrops
from siamese_mrcnn_tf.pretraining.instance_crops import InstanceCrops, padded_box

ELLIPSE, RECTANGLE, TRIANGLE = 1, 2, 3  # class ids of coco_tree's categories 3, 7, 18
COLOURS = {ELLIPSE: (220, 30, 30), RECTANGLE: (30, 200, 40), TRIANGLE: (40, 60, 230)}


@pytest.fixture
def content(tmp_path):
    """Image 0: ellipse, rectangle, crowd of triangles; 1: rectangle, triangle; 2: triangle, ellipse; 3: nothing."""
    return coco_tree.write_tree(tmp_path)


@pytest.fixture
def data(tmp_path, content):
    return coco_tree.load(tmp_path, subset="val")


def reload(root, content):
    coco_tree.write_annotations(root, content)
    return coco_tree.load(root, subset="val")


# ---- which there are ---------------------------------------------------------------------------------------------


def test_places_and_labels(data):
    instances = InstanceCrops(data, "some")
    boxes = [(16, 8), (20, 72), (28, 8), (32, 72), (36, 8), (40, 72)]  # tops and lefts of the six, the crowd aside
    expected = [(top, left, top + 40, left + 48) for top, left in boxes]
    assert [box for _, box, _ in instances.places] == expected
    assert [image_id for image_id, *_ in instances.places] == [0, 0, 1, 1, 2, 2]
    assert [label for *_, label in instances.places] == [0, 1, 1, 2, 2, 0]
    assert (len(instances), instances.num_classes, instances.class_ids, instances.name) == (6, 3, [1, 2, 3], "some")
    assert instances.summary() == "val2017: 6 instances of 3 classes"
    assert instances.image_reference(3) == data.image_reference(1)


@pytest.mark.parametrize(("limit", "reads"), [(10**9, 3), (1000, 12)])
def test_images_are_read_once_if_all_of_them_fit(data, monkeypatch, limit, reads):
    monkeypatch.setattr(instance_crops, "_CACHED_BYTES", limit)
    read, original = [], data.load_image
    monkeypatch.setattr(data, "load_image", lambda image_id: read.append(image_id) or original(image_id))
    samples = RandomCrops(InstanceCrops(data, "some"), 32, seed=0)
    crops = [samples[number].image for number in range(12)]
    assert len(read) == reads
    monkeypatch.undo()
    others = RandomCrops(InstanceCrops(data, "some"), 32, seed=0)
    np.testing.assert_array_equal(crops, [others[number].image for number in range(12)])


def test_held_out_classes_are_left_out(data):
    data.ACTIVE_CLASSES = np.array([TRIANGLE, ELLIPSE])
    instances = InstanceCrops(data, "some")
    assert instances.num_classes == 2 and instances.class_ids == [TRIANGLE, ELLIPSE]
    found = [(image_id, box[0], label) for image_id, box, label in instances.places]
    assert found == [(0, 16, 1), (1, 32, 0), (2, 36, 0), (2, 40, 1)]
    for samples in (RandomCrops(instances, 32, seed=0), CentreCrops(instances, 32)):
        for number in range(8):
            sample = samples[number]
            if sample.label != NO_LABEL:
                colour = COLOURS[instances.class_ids[sample.label]]
                assert np.abs(sample.image[16, 16].astype(int) - colour).max() <= 5


def test_boxes_are_cut_at_the_borders_and_those_below_a_pixel_left_out(tmp_path, content):
    boxes = [[-8, -4, 20, 10], [100, 90, 50, 50], [5, 5, 0.9, 30], [5, 5, 30, 0.9], [200, 5, 10, 10], [5, 5, 1, 1]]
    dataset = reload(tmp_path, content)
    annotations = [a for info in dataset.image_info for a in info["annotations"] if not a["iscrowd"]]
    for annotation, box in zip(annotations, boxes, strict=True):  # which reading would repair
        annotation["bbox"] = box
    instances = InstanceCrops(dataset, "some")
    assert [box for _, box, _ in instances.places] == [(0, 0, 6, 12), (90, 100, 96, 128), (5, 5, 6, 6)]


def test_fewer_than_two_classes(tmp_path, content, data):
    data.ACTIVE_CLASSES = np.array([RECTANGLE])
    with pytest.raises(ValueError, match="val2017: instances of 1 of 1 active classes, expected two or more"):
        InstanceCrops(data, "some")
    for annotation in content["annotations"]:
        annotation["iscrowd"] = int(annotation["category_id"] != 7)
        annotation["segmentation"] = content["annotations"][2]["segmentation"] if annotation["iscrowd"] else []
    with pytest.raises(ValueError, match="val2017: instances of 1 of 3 active classes"):
        InstanceCrops(reload(tmp_path, content), "some")
    content["annotations"] = []
    with pytest.raises(ValueError, match="val2017: instances of 0 of 3 active classes"):
        InstanceCrops(reload(tmp_path, content), "some")


# ---- crops by hand -----------------------------------------------------------------------------------------------


@pytest.fixture
def image():
    """uint8 [40, 60, RGB], noise of 100 to 199 in all channels."""
    return np.random.default_rng(0).integers(100, 200, (40, 60, 3), dtype=np.uint8)


def test_a_box_of_the_size_is_cut_out(image):
    np.testing.assert_array_equal(padded_box(image, (4, 10, 36, 42), 32), image[4:36, 10:42])


@pytest.mark.parametrize(
    ("box", "rows", "columns"),
    [
        ((0, 10, 16, 42), (8, 24), (0, 32)),  # twice as wide as high
        ((2, 20, 34, 28), (0, 32), (12, 20)),  # four times as high as wide
        ((0, 0, 5, 32), (13, 18), (0, 32)),  # an odd number of rows: the smaller half of the padding is above
    ],
)
def test_padding_keeps_the_aspect(image, box, rows, columns):
    y1, x1, y2, x2 = box
    crop = padded_box(image, box, 32)
    inner = np.zeros((32, 32), bool)
    inner[slice(*rows), slice(*columns)] = True
    assert crop.dtype == np.uint8 and not crop[~inner].any()
    np.testing.assert_array_equal(crop[inner].reshape(y2 - y1, x2 - x1, 3), image[y1:y2, x1:x2])


def test_boxes_are_enlarged_and_shrunk_to_the_size():
    image = np.zeros((80, 80, 3), np.uint8)
    image[9:21, 29:51] = (200, 100, 50)  # a box of one colour and the pixels around it
    crop = padded_box(image, (10, 30, 20, 50), 64)
    assert (crop[16:48] == (200, 100, 50)).all() and not crop[:16].any() and not crop[48:].any()
    shrunk = padded_box(image, (10, 30, 20, 50), 10)
    assert (shrunk[2:7] == (200, 100, 50)).all() and not shrunk[:2].any() and not shrunk[7:].any()
    image[9], image[20], image[:, 29], image[:, 50] = 0, 0, 0, 0
    crop = padded_box(image, (10, 30, 20, 50), 64)
    assert (crop[18:46, 2:62] == (200, 100, 50)).all() and crop[16:48].any(axis=-1).all()  # blended at its borders
    thin = padded_box(image, (10, 0, 11, 80), 32)  # less than half a row: one is left
    assert thin[15].any() and not thin[:15].any() and not thin[16:].any()


def test_fractions_of_pixels():
    image = np.repeat(np.arange(0, 200, 10, dtype=np.uint8), 20).reshape(20, 20, 1).repeat(3, axis=2)  # rows alike
    moved = padded_box(image, (4.5, 4, 12.5, 12), 8)
    np.testing.assert_array_equal(moved[:, 0, 0], np.arange(45, 125, 10))  # between two rows


# ---- samples -----------------------------------------------------------------------------------------------------


def test_validation_goes_through_all_instances_then_fills_up(data):
    instances = InstanceCrops(data, "some")
    samples = CentreCrops(instances, 48)
    for number, (image_id, box, label) in enumerate(instances.places):
        assert samples.image_of(number) == number
        sample = samples[number]
        assert sample.label == label
        top, left = int(box[0]), int(box[1])
        np.testing.assert_array_equal(sample.image[4:44], data.load_image(image_id)[top : top + 40, left : left + 48])
        assert not sample.image[:4].any() and not sample.image[44:].any()
    for number in (6, 9):
        filler = samples[number]
        assert filler.label == NO_LABEL and filler.image.shape == (48, 48, 3) and not filler.image.any()
        assert samples.image_of(number) == 5


def test_training_goes_through_all_instances_in_a_new_order_each_pass(data):
    samples = RandomCrops(InstanceCrops(data, "some"), 32, seed=4)
    orders = [[samples.image_of(6 * run + place) for place in range(6)] for run in range(6)]
    assert all(sorted(order) == list(range(6)) for order in orders)
    assert len(set(map(tuple, orders))) > 3
    labels = [samples.dataset.places[index][-1] for index in orders[0]]
    assert [samples[number].label for number in range(6)] == labels
    assert [samples.image_of(number) for number in range(6)] == orders[0]  # after later passes were asked for


def test_a_training_sample_depends_on_seed_and_number_alone(data):
    instances = InstanceCrops(data, "some")
    samples, again, other = (RandomCrops(instances, 32, seed=seed) for seed in (1, 1, 2))
    made = [samples[number] for number in range(12)]
    for number in (11, 3, 7, 0):
        sample = again[number]
        assert sample.label == made[number].label
        np.testing.assert_array_equal(sample.image, made[number].image)
    assert any(not np.array_equal(other[number].image, made[number].image) for number in range(12))
    [first, second] = [number for number in range(12) if samples.image_of(number) == 0]
    assert not np.array_equal(made[first].image, made[second].image)  # another cut in the next pass


def test_training_samples_are_moved_a_little_and_every_other_one_mirrored(tmp_path):
    """Of an image whose red grows to the right and whose green grows downwards."""
    content = coco_tree.write_tree(tmp_path)
    rows, columns = np.indices(coco_tree.SIZE)
    image = np.stack([columns, rows, np.full_like(rows, 255)], axis=-1).astype(np.uint8)
    data = coco_tree.load(tmp_path, subset="val")
    data.load_image = lambda image_id: image
    instances = InstanceCrops(data, "some")
    assert content["annotations"]
    samples, mirrored, tops, lefts = RandomCrops(instances, 64, seed=0), 0, set(), set()
    for number in range(60):
        y1, x1, y2, x2 = instances.places[samples.image_of(number)][1]
        crop = samples[number].image.astype(int)
        inside = crop[..., 2] == 255
        red, green = crop[..., 0][inside], crop[..., 1][inside]
        height, width = 40 * 0.25 + 1.5, 48 * 0.25 + 1.5  # a move, and what resizing blurs
        assert abs(green.min() - y1) <= height and abs(green.max() + 1 - y2) <= height
        assert abs(red.min() - x1) <= width and abs(red.max() + 1 - x2) <= width
        middle = crop[32]
        mirrored += middle[20, 0] > middle[44, 0]
        tops.add(int(green.min() - y1))
        lefts.add(int(red.min() - x1))
    assert 18 <= mirrored <= 42 and len(tops) > 3 and len(lefts) > 3


def test_a_tiny_box_is_not_moved_below_a_pixel(tmp_path, content):
    for annotation in content["annotations"]:
        annotation["bbox"] = [127, 95, 1, 1]
    samples = RandomCrops(InstanceCrops(reload(tmp_path, content), "some"), 16, seed=0)
    assert all(samples[number].image.any() for number in range(20))


@pytest.mark.parametrize("kind", ["training", "validation"])
def test_an_image_that_cannot_be_read_is_named(tmp_path, data, kind):
    instances = InstanceCrops(data, "some")
    path = tmp_path / "val2017" / "000000000020.png"
    path.write_bytes(path.read_bytes()[:2000])
    samples = RandomCrops(instances, 32, seed=0) if kind == "training" else CentreCrops(instances, 32)
    number = next(number for number in range(6) if samples.image_of(number) == 2)
    with pytest.raises(RuntimeError, match=r"000000000020\.png: .*truncated") as caught:
        samples[number]
    assert isinstance(caught.value.__cause__, ValueError)


def test_import_is_light():
    code = "import sys, siamese_mrcnn_tf.pretraining.instance_crops; print({'tensorflow', 'keras'} & set(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "set()"


def test_masks_are_a_fourth_channel(data):
    plain, masked = InstanceCrops(data, "some"), InstanceCrops(data, "some", masks=True)
    for samples in (lambda one: RandomCrops(one, 48, seed=1), lambda one: CentreCrops(one, 48)):
        for number in range(6):
            crop, both = samples(plain)[number].image, samples(masked)[number].image
            np.testing.assert_array_equal(both[..., :3], crop)
            colour = COLOURS[masked.class_ids[samples(masked)[number].label]]
            close = np.abs(crop.astype(int) - colour).max(axis=-1) <= 40
            assert np.mean(close == (both[..., 3] > 127)) > 0.9
    assert CentreCrops(masked, 48)[6].image.shape == (48, 48, 4) and CentreCrops(masked, 48)[6].label == NO_LABEL
