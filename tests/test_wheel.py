"""The built package, installed beside its dependencies and used in an empty folder."""

import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "siamese_mrcnn_tf"
SOURCES = ("setup.py", "pyproject.toml", "requirements.txt", "README.md", "LICENSE")
pytestmark = pytest.mark.slow


def execute(*words, folder):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    words = [str(word) for word in words]
    finished = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    return finished


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Path of the wheel, built from a copy of the sources: nothing of an earlier build is in it."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        shutil.copy(ROOT / name, folder)
    shutil.copytree(PACKAGE, folder / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--wheel-dir", "dist")
    execute(sys.executable, "-m", "pip", "wheel", *options, ".", folder=folder)
    (path,) = (folder / "dist").iterdir()
    return path


@pytest.fixture(scope="module")
def programs(wheel, tmp_path_factory):
    """Folder of the programs of an environment with the wheel, and with the dependencies of the running one."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder)
    (site_packages,) = folder.glob("[Ll]ib/**/site-packages")
    # paths that a .pth file names are searched, but their own .pth files, editable installs among them, are not read
    (site_packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    programs = folder / ("Scripts" if os.name == "nt" else "bin")
    pip = (sys.executable, "-m", "pip", "--python", programs / "python")
    execute(*pip, "install", "--no-deps", "--no-index", "--quiet", wheel, folder=folder)
    return programs


def test_the_wheel_has_all_files_of_the_package(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    paths = [path for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert {path.relative_to(ROOT).as_posix() for path in paths} <= names
    data = ("py.typed", "shapes/siamese_mrcnn_shapes_s1.h5", "report/published.csv")
    assert {f"{PACKAGE.name}/{name}" for name in data} <= names
    assert not [name for name in names if name.startswith(("tests/", "samples/"))]


def test_the_metadata_name_what_a_user_looks_for(wheel):
    archive = zipfile.ZipFile(wheel)
    (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
    metadata = archive.read(name).decode()
    assert "Requires-Python: >=3.11\n" in metadata and "Requires-Dist: tensorflow>=2.20\n" in metadata
    assert "Project-URL: Paper, https://arxiv.org/abs/1811.11507\n" in metadata
    assert "Provides-Extra: notebooks\n" in metadata and "Provides-Extra: dev\n" in metadata


@pytest.mark.parametrize("words", [["siamese-mrcnn"], ["siamese-mrcnn", "demo"], ["python", "-m", "siamese_mrcnn_tf"]])
def test_help_of_the_installed_program(programs, tmp_path, words):
    text = execute(programs / words[0], *words[1:], "--help", folder=tmp_path).stdout
    assert text.startswith(f"usage: {' '.join(words)} ")


def test_the_bundled_weights_find_the_objects_of_a_drawn_scene(programs, tmp_path):
    """In the way of a new user: draw a scene, then run the command that the program suggests."""
    drawn = execute(programs / "siamese-mrcnn", "shapes", "--out", "scene", "--demo", folder=tmp_path)
    cuts = dict(re.findall(r"(reference_\w+)\.png cut at y1,x1,y2,x2 = ([\d,]+)", drawn.stdout))
    (command,) = re.findall(r"To search the scene: (.+)", drawn.stderr)
    execute(*shlex.split(command), folder=tmp_path)

    out = tmp_path / "predictions"
    categories = {one["name"]: one["id"] for one in json.loads((out / "images.json").read_text())["categories"]}
    assert set(categories) == set(cuts) and len(cuts) >= 2
    results = json.loads((out / "results.json").read_text())
    for name, text in cuts.items():
        y1, x1, y2, x2 = map(int, text.split(","))
        boxes = [result["bbox"] for result in results if result["category_id"] == categories[name]]
        assert max(iou(box, (x1, y1, x2 - x1, y2 - y1)) for box in boxes) > 0.5, name


def iou(box, other):
    """Intersection over union of two boxes (x, y, width, height)."""
    width, height = (min(box[i] + box[i + 2], other[i] + other[i + 2]) - max(box[i], other[i]) for i in (0, 1))
    intersection = max(width, 0) * max(height, 0)
    return intersection / (box[2] * box[3] + other[2] * other[3] - intersection)
