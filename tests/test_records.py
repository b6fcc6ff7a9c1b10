"""The files of an evaluation, on their own."""

import json

import pytest

from siamese_mrcnn_tf.cli.main import main
from siamese_mrcnn_tf.config import NEW_SETTINGS, SmallConfig
from siamese_mrcnn_tf.evaluation import settings as settings_module
from siamese_mrcnn_tf.evaluation.records import RecordWriter, read_records, records_name
from siamese_mrcnn_tf.evaluation.settings import complete_settings
from siamese_mrcnn_tf.io import schemas
from siamese_mrcnn_tf.io.errors import InputError

SETTINGS = {"images": [5, 7, 9], "runs": 1, "seed": 0, "config": {"A": 1, "B": (2, 3)}}


def record(image_id):
    return {
        "image_id": image_id,
        "seconds": 0.25,
        "queries": [{"run": 0, "category_id": 3, "references": [[5, 50]], "detections": [detection(image_id)]}],
    }


def detection(image_id, /, **changes):
    """A result of category 3."""
    return {"image_id": image_id, "category_id": 3, "bbox": [0, 0, 4, 2], "score": image_id / 9} | changes


def write(folder, *image_ids, shard=(1, 1), resume=False, **changes):
    settings = complete_settings(SETTINGS | changes)
    with RecordWriter(folder, settings, shard, resume=resume) as writer:
        for image_id in image_ids:
            writer.append(record(image_id))
    return folder / records_name(shard)


def test_records_are_read_in_the_order_of_the_images(tmp_path):
    write(tmp_path, 9, 5)
    records = read_records(tmp_path)
    assert list(records) == [record(5), record(9)] and len(records) == 2
    assert records.results(0) == [detection(5), detection(9)]
    assert records.references(0)[1] == {"image_id": 9, "category_id": 3, "references": [[5, 50]]}
    assert records.results(1) == []
    with pytest.raises(ValueError, match="1 of 3 images are missing in the records, the first is 7"):
        records.require_complete()


def test_a_header_tells_whose_records_they_are(tmp_path):
    path = write(tmp_path, 5, shard=(2, 3))
    assert path.name == "records-0002-of-0003.jsonl"
    header = json.loads(path.read_text().splitlines()[0])
    assert header["shard"] == [2, 3] and header["fingerprint"] == read_records(tmp_path).settings["fingerprint"]


@pytest.mark.parametrize("kept", [0, 10])
def test_a_file_that_broke_off_in_its_header(tmp_path, kept):
    path = write(tmp_path, 5)
    path.write_bytes(path.read_bytes()[:kept])
    write(tmp_path, 5, 7, resume=True)
    assert list(read_records(tmp_path)) == [record(5), record(7)]


def test_a_full_disk_is_told_with_the_path(tmp_path, full_disk):
    with pytest.raises(ValueError, match=r"records-0001-of-0001.jsonl: cannot be written \(File too large"):
        with RecordWriter(tmp_path, complete_settings(SETTINGS)) as writer, full_disk():
            for _ in range(20):
                writer.append(record(5))


@pytest.mark.parametrize("shard", [(1, 1), (1, 2)])
def test_only_the_own_leftovers_are_removed(tmp_path, shard):
    """Another process may write another part of the evaluation into the folder."""
    own, other = (tmp_path / f".0123abcd-{records_name((one, shard[1]))}" for one in (1, 2))
    for path in (own, other):
        path.write_text("half of it")
    settings = tmp_path / ".0123abcd-settings.json"
    settings.touch()
    write(tmp_path, 5, shard=shard)
    assert not settings.exists() and not list(tmp_path.glob("*.lock"))
    assert not own.exists() and other.exists() == (shard[1] > 1)


def test_the_folders_of_all_splits_are_checked_first(tmp_path, capsys):
    write(tmp_path / "split_3", 5)
    arguments = ["evaluate", "--split", "all", "--model", "shapes", "--dataset", "nowhere", "--out", str(tmp_path)]
    assert main(arguments) == 2
    assert "split_3/records-0001-of-0001.jsonl: is there already; resume" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["split_3"]


def test_going_on(tmp_path):
    write(tmp_path, 5)
    with RecordWriter(tmp_path, complete_settings(SETTINGS), resume=True) as writer:
        assert writer.done == {5}
        writer.append(record(7))
    assert len(read_records(tmp_path)) == 2


def test_records_of_another_evaluation(tmp_path):
    path = write(tmp_path / "one", 5)
    other = write(tmp_path / "other", 7, seed=1)
    with pytest.raises(ValueError, match="other settings: seed = 0 there and 1 here"):
        write(tmp_path / "one", 7, seed=1, resume=True)
    with pytest.raises(ValueError, match="other settings: images = 3 entries there and 1 entries here"):
        write(tmp_path / "one", images=[5], resume=True)
    with pytest.raises(ValueError, match="other settings: config.A = 1 there and 2 here"):
        write(tmp_path / "one", config={"A": 2, "B": (2, 3)}, resume=True)
    path.write_bytes(other.read_bytes())
    for read in (lambda: read_records(tmp_path / "one"), lambda: write(tmp_path / "one", resume=True)):
        with pytest.raises(ValueError, match="jsonl: holds records of an evaluation with other settings than settings"):
            read()


def test_other_versions_are_said(tmp_path, caplog, monkeypatch):
    write(tmp_path, 5)
    monkeypatch.setattr(settings_module, "versions", lambda: {"numpy": "0.1"})
    write(tmp_path, 7, resume=True)
    assert "was made with other versions, digits may differ" in caplog.text
    assert len(read_records(tmp_path)) == 2


def test_settings_that_are_newer_than_an_evaluation_count_where_they_are_changed(tmp_path):
    """An evaluation of before goes on, and keeps its fingerprint."""
    config = SmallConfig().to_dict()
    before = {name: value for name, value in config.items() if name not in NEW_SETTINGS}
    path = write(tmp_path, 5, config=before)
    assert set(NEW_SETTINGS) == set(config) - set(before)
    write(tmp_path, 7, resume=True, config=config)
    assert list(read_records(tmp_path)) == [record(5), record(7)]
    header = json.loads(path.read_text().splitlines()[0])
    assert header["fingerprint"] == complete_settings(SETTINGS | {"config": config})["fingerprint"]
    with pytest.raises(ValueError, match="other settings: config.USE_PRESENCE = None there and True here"):
        write(tmp_path, 9, resume=True, config=config | {"USE_PRESENCE": True})


def test_the_weights_count_by_their_content(tmp_path):
    first, same, other = (tmp_path / name for name in ("first.h5", "same.h5", "other.h5"))
    first.write_bytes(b"1")
    same.write_bytes(b"1")
    other.write_bytes(b"2")
    prints = [complete_settings(SETTINGS, weights=path)["fingerprint"] for path in (first, same, other)]
    assert prints[0] == prints[1] != prints[2] and len(set(prints)) == 2


def test_what_is_no_evaluation(tmp_path):
    with pytest.raises(ValueError, match="no evaluation there, expected settings.json"):
        read_records(tmp_path)
    with pytest.raises(ValueError, match="expected at least one folder"):
        read_records()
    path = tmp_path / "settings.json"
    path.write_text("{}")
    with pytest.raises(ValueError, match="settings.json: the key 'format' is missing"):
        read_records(tmp_path)
    path.unlink()
    write(tmp_path, 5)
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 1'))
    with pytest.raises(ValueError, match="settings.json: was changed after the evaluation"):
        read_records(tmp_path)


def with_detection(**changes):
    content = record(5)
    content["queries"][0]["detections"] = [detection(5, **changes)]
    return json.dumps(content)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("no record", "jsonl, line 2: not a record of an evaluation"),
        ("[]", "jsonl, line 2: expected object, got array"),
        ("[" * 100000, "jsonl, line 2: "),
        ('{"image_id": 5}', "jsonl, line 2: the key 'queries' is missing"),
        ('{"image_id": 5, "queries": [{"run": 0}]}', r"jsonl, line 2: queries\[0\]: the key 'category_id' is missing"),
        (json.dumps(record(5) | {"image_id": "5"}), "jsonl, line 2: image_id = '5': expected int"),
        (json.dumps(record(5) | {"seconds": -1}), "jsonl, line 2: seconds = -1: expected float >= 0"),
        (json.dumps(record(5) | {"seconds": float("nan")}), "jsonl, line 2: "),
        (
            json.dumps(record(5) | {"more": "\udcbf"}, ensure_ascii=False),
            "jsonl, line 2: not a record of an evaluation",
        ),
        (with_detection(category_id=4), "image_id = 5, category_id = 4: expected those of its query, 5 and 3"),
        (with_detection(image_id=7), "image_id = 7, category_id = 3: expected those of its query, 5 and 3"),
        (with_detection(score="high"), r"queries\[0\]\.detections\[0\]\.score = 'high': expected float"),
        (with_detection(bbox=[0, 0, 1]), r"detections\[0\]\.bbox = \[0, 0, 1\]: expected array of length 4"),
        (with_detection(segmentation={"size": [1e10, 1], "counts": ""}), r"segmentation\.size\[0\]"),
        (json.dumps(record(7)), "jsonl, line 3: image 7 was recorded before"),
        (json.dumps(record(8)), "jsonl: image 8 is not among the images of settings.json"),
    ],
)
def test_broken_lines(tmp_path, line, message):
    path = write(tmp_path, 5, 7)
    lines = path.read_text().splitlines()
    lines[1] = line
    path.write_text("\n".join([*lines, ""]), errors="surrogateescape")
    with pytest.raises(ValueError, match=message):
        read_records(tmp_path)


def test_long_images_can_be_read_back():
    assert schemas.convert({"size": [100_000, 1000], "counts": ""}, schemas.Rle, "a").size == (100_000, 1000)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"score": float("nan")}, "image 5: its record cannot be written as JSON"),
        ({"score": 2.0}, r"image 5: queries\[0\]\.detections\[0\]\.score = 2\.0: expected float <="),
        (
            {"bbox": [0, 0, 4]},
            r"image 5: .*\.bbox = \[0, 0, 4\]: expected array of length 4",
        ),
        ({"category_id": 4}, "image 5: .*expected those of its query"),
    ],
)
def test_what_could_not_be_read_back_is_not_written(tmp_path, changes, message):
    content = record(5)
    content["queries"][0]["detections"] = [detection(5, **changes)]
    with RecordWriter(tmp_path, complete_settings(SETTINGS)) as writer:
        with pytest.raises(InputError, match=message):
            writer.append(content)
        writer.append(record(7))
    assert list(read_records(tmp_path)) == [record(7)]


@pytest.mark.parametrize("changes", [{"seed": -1}, {"images": ["5"]}, {"runs": 0}, {"config": [float("nan")]}])
def test_settings_that_could_not_be_read_back_are_refused(changes):
    with pytest.raises(InputError, match=r"^settings\.json: "):
        complete_settings(SETTINGS | changes)


def test_a_file_that_does_not_begin_as_records_do(tmp_path):
    path = write(tmp_path, 5)
    path.write_text(json.dumps(record(5)) + "\n")
    with pytest.raises(ValueError, match="line 1: not the beginning of the records of an evaluation"):
        read_records(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "format = 2: written by a newer version"),
        ({"runs": -1}, "runs = -1: expected int >= 1"),
        ({"images": "all"}, "images = 'all': expected array"),
        ({"images": [5, "7"]}, r"images\[1\] = '7': expected int"),
        ({"categories": [{"id": 3}]}, r"categories\[0\]: the key 'name' is missing"),
        ({"versions": 3}, "versions = 3: expected object"),
    ],
)
def test_settings_are_checked(tmp_path, changes, message):
    """Also where the fingerprint is right."""
    write(tmp_path, 5)
    content = json.loads((tmp_path / "settings.json").read_text()) | changes
    content["fingerprint"] = settings_module.fingerprint(content)
    (tmp_path / "settings.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=rf"settings\.json: {message}"):
        read_records(tmp_path)


def test_the_name_of_a_file_is_that_of_its_shard(tmp_path):
    path = write(tmp_path, 5, shard=(2, 3))
    path.rename(tmp_path / records_name((1, 3)))
    with pytest.raises(InputError, match=r"line 1: shard = \[2, 3\], which is not that of its name"):
        read_records(tmp_path)
