"""The network of the page, shared by all sessions: one at a time uses it, and encoded scenes are kept.

Raw finds are all with a score of MIN_SCORE or more, with their masks as RLE and outlines, so that moving a threshold
needs no search.
"""

import collections
import dataclasses
import itertools
import threading
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from pycocotools import mask as mask_utils

from ..data import molding
from ..io.errors import InputError
from ..search.results import Finds
from .images import StoredImage

if TYPE_CHECKING:
    from ..base_predictor import BasePredictor, EncodedScenes
    from ..config import Config
    from ..data.embeddings import ReferenceEmbedding

MIN_SCORE = 0.05  # of raw finds
MIN_BOX_SIDE = 4  # pixels of the image
SCENE_CACHE_BYTES = 2**30  # of encoded scenes and their images, of all sessions together
_MASK_PIXELS = 2**26  # of masks that are made at once
_OUTLINE_SIDE = 256  # maximum side in pixels of the mask that an outline is drawn around
_FLOAT_BYTES = 4
_OUTLINE_TOLERANCE = 0.4  # pixels of that mask

Outline = list[list[float]]  # [[x, y], ...] in pixels of the image


@dataclasses.dataclass(frozen=True, eq=False)
class RawFinds:
    """All detections of a category in an image from MIN_SCORE on, in descending order of score."""

    boxes: np.ndarray  # int32 [n, (y1, x1, y2, x2)] in pixels of the image
    scores: np.ndarray  # float32 [n]
    rles: list[dict[str, Any]] | None  # compressed RLE of each; None for models without masks
    outlines: list[list[Outline]]  # of each, one for each connected part; boxes for models without masks
    shape: tuple[int, int]  # (height, width) of the image

    def chosen(self, numbers: npt.ArrayLike) -> Finds:
        """The finds with these numbers, with masks in the size of the image."""
        index = np.asarray(numbers, int)
        if self.rles is None:
            return Finds(self.boxes[index], self.scores[index])
        return Finds(self.boxes[index], self.scores[index], decoded([self.rles[i] for i in index], self.shape))


def raw_config(config: "Config") -> "Config":
    """The configuration whose detections are raw finds: all with a score of MIN_SCORE or more."""
    return config.replace(
        DETECTION_MIN_CONFIDENCE=min(MIN_SCORE, config.DETECTION_MIN_CONFIDENCE), DETECTION_ARGMAX=False
    )


class Searcher:
    """Encodes scenes and references and finds objects; safe for several threads.

    `predictor` detects from MIN_SCORE on; `cache_bytes` bounds the encoded scenes that are kept, the last always is.
    """

    def __init__(self, predictor: "BasePredictor", *, cache_bytes: int = SCENE_CACHE_BYTES) -> None:
        self.predictor = predictor
        self.cache_bytes = cache_bytes
        self.num_encoded = self.num_searches = 0  # since the start
        self._lock = threading.Lock()
        self._scenes: collections.OrderedDict[Hashable, EncodedScenes] = collections.OrderedDict()

    @property
    def config(self) -> "Config":
        return self.predictor.config

    @property
    def cached_bytes(self) -> int:
        """Bytes of the scenes that are kept."""
        return sum(map(scene_bytes, list(self._scenes.values())))

    def warm_up(self) -> None:
        """Search an empty scene: the first use of the network takes seconds."""
        scene = np.zeros((64, 64, 3), np.uint8)
        with self._lock:
            self.predictor.detect_in(self.predictor.encode_scenes([scene]), [[scene]])
        outlines_of(np.ones((4, 4), bool), (0, 0, 4, 4))

    def encode_reference(self, pixels: np.ndarray, box: Sequence[int]) -> "ReferenceEmbedding":
        """The embedding of a box (y1, x1, y2, x2) in an image uint8 [height, width, RGB].

        Raises:
            ValueError: the box leaves the image, or is too small.
        """
        height, width = box[2] - box[0], box[3] - box[1]
        if min(height, width) < MIN_BOX_SIDE:
            size = f"{max(width, 0)} x {max(height, 0)} pixels"
            raise InputError(f"the box is too small: {size}, expected {MIN_BOX_SIDE} x {MIN_BOX_SIDE} or more")
        crop = molding.reference_from_box(pixels, box, self.config)
        with self._lock:
            return self.predictor.encode_references([crop])

    def search(self, image: StoredImage, embedding: "ReferenceEmbedding") -> RawFinds:
        """Find what looks like the references in an image, which is encoded unless it was a short time ago."""
        with self._lock:
            scene = self._scene(image)
            outputs = self.predictor.match(scene, [embedding])
            outputs = self.predictor.verify(scene, outputs, [embedding])
            self.num_searches += 1
        return self._raw_finds(scene, outputs)

    def forget(self, image: StoredImage) -> None:
        """Drop the encoded scene of an image."""
        with self._lock:
            self._scenes.pop(image.path, None)

    def _scene(self, image: StoredImage) -> "EncodedScenes":
        scene = self._scenes.pop(image.path, None)
        if scene is None:
            scene = self.predictor.encode_scenes([image.pixels()])
            self.num_encoded += 1
        self._scenes[image.path] = scene
        while len(self._scenes) > 1 and self.cached_bytes > self.cache_bytes:
            self._scenes.popitem(last=False)
        return scene

    def _raw_finds(self, scene: "EncodedScenes", outputs: dict[str, np.ndarray]) -> RawFinds:
        """Unmold a few detections at a time: the masks of all in a large photograph would fill the memory."""
        shape = (scene.shapes[0][0], scene.shapes[0][1])
        used: dict[str, np.ndarray] = {
            name: outputs[name] for name in ("mrcnn_detection", "mrcnn_mask") if name in outputs
        }
        count = int(np.count_nonzero(used["mrcnn_detection"][0, :, 4]))
        step = max(1, _MASK_PIXELS // (shape[0] * shape[1]))
        starts = range(0, max(count, 1), step)
        parts = [{name: values[:, start : start + step] for name, values in used.items()} for start in starts]
        found = [_described(self.predictor.unmold(scene, part)[0], "mrcnn_mask" in used) for part in parts]
        boxes, scores, rles, outlines = zip(*found, strict=True)
        return RawFinds(
            np.concatenate(boxes).astype(np.int32),
            np.concatenate(scores).astype(np.float32),
            list(itertools.chain.from_iterable(rles)) if "mrcnn_mask" in used else None,
            list(itertools.chain.from_iterable(outlines)),
            shape,
        )


def _described(found: dict[str, np.ndarray], has_masks: bool) -> tuple[np.ndarray, np.ndarray, list[Any], list[Any]]:
    """(boxes, scores, RLE of masks, outlines) of the detections of one image, as `BasePredictor.unmold` has them."""
    boxes, scores, masks = found["rois"], found["scores"], found["masks"]
    if not has_masks or not len(boxes):
        return boxes, scores, [], [[box_outline(box)] for box in boxes]
    rles = mask_utils.encode(np.asfortranarray(masks, np.uint8))
    return boxes, scores, rles, [outlines_of(masks[..., number], box) for number, box in enumerate(boxes)]


def scene_bytes(scene: "EncodedScenes") -> int:
    """Bytes of the feature maps of a scene, as float32, and of its image."""
    features = sum(_FLOAT_BYTES * int(np.prod(level.shape)) for level in scene.pyramid)
    return features + sum(image.nbytes for image in scene.images)


def decoded(rles: Sequence[dict[str, Any]], shape: tuple[int, int]) -> np.ndarray:
    """Masks bool [height, width, n] of compressed RLE."""
    if not rles:
        return np.zeros((*shape, 0), bool)
    return np.asarray(mask_utils.decode(list(rles)).astype(bool))


def box_outline(box: npt.ArrayLike) -> Outline:
    """The outline of a box (y1, x1, y2, x2)."""
    y1, x1, y2, x2 = np.asarray(box, float).tolist()
    return [[x1, y1], [x2, y1], [x2, y2], [x1, y2]]


def outlines_of(mask: np.ndarray, box: npt.ArrayLike) -> list[Outline]:
    """Outlines of a mask bool [height, width] inside its box (y1, x1, y2, x2), one for each connected part or hole.

    Where the mask is empty, it is the outline of the box.
    """
    from skimage.measure import approximate_polygon, find_contours

    height, width = mask.shape
    y1, x1, y2, x2 = np.clip(np.asarray(box, int), 0, [height, width, height, width]).tolist()
    step = max(1, -(-max(y2 - y1, x2 - x1) // _OUTLINE_SIDE))
    inside = np.pad(mask[y1:y2:step, x1:x2:step].astype(float), 1)
    outlines = []
    for contour in find_contours(inside, 0.5):
        corners = approximate_polygon(contour, _OUTLINE_TOLERANCE)
        if len(corners) > 3:  # closed: the first corner is also the last
            points = (corners[:-1, ::-1] - 0.5) * step + [x1, y1]
            outlines.append(np.round(points, 1).tolist())
    return outlines or [box_outline(box)]
