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
# # Evaluation
#
# How good is a model on train categories and on novel ones? And does it compare the scene with the reference? This
# notebook first shows single detections, then computes the metrics of the paper. Weights and scenes come with the
# package; on so few scenes the metrics are rough.

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

from siamese_mrcnn_tf import (
    IndexedCocoDataset,
    SiameseMaskRCNN,
    TinyConfig,
    evaluate_dataset,
    get_one_target,
    visualize,
)
from siamese_mrcnn_tf.data.dataset import split_classes
from siamese_mrcnn_tf.evaluation.coco_scores import over_categories, score_records
from siamese_mrcnn_tf.evaluation.protocol import evaluate
from siamese_mrcnn_tf.evaluation.queries import RandomBoxes
from siamese_mrcnn_tf.ops.boxes import extract_bboxes
from siamese_mrcnn_tf.shapes import dataset as shapes
from siamese_mrcnn_tf.visualize.stages import mask_overlaps

WEIGHTS = Path(shapes.__file__).with_name("siamese_mrcnn_shapes_s1.h5")  # comes with the package

# %% [markdown]
# ## Data set and categories
#
# `return_coco` gives the annotation file as pycocotools has it, which the scores need. The weights are of split 1: the
# novel categories were only background in the training scenes, never searched for and never a reference.

# %%
folder = tempfile.mkdtemp()
shapes.write_coco(folder, train=1, val=24, size=128, seed=11)
dataset = IndexedCocoDataset()
coco = dataset.load_coco(folder, "val", return_coco=True)
dataset.prepare()
dataset.build_indices()
train, novel = split_classes(dataset.num_classes - 1, split=1)
names = np.array(dataset.class_names)
print(f"{dataset.num_images} scenes")
print("train categories:", ", ".join(names[train]))
print("novel categories:", ", ".join(names[novel]))

# %% [markdown]
# ## Model
#
# Average precision counts all detections, the less confident ones too, so the model returns detections from a low score
# on; the images show those with a score of at least `SHOWN`. Finds are verified, as the threshold file beside the
# weights says.

# %%
SHOWN = 0.9
config = TinyConfig().replace(DETECTION_MIN_CONFIDENCE=0.05, VERIFY_DETECTIONS=True)
model = SiameseMaskRCNN("inference", config, model_dir="logs")
report = model.load_weights(WEIGHTS)
print(f"{len(report.loaded)} weights loaded, {len(report.missing)} missing")

# %% [markdown]
# ## Single searches
#
# `get_one_target` draws a reference of the category from any scene of the set; `detect` takes references and scenes.
# `display_results` draws the reference beside what was found. The first two images show train categories, the last two
# novel ones.

# %%
rng = np.random.default_rng(6)


def scene_with(class_id):
    """A random scene with the class, and a reference from another one."""
    image_id = rng.choice(dataset.images_of(class_id))
    return image_id, get_one_target(class_id, dataset, config, rng=rng)


def confident(found):
    """The detections that are drawn."""
    kept = found["scores"] >= SHOWN
    return {name: values[..., kept] if name == "masks" else values[kept] for name, values in found.items()}


searches = []
for part in (train, novel):
    for class_id in rng.choice([c for c in part if len(dataset.images_of(c)) > 1], 2, replace=False):
        image_id, reference = scene_with(class_id)
        image = dataset.load_image(image_id)
        found = confident(model.detect([[reference]], [image])[0])
        searches.append((class_id, image_id, image, found))
        axes = visualize.display_results(
            reference,
            image,
            found["rois"],
            found["masks"],
            found["class_ids"],
            scores=found["scores"],
            title=f"{names[class_id]} ({'novel' if class_id in novel else 'train'})",
            figsize=(5, 3.4),
        )
        display(axes[0].figure)

# %% [markdown]
# ## Differences to the ground truth
#
# The same searches: ground truth is green, detections are red with their score and their overlap with the best instance
# of the category, a star for those that count as found. Red without a star is a false detection, green without red a
# miss.

# %%
axes = visualize.display_images([image for _, _, image, _ in searches], cols=2)
for ax, (class_id, image_id, image, found) in zip(axes, searches, strict=True):
    masks, class_ids = dataset.load_mask(image_id)
    truth = masks[..., class_ids == class_id]
    visualize.display_differences(
        image,
        extract_bboxes(truth),
        np.ones(truth.shape[-1], int),
        truth,
        found["rois"],
        found["class_ids"],
        found["scores"],
        found["masks"],
        ax=ax,
        score_threshold=SHOWN,
    )
    ax.set_title(f"{names[class_id]}: {ax.get_title().split(';')[0]}", fontsize=11)
axes[0].figure.set_size_inches(7.5, 8)
display(axes[0].figure)

# %% [markdown]
# ## All categories of a scene
#
# Each category of a scene is searched for on its own. The table has a row for each detection, a column for each
# instance, and in it the overlap of their masks: "match" where the category is right, "wrong" where an instance of
# another category was taken for it. A column without a match is a miss. An instance may be taken for several
# categories, because each search knows its own reference only.

# %%
image_id = next(image_id for image_id in dataset.image_ids if len(dataset.image_category_index[image_id]) == 3)
image, (masks, class_ids) = dataset.load_image(image_id), dataset.load_mask(image_id)
wanted = dataset.image_category_index[image_id]
found = [
    confident(model.detect([[get_one_target(class_id, dataset, config, rng=rng)]], [image])[0]) for class_id in wanted
]
found_ids = np.concatenate([np.full(len(each["scores"]), c) for c, each in zip(wanted, found, strict=True)])
found_scores = np.concatenate([each["scores"] for each in found])
found_boxes = np.concatenate([each["rois"] for each in found])
found_masks = np.concatenate([each["masks"] for each in found], axis=2)

axes = visualize.display_images([image, image], cols=2)
visualize.display_instances(
    image, extract_bboxes(masks), masks, class_ids, names, title="ground truth", ax=axes[0], show_mask=False
)
visualize.display_instances(
    image, found_boxes, found_masks, found_ids, names, scores=found_scores, title="detections", ax=axes[1]
)
axes[0].figure.set_size_inches(8, 4)
display(axes[0].figure)

axes = visualize.plot_overlaps(class_ids, found_ids, found_scores, mask_overlaps(found_masks, masks), names)
display(axes.figure)

# %% [markdown]
# ## Scores as the original computes them
#
# `evaluate_dataset` searches each scene for each active class in it, with references drawn at random, and scores with
# COCOeval: average precision (AP) and recall (AR) over several overlaps, sizes, and numbers of detections; -1 stands
# where there is no ground truth. `class_index` (class ids less 1) are the categories that are averaged. AP50, the
# second line, is the paper's main metric.

# %%
results = {}
for part, class_ids in {"train": train, "novel": novel}.items():
    dataset.ACTIVE_CLASSES = class_ids
    results[part] = evaluate_dataset(
        model,
        dataset,
        coco,
        eval_type="segm",
        class_index=class_ids - 1,
        verbose=0,
        return_results=True,
        rng=np.random.default_rng(0),
    )
    print(f"{part}: AP {results[part].stats[0]:.3f}, AP50 {results[part].stats[1]:.3f} (masks)")

# %% [markdown]
# ## Precision and recall
#
# Going down the detections by score, recall grows with every instance that is found, and precision falls with every
# false detection. The area below the curve is AP50. The curves are the means over the categories; where one ends at a
# recall below 1, the other instances were not found at any score.

# %%
for part, class_ids in {"train": train, "novel": novel}.items():
    precision = results[part].eval["precision"][0, :, class_ids - 1, 0, -1]  # [category, recall] at an overlap of 0.5
    precision = precision[precision[:, 0] > -1].mean(axis=0)  # without categories that no scene has
    axes = visualize.plot_precision_recall(results[part].stats[1], precision, results[part].params.recThrs)
    axes.set_title(f"{part}: {axes.get_title(loc='left')}", loc="left", fontsize=10)
    axes.figure.set_size_inches(4.4, 3.2)
    display(axes.figure)

# %% [markdown]
# ## The paper's protocol, and two controls
#
# `protocol.evaluate` repeats the searches in several runs with fresh references and gives means with 95% intervals.
# Each scene is encoded once for all its searches. Two controls say what the scores mean:
#
# - `RandomBoxes` knows which categories are in a scene, how many instances, and their outlines, but not their places.
# - `control="present"` searches with the reference of another category that is in the scene, and scores as if it were
#   the right one. A model that ignores the reference scores as well with these as with the right ones.
#
# The control leaves out scenes with a single category; for comparison the right references are scored in its scenes
# alone, too.

# %%
dataset.ACTIVE_CLASSES = dataset.class_ids[1:]
runs = 2
right = evaluate(model.predictor, dataset, coco, runs=runs, progress=False)
wrong = evaluate(model.predictor, dataset, coco, runs=runs, control="present", progress=False)
chance = evaluate(RandomBoxes(), dataset, coco, runs=runs, progress=False)

print(f"{len(wrong.records.settings['images'])} of {dataset.num_images} scenes have several categories")
several = score_records(coco, right.records, image_ids=wrong.records.settings["images"])
rows = {
    "random boxes": chance.scores,
    "right reference": right.scores,
    "right reference, scenes of the control": several,
    "wrong reference": wrong.scores,
}
print(f"AP50 in percent, {runs} runs{'':24}{'train':>12}{'novel':>14}")
for name, scores in rows.items():
    for kind, what in {"bbox": "boxes", "segm": "masks"}.items():
        per_class, cells = [run[kind].per_class for run in scores.runs], []
        for class_ids in (train, novel):
            category_ids = [dataset.class_info[class_id]["id"] for class_id in class_ids]
            mean, interval = over_categories(per_class, category_ids)
            cells.append(f"{100 * mean:.1f} +- {100 * interval:.1f}")
        print(f"{name + ', ' + what:46}{cells[0]:>12}{cells[1]:>14}")

# %% [markdown]
# What to look for: the right reference far above random boxes says that objects are found at all; above the wrong
# reference, that the reference decides which. Novel categories that score less than train categories show what does not
# generalize; in so few scenes, with five novel categories, the difference may have either sign.

# %% [markdown]
# ## Reading scores
#
# A result has the twelve COCO metrics, means and intervals, as `table` prints them; those of each run and category; and
# the records: every query with its references and detections.

# %%
print(right.scores.table("segm"))

# %%
first = right.scores.runs[0]["segm"].per_class
best = sorted((category for category in first if first[category]["AP50"] >= 0), key=lambda c: -first[c]["AP50"])
for title, some in {"highest": best[:3], "lowest": best[-3:]}.items():
    print(f"{title}:", ", ".join(f"{coco.cats[category]['name']} {first[category]['AP50']:.2f}" for category in some))

record = next(iter(right.records))
query = record["queries"][0]
category = coco.cats[query["category_id"]]["name"]
print(f"image {record['image_id']}, run {query['run']}: {category}, {len(query['detections'])} detections,", end=" ")
print(f"reference (image, annotation) {query['references'][0]}")

# %% [markdown]
# ## The same by command line
#
#     siamese-mrcnn evaluate --dataset shapes --split 1 --categories novel --config tiny --model WEIGHTS.h5
#     siamese-mrcnn evaluate --dataset shapes --model random-boxes
#     siamese-mrcnn evaluate --dataset shapes --control present --config tiny --model WEIGHTS.h5
#
# `--min-confidence 0.05` sets the minimum score; `--out` gets the records, metrics by category, plots and a report
# beside the published results; `--resume`, `--shard` and `--merge` stop, resume and share a long evaluation.
