"""The device that computes: the processor, or one of the GPUs that the Keras backend sees; where JAX keeps programs."""

import logging
import os
import re
from pathlib import Path

from ..io.errors import InputError
from ..io.processor import flags_of, multiplies

_log = logging.getLogger(__name__)
_DEVICE = re.compile(r"(cpu|gpu|cuda)(?::([0-9]{1,4}))?")


def check_name(name: str) -> re.Match[str]:
    """The match of a name of a device: its kind and its number or None; ValueError for other names."""
    named = _DEVICE.fullmatch(name)
    if not named or (named[1] == "cpu" and named[2]):
        raise InputError(f"device {name!r}: expected cpu, gpu or cuda:N")
    return named


def use_device(name: str) -> None:
    """Compute on "cpu", "gpu" (all GPUs; on JAX the first) or "cuda:N" (also "gpu:N", the GPU N) alone.

    TensorFlow hides the other devices; that works before anything was computed.

    Raises:
        ValueError: an unknown name, another backend than TensorFlow or JAX, there is no such GPU, or it is too late.
    """
    named = check_name(name)
    import keras

    kind, number, backend = "cpu" if named[1] == "cpu" else "gpu", int(named[2] or 0), keras.backend.backend()
    if backend == "jax":
        return _use_jax_device(name, kind, number)
    if backend != "tensorflow":
        raise InputError(f"device {name!r}: can be chosen with TensorFlow or JAX, KERAS_BACKEND is {backend}")
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    if kind == "gpu":
        _check_gpu(name, number, len(gpus), "TensorFlow")
    chosen = [] if kind == "cpu" else [gpus[number]] if named[2] else gpus
    try:
        tf.config.set_visible_devices(chosen, "GPU")
    except RuntimeError as error:
        raise InputError(f"device {name!r}: cannot be chosen after TensorFlow has begun ({error})") from error


def warn_of_precision(precision: str) -> None:
    """Say so where TensorFlow or OpenVINO computes on a processor to which "bfloat16" or "int8" brings no speed."""
    if precision == "float32" or multiplies(precision):
        return
    import keras

    if keras.backend.backend() != "tensorflow":
        return
    import tensorflow as tf

    if not tf.config.get_visible_devices("GPU"):
        lacks = f"this processor has no fast instructions for it ({flags_of(precision)})"
        _log.warning("precision %s: %s, it brings no speed here", precision, lacks)


def keep_compiled(folder: Path) -> None:
    """Keep what JAX compiles in a folder, so that later processes start faster.

    Where JAX_COMPILATION_CACHE_DIR names another, nothing happens.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    import jax

    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)  # initial weights are many small programs


def _use_jax_device(name: str, kind: str, number: int) -> None:
    import jax

    try:
        found = jax.devices(kind)
    except RuntimeError:
        found = []
    if kind == "gpu":
        _check_gpu(name, number, len(found), "JAX")
    jax.config.update("jax_default_device", found[number])


def _check_gpu(name: str, number: int, count: int, framework: str) -> None:
    """Raise ValueError if there is no GPU with this number."""
    if not count:
        raise InputError(f"device {name!r}: {framework} sees no GPU here")
    if number >= count:
        raise InputError(f"device {name!r}: {framework} sees the GPUs 0 to {count - 1}")
