"""Locks of outputs, and what killed processes leave behind."""

import contextlib
import errno
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from siamese_mrcnn_tf.io import files, locks

HOLD = """
import sys
from siamese_mrcnn_tf.io.locks import exclusive
with exclusive(sys.argv[1]):
    print("in", flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def holding(path):
    """Another process that has the lock of an output."""
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "in\n"
        yield process
        with contextlib.suppress(OSError):
            process.stdin.close()


@pytest.fixture(scope="module")
def held(tmp_path_factory):
    """(output that another process has locked, that process)."""
    out = tmp_path_factory.mktemp("held") / "above" / "out"
    files.write_text(out / "search.json", "{}")  # it has begun to write
    with holding(out) as process:
        yield out, process


def test_the_second_process_is_told_of_the_first(held, tmp_path):
    out, process = held
    expected = rf"out: another process writes there: process {process.pid}, since \d{{4}}-.*: python.* -c .*exclusive"
    (tmp_path / "link").symlink_to(out)
    for path in (out, tmp_path / "link"):
        with (
            pytest.raises(RuntimeError, match=expected if path == out else "link: another process"),
            locks.exclusive(path),
        ):
            pass
    assert sorted(os.listdir(out.parent)) == [".out.lock", "out"] and os.listdir(tmp_path) == ["link"]


def test_a_lock_dies_with_its_owner(tmp_path):
    out = tmp_path / "above" / "out"
    with holding(out) as process:
        process.kill()
        process.wait()
    assert os.listdir(out.parent) == [".out.lock"]
    with locks.exclusive(out), locks.exclusive(str(out)):  # again in the same process
        owner = json.loads((out.parent / ".out.lock").read_bytes()[1:])
        assert owner["pid"] == os.getpid()
    assert os.listdir(out.parent) == []  # the folder was there


def test_a_lock_leaves_nothing(tmp_path):
    out = tmp_path / "new" / "above" / "out"
    with pytest.raises(KeyError), locks.exclusive(out):
        out.mkdir()
        raise KeyError
    assert os.listdir(tmp_path) == []
    with locks.exclusive(out):
        files.write_text(out, "a")
    assert os.listdir(out.parent) == ["out"]


def test_an_output_that_another_process_makes_is_waited_for(tmp_path, caplog):
    with holding(tmp_path / "out") as process:
        process.stdin.close()
        with locks.exclusive(tmp_path / "out", wait=True):
            assert os.listdir(tmp_path) == [".out.lock"]


def test_without_locks_of_the_file_system_there_is_a_warning(tmp_path, monkeypatch, caplog):
    def refuse(descriptor, **options):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(locks.filelock, "lock_descriptor", refuse)
    with locks.exclusive(tmp_path / "out"):
        pass
    assert "out: cannot be locked against other processes" in caplog.text


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_downloads_go_without_locks_of_the_file_system(tmp_path, monkeypatch, caplog, number):
    def refuse(descriptor, **options):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(locks.filelock, "lock_descriptor", refuse)
    with locks.locked(tmp_path / "a.lock", "download of a"):
        assert "download of a: cannot be locked against other processes" in caplog.text


@pytest.mark.parametrize("left", [False, True], ids=["a folder without permission", "a lock file of another user"])
def test_an_output_beside_which_no_lock_file_can_be_made_is_locked_elsewhere(tmp_path, monkeypatch, left):
    (tmp_path / "out").mkdir()
    if left:
        (tmp_path / ".out.lock").touch()
    opened, real = [], os.open

    def refuse(path, flags, *mode):
        if str(path).startswith(str(tmp_path)) and flags & os.O_CREAT:
            raise PermissionError(13, "Permission denied", str(path))
        opened.append(path)
        return real(path, flags, *mode)

    def keep(path):
        raise PermissionError(1, "Operation not permitted", str(path))

    monkeypatch.setattr(locks.os, "open", refuse)
    if left:
        monkeypatch.setattr(type(tmp_path), "unlink", keep)
    with locks.exclusive(tmp_path / "out"):
        assert [path.parent for path in opened if path.suffix == ".lock"] == [
            tmp_path if left else locks.cache_folder() / locks.LOCKS
        ]


def test_the_root_of_a_drive_can_be_locked():
    with locks.exclusive(os.path.abspath(os.sep)):
        pass


def test_a_lock_file_that_is_a_link_is_not_followed(tmp_path):
    (tmp_path / "victim").write_text("mine")
    (tmp_path / ".out.lock").symlink_to(tmp_path / "victim")
    with pytest.raises(ValueError, match="out: cannot write there"), locks.exclusive(tmp_path / "out"):
        pass
    assert (tmp_path / "victim").read_text() == "mine"


HOLD_FOLDER = """
import sys
from siamese_mrcnn_tf.io.locks import temporary_folder
with temporary_folder() as folder:
    (folder / "a").touch()
    print(folder, flush=True)
    sys.stdin.read()
"""


def test_a_temporary_folder_does_not_outlive_a_kill_for_long(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", HOLD_FOLDER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True) as other:
        theirs = Path(other.stdout.readline().strip())
        with locks.temporary_folder() as mine:
            assert mine.is_dir() and set(tmp_path.iterdir()) == {mine, theirs}
        assert (theirs / "a").exists()
        other.kill()
    assert list(tmp_path.iterdir()) == [theirs]
    with locks.temporary_folder() as mine:
        assert list(tmp_path.iterdir()) == [mine]
    assert not list(tmp_path.iterdir())


def test_an_output_that_cannot_be_written_is_refused_at_once(tmp_path, monkeypatch):
    def refuse(path, flags, *mode, **options):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setenv("SIAMESE_MRCNN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(locks.os, "open", refuse)
    with pytest.raises(ValueError, match="out: cannot write there"), locks.exclusive(tmp_path / "out"):
        pass


# ---- the commands ----------------------------------------------------------------------------------------------------
COMMANDS = [
    ["predict", "--model", "shapes", "--image", "a.png", "--reference", "b.png", "--out"],
    ["predict", "--model", "shapes", "--image", "a.png", "--reference", "b.png", "--out", "other", "--save-embeddings"],
    ["example", "--out"],
    ["demo", "--out"],
    ["train", "--dataset", "nowhere", "--resume"],
    ["pretrain", "--data", "nowhere", "--out"],
    ["pretrain", "--resume"],
    ["evaluate", "--model", "shapes", "--dataset", "nowhere", "--out"],
    ["evaluate", "--merge", "nowhere", "--dataset", "nowhere", "--out"],
    ["evaluate", "--compare", "nowhere", "--out"],
    ["evaluate", "--dataset", "nowhere", "--out", "other", "--results"],
    ["convert", "nowhere", "--out"],
    ["check", "--dataset", "nowhere", "--out"],
    ["export", "--model", "shapes", "--format", "keras", "--out"],
    ["shapes", "--out"],
    ["shapes", "--demo", "--out"],
]


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_commands_leave_the_output_of_another_process_alone(held, arguments, tmp_path, monkeypatch, capsys):
    from siamese_mrcnn_tf.cli import main

    out, process = held
    monkeypatch.chdir(tmp_path)
    assert main.main([*arguments, str(out)]) == 2
    assert f"{out}: another process writes there: process {process.pid}, since" in capsys.readouterr().err
    assert sorted(os.listdir(out.parent)) == [".out.lock", "out"] and os.listdir(tmp_path) == []
    assert os.listdir(out) == ["search.json"]


def test_a_threshold_file_of_another_process_is_left_alone(tmp_path, capsys):
    from siamese_mrcnn_tf.cli import main
    from siamese_mrcnn_tf.weights.pretrained import bundled_weights

    with holding(tmp_path / "a.json") as process:
        arguments = ["calibrate", "--model", str(bundled_weights()), "--dataset", "nowhere", "--out"]
        assert main.main([*arguments, str(tmp_path / "a.json")]) == 2
        assert f"another process writes there: process {process.pid}, since" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("predict --model shapes --image a.png --reference b.png --save-embeddings file", "file: cannot write there"),
        ("predict --model shapes --image a.png --reference b.png --out file/out", "file/out: cannot write there"),
        ("calibrate --model WEIGHTS --dataset nowhere --out folder", "folder: is a folder, expected a file"),
        ("calibrate --model WEIGHTS --dataset nowhere --out file/a.json", "file: cannot write there"),
        ("export --model shapes --format keras --out folder", "folder: exists and is no exported folder"),
        ("convert nowhere --out file", "file: cannot write there"),
        ("shapes --out file", "file: cannot write there"),
        ("shapes --demo --out file", "file: cannot write there"),
        ("example --out file", "file: cannot write there"),
        ("demo --out file", "file: cannot write there"),
        ("pretrain --data nowhere --out file", "file: cannot write there"),
        ("train --dataset nowhere --logs file", "cannot write there"),
    ],
)
def test_outputs_are_checked_first(arguments, message, tmp_path, monkeypatch, capsys):
    from siamese_mrcnn_tf.cli import main
    from siamese_mrcnn_tf.weights.pretrained import bundled_weights

    monkeypatch.chdir(tmp_path)
    files.write_text("file", "mine")
    files.write_text("folder/a.txt", "mine")
    assert main.main(arguments.replace("WEIGHTS", str(bundled_weights())).split()) == 2
    assert message in capsys.readouterr().err
    assert sorted(os.listdir()) == ["file", "folder"] and os.listdir("folder") == ["a.txt"]


# ---- what is left of killed processes --------------------------------------------------------------------------------
def test_what_is_left_of_an_output_is_removed_and_nothing_else(tmp_path):
    kept = [
        "out/a.txt",
        "out/.hidden-name",
        ".0123abcd-other",
        "out/.0123abcd-b.txt",  # b.txt is being written
        "out/.b.txt.lock",
        "out/inner/.0123abcd-c.txt",  # and inner
        "out/.inner.lock",
    ]
    removed = ["out/.0123abcd-a.txt", "out/below/.0123abcd-a.txt", ".0123abcd-out", "out/.89abcdef-folder/x.txt"]
    for name in [*kept, *removed]:
        files.write_text(tmp_path / name, "")
    files.remove_temporaries(tmp_path / "out")
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == set(kept)


def test_a_folder_that_was_being_replaced_comes_back(tmp_path):
    for name in (".0123abcd~out/old.txt", ".89abcdef-out/new.txt"):
        files.write_text(tmp_path / name, "")
    files.remove_temporaries(tmp_path / "out")
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.txt")] == ["out/old.txt"]


@pytest.mark.parametrize("write", [files.atomic_path, files.atomic_folder, files.write_errors])
def test_a_full_disk_is_told_with_the_path(tmp_path, write):
    with (
        pytest.raises(ValueError, match=r"out: cannot be written \(No space left on device\)"),
        write(tmp_path / "out"),
    ):
        raise OSError(28, "No space left on device")
    with pytest.raises(ValueError, match=r"out: cannot be written \(source.png: No such"), write(tmp_path / "out"):
        open("source.png", "rb")
    assert os.listdir(tmp_path) == []
