"""The robustness suite: inputs that should break a command, kills, full disks, two processes, fuzzing and load.

`python -m robustness [PART ...]` (with `tests` on PYTHONPATH; `make robustness`) runs it and writes docs/reliability.md.
"""
