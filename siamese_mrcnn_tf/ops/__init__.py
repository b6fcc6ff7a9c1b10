"""Operations on boxes and embeddings, and those that differ between Keras backends.

boxes: boxes in numpy.
polygons: outlines of masks, in numpy.
anchors: anchors of the feature pyramid, in numpy.
similarity: the similarity of a find and a reference, in numpy.
box_ops: boxes as tensors.
kernels: non-maximum suppression and crop-and-resize on each backend.
image_meta: the vector that describes a molded image.
"""
