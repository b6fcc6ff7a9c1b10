"""The one-shot evaluation protocol (paper, Algorithm 1).

protocol: `evaluate`, `rescore` and `merge`.
settings: `EvaluationSettings` and settings.json.
queries: the queries of an image, and the detectors: the model or random boxes.
references: samplers of references.
records: the files with all queries and their detections.
record_checks: whether stored records are those of an evaluation.
coco_scores: COCOeval's metrics of each run, and over runs.
intervals: means and confidence intervals.
presence: the open protocol's metrics, with queries for absent categories.
calibration: the verification of finds and the score threshold, fitted on annotated images.
analysis: metrics by number of instances, and the confusion of categories.
original: `evaluate_dataset`, the original's function.
average_precision: `compute_ap` of one image, Matterport's function.
"""

from .. import lazy_names

__getattr__ = lazy_names(
    __name__,
    {
        ".protocol": "Evaluation SCORES_FILE evaluate merge rescore",
        ".settings": "EvaluationSettings",
    },
)
