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
# One detection from the reference to the masks, with the output of every stage beside the ground truth. The package
# draws the scene and brings the weights: those of `TinyConfig`, a small network for scenes of 128 pixels, whose
# settings `inspect_data` lists. Everything here works the same with the released networks.

# %%
# %matplotlib inline
# %config InlineBackend.figure_formats = ["jpeg"]
import functools
import itertools
import os
import sys
from pathlib import Path

import numpy as np
from IPython.display import display
from matplotlib.colors import Normalize, PowerNorm

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"  # TensorFlow says less
sys.path[:0] = ["..", "."]  # runs from a checkout that is not installed

from siamese_mrcnn_tf import SiameseMaskRCNN, TinyConfig, visualize
from siamese_mrcnn_tf.data import molding, resize
from siamese_mrcnn_tf.ops.anchors import compute_backbone_shapes, pyramid_anchors
from siamese_mrcnn_tf.ops.boxes import compute_overlaps, denorm_boxes, extract_bboxes
from siamese_mrcnn_tf.shapes import dataset as shapes
from siamese_mrcnn_tf.visualize.stages import mask_overlaps
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
# colours, so that mostly their shapes differ. The images are shown as the network takes them: resized, and padded to a
# square where they are none. From the pixels a mean is then subtracted.


# %%
def draw_scenes(*categories, max_overlap=1.0):
    """Seeded scenes with two instances or more of each category: (image, {category: masks})."""
    for seed in itertools.count():
        image, masks, class_ids = shapes.make_scene(np.random.default_rng(seed), 256, 256, categories=categories)
        found = {name: masks[..., class_ids == 1 + shapes.CATEGORIES.index(name)] for name in categories}
        overlaps = compute_overlaps(*[extract_bboxes(masks)] * 2) - np.eye(len(class_ids))
        if min(each.shape[-1] for each in found.values()) >= 2 and overlaps.max() < max_overlap:
            yield image, found


def draw_reference(category):
    """The crop of an instance in another scene."""
    other = shapes.make_scene(np.random.default_rng(7), 256, 256, categories=[category])
    return shapes.reference_crops(*other)[category][0]


scene, masks = next(draw_scenes("cross", "heart", max_overlap=0.03))  # boxes apart from each other
crops = {name: draw_reference(name) for name in ("cross", "heart", "spiral")}
molded, image_metas, windows = model.mold_inputs([scene])
image = molding.unmold_image(molded[0], config)  # all boxes below are in pixels of this
_, _, *resizing = resize.resize_image(scene, *molding.scene_resize_args(config))
masks = {name: resize.resize_mask(each, *resizing) for name, each in masks.items()}
truth = {name: extract_bboxes(each) for name, each in masks.items()}
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
OUTPUTS = """
    img_C1 img_C2 img_C3 img_C4 img_C5 tgt_P2 tgt_P3 tgt_P4 target_embedding
    matched_P2 matched_P3 matched_P4 matched_P5 matched_P6 rpn_class rpn_bbox
    pre_nms_scores pre_nms_anchors refined_anchors refined_anchors_clipped ROI roi_levels roi_align_classifier
    mrcnn_class mrcnn_bbox refined_rois mrcnn_detection roi_align_mask mrcnn_mask
""".split()
values = model.run_graph([[crop] for crop in crops.values()], [scene] * len(crops), OUTPUTS)
inner = {name: {key: array[i] for key, array in values.items()} for i, name in enumerate(crops)}
for key, array in values.items():
    print(f"{key:24} {array.shape}")

# %% [markdown]
# ## Backbone
#
# Upper row, the five stages of the backbone for the scene: the mean of the absolute values over all channels. From C2
# on each stage has half the rows and columns of the one before. C1 follows outlines; in C3 and C4 the brightest places
# lie on objects; C5 has only 16 places. Lower row, the six channels of C3 that vary most over the scene. They look for
# different things: the first is bright on most of the background and dark on the objects, others are bright in few
# places only, at outlines.

# %%
values = inner["cross"]  # the scene's own maps are the same for each reference
stages = [f"img_C{stage}" for stage in range(1, 6)]
axes = visualize.display_matching(scene, [values[stage] for stage in stages], [stage[4:] for stage in stages], cols=5)
axes[0].figure.set_size_inches(11, 2.6)
display(axes[0].figure)

channels = values["img_C3"].std(axis=(0, 1)).argsort()[:-7:-1]
titles = [f"C3, channel {channel}" for channel in channels]
axes = visualize.display_images(values["img_C3"][..., channels].transpose(2, 0, 1), titles, cols=6, cmap="inferno")
axes[0].figure.set_size_inches(11, 2.1)
display(axes[0].figure)

# %% [markdown]
# ## Embedding of a reference
#
# The reference goes through the same backbone and pyramid as the scene. Of each pyramid level only the average over all
# places is kept: a vector of as many numbers as the level has channels. Above, the maps of P2 to P4 of the cross (mean
# over channels), which still know places; the average does not. Below, the vectors of the three references, a row for
# each level, with a colour scale that shows small numbers too. They are alike in much, having colour and texture in
# common; the channels in which they differ tell the shapes apart.


# %%
maps = {key: inner["cross"][key] for key in ("tgt_P2", "tgt_P3", "tgt_P4")}
strengths = [array.mean(axis=-1) for array in maps.values()]
titles = [f"{key}, {array.shape[0]} x {array.shape[1]}" for key, array in maps.items()]
axes = visualize.display_images([shown[1], *strengths], ["reference", *titles], cmap="inferno", interpolation="nearest")
axes[0].figure.set_size_inches(9, 2.6)
display(axes[0].figure)

embeddings = {name: tensors["target_embedding"] for name, tensors in inner.items()}
scale = PowerNorm(0.5, vmin=0, vmax=max(vectors.max() for vectors in embeddings.values()))  # shows small ones too
figure = new_figure((9, 3.2))
for place, (name, vectors) in enumerate(embeddings.items(), 1):
    ax = figure.add_subplot(3, 1, place)
    drawn = ax.imshow(vectors, aspect="auto", cmap="viridis", norm=scale)
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
# Here the maps for two references are subtracted: the matched map for the cross less that for the heart, and less that
# for the spiral. Bright places are those where the network sees most of a difference at that level. The reference
# changes the map everywhere, as the colour bars begin far above 0; the print compares the mean difference with the mean
# of the map itself.

# %%
differences, names = [], []
for other in ("heart", "spiral"):
    for level in LEVELS[1:4]:
        differences.append(inner["cross"][f"matched_{level}"] - inner[other][f"matched_{level}"])
        names.append(f"cross or {other}: {level}")
        share = np.abs(differences[-1]).mean() / np.abs(inner["cross"][f"matched_{level}"]).mean()
        print(f"{names[-1]}: {share:.0%} of the map")
axes = visualize.display_matching(scene, differences, names, cols=3)
axes[0].figure.set_size_inches(8, 5)
display(axes[0].figure)

# %% [markdown]
# ## Scores of the RPN
#
# For each anchor, a box of fixed size at a fixed place, the RPN gives the probability that it holds an object of the
# target category. For each reference the image shows the highest score at each place, of all levels, from 0 (black) to
# 1 (light yellow); large squares are places of coarse levels. The table has the highest score of the anchors that
# overlap an object by 0.5 or more. With cross and heart alike, all four objects score high: the RPN tells objects from
# background, and hardly one category from another. With the spiral some scores are much lower, and none is near 0. The
# RPN proposes generously, and the heads decide.

# %%
level_shapes = compute_backbone_shapes(config, config.IMAGE_SHAPE)
heats = [visualize.score_map(inner[name]["rpn_class"][:, 1], level_shapes) for name in crops]
axes = visualize.display_images([image, *heats], ["scene", *crops], cmap="inferno", norm=Normalize(0, 1))
axes[0].figure.set_size_inches(9, 2.6)
display(axes[0].figure)

overlaps = {name: compute_overlaps(pyramid_anchors(config, config.IMAGE_SHAPE), boxes) for name, boxes in truth.items()}
print("reference   ", *(f"{name} {i}" for name, boxes in truth.items() for i in range(1, len(boxes) + 1)), sep="  ")
for name in crops:
    scores = inner[name]["rpn_class"][:, 1]
    best = [scores[column >= 0.5].max() for each in overlaps.values() for column in each.T]
    print(f"{name:12}", *(f"{score:7.2f}" for score in best), sep="  ")

# %% [markdown]
# ## Anchors before refinement
#
# From here on, the search is for crosses alone. The anchors with the highest scores, as they are: boxes on a grid, of
# five sizes and three shapes. They crowd around all four objects, the hearts too. In the histogram the scores of all
# anchors, on a logarithmic axis: almost all are near 0.

# %%
pixels = functools.partial(denorm_boxes, shape=config.IMAGE_SHAPE)
anchors, refined = pixels(values["pre_nms_anchors"]), pixels(values["refined_anchors"])  # best first
figure = new_figure((9, 3.6))
ax = figure.add_subplot(1, 2, 1)
visualize.display_boxes(image, [(anchors[:40], "yellow", {"linewidth": 0.8})], "the 40 best anchors", ax=ax, margin=20)
ax = figure.add_subplot(1, 2, 2)
ax.hist(values["rpn_class"][:, 1], bins=50, range=(0, 1), log=True)
ax.set(xlabel="score", ylabel="anchors", title=f"{len(values['rpn_class'])} anchors")
display(figure)

# %% [markdown]
# ## Refined anchors
#
# The RPN also says how each anchor is to be moved and stretched. Left, some of the best anchors (dashed) and what they
# become (solid), with the score. Most close around an object; the one of the lower left holds most of a heart and a
# part of the other one. Right, the best of these boxes clipped to the image, which are the proposals before non-maximum
# suppression.

# %%
few = range(0, 12, 2)
figure = new_figure((9, 4.3))
ax = figure.add_subplot(1, 2, 1)
captions = [f"{values['pre_nms_scores'][i]:.2f}" for i in few]
visualize.draw_boxes(image, anchors[few], refined[few], None, captions, title="anchors and what they become", ax=ax)
clipped = pixels(values["refined_anchors_clipped"])
ax = figure.add_subplot(1, 2, 2)
visualize.display_boxes(image, [(clipped[:100], "yellow", {"linewidth": 0.6})], "the 100 best before NMS", ax=ax)
display(figure)

# %% [markdown]
# ## Box deltas
#
# The moves themselves: shifts (dy, dx) relative to the sides of the anchor, and logarithms of how much height and width
# grow. Filled, all anchors; line, the 100 best, each histogram with an area of 1. Most of the best ones move by a small
# part of their sides, and they keep their size within a factor of 3. The deltas of the others are much larger, and many
# of them mean nothing: in training only positive anchors have a target.

# %%
deltas = values["rpn_bbox"] * config.RPN_BBOX_STD_DEV
best = values["rpn_class"][:, 1].argsort()[:-101:-1]
axes = visualize.plot_box_deltas({"all anchors": deltas, "the 100 best": deltas[best]})
display(axes[0].figure)

# %% [markdown]
# ## Proposals after non-maximum suppression
#
# Of boxes that overlap much, only the one that scores best is kept. Left, the best ones with their scores: they are
# spread over all objects, with two or three boxes for some. The number that is kept is fixed; right, all of them, of
# which many hold nothing. The heads have to sort them out.

# %%
rois = values["ROI"][values["ROI"].any(axis=1)]  # without zero padding
origins = [np.abs(values["refined_anchors_clipped"] - roi).max(axis=1).argmin() for roi in rois]
captions = [f"{score:.2f}" for score in values["pre_nms_scores"][origins]]
figure = new_figure((9, 4.3))
ax = figure.add_subplot(1, 2, 1)
visualize.draw_boxes(
    image, pixels(rois[:8]), None, None, captions[:8], None, f"the 8 best of {len(rois)} proposals", ax
)
ax = figure.add_subplot(1, 2, 2)
visualize.display_boxes(image, [(pixels(rois), "yellow", {"linewidth": 0.8})], "all of them", ax=ax)
display(figure)

# %% [markdown]
# Where the proposals are and how large, beside the crosses and the hearts. Centres are all over the scene but for its
# border; most sides are between 35 and 70 pixels, as those of the objects, and a few boxes are as large as the scene.

# %%
axes = visualize.plot_box_places({"proposals": pixels(rois), **truth}, config.IMAGE_SHAPE)
axes[0].figure.set_size_inches(8, 3.8)
display(axes[0].figure)

# %% [markdown]
# ## Recall of the RPN
#
# An instance that no proposal covers is lost for the heads. Recall is the share of the crosses that a box overlaps by
# 0.5 or more (solid), or by 0.7 or more (dashed), here of 24 scenes. The numbers of the legend are those of all boxes.
# Anchors as they are cover nearly all crosses by half, but few of them well; after refinement nearly all are covered
# well. Non-maximum suppression leaves 100 of 4092 boxes, which suffice at 0.5 and cost some recall at 0.7. For the same
# number of boxes it gains recall, as none are spent on doubles.

# %%
others = list(itertools.islice(draw_scenes("cross", "heart"), 24))
keys = {"pre_nms_anchors": "anchors", "refined_anchors_clipped": "refined anchors", "ROI": "proposals after NMS"}
found = model.run_graph([[crops["cross"]]] * len(others), [each for each, _ in others], list(keys))
crosses = [extract_bboxes(resize.resize_mask(each["cross"], *resizing)) for _, each in others]
print(f"{sum(map(len, crosses))} crosses in {len(crosses)} scenes")
axes = visualize.plot_recall({name: pixels(found[key]) for key, name in keys.items()}, crosses)
display(axes.figure)

# %% [markdown]
# ## Rois by pyramid level
#
# A proposal is pooled from the pyramid level that fits its size: small ones from P2, large ones from P5. Only levels
# that have rois are shown: for a small scene P2 has nearly all of them. Below, the best proposals and what pooling
# gives for them: maps of 7 x 7, here the mean of the absolute values over all channels. The heads see nothing else.

# %%
levels = values["roi_levels"][: len(rois)]
used = np.unique(levels)
figure = new_figure((3.4 * len(used), 3.6))
for ax, level in zip(np.ravel(figure.subplots(1, len(used))), used, strict=True):
    part = pixels(rois[levels == level])
    visualize.display_boxes(image, [(part, "yellow", {"linewidth": 0.7})], f"P{level}: {len(part)} rois", ax=ax)
display(figure)

pooled = np.abs(values["roi_align_classifier"][:8]).mean(axis=-1)
parts = [image[y1:y2, x1:x2] for y1, x1, y2, x2 in pixels(rois[:8])]
titles = [f"roi {i}, P{levels[i]}" for i in range(8)]
axes = visualize.display_images([*parts, *pooled], [*titles, *[""] * 8], cols=8, cmap="inferno")
for ax in axes[:8]:
    ax.set_aspect("auto")  # pooling makes a square of each roi
axes[0].figure.set_size_inches(11, 3)
display(axes[0].figure)

# %% [markdown]
# ## Class scores
#
# The class head gives each proposal the probability that it shows what the reference shows. Left, all of them, in
# descending order of the RPN's score: the second look is much stricter, and its order is another one. The line is
# `DETECTION_MIN_CONFIDENCE`. Right, proposals drawn at random: in colour and with the score where they are above the
# line, dotted and gray where the head finds background. Only crosses are left, the hearts are background.

# %%
match_scores = values["mrcnn_class"][: len(rois), 1]
kept = match_scores >= config.DETECTION_MIN_CONFIDENCE
figure = new_figure((10.5, 4.6))
left, right = figure.subplots(1, 2)
left.scatter(np.arange(len(rois)), match_scores, s=10, c=np.where(kept, "tab:red", "tab:gray"))
left.axhline(config.DETECTION_MIN_CONFIDENCE, color="black", linewidth=0.8, linestyle="dashed")
left.set(xlabel="proposal, best of the RPN first", ylabel="probability of a match", ylim=(0, 1))
left.set_title(f"{np.count_nonzero(kept)} of {len(rois)} proposals above the line")
some = np.random.default_rng(0).choice(len(rois), 20, replace=False)
some = some[np.argsort(kept[some])]  # those above the line are drawn last
captions = [f"{match_scores[i]:.2f}" if kept[i] else "" for i in some]
title = f"{len(some)} random proposals, {np.count_nonzero(kept[some])} of them above the line"
visualize.draw_boxes(image, pixels(rois[some]), None, None, captions, np.where(kept[some], 2, 0), title, right)
display(figure)

# %% [markdown]
# ## Refined boxes and detections
#
# The box head moves each proposal once more. Left, some proposals above the line before (dashed) and after (solid):
# those of one object end in nearly the same box. Right, dotted, the refined boxes of all proposals above the line.
# Non-maximum suppression keeps the best one of each object, and with `DETECTION_REFINEMENTS` the heads look at it again
# and move it once more: solid, with the final score. An object may keep a second box where the two overlap less than
# `DETECTION_NMS_THRESHOLD`; here none does.

# %%
refined_rois = pixels(values["refined_rois"][: len(rois)])
detections = values["mrcnn_detection"]
detections = detections[detections[:, 4] > 0]
figure = new_figure((10.5, 5))
left, right = figure.subplots(1, 2)
some = np.random.default_rng(2).choice(np.flatnonzero(kept), 5, replace=False)
captions = [f"{match_scores[i]:.2f}" for i in some]
title = f"{len(some)} of the proposals above the line, refined"
visualize.draw_boxes(image, pixels(rois[some]), refined_rois[some], None, captions, None, title, left)
above, final = refined_rois[kept], pixels(detections[:, :4])
captions = [""] * len(above) + [f"{score:.2f}" for score in detections[:, 5]]
visibilities = [0] * len(above) + [2] * len(final)
title = f"{len(final)} detections of {len(above)} boxes"
visualize.draw_boxes(image, np.concatenate([above, final]), None, None, captions, visibilities, title, right)
display(figure)

# %% [markdown]
# ## Masks
#
# The mask head pools each detected box once more and gives a map of 28 x 28 probabilities of the object inside its box.
# A column for each detection. From above: the ground truth of the object in the box, resized to the same 28 x 28, as in
# training; the probabilities; the ground truth in the image; the probabilities resized to the box and cut at 0.5, with
# the overlap of the two masks. The predicted outlines are rounder than the true ones and a little off.

# %%
count, every = len(detections), range(len(detections))
mini_masks = values["mrcnn_mask"][:count]
predicted = [molding.unmold_mask(mask, box, config.IMAGE_SHAPE) for mask, box in zip(mini_masks, final, strict=True)]
predicted = np.stack(predicted, axis=-1)
overlaps = mask_overlaps(predicted, masks["cross"])
nearest = overlaps.argmax(axis=1)
true = masks["cross"][..., nearest]
true_minis = resize.minimize_mask(final, true, config.MASK_SHAPE).transpose(2, 0, 1)
colors = visualize.contrasting_colors(image, true)
painted = [
    visualize.apply_mask(image.copy(), each[..., i], colors[i], 0.8) for each in (true, predicted) for i in every
]
titles = [*["ground truth"] * count, *(f"score {score:.2f}" for score in detections[:, 5])]
titles += [*[""] * count, *(f"IoU {overlap:.2f}" for overlap in overlaps.max(axis=1))]
rows = [*true_minis, *mini_masks, *painted]
axes = visualize.display_images(rows, titles, cols=count, cmap="Blues_r", interpolation="nearest")
axes[0].figure.set_size_inches(2.6 * count, 10)
display(axes[0].figure)

# %% [markdown]
# ## The result
#
# `detect` does all of this, and gives boxes and masks in pixels of the original image. Beside the cross the same search
# with the heart and with the spiral: the scene was the same, and so was every weight; only the reference was another
# one. Both crosses and both hearts are found, and nothing for the spiral, which is not there.

# %%
results = [model.detect([[crop]], [scene])[0] for crop in crops.values()]
titles = ["cross", "heart (novel)", "spiral (not in the scene)"]
axes = new_figure((9, 4.2)).subplots(2, 3, height_ratios=(1, 3))
for column, (crop, found, title) in enumerate(zip(crops.values(), results, titles, strict=True)):
    drawn = found["rois"], found["masks"], found["class_ids"], found["scores"]
    colors = visualize.contrasting_colors(scene, found["masks"])
    visualize.display_results([crop], scene, *drawn, title=title, ax=axes[:, column], colors=colors)
display(axes[0, 0].figure)
