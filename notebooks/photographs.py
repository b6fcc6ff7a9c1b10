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
# # Photographs
#
# The weights that come with the package were trained on drawn shapes. This notebook shows what they find in
# photographs, and then trains them on annotated coins, which takes a minute or two. The photographs come with
# scikit-image; nothing is downloaded.

# %%
# %matplotlib inline
# %config InlineBackend.figure_formats = ["jpeg"]
import contextlib
import csv
import io
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
from IPython.display import display
from PIL import Image
from scipy import ndimage
from skimage import data, filters, segmentation

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"  # TensorFlow says less
sys.path[:0] = ["..", "."]  # runs from a checkout that is not installed

from siamese_mrcnn_tf import IndexedCocoDataset, SiameseMaskRCNN, SiamesePredictor, TinyConfig, visualize
from siamese_mrcnn_tf.evaluation.average_precision import compute_ap, compute_matches
from siamese_mrcnn_tf.io.files import write_json
from siamese_mrcnn_tf.ops.boxes import extract_bboxes
from siamese_mrcnn_tf.ops.polygons import mask_polygons
from siamese_mrcnn_tf.shapes import dataset as shapes
from siamese_mrcnn_tf.visualize.style import new_figure

WEIGHTS = Path(shapes.__file__).with_name("siamese_mrcnn_shapes_s1.h5")  # comes with the package

# %% [markdown]
# ## Photographs and annotations
#
# The photograph shows 24 ancient coins on a dark ground. Code annotates them: a watershed grows regions from bright
# pixels, which are surely coin, and from dark ones, which are surely ground. The two upper rows, blue, are for
# training, the two lower rows, orange, for the test. Training sees nothing of the lower rows.

# %%
coins = np.repeat(data.coins()[..., None], 3, axis=2)  # gray, as RGB
markers = np.select([coins[..., 0] < 30, coins[..., 0] > 150], [1, 2])
regions = segmentation.watershed(filters.sobel(coins[..., 0]), markers) == 2
labels, count = ndimage.label(ndimage.binary_fill_holes(regions))
masks = np.stack([labels == number for number in range(1, count + 1)], axis=-1)
masks = masks[..., masks.sum(axis=(0, 1)) > 100]  # without specks

CUT = 150  # the row between the halves
is_upper = masks[:CUT].any(axis=(0, 1))
train_photo, test_photo = coins[:CUT], coins[CUT:]
train_masks, test_masks = masks[:CUT, :, is_upper], masks[CUT:, :, ~is_upper]
print(f"{train_masks.shape[-1]} coins for training, {test_masks.shape[-1]} for the test")

colors = np.where(is_upper[:, None], (0.2, 0.5, 1.0), (1.0, 0.6, 0.1))
ax = visualize.display_instances(
    coins, extract_bboxes(masks), masks, is_upper, show_bbox=False, colors=colors, figsize=(6, 5)
)
display(ax.figure)

# %% [markdown]
# ## What the bundled weights find
#
# Discs are one of the shapes that the weights were trained on, so one coin as reference finds some of the coins, but
# not all, and their masks have holes. The other references are cut from the photographs that are searched. The eye of
# the cat finds both eyes, roughly. The wheel finds pieces of both wheels and things that are no wheels; the face is not
# found as a whole, though it is the reference itself. The minimum score is the default of the configuration.
# `calibrated=False` leaves out the threshold file of the bundled weights: a trained model has none yet, and both are
# compared below.


# %%
class PhotoConfig(TinyConfig):
    """Scenes of up to 384 pixels instead of 128, and room for more detections."""

    IMAGE_MAX_DIM = 384
    DETECTION_MAX_INSTANCES = 40
    DETECTION_MIN_CONFIDENCE = 0.05  # all are kept; those above MIN_SCORE are counted and drawn


MIN_SCORE = TinyConfig.DETECTION_MIN_CONFIDENCE


def search(predictor, scene, reference):
    """Detections in a scene."""
    predictor.set_image(scene)
    return predictor.detect([reference])


def confident(found):
    """The detections that are counted and drawn."""
    kept = found["scores"] >= MIN_SCORE
    return {name: values[..., kept] if name == "masks" else values[kept] for name, values in found.items()}


coffee = data.coffee()
references = [coins[y1:y2, x1:x2] for y1, x1, y2, x2 in extract_bboxes(masks[..., is_upper])]
cat, motorcycle, astronaut = data.chelsea(), data.stereo_motorcycle()[0], data.astronaut()
searches = {
    "coin": (test_photo, references[0]),
    "eye": (cat, cat[85:150, 130:212]),
    "wheel": (motorcycle, motorcycle[235:408, 118:278]),
    "face": (astronaut, astronaut[20:150, 165:285]),
}
before = SiamesePredictor(PhotoConfig(), weights=WEIGHTS, calibrated=False)
results = [confident(search(before, *each)) for each in searches.values()]
parts = [[found[key] for found in results] for key in ("rois", "masks", "class_ids", "scores")]
axes = visualize.display_grid(
    [reference for _, reference in searches.values()],
    [scene for scene, _ in searches.values()],
    *parts,
    category_names_list=list(searches),
    ax=new_figure((9, 9)).subplots(2, 2),
    fontsize=11,
)
display(axes[0].figure)

# %% [markdown]
# ## Measure
#
# Each of the 12 coins for training is the reference of one search for the 12 coins of the test; the numbers are means
# over these searches. A detection is right if its mask overlaps a coin by half or more (intersection over union), and
# each coin counts once. AP50 takes all detections by their score, whatever the minimum score. In the cup of coffee
# every detection is wrong.


# %%
def measure(predictor):
    """A line of metrics over all references; returns the detections in both photographs with the first one."""
    gt_boxes, lines, shown = extract_bboxes(test_masks), [], []
    truth = gt_boxes, np.ones(len(gt_boxes), int), test_masks
    for reference in references:
        found = search(predictor, test_photo, reference)
        parts = [confident(found)[key] for key in ("rois", "class_ids", "scores", "masks")]
        matches = compute_matches(*truth, *parts)[1]
        right, wrong = np.count_nonzero(matches >= 0), np.count_nonzero(matches < 0)
        ap, *_ = compute_ap(*truth, *[found[key] for key in ("rois", "class_ids", "scores", "masks")])
        in_coffee = search(predictor, coffee, reference)
        lines.append((right, len(gt_boxes) - right, wrong, ap, len(confident(in_coffee)["scores"])))
        shown.append((confident(found), confident(in_coffee)))
    right, missed, wrong, ap, in_coffee = np.mean(lines, axis=0)
    print(f"found {right:.1f}, missed {missed:.1f}, wrong {wrong:.1f}; recall {right / len(gt_boxes):.2f},", end=" ")
    print(f"precision {right / max(right + wrong, 1e-6):.2f}, AP50 {ap:.2f}; wrong in the coffee {in_coffee:.1f}")
    return shown[0]


coins_before, coffee_before = measure(before)

# %% [markdown]
# ## A data set in COCO's format
#
# Twelve coins in one photograph are few, so the training scenes are 48 windows of the upper half, of random size and
# place, turned and mirrored. A coin that is cut at the border counts if a quarter of it is visible. The folder has the
# layout that `docs/own_data.md` describes; annotation tools give the same by `siamese-mrcnn convert`.


# %%
def draw_window(rng):
    """A window of the upper half: image [side, side, RGB], masks of its coins [side, side, n]."""
    while True:
        side = int(rng.integers(90, CUT + 1))
        y, x = (int(rng.integers(0, length - side + 1)) for length in train_photo.shape[:2])
        inside = train_masks[y : y + side, x : x + side]
        visible = inside.sum(axis=(0, 1)) >= 0.25 * train_masks.sum(axis=(0, 1))
        if visible.any():
            break
    turns, flip = int(rng.integers(4)), int(rng.choice([-1, 1]))
    window = train_photo[y : y + side, x : x + side], inside[..., visible]
    return [np.ascontiguousarray(np.rot90(values[:, ::flip], turns)) for values in window]


def annotation(number, image_id, mask):
    """A COCO annotation of a mask; boxes are (x, y, width, height)."""
    y1, x1, y2, x2 = extract_bboxes(mask[..., None])[0]
    about = {"id": number, "image_id": image_id, "category_id": 1, "iscrowd": 0, "area": mask.sum()}
    return about | {"bbox": [x1, y1, x2 - x1, y2 - y1], "segmentation": mask_polygons(mask)}


folder = Path(tempfile.mkdtemp())
(folder / "train2017").mkdir()
(folder / "annotations").mkdir()
rng, images, annotations = np.random.default_rng(0), [], []
for image_id in range(1, 49):
    window, window_masks = draw_window(rng)
    name = f"{image_id:012d}.png"
    Image.fromarray(window).save(folder / "train2017" / name)
    images.append({"id": image_id, "file_name": name, "height": len(window), "width": len(window)})
    for mask in np.moveaxis(window_masks, -1, 0):
        annotations.append(annotation(len(annotations) + 1, image_id, mask))
content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "coin"}]}
write_json(folder / "annotations" / "instances_train2017.json", content)

dataset = IndexedCocoDataset()
dataset.load_coco(str(folder), "train")
dataset.prepare()
dataset.build_indices()
print(f"{dataset.num_images} windows, {len(annotations)} annotated coins")

axes = new_figure((9, 2.4)).subplots(1, 4)
for image_id, ax in enumerate(axes):
    window_masks, class_ids = dataset.load_mask(image_id)
    visualize.display_instances(
        dataset.load_image(image_id), extract_bboxes(window_masks), window_masks, class_ids, show_bbox=False, ax=ax
    )
display(axes[0].figure)

# %% [markdown]
# ## Fine-tuning
#
# Training starts from the bundled weights and changes all layers, at a learning rate below that of the configuration.
# Windows are resized to the 128 pixels of `TinyConfig`; no layer depends on the size of the scene, so the search can
# use another one. The losses of the second epoch should be below those of the first.


# %%
class CoinsConfig(TinyConfig):
    NAME = "coins"
    IMAGES_PER_GPU = 8
    STEPS_PER_EPOCH = 50
    WARM_UP_STEPS = 0


model = SiameseMaskRCNN("training", CoinsConfig(), tempfile.mkdtemp())
model.load_weights(WEIGHTS)
with contextlib.redirect_stderr(io.StringIO()):  # without progress bars
    model.train(dataset, None, learning_rate=0.0005, epochs=2, layers="all")
with open(Path(model.log_dir) / "history.csv", encoding="utf-8", newline="") as file:
    for row in csv.DictReader(file):
        losses = ", ".join(f"{name} {float(row[name]):.2f}" for name in row if name.endswith("loss") and row[name])
        print(f"epoch {row['epoch']}: {losses}")

# %% [markdown]
# ## After training
#
# The same measurement, by the same references, of the coins that were not trained on. Below is the same search before
# and after training: found coins are green, wrong detections red, and missed coins have a yellow outline.

# %%
after = SiamesePredictor(PhotoConfig(), weights=model.find_last(), calibrated=False)
coins_after, coffee_after = measure(after)

# %%
GREEN, RED, YELLOW = (0.2, 0.9, 0.3), (1.0, 0.2, 0.2), (1.0, 0.9, 0.1)


def draw(ax, scene, truth, found, title):
    """Draw detections and missed coins."""
    gt_boxes, parts = extract_bboxes(truth), [found[key] for key in ("rois", "class_ids", "scores", "masks")]
    gt_match, matches, _ = compute_matches(gt_boxes, np.ones(len(gt_boxes), int), truth, *parts)
    missed = gt_match < 0
    visualize.display_instances(
        scene,
        np.concatenate([found["rois"], gt_boxes[missed]]),
        np.concatenate([found["masks"], truth[..., missed]], axis=-1),
        np.ones(len(matches) + np.count_nonzero(missed), int),
        captions=[f"{score:.2f}" for score in found["scores"]] + [""] * np.count_nonzero(missed),
        colors=[GREEN if match >= 0 else RED for match in matches] + [YELLOW] * np.count_nonzero(missed),
        show_mask=False,
        show_bbox=False,
        title=title,
        fontsize=8,
        ax=ax,
    )


axes = new_figure((8, 7)).subplots(2, 1)
draw(axes[0], test_photo, test_masks, coins_before, "before")
draw(axes[1], test_photo, test_masks, coins_after, "after")
display(axes[0].figure)

# %% [markdown]
# ## No coins
#
# The cup of coffee shows no coin, so every detection is wrong, before and after. The training had one dark ground and
# nothing round but coins; nothing in it taught the network what is round and no coin. The number of wrong detections in
# the lines above is the mean over all references; the drawing has one of them.

# %%
nothing = np.zeros((*coffee.shape[:2], 0), bool)
axes = new_figure((8, 3.2)).subplots(1, 2)
draw(axes[0], coffee, nothing, coffee_before, "before")
draw(axes[1], coffee, nothing, coffee_after, "after")
display(axes[0].figure)

# %% [markdown]
# ## What this shows
#
# A few annotated objects and a short training adapt the network to a new kind of image. It is an easy case: the coins
# of the test lie on the same ground, in the same light, as those of the training. For other photographs the metrics
# will be lower: measure them on photographs that training has not seen.
#
# For photographs of everyday objects start from the released weights of the paper, as `docs/own_data.md` describes. The
# commands for a folder as above:
#
#     siamese-mrcnn check --dataset coins --subset train
#     siamese-mrcnn train --dataset coins --config tiny --model shapes --stages fine_tune.json --batch 8 --steps 50
#     siamese-mrcnn predict --image photograph.jpg --reference coin.png --model last --out found
