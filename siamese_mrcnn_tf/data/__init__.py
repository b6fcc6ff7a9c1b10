"""Data sets, references and training samples, without Keras.

annotations: COCO annotation files, checked.
dataset: Dataset, CocoDataset, IndexedCocoDataset, and the category splits.
coco: COCO's 80 categories, and whether a data set is one of its subsets.
references: drawing reference instances, and their crops.
resize: scikit-image's and scipy's resizing of images and masks.
molding: scenes and references as the network takes them, and its detections back in pixels of the image.
augmentation: horizontal flips, and imgaug.
data_generator: training samples and batches.
rpn_targets: positive and negative anchors, and their deltas.
loader: batches loaded ahead of time by threads or worker processes.
checks: counts and findings of a data set.
formats: importers of annotation tools.
"""
