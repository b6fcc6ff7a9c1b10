"""Shapes, a data set that the package draws itself, and the demo on it.

outlines: the outlines of the 20 categories.
scenes: scenes and their annotations.
dataset: the data set on disk.
schedules: training schedules for it.
demo: pre-training, training and evaluation on it.
demo_page: the page that shows the results.
siamese_mrcnn_shapes_s1.h5: weights trained on split 1.
"""
