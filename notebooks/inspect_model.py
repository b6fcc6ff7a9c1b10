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
# # The network, stage by stage
#
# One detection from the reference to the masks, with the output of every stage. The package draws the scene and brings
# the weights: those of `TinyConfig`, a small network for scenes of 128 pixels. Everything here works the same with the
# released networks.

# %%
# %matplotlib inline
# %config InlineBackend.figure_formats = ["jpeg"]
import itertools
import os
import sys
from pathlib import Path

import numpy as np
from IPython.display import display

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"  # TensorFlow says less
sys.path[:0] = ["..", "."]  # runs from a checkout that is not installed

from siamese_mrcnn_tf import SiameseMaskRCNN, TinyConfig, visualize
from siamese_mrcnn_tf.data import molding
from siamese_mrcnn_tf.ops.anchors import compute_backbone_shapes
from siamese_mrcnn_tf.ops.boxes import denorm_boxes
from siamese_mrcnn_tf.shapes import dataset as shapes
from siamese_mrcnn_tf.visualize.style import new_figure

WEIGHTS = Path(shapes.__file__).with_name("siamese_mrcnn_shapes_s1.h5")  # comes with the package
LEVELS = ("P2", "P3", "P4", "P5", "P6")

# %% [markdown]
# ## Model
#
# `tensor_names` lists the inner tensors that `run_graph` gives by name: feature maps of scene (`img_`) and references
# (`tgt_`), embedding, matched maps, RPN, proposals, heads. What has no name is reached by its layer, as in
# `model.keras_model.get_layer("ROI").output`.

# %%
config = TinyConfig()
model = SiameseMaskRCNN("inference", config, model_dir="logs")
model.load_weights(WEIGHTS)
names = model.tensor_names
for start in range(0, len(names), 6):
    print(", ".join(names[start : start + 6]))

# %% [markdown]
# ## Scene and references
#
# The scene has crosses and hearts. The search is for crosses. Two more references serve for comparison: a heart, which
# is in the scene too, of a novel category; and a spiral, which is not in the scene. The three crops have the same
# colours, so that only their shapes differ. The images are shown as the network takes them: resized, and padded to a
# square where they are none. From the pixels a mean is then subtracted.


# %%
def draw_scene(*categories):
    """The first seeded scene with two instances or more of each category: uint8 [height, width, RGB]."""
    for seed in itertools.count():
        image, _, class_ids = shapes.make_scene(np.random.default_rng(seed), 256, 256, categories=categories)
        if all(np.count_nonzero(class_ids == 1 + shapes.CATEGORIES.index(name)) >= 2 for name in categories):
            return image


def draw_reference(category):
    """The crop of an instance in another scene."""
    other = shapes.make_scene(np.random.default_rng(7), 256, 256, categories=[category])
    return shapes.reference_crops(*other)[category][0]


scene = draw_scene("cross", "heart")
crops = {name: draw_reference(name) for name in ("cross", "heart", "spiral")}
molded, image_metas, windows = model.mold_inputs([scene])
image = molding.unmold_image(molded[0], config)  # all boxes below are in pixels of this
shown = [image, *(molding.resize_reference(crop, config)[0] for crop in crops.values())]
axes = visualize.display_images(shown, ["scene", *(f"reference: {name}" for name in crops)])
axes[0].figure.set_size_inches(9, 2.6)
display(axes[0].figure)


# %% [markdown]
# ## One call for all of them
#
# `run_graph` takes a query for each scene, as `detect` does, and gives the named tensors of all of them: here the same
# scene with each of the three references. A line for each tensor says its shape; the first axis is that of the queries.

# %%
OUTPUTS = [
    *("tgt_P2", "tgt_P3", "tgt_P4", "target_embedding", *(f"matched_{level}" for level in LEVELS)),
    *("rpn_class", "pre_nms_scores", "pre_nms_anchors", "refined_anchors", "refined_anchors_clipped", "ROI"),
    *("roi_levels", "roi_align_classifier", "mrcnn_class", "mrcnn_bbox", "refined_rois", "mrcnn_detection"),
    *("roi_align_mask", "mrcnn_mask"),
]
values = model.run_graph([[crop] for crop in crops.values()], [scene] * len(crops), OUTPUTS)
inner = {name: {key: array[i] for key, array in values.items()} for i, name in enumerate(crops)}
for key, array in values.items():
    print(f"{key:24} {array.shape}")

# %% [markdown]
# ## Embedding of a reference
#
# The reference goes through the same backbone and pyramid as the scene. Of each pyramid level only the average over all
# places is kept: a vector of as many numbers as the level has channels. Above, the maps of P2 to P4 of the cross (mean
# over channels), which still know places; the average does not. Below, the vectors of the three references, a row for
# each level. They are alike in much, having colour and texture in common; the channels in which they differ tell the
# shapes apart.


# %%
maps = {key: inner["cross"][key] for key in ("tgt_P2", "tgt_P3", "tgt_P4")}
strengths = [array.mean(axis=-1) for array in maps.values()]
titles = [f"{key}, {array.shape[0]} x {array.shape[1]}" for key, array in maps.items()]
axes = visualize.display_images([shown[1], *strengths], ["reference", *titles], cmap="inferno", interpolation="nearest")
axes[0].figure.set_size_inches(9, 2.6)
display(axes[0].figure)

embeddings = {name: tensors["target_embedding"] for name, tensors in inner.items()}
figure = new_figure((9, 3.2))
for place, (name, vectors) in enumerate(embeddings.items(), 1):
    ax = figure.add_subplot(3, 1, place)
    drawn = ax.imshow(vectors, aspect="auto", cmap="viridis", vmin=0, vmax=max(v.max() for v in embeddings.values()))
    ax.set_yticks(range(len(LEVELS)), LEVELS, fontsize=7)
    ax.set_xticks([])
    ax.set_title(name, fontsize=9)
figure.colorbar(drawn, ax=figure.axes)
display(figure)

# %% [markdown]
# ## Matched maps
#
# At each level the scene's map is compared with the reference's vector: a 1x1 convolution of the map beside its
# absolute difference from the vector. The heat is the mean of the absolute values over all channels, drawn over the
# scene. P2 is the finest map; P6 has four places.

# %%
axes = visualize.display_matching(scene, [inner["cross"][f"matched_{level}"] for level in LEVELS], cols=5)
axes[0].figure.set_size_inches(11, 2.6)
display(axes[0].figure)

# %% [markdown]
# ## Another reference, other maps
#
# What the reference changes is small beside what the scene itself gives, so the maps for two references look alike.
# Here their difference is drawn: where the matched map for the cross differs from that for the heart, and for the
# spiral. Heat shows where the reference matters most to the network at that level; dark places are treated alike
# whatever is searched for.

# %%
differences, names = [], []
for other in ("heart", "spiral"):
    for level in LEVELS[1:4]:
        differences.append(inner["cross"][f"matched_{level}"] - inner[other][f"matched_{level}"])
        names.append(f"cross or {other}: {level}")
axes = visualize.display_matching(scene, differences, names, cols=3)
axes[0].figure.set_size_inches(8, 5)
display(axes[0].figure)

# %% [markdown]
# ## Scores of the RPN
#
# For each anchor, a box of fixed size at a fixed place, the RPN gives the probability that it holds an object of the
# target category. A row for each reference shows the highest score at each place of P3 to P5; each image has a scale of
# its own. Objects are brighter than the background, and those of the wanted category should be brighter than the
# others. Compare the rows: the RPN proposes generously, and the heads decide.


# %%
def score_maps(rpn_class):
    """Highest score of a place, a map [h, w] for each level."""
    shapes_of_levels = compute_backbone_shapes(config, config.IMAGE_SHAPE)
    per_place = rpn_class[:, 1].reshape(-1, len(config.RPN_ANCHOR_RATIOS)).max(axis=1)
    ends = np.cumsum([height * width for height, width in shapes_of_levels])[:-1]
    return [part.reshape(shape) for part, shape in zip(np.split(per_place, ends), shapes_of_levels, strict=True)]


scores, names = [], []
for name in crops:
    scores += score_maps(inner[name]["rpn_class"])[1:4]
    names += [f"{name}: {level}" for level in LEVELS[1:4]]
axes = visualize.display_matching(scene, scores, names, cols=3)
axes[0].figure.set_size_inches(8, 7.4)
display(axes[0].figure)

# %% [markdown]
# ## Anchors before refinement
#
# From here on, the search is for crosses alone. The anchors with the highest scores, as they are: boxes on a grid, of
# five sizes and three shapes. They crowd around objects: those of the wanted category, and others that the RPN leaves
# to the heads. In the histogram the scores of all anchors, on a logarithmic axis: almost all are near 0.

# %%
values = inner["cross"]


def pixels(boxes_norm):
    """Boxes in pixels of the molded image, as numbers with fractions."""
    height, width = config.IMAGE_SHAPE[:2]
    return boxes_norm * np.array([height - 1, width - 1, height - 1, width - 1]) + np.array([0, 0, 1, 1])


figure = new_figure((9, 3.6))
ax = figure.add_subplot(1, 2, 1)
best = pixels(values["pre_nms_anchors"][:40])
visualize.display_boxes(image, [(best, "yellow", {"linewidth": 0.8})], "the 40 best anchors", ax=ax)
ax = figure.add_subplot(1, 2, 2)
ax.hist(values["rpn_class"][:, 1], bins=50, range=(0, 1), log=True)
ax.set(xlabel="score", ylabel="anchors", title=f"{len(values['rpn_class'])} anchors")
display(figure)

# %% [markdown]
# ## Refined anchors
#
# The RPN also says how each anchor is to be moved and stretched. Left, the best anchors (dashed) and what they become
# (solid): they close around objects, or parts of them. Right, the same boxes clipped to the image, which are the
# proposals before non-maximum suppression, the first of very many.

# %%
figure = new_figure((9, 4.3))
ax = figure.add_subplot(1, 2, 1)
anchors, refined = pixels(values["pre_nms_anchors"]), pixels(values["refined_anchors"])
visualize.draw_boxes(image, anchors[:12:2], refined[:12:2], title="anchors and what they become", ax=ax)
before = pixels(values["refined_anchors_clipped"])
ax = figure.add_subplot(1, 2, 2)
visualize.display_boxes(image, [(before[:100], "yellow", {"linewidth": 0.6})], "the 100 best before NMS", ax=ax)
display(figure)

# %% [markdown]
# ## Proposals after non-maximum suppression
#
# Of boxes that overlap much, only the one that scores best is kept. The best ones (left) now spread over more objects,
# because the doubles are gone. The number that is kept is fixed; at its end (right, all of them) are boxes that hold
# nothing. The heads have to sort them out.

# %%
rois = values["ROI"][values["ROI"].any(axis=1)]  # without zero padding
figure = new_figure((9, 4.3))
groups = ((rois[:20], f"the 20 best of {len(rois)} proposals"), (rois, "all of them"))
for place, (part, title) in enumerate(groups, 1):
    ax = figure.add_subplot(1, 2, place)
    visualize.display_boxes(image, [(pixels(part), "yellow", {"linewidth": 0.8})], title, ax=ax)
display(figure)

# %% [markdown]
# ## Rois by pyramid level
#
# A proposal is pooled from the pyramid level that fits its size: small ones from P2, large ones from P5. One panel a
# level, which may be empty. The last image shows what pooling gives for the best proposals: maps of 7 x 7, here the
# mean of the absolute values over all channels. The heads see nothing else.

# %%
levels = values["roi_levels"][: len(rois)]
figure = new_figure((10, 3))
for place, level in enumerate(range(2, 6), 1):
    ax = figure.add_subplot(1, 4, place)
    part = pixels(rois[levels == level])
    visualize.display_boxes(image, [(part, "yellow", {"linewidth": 0.7})], f"P{level}: {len(part)} rois", ax=ax)
display(figure)

pooled = np.abs(values["roi_align_classifier"][:8]).mean(axis=-1)
axes = visualize.display_images(pooled, [f"roi {i}, P{levels[i]}" for i in range(8)], cols=8, cmap="inferno")
axes[0].figure.set_size_inches(10, 1.7)
display(axes[0].figure)

# %% [markdown]
# ## Class scores
#
# The class head gives each proposal the probability that it shows what the reference shows. Left, all of them, in
# descending order of the RPN's score: the second look is much stricter, and its order is another one. The line is
# `DETECTION_MIN_CONFIDENCE`. Right, the proposals above the line, coloured by their score.

# %%
match_scores = values["mrcnn_class"][: len(rois), 1]
kept = match_scores >= config.DETECTION_MIN_CONFIDENCE
figure = new_figure((9.5, 4))
ax = figure.add_subplot(1, 2, 1)
ax.scatter(np.arange(len(rois)), match_scores, s=10, c=np.where(kept, "tab:red", "tab:gray"))
ax.axhline(config.DETECTION_MIN_CONFIDENCE, color="black", linewidth=0.8, linestyle="dashed")
ax.set(xlabel="proposal, best of the RPN first", ylabel="probability of a match", ylim=(0, 1))
ax.set_title(f"{np.count_nonzero(kept)} of {len(rois)} proposals above the line")
ax = figure.add_subplot(1, 2, 2)
group = pixels(rois[kept]), [(1.0, score, 0.0) for score in match_scores[kept]], {"linewidth": 1.2}
visualize.display_boxes(image, [group], "proposals above the line, yellow is best", ax=ax)
display(figure)

# %% [markdown]
# ## Refined boxes
#
# The box head moves each proposal once more. Left, the proposals that score best (dashed) and what becomes of them
# (solid), with a line between their corners: several proposals of one object end in nearly the same box. Right,
# `draw_rois` with proposals of all kinds: those of background are gray.

# %%
refined_rois = values["refined_rois"][: len(rois)]
figure = new_figure((9, 4.5))
ax = figure.add_subplot(1, 2, 1)
best = np.argsort(-match_scores)[:8]
title = "the 8 best proposals and their refined boxes"
visualize.draw_boxes(image, pixels(rois[best]), pixels(refined_rois[best]), title=title, ax=ax)
ax = figure.add_subplot(1, 2, 2)
visualize.draw_rois(image, pixels(rois), pixels(refined_rois), None, kept.astype(int), None, limit=30, ax=ax)
ax.title.set_fontsize(9)
display(figure)

# %% [markdown]
# ## Detections
#
# The refined boxes that score enough, without near duplicates, best first. The dotted boxes are those that non-maximum
# suppression dropped; an object may keep a second box where the two overlap less than `DETECTION_NMS_THRESHOLD`.

# %%
detections = values["mrcnn_detection"]
detections = detections[detections[:, 4] > 0]
final = pixels(detections[:, :4])
is_double = np.array(
    [np.abs(final - box).max(axis=1, initial=0).min(initial=np.inf) > 0.01 for box in pixels(refined_rois)]
)
dropped = pixels(refined_rois[kept & is_double])
figure = new_figure((5, 5))
ax = figure.add_subplot()
captions = [f"{score:.2f}" for score in detections[:, 5]] + [""] * len(dropped)
visibilities = [2] * len(final) + [0] * len(dropped)
title = f"{len(final)} detections, {len(dropped)} near duplicates dropped"
visualize.draw_boxes(image, np.concatenate([final, dropped]), None, None, captions, visibilities, title, ax=ax)
display(figure)

# %% [markdown]
# ## Masks
#
# The mask head pools each detected box once more and gives a map of 28 x 28 probabilities of the object inside its box.
# Upper row, these maps for the best detections; below, the same resized to their boxes, cut at 0.5, and painted into
# the image. Corners and holes that 28 x 28 cells cannot show are lost here.

# %%
count = min(len(detections), 5)
mini_masks = values["mrcnn_mask"][:count]
integers = denorm_boxes(detections[:count, :4], config.IMAGE_SHAPE[:2])
full = [molding.unmold_mask(mask, box, config.IMAGE_SHAPE) for mask, box in zip(mini_masks, integers, strict=True)]
full = [visualize.apply_mask(image.copy(), mask, (1.0, 1.0, 0.0), alpha=0.6) for mask in full]
titles = [f"score {score:.2f}" for score in detections[:count, 5]] + [""] * count
axes = visualize.display_images([*mini_masks, *full], titles, cols=count, cmap="Blues_r", interpolation="nearest")
axes[0].figure.set_size_inches(2 * count, 4.4)
display(axes[0].figure)

# %% [markdown]
# ## The result
#
# `detect` does all of this, and gives boxes and masks in pixels of the original image. Beside the cross the same search
# with the heart and with the spiral: the scene was the same, and so was every weight; only the reference was another
# one. Nothing is right for the spiral, which is not there.

# %%
results = [model.detect([[crop]], [scene])[0] for crop in crops.values()]
titles = ["cross", "heart (novel)", "spiral (not in the scene)"]
axes = new_figure((9, 4.2)).subplots(2, 3, height_ratios=(1, 3))
for column, (crop, found, title) in enumerate(zip(crops.values(), results, titles, strict=True)):
    drawn = found["rois"], found["masks"], found["class_ids"], found["scores"]
    visualize.display_results([crop], scene, *drawn, title=title, ax=axes[:, column])
display(axes[0, 0].figure)
