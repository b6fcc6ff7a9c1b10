"""3x3 convolutions of large maps by Winograd's minimal filtering F(4x4, 3x3), on TensorFlow and a CPU.

An output tile of 4x4 cells takes 36 products in place of 144 (Lavin and Gray, arXiv 1509.09308). The map is cut into
blocks of one size, so that the transforms are compiled by XLA once for each pair of channel counts, which takes about a
second. Results differ from those of a plain convolution by about 1e-5 of the largest value.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import keras
import numpy as np

from .bands import in_bands
from .box_ops import Tensor
from .kernels import has_tensorflow_ops, is_exporting
from .tracing import allowing_winograd, detecting

_TILE, _READ = 4, 6  # side of an output tile, and of the cells it is computed from
_BLOCK = (32, 128)  # output cells of a block
_MIN_CHANNELS = 128
_MAX_PADDED = 1.34  # of the map's cells, computed to fill the last blocks
# the transforms of input, kernel and output; rows of the points 0, 1, -1, 2, -2 and infinity
_INPUT = np.array(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ],
    np.float32,
)
_KERNEL = np.array(
    [[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]],
    np.float32,
) / np.float32(24)
_OUTPUT = np.array([[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]], np.float32)


def applies(maps: Tensor, kernel: Tensor, strides: Sequence[int]) -> bool:
    """Whether `tracing.allowing_winograd` is on, and `convolve` fits a "same" convolution and is faster."""
    if not allowing_winograd.is_on or is_exporting() or not has_tensorflow_ops():
        return False
    height, width, channels = maps.shape[1:]
    if tuple(kernel.shape[:2]) != (3, 3) or set(strides) != {1} or None in (height, width):
        return False
    if min(channels, kernel.shape[-1]) < _MIN_CHANNELS or keras.backend.standardize_dtype(maps.dtype) != "float32":
        return False
    import tensorflow as tf

    return fits(height, width) and not tf.config.list_logical_devices("GPU")


def fits(height: int, width: int) -> bool:
    """Whether blocks cover a map of this size without much that is outside of it."""
    rows, columns = _blocks(height, width)
    return rows * columns * math.prod(_BLOCK) <= _MAX_PADDED * height * width


def convolve(maps: Tensor, kernel: Tensor) -> Tensor:
    """A convolution of stride 1, zero-padded: [batch, h, w, channels], [3, 3, channels, filters], both float32
    -> [batch, h, w, filters]. Height and width are static."""
    if detecting.is_on:
        return _convolve(maps, kernel)
    return _differentiable()(maps, kernel)


def _convolve(maps: Tensor, kernel: Tensor) -> Tensor:
    """`convolve` without a gradient."""
    return convolve_then(maps, kernel, kernel.shape[-1], lambda values, band: values)


def convolve_then(maps: Tensor, kernel: Tensor, size: int, finish: Callable[[Tensor, int], Tensor]) -> Tensor:
    """`convolve` followed by another function of each cell. It has no gradient.

    Args:
        maps, kernel: as in `convolve`.
        size: channels of the result.
        finish: from a band of the convolution [rows, columns, filters], and its number, to [rows, columns, size].

    Returns:
        [batch, h, w, size].
    """
    import tensorflow as tf

    transformed = tf.matmul(np.kron(_KERNEL, _KERNEL), tf.reshape(kernel, (9, -1)))
    transformed = tf.reshape(transformed, (_READ**2, *kernel.shape[2:]))
    height, width = maps.shape[1:3]
    rows, columns = _blocks(height, width)

    def compute(index: Tensor | int, row: int) -> Tensor:
        blocks: list[Tensor] = []
        for column in range(columns):  # one after the other, which limits the memory of the transforms
            with tf.control_dependencies(blocks[-1:]):
                blocks.append(_compiled_block()(_cells(maps[index], row, column), transformed))
        return finish(blocks[0] if columns == 1 else tf.concat(blocks, axis=1), row)

    return in_bands(maps, rows, (_BLOCK[0], columns * _BLOCK[1], size), compute)[:, :height, :width]


def band_of(values: Tensor, band: int) -> Tensor:
    """What `convolve_then` has as a band, of a map [1, h, w, channels]: [rows, columns, channels], zero outside."""
    import tensorflow as tf

    height, width = values.shape[1:3]
    start = band * _BLOCK[0]
    found = values[0, start : start + _BLOCK[0]]
    outside = (_BLOCK[0] - found.shape[0], _blocks(height, width)[1] * _BLOCK[1] - width)
    return tf.pad(found, ((0, outside[0]), (0, outside[1]), (0, 0))) if any(outside) else found


@functools.cache
def _differentiable() -> Callable[..., Any]:
    """`convolve` with gradients.

    TensorFlow never frees a custom gradient, nor the graph around it. So this graph has a function of its own.
    """
    import tensorflow as tf

    @tf.custom_gradient
    def convolve(maps: Tensor, kernel: Tensor) -> tuple[Tensor, Callable[[Tensor], tuple[Tensor, Tensor]]]:
        def gradient(upstream: Tensor) -> tuple[Tensor, Tensor]:
            turned = tf.transpose(kernel[::-1, ::-1], (0, 1, 3, 2))
            of_kernel = tf.raw_ops.Conv2DBackpropFilter(
                input=maps,
                filter_sizes=tf.shape(kernel),
                out_backprop=upstream,
                strides=[1] * 4,
                padding="SAME",
            )
            return _convolve(upstream, turned), of_kernel

        return _convolve(maps, kernel), gradient

    return cast(Callable[..., Any], tf.function(convolve, autograph=False))


def _cells(image: Tensor, row: int, column: int) -> Tensor:
    """What a block reads from an image [h, w, channels], zero outside of it."""
    import tensorflow as tf

    padding, places = [], []
    for number, side, have in zip((row, column), _BLOCK, image.shape[:2], strict=True):
        start, stop = number * side - 1, (number + 1) * side + 1
        places.append(slice(max(start, 0), min(stop, have)))
        padding.append((max(-start, 0), max(stop - have, 0)))
    return tf.pad(image[tuple(places)], (*padding, (0, 0)))


def _blocks(height: int, width: int) -> tuple[int, int]:
    """Rows and columns of blocks that cover a map."""
    return -(-height // _BLOCK[0]), -(-width // _BLOCK[1])


@functools.cache
def _compiled_block() -> Callable[..., Any]:
    import tensorflow as tf

    return tf.function(_convolve_block, jit_compile=True)


def _convolve_block(block: Tensor, kernel: Tensor) -> Tensor:
    """Cells [h + 2, w + 2, channels] and the transformed kernel [36, channels, filters] -> [h, w, filters]."""
    import tensorflow as tf

    rows, columns = ((side - 2) // _TILE for side in block.shape[:2])
    lines = [block[start : start + rows * _TILE : _TILE] for start in range(_READ)]
    cells: list[Tensor] = []
    for line in _combined(_INPUT, lines):
        cells += _combined(_INPUT, [line[:, start : start + columns * _TILE : _TILE] for start in range(_READ)])
    products = tf.matmul(tf.reshape(tf.stack(cells), (_READ**2, rows * columns, -1)), kernel)
    products = tf.reshape(products, (_READ, _READ, rows, columns, -1))
    lines = _combined(_OUTPUT, [products[index] for index in range(_READ)])
    tiles = [tf.stack(_combined(_OUTPUT, [line[index] for index in range(_READ)]), axis=2) for line in lines]
    return tf.reshape(tf.stack(tiles, axis=1), (rows * _TILE, columns * _TILE, -1))


def _combined(matrix: np.ndarray, tensors: list[Tensor]) -> list[Tensor]:
    """The linear combinations of tensors that the rows of a matrix give."""
    return [
        functools.reduce(
            lambda total, term: total + term,
            [
                tensor if factor == 1 else tensor * factor
                for factor, tensor in zip(row, tensors, strict=True)
                if factor != 0
            ],
        )
        for row in matrix
    ]
