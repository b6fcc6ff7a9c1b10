"""Notebooks: they run, they say what to see, and what is stored is what their sources give.

All run in one kernel, one after the other, in a copy of the checkout: TensorFlow starts once, and nothing of a notebook
reaches the process of the other tests. The names of one notebook are gone before the next begins. `make notebooks`
takes a fresh kernel for each.
"""

import pathlib
import re
import shutil
import sys

import nbformat
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "notebooks"))
import build  # noqa: E402

FEWEST_WORDS = 15  # of a stage's text, headings apart
each_notebook = pytest.mark.parametrize("name", build.names())


def stored(name):
    return nbformat.read(build.FOLDER / f"{name}.ipynb", as_version=4)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of what a notebook may use: the package, the samples and an empty folder for itself."""
    folder = tmp_path_factory.mktemp("checkout")
    for part in ("siamese_mrcnn_tf", "samples"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "notebooks").mkdir()
    return folder


@pytest.fixture(scope="module")
def kernel(checkout):
    with build.shared_kernel(checkout / "notebooks") as execute:
        yield execute


@pytest.mark.slow
@each_notebook
def test_notebook_runs_from_top_to_bottom(name, kernel, checkout):
    notebook = build.convert(build.FOLDER / f"{name}.py")
    kernel(notebook)  # raises what a cell raises
    assert all(cell.execution_count for cell in notebook.cells if cell.cell_type == "code")
    assert not list((checkout / "notebooks").iterdir()), "a notebook leaves files in its folder"


@each_notebook
def test_stored_notebook_has_the_cells_of_its_source(name):
    is_same = build.same_cells(stored(name), build.convert(build.FOLDER / f"{name}.py"))
    assert is_same, f"the stored notebook is of another source: run notebooks/build.py {name}"


@each_notebook
def test_stored_notebook_has_outputs_and_nothing_of_the_machine(name):
    notebook = stored(name)
    assert not build.problems(notebook)
    assert (build.FOLDER / f"{name}.ipynb").stat().st_size <= build.MOST_BYTES
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert any("image/jpeg" in output.get("data", {}) for cell in code for output in cell.outputs)


@each_notebook
def test_every_stage_says_what_to_see(name):
    """Of each heading: one of its rank in a cell, at the top, and a text before the first code."""
    cells = build.convert(build.FOLDER / f"{name}.py").cells
    assert cells[0].cell_type == "markdown" and cells[0].source.startswith("# ")
    for cell in cells:
        if cell.cell_type == "markdown":
            headings = re.findall(r"^#+ .+", cell.source, flags=re.MULTILINE)
            assert len(headings) <= 1 and (not headings or cell.source.startswith(headings[0]))
            text = re.sub(r"^#+ .+", "", cell.source, flags=re.MULTILINE)
            assert not headings or len(text.split()) >= FEWEST_WORDS, headings[0]


def test_problems_of_outputs_are_found():
    cell = nbformat.v4.new_code_cell("1", id="cell-1")
    notebook = nbformat.v4.new_notebook(cells=[cell])
    assert build.problems(notebook) == ["no cell has an output"]
    stream, data = nbformat.v4.new_output("stream", text="fine\n"), nbformat.v4.new_output("display_data")
    cell.outputs = [stream, data]
    assert not build.problems(notebook)
    for text, problem in ((f"{ROOT}/x", "names the checkout"), ("at 0x7f00deadbeef", "shows a memory address")):
        stream.text = text
        data.data = {"text/plain": text, "image/jpeg": "0x7f00deadbeef"}
        assert (
            build.problems(notebook).count(f"cell-1: {problem}") == 2
        )  # a checkout may lie in a folder for temporary files
    cell.outputs = [nbformat.v4.new_output("stream", name="stderr", text="careful")]
    assert build.problems(notebook) == ["cell-1: wrote to the error stream: careful"]
    cell.outputs = [nbformat.v4.new_output("error", ename="KeyError", evalue="1")]
    assert build.problems(notebook) == ["cell-1: raised KeyError"]
    cell.outputs = [nbformat.v4.new_output("stream", text="x" * (build.MOST_BYTES + 1))]
    assert "bytes, more than" in build.problems(notebook)[0]


def test_normalising_and_writing_leave_nothing_of_the_run():
    notebook = nbformat.v4.new_notebook(metadata={"language_info": {"name": "python", "version": "3.99"}})
    notebook.cells = [nbformat.v4.new_code_cell("1", metadata={"execution": {"iopub": "now"}, "tags": ["a"]})]
    build.normalise(notebook)
    assert notebook.metadata.language_info == {"name": "python"}
    assert notebook.cells[0].metadata == {"tags": ["a"]}


def test_unknown_names_are_refused(capsys):
    with pytest.raises(SystemExit):
        build.main(["inspect_modle"])
    assert "no notebook inspect_modle: expected some of " in capsys.readouterr().err
