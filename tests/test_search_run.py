"""The loop of a search and its journal: kills, Ctrl-C, broken images, other settings."""

import json
import os
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
import search_samples
from search_samples import contents, detect, run_search, write_images

from siamese_mrcnn_tf.io import images as image_files
from siamese_mrcnn_tf.search.journal import Journal, can_resume, differences, require_free
from siamese_mrcnn_tf.search.results import Finds, ImageResult


@pytest.fixture
def images(tmp_path):
    return write_images(tmp_path / "images", broken=[1])


@pytest.fixture
def whole(images, tmp_path):
    """The files of an undisturbed search, by name."""
    run_search(images, tmp_path / "whole")
    return contents(tmp_path / "whole")


def counting(calls):
    return lambda pixels: calls.append(1) or detect(pixels)


def test_a_search_writes_and_counts(images, tmp_path, whole):
    assert {name.split("/")[0] for name in whole} == {
        *("search.json", "journal.jsonl", "results.json", "images.json", "annotations.json", "overlays", "masks")
    }
    summary = run_search(images, tmp_path / "out")
    assert summary.is_complete and (summary.num_images, summary.num_finds) == (5, 10)
    assert len(summary.skipped) == 1 and "001.png: the image cannot be read" in summary.skipped[0]
    assert [result.image_id for result in summary.results] == [1, 2, 3, 4, 5, 6]
    assert [result.error is None for result in summary.results[:3]] == [True, False, True]
    assert {record["image_id"] for record in json.loads(whole["results.json"])} == {1, 3, 4, 5, 6}
    assert contents(tmp_path / "out") == whole


@pytest.mark.parametrize("step", ["detect", "write", "note"])
def test_killed_searches_that_go_on_write_the_same_files(images, tmp_path, whole, step):
    out = tmp_path / "out"
    for number in (2, 1):
        words = [sys.executable, search_samples.__file__, images, out, number, step]
        assert subprocess.run(list(map(str, words))).returncode == -signal.SIGKILL
    assert can_resume(out) and contents(out) != whole
    calls = []
    assert run_search(images, out, resume=True, detect=counting(calls)).is_complete
    assert 0 < len(calls) < 5 and contents(out) == whole


def test_ctrl_c_keeps_what_is_found_and_writes_the_results_so_far(images, tmp_path, whole):
    def interrupted(pixels, calls=[]):  # noqa: B006  # counts its calls
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return detect(pixels)

    summary = run_search(images, tmp_path / "out", detect=interrupted)
    assert summary.is_interrupted and not summary.is_complete and summary.num_images == 2
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert {record["image_id"] for record in results} == {1, 3}
    run_search(images, tmp_path / "out", resume=True)
    assert contents(tmp_path / "out") == whole


def test_a_finished_search_reads_no_image_again(tmp_path, monkeypatch):
    images, calls = write_images(tmp_path / "images"), []
    run_search(images, tmp_path / "out")
    before = contents(tmp_path / "out")
    (tmp_path / "out" / "results.json").unlink()
    monkeypatch.setattr(image_files, "read_image", None)
    summary = run_search(images, tmp_path / "out", resume=True, detect=counting(calls))
    assert summary.num_finds == 12 and not calls and contents(tmp_path / "out") == before


def test_each_image_is_decoded_once(images, tmp_path, monkeypatch):
    opened, read = [], image_files._open
    monkeypatch.setattr(image_files, "_open", lambda path, head: opened.append(path) or read(path, head))
    run_search(images, tmp_path / "out")
    assert opened == sorted(images.iterdir())


def test_images_that_were_repaired_or_changed_are_searched_again(images, tmp_path, whole):
    out, calls = tmp_path / "whole", []
    write_images(images)
    np_image = images / "003.png"
    np_image.write_bytes(np_image.read_bytes() + b"\0")
    summary = run_search(images, out, resume=True, detect=counting(calls))
    assert len(calls) == 2 and summary.num_images == 6 and not summary.skipped
    run_search(images, tmp_path / "again")
    assert contents(out) == contents(tmp_path / "again")


def test_strict_stops_at_the_first_broken_image(images, tmp_path, whole):
    summary = run_search(images, tmp_path / "out", strict=True)
    assert not summary.is_complete and not summary.is_interrupted
    assert summary.num_images == 1 and len(summary.skipped) == 1
    assert json.loads((tmp_path / "out" / "results.json").read_text())
    run_search(images, tmp_path / "out", resume=True)
    assert contents(tmp_path / "out") == whole


def test_nothing_stays_if_no_image_can_be_read(tmp_path):
    images = write_images(tmp_path / "images", 2, broken=[0, 1])
    for strict in (False, True):
        with pytest.raises(ValueError, match=r"000\.png"):
            run_search(images, tmp_path / "out", strict=strict)
        assert not (tmp_path / "out").exists()


def test_other_settings_are_refused_by_name(images, tmp_path):
    before = {
        "weights": "a" * 64,
        "options": {"every": 1},
        "images": ["a", "b"],
        "categories": {"x": {"threshold": 1, "references": []}},
    }
    run_search(images, tmp_path / "out", settings=before)
    now = {
        "weights": "b",
        "options": {"every": 2},
        "images": ["b", "c"],
        "categories": {"y": {"threshold": 1, "references": []}},
    }
    with pytest.raises(ValueError, match="these differ: ") as caught:
        run_search(images, tmp_path / "out", settings=now, resume=True)
    for text in (
        f"weights: {'a' * 37}... then, b now",
        "options.every: 1 then, 2 now",
        "images: without a, new c",
        'categories.x: {"threshold": 1, "references": []} then, null now',
    ):
        assert text in str(caught.value)
    assert differences(["a", "b"], ["b", "a"], "images") == ["images: another order"]
    assert differences(list("abcdef"), [], "images") == ["images: without a, b, c and 3 more"]


def test_settings_of_other_types_are_named(images, tmp_path):
    run_search(images, tmp_path / "out", settings={"weights": "a"})
    path = tmp_path / "out" / "search.json"
    for changes, message in (({"weights": 3}, "weights = 3: expected str"), ({"categories": []}, "categories = ")):
        path.write_text(json.dumps({"format": 1, **changes}))
        with pytest.raises(ValueError, match=rf"search\.json: {message}"):
            run_search(images, tmp_path / "out", settings={"weights": "a"}, resume=True)


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ([0.5, 0.25], "boxes, scores and masks do not go together"),
        ([2.0], r"result\.finds\[0\]\.scores\[0\] = 2\.0: expected float <="),
        ([np.nan], "cannot be written as JSON"),
    ],
)
def test_a_result_that_could_not_be_read_back_is_not_written(tmp_path, scores, message):
    journal = Journal.create(tmp_path / "out", {})
    finds = Finds(np.zeros((1, 4), np.int32), np.array(scores))
    with pytest.raises(ValueError, match=rf"journal\.jsonl: image a: {message}"):
        journal.append(ImageResult(1, "a", "a.png", 8, 8, (finds,)), 10)
    assert not journal.path.read_bytes()


def test_a_used_folder_is_refused_resumed_or_cleared(images, tmp_path, whole):
    out = tmp_path / "whole"
    with pytest.raises(ValueError, match="has a search already; --resume continues it, --force clears"):
        require_free(out)
    require_free(out, resume=True)
    with pytest.raises(ValueError, match=r"--force would remove .*000\.red\.png"):
        Journal.create(out, {}, force=True, inputs=[images, out / "overlays" / "000.red.png"])
    assert contents(out) == whole
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").touch()
    os.symlink(outside, out / "link")
    Journal.create(out, {}, force=True, inputs=[images])
    assert set(contents(out)) == {"search.json", "journal.jsonl"} and (outside / "kept").exists()
    for force in (False, True):
        with pytest.raises(ValueError, match="has files of its own"):
            require_free(images, force=force)
    (tmp_path / "empty").mkdir()
    require_free(tmp_path / "empty")
    require_free(tmp_path / "new")
    with pytest.raises(ValueError, match="kept is a file"):
        require_free(outside / "kept" / "below")


def test_a_damaged_journal_is_cut_at_the_damage(images, tmp_path, whole):
    path = tmp_path / "whole" / "journal.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    for damaged in (
        b"".join([*lines[:3], bytes(40)]),
        b"".join([*lines[:2], b"[1]\n", *lines[2:]]),
        b"".join([*lines[:2], lines[2].replace(b'{"result"', b'{"more": "\xbf", "result"'), *lines[3:]]),
        b"".join([*lines[:2], re.sub(rb'"finds": ?\[.*\](?=, ?"frame")', b'"finds": []', lines[2]), *lines[3:]]),
        b"".join(lines)[:-5],
        b"",
    ):
        path.write_bytes(damaged)
        run_search(images, tmp_path / "whole", resume=True)
        assert contents(tmp_path / "whole") == whole


def shorten_mask(result):
    mask = next(finds["masks"][0] for finds in result["finds"] if finds["masks"])
    mask["counts"] = mask["counts"][:-1]


@pytest.mark.parametrize(
    "change",
    [
        lambda result: result.update(image_id=-1),
        lambda result: result.update(height="high"),
        lambda result: result["finds"][0]["scores"].append(0.5),
        lambda result: result["finds"][0]["scores"].insert(0, "x"),
        shorten_mask,
    ],
)
def test_a_line_that_is_no_result_is_searched_again(images, tmp_path, whole, change):
    path = tmp_path / "whole" / "journal.jsonl"
    first, *lines = path.read_bytes().splitlines(keepends=True)
    content = json.loads(first)
    change(content["result"])
    path.write_bytes(b"".join([json.dumps(content).encode() + b"\n", *lines]))
    run_search(images, tmp_path / "whole", resume=True)
    assert contents(tmp_path / "whole") == whole


def test_a_search_of_a_newer_version_is_refused(images, tmp_path, whole):
    path = tmp_path / "whole" / "search.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 2}))
    with pytest.raises(ValueError, match=r"search\.json: format = 2: written by a newer version"):
        run_search(images, tmp_path / "whole", resume=True)


def test_masks_come_back_from_the_journal(tmp_path):
    images = write_images(tmp_path / "images", 1)
    summary = run_search(images, tmp_path / "out")
    (found, _) = summary.results[0].finds
    (expected, _) = detect(image_files.read_image(images / "000.png"))
    np.testing.assert_array_equal(found.masks, expected.masks)
    np.testing.assert_array_equal(found.boxes, expected.boxes)
