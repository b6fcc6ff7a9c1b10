"""The device that computes: the processor, or one of the GPUs that TensorFlow sees."""

import re

_DEVICE = re.compile(r"(cpu|gpu|cuda)(?::(\d+))?")


def use_device(name: str) -> None:
    """Compute on "cpu", "gpu" (all GPUs) or "cuda:N" (also "gpu:N", the GPU N) alone.

    TensorFlow hides the other devices; that works before anything was computed.

    Raises:
        ValueError: an unknown name, another backend than TensorFlow, there is no such GPU, or it is too late.
    """
    named = _DEVICE.fullmatch(name)
    if not named or (named[1] == "cpu" and named[2]):
        raise ValueError(f"device {name!r}: expected cpu, gpu or cuda:N")
    import keras

    if keras.backend.backend() != "tensorflow":
        raise ValueError(f"device {name!r}: can be chosen with TensorFlow alone, not with {keras.backend.backend()}")
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    chosen = [] if named[1] == "cpu" else gpus
    if named[1] != "cpu" and not gpus:
        raise ValueError(f"device {name!r}: TensorFlow sees no GPU here")
    if named[2]:
        if int(named[2]) >= len(gpus):
            raise ValueError(f"device {name!r}: TensorFlow sees the GPUs 0 to {len(gpus) - 1}")
        chosen = [gpus[int(named[2])]]
    try:
        tf.config.set_visible_devices(chosen, "GPU")
    except RuntimeError as error:
        raise ValueError(f"device {name!r}: cannot be chosen after TensorFlow has begun ({error})") from error
