"""ImageNet's classes, folder trees and numbered samples."""

import pickle

import imagenet_tree
import numpy as np
import pytest
from PIL import Image

from siamese_mrcnn_tf.config import TinyConfig
from siamese_mrcnn_tf.pretraining import imagenet
from siamese_mrcnn_tf.pretraining.imagenet import CLASS_SETS, excluded_classes, trained_classes, wordnet_ids

SIZE = 16


@pytest.fixture
def tree(tmp_path):
    return imagenet_tree.write_tree(tmp_path / "set")


@pytest.fixture
def images(tree):
    return imagenet.find_images(tree, "train", 687, partial=True)


# ---- classes -----------------------------------------------------------------------------------------------------


def test_wordnet_ids_are_those_of_ilsvrc():
    assert len(wordnet_ids()) == 1000 and list(wordnet_ids()) == sorted(set(wordnet_ids()))
    assert wordnet_ids()[0] == "n01440764" and wordnet_ids()[-1] == "n15075141"
    # tabby, zebra, banana at the indices that everyone's class lists give them
    assert [wordnet_ids().index(wnid) for wnid in ("n02123045", "n02391049", "n07753592")] == [281, 340, 954]


@pytest.mark.parametrize("count", CLASS_SETS)
def test_class_sets_have_their_size(count):
    kept, left_out = trained_classes(count), excluded_classes(count)
    assert len(kept) == count and len(left_out) == 1000 - count
    assert sorted(kept + left_out) == list(wordnet_ids()) and list(kept) == sorted(kept)


def test_what_coco_has_is_left_out():
    left_out = set(excluded_classes(687))
    assert {wordnet_ids()[index] for index in range(151, 269)} <= left_out  # dogs
    assert {"n02123045", "n02391049", "n02504458", "n07753592", "n02992529"} - left_out == {"n02992529"}
    milder = set(excluded_classes(771))
    assert milder < left_out | milder and "n02391049" not in milder and "n02123045" in milder


def test_another_number_of_classes_is_an_error():
    with pytest.raises(ValueError, match="classes = 688: expected one of 687, 771, 1000"):
        trained_classes(688)


# ---- folders -----------------------------------------------------------------------------------------------------


def test_images_of_trained_classes_are_found(images, tree):
    assert len(images) == 18 and images.num_classes == 687
    np.testing.assert_array_equal(images.labels, np.repeat([0, 1, 2], 6))
    assert images.names[6] == "n01443537/n01443537_0.JPEG"
    assert images.image_reference(6) == str(tree / "train" / "n01443537" / "n01443537_0.JPEG")
    assert images.left_out == imagenet_tree.EXCLUDED and len(images.missing) == 684
    assert "18 images of 3 classes; left out, because COCO has them too: 2 classes" in images.summary()


def test_all_classes_take_the_others_in(tree):
    images = imagenet.find_images(tree, "train", 1000, partial=True)
    assert sorted(set(images.labels.tolist())) == [0, 1, 2, 340, 954] and images.left_out == ()


def test_missing_classes_are_named(tree):
    with pytest.raises(ValueError, match=r"train: 684 of the 687 classes have no image: n01491361, .* and 679 more"):
        imagenet.find_images(tree, "train", 687)


def test_an_empty_folder_is_a_missing_class(tree):
    for path in (tree / "val" / "n01443537").iterdir():
        path.rename(path.with_suffix(".txt"))
    assert "n01443537" in imagenet.find_images(tree, "val", 687, partial=True).missing


def test_a_whole_set_is_complete(tmp_path):
    for wnid in wordnet_ids():
        (tmp_path / "train" / wnid).mkdir(parents=True)
        (tmp_path / "train" / wnid / f"{wnid}_1.JPEG").touch()
    images = imagenet.find_images(tmp_path, "train", 687)
    assert images.missing == () and len(images.left_out) == 313
    np.testing.assert_array_equal(images.labels, np.arange(687))


def test_other_files_and_folders_are_not_images(tree, caplog):
    folder = tree / "train" / "n01440764"
    for name in ("notes.txt", "._n01440764_0.JPEG"):
        (folder / name).write_text("")
    Image.new("RGB", (9, 9)).save(folder / "z.png")
    (tree / "train" / "cats").mkdir()
    images = imagenet.find_images(tree, "train", 687, partial=True)
    assert len(images) == 19 and images.names[6] == "n01440764/z.png"
    assert "1 folders are no classes of ILSVRC-2012: cats" in caplog.text


def test_trees_of_another_form_are_explained(tree, tmp_path):
    with pytest.raises(ValueError, match="test: no such folder; expected DIR/train and DIR/val"):
        imagenet.find_images(tree, "test", 687)
    flat = tmp_path / "flat" / "val"
    flat.mkdir(parents=True)
    with pytest.raises(ValueError, match="val: no class folder there; expected folders named like n01440764"):
        imagenet.find_images(tmp_path / "flat", "val", 687)
    Image.new("RGB", (9, 9)).save(flat / "ILSVRC2012_val_00000001.JPEG")
    with pytest.raises(ValueError, match="it holds the images themselves"):
        imagenet.find_images(tmp_path / "flat", "val", 687)
    only_excluded = imagenet_tree.write_tree(tmp_path / "excluded", imagenet_tree.EXCLUDED)
    with pytest.raises(ValueError, match="no image of any of the 687 classes"):
        imagenet.find_images(only_excluded, "train", 687, partial=True)


def test_companions_are_passed_over(tree, images, caplog):
    wnid = imagenet_tree.TRAINED[0]
    (tree / "train" / "__MACOSX" / wnid).mkdir(parents=True)
    for name in (f"{wnid}/._a.JPEG", f"{wnid}/Thumbs.db", f"__MACOSX/{wnid}/a.JPEG", "._x", f"{wnid}/.b.png"):
        (tree / "train" / name).write_bytes(b"0")
    assert imagenet.find_images(tree, "train", 687, partial=True).names == images.names and not caplog.messages


@pytest.mark.parametrize(("rule", "turned"), [("auto", True), ("obey", True), ("ignore", False)])
def test_orientation_of_class_images(tree, rule, turned):
    exif = Image.Exif()
    exif[0x0112] = 3
    values = np.random.default_rng(0).integers(0, 255, (SIZE, SIZE, 3), dtype=np.uint8)
    Image.fromarray(values).save(tree / "train" / imagenet_tree.TRAINED[0] / "0.png", exif=exif)
    found = imagenet.find_images(tree, "train", 687, partial=True, orientation=rule)
    expected = Image.fromarray(values[::-1, ::-1] if turned else values)
    crop = imagenet.resized_crop(np.asarray(expected), imagenet.centre_box((SIZE, SIZE), 224 / 256), SIZE)
    np.testing.assert_array_equal(found.centre_crop(0, SIZE), crop)


def test_class_images_above_eight_bits_share_a_range(tree):
    folder = tree / "train" / imagenet_tree.TRAINED[0]
    for name, value in (("0.png", 4095), ("1.png", 819)):
        Image.fromarray(np.full((SIZE, SIZE), value, np.uint16)).save(folder / name)
    found = pickle.loads(pickle.dumps(imagenet.find_images(tree, "train", 687, partial=True)))
    assert [int(found.centre_crop(index, SIZE).max()) for index in (0, 1)] == [255, 51]


# ---- samples -----------------------------------------------------------------------------------------------------


def test_a_pass_has_each_image_once_in_an_order_of_its_own(images):
    crops = imagenet.RandomCrops(images, SIZE, seed=3)
    passes = [[crops.image_of(number) for number in range(start, start + 18)] for start in (0, 18)]
    assert sorted(passes[0]) == sorted(passes[1]) == list(range(18)) and passes[0] != passes[1]
    other = imagenet.RandomCrops(images, SIZE, seed=4)
    assert [other.image_of(number) for number in range(18)] != passes[0]


def test_a_sample_depends_on_seed_and_number_alone(images):
    crops = imagenet.RandomCrops(images, SIZE, seed=3)
    expected = [crops[number] for number in range(40)]
    again = pickle.loads(pickle.dumps(imagenet.RandomCrops(images, SIZE, seed=3)))  # as a worker process has it
    for number in (39, 0, 21, 7):
        sample = again[number]
        np.testing.assert_array_equal(sample.image, expected[number].image)
        assert sample.label == expected[number].label == images.labels[crops.image_of(number)]
        assert sample.image.shape == (SIZE, SIZE, 3) and sample.image.dtype == np.uint8
    same_image = next(number for number in range(18, 36) if crops.image_of(number) == crops.image_of(0))
    assert (expected[same_image].image != expected[0].image).any()


def test_random_boxes_lie_inside_and_vary_as_they_should():
    boxes = np.array([imagenet.random_box((120, 120), np.random.default_rng(number)) for number in range(500)])
    heights, widths = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    assert boxes.min() >= 0 and boxes[:, 2:].max() <= 120
    areas, ratios = heights * widths / 120**2, widths / heights
    assert 0.07 < areas.min() < 0.12 and areas.max() > 0.85 and 0.4 < areas.mean() < 0.6
    assert 0.72 < ratios.min() < 0.8 and 1.25 < ratios.max() < 1.37


def test_an_image_too_narrow_for_a_random_box_gives_its_middle():
    assert imagenet.random_box((10, 400), np.random.default_rng(0)) == (0, 195, 10, 205)


def test_centre_box_is_that_of_resize_256_and_crop_224():
    assert imagenet.centre_box((256, 512), 224 / 256) == (16, 144, 240, 368)


def test_resized_crop_takes_its_box():
    image = np.zeros((20, 30, 3), np.uint8)
    image[4:16, 9:21] = (10, 20, 30)  # more than the box: its neighbours take part at the border
    crop = imagenet.resized_crop(image, (6, 11, 14, 19), 4)
    np.testing.assert_array_equal(crop, np.broadcast_to(np.array([10, 20, 30]), (4, 4, 3)))


def test_half_of_the_crops_are_mirrored(tmp_path):
    values = np.tile(np.arange(0, 240, 4, dtype=np.uint8)[:, None], (60, 1, 3))  # brighter to the right
    (tmp_path / "train" / "n01440764").mkdir(parents=True)
    Image.fromarray(values).save(tmp_path / "train" / "n01440764" / "a.png")
    crops = imagenet.RandomCrops(imagenet.find_images(tmp_path, "train", 687, partial=True), SIZE, seed=0)
    rising = [crops[number].image[8, -1, 0] > crops[number].image[8, 0, 0] for number in range(60)]
    assert 20 < sum(rising) < 40


def test_validation_goes_through_the_images_and_fills_up(images):
    crops = imagenet.CentreCrops(images, SIZE)
    assert [crops[number].label for number in (0, 6, 17, 18, 40)] == [0, 1, 2, imagenet.NO_LABEL, imagenet.NO_LABEL]
    assert crops.image_of(17) == crops.image_of(40) == 17
    np.testing.assert_array_equal(crops[5].image, crops[5].image)


def test_a_loop_over_samples_ends_after_a_pass(images):
    for crops in (imagenet.RandomCrops(images, SIZE, seed=1), imagenet.CentreCrops(images, SIZE)):
        samples = list(crops)
        assert len(samples) == len(crops) == len(images)
        assert all(np.array_equal(one.image, crops[number].image) for number, one in enumerate(samples))
        assert {sample.label for sample in samples} == set(images.labels.tolist())


def test_a_batch_is_molded_like_the_detector_s():
    config = TinyConfig()
    samples = [imagenet.LabeledImage(np.full((4, 4, 3), value, np.uint8), value) for value in (0, 200)]
    batch = imagenet.make_crop_batch(samples, config)
    assert batch["input_image"].dtype == np.float32 and batch["input_label"].dtype == np.int32
    np.testing.assert_allclose(batch["input_image"][1, 0, 0], 200 - np.array(config.MEAN_PIXEL), rtol=1e-6)
    assert batch["input_label"].tolist() == [0, 200]


@pytest.mark.parametrize("devices, rows", [(1, 3), (2, 4), (4, 4), (5, 5)])
def test_a_last_batch_holds_what_devices_need_to_share_it(images, devices, rows):
    crops = imagenet.CentreCrops(images, SIZE)
    batch = imagenet.make_crop_batch(
        [crops[number] for number in range(15, 20)], TinyConfig().replace(GPU_COUNT=devices)
    )
    assert batch["input_image"].shape == (rows, SIZE, SIZE, 3)
    assert batch["input_label"].tolist() == [2, 2, 2, -1, -1][:rows]


def test_a_broken_image_is_named(tree, images):
    broken = tree / "train" / "n01443537" / "n01443537_2.JPEG"
    broken.write_bytes(broken.read_bytes()[:300])
    crops = imagenet.RandomCrops(images, SIZE, seed=0)
    number = next(number for number in range(18) if crops.image_of(number) == 8)
    with pytest.raises(RuntimeError, match="n01443537_2.JPEG: the image cannot be read"):
        crops[number]


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGBA", "P"])
def test_images_of_other_modes_are_taken(images, tree, mode):
    path = tree / "train" / "n01440764" / "n01440764_0.JPEG"
    Image.new(mode, (20, 30)).save(path, "JPEG" if mode in ("L", "CMYK") else "PNG")  # ImageNet has a PNG named .JPEG
    assert imagenet.CentreCrops(images, SIZE)[0].image.shape == (SIZE, SIZE, 3)
