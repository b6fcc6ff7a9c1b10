"""What an exported network finds in a scene, beside what the network itself finds there."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from ..base_predictor import Arrays, BasePredictor
from ..data import molding
from ..io.errors import InputError

MAX_BOX, MAX_SCORE, MAX_MASK = 1.0, 1e-3, 1e-2  # pixels of the molded image, score, probability of a mask's pixel
_NOTHING = 0.05  # scores below this are no find
_SURE = 0.3  # finds from this score on are compared; from half of the best score on where that is lower


@dataclasses.dataclass(frozen=True)
class Differences:
    """Largest differences between the finds of two networks; infinite where a find has no partner.

    Attributes:
        finds: number of finds that were compared.
        boxes: in pixels of the molded image.
        scores, masks: of probabilities.
    """

    finds: int
    boxes: float
    scores: float
    masks: float

    @property
    def are_small(self) -> bool:
        """Whether an exported network passes for the same."""
        return self.boxes <= MAX_BOX and self.scores <= MAX_SCORE and self.masks <= MAX_MASK

    def summary(self) -> str:
        """In one line."""
        values = f"boxes {self.boxes:.2g} pixel, scores {self.scores:.1e}, masks {self.masks:.1e}"
        return f"{self.finds} finds, largest differences: {values}"


@dataclasses.dataclass(frozen=True)
class Case:
    """A scene with references, and what the network finds.

    Attributes:
        image: uint8 [height, width, RGB].
        references: crops of one category, uint8 [h, w, RGB].
        inputs: of the network by name, for a batch of 1.
        expected: outputs of the detector for them.
        threshold: minimum score of the finds that are compared.
        side: of the molded image in pixels.
    """

    image: np.ndarray
    references: list[np.ndarray]
    inputs: Arrays
    expected: Arrays
    threshold: float
    side: int

    def differences(self, found: Arrays) -> Differences:
        """Differences of the outputs of another detector."""
        return compare(self.expected, found, threshold=self.threshold, side=self.side)


def make_case(predictor: BasePredictor, image: np.ndarray, references: Sequence[np.ndarray]) -> Case:
    """Search a scene with a predictor whose detector returns finds of every score.

    Raises:
        ValueError: nothing is found, so that there is nothing to compare.
    """
    config, crops = predictor.config, list(references)
    scenes = predictor.encode_scenes([image])
    expected = predictor.match(scenes, [predictor.encode_references(crops)])
    best = float(expected["mrcnn_detection"][0, :, 5].max())
    if best < _NOTHING:
        fix = "name an --image and a --reference that shows an object in it"
        raise InputError(f"nothing is found in the scene (best score {best:.2g}), which proves nothing; {fix}")
    subtract = config.MOLD_TARGETS_AT_INFERENCE
    inputs = {
        "input_image": molding.mold_inputs([image], config)[0],
        "input_references": molding.mold_references(crops, config, subtract_mean=subtract)[None],
        "input_image_meta": scenes.image_metas,
        "input_anchors": np.ascontiguousarray(scenes.anchors),
    }
    return Case(image, crops, inputs, expected, min(best / 2, _SURE), max(scenes.molded_shape[:2]))


def compare(expected: Arrays, found: Arrays, *, threshold: float, side: int) -> Differences:
    """Compare the finds of one scene from `threshold` on, each with the nearest of the other network.

    Args:
        expected, found: outputs of two detectors: mrcnn_detection [1, D, (y1, x1, y2, x2, class_id, score)] and, unless
            the network has no masks, mrcnn_mask [1, D, h, w].
        threshold: a find may have a partner up to MAX_SCORE below it.
        side: pixels of the molded image.
    """
    there = _largest(expected, found, threshold, side)
    back = _largest(found, expected, threshold, side)
    count = int((expected["mrcnn_detection"][0, :, 5] >= threshold).sum())
    return Differences(count, *(max(pair) for pair in zip(there, back, strict=True)))


def _largest(one: Arrays, other: Arrays, threshold: float, side: int) -> tuple[float, float, float]:
    """Largest differences (box, score, mask) of the finds of `one` from their nearest in `other`."""
    rows, others = one["mrcnn_detection"][0], other["mrcnn_detection"][0]
    mine = np.flatnonzero((rows[:, 4] > 0) & (rows[:, 5] >= threshold))
    candidates = np.flatnonzero((others[:, 4] > 0) & (others[:, 5] >= threshold - MAX_SCORE))
    if not mine.size:
        return 0.0, 0.0, 0.0
    if not candidates.size:
        return np.inf, np.inf, np.inf
    distances = np.abs(rows[mine, None, :4] - others[None, candidates, :4]).max(axis=2) * (side - 1)
    partners = candidates[distances.argmin(axis=1)]
    masks = 0.0
    if "mrcnn_mask" in one:
        masks = float(np.abs(one["mrcnn_mask"][0, mine] - other["mrcnn_mask"][0, partners]).max())
    return float(distances.min(axis=1).max()), float(np.abs(rows[mine, 5] - others[partners, 5]).max()), masks
