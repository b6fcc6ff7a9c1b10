"""Pre-training of backbone and FPN by classification.

classifier: the classifier and its training.
imagenet: ImageNet's images and the categories that are left out.
instance_crops: crops of a COCO-format data set's instances in the place of ImageNet.
"""

from .. import lazy_names

CLASS_SETS = {687: "imagenet_687", 771: "imagenet_771", 1000: "imagenet_1k"}  # classes -> name of the weight file

__getattr__ = lazy_names(__name__, ".classifier")
