"""Options and settings that are given but have no effect, which are said once instead of being passed over."""

import argparse
from collections.abc import Iterable, Mapping

from ..config import Config
from ..settings import SETTINGS, parse_settings, shown

# setting -> attribute of the option that replaces it
_OF_TRAINING = {
    "GPU_COUNT": "devices",
    "IMAGES_PER_GPU": "batch",
    "NUM_TARGETS": "shots",
    "STEPS_PER_EPOCH": "steps",
    "VALIDATION_STEPS": "val_steps",
    "PRECISION": "mixed_precision",
}
_OF_DETECTION = {
    "DETECTION_MIN_CONFIDENCE": "min_confidence",
    "DETECTION_MAX_INSTANCES": "max_detections",
    "PRECISION": "precision",
    "VERIFY_DETECTIONS": "verify",
}
_NEEDED = {  # setting -> (setting that it belongs to, the value of that with which it has an effect)
    "MINI_MASK_SHAPE": ("USE_MINI_MASK", True),
    "ADAM_BETA_2": ("OPTIMIZER", "adam"),
}
_OF_ALL = ("verbose", "debug", "out")


def option_of(name: str) -> str:
    """The option behind an attribute of the parsed options."""
    return {"verify": "--no-verify"}.get(name, f"--{name.replace('_', '-')}")


def given(options: argparse.Namespace) -> frozenset[str]:
    """Attributes of the options that were typed."""
    return getattr(options, "given", frozenset())


def say_once(options: argparse.Namespace, text: str) -> None:
    """Print a note that the command has not printed yet, unless it is empty."""
    from .inputs import tell

    said: set[str] = getattr(options, "said", set())
    if text and text not in said:
        tell(options, f"note: {text}")
    said.add(text)


def say_unused_options(options: argparse.Namespace, names: Iterable[str], why: str) -> None:
    """Say which of these options were given although they have no effect."""
    unused = [option_of(name) for name in names if name in given(options)]
    if unused:
        verb = "has" if len(unused) == 1 else "have"
        say_once(options, f"{', '.join(unused)} {verb} no effect {why}")


def say_other_options(options: argparse.Namespace, used: Iterable[str], why: str) -> None:
    """Say which options were given besides those that are used."""
    say_unused_options(options, sorted(given(options) - {*used, *_OF_ALL}), why)


def say_unused_in_training(options: argparse.Namespace, config: Config, *, decays: bool) -> None:
    """Say which of --set have no effect in `train`; `decays`: whether a stage has a decay."""
    reasons = {"LEARNING_RATE": f"each stage of --stages {options.stages} has its own"}
    if not decays:
        reasons["WARM_UP_STEPS"] = f"no stage of --stages {options.stages} has decay_to"
    if not config.NUM_JITTERED_GT_ROIS:
        reasons["USE_HARD_NEGATIVES"] = "NUM_JITTERED_GT_ROIS is 0"
    for name, (other, value) in _NEEDED.items():
        if getattr(config, other) != value:
            reasons[name] = f"{other} is {getattr(config, other)}"
    _say_unused_settings(options, _OF_TRAINING, reasons)


def say_unused_in_detection(options: argparse.Namespace) -> None:
    """Say which of --set have no effect in a command that detects."""
    reasons = {name: "it is for training" for name, setting in SETTINGS.items() if setting.part == "training"}
    reasons["NUM_TARGETS"] = "the references of a query count"
    if getattr(options, "shots", None):
        reasons["NUM_TARGETS"] = "--shots counts"
    if getattr(options, "protocol", "") == "paper":
        reasons["MOLD_TARGETS_AT_INFERENCE"] = "--protocol paper replaces it"
    _say_unused_settings(options, _OF_DETECTION, reasons)


def _say_unused_settings(options: argparse.Namespace, replaced: Mapping[str, str], reasons: Mapping[str, str]) -> None:
    """Say which of --set have no effect: without use at all, for one of the reasons, or replaced by an option."""
    for name, value in parse_settings(options.set).items():
        reason = reasons.get(name)
        if replaced.get(name) in given(options):
            reason = f"{option_of(replaced[name])} replaces it"
        elif name == "CHECKPOINT_DIR":
            reason = "--checkpoints names the folder"
        elif name in SETTINGS and SETTINGS[name].part == "unused":
            reason = SETTINGS[name].meaning
        if reason:
            say_once(options, f"--set {name}={shown(value)} has no effect: {reason}")
