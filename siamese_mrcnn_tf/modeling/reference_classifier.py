"""A classifier of references by category, for training alone: it teaches embeddings what tells categories apart.

Pre-training on instances uses it, and training with REFERENCE_CLASSES, which keeps embeddings as good as they were.
Embeddings are standardized and compared by a cosine, as verification does (`ops.similarity`). The original has none.
"""

from typing import Any

import keras
from keras import layers as KL
from keras import ops

from ..ops.box_ops import Tensor

_SCALE = 16.0
_LEVELS = 4  # P2..P5


@keras.saving.register_keras_serializable(package="siamese_mrcnn_tf")
class CosineClassifier(KL.Layer):
    """Cosines with a vector for each class, times a fixed scale (NormFace, arXiv 1704.06369).

    [batch, n] -> [batch, classes].

    Args:
        num_classes: number of classes.
    """

    def __init__(self, num_classes: int, **kwargs: Any) -> None:
        super().__init__(**{"dtype": "float32", **kwargs})
        self.num_classes = num_classes

    def build(self, input_shape: Any) -> None:
        self.kernel = self.add_weight(name="kernel", shape=(input_shape[-1], self.num_classes))

    def call(self, features: Tensor) -> Tensor:
        return _SCALE * ops.matmul(ops.normalize(features, axis=-1), ops.normalize(self.kernel, axis=0))

    def compute_output_shape(self, input_shape: Any) -> tuple:
        return (input_shape[0], self.num_classes)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "num_classes": self.num_classes}


def classify_graph(averages: list[Tensor], num_classes: int, name: str) -> Tensor:
    """Logits [batch, classes] from the averages of P2..P5, each [batch, channels]; `name` is the classifier's."""
    joined = KL.Concatenate(dtype="float32")(averages)
    standardized = KL.BatchNormalization(center=False, scale=False, dtype="float32", name="standardized")(joined)
    return CosineClassifier(num_classes, name=name)(standardized)


def reference_logits_graph(embedding: Tensor, num_classes: int) -> Tensor:
    """Logits [batch, classes] of references from their embedding [batch, levels, channels]."""
    averages = [embedding[:, level] for level in range(_LEVELS)]
    return classify_graph(averages, num_classes, "reference_classifier")
