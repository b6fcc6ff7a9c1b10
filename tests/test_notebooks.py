"""Notebooks: they run, they say what to see, and the stored ones are what their sources give.

The sources run in this process, from top to bottom: TensorFlow starts once. `make notebooks` runs each in a kernel.
"""

import logging
import pathlib
import re
import runpy
import sys

import nbformat
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "notebooks"
build = runpy.run_path(str(NOTEBOOKS / "build.py"))
each_notebook = pytest.mark.parametrize("name", build["NAMES"])

MIN_WORDS = 15  # of a section's text, without its heading
MAX_BYTES = 1_500_000  # of a notebook with its outputs
# paths of a machine: the checkout, home folders, temporary files; and addresses of objects
_PLACES = re.compile(rf"{re.escape(str(ROOT))}/|/(?:home|root|Users|tmp|var)/|\b0x[0-9a-f]{{6,}}\b")


@pytest.fixture
def folder(short_training, tmp_path, monkeypatch):
    """An empty working directory; what a notebook changes in this process is undone."""
    logger = logging.getLogger("siamese_mrcnn_tf")
    level = logger.level
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")
    monkeypatch.setattr(sys, "path", sys.path.copy())
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    yield tmp_path / "notebooks"
    logger.setLevel(level)


@pytest.mark.slow
@each_notebook
def test_notebook_runs_from_top_to_bottom(name, folder):
    runpy.run_path(str(NOTEBOOKS / f"{name}.py"))
    assert not list(folder.iterdir()), "a notebook leaves files in its folder"


@each_notebook
def test_stored_notebook_has_the_cells_of_its_source(name):
    found, expected = stored(name), build["convert"](name)
    assert cells_of(found) == cells_of(expected), f"of another source: run notebooks/build.py {name}"
    assert found.metadata == expected.metadata


@each_notebook
def test_stored_notebook_has_outputs_and_nothing_of_the_machine(name):
    code = [cell for cell in stored(name).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert any("image/jpeg" in output.get("data", {}) for cell in code for output in cell.outputs)
    assert problems(code) == []
    assert (NOTEBOOKS / f"{name}.ipynb").stat().st_size <= MAX_BYTES


@each_notebook
def test_every_section_says_what_to_see(name):
    """One heading in a cell at most, at its top, and a text before the first code."""
    cells = build["convert"](name).cells
    assert cells[0].cell_type == "markdown" and cells[0].source.startswith("# ")
    for cell in cells:
        if cell.cell_type == "markdown":
            headings = re.findall(r"^#+ .+", cell.source, flags=re.MULTILINE)
            assert len(headings) <= 1 and (not headings or cell.source.startswith(headings[0]))
            text = re.sub(r"^#+ .+", "", cell.source, flags=re.MULTILINE)
            assert not headings or len(text.split()) >= MIN_WORDS, headings[0]


@pytest.mark.parametrize(
    "output, problem",
    [
        (nbformat.v4.new_output("stream", text=f"{ROOT}/x"), f"{ROOT}/"),
        (nbformat.v4.new_output("display_data", {"text/plain": "in /home/me/x"}), "/home/"),
        (nbformat.v4.new_output("stream", text="<object at 0x7f00deadbeef>"), "0x7f00deadbeef"),
        (nbformat.v4.new_output("stream", name="stderr", text="careful"), "stderr: careful"),
        (nbformat.v4.new_output("error", ename="KeyError", evalue="1"), "KeyError"),
    ],
)
def test_problems_of_outputs_are_found(output, problem):
    fine = nbformat.v4.new_output("display_data", {"text/plain": "fine", "image/jpeg": "/tmp/0x7f00deadbeef"})
    cell = nbformat.v4.new_code_cell("1", id="cell-1", outputs=[fine, output])
    assert problems([cell]) == [f"cell-1: {problem}"]


def stored(name):
    return nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)


def cells_of(notebook):
    return [(cell.cell_type, cell.source) for cell in notebook.cells]


def problems(cells):
    """What should not be in stored outputs: list of texts that name the cell."""
    return [f"{cell.id}: {problem}" for cell in cells for output in cell.outputs for problem in problems_of(output)]


def problems_of(output):
    if output.output_type == "error":
        return [output.ename]
    if output.get("name") == "stderr":
        return [f"stderr: {output.text}"]
    texts = [output.text] if output.output_type == "stream" else output.data.values()
    kinds = ["text/plain"] if output.output_type == "stream" else output.data
    return [
        place for kind, text in zip(kinds, texts, strict=True) if "image" not in kind for place in _PLACES.findall(text)
    ]
