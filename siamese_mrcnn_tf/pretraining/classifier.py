"""Pre-training of the backbone: a classifier over ImageNet, without the classes that COCO has too.

    train = imagenet.find_images(data_dir, "train", 687)
    val = imagenet.find_images(data_dir, "val", 687)
    config = pretraining_config(SmallConfig(), batch=256)
    classifier = build_classifier(config, train.num_classes)
    pretrain(classifier, config, Recipe(), train, val, folder)

The recipe is that of He et al. (arXiv 1512.03385), in the form of Goyal et al. (arXiv 1706.02677). Images are molded as
in the detector. Expected, from the literature: a top-1 accuracy of 76 % on ImageNet-1k's validation images after 90
epochs.
"""

import contextlib
import dataclasses
import math
import shutil
import threading
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers as KL
from keras import ops

from ..config import Config
from ..data.loader import SampleLoader
from ..io.errors import InputError
from ..io.files import StrPath, atomic_path
from ..modeling.backbone import build_fpn_model, build_resnet_model
from ..modeling.network import dtype_policy
from ..modeling.reference_classifier import classify_graph
from ..training.checkpoints import CheckpointManager
from ..training.distribution import replicas_in_sync
from ..training.schedules import Stage
from ..training.trainer import Trainer, TrainingSettings
from ..training.training_model import make_optimizer, uses_xla
from . import imagenet

WEIGHT_DECAY = 1e-4
REFERENCE_BATCH = 256  # the learning rate is in proportion to the batch
_DECAY_AT, _DECAY = ((1, 3), (2, 3), (8, 9)), 0.1  # fractions of the epochs: 30, 60 and 80 of 90
_ADAM_RATE = 0.004
_WARM_UP_EPOCHS = 5  # for batches above the reference
_MASK_WEIGHT = 2.0
_CLASSIFIER_STD = 0.01  # of the initial weights of the last layers, from Goyal et al.


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How to train.

    Attributes:
        epochs: number of epochs; the learning rate drops to a tenth after 1/3, 2/3 and 8/9 of them.
        steps_per_epoch: None for one pass through the images.
        learning_rate: for a batch of 256; with `decay` "cosine" the highest one, for any batch.
        size: side of a crop in pixels.
        seed: of initial weights and samples.
        decay: "steps" as described, or "cosine" (see `schedules.Stage.decay_to`).
        weight_decay: factor of half the sum of squares of all kernels.
        mask_weight: of the loss of the instances' masks (`build_classifier`); 0 for images without masks.
        cosine: see `build_classifier`.
    """

    epochs: int = 90
    steps_per_epoch: int | None = None
    learning_rate: float = 0.1
    size: int = 224
    seed: int = 0
    decay: str = "steps"
    weight_decay: float = WEIGHT_DECAY
    mask_weight: float = 0.0
    cosine: bool = False


def recipe_of(config: Config, *, instances: bool = False) -> Recipe:
    """The recipe for a configuration's optimizer: ImageNet's; for Adam 20 epochs of 100 steps without weight decay.

    With Adam, `instances` of a data set are trained with their masks and classified by cosines.
    """
    if config.OPTIMIZER == "adam":
        recipe = Recipe(20, 100, _ADAM_RATE, decay="cosine", weight_decay=0.0)
        return dataclasses.replace(recipe, mask_weight=_MASK_WEIGHT, cosine=True) if instances else recipe
    return Recipe()


def pretraining_config(config: Config, *, batch: int = REFERENCE_BATCH, devices: int = 1) -> Config:
    """The configuration with batch normalization that trains its statistics; only its backbone and FPN are used.

    ValueError if `devices` cannot share the `batch` of a step evenly, or the network cannot be built.
    """
    if batch % devices:
        raise InputError(f"batch = {batch}: cannot be shared evenly by {devices} devices")
    config = config.replace(TRAIN_BN=None, GPU_COUNT=devices, IMAGES_PER_GPU=batch // devices)
    config.validate_backbone_training()
    return config


def pretraining_schedule(recipe: Recipe, batch: int) -> tuple[Stage, ...]:
    """Stages of a recipe; the learning rate is in proportion to `batch`, the images of a step over all devices.

    Above the reference batch it begins with a warm-up.
    """
    if recipe.decay == "cosine":
        return (Stage(recipe.epochs, "all", recipe.learning_rate, decay_to=recipe.epochs),)
    peak = recipe.learning_rate * batch / REFERENCE_BATCH
    ends = [-(-recipe.epochs * part // whole) for part, whole in (*_DECAY_AT, (1, 1))]
    stages: list[Stage] = []
    if batch > REFERENCE_BATCH:
        shares = [(epoch + 0.5) / _WARM_UP_EPOCHS for epoch in range(min(_WARM_UP_EPOCHS, ends[0] - 1))]
        rates = [recipe.learning_rate + share * (peak - recipe.learning_rate) for share in shares]
        stages = [Stage(epoch, "all", rate) for epoch, rate in enumerate(rates, start=1)]
    for index, end in enumerate(ends):
        if end > (stages[-1].epochs if stages else 0):
            stages.append(Stage(end, "all", peak * _DECAY**index))
    return tuple(stages)


def pretrain(
    classifier: "Classifier",
    config: Config,
    recipe: Recipe,
    train: imagenet.LabeledImages,
    val: imagenet.LabeledImages | None,
    path: StrPath,
    *,
    resume: bool = False,
    workers: int = 1,
    processes: bool = False,
    keep: int = 3,
    save_every: int = 250,
    progress: bool = True,
    stop: threading.Event | None = None,
    on_begin: Callable[[], None] | None = None,
) -> tuple[Path, list[dict[str, Any]]]:
    """Train a classifier, in a folder from which the run resumes after any stop.

    Args:
        classifier, config: from `build_classifier` and `pretraining_config`.
        train, val: images of training and of validation; None for no validation.
        path: folder of the run. At the end it also holds the weights of the backbone, and of the pyramid if the
            classifier has one: `train.name`.h5, such as imagenet_687.h5.
        resume: resume the run in the folder.
        workers, processes: see `loader.SampleLoader`.
        keep: see `checkpoints.CheckpointManager`.
        save_every, progress: see `trainer.TrainingSettings`.
        stop: once it is set, the run saves and stops.
        on_begin: called when everything is checked and nothing is written.

    Returns:
        (path of the backbone's weights, history: a dict for each epoch). Errors as those of `trainer.Trainer`.
    """
    name, batch = train.name, config.BATCH_SIZE
    folder = CheckpointManager(path, classifier.encoder, keep=keep, name=name + "_{epoch:04d}")
    val_steps, val_batch = _even_batches(0 if val is None else len(val), batch, config.GPU_COUNT)
    steps = recipe.steps_per_epoch or max(1, len(train) // batch)
    fixed = {"size": recipe.size, "classes": train.num_classes, "images": len(train)}
    settings = TrainingSettings(steps, val_steps, save_every, recipe.seed, progress, fixed)
    trainer = _ClassifierTrainer(classifier, classifier, config, folder, settings, stop=stop)
    if resume:
        trainer.resume()
    made_by: Any = {"workers": workers, "processes": processes, "collate": imagenet.make_crop_batch}
    with contextlib.ExitStack() as stack:
        crops = imagenet.RandomCrops(train, recipe.size, seed=recipe.seed)
        loader, val_loader = stack.enter_context(SampleLoader(crops, config, **made_by)), None
        if val is not None and val_steps:
            val_crops = imagenet.CentreCrops(val, recipe.size)
            val_loader = stack.enter_context(SampleLoader(val_crops, config, batch_size=val_batch, **made_by))
        schedule = pretraining_schedule(recipe, batch)
        trainer.check(schedule)
        if on_begin is not None:
            on_begin()
        trainer.run(schedule, loader, val_loader)
    trained = folder.path / f"{name}.h5"
    with atomic_path(trained) as temporary:
        shutil.copyfile(folder.path / f"{name}_{trainer.state.epoch:04d}.h5", temporary)
    return trained, trainer.state.history


# ---- model -------------------------------------------------------------------------------------------------------


class Classifier(keras.Model):
    """A functional Keras model that learns to classify.

    Args:
        inputs: dict of input_image and input_label, as from `imagenet.make_crop_batch`, and perhaps input_mask.
        outputs: dict of logits [batch, heads, classes] and input_label [batch], and with masks mask_logits and
            mask_targets [batch, h, w].
        weight_decay: factor of half the sum of squares of all kernels.
        mask_weight: factor of the binary cross-entropy of the masks; 0 without masks.
    """

    def __init__(
        self, inputs: Any, outputs: Any, *, weight_decay: float, mask_weight: float = 0.0, **kwargs: Any
    ) -> None:
        super().__init__(inputs, outputs, **kwargs)
        self.weight_decay, self.mask_weight = weight_decay, mask_weight
        names = ["cross_entropy", "top1", *(["mask_loss"] if mask_weight else [])]
        self.trackers = [keras.metrics.Mean(name=name) for name in names]

    @property
    def encoder(self) -> types.SimpleNamespace:
        """An object with the `layers` that are saved: resnet_model and perhaps fpn_model."""
        return types.SimpleNamespace(layers=[layer for layer in self.layers if isinstance(layer, keras.Model)])

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        """Cross-entropy and weight decay of a batch: a scalar, with several devices this one's share of it."""
        logits = y_pred["logits"]
        found = [classification_graph(y_pred["input_label"], logits[:, head]) for head in range(logits.shape[1])]
        counts, values = found[0][0], [sum(parts) / len(found) for parts in list(zip(*found, strict=True))[1:]]
        if self.mask_weight:
            values.append(mask_loss_graph(y_pred["mask_targets"], y_pred["mask_logits"]))
        for tracker, value in zip(self.trackers, values, strict=True):
            tracker.update_state(value, sample_weight=counts)
        each = values[0] + (self.mask_weight * values[2] if self.mask_weight else 0.0)
        total = ops.sum(each * counts) / ops.maximum(ops.sum(counts), 1.0)
        kernels = [variable.value for variable in self.trainable_variables if variable.name == "kernel"]
        decay = ops.sum(ops.stack([ops.sum(ops.square(kernel)) for kernel in kernels]))
        return (total + 0.5 * self.weight_decay * decay) / replicas_in_sync()


def build_classifier(
    config: Config,
    num_classes: int,
    *,
    pyramid: bool = False,
    weight_decay: float = WEIGHT_DECAY,
    mask_weight: float = 0.0,
    cosine: bool = False,
    seed: int = 0,
) -> Classifier:
    """The backbone of a configuration with a linear classifier on the average of C5, with seeded initial weights.

    Args:
        config: from `pretraining_config`.
        pyramid: train the feature pyramid too, with another classifier on the average of each of P2 to P5.
        weight_decay: see `Classifier`.
        mask_weight: weight of the loss of masks, which a 1x1 convolution predicts from P2; needs `pyramid`. Masks
            teach the network what in a crop is the object.
        cosine: replace the linear classifiers by one on the cosines of the standardized averages of P2 to P5, the
            similarity that verification uses; needs `pyramid`.
        seed: of the initial weights.
    """
    with dtype_policy(config.PRECISION):
        image = keras.Input((None, None, 3), name="input_image")
        label = keras.Input((), dtype="int32", name="input_label")
        stages = build_resnet_model(config)(image)
        maps, inputs, outputs = {"5": stages[-1]}, {"input_image": image, "input_label": label}, {"input_label": label}
        if pyramid:
            fpn_model = build_fpn_model([stage.shape[-1] for stage in stages[1:]], config.FPN_FEATUREMAPS)
            maps |= {f"_p{level}": one for level, one in zip(range(2, 6), fpn_model(stages[1:]), strict=False)}
        if mask_weight:
            inputs["input_mask"] = mask = keras.Input((None, None), name="input_mask")
            pool = KL.AveragePooling2D(config.BACKBONE_STRIDES[0], dtype="float32")
            outputs["mask_targets"] = pool(mask[..., None])[..., 0]
            outputs["mask_logits"] = KL.Conv2D(1, 1, dtype="float32", name="mask")(maps["_p2"])[..., 0]
        pooled = {name: KL.GlobalAveragePooling2D(name=f"pool{name}")(one) for name, one in maps.items()}
        if cosine:
            averages = [one for name, one in pooled.items() if name != "5"]
            outputs["logits"] = classify_graph(averages, num_classes, "classifier")[:, None]
        else:
            names = {name: "classifier" + name.removeprefix("5") for name in pooled}
            heads = [KL.Dense(num_classes, dtype="float32", name=names[name])(one) for name, one in pooled.items()]
            outputs["logits"] = ops.stack(heads, axis=1)
    model = Classifier(inputs, outputs, weight_decay=weight_decay, mask_weight=mask_weight, name="imagenet")
    _set_initial_weights(model, seed)
    return model


def classification_graph(labels: Any, logits: Any) -> tuple[Any, Any, Any]:
    """Cross-entropy and correctness of a batch.

    Args:
        labels: int [batch]; NO_LABEL for samples that do not count.
        logits: [batch, classes].

    Returns:
        (counts, cross_entropy, is_right), float [batch] each; counts is 1, or 0 without a label; is_right is 1 if the
        label has the highest logit.
    """
    counts = ops.cast(labels != imagenet.NO_LABEL, "float32")
    log_probabilities = ops.log_softmax(ops.cast(logits, "float32"), axis=-1)
    # a label out of range is a row of zeros in one_hot
    cross_entropy = -ops.sum(ops.one_hot(labels, logits.shape[-1]) * log_probabilities, axis=-1)
    is_right = ops.cast(ops.cast(ops.argmax(logits, axis=-1), "int32") == ops.cast(labels, "int32"), "float32")
    return counts, cross_entropy, is_right


def mask_loss_graph(targets: Any, logits: Any) -> Any:
    """Binary cross-entropy of each sample [batch], from targets in 0..1 and logits, both [batch, h, w]."""
    losses = ops.relu(logits) - logits * targets + ops.softplus(-ops.abs(logits))
    return ops.mean(losses, axis=(1, 2))


def _set_initial_weights(model: keras.Model, seed: int) -> None:
    """Normal with the variance 2 / (outputs of a kernel) in convolutions (He et al., arXiv 1502.01852)."""
    kernels = [variable for variable in model.trainable_variables if variable.name == "kernel"]
    for index, kernel in enumerate(kernels):
        height_width, channels = kernel.shape[:-2], kernel.shape[-1]
        is_inner = height_width and channels > 1  # the last layers are dense, and the mask's single channel
        std = math.sqrt(2 / (math.prod(height_width) * channels)) if is_inner else _CLASSIFIER_STD
        kernel.assign(std * np.random.default_rng([seed, index]).standard_normal(kernel.shape, np.float32))


class _ClassifierTrainer(Trainer):
    """Trains without gradient clipping."""

    def _compile(self, learning_rate: Any) -> None:
        self.model.compile(make_optimizer(self.config, learning_rate), jit_compile=uses_xla(self.config))


def _even_batches(count: int, maximum: int, devices: int) -> tuple[int, int]:
    """(steps, batch) for one pass through `count` images in batches of up to `maximum`, as even as possible."""
    if not count:
        return 0, maximum
    steps = -(-count // maximum)
    batch = -(-count // steps)
    return steps, -(-batch // devices) * devices
