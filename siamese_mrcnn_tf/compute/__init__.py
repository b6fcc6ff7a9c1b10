"""The dense parts of the network in OpenVINO, for the predictor.

Backbone, pyramid, matching, RPN and heads are convolutions and matrix products, which OpenVINO computes faster than
TensorFlow, in bfloat16 or int8 too. Proposals, pooling, suppression and detections stay those of `modeling`, in
TensorFlow and float32: their rules at edges are part of released weights.
"""
