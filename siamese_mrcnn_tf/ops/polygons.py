"""Outlines of masks as polygons."""

import cv2
import numpy as np

_DETAIL = 3  # parts of a pixel, so that outlines follow the borders of pixels and not their centers
_TOLERANCE = 0.4  # pixels, maximum distance of a polygon from the border


def mask_polygons(mask: np.ndarray) -> list[list[float]] | None:
    """COCO's polygons [x, y, x, y, ...] in pixels of a mask bool [height, width], one for each connected part.

    Returns None if the mask has a hole; no polygon if it is empty.
    """
    fine = mask.astype(np.uint8).repeat(_DETAIL, axis=0).repeat(_DETAIL, axis=1)
    contours, hierarchy = cv2.findContours(fine, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    if not contours:
        return []
    if (hierarchy[0, :, 3] >= 0).any():  # a contour with a parent goes around a hole
        return None
    simpler = [cv2.approxPolyDP(contour, _TOLERANCE * _DETAIL, closed=True) for contour in contours]
    chosen = [few if len(few) >= 3 else contour for few, contour in zip(simpler, contours, strict=True)]
    return [np.around((corners + 0.5) / _DETAIL, 2).ravel().tolist() for corners in chosen]
