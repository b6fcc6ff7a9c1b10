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
# A data set in COCO's layout is loaded, and shown at every stage up to a batch: masks, references, resizing, mini
# masks, anchors and their targets, augmentation. The package draws the scenes; put the folder of your own data set in
# place of `folder` to see yours.

# %%
# %matplotlib inline
# %config InlineBackend.figure_formats = ["jpeg"]
import sys
import tempfile

import numpy as np
from IPython.display import display

sys.path[:0] = ["..", "."]  # runs from a checkout that is not installed

from siamese_mrcnn_tf import IndexedCocoDataset, TinyConfig, get_one_target, visualize
from siamese_mrcnn_tf.data import molding, resize
from siamese_mrcnn_tf.data.augmentation import fliplr, imgaug_augmentation, import_imgaug
from siamese_mrcnn_tf.data.checks import check_dataset
from siamese_mrcnn_tf.data.data_generator import INPUT_NAMES, TrainingSamples, load_image_gt, siamese_data_generator
from siamese_mrcnn_tf.data.dataset import split_classes
from siamese_mrcnn_tf.data.rpn_targets import build_rpn_targets
from siamese_mrcnn_tf.ops.anchors import compute_backbone_shapes, pyramid_anchors
from siamese_mrcnn_tf.ops.boxes import compute_overlaps
from siamese_mrcnn_tf.shapes import dataset as shapes
from siamese_mrcnn_tf.visualize.samples import draw_sample

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
config = TinyConfig()
dataset.ACTIVE_CLASSES, _ = split_classes(dataset.num_classes - 1, split=1)
report = check_dataset(dataset, config=config, split=1, progress=False)
print(report.text())

# %% [markdown]
# ## Images with masks
#
# Each row is an image and the masks of the classes that cover most of it, with a colour for each instance. A mask
# covers the visible part of an instance: where two overlap, the hidden part belongs to the one in front.

# %%
by_classes = sorted(dataset.image_ids, key=lambda image_id: -len(dataset.image_category_index[image_id]))
for image_id in by_classes[:3]:
    masks, class_ids = dataset.load_mask(image_id)
    image = dataset.load_image(image_id)
    axes = visualize.display_top_masks(image, masks, class_ids, dataset.class_names, limit=4)
    axes[0].figure.set_size_inches(10, 2.3)
    display(axes[0].figure)

# %% [markdown]
# The same with boxes and names. Boxes are (y1, x1, y2, x2) in pixels, tight around the masks.

# %%
image_id = 3
image, (masks, class_ids) = dataset.load_image(image_id), dataset.load_mask(image_id)
boxes = shapes.extract_bboxes(masks)
axes = visualize.display_instances(image, boxes, masks, class_ids, dataset.class_names, figsize=(5, 5))
display(axes.figure)

# %% [markdown]
# ## References
#
# A query is a scene and a reference: the box of one instance of the class, cut from any image of the set. In each row
# are references of one class: different instances, of different sizes, colours and angles, with their background and
# parts of other objects in the box. Small crops are scaled up; black is the padding to a square.

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

axes = visualize.display_images([image, molded, molded_masks.any(axis=2)], ["image", "resized", "its masks"], cols=3)
visualize.display_boxes(molded, [([window], "white", {"linewidth": 2})], title="resized, window", ax=axes[1], margin=2)
axes[1].title.set_fontsize(9)
axes[0].figure.set_size_inches(9, 3.2)
display(axes[0].figure)

# %% [markdown]
# ## Mini masks
#
# A mask of the whole scene for each instance takes much memory. A mini mask is the part in the instance's box, resized
# to `MINI_MASK_SHAPE`; the box says where it belongs. What training compares with is cut from it. The mini masks here
# are of half the usual side, so that the last row has something to show: what is lost when they are expanded again,
# pixels along the outlines of instances that are larger than a mini mask.

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
titles = [*names, *["mini mask"] * count, *["lost pixels"] * count]
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
# An anchor that overlaps an instance enough (`RPN_POSITIVE_IOU`) is positive, and the best one of each instance is in
# any case. Those that overlap nothing much are negative. The others are neutral, as are those that were left over when
# `RPN_TRAIN_ANCHORS_PER_IMAGE` were drawn, at most half of them positive: they do not count in the loss. Left: positive
# anchors. Middle: where their targets move them, onto the boxes of their instances. Right: negative anchors, away from
# them; they may overlap an instance a little, or lie inside a far larger one.

# %%
match, deltas = build_rpn_targets(scene.shape, anchors, class_ids, boxes, config, rng=np.random.default_rng(0))
positive, negative = anchors[match == 1], anchors[match == -1]
print(f"{len(positive)} positive, {len(negative)} negative, {(match == 0).sum()} neutral anchors")


def moved(anchors, deltas):
    """Boxes [n, (y1, x1, y2, x2)] moved by deltas [n, (dy, dx, log(dh), log(dw))], relative to their sides."""
    sides = anchors[:, 2:] - anchors[:, :2]
    centres = (anchors[:, :2] + anchors[:, 2:]) / 2 + deltas[:, :2] * sides
    sides = sides * np.exp(deltas[:, 2:])
    return np.concatenate([centres - sides / 2, centres + sides / 2], axis=1)


refined = moved(positive, deltas[: len(positive)] * config.RPN_BBOX_STD_DEV)
nearest = compute_overlaps(refined, boxes).argmax(axis=1)
colors = np.array(visualize.random_colors(len(boxes)))
axes = visualize.display_images([scene] * 3, cols=3)
visualize.display_boxes(scene, [(positive, colors[nearest], {})], title="positive anchors", ax=axes[0])
groups = [(boxes, colors, {"linewidth": 4}), (refined, "white", {"linewidth": 1, "linestyle": "dashed"})]
visualize.display_boxes(scene, groups, title="moved (dashed) and instances", ax=axes[1])
shown = negative[:: max(len(negative) // 12, 1)]
visualize.display_boxes(scene, [(shown, "white", {"linewidth": 1})], title=f"{len(shown)} negative anchors", ax=axes[2])
axes[0].figure.set_size_inches(10, 3.6)
display(axes[0].figure)

# %% [markdown]
# ## A training sample
#
# In training one class of the image is searched for. Its instances are the ground truth, all of class 1 ("looks like
# the reference"), everything else is background, and references are drawn from the whole set. `TrainingSamples` makes
# numbered samples: sample n depends on data set, configuration, seed and n alone. `draw_sample` shows one as
# `siamese-mrcnn check` does: ground truth, reference, positive anchors, and where their targets move them.

# %%
samples = TrainingSamples(dataset, config, seed=0)
richest = max(range(40), key=lambda number: len(samples[number].gt_boxes))  # the sample with the most instances
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
# where `QUERIES_PER_IMAGE` is 2. The image shows the batch's scenes with their references, the mean added again.

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
axes = visualize.display_grid(references, scenes, boxes, masks, ids, captions=captions, figsize=(6.5, 6.5))
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
for ax, (name, augmentation) in zip(axes, augmentations.items(), strict=True):
    changed = load_image_gt(dataset, config, image_id, augmentation=augmentation, rng=np.random.default_rng(4))
    image, _, class_ids, boxes, masks = changed
    captions = [""] * len(boxes)
    visualize.display_instances(image, boxes, masks, class_ids, captions=captions, title=name, ax=ax)
axes[0].figure.set_size_inches(10, 2.9)
display(axes[0].figure)
