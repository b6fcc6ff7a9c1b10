"""Shapes, a data set that the package draws itself, and the demo on it.

outlines: the outlines of the 20 named categories, and stamps of any category.
grammar: outlines of further categories, 1,000 with the named ones (grammar_seeds.txt).
parts: polygons that outlines are made of.
scenes: scenes and their annotations.
dataset: the data set on disk.
schedules: training schedules for it.
demo: pre-training, training and evaluation on it.
demo_page: the page that shows the results.
siamese_mrcnn_shapes_s1.h5: weights trained on split 1.
"""
