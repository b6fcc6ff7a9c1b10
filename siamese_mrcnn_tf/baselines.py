"""Baselines that go through the one-shot protocol in the place of a model."""

import numpy as np

from .boxes import extract_bboxes
from .config import Config

_LOWEST_SCORE = 0.8


class RandomBoxes:
    """The paper's random boxes: ground truth of the category, shifted at random inside the image with its masks.

    It knows which categories are there, how many instances, and their sizes and outlines, but not the places.
    Confidences are uniform in [0.8, 1]. What is found depends on (seed, run, image, class) alone.

    Args:
        config: a Config, kept with the records.
    """

    needs_references = False
    name = "random-boxes"

    def __init__(self, config=None):
        self.config = Config() if config is None else config

    def search(self, dataset, image_id, queries):
        """Detections of all queries of one image, as `evaluation_queries.ReferenceSearch.search` gives them."""
        return [self._shifted(dataset, image_id, query) for query in queries]

    def _shifted(self, dataset, image_id, query):
        key = (query.seed, query.run, dataset.image_info[image_id]["id"], query.class_id)
        rng = np.random.default_rng(key)
        masks = [dataset.instance_mask(image_id, index) for index in dataset.instances_of(image_id, query.class_id)]
        masks = [shifted_mask(mask, rng) for mask in masks if mask.any()]
        info = dataset.image_info[image_id]
        masks = np.stack(masks, axis=-1) if masks else np.zeros((info["height"], info["width"], 0), bool)
        scores = rng.uniform(_LOWEST_SCORE, 1, masks.shape[-1])
        order = np.argsort(-scores)
        scores, masks = scores[order], masks[..., order]
        class_ids = np.ones(len(scores), np.int32)
        return {"rois": extract_bboxes(masks), "class_ids": class_ids, "scores": scores, "masks": masks}


def shifted_mask(mask, rng):
    """A mask [height, width] at a random place, all places at which its box is inside the image alike: bool."""
    y1, x1, y2, x2 = extract_bboxes(mask[..., None])[0].tolist()
    height, width = y2 - y1, x2 - x1
    top = int(rng.integers(0, mask.shape[0] - height, endpoint=True))
    left = int(rng.integers(0, mask.shape[1] - width, endpoint=True))
    shifted = np.zeros(mask.shape, bool)
    shifted[top : top + height, left : left + width] = mask[y1:y2, x1:x2]
    return shifted
