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
# # Data: from images to network inputs
#
# A data set in COCO's layout is loaded, and shown at every stage up to what the heads are trained on: masks,
# references, resizing, mini masks, anchors and their targets, batches, augmentation, training rois and their targets.
# The package draws the scenes; put the folder of your own data set in place of `folder` to see yours.

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

from siamese_mrcnn_tf import IndexedCocoDataset, SiameseMaskRCNN, TinyConfig, get_one_target, visualize
from siamese_mrcnn_tf.data import molding, resize
from siamese_mrcnn_tf.data.augmentation import fliplr, imgaug_augmentation, import_imgaug
from siamese_mrcnn_tf.data.checks import check_dataset
from siamese_mrcnn_tf.data.data_generator import INPUT_NAMES, TrainingSamples, load_image_gt, siamese_data_generator
from siamese_mrcnn_tf.data.dataset import split_classes
from siamese_mrcnn_tf.data.rpn_targets import build_rpn_targets
from siamese_mrcnn_tf.ops.anchors import compute_backbone_shapes, pyramid_anchors
from siamese_mrcnn_tf.ops.boxes import apply_box_deltas, compute_overlaps, denorm_boxes
from siamese_mrcnn_tf.shapes import dataset as shapes
from siamese_mrcnn_tf.visualize.samples import draw_sample
from siamese_mrcnn_tf.visualize.style import new_figure

# %% [markdown]
# ## Configuration
#
# All sizes, numbers and thresholds below come from a configuration. `display` prints its settings in alphabetical
# order. These are the ones of `TinyConfig`, a small network for scenes of 128 pixels.

# %%
config = TinyConfig()
config.display()

# %% [markdown]
# ## A data set
#
# `load_coco` reads `annotations/instances_train2017.json` and finds the images in `train2017/`; `prepare` numbers
# images and classes (images from 0, classes from 1; 0 is the background), and `build_indices` lists the images of each
# class. Several subsets may be loaded into one data set before `prepare`.

# %%
folder = tempfile.mkdtemp()
shapes.write_coco(folder, train=60, val=1, size=200, seed=5, square=False)

dataset = IndexedCocoDataset()
dataset.load_coco(folder, "train")
dataset.prepare()
dataset.build_indices()
print(f"{dataset.num_images} images, {dataset.num_classes - 1} classes and the background")
print(f"image 0: {dataset.image_info[0]['height']} x {dataset.image_info[0]['width']} pixels,", end=" ")
print("with", ", ".join(dataset.class_names[class_id] for class_id in dataset.image_category_index[0]))

# %% [markdown]
# ## Classes and the category split
#
# In a category split every fourth class is novel: in split 1 the classes 1, 5, 9, ... Novel classes are never trained:
# their instances are background in training, and never a reference. `ACTIVE_CLASSES` are those that are trained or
# evaluated. `check_dataset` counts what there is of each class and lists what is broken.

# %%
dataset.ACTIVE_CLASSES, _ = split_classes(dataset.num_classes - 1, split=1)
report = check_dataset(dataset, config=config, split=1, progress=False)
print(report.text())

# %% [markdown]
# ## Images with masks
#
# Each row is an image and the masks of its classes, the largest first, with a shade for each instance. A mask covers
# the visible part of an instance: where two overlap, the hidden part belongs to the one in front.

# %%
by_classes = sorted(dataset.image_ids, key=lambda image_id: -len(dataset.image_category_index[image_id]))
for image_id in by_classes[:3]:
    masks, class_ids = dataset.load_mask(image_id)
    image = dataset.load_image(image_id)
    axes = visualize.display_top_masks(image, masks, class_ids, dataset.class_names, limit=3)
    axes[0].figure.set_size_inches(10, 2.8)
    display(axes[0].figure)

# %% [markdown]
# An image with masks, boxes and names. Boxes are (y1, x1, y2, x2) in pixels, tight around the masks.
# `contrasting_colors` chooses a colour for each instance that is far from its own and from what is around it.

# %%
image_id = 3
image, (masks, class_ids) = dataset.load_image(image_id), dataset.load_mask(image_id)
boxes = shapes.extract_bboxes(masks)
colors = visualize.contrasting_colors(image, masks)
names = dataset.class_names
axes = visualize.display_instances(image, boxes, masks, class_ids, names, figsize=(5, 5), colors=colors)
display(axes.figure)

# %% [markdown]
# ## References
#
# A query is a scene and a reference: the box of one instance of the class, cut from any image of the set. In each row
# are references of one class, drawn at random, so that an instance may come twice. They differ in size, colour and
# angle, and have their background and parts of other objects in the box. All are scaled to the same size, which blurs
# the small ones; black is the padding to a square.

# %%
rng = np.random.default_rng(0)
for class_id in rng.choice(dataset.ACTIVE_CLASSES, 3, replace=False):
    references = [get_one_target(class_id, dataset, config, rng=rng) for _ in range(6)]
    axes = visualize.display_images(references, [dataset.class_names[class_id]] + [""] * 5, cols=6)
    axes[0].figure.set_size_inches(9, 1.8)
    display(axes[0].figure)

# %% [markdown]
# ## Resizing and padding
#
# The network takes squares. A scene is scaled so that its long side fits (with the released configurations, a short
# side below `IMAGE_MIN_DIM` is scaled up as far as the long side permits), then padded with zeros. `window`, drawn in
# white, is where the image is inside its padding. Masks go through the same, by the nearest pixel; the boxes come from
# the resized masks.

# %%
image_id = min(dataset.image_ids, key=lambda image_id: dataset.image_info[image_id]["height"])  # the widest
image = dataset.load_image(image_id)
masks, class_ids = dataset.load_mask(image_id)
molded, window, scale, padding, crop = resize.resize_image(image, *molding.scene_resize_args(config))
molded_masks = resize.resize_mask(masks, scale, padding, crop)
print(f"image {image.shape}, scaled by {scale:.2f} and padded: {molded.shape}, window {tuple(map(int, window))}")

axes = visualize.display_images(
    [image, molded, molded_masks.any(axis=2)], ["image", "resized", "its masks"], cols=3, cmap="gray"
)
visualize.display_boxes(molded, [([window], "white", {"linewidth": 2})], title="resized, window", ax=axes[1], margin=2)
axes[1].title.set_fontsize(9)
axes[0].figure.set_size_inches(9, 3.2)
display(axes[0].figure)

# %% [markdown]
# ## Mini masks
#
# A mask of the whole scene for each instance takes much memory. A mini mask is the part in the instance's box, resized
# to `MINI_MASK_SHAPE`; the box says where it belongs. What training compares with is cut from it. The mini masks here
# are of half the usual side, so that the last row has something to show: the pixels that differ when they are expanded
# again. These lie along the outlines, and only instances that are larger than a mini mask have them.

# %%
image_id = 3
scene, meta, class_ids, boxes, masks = load_image_gt(dataset, config, image_id)
half = config.replace(MINI_MASK_SHAPE=(28, 28))
minis = load_image_gt(dataset, half, image_id, use_mini_mask=True)[-1]
expanded = resize.expand_mask(boxes, minis, scene.shape)
print(f"whole masks {masks.shape}: {masks.nbytes} bytes; mini masks {minis.shape}: {minis.nbytes} bytes")

count = min(masks.shape[-1], 4)
names = [dataset.class_names[class_id] for class_id in class_ids[:count]]
rows = [
    [masks[..., index] for index in range(count)],
    [minis[..., index] for index in range(count)],
    [masks[..., index] ^ expanded[..., index] for index in range(count)],
]
titles = [*names, *["mini mask"] * count, *["pixels that differ"] * count]
images = [image for row in rows for image in row]
axes = visualize.display_images(images, titles, cols=count, cmap="gray", interpolation="nearest")
axes[0].figure.set_size_inches(2.2 * count, 7)
display(axes[0].figure)

# %% [markdown]
# ## Anchors
#
# The region proposal network judges a fixed set of boxes, the anchors. Each level of the pyramid has its own scale, and
# an anchor of each ratio at every cell of its map. The panels show the centres of all anchors of a level (dots) and
# those of one cell in the middle: coarser levels have fewer and larger ones, which may reach beyond the scene.

# %%
anchors = pyramid_anchors(config, config.IMAGE_SHAPE)
sizes = compute_backbone_shapes(config, config.IMAGE_SHAPE)
ratios = len(config.RPN_ANCHOR_RATIOS)
counts = sizes.prod(axis=1) * ratios
level_of = np.repeat(np.arange(len(counts)), counts)
print(f"{len(anchors)} anchors: {', '.join(f'P{level + 2} {count}' for level, count in enumerate(counts))}")

axes = visualize.display_images([scene] * len(sizes), cols=len(sizes))
for level, ax in enumerate(axes):
    own = anchors[level_of == level]
    rows, columns = sizes[level]
    middle = ((rows // 2) * columns + columns // 2) * ratios
    title = f"P{level + 2}: {rows} x {columns} cells,\nscale {config.RPN_ANCHOR_SCALES[level]}"
    groups = [(own[middle : middle + ratios], visualize.random_colors(ratios), {"linewidth": 2})]
    visualize.display_boxes(scene, groups, title=title, ax=ax, margin=20)
    centres = (own[:, :2] + own[:, 2:]) / 2
    ax.plot(centres[:, 1], centres[:, 0], ".", color="white", markersize=1)
    ax.title.set_fontsize(9)
axes[0].figure.set_size_inches(12, 3)
display(axes[0].figure)

# %% [markdown]
# ## Targets of the anchors
#
# An anchor that overlaps an instance by `RPN_POSITIVE_IOU` or more is positive, and so is the best one of each
# instance. An anchor is negative if it overlaps all instances by less than 0.3. Those between are neutral: they do not
# count in the loss. Neutral are also the many that are left when `RPN_TRAIN_ANCHORS_PER_IMAGE` are drawn, at most half
# of them positive.
#
# Upper row: the positive anchors, in a colour for each instance, over the boxes of the instances (white); and where
# their targets move them, exactly onto these boxes. Lower row: some negative anchors, away from the instances or with
# little of one; and some anchors that are neutral because of their overlap, with a larger part of an instance.

# %%
match, deltas = build_rpn_targets(scene.shape, anchors, class_ids, boxes, config, rng=np.random.default_rng(0))
positive, negative = anchors[match == 1], anchors[match == -1]
overlaps = compute_overlaps(anchors, boxes)
between = anchors[(match == 0) & (overlaps.max(axis=1) >= 0.3)]
print(f"{len(positive)} positive, {len(negative)} negative, {(match == 0).sum()} neutral anchors,")
print(f"{len(between)} of the neutral ones because of their overlap, the others because they were not drawn")

refined = apply_box_deltas(positive, deltas[: len(positive)] * config.RPN_BBOX_STD_DEV)
print(f"after refinement {compute_overlaps(refined, boxes).max(axis=1).min():.3f} IoU or more with an instance")
colors = np.array(visualize.contrasting_colors(scene, masks))
own = colors[overlaps[match == 1].argmax(axis=1)]
few_negative, few_between = negative[:: max(len(negative) // 12, 1)], between[:: max(len(between) // 12, 1)]
panels = {
    f"{len(positive)} positive anchors": [(boxes, "white", {"linewidth": 1}), (positive, own, {"linewidth": 2})],
    "the same, refined": [
        (boxes, "white", {"linewidth": 4}),
        (refined, own, {"linewidth": 2, "linestyle": "dashed"}),
    ],
    f"{len(few_negative)} of {len(negative)} negative anchors": [(few_negative, "white", {"linewidth": 1})],
    f"{len(few_between)} of {len(between)} neutral anchors": [(few_between, "white", {"linewidth": 1})],
}
figure = new_figure((8, 8.4))
for ax, (title, groups) in zip(figure.subplots(2, 2).ravel(), panels.items(), strict=True):
    visualize.display_boxes(scene, groups, title=title, ax=ax)
    ax.title.set_fontsize(10)
display(figure)

# %% [markdown]
# ## A training sample
#
# In training one class of the image is searched for. Its instances are the ground truth, all of class 1 ("looks like
# the reference"), everything else is background, and references are drawn from the whole set. `TrainingSamples` makes
# numbered samples: sample n depends on data set, configuration, seed and n alone. `draw_sample` shows one as
# `siamese-mrcnn check` does: ground truth, reference, positive anchors, and where their targets move them. The second
# one has the most instances to find of the first 40.

# %%
samples = TrainingSamples(dataset, config, seed=0)
richest = max(range(40), key=lambda number: (samples[number].gt_class_ids > 0).sum())  # the most instances to find
for number in (0, richest):
    figure = draw_sample(samples[number], dataset, config, samples.anchors, number=number)
    figure.set_size_inches(13, 4)
    figure.set_dpi(80)
    for ax in figure.axes:
        ax.title.set_fontsize(8)
    display(figure)

# %% [markdown]
# `siamese_data_generator` makes batches of them, as the inputs of the training model: the mean colour is subtracted,
# ground truth is zero-padded to `MAX_GT_INSTANCES`. Two samples in a row search the same image for different classes
# where `QUERIES_PER_IMAGE` is 2. The image shows the batch's scenes with their references, the mean added again, and
# what is to be found in them.

# %%
inputs, outputs = next(siamese_data_generator(dataset, config, batch_size=4))
batch = dict(zip(INPUT_NAMES, inputs, strict=True))
for name, values in batch.items():
    print(f"{name:20} {values.dtype!s:8} {values.shape}")

scenes = molding.unmold_image(batch["input_image"], config)
references = molding.unmold_image(batch["input_target"][:, 0], config)
found = [batch["input_gt_boxes"][index].astype(int) for index in range(len(scenes))]
masks = [
    resize.expand_mask(boxes[ids > 0], minis[..., ids > 0], scene.shape)
    for boxes, minis, ids, scene in zip(
        found, batch["input_gt_masks"], batch["input_gt_class_ids"], scenes, strict=True
    )
]
boxes = [each[ids > 0] for each, ids in zip(found, batch["input_gt_class_ids"], strict=True)]
ids = [np.ones(len(each), int) for each in boxes]
captions = [[""] * len(each) for each in boxes]
colors = [visualize.contrasting_colors(*pair) for pair in zip(scenes, masks, strict=True)]
how = {"captions": captions, "colors": colors, "figsize": (6.5, 6.5)}
axes = visualize.display_grid(references, scenes, boxes, masks, ids, **how)
display(axes[0].figure)

# %% [markdown]
# ## Augmentation
#
# An augmentation changes image and masks together; the boxes come from the new masks. `fliplr` mirrors. The augmenters
# of imgaug go through an adapter, which refuses those that masks cannot follow. `train(..., augmentation=)` and
# `siamese_data_generator(..., augmentation=)` take both; `siamese-mrcnn train --augment fliplr` mirrors half of the
# samples. Masks, boxes and images below have moved together; noise and brightness leave masks as they are.

# %%
iaa = import_imgaug().augmenters
turn = iaa.Affine(rotate=(-40, 40), scale=(0.7, 1.2))
noise = iaa.Sequential([iaa.AdditiveGaussianNoise(scale=(10, 25)), iaa.Multiply((0.6, 1.4))])
augmentations = {
    "as it is": None,
    "fliplr": fliplr(1.0),
    "Affine": imgaug_augmentation(turn),
    "noise, brightness": imgaug_augmentation(noise),
}
axes = visualize.display_images([scene] * len(augmentations), cols=len(augmentations))
colors = visualize.contrasting_colors(scene, load_image_gt(dataset, config, image_id)[-1])
for ax, (name, augmentation) in zip(axes, augmentations.items(), strict=True):
    changed = load_image_gt(dataset, config, image_id, augmentation=augmentation, rng=np.random.default_rng(4))
    image, _, class_ids, boxes, masks = changed
    captions = [""] * len(boxes)
    how = {"captions": captions, "colors": colors, "title": name, "ax": ax}
    visualize.display_instances(image, boxes, masks, class_ids, **how)
axes[0].figure.set_size_inches(10, 2.9)
display(axes[0].figure)

# %% [markdown]
# ## Training rois
#
# The heads are trained on `TRAIN_ROIS_PER_IMAGE` rois of each sample. They are drawn from the proposals of the RPN,
# here with the weights that come with the package, and from `NUM_JITTERED_GT_ROIS` boxes of instances that are shifted
# and stretched at random. A roi is positive if it overlaps an instance of the target category by 0.5 or more;
# `ROI_POSITIVE_RATIO` limits their share. The training model computes them together with their targets.
#
# Left, the positive rois (dashed), in a colour for each instance. Not every instance has one. Middle, the boxes that
# their targets lead to: all of an instance end in its box. Right, the negative rois: between the instances, with parts
# of one, and many on the object of another category. Those that are a single pixel in the upper left corner hold
# nothing: they come from rows of padding among the boxes that are jittered.

# %%
model = SiameseMaskRCNN("training", config, model_dir="logs")  # nothing is written before `train`
model.load_weights(Path(shapes.__file__).with_name("siamese_mrcnn_shapes_s1.h5"))
batches = siamese_data_generator(dataset, config, batch_size=16)
KEYS = ("rpn_rois", "output_rois", "target_class_ids", "target_bbox", "target_mask")
values = {name: [] for name in (*KEYS, "input_image", "input_gt_boxes", "input_gt_class_ids")}
for _ in range(4):
    inputs, _ = next(batches)
    outputs = model.keras_model(inputs, training=False)
    for name, array in (outputs | dict(zip(INPUT_NAMES, inputs, strict=True))).items():
        if name in values:
            values[name].append(np.asarray(array))
values = {name: np.concatenate(arrays) for name, arrays in values.items()}
is_positive = values["target_class_ids"] > 0
is_instance = values["input_gt_class_ids"] > 0
for name in KEYS:
    print(f"{name:17} {values[name].shape}")

number = int(is_instance.sum(axis=1).argmax())  # the sample with the most instances to find
scene = molding.unmold_image(values["input_image"][number], config)
rois = denorm_boxes(values["output_rois"][number], config.IMAGE_SHAPE)
positive, negative = rois[is_positive[number]], rois[~is_positive[number]]
deltas = values["target_bbox"][number][is_positive[number]] * config.BBOX_STD_DEV
instances = values["input_gt_boxes"][number][is_instance[number]]
narrow = (negative[:, 2:] - negative[:, :2]).min(axis=1) <= 1
print(f"{narrow.sum()} of {len(negative)} negative rois have one pixel of height or width")
colors = np.array(visualize.random_colors(len(instances)))[compute_overlaps(positive, instances).argmax(axis=1)]
panels = {
    f"{len(positive)} positive rois": (positive, colors, {"linewidth": 1.5, "linestyle": "dashed"}),
    "where their targets move them": (apply_box_deltas(positive, deltas), colors, {"linewidth": 2}),
    f"{len(negative)} negative rois": (negative, "white", {"linewidth": 1}),
}
figure = new_figure((11, 4))
for ax, (title, group) in zip(figure.subplots(1, 3), panels.items(), strict=True):
    visualize.display_boxes(scene, [group], title=title, ax=ax)
display(figure)

# %% [markdown]
# ## Mask targets
#
# The target of the mask head is the part of the instance's mask in the roi, 28 x 28 cells of 0 and 1. Upper row, what
# the positive rois above show; lower row, their mask targets. A roi that is shifted cuts its instance off, and its
# target is cut off at the same place. Negative rois have no mask target.

# %%
count = min(len(positive), 8)
crops = [scene[y1:y2, x1:x2] for y1, x1, y2, x2 in positive[:count]]
targets = values["target_mask"][number][is_positive[number]][:count]
sides = [f"{crop.shape[0]} x {crop.shape[1]}" for crop in crops]
how = {"cols": count, "cmap": "gray", "interpolation": "nearest"}
axes = visualize.display_images([*crops, *targets], [*sides, *[""] * count], **how)
for ax in axes[:count]:
    ax.set_aspect("auto")  # each roi is pooled to a square
axes[0].figure.set_size_inches(1.4 * count, 3.1)
display(axes[0].figure)

# %% [markdown]
# ## How many rois are positive
#
# The first plot counts, for 64 samples, the proposals that would be positive, and the positive rois of training. The
# proposals of the RPN have few in some samples and many in others; with the jittered boxes nearly every sample has the
# maximum, a third of the rois. The second plot has the overlaps of these rois with their instances, from 0.5 up; few
# are close to 1, so that the heads see boxes that need a correction. The third has their shifts: in all directions
# alike, most by less than 0.2 of a side. None of these rois is there twice in its sample.

# %%
supply, positives, unique, nearest, shifts = [], [], [], [], []
for index, kinds in enumerate(is_positive):
    instances = values["input_gt_boxes"][index][is_instance[index]]
    proposals = denorm_boxes(values["rpn_rois"][index], config.IMAGE_SHAPE)
    supply.append((compute_overlaps(proposals, instances).max(axis=1, initial=0) >= 0.5).sum())
    boxes = denorm_boxes(values["output_rois"][index][kinds], config.IMAGE_SHAPE)
    positives.append(len(boxes))
    unique.append(len(np.unique(boxes, axis=0)))
    nearest += compute_overlaps(boxes, instances).max(axis=1).tolist()
    shifts.append(values["target_bbox"][index][kinds] * config.BBOX_STD_DEV)
share = np.mean(positives) / config.TRAIN_ROIS_PER_IMAGE
print(f"{len(positives)} samples: {share:.1%} of the rois are positive, at most {config.ROI_POSITIVE_RATIO:.0%} may be")
print(f"{sum(unique)} of {sum(positives)} positive rois differ from the others of their sample by a pixel or more")

figure = new_figure((11, 3))
left, middle, right = figure.subplots(1, 3)
bins = np.arange(max(supply) + 2) - 0.5
left.hist([supply, positives], bins=bins, label=["among the proposals", "training rois"])
left.set(xlabel="positive rois of a sample", ylabel="samples")
left.legend(fontsize=8)
middle.hist(nearest, bins=25, range=(0.5, 1))
middle.set(xlabel="IoU of a positive roi with its instance", ylabel="rois")
shifts = np.concatenate(shifts)
right.scatter(shifts[:, 1], shifts[:, 0], s=6)
right.set(xlabel="dx, in widths of the roi", ylabel="dy, in heights", aspect="equal")
display(figure)
