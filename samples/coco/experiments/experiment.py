"""What the experiments share: an experiment is a list of arguments for `coco.py evaluate`.

Further arguments go on to the command, after those of the experiment: `--dataset DIR` (data/coco without it),
`--limit 50` for a first look. `--dry-run` prints the command.
"""

import importlib.util
import shlex
import sys
from pathlib import Path

_COMMAND = Path(__file__).resolve().parents[1] / "coco.py"
_DRY_RUN = "--dry-run"
_DEFAULT_DATASET = "data/coco"


def arguments_of(name, *, model, split, categories, shots=1):
    """The arguments of `coco.py` for an experiment of the paper.

    Args:
        name: of the experiment, and of the folder for what it writes.
        model: weights, a known file by its name, or "random-boxes".
        split: 1..4, 0 for all categories, or "all" for the four splits one after the other.
        categories: "train", "novel" or "all".
        shots: references of a query.
    """
    asked = {"model": model, "split": split, "categories": categories, "shots": shots, "runs": 5, "protocol": "paper"}
    options = [text for key, value in asked.items() for text in (f"--{key}", str(value))]
    return ["evaluate", *options, "--out", f"results/{name}"]


def run(arguments, further=None):
    """Evaluate, or with --dry-run print the command; returns the exit code.

    Args:
        arguments: of `arguments_of`.
        further: arguments added to them; those of this program by default.
    """
    further = sys.argv[1:] if further is None else list(further)
    is_dry = _DRY_RUN in further
    arguments = [*arguments, *(text for text in further if text != _DRY_RUN)]
    if not any(text.split("=")[0] == "--dataset" for text in arguments):
        arguments += ["--dataset", _DEFAULT_DATASET]
    if is_dry:
        print(shlex.join(["python", "samples/coco/coco.py", *arguments]))
        return 0
    return _load_command().main(arguments)


def _load_command():
    spec = importlib.util.spec_from_file_location("coco_command", _COMMAND)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
