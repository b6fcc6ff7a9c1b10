"""Schedules for training on Shapes with TinyConfig, after pre-training. Light to import, for the command line."""

from ..config import TinyConfig
from ..training.schedules import Schedules, Stage

SHAPES_SCHEDULES: Schedules = {
    "shapes": (Stage(12, "all", TinyConfig.LEARNING_RATE, decay_to=12),),
    "shapes-long": (Stage(60, "all", TinyConfig.LEARNING_RATE, decay_to=60),),
}
