"""An estimate of the memory that a configuration needs, compared with that of this machine before anything is built.

It counts the weights with what the optimizer keeps, the maps of backbone and pyramid, the rois of the heads, anchors
and proposals, and the samples of the loader, each as float32. Detection keeps few of these maps at a time, training
keeps all of them, with their gradients. The estimate is within a factor of 1.5 of the peaks that were measured
(tests/test_memory.py).
"""

import copy
import functools
import glob
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .config import RESNET_BLOCKS, Config
from .io.errors import InputError
from .settings import is_number, shown

logger = logging.getLogger(__name__)

_FLOAT = 4  # bytes
_BASE = 8 * 10**8  # bytes of TensorFlow itself
_IMPOSSIBLE = 4  # times the memory of the machine: the estimate is no better than a factor of 2
_GIB = 2**30
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")  # of containers
_ACCELERATORS = ("/dev/nvidia[0-9]*", "/dev/kfd", "/dev/dxg")  # the last one of Windows, under WSL
_ACCELERATOR_MEMORY = 288 * _GIB  # of the largest there are
_PURPOSES = {  # in messages
    "detection": "detection",
    "training": "training",
    "pretraining": "pre-training",
    "samples": "a training sample",
}
_NAMED = 3  # settings that an error names


def check_memory(config: Config, purpose: str, *, side: int = 0) -> None:
    """Compare the estimate with the memory of this machine; a warning where it is more, but not clearly.

    Args:
        purpose, side: as for `estimate`.

    Raises:
        ValueError: clearly more than the machine has; names the estimate and the settings that cause it.
    """
    available = machine_memory()
    if available is not None and any(map(glob.glob, _ACCELERATORS)):
        available = max(available, _ACCELERATOR_MEMORY)  # only its driver knows how much
    needed = sum(estimate(config, purpose, side=side).values())
    if available is None or needed <= available:
        return
    causes = ", ".join(f"{name} = {shown(getattr(config, name))}" for name in _causes(config, purpose, side))
    text = f"{causes}: {_PURPOSES[purpose]} needs about {_text(needed)} of memory, this machine has {_text(available)}"
    if needed > _IMPOSSIBLE * available:
        raise InputError(text)
    _warn_once(text)


def estimate(config: Config, purpose: str, *, side: int = 0) -> dict[str, float]:
    """Bytes by what needs them.

    Args:
        purpose: "detection" of one query, "training" with the batch of a device, "pretraining" of the backbone, or
            "samples" that are drawn.
        side: of the images in pretraining, in pixels.
    """
    trains = purpose != "detection"
    if purpose == "samples":
        return {"samples": 2.0 * _sample_bytes(config)}  # resizing computes in float64
    weights = _num_weights(config, backbone_alone=purpose == "pretraining") * _FLOAT
    slots = {"sgd": 1, "adam": 2}[config.OPTIMIZER]
    found = {"TensorFlow": float(_BASE), "weights": weights * (2 + slots if trains else 1)}
    samples, copies = (config.IMAGES_PER_GPU, 2) if trains else (1, 1)  # values, and their gradients
    if purpose == "pretraining":
        return found | {"maps": copies * samples * _map_floats(config, side**2, kept=True) * _FLOAT}
    scene = _scene_pixels(config)
    scenes = -(-samples // config.QUERIES_PER_IMAGE)
    references = samples * config.NUM_TARGETS
    of_scenes = scenes * _map_floats(config, scene, kept=trains) + samples * _matched_floats(config, scene, kept=trains)
    of_references = references * _map_floats(config, config.TARGET_MAX_DIM**2, kept=trains)
    found["maps of scenes"] = copies * of_scenes * _FLOAT
    found["maps of references"] = copies * of_references * _FLOAT
    found["rois"] = copies * samples * _roi_floats(config, trains=trains) * _FLOAT
    found["proposals"] = samples * _proposal_floats(config, scene, trains=trains) * _FLOAT
    if trains:
        found["samples"] = 3.0 * samples * _sample_bytes(config)  # the batch, and those that the loader makes meanwhile
    return found


def machine_memory() -> int | None:
    """Bytes of memory of this machine, or of the container; None where the system does not say."""
    try:
        found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    except (AttributeError, ValueError, OSError):
        return None
    for path in map(Path, _LIMITS):
        try:
            text = path.read_text(encoding="ascii").strip()
        except (OSError, ValueError):
            continue
        found += [int(text)] if text.isdecimal() else []  # "max" without a limit
    return min(value for value in found if value > 0) if max(found) > 0 else None


@functools.cache
def _warn_once(text: str) -> None:
    logger.warning("warning: %s; it may end for lack of memory", text)


def _text(size: float) -> str:
    return f"{size / _GIB:.1f} GiB" if size < 1000 * _GIB else f"{size / _GIB:,.0f} GiB"


def _causes(config: Config, purpose: str, side: int) -> list[str]:
    """The settings above the defaults of `Config` that cost most, or else the largest of all."""
    total, savings = sum(estimate(config, purpose, side=side).values()), {}
    for name in config.names():
        value, default = getattr(config, name), getattr(Config, name, None)
        if name == "BACKBONE_BLOCKS" and value is not None:
            default = RESNET_BLOCKS["resnet50"]
        if default is not None and _size(value) > _size(default):
            smaller = copy.copy(config)
            setattr(smaller, name, default)
            savings[name] = total - sum(estimate(smaller, purpose, side=side).values())
    ordered = sorted((name for name in savings if savings[name] > total / 100), key=lambda name: -savings[name])
    large = [name for name in ordered if savings[name] > total / 2]
    return large[:_NAMED] or ordered[:_NAMED] or ["IMAGE_MAX_DIM"]


def _size(value: Any) -> float:
    if isinstance(value, (list, tuple)):
        return _product(value) if all(map(is_number, value)) else 0
    return float(value) if is_number(value) else 0


def _product(numbers: Sequence[float]) -> float:
    product = 1.0
    for number in numbers:
        product *= float(number)
    return product


def _scene_pixels(config: Config) -> float:
    """Pixels of a scene; the smallest that are possible where they depend on the image."""
    if config.IMAGE_RESIZE_MODE == "none":
        return 64.0**2
    return float(config.IMAGE_MIN_DIM**2 if config.IMAGE_RESIZE_MODE == "pad64" else config.IMAGE_SHAPE[0] ** 2)


def _stages(config: Config) -> list[tuple[int, int, int, int]]:
    """(stride, blocks, channels inside a block, channels) of stages 2 to 5; none of a callable backbone."""
    if callable(config.BACKBONE):
        return []
    if config.BACKBONE not in RESNET_BLOCKS:
        raise InputError(f"BACKBONE = {shown(config.BACKBONE)}: expected {', '.join(RESNET_BLOCKS)} or a callable")
    blocks, widths = config.BACKBONE_BLOCKS, config.BACKBONE_WIDTHS
    counts = RESNET_BLOCKS[config.BACKBONE] if blocks is None else blocks
    inner = [width // config.BACKBONE_BOTTLENECK for width in widths]
    return list(zip((4, 8, 16, 32), map(int, counts), inner, map(int, widths), strict=True))


def _sample_bytes(config: Config) -> float:
    """Bytes of a training sample."""
    scene, references = _scene_pixels(config), config.NUM_TARGETS * config.TARGET_MAX_DIM**2
    mask = _product(config.MINI_MASK_SHAPE) if config.USE_MINI_MASK else scene
    return 3 * (scene + references) * _FLOAT + config.MAX_GT_INSTANCES * mask


def _num_weights(config: Config, *, backbone_alone: bool) -> float:
    """Number of weights, without biases and batch normalization."""
    features, matched, fc = config.FPN_FEATUREMAPS, config.MATCHED_FEATUREMAPS, config.FPN_CLASSIF_FC_LAYERS_SIZE
    total, before = 3 * 49 * config.BACKBONE_STEM_WIDTH, config.BACKBONE_STEM_WIDTH
    for _, blocks, inner, width in _stages(config):
        block = 9 * inner**2 + inner * width
        total += blocks * block + before * (inner + width) + (blocks - 1) * width * inner
        before = width
    total += sum(width * features for *_, width in _stages(config)) + 4 * 9 * features**2
    if backbone_alone:
        return float(total)
    total += 5 * 2 * features * matched
    total += 9 * matched * config.RPN_CONV_CHANNELS + 6 * config.RPN_CONV_CHANNELS * len(config.RPN_ANCHOR_RATIOS)
    total += config.POOL_SIZE**2 * matched * fc + fc**2 + 10 * fc
    if config.MODEL == "mrcnn":
        channels = config.MASK_HEAD_CHANNELS
        total += 9 * matched * channels + (3 * 9 + 4) * channels**2
    return float(total)


def _map_floats(config: Config, pixels: float, *, kept: bool) -> float:
    """Values of the maps of backbone and pyramid of an image; without `kept` of those that are needed at a time."""
    stem = 3 * pixels / 4 * config.BACKBONE_STEM_WIDTH  # convolution, normalization, activation
    maps = [stem] + [
        pixels / stride**2 * (blocks * (6 * inner + 3 * width) + 2 * width)
        for stride, blocks, inner, width in _stages(config)
    ]
    ends = sum(pixels / stride**2 * width for stride, *_, width in _stages(config))
    pyramid = pixels / 4**2 * (1 + 1 / 4 + 1 / 16 + 1 / 64) * config.FPN_FEATUREMAPS
    largest = max([stem, *(5 * pixels / stride**2 * width for stride, *_, width in _stages(config))])
    return sum(maps) + 4 * pyramid if kept else largest + ends + 2 * pyramid


def _cells(pixels: float) -> float:
    """Cells of P2 to P6."""
    return pixels * sum(1 / stride**2 for stride in (4, 8, 16, 32, 64))


def _matched_floats(config: Config, pixels: float, *, kept: bool) -> float:
    """Values of the matched maps and of the RPN."""
    features, matched, rpn = config.FPN_FEATUREMAPS, config.MATCHED_FEATUREMAPS, config.RPN_CONV_CHANNELS
    return _cells(pixels) * (2 * features + 3 * matched + 2 * rpn if kept else features + 3 * matched + rpn)


def _roi_floats(config: Config, *, trains: bool) -> float:
    """Values of the pooled maps and of the heads."""
    matched, channels, side = config.MATCHED_FEATUREMAPS, config.MASK_HEAD_CHANNELS, config.MASK_POOL_SIZE
    rois = config.TRAIN_ROIS_PER_IMAGE if trains else config.POST_NMS_ROIS_INFERENCE
    floats = rois * (2 * config.POOL_SIZE**2 * matched + 6 * config.FPN_CLASSIF_FC_LAYERS_SIZE)
    if config.MODEL != "mrcnn":
        return float(floats)
    if trains:
        positive = max(int(rois * config.ROI_POSITIVE_RATIO), 1)
        masks = rois if config.TRAIN_BN is None else min(config.TRAIN_MASK_ROIS_PER_IMAGE or rois, positive)
        return float(floats + masks * side**2 * (2 * matched + (4 * 3 + 4 * 2) * channels))
    return float(floats + config.DETECTION_MAX_INSTANCES * side**2 * (2 * matched + (2 + 4 * 2) * channels))


def _proposal_floats(config: Config, pixels: float, *, trains: bool) -> float:
    """Values of anchors, of the proposals and of their overlaps with the ground truth."""
    anchors = _cells(pixels) / config.RPN_ANCHOR_STRIDE**2 * len(config.RPN_ANCHOR_RATIOS)
    floats = 24 * anchors + 16 * min(config.PRE_NMS_LIMIT, anchors)
    if not trains:
        return float(floats + 16 * (config.POST_NMS_ROIS_INFERENCE + config.DETECTION_MAX_INSTANCES))
    rois = config.POST_NMS_ROIS_TRAINING + config.NUM_JITTERED_GT_ROIS
    mask = _product(config.MASK_SHAPE) * config.TRAIN_ROIS_PER_IMAGE
    return float(floats + rois * (16 + 4 * config.MAX_GT_INSTANCES) + 2 * mask)
