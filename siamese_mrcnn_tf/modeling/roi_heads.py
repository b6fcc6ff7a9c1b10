"""The heads: region proposal network, box and class head, mask head.

Builders make a head's layers once, by the names of the original files; graph functions apply them, so that the training
model, the inference model and the parts of the predictor share them. Rois are folded into the batch axis.
"""

import keras
from keras import layers as KL
from keras import ops

from .backbone import BatchNorm
from .roi_align import PyramidROIAlign

_MASK_CONVS = 4


def build_classifier_layers(pool_size, num_classes, *, train_bn=False, fc_layers_size=1024):
    """Layers of the class and box head by name; arguments as in `fpn_classifier_graph`."""
    layers = (
        KL.Conv2D(fc_layers_size, pool_size, name="mrcnn_class_conv1"),
        BatchNorm(train_bn, name="mrcnn_class_bn1"),
        KL.Conv2D(fc_layers_size, 1, name="mrcnn_class_conv2"),
        BatchNorm(train_bn, name="mrcnn_class_bn2"),
        KL.Dense(num_classes, dtype="float32", name="mrcnn_class_logits"),
        KL.Dense(4, dtype="float32", name="mrcnn_bbox_fc"),
    )
    return {layer.name: layer for layer in layers}


def fpn_classifier_graph(rois, feature_maps, image_meta, layers, *, pool_size, canonical_size=224):
    """Class and box of each roi.

    Args:
        rois: [batch, n, (y1, x1, y2, x2)] normalized.
        feature_maps: matched P2..P5 [batch, h, w, channels].
        image_meta: [batch, meta].
        layers: of `build_classifier_layers`.
        pool_size: side of the pooled maps.
        canonical_size: pixels, see `PyramidROIAlign`.

    Returns:
        dict: roi_align_classifier [batch, n, pool, pool, channels], mrcnn_class_bn1 and mrcnn_class_bn2
        [batch, n, 1, 1, fc] before ReLU, mrcnn_class_logits and mrcnn_class [batch, n, classes],
        mrcnn_bbox [batch, n, (dy, dx, log(dh), log(dw))].
    """
    count = rois.shape[1]
    pooled = PyramidROIAlign((pool_size, pool_size), canonical_size, name="roi_align_classifier")(
        [rois, image_meta, *feature_maps]
    )
    bn1 = layers["mrcnn_class_bn1"](layers["mrcnn_class_conv1"](fold_rois(pooled)))
    bn2 = layers["mrcnn_class_bn2"](layers["mrcnn_class_conv2"](ops.relu(bn1)))
    shared = KL.Flatten()(ops.relu(bn2))
    logits = unfold_rois(layers["mrcnn_class_logits"](shared), count)
    return {
        "roi_align_classifier": pooled,
        "mrcnn_class_bn1": unfold_rois(bn1, count),
        "mrcnn_class_bn2": unfold_rois(bn2, count),
        "mrcnn_class_logits": logits,
        "mrcnn_class": KL.Activation("softmax", name="mrcnn_class")(logits),
        "mrcnn_bbox": UnfoldRois(count, name="mrcnn_bbox")(layers["mrcnn_bbox_fc"](shared)),
    }


def build_mask_layers(*, train_bn=False, channels=256):
    """Layers of the mask head by name."""
    layers = []
    for index in range(1, _MASK_CONVS + 1):
        layers.append(KL.Conv2D(channels, 3, padding="same", name=f"mrcnn_mask_conv{index}"))
        layers.append(BatchNorm(train_bn, name=f"mrcnn_mask_bn{index}"))
    layers.append(KL.Conv2DTranspose(channels, 2, strides=2, activation="relu", name="mrcnn_mask_deconv"))
    layers.append(KL.Conv2D(1, 1, activation="sigmoid", dtype="float32", name="mrcnn_mask"))
    return {layer.name: layer for layer in layers}


def build_fpn_mask_graph(rois, feature_maps, image_meta, layers, *, pool_size, canonical_size=224):
    """Mask of each roi.

    Args:
        rois, feature_maps, image_meta, canonical_size: see `fpn_classifier_graph`.
        layers: of `build_mask_layers`.
        pool_size: side of the pooled maps; masks have twice of it.

    Returns:
        dict: roi_align_mask [batch, n, pool, pool, channels], mrcnn_mask_bn1..4 [batch, n, pool, pool, channels] before
        ReLU, mrcnn_mask_deconv [batch, n, 2 pool, 2 pool, channels], mrcnn_mask [batch, n, 2 pool, 2 pool].
    """
    count = rois.shape[1]
    pooled = PyramidROIAlign((pool_size, pool_size), canonical_size, name="roi_align_mask")(
        [rois, image_meta, *feature_maps]
    )
    outputs, x = {"roi_align_mask": pooled}, fold_rois(pooled)
    for index in range(1, _MASK_CONVS + 1):
        x = layers[f"mrcnn_mask_bn{index}"](layers[f"mrcnn_mask_conv{index}"](x))
        outputs[f"mrcnn_mask_bn{index}"] = unfold_rois(x, count)
        x = ops.relu(x)
    x = layers["mrcnn_mask_deconv"](x)
    outputs["mrcnn_mask_deconv"] = unfold_rois(x, count)
    outputs["mrcnn_mask"] = unfold_rois(layers["mrcnn_mask"](x), count)[..., 0]
    return outputs


def fold_rois(x):
    """[batch, n, ...] -> [batch * n, ...]."""
    return ops.reshape(x, (-1, *x.shape[2:]))


def unfold_rois(x, count):
    """[batch * n, ...] -> [batch, n, ...] with n = count."""
    return ops.reshape(x, (-1, count, *x.shape[1:]))


@keras.saving.register_keras_serializable(package="siamese_mrcnn_tf")
class UnfoldRois(KL.Layer):
    """`unfold_rois` as a layer, where the result is to be found by name.

    Args:
        count: rois of an image.
    """

    def __init__(self, count, **kwargs):
        super().__init__(**kwargs)
        self.count = count

    def call(self, x):
        return unfold_rois(x, self.count)

    def compute_output_shape(self, input_shape):
        return (None, self.count, *input_shape[1:])

    def get_config(self):
        return {**super().get_config(), "count": self.count}
