"""Training.

trainer: the training loop.
callbacks: what happens after each step; stopping on signals.
batches: batches for `fit`.
training_model: the Keras model with its losses, and its optimizer.
schedules: stages of training.
trainable_layers: which layers a stage trains.
checkpoints: the folder of a run, for resuming.
board: losses for TensorBoard.
distribution: several devices and machines.
machines: what TF_CONFIG says of several machines.
"""

from .. import lazy_names

__getattr__ = lazy_names(
    __name__,
    {
        ".trainer": "Trainer TrainingSettings train_on_dataset",
        ".callbacks": "TrainingStopped stopping_on_signals",
    },
)
