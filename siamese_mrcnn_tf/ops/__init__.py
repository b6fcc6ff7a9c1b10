"""Geometry and the primitives that differ between backends.

boxes: boxes in numpy.
anchors: anchor boxes of the feature pyramid, in numpy.
box_ops: boxes as tensors.
kernels: non-maximum suppression and crop-and-resize on each backend.
image_meta: the vector that describes a molded image.
"""
