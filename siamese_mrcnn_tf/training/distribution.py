"""Several devices and several machines: `tf.distribute` on TensorFlow, on JAX `keras.distribution` for one machine.

Call `prepare_backend`, then `device_scope`, before anything else uses the backend. On JAX a batch is one, whose parts
are on several devices: losses and gradients are those of one device with the whole batch.
"""

import contextlib
import logging
from contextlib import AbstractContextManager
from typing import Any

import keras

from ..io.errors import InputError
from .machines import is_chief as is_chief  # a former name of this module
from .machines import several_machines

logger = logging.getLogger(__name__)


def prepare_backend(*, seed: int, devices: int = 1) -> None:
    """Set up Keras and its backend for a run, before anything else uses them.

    Initial weights are seeded. On CPUs the order of operations is deterministic; otherwise rounding differs between
    runs and losses diverge. On GPUs TensorFlow has no deterministic kernel for the gradient of crop_and_resize.
    """
    keras.utils.set_random_seed(seed)
    if keras.backend.backend() != "tensorflow":
        return
    import tensorflow as tf

    if not tf.config.list_physical_devices("GPU"):
        tf.config.experimental.enable_op_determinism()
        if devices == 1 and not several_machines():  # parallel operations save no time and need more memory
            with contextlib.suppress(RuntimeError):  # TensorFlow has started: it keeps its threads
                tf.config.threading.set_inter_op_parallelism_threads(1)


def device_scope(devices: int) -> AbstractContextManager[Any]:
    """Context to build and train a model in, on several devices or machines.

    If TF_CONFIG names several machines, that of `tf.distribute.MultiWorkerMirroredStrategy`; else, for more than one
    device, that of `MirroredStrategy` over GPUs, or over parts of the CPU on a machine without GPUs; on JAX that of
    `keras.distribution.DataParallel`. Must be called before anything else uses TensorFlow.

    Raises:
        ValueError: more devices than there are; several machines together with `devices`, or on JAX; a TF_CONFIG that
            cannot be read.
    """
    is_cluster = several_machines()
    if devices == 1 and not is_cluster:
        return contextlib.nullcontext()
    if keras.backend.backend() != "tensorflow":
        return _data_parallel_scope(devices)
    import tensorflow as tf

    if is_cluster:
        if devices > 1:
            raise InputError(f"devices = {devices}: where TF_CONFIG names several machines, each uses all of its GPUs")
        return _scope(tf.distribute.MultiWorkerMirroredStrategy())
    gpus = tf.config.list_physical_devices("GPU")
    if gpus and devices > len(gpus):
        raise InputError(f"devices = {devices}: this machine has {len(gpus)} GPUs")
    if not gpus:
        _split_cpu(devices)
        logger.warning("this machine has no GPU: its CPU is used as %d devices", devices)
    kind = "GPU" if gpus else "CPU"
    return _scope(tf.distribute.MirroredStrategy([f"{kind}:{index}" for index in range(devices)]))


def replicas_of(model: keras.Model) -> int:
    """Number of devices that share a batch of this model."""
    if keras.backend.backend() == "tensorflow":
        return int(model.distribute_strategy.num_replicas_in_sync)
    return len(_devices_of(model))


def strategy_scope(model: keras.Model) -> AbstractContextManager[Any]:
    """Context of the devices that a model was built on."""
    if keras.backend.backend() == "tensorflow":
        return _scope(model.distribute_strategy)
    devices = _devices_of(model)
    return _scope(keras.distribution.DataParallel(devices=devices)) if len(devices) > 1 else contextlib.nullcontext()


def fit_scope(model: keras.Model) -> AbstractContextManager[Any]:
    """Context to call `fit` and `evaluate` of a model in; on TensorFlow they know its devices."""
    return contextlib.nullcontext() if keras.backend.backend() == "tensorflow" else strategy_scope(model)


def sync_variables(model: keras.Model) -> None:
    """Give a model's variables their values after the last step, in a callback of `fit`; JAX keeps these elsewhere."""
    if keras.backend.backend() == "jax":
        model.jax_state_sync()


def counts_ahead() -> bool:
    """Whether metrics and optimizer count a step that then gets no samples, as TensorFlow does."""
    return bool(keras.backend.backend() == "tensorflow")


def replicas_in_sync() -> int:
    """Number of devices that each compute the loss of a part of this step's batch; on JAX they compute one loss."""
    if keras.backend.backend() != "tensorflow":
        return 1
    import tensorflow as tf

    return int(tf.distribute.get_strategy().num_replicas_in_sync)


def shaped_logs(logs: Any) -> Any:
    """What a step returns, logs in the shape that `fit` needs.

    With several machines Keras joins logs along their first axis, which scalars do not have (tensorflow#72388).
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        if isinstance(tf.distribute.get_strategy(), tf.distribute.MultiWorkerMirroredStrategy):
            return {name: tf.reshape(value, [1]) for name, value in logs.items()}
    return logs


def _scope(strategy: Any) -> AbstractContextManager[Any]:
    scope: AbstractContextManager[Any] = strategy.scope()
    return scope


def _data_parallel_scope(devices: int) -> AbstractContextManager[Any]:
    """Context of several devices of this machine, on JAX."""
    if several_machines():
        raise InputError("TF_CONFIG names several machines: these need KERAS_BACKEND=tensorflow")
    found = keras.distribution.list_devices()
    if devices > len(found):
        parts = f"; XLA_FLAGS=--xla_force_host_platform_device_count={devices} splits the CPU"
        hint = parts if found[0].startswith("cpu") else ""
        raise InputError(f"devices = {devices}: JAX sees {', '.join(found)} on this machine{hint}")
    return _scope(keras.distribution.DataParallel(devices=found[:devices]))


def _devices_of(model: keras.Model) -> list[str]:
    """The devices that a model was built on, on JAX."""
    devices = model.variables[0].value.sharding.device_set
    return [f"{device.platform}:{device.id}" for device in sorted(devices, key=lambda device: device.id)]


def _split_cpu(devices: int) -> None:
    import tensorflow as tf

    parts = [tf.config.LogicalDeviceConfiguration()] * devices
    try:
        tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], parts)
    except RuntimeError as error:
        cause = "this machine has no GPU, and TensorFlow has started, so that its CPU cannot be split"
        raise InputError(f"devices = {devices}: {cause}: use 1 device (GPU_COUNT = 1), or restart Python") from error
