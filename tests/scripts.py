"""The programs of samples/ as modules."""

import importlib.util
import pathlib

ROOT = pathlib.Path(__file__).resolve().parents[1]


def load_script(script):
    """The module of a program, by its path in the repository; a new one each time."""
    spec = importlib.util.spec_from_file_location(f"script_{pathlib.PurePath(script).stem}", ROOT / script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
