"""Execute notebooks: `notebooks/NAME.py` in jupytext's percent format -> `notebooks/NAME.ipynb` with its outputs.

python notebooks/build.py [NAME ...]     all, or the named ones
"""

import subprocess
import sys
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parent
NAMES = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "build")
_KERNEL = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
_OPTIONS = {  # TensorFlow's own lines at its start stay out of the outputs
    "extra_arguments": ["--IPKernelApp.capture_fd_output=False", "--HistoryManager.enabled=False"],
    "record_timing": False,
    "coalesce_streams": True,
    "timeout": 300,
}


def convert(name: str) -> nbformat.NotebookNode:
    """The notebook of a source, not executed, with nothing in it that depends on the machine."""
    notebook = jupytext.read(FOLDER / f"{name}.py", fmt="py:percent")
    notebook.metadata = nbformat.from_dict(_KERNEL)
    for number, cell in enumerate(notebook.cells, 1):
        cell.id, cell.metadata = f"cell-{number}", nbformat.NotebookNode()
    return notebook


def build(name: str) -> Path:
    """Convert, execute in a fresh kernel and write one notebook; returns its path."""
    notebook, path = convert(name), FOLDER / f"{name}.ipynb"
    client = NotebookClient(notebook, resources={"metadata": {"path": str(FOLDER)}}, **_OPTIONS)
    client.execute(stderr=subprocess.DEVNULL)
    notebook.metadata = nbformat.from_dict(_KERNEL)
    path.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8")
    return path


if __name__ == "__main__":
    for name in sys.argv[1:] or NAMES:
        path = build(name)
        print(f"{path.name}: {path.stat().st_size:,} bytes")
