"""The one-shot evaluation protocol (paper, Algorithm 1).

protocol: `evaluate`, `rescore` and `merge`.
queries: what is asked of each image, and who answers: the model or random boxes.
references: samplers of references.
records: the files that hold every query and its detections.
coco_scores: COCOeval's metrics, and their mean and confidence interval over runs.
analysis: metrics by category and by number of instances, and the confusion of categories.
original: `evaluate_dataset`, the original's function.
"""

from .. import lazy_names

__getattr__ = lazy_names(__name__, ".protocol", ".coco_scores", ".records")
