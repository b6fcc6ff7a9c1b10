"""Several devices and several machines, by `tf.distribute`; one device on any backend.

Called before anything else uses TensorFlow: `prepare_backend`, then `device_scope`.
"""

import contextlib
import json
import logging
import os

import keras

logger = logging.getLogger(__name__)


def prepare_backend(*, seed, devices=1):
    """Set up Keras and TensorFlow for a run, before anything else uses them.

    Initial weights are seeded. On a CPU numbers are added in the same order each time: otherwise runs part in their
    last digits, and soon visibly. On GPUs TensorFlow has no such kernel for the gradient of crop_and_resize.
    """
    keras.utils.set_random_seed(seed)
    if keras.backend.backend() != "tensorflow":
        return
    import tensorflow as tf

    if not tf.config.list_physical_devices("GPU"):
        tf.config.experimental.enable_op_determinism()
        if devices == 1 and not _machines():  # operations side by side gain no time and hold more memory
            with contextlib.suppress(RuntimeError):  # TensorFlow has begun: it keeps its threads
                tf.config.threading.set_inter_op_parallelism_threads(1)


def device_scope(devices):
    """Context to build and train a model in, on several devices or machines.

    Where TF_CONFIG names several machines it is that of `tf.distribute.MultiWorkerMirroredStrategy`, else, for more
    than one device, that of `MirroredStrategy` over GPUs, or over parts of the CPU on a machine without any. Must be
    asked for before TensorFlow has done anything else.

    Raises:
        ValueError: more devices than there are GPUs; several machines and `devices` at once; another backend than
            TensorFlow; a TF_CONFIG that cannot be read.
    """
    machines = _machines()
    if devices == 1 and not machines:
        return contextlib.nullcontext()
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            f"several devices or machines need the TensorFlow backend, KERAS_BACKEND is {keras.backend.backend()}"
        )
    import tensorflow as tf

    if machines and devices > 1:
        raise ValueError(f"devices = {devices}: where TF_CONFIG names several machines, each uses all of its GPUs")
    if machines:
        return tf.distribute.MultiWorkerMirroredStrategy().scope()
    gpus = tf.config.list_physical_devices("GPU")
    if gpus and devices > len(gpus):
        raise ValueError(f"devices = {devices}: this machine has {len(gpus)} GPUs")
    if not gpus:
        _split_cpu(devices)
        logger.warning("this machine has no GPU: its CPU is used as %d devices", devices)
    kind = "GPU" if gpus else "CPU"
    return tf.distribute.MirroredStrategy([f"{kind}:{index}" for index in range(devices)]).scope()


def several_machines():
    """Whether TF_CONFIG names more than this machine."""
    return _machines() is not None


def is_chief():
    """Whether this process is the one that writes: the chief of TF_CONFIG, its first worker where it has none."""
    task = _machines()
    return task is None or (task["type"], task["index"]) == (task["writer"], 0)


def replicas_of(model):
    """Devices that share a batch of this model."""
    return model.distribute_strategy.num_replicas_in_sync if keras.backend.backend() == "tensorflow" else 1


def strategy_scope(model):
    """Context of the devices that a model was built on."""
    if keras.backend.backend() != "tensorflow":
        return contextlib.nullcontext()
    return model.distribute_strategy.scope()


def replicas_in_sync():
    """Devices that share this step's batch."""
    if keras.backend.backend() != "tensorflow":
        return 1
    import tensorflow as tf

    return tf.distribute.get_strategy().num_replicas_in_sync


def shaped_logs(logs):
    """Logs of a step, as `fit` can take them.

    With several machines Keras joins the logs along their first axis, which scalars do not have (tensorflow#72388).
    """
    if keras.backend.backend() != "tensorflow":
        return logs
    import tensorflow as tf

    if not isinstance(tf.distribute.get_strategy(), tf.distribute.MultiWorkerMirroredStrategy):
        return logs
    return {name: tf.reshape(value, [1]) for name, value in logs.items()}


def _machines():
    """This machine's task where TF_CONFIG names several: {"type", "index", "writer": type of the one that writes}."""
    text = os.environ.get("TF_CONFIG")
    if not text:
        return None
    try:
        content = json.loads(text)
        cluster, task = content["cluster"], content["task"]
        count = sum(len(addresses) for addresses in cluster.values())
        found = {"type": task["type"], "index": int(task["index"])}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"TF_CONFIG = {text!r}: expected the JSON that tf.distribute describes ({error!r})") from error
    if not set(cluster) <= {"chief", "worker"} or found["type"] not in cluster:
        raise ValueError(f"TF_CONFIG = {text!r}: expected a chief and workers, and this machine among them")
    return found | {"writer": "chief" if "chief" in cluster else "worker"} if count > 1 else None


def _split_cpu(devices):
    import tensorflow as tf

    parts = [tf.config.LogicalDeviceConfiguration()] * devices
    try:
        tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], parts)
    except RuntimeError as error:
        raise ValueError(
            f"devices = {devices}: this machine has no GPU, and TensorFlow has begun, so that its CPU cannot be split: "
            "use 1 device (GPU_COUNT = 1), or start Python anew"
        ) from error
