"""Pre-training of backbone and FPN by classification.

classifier: the classifier and its training.
imagenet: ImageNet's images, without the classes that COCO has too.
instance_crops: instances of a COCO-format data set in place of ImageNet.
"""

from .. import lazy_names

CLASS_SETS = {687: "imagenet_687", 771: "imagenet_771", 1000: "imagenet_1k"}  # classes -> name of the weight file

__getattr__ = lazy_names(
    __name__,
    {
        ".classifier": "Classifier REFERENCE_BATCH Recipe WEIGHT_DECAY build_classifier classification_graph pretrain "
        "pretraining_config pretraining_schedule recipe_of"
    },
)
