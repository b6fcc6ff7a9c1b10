"""The folder of downloads."""

import sys
from pathlib import Path

import pytest

from siamese_mrcnn_tf.io.cache import cache_folder


@pytest.fixture
def home(tmp_path, monkeypatch):
    """The home folder, and no variable that names another place."""
    for name in ("SIAMESE_MRCNN_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("platform", "place"), [("linux", ".cache"), ("darwin", "Library/Caches"), ("win32", "AppData/Local")]
)
def test_place_of_the_system(home, monkeypatch, platform, place):
    monkeypatch.setattr(sys, "platform", platform)
    assert cache_folder() == home / place / "siamese-mrcnn"


@pytest.mark.parametrize(("platform", "variable"), [("linux", "XDG_CACHE_HOME"), ("win32", "LOCALAPPDATA")])
def test_variables_of_the_system(home, monkeypatch, platform, variable):
    monkeypatch.setattr(sys, "platform", platform)
    ordinary = cache_folder()
    monkeypatch.setenv(variable, str(home / "elsewhere"))
    assert cache_folder() == home / "elsewhere" / "siamese-mrcnn"
    monkeypatch.setenv(variable, "relative")  # the XDG rules say to ignore it
    assert cache_folder() == ordinary


def test_own_variable(home, monkeypatch):
    monkeypatch.setenv("SIAMESE_MRCNN_CACHE", "~/mine")
    assert cache_folder() == home / "mine"
    monkeypatch.chdir(home)
    monkeypatch.setenv("SIAMESE_MRCNN_CACHE", "here")
    assert cache_folder() == Path.cwd() / "here"
