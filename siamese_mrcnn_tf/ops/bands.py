"""Large maps computed in bands of rows, one after the other: of what is computed on the way, a band exists at a time.

For inference with TensorFlow on a CPU, without gradients (`tracing.detecting`), and for int8 (`tracing.quantizable`).
"""

from collections.abc import Callable, Sequence

from .box_ops import Tensor
from .kernels import has_tensorflow_ops, is_exporting
from .tracing import detecting, quantizable

ROWS = 32
_MIN_CELLS, _MIN_CELLS_IN_INT8 = 128 * 128, 256 * 256


def applies(maps: Tensor) -> bool:
    """Whether `tracing.detecting` is on, and maps [batch, h, w, channels] are large and of a fixed size."""
    if not detecting.is_on or is_exporting() or not has_tensorflow_ops():
        return False
    if not _divides(maps, _MIN_CELLS):
        return False
    import tensorflow as tf

    return not tf.config.list_logical_devices("GPU")


def _divides(maps: Tensor, min_cells: int) -> bool:
    height, width = maps.shape[1:3]
    return None not in (height, width) and height % ROWS == 0 and height * width >= min_cells


def applies_in_int8(maps: Tensor) -> bool:
    """Whether `tracing.quantizable` is on, and maps [batch, h, w, channels] are very large and of a fixed size."""
    return quantizable.is_on and _divides(maps, _MIN_CELLS_IN_INT8)


def convolved_bands(maps: Tensor, kernel: Tensor) -> list[Tensor]:
    """A convolution with stride 1 and padding "same" in bands of ROWS rows.

    Without AMX, OpenVINO takes 0.64 s in int8 for 384 to 512 channels on 256x256 cells with values of both signs, and
    0.25 s for the bands; there is no such difference on 128x128 cells, or in float32.

    Args:
        maps: [batch, h, w, channels] where `applies_in_int8`.
        kernel: [3, 3, channels, filters].

    Returns:
        Bands [batch, ROWS, w, filters] from top to bottom.
    """
    import tensorflow as tf

    height = maps.shape[1]
    bands = []
    for start in range(0, height, ROWS):
        top, bottom = int(start == 0), int(start + ROWS == height)
        rows = maps[:, start - 1 + top : start + ROWS + 1 - bottom]
        bands.append(tf.nn.conv2d(rows, kernel, 1, [(0, 0), (top, bottom), (1, 1), (0, 0)]))
    return bands


def in_bands(maps: Tensor, count: int, shape: Sequence[int], compute: Callable[[Tensor | int, int], Tensor]) -> Tensor:
    """A map for each of a batch of maps, put together from bands.

    Args:
        maps: [batch, h, w, channels].
        count: bands of a map.
        shape: of a band, (rows, columns, channels).
        compute: from the index of a map in the batch, and the number of a band, to the band.

    Returns:
        [batch, count * rows, columns, channels], with the dtype of `maps`.
    """
    import tensorflow as tf

    def fill(index: Tensor | int, lines: Tensor) -> tuple[Tensor | int, Tensor]:
        for band in range(count):
            with tf.control_dependencies([lines]):
                found = compute(index, band)
            # into one tensor: a list of bands would take the memory twice when it is put together
            lines = tf.raw_ops.InplaceUpdate(x=lines, i=[index * count + band], v=found[None])
        return index + 1, lines

    batch = maps.shape[0] or tf.shape(maps)[0]
    lines = tf.raw_ops.Empty(shape=tf.stack([batch * count, *shape]), dtype=maps.dtype)
    lines = tf.ensure_shape(lines, (None, *shape))
    if maps.shape[0] == 1:
        _, lines = fill(0, lines)
    else:
        _, lines = tf.while_loop(lambda index, _: index < batch, fill, (0, lines), parallel_iterations=1)
    return tf.reshape(lines, (-1, count * shape[0], *shape[1:]))
