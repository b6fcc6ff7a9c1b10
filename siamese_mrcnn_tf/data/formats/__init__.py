"""Importers of annotation tools: each converts its files to a COCO-format data set.

via: reads and checks annotations of the VGG Image Annotator.
via_tree: writes them as a COCO-format data set.
"""
