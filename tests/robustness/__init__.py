"""The robustness suite: inputs that should break a command, kills, full disks, two processes, fuzzing, load.

`python -m robustness [PART ...]` runs it, with `tests` on PYTHONPATH; `make robustness` does.
"""
