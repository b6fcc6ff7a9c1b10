"""Data sets, references and training samples, without Keras.

annotations: COCO annotation files, checked.
dataset: Dataset, CocoDataset, IndexedCocoDataset, and the category splits.
references: which instances serve as references, and their crops.
resize: scikit-image's and scipy's resizing of images and masks.
molding: scenes and references as the network takes them, and its detections back in pixels of the image.
augmentation: horizontal flips, and imgaug.
data_generator: training samples and batches.
rpn_targets: which anchors the RPN trains on, and their targets.
loader: samples made ahead of time by threads or processes.
checks: what a data set holds, and what is broken in it.
formats: importers of annotation tools.
"""
