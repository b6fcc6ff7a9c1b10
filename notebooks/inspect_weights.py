# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Weights: what is in a file, and in a model
#
# Legacy `.h5` files are those of the original implementation and of Matterport's Mask R-CNN. Here is how to see what
# one is, what it fits, what loading it does, and whether its weights look sound. The file is the one that comes with
# the package, trained with `TinyConfig`; put the path of yours in place of `WEIGHTS`.

# %%
# %matplotlib inline
# %config InlineBackend.figure_formats = ["jpeg"]
import logging
import os
import sys
from pathlib import Path

import keras
import numpy as np
from IPython.display import display

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"  # TensorFlow says less
logging.getLogger("siamese_mrcnn_tf").setLevel(logging.ERROR)  # reports are printed below, not logged too
sys.path[:0] = ["..", "."]  # runs from a checkout that is not installed

from siamese_mrcnn_tf import SiameseMaskRCNN, TinyConfig, display_weight_stats
from siamese_mrcnn_tf.shapes import dataset as shapes
from siamese_mrcnn_tf.visualize.diagnostics import WeightStats
from siamese_mrcnn_tf.visualize.style import new_figure
from siamese_mrcnn_tf.weights.loading import describe_weights, fitting_config

WEIGHTS = os.path.relpath(Path(shapes.__file__).with_name("siamese_mrcnn_shapes_s1.h5"))

# %% [markdown]
# ## What is in the file
#
# `describe_weights` needs no model. It says what the file is, by names and shapes; how many weights and parameters each
# part has; which configurations it fits, and what would be left out. `siamese-mrcnn weights FILE` prints the same. It
# tells the small and the large files of the releases apart.

# %%
print(describe_weights(WEIGHTS))
print("\nconfiguration that fits:", fitting_config(WEIGHTS))

# %% [markdown]
# ## Loading it
#
# `load_weights` finds each weight by its name. The report lists what was loaded, what the file lacks (`missing`), and
# what it has that the model does not use (`unused`). For a complete file of the same configuration, everything is
# loaded and both lists are empty.

# %%
keras.utils.set_random_seed(0)  # the same initial values every time
model = SiameseMaskRCNN("inference", TinyConfig(), model_dir="logs")
initial = {weight.path: weight.numpy() for weight in model.keras_model.weights}
report = model.load_weights(WEIGHTS)
print(report.summary())
print(f"  missing: {len(report.missing)}, unused: {len(report.unused)}, excluded: {len(report.excluded)}")

# %% [markdown]
# ## Loading a part of it
#
# `exclude` takes names of layers, or regular expressions for them, that keep the values they have. Here these are the
# two heads, as for a start on another task. A pattern that matches no layer is reported as a note, as it is mostly a
# slip.

# %%
partial = SiameseMaskRCNN("inference", TinyConfig(), model_dir="logs")
report = partial.load_weights(WEIGHTS, exclude=["mrcnn_.*", "rpn_clas_raw"])
print(report.summary())

# %% [markdown]
# ## A file that does not fit
#
# A shape that differs is an error that names the weight and both shapes; nothing is loaded then, not even what would
# fit. To load the rest, exclude what differs by name. Here the file of the tiny network meets a class head of another
# width; the same happens with a small file and the large configuration.

# %%
wider = SiameseMaskRCNN("inference", TinyConfig().replace(FPN_CLASSIF_FC_LAYERS_SIZE=64), model_dir="logs")
try:
    wider.load_weights(WEIGHTS)
except ValueError as error:
    print(error)

report = wider.load_weights(WEIGHTS, exclude="mrcnn_class_.*|mrcnn_bbox_fc")
print(f"\nwith exclude: {len(report.loaded)} loaded; {len(report.mismatched)} of other shapes left out, such as")
for name, in_file, in_model in report.mismatched[:3]:
    print(f"  {name}: {in_file} in the file, {in_model} in the model")

# %% [markdown]
# ## Histograms of the layers
#
# A panel for each layer: the values of its kernel after training (filled), and before (line). Initial values come
# evenly from a range that depends on the size of the layer, which makes the outline a box. Layers that training moved
# much have lost that shape, and have tails; those that it moved little, such as `fpn_distance_P6`, still show a part of
# it. The last layers of RPN, class head and box head have a peak at 0, where many of their weights are. All values the
# same, or some far from all others, would be a reason to look closer.

# %%
KERNELS = [
    *("conv1", "res2a_branch2b", "res3a_branch2b", "res4a_branch2b", "res5a_branch2b"),
    *("fpn_c5p5", "fpn_p2", "fpn_p5"),
    *("fpn_distance_P2", "fpn_distance_P4", "fpn_distance_P6"),
    *("rpn_conv_shared", "rpn_class_raw", "rpn_bbox_pred"),
    *("mrcnn_class_conv1", "mrcnn_class_conv2", "mrcnn_class_logits", "mrcnn_bbox_fc"),
    *("mrcnn_mask_conv1", "mrcnn_mask_deconv"),
]


def kernel_of(values, layer):
    """The kernel of a layer, by its name, out of {path: values}."""
    return next(array for path, array in values.items() if f"/{path}".endswith(f"/{layer}/kernel"))


trained = {weight.path: weight.numpy() for weight in model.keras_model.weights}
figure = new_figure((11, 9))
for place, layer in enumerate(KERNELS, 1):
    ax = figure.add_subplot(4, 5, place)
    before, after = kernel_of(initial, layer).ravel(), kernel_of(trained, layer).ravel()
    limit = max(4 * after.std(), np.abs(before).max())  # tails beyond it are counted in the outermost bins
    for values, style in ((after, {"histtype": "stepfilled", "alpha": 0.6}), (before, {"histtype": "step"})):
        ax.hist(np.clip(values, -limit, limit), bins=41, range=(-limit, limit), density=True, **style)
    ax.set_title(f"{layer}\n{list(kernel_of(trained, layer).shape)}", fontsize=8)
    ax.set_yticks([])
    ax.tick_params(labelsize=7)
display(figure)

# %% [markdown]
# ## How wide each part became
#
# For each kernel the standard deviation after training, divided by that before: 1 means as wide as at the start. The
# layers are in the network's order, from the first convolution of the backbone to the mask head. All of backbone and
# FPN became wider, some of them several times; matching and RPN stay close to 1, and the heads are on both sides of it.

# %%
paths = [path for path in trained if path.endswith("kernel")]
ratios = [trained[path].std() / initial[path].std() for path in paths]
PARTS = {"backbone": ("conv1", "res"), "FPN": ("fpn_c", "fpn_p"), "matching": ("fpn_distance",), "RPN": ("rpn",)}


def part_of(path):
    """The part of the network that a weight belongs to."""
    layer = path.split("/")[-2]
    return next((part for part, starts in PARTS.items() if layer.startswith(starts)), "heads")


figure = new_figure((10, 3.2))
ax = figure.add_subplot()
for part in (*PARTS, "heads"):
    chosen = [place for place, path in enumerate(paths) if part_of(path) == part]
    ax.scatter(chosen, [ratios[place] for place in chosen], s=18, label=part)
ax.axhline(1, color="black", linewidth=0.8, linestyle="dashed")
ax.set(xlabel="kernel, in the order of the network", ylabel="width after / before")
ax.legend(ncols=5, fontsize=8)
display(figure)

# %% [markdown]
# ## Dead units and overflow
#
# `display_weight_stats` gives a row for each weight. Its remark says "dead?" where all values are the same, "overflow?"
# where one is beyond 1000, and "not finite" for NaN and infinity. Here the rows of the class and box head, then all
# that are marked. A mark is a question, not a verdict. `TRAIN_BN = False` never updates moving statistics, so those of
# layers that began at random stay at 0 and 1; and the moving variance of the first layer may be large, because pixels
# go from 0 to 255. A kernel among the marked would be bad news.

# %%
stats = display_weight_stats(model)
display(WeightStats([row for row in stats.rows if "mrcnn_class" in row["name"] or "mrcnn_bbox" in row["name"]]))
marked = [row for row in stats.rows if row["remark"]]
print(f"{len(marked)} of {len(stats.rows)} weights are marked")
print("\n".join(f"{row['remark']}: {row['name']}" for row in marked))

# %% [markdown]
# Channels that give 0 for every input are harder to see in weights. After batch normalisation and ReLU, a channel whose
# scale (gamma) is near 0 carries nothing but its shift. The histogram shows all gammas of the model; the print counts
# those close to 0. Here there are none.

# %%
gammas = np.concatenate([values for path, values in trained.items() if path.endswith("gamma")])
figure = new_figure((7, 2.6))
ax = figure.add_subplot()
ax.hist(gammas, bins=80)
ax.set(xlabel="gamma", ylabel="channels", title="scales of batch normalisation")
display(figure)
print(f"{np.count_nonzero(np.abs(gammas) < 0.01)} of {len(gammas)} channels have a scale below 0.01")

# %% [markdown]
# ## Saving
#
# `model.save_weights("mine.h5")` writes the layout of the original, which reads it too. Files of other kinds load by
# the same call: backbones (`imagenet_687.h5`, ResNet-50 of keras-applications), and Matterport's `mask_rcnn_coco.h5`,
# of which backbone and pyramid are used.
