"""The legacy .h5 layout: names, order, attributes, and files of other layouts."""

import os
import re
import zipfile

import h5py
import numpy as np
import pytest
from weight_models import network_shapes, write_h5

from siamese_mrcnn_tf.config import Config
from siamese_mrcnn_tf.io.errors import InputError
from siamese_mrcnn_tf.weights.expected import misshapen
from siamese_mrcnn_tf.weights.legacy_h5 import file_layout, group_of, read_weights, set_strings, write_weights
from siamese_mrcnn_tf.weights.pretrained import find_weights
from siamese_mrcnn_tf.weights.thresholds import find_thresholds


def test_resnet101_order_goes_by_block():
    config = Config().replace(BACKBONE="resnet101")
    keys = file_layout({key: group_of(key.split("/")[0]) for key in network_shapes(config)})["resnet_model"]
    trainable = [key.split("/")[0] for key in keys if key.endswith("/kernel")]
    assert trainable[0] == "conv1" and trainable[-1] == "res5c_branch2c"
    assert trainable.index("res4b_branch2a") == trainable.index("res4a_branch1") + 1
    assert trainable.index("res5a_branch2a") == trainable.index("res4w_branch2c") + 1
    assert keys[-2:] == ["bn5c_branch2c/moving_mean", "bn5c_branch2c/moving_variance"]


def test_attributes_cut_in_pieces(tmp_path):
    names = [f"layer{index}_{'x' * 900}" for index in range(99)]  # more than one attribute of HDF5 holds
    with h5py.File(tmp_path / "w.h5", "w") as h5:
        set_strings(h5.attrs, "layer_names", names)
        assert {"layer_names0", "layer_names1"} == set(h5.attrs)
        for name in names:
            set_strings(h5.create_group(name).attrs, "weight_names", [f"{name}/kernel:0"])
            h5[name].create_dataset(f"{name}/kernel:0", data=np.float32([1]))
    assert list(read_weights(tmp_path / "w.h5").shapes) == [f"{name}/kernel" for name in names]


def test_suffix_stays_where_the_bare_name_is_there_or_unknown(tmp_path):
    one = np.ones(1, np.float32)
    stored = [("conv1", "conv1/kernel:0", one), ("conv1_1", "conv1_1/kernel:0", 2 * one), ("x_1", "x_1/kernel:0", one)]
    path = write_h5(tmp_path / "w.h5", stored)
    assert list(read_weights(path).shapes) == ["conv1/kernel", "conv1_1/kernel", "x_1/kernel"]
    assert read_weights(path).arrays["conv1/kernel"] == [1]
    assert read_weights(path, expected={"x"}).renamed == {"x_1/kernel:0": "x/kernel"}
    path = write_h5(tmp_path / "w.h5", stored[1:2])
    file = read_weights(path, values=False)
    assert (list(file.shapes), file.arrays, file.renamed) == (
        ["conv1/kernel"],
        {},
        {"conv1_1/kernel:0": "conv1/kernel"},
    )
    assert list(read_weights(path, expected={"conv1_1"}).shapes) == ["conv1_1/kernel"]


def test_one_name_for_two_weights(tmp_path):
    one = np.ones(1, np.float32)
    twins = [("a", "conv1_1/kernel:0", one), ("b", "conv1_2/kernel:0", one)]
    assert list(read_weights(write_h5(tmp_path / "same.h5", twins)).shapes) == ["conv1/kernel"]
    different = [twins[0], ("b", "conv1_2/kernel:0", 2 * one)]
    with pytest.raises(ValueError, match=r"two different weights have the name conv1/kernel.*conv1_2/kernel:0"):
        read_weights(write_h5(tmp_path / "different.h5", different))


def test_applications_blocks_get_their_letters(tmp_path):
    names = [
        "conv1_conv",
        "conv1_bn",
        "conv2_block1_0_conv",
        "conv3_block2_3_bn",
        "conv4_block23_1_conv",
        "conv4_block36_1_bn",
    ]
    stored = [(name, f"{name}/kernel:0", np.zeros(1)) for name in names]
    expected = ["conv1", "bn_conv1", "res2a_branch1", "bn3b_branch2c", "res4w_branch2a", "conv4_block36_1_bn"]
    assert list(read_weights(write_h5(tmp_path / "w.h5", stored)).shapes) == [f"{name}/kernel" for name in expected]


def test_hdf5_files_of_other_layouts(tmp_path):
    path = tmp_path / "w.weights.h5"
    with h5py.File(path, "w") as h5:
        h5.create_dataset("layers/conv2d/vars/0", data=np.zeros(3))
    with pytest.raises(ValueError, match=r"from an older Keras 3, it does not name its layers; load it with"):
        read_weights(path)
    with h5py.File(path, "w") as h5:
        h5.create_dataset("images", data=np.zeros(3))
    with pytest.raises(ValueError, match=r"HDF5 without layer_names that holds images\)"):
        read_weights(path)
    with h5py.File(path, "w") as h5:
        h5.create_dataset("layers", data=np.zeros(3))
    with pytest.raises(ValueError, match=r"HDF5 without layer_names that holds layers\)"):
        read_weights(path)
    with pytest.raises(ValueError, match="holds no weights"):
        read_weights(write_h5(path, [], empty=["input_1"]))


def test_listed_weight_that_is_not_there(tmp_path):
    path = write_h5(tmp_path / "w.h5", [("conv1", "conv1/kernel:0", np.zeros(3))])
    with h5py.File(path, "a") as h5:
        del h5["conv1/conv1/kernel:0"]
    with pytest.raises(ValueError, match=r"w\.h5: a damaged"):
        read_weights(path)
    with h5py.File(path, "a") as h5:
        h5["conv1"].create_dataset("conv1/kernel:0", data=b"text")
    with pytest.raises(ValueError, match="conv1/conv1/kernel:0 is not an array of numbers"):
        read_weights(path)


def soft_link(h5, folder):
    h5["conv1/conv1/kernel:0"] = h5py.SoftLink("/other")
    h5["other"] = np.zeros(3)


def external_link(h5, folder):
    h5["conv1/conv1/kernel:0"] = h5py.ExternalLink(str(folder / "other.h5"), "/values")


def external_storage(h5, folder):
    (folder / "raw").write_bytes(b"0123456789ab")
    h5["conv1"].create_dataset("conv1/kernel:0", (3,), np.float32, external=[(str(folder / "raw"), 0, 12)])


def virtual(h5, folder):
    layout = h5py.VirtualLayout((3,), np.float32)
    layout[:] = h5py.VirtualSource(str(folder / "other.h5"), "values", (3,))
    h5["conv1"].create_virtual_dataset("conv1/kernel:0", layout)


def large_chunk(h5, folder):
    h5["conv1"].create_dataset("conv1/kernel:0", (3,), np.float32, maxshape=(None,), chunks=(2**28,))


FOREIGN = {
    soft_link: "a soft link",
    external_link: "a link to another file",
    external_storage: "takes its data from other files",
    virtual: "takes its data from other datasets",
    large_chunk: "larger than itself",
}


@pytest.mark.parametrize(("add", "message"), FOREIGN.items(), ids=[add.__name__ for add in FOREIGN])
@pytest.mark.parametrize("suffix", [".h5", ".keras"])
def test_data_outside_of_the_file_is_refused(tmp_path, add, message, suffix):
    with h5py.File(tmp_path / "other.h5", "w") as h5:
        h5["values"] = np.ones(3, np.float32)
    path = write_h5(
        tmp_path / "w.h5", [("conv1", "conv1/bias:0", np.zeros(3)), ("conv1", "conv1/kernel:0", np.zeros(3))]
    )
    with h5py.File(path, "a") as h5:
        del h5["conv1/conv1/kernel:0"]
        add(h5, tmp_path)
    if suffix == ".keras":
        with zipfile.ZipFile(tmp_path / "w.keras", "w") as archive:
            archive.write(path, "model.weights.h5")
        path = tmp_path / "w.keras"
    for values in (False, True):
        with pytest.raises(InputError, match=rf"w{suffix}: conv1/conv1/kernel:0 .*{message}") as raised:
            read_weights(path, values=values)
        assert str(path) in str(raised.value)


def test_archives_that_unpack_to_much_are_refused(tmp_path):
    path = tmp_path / "w.keras"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("model.weights.h5", "w") as member:
        for _ in range(70):
            member.write(bytes(2**20))
    with pytest.raises(InputError, match=r"w\.keras: model\.weights\.h5 unpacks from \d+ to 73400320 bytes"):
        read_weights(path)


@pytest.mark.parametrize("read", [read_weights, find_weights, find_thresholds])
def test_a_pipe_is_not_waited_for(tmp_path, read):
    name = "w.threshold.json" if read is find_thresholds else "w.h5"
    os.mkfifo(tmp_path / name)
    with pytest.raises(ValueError, match=rf"{name}: not a regular file"):
        read(tmp_path / "w.h5")


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"rpn_conv_shared/kernel": (2**30,)}, r"rpn_conv_shared/kernel is of shape \[1073741824\], expected 2 or 4"),
        ({"rpn_conv_shared/kernel": ()}, "expected 2 or 4 axes"),
        ({"rpn_conv_shared/kernel": (0, 1, 2, 3)}, "none of them empty"),
        ({"conv1/kernel": (7, 7, 3, 8), "conv1/bias": (3,)}, r"conv1/bias is of shape \[3\], expected \[8\]"),
        ({"bn_conv1/gamma": (8,), "bn_conv1/beta": (3,)}, r"bn_conv1/beta is of shape \[3\], expected \[8\]"),
        ({"bn_conv1/beta": ()}, r"bn_conv1/beta is of shape \[\]"),
        ({"mrcnn_mask_deconv/kernel": (2, 2, 8, 4), "mrcnn_mask_deconv/bias": (8,)}, None),
        ({"other/kernel": ()}, None),
    ],
)
def test_shapes_that_no_network_has(shapes, message):
    found = misshapen(shapes)
    assert found is None if message is None else re.search(message, found)


def test_a_full_disk_is_told_with_the_path(tmp_path, full_disk):
    values = np.ones(1000, np.float32)
    with full_disk(), pytest.raises(ValueError, match=r"a.h5: cannot be written \(File too large"):
        write_weights(tmp_path / "a.h5", {"conv1": ["conv1/bias"]}, lambda key: values)
    assert not list(tmp_path.iterdir())
