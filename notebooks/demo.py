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
# # Demo: find every object that looks like one example
#
# From one crop of an object, the network finds every object like it in a scene, with its mask, also of categories that
# it was never trained on. The package draws the scenes and brings the weights. They belong to `TinyConfig`, a small
# network for small images, which makes more mistakes than the released networks.

# %%
# %matplotlib inline
# %config InlineBackend.figure_formats = ["jpeg"]
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
from IPython.display import display

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"  # TensorFlow says less
sys.path[:0] = ["..", "."]  # runs from a checkout that is not installed

from siamese_mrcnn_tf import ReferenceEmbedding, SiamesePredictor, TinyConfig, visualize
from siamese_mrcnn_tf.data.dataset import split_classes
from siamese_mrcnn_tf.shapes import dataset as shapes
from siamese_mrcnn_tf.visualize.style import new_figure

WEIGHTS = Path(shapes.__file__).with_name("siamese_mrcnn_shapes_s1.h5")  # comes with the package

# %% [markdown]
# ## The network
#
# A configuration and a weight file make a predictor. Beside these weights lies a threshold file, which
# `siamese-mrcnn calibrate` wrote: finds are verified, and those that score less than its threshold are left out.

# %%
config = TinyConfig()
predictor = SiamesePredictor(config, weights=WEIGHTS)
print(f"threshold {predictor.config.DETECTION_MIN_CONFIDENCE:.2f}, finds are verified: {predictor.verifies}")

# %% [markdown]
# ## A scene and references
#
# These weights were trained on category split 1, in which the 1st, 5th, 9th, ... category of shapes is novel. Crosses
# are a train category, hearts are novel: in training scenes they were background. The references are cut from other
# scenes than the one that is searched. Colours and textures are drawn at random, so that only the shape tells what
# belongs together.


# %%
def draw_scene(*categories, seed=0):
    """The first scene from a seed on with two instances or more of each category: uint8 [height, width, RGB]."""
    while True:
        image, _, class_ids = shapes.make_scene(np.random.default_rng(seed), 256, 256, categories=categories)
        if all(np.count_nonzero(class_ids == 1 + shapes.CATEGORIES.index(name)) >= 2 for name in categories):
            return image
        seed += 1


def draw_references(category, count, seed=7):
    """Crops of instances of a category, each from a scene of its own."""
    rng = np.random.default_rng(seed)
    scenes = [shapes.make_scene(rng, 256, 256, categories=[category]) for _ in range(count)]
    return [shapes.reference_crops(*scene)[category][0] for scene in scenes]


train, novel = ([shapes.CATEGORIES[i - 1] for i in ids] for ids in split_classes(len(shapes.CATEGORIES), split=1))
print("train categories:", ", ".join(train))
print("novel categories:", ", ".join(novel))


def title_of(category):
    """The category, and whether it is novel."""
    return f"{category} (novel)" if category in novel else category


scene = draw_scene("cross", "heart")
cross, heart = draw_references("cross", 1)[0], draw_references("heart", 1)[0]
axes = visualize.display_images([scene, cross, heart], ["scene", "reference: cross", "reference: heart"], cols=3)
axes[0].figure.set_size_inches(8, 3)
display(axes[0].figure)

# %% [markdown]
# ## A train category
#
# Left is the reference, right the scene with the detections: each instance has a colour of its own, a mask, a box and a
# score. Both crosses should be found. Where they overlap, the mask of one reaches into the other. A box around
# something else would be a false detection; most of these score less.


# %%
def find_and_draw(references, title):
    """Detect in the scene that is set, and draw references and detections beside each other."""
    found = predictor.detect(references)
    results = scene, found["rois"], found["masks"], found["class_ids"], found["scores"]
    axes = visualize.display_results(references, *results, title=title, figsize=(7, 4.5))
    display(axes[0].figure)
    return found


predictor.set_image(scene)
found = find_and_draw([cross], "crosses")

# %% [markdown]
# What `detect` returns, in pixels of the scene and best first:

# %%
print("scores   ", ", ".join(f"{score:.2f}" for score in found["scores"]))
print("rois     ", found["rois"].dtype, found["rois"].shape, "(y1, x1, y2, x2)")
print("masks    ", found["masks"].dtype, found["masks"].shape, "(height, width, instances)")
print("class_ids", found["class_ids"].dtype, found["class_ids"].shape, "all 1: there is one category, the reference's")

# %% [markdown]
# ## A novel category
#
# The same scene, searched for hearts. The network has learned to compare, not to know categories; so it can find hearts
# from one crop of a heart. For novel categories, expect more misses and more false detections than for train
# categories.

# %%
found = find_and_draw([heart], "hearts, a novel category")

# %% [markdown]
# ## Five references
#
# Several crops of one category make one query: the network averages their embeddings. This averages out what is special
# about a single crop, such as its colour or its rotation. It is no gain for every scene: compare the scores, and what
# is found, with the image above. What is neither of the two hearts is a false detection.

# %%
hearts = draw_references("heart", 5)
found = find_and_draw(hearts, "hearts, by five references")

# %% [markdown]
# ## One scene, many queries
#
# `set_image` runs the scene through backbone and pyramid, which is the most expensive part; each `detect` after it runs
# only the rest. `encode_references` does the same for references: an embedding of a few numbers for each pyramid level,
# which can be saved and used for other scenes on another day. It is valid only with the weights that made it.

# %%
query = predictor.encode_references(hearts)
print("embedding:", query.vectors.shape, "(references, levels, channels)")

path = Path(tempfile.mkdtemp()) / "hearts.npz"
query.save(path)
again = predictor.detect(ReferenceEmbedding.load(path))
print("the same detections by the saved embedding:", np.array_equal(again["rois"], found["rois"]))

# %% [markdown]
# One scene, searched three times; the upper row has the references. The boxes move to other objects when the reference
# changes. The last one, a spiral, is not in the scene: nothing should be found there. A detection would show what looks
# similar to the network.

# %%
categories = ["cross", "heart", "spiral"]
references = [draw_references(category, 1) for category in categories]
results = [predictor.detect(crops) for crops in references]
titles = [title_of("cross"), title_of("heart"), "spiral (not in the scene)"]
axes = new_figure((9, 4.2)).subplots(2, 3, height_ratios=(1, 3))
for column, (crops, found, title) in enumerate(zip(references, results, titles, strict=True)):
    drawn = found["rois"], found["masks"], found["class_ids"], found["scores"]
    visualize.display_results(crops, scene, *drawn, title=title, ax=axes[:, column])
display(axes[0, 0].figure)

# %% [markdown]
# ## Many scenes
#
# `encode_scenes` and `detect_in` do the same for a batch: one query for each scene. Six new scenes: the upper row is
# searched for train categories, the lower row for novel ones; the references are above the scenes. Look for misses and
# false detections, too: the scenes are not selected.

# %%
categories = ["disc", "cross", "hourglass", "star", "heart", "ladder"]
others = ["key", "spiral", "triangle", "eight", "arrow", "tee"]
scenes = [draw_scene(*pair, seed=100 * i) for i, pair in enumerate(zip(categories, others, strict=True))]
references = [draw_references(category, 1) for category in categories]
results = predictor.detect_in(predictor.encode_scenes(scenes), references)
parts = [[found[key] for found in results] for key in ("rois", "masks", "class_ids", "scores")]
axes = new_figure((9, 6.4)).subplots(2, 3)
visualize.display_grid(
    references,
    scenes,
    *parts,
    category_names_list=[title_of(category) for category in categories],
    fontsize=11,
    ax=axes,
)
display(axes[0, 0].figure)

# %% [markdown]
# ## The released weights
#
# The networks of the paper find everyday things in photographs. Get `large_siamese_mrcnn_coco_full_0320.h5` from the
# [releases of the original](https://github.com/bethgelab/siamese-mask-rcnn/releases), put it into `checkpoints/`, and
# use it in place of the small network; the rest of this notebook stays as it is:
#
#     from PIL import Image
#     from siamese_mrcnn_tf import LargeConfig
#
#     predictor = SiamesePredictor(LargeConfig(), weights="../checkpoints/large_siamese_mrcnn_coco_full_0320.h5")
#     scene = np.array(Image.open("street.jpg").convert("RGB"))
#     predictor.set_image(scene)
#     find_and_draw([scene[120:260, 40:110]], "cut from the scene itself")
#
# A reference is any array of pixels, so a box cut from the scene is one. `inspect_model.ipynb` shows what happens
# inside the network, stage by stage.
