"""Importers of annotation tools: each turns its files into a COCO-format data set.

via: annotations of the VGG Image Annotator, read and checked.
via_tree: the COCO-format data set made of them.
"""
