"""Several machines that train together: what TF_CONFIG says. Nothing here imports Keras."""

import json
import os

from ..io.errors import InputError


def several_machines() -> bool:
    """Whether TF_CONFIG names more than this machine."""
    return _writes() is not None


def is_chief() -> bool:
    """Whether this process is the one that writes: the chief of TF_CONFIG, or its first worker without a chief."""
    return _writes() is not False


def _writes() -> bool | None:
    """Whether this machine is the one of TF_CONFIG's that writes; None if it does not name several machines."""
    text = os.environ.get("TF_CONFIG")
    if not text:
        return None
    try:
        content = json.loads(text)
        cluster, kind, index = content["cluster"], content["task"]["type"], int(content["task"]["index"])
        count = sum(len(addresses) for addresses in cluster.values())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"TF_CONFIG = {text!r}: expected the JSON that tf.distribute describes ({error!r})") from error
    if not set(cluster) <= {"chief", "worker"} or kind not in cluster:
        raise InputError(f"TF_CONFIG = {text!r}: expected a chief and workers, and this machine among them")
    return (kind, index) == ("chief" if "chief" in cluster else "worker", 0) if count > 1 else None
