"""Makes the notebooks: `notebooks/NAME.py` in jupytext's percent format -> `notebooks/NAME.ipynb` with its outputs.

    python notebooks/build.py [NAME ...]     all, or those that are named

A notebook is executed from top to bottom in a fresh kernel, normalised so that nothing in it depends on where and when
that was, looked over and then written, whole or not at all. `tests/test_notebooks.py` uses the same functions.
"""

import argparse
import contextlib
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import jupytext
import nbformat
from ipykernel.kernelspec import make_ipkernel_cmd
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parent))  # runs from a checkout that is not installed

from siamese_mrcnn_tf.io.files import atomic_path  # noqa: E402

MOST_BYTES = 1_500_000  # of a notebook with its pictures
_CELL_SECONDS = 300
_METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
_OWN_KEYS = ("tags",)  # of a cell's metadata, what its source says
_MEMORY_ADDRESS = re.compile(r"\b0x[0-9a-f]{6,}\b")


# ---- stages ------------------------------------------------------------------------------------------------------
def names():
    """Names of all notebooks, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.py") if path != Path(__file__).resolve())


def convert(path):
    """The notebook of a .py source, not executed.

    Args:
        path: of the source.

    Returns:
        nbformat notebook whose cells have ids that depend on their place alone.
    """
    notebook = jupytext.read(path, fmt="py:percent")
    for number, cell in enumerate(notebook.cells, 1):
        cell.id = f"cell-{number}"
    return notebook


@contextlib.contextmanager
def shared_kernel(folder):
    """Context of one kernel with this interpreter, whatever kernels are installed.

    What TensorFlow writes to the process's own error stream at its start stays out of the outputs.

    Args:
        folder: working directory.

    Yields:
        Function that executes all cells of a notebook in place, without names of those before it. It raises
        nbclient.exceptions.CellExecutionError where a cell raises.
    """
    manager = AsyncKernelManager(kernel_name="python3", kernel_spec_manager=_ThisInterpreter())
    options = {"timeout": _CELL_SECONDS, "record_timing": False, "coalesce_streams": True}
    client = NotebookClient(nbformat.v4.new_notebook(), km=manager, **options)

    def execute(notebook):
        for part in (nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("%reset -f")]), notebook):
            client.nb = part
            client.execute(cleanup_kc=False)

    with client.setup_kernel(cwd=str(folder), stderr=subprocess.DEVNULL, cleanup_kc=True):
        yield execute


def normalise(notebook):
    """Remove in place what depends on the machine or the time."""
    notebook.metadata = nbformat.from_dict(_METADATA)
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict({key: cell.metadata[key] for key in _OWN_KEYS if key in cell.metadata})


def problems(notebook):
    """What should not be in a notebook that is stored.

    Args:
        notebook: executed and normalised.

    Returns:
        list of texts that name the cell; empty for a good one.
    """
    found = [] if any(cell.get("outputs") for cell in notebook.cells) else ["no cell has an output"]
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            found += [f"{cell.id}: {problem}" for problem in _problems_of_output(output)]
    size = len(nbformat.writes(notebook).encode())
    return found + ([f"{size:,} bytes, more than {MOST_BYTES:,}"] if size > MOST_BYTES else [])


def same_cells(notebook, other):
    """Whether two notebooks have the same kinds and sources of cells."""
    return [(cell.cell_type, cell.source) for cell in notebook.cells] == [
        (cell.cell_type, cell.source) for cell in other.cells
    ]


def build(name):
    """Convert, execute and write one notebook; returns its path.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell raised.
        ValueError: something is in its outputs that should not be stored.
    """
    notebook = convert(FOLDER / f"{name}.py")
    with shared_kernel(FOLDER) as execute:
        execute(notebook)
    normalise(notebook)
    found = problems(notebook)
    if found:
        raise ValueError(f"{name}.py: not written. " + "; ".join(found))
    target = FOLDER / f"{name}.ipynb"
    with atomic_path(target) as temporary:
        Path(temporary).write_text(nbformat.writes(notebook) + "\n", encoding="utf-8")
    return target


# ---- helpers -----------------------------------------------------------------------------------------------------
class _ThisInterpreter(KernelSpecManager):
    """Knows one kernel: the running interpreter."""

    def get_kernel_spec(self, kernel_name):
        command = [*make_ipkernel_cmd(), "--IPKernelApp.capture_fd_output=False", "--HistoryManager.enabled=False"]
        return KernelSpec(argv=command, display_name="Python 3", language="python")


def _problems_of_output(output):
    if output.output_type == "error":
        return [f"raised {output.ename}"]
    if output.output_type == "stream" and output.name == "stderr":
        return [f"wrote to the error stream: {output.text[:200]}"]
    texts = [output.text] if output.output_type == "stream" else _texts(output.data)
    places = {str(FOLDER.parent): "the checkout", str(Path.home()): "the home folder", tempfile.gettempdir(): "/tmp"}
    found = [f"names {what}" for place, what in places.items() if any(f"{place}/" in text for text in texts)]
    return found + ["shows a memory address"] * any(_MEMORY_ADDRESS.search(text) for text in texts)


def _texts(data):
    return [content for kind, content in data.items() if kind.startswith("text/")]


# ---- command line ------------------------------------------------------------------------------------------------
def main(arguments=None):
    """Run the command line; the exit code."""
    parser = argparse.ArgumentParser(description="Execute the notebooks and write them with their outputs.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(names())}; all if none is named")
    options = parser.parse_args(arguments)
    unknown = set(options.names) - set(names())
    if unknown:
        parser.error(f"no notebook {', '.join(sorted(unknown))}: expected some of {', '.join(names())}")
    for name in options.names or names():
        path = build(name)
        print(f"{path.name}: {path.stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
