"""The network, on tensors only.

backbone: ResNet and the feature pyramid (FPN).
matching: a scene's feature maps matched with the reference, the siamese part.
rpn: anchors, the region proposal network, and proposals.
roi_align: crops of the feature maps at the proposals.
roi_heads: the class and box head, and the mask head.
presence: whether the category of the reference is in the scene at all, an option.
detection: from class scores and box deltas to detections.
detection_targets: which proposals the heads train on, and their targets.
reference_classifier: references classified by category, for training alone, an option.
losses: the losses and weight decay.
network: all layers with weights, and the inference models built over them.
training_network: the training graph over the same layers.
"""
