"""Large maps computed in bands of rows, one after the other: of what is computed on the way, a band exists at a time.

For inference with TensorFlow on a CPU; there are no gradients (`tracing.detecting`).
"""

from collections.abc import Callable, Sequence

from .box_ops import Tensor
from .kernels import has_tensorflow_ops, is_exporting
from .tracing import detecting

ROWS = 32
_MIN_CELLS = 128 * 128


def applies(maps: Tensor) -> bool:
    """Whether `tracing.detecting` is on, and maps [batch, h, w, channels] are large and of a fixed size."""
    if not detecting.is_on or is_exporting() or not has_tensorflow_ops():
        return False
    height, width = maps.shape[1:3]
    if None in (height, width) or height % ROWS or height * width < _MIN_CELLS:
        return False
    import tensorflow as tf

    return not tf.config.list_logical_devices("GPU")


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
