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
# # Training
#
# A complete training run within seconds: configuration, data sets, initial weights, stages, loss curves and resuming.
# The model learns little in so few steps, but every part of a long run is here. The package draws the scenes.

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

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"  # TensorFlow says less
sys.path[:0] = ["..", "."]  # runs from a checkout that is not installed

import keras

from siamese_mrcnn_tf import IndexedCocoDataset, SiameseMaskRCNN, TinyConfig, get_one_target, plot_losses, visualize
from siamese_mrcnn_tf.data.data_generator import TrainingSamples
from siamese_mrcnn_tf.data.dataset import split_classes
from siamese_mrcnn_tf.data.resize import expand_mask
from siamese_mrcnn_tf.shapes import dataset as shapes

WEIGHTS = Path(shapes.__file__).with_name("siamese_mrcnn_shapes_s1.h5")  # comes with the package

# %% [markdown]
# ## Configuration
#
# A class derived from a configuration sets what is different; `SmallConfig` and `LargeConfig` are those of the released
# weights. NAME and EXPERIMENT name the folder of the run. The learning rate that belongs to a batch changes with its
# size.


# %%
class ShapesConfig(TinyConfig):
    NAME = "shapes"
    EXPERIMENT = "notebook"
    IMAGES_PER_GPU = 4
    STEPS_PER_EPOCH = 5
    VALIDATION_STEPS = 2


config = ShapesConfig()
for name in ("BATCH_SIZE", "STEPS_PER_EPOCH", "IMAGE_SHAPE", "TARGET_SHAPE", "OPTIMIZER", "LEARNING_RATE"):
    print(f"{name:18} {getattr(config, name)}")

# %% [markdown]
# ## Data sets
#
# The last training images are set aside for validation during training. `ACTIVE_CLASSES` are the classes that are
# trained: here all but the novel ones of split 1. Instances of novel classes stay in the scenes, as background.

# %%
folder = tempfile.mkdtemp()
shapes.write_coco(folder, train=60, val=6, size=128, seed=7)


def load(subset, part=None):
    """A data set with the classes of split 1 active."""
    dataset = IndexedCocoDataset()
    dataset.load_coco(folder, subset, subsubset=part, val_images=12)
    dataset.prepare()
    dataset.build_indices()
    dataset.ACTIVE_CLASSES, _ = split_classes(dataset.num_classes - 1, split=1)
    return dataset


train_set, val_set = load("train", "train"), load("train", "val")
print(f"{train_set.num_images} images to train on, {val_set.num_images} for validation")
print(f"{len(train_set.ACTIVE_CLASSES)} of {train_set.num_classes - 1} classes are trained")

# %% [markdown]
# ## Samples
#
# What the network learns from: scenes, above each the reference, and the instances that are to be found with it.
# Objects of other classes are to be left alone.

# %%
training_samples = TrainingSamples(train_set, config, seed=0)
samples = [training_samples[number] for number in range(0, 8, 2)]
wanted = [sample.gt_class_ids > 0 for sample in samples]  # class 0: objects of other categories
boxes = [sample.gt_boxes[kept] for sample, kept in zip(samples, wanted, strict=True)]
mini_masks = [sample.gt_masks[..., kept] for sample, kept in zip(samples, wanted, strict=True)]
axes = visualize.display_grid(
    [sample.targets for sample in samples],
    [sample.image for sample in samples],
    boxes,
    [expand_mask(*each, config.IMAGE_SHAPE) for each in zip(boxes, mini_masks, strict=True)],
    [np.ones(len(each), int) for each in boxes],
    category_names_list=[train_set.class_names[sample.class_id] for sample in samples],
    captions=[[""] * len(each) for each in boxes],
    figsize=(6.5, 7),
)
display(axes[0].figure)

# %% [markdown]
# ## Model and initial weights
#
# `load_weights` finds weights by name. Without `exclude`, training continues from all weights; `exclude` keeps layers
# at their initial values, here the last ones of three branches, as for another task. The loss curves below show how
# they learn again. A backbone alone is loaded by `load_weights` too, or by `load_imagenet_weights("imagenet-687")` from
# the folder of checkpoints; `TinyConfig` has a backbone of its own, which `siamese-mrcnn pretrain` trains.

# %%
keras.utils.set_random_seed(0)  # for the initial values
model_dir = tempfile.mkdtemp()
model = SiameseMaskRCNN("training", config, model_dir)
report = model.load_weights(WEIGHTS, exclude=["rpn_class_raw", "mrcnn_class_logits", "mrcnn_mask"])
print(f"{len(report.loaded)} weights loaded, {len(report.excluded)} excluded, {len(report.missing)} missing")

# %% [markdown]
# ## First stage: heads
#
# Only heads, RPN and pyramid are trained; the backbone stays as it is. `epochs` is the epoch that the stage ends with.
# The progress bars, which `train` writes to standard error, are left out here.


# %%
def train(model, **stage):
    """`model.train` without its progress bars."""
    with contextlib.redirect_stderr(io.StringIO()):
        model.train(train_set, val_set, **stage)
    print(f"trained to the end of epoch {model.epoch}; weights: {Path(model.find_last()).name}")


train(model, learning_rate=config.LEARNING_RATE, epochs=3, layers="heads")

# %% [markdown]
# ## Resume from the last checkpoint, second stage: all layers
#
# The same model could continue with another call of `train`. Here a new one does, as it would in a new process: it
# loads the weights of the last finished epoch and continues with the next. Momentum starts anew, as at the start of
# each stage; the option `--resume` of the command also restores the optimizer and the position within an epoch.
# `layers` takes "heads", "rpn", "2+" to "5+" (the backbone from that stage on), "all", or a regular expression. Half of
# the samples are mirrored.

# %%
model = SiameseMaskRCNN("training", config, model_dir)
model.load_latest_checkpoint()
print(f"the last checkpoint is of epoch {model.epoch}")
train(model, learning_rate=config.LEARNING_RATE / 4, epochs=6, layers="all", augmentation="fliplr")

# %% [markdown]
# The folder of the run holds weights of the last epochs (`siamese_mrcnn_0006.h5` in the layout of the original), what a
# run needs to resume, the losses, and what TensorBoard reads:

# %%
print(Path(model.log_dir).name)
for path in sorted(Path(model.log_dir).iterdir()):
    print("   ", path.name)

# %% [markdown]
# ## Loss curves
#
# `history.csv` has a row for each epoch. A panel for each loss shows training and validation; the dotted line is where
# the learning rate changes. The last layers for the classes, for the anchors' classes and for the masks learn from
# nothing, so their losses end lower than they begin. Those of the boxes, whose layers were loaded, change little. All
# of them jump: there are few steps in an epoch, and few validation samples.

# %%
with open(Path(model.log_dir) / "history.csv", encoding="utf-8", newline="") as file:
    history = list(csv.DictReader(file))
figure = plot_losses(history, title="six short epochs")
figure.set_dpi(80)
display(figure)

# %% [markdown]
# ## Detection with the last checkpoint
#
# A model in inference mode takes the file of any epoch. In validation scenes that were not trained, one trained class
# each is searched for, with a reference from another scene (above it). The weights have only begun to adapt: expect
# some instances, and false detections beside them.

# %%
finder = SiameseMaskRCNN("inference", config.replace(DETECTION_MIN_CONFIDENCE=0.8), model_dir)
finder.load_latest_checkpoint()
test_set = load("val")
rng = np.random.default_rng(2)
wanted = [rng.choice(np.intersect1d(test_set.image_category_index[i], test_set.ACTIVE_CLASSES)) for i in range(4)]
scenes = [test_set.load_image(image_id) for image_id in range(4)]
references = [[get_one_target(class_id, train_set, config, rng=rng)] for class_id in wanted]
found = finder.detect(references, scenes)
axes = visualize.display_grid(
    references,
    scenes,
    [each["rois"] for each in found],
    [each["masks"] for each in found],
    [each["class_ids"] for each in found],
    [each["scores"] for each in found],
    category_names_list=[test_set.class_names[class_id] for class_id in wanted],
    figsize=(6.5, 7),
)
display(axes[0].figure)

# %% [markdown]
# ## The same by command line
#
# The whole of it, with schedules, checkpoints within epochs, several devices and resuming:
#
#     siamese-mrcnn train --dataset shapes --split 1 --config tiny --stages shapes --model PRETRAINED.h5
#     siamese-mrcnn train --config tiny --resume
#
# `--dataset` takes the folder of any set in COCO's layout, `--stages` a schedule by name or in a file.
# `docs/training.md` has all of it, `siamese-mrcnn demo` runs pre-training, training and evaluation on these scenes.
