"""The model that trains: the weighted losses and the weight decay in one compiled step.

A batch is a list or dict of the inputs of `training_network.build_training_network`, without separate targets.

Private methods of Keras are overridden here: `_maybe_symbolic_build`, `_clip_gradients`, `_all_reduce_sum_gradients`,
on JAX `_symbolic_build`. Tested with Keras 3.14 and 3.15; tests/test_training_model.py fails if Keras no longer calls
one of the first three.
"""

from collections.abc import Mapping
from typing import Any

import keras

from ..config import Config
from ..modeling import losses, training_network
from ..ops.tracing import allowing_winograd, compiling_xla
from .distribution import replicas_in_sync, shaped_logs, strategy_scope

LOSS_NAMES = ("rpn_class_loss", "rpn_bbox_loss", "mrcnn_class_loss", "mrcnn_bbox_loss", "mrcnn_mask_loss")
PRESENCE_LOSS, REFERENCE_LOSS = "presence_loss", "reference_loss"  # with USE_PRESENCE and with REFERENCE_CLASSES
_FURTHER_WEIGHTS = {PRESENCE_LOSS: 1.0, REFERENCE_LOSS: 1.0}  # defaults
Logs = dict[str, Any]


class TrainingModel(keras.Model):
    """A functional Keras model whose loss is that of the paper.

    `train_on_batch(inputs, return_dict=True)` returns `loss`, weighted and with weight decay, and the weighted losses
    by name: those of LOSS_NAMES, with USE_PRESENCE also `presence_loss`, with REFERENCE_CLASSES `reference_loss`.

    Args:
        inputs, outputs: of `training_network.build_training_network`.
        loss_weights: loss name -> weight.
        weight_decay: see `losses.weight_decay_graph`.
    """

    def __init__(
        self,
        inputs: Any,
        outputs: Any,
        *,
        loss_weights: Mapping[str, float],
        weight_decay: float,
        **kwargs: Any,
    ) -> None:
        super().__init__(inputs, outputs, **kwargs)
        self.loss_weights, self.weight_decay = dict(loss_weights), weight_decay
        names = [name for name in LOSS_NAMES if "mask" not in name or "mrcnn_mask" in outputs]
        names += [PRESENCE_LOSS] if "presence_logit" in outputs else []
        names += [REFERENCE_LOSS] if "reference_logits" in outputs else []
        self.loss_trackers = [keras.metrics.Mean(name=name) for name in names]

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        """The total loss of a batch: a scalar, with several devices this one's share of it."""
        found = losses_graph(y_pred)
        total = losses.weight_decay_graph(self.trainable_variables, self.weight_decay)
        for tracker in self.loss_trackers:
            loss = found[tracker.name] * self.loss_weights[tracker.name]
            tracker.update_state(loss)
            total = total + loss
        return total / replicas_in_sync()

    def train_step(self, *given: Any) -> Any:
        """The step of Keras, with logs that `fit` can take on several machines; on JAX it takes and returns a state."""
        with compiling_xla(self.jit_compile), allowing_winograd():  # while the step is traced
            return shaped_logs(super().train_step(*given))

    def test_step(self, *given: Any) -> Any:
        """As `train_step`."""
        with compiling_xla(self.jit_compile):
            return shaped_logs(super().test_step(*given))

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        """Build the optimizer only. Keras would run a batch first, on several devices the mean of their batches, which
        fails for booleans and unequal parts.
        """
        build_optimizer(self)

    _symbolic_build = _maybe_symbolic_build  # its name on JAX


def build_training_model(config: Config, layers: Any, *, seed: int | None = None) -> TrainingModel:
    """The training model of a configuration, not compiled; ValueError if the configuration cannot be trained.

    `layers` are those of `network.build_layers`; `seed` is for the sampling of rois.
    """
    graph = training_network.build_training_network(config, layers, seed=seed)
    return TrainingModel(
        graph.inputs,
        graph.outputs,
        loss_weights=_FURTHER_WEIGHTS | config.LOSS_WEIGHTS,
        weight_decay=config.WEIGHT_DECAY,
        name="mask_rcnn",
    )


class _ReducedClip(keras.optimizers.Optimizer):
    """Makes an optimizer's `global_clipnorm` apply to the gradients of all devices together, after their sum.

    Keras 3 clips on each device before it sums. On one device nothing changes.
    """

    def _clip_gradients(self, grads: list[Any]) -> list[Any]:
        return super()._clip_gradients(grads) if replicas_in_sync() == 1 else grads

    def _all_reduce_sum_gradients(self, grads_and_vars: Any) -> list[tuple[Any, Any]]:  # of Keras' TensorFlow backend
        reduced = list(super()._all_reduce_sum_gradients(grads_and_vars))
        if replicas_in_sync() == 1:
            return reduced
        clipped = super()._clip_gradients([gradient for gradient, _ in reduced])
        return [(gradient, variable) for gradient, (_, variable) in zip(clipped, reduced, strict=True)]


class ReducedClipSGD(_ReducedClip, keras.optimizers.SGD):
    """Keras' SGD that clips the gradients of all devices together."""


class ReducedClipAdam(_ReducedClip, keras.optimizers.Adam):
    """Keras' Adam that clips the gradients of all devices together."""


def compile_model(model: keras.Model, config: Config, *, learning_rate: Any, momentum: float | None = None) -> None:
    """Compile a training model with a new optimizer, whose momentum is 0.

    Args:
        config: reads OPTIMIZER, LEARNING_MOMENTUM, ADAM_BETA_2, GRADIENT_CLIP_NORM and USE_XLA.
        learning_rate: a number, or a schedule of Keras.
        momentum: for Adam beta 1; LEARNING_MOMENTUM by default.
    """
    with strategy_scope(model):
        optimizer = make_optimizer(config, learning_rate, momentum, global_clipnorm=config.GRADIENT_CLIP_NORM)
        # XLA is slower than TensorFlow's own kernels on a CPU
        model.compile(optimizer, jit_compile=uses_xla(config))


def uses_xla(config: Config) -> bool:
    """Whether training steps are compiled with XLA: as configured on TensorFlow, always on JAX."""
    return config.USE_XLA or keras.backend.backend() != "tensorflow"


def make_optimizer(config: Config, learning_rate: Any, momentum: float | None = None, **settings: Any) -> _ReducedClip:
    """The optimizer of a configuration; arguments as in `compile_model`, and those of Keras' optimizers."""
    momentum = config.LEARNING_MOMENTUM if momentum is None else momentum
    if config.OPTIMIZER == "adam":
        return ReducedClipAdam(learning_rate, momentum, config.ADAM_BETA_2, **settings)
    return ReducedClipSGD(learning_rate, momentum, **settings)


def build_optimizer(model: keras.Model) -> None:
    """Create the optimizer's variables, unless it has them."""
    if not model.optimizer.built:
        with strategy_scope(model):
            model.optimizer.build(model.trainable_variables)


def losses_graph(outputs: Mapping[str, Any]) -> dict[str, Any]:
    """The unweighted losses of a batch from the training network's outputs, by name.

    They are scalars: those of LOSS_NAMES, mrcnn_mask_loss only with masks, and with USE_PRESENCE presence_loss, with
    REFERENCE_CLASSES reference_loss.
    """
    classes, match = outputs["target_class_ids"], outputs["input_rpn_match"]
    found = {
        "rpn_class_loss": losses.rpn_class_loss_graph(match, outputs["rpn_class_logits"]),
        "rpn_bbox_loss": losses.rpn_bbox_loss_graph(outputs["input_rpn_bbox"], match, outputs["rpn_bbox"]),
        "mrcnn_class_loss": losses.mrcnn_class_loss_graph(classes, outputs["mrcnn_class_logits"]),
        "mrcnn_bbox_loss": losses.mrcnn_bbox_loss_graph(outputs["target_bbox"], classes, outputs["mrcnn_bbox"]),
    }
    if "mrcnn_mask" in outputs:
        found["mrcnn_mask_loss"] = losses.mrcnn_mask_loss_graph(outputs["target_mask"], classes, outputs["mrcnn_mask"])
    if "presence_logit" in outputs:
        found[PRESENCE_LOSS] = losses.presence_loss_graph(outputs["target_presence"], outputs["presence_logit"])
    if "reference_logits" in outputs:
        found[REFERENCE_LOSS] = losses.reference_loss_graph(outputs["target_class"], outputs["reference_logits"])
    return found
