"""The short part of the suite: some of the corpus, a kill, two processes, a moment of fuzzing."""

import json
import os
import pathlib
import subprocess
import sys

TESTS = pathlib.Path(__file__).resolve().parents[1]


def test_the_short_part_shows_no_fault(tmp_path):
    """In a process of its own: it forks, and TensorFlow may be running in this one."""
    environment = os.environ | {"PYTHONPATH": f"{TESTS.parent}{os.pathsep}{TESTS}"}
    words = [sys.executable, "-m", "robustness", "--short", "--seed", "1", "--json", str(tmp_path / "results.json")]
    finished = subprocess.run(words, env=environment, capture_output=True, text=True, errors="replace", check=False)
    assert finished.returncode == 0, finished.stdout[-4000:] + finished.stderr[-2000:]
    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert set(results) == {"corpus", "kills", "sharing", "fuzz"}
    assert sum(family["tried"] for family in results["corpus"]["rows"]["families"].values()) >= 80
