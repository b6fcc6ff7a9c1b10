"""The one-shot protocol: its runs, stops, shards, and scores without the model."""

import copy
import json

import coco_tree
import numpy as np
import pytest

from siamese_mrcnn_tf import IndexedCocoDataset, TinyConfig
from siamese_mrcnn_tf.evaluation.protocol import EvaluationSettings, evaluate, merge, rescore
from siamese_mrcnn_tf.evaluation.queries import RandomBoxes
from siamese_mrcnn_tf.evaluation.records import read_records
from siamese_mrcnn_tf.evaluation.references import ReplayReferenceSampler
from siamese_mrcnn_tf.evaluation.settings import read_settings
from siamese_mrcnn_tf.report import experiments, writer


@pytest.fixture
def tree(tmp_path):
    coco_tree.write_tree(tmp_path / "set", num_images=6)
    return tmp_path / "set"


@pytest.fixture
def loaded(tree):
    return open_tree(tree)


def open_tree(root):
    """(data set, its pycocotools COCO)."""
    dataset = IndexedCocoDataset()
    coco = dataset.load_coco(root, "val", return_coco=True)
    dataset.prepare()
    dataset.build_indices()
    return dataset, coco


class Oracle:
    """A detector that finds the ground truth, all, nothing, or what it is told to."""

    config, name, needs_references = TinyConfig(), "oracle", True

    def __init__(self, *, stop_at=None, blind=False):
        self.searched, self.stop_at, self.blind = [], stop_at, blind

    def search(self, dataset, image_id, queries):
        if len(self.searched) == self.stop_at:
            raise KeyboardInterrupt
        self.searched.append((image_id, queries))
        return [self._found(dataset, image_id, query) for query in queries]

    def _found(self, dataset, image_id, query):
        instances = [] if self.blind else dataset.instances_of(image_id, query.class_id)
        masks = [np.zeros((*coco_tree.SIZE, 0), bool)]
        masks += [dataset.instance_mask(image_id, index)[..., None] for index in instances]
        boxes = [dataset.image_info[image_id]["annotations"][index]["bbox"] for index in instances]
        rois = [(y, x, y + height, x + width) for x, y, width, height in boxes]
        return {"rois": rois, "scores": [0.9] * len(rois), "masks": np.concatenate(masks, axis=-1)}


class Noise(Oracle):
    """A detector that misses the ground truth by some pixels, as query and references say; can be stopped."""

    def _found(self, dataset, image_id, query):
        found = super()._found(dataset, image_id, query)
        rng = np.random.default_rng([query.run, *np.ravel(query.references)])
        shift = int(rng.integers(0, 20))
        rois, masks = np.reshape(found["rois"], (-1, 4)) - [0, shift, 0, shift], np.roll(found["masks"], -shift, axis=1)
        return {"rois": rois, "scores": rng.random(len(rois)), "masks": masks}


def run(detector, loaded, **kwargs):
    return evaluate(detector, *loaded, progress=False, **{"runs": 2} | kwargs)


def without_time(scores):
    return {key: value for key, value in scores.to_dict().items() if key != "seconds"}


def lines_of(folder):
    """The records of a folder without their times."""
    return [record | {"seconds": 0} for record in read_records(folder)]


# ---- the protocol ----------------------------------------------------------------------------------------------------


def test_perfect_detections_score_one(loaded):
    oracle = Oracle()
    scores = run(oracle, loaded, shots=2).scores
    for run_scores in scores.runs:
        assert run_scores["bbox"].stats["AP"] == run_scores["segm"].stats["AP"] == pytest.approx(1)
    assert scores.mean["segm"]["AP50"] == pytest.approx(1) and scores.interval["segm"]["AP50"] == 0
    assert (scores.num_images, scores.num_queries, scores.num_results) == (5, 20, 20)
    assert len(oracle.searched) == 5  # the image without annotations is skipped
    for _, queries in oracle.searched:
        assert [query.run for query in queries] == [0, 0, 1, 1]
        assert all(len(query.references) == 2 for query in queries)


@pytest.mark.parametrize("class_ids", [[1], [2, 3], [1, 2, 3]])
def test_every_subset_of_the_categories(loaded, class_ids):
    perfect = run(Oracle(), loaded, class_ids=class_ids).scores
    assert perfect.mean["bbox"]["AP"] == perfect.mean["segm"]["AP"] == pytest.approx(1)
    assert set(perfect.runs[0]["bbox"].per_class) == {[3, 7, 18][class_id - 1] for class_id in class_ids}
    nothing = run(Oracle(blind=True), loaded, class_ids=class_ids).scores
    assert nothing.is_empty and nothing.mean["bbox"]["AP"] == nothing.mean["segm"]["AR100"] == 0


def test_empty_results_are_said(loaded, caplog):
    run(Oracle(blind=True), loaded)
    assert "there are no detections to score" in caplog.text


def test_nothing_to_evaluate(loaded, tree):
    with pytest.raises(ValueError, match="val2017: no image has an instance of the categories to evaluate"):
        run(Oracle(), loaded, class_ids=[])
    with pytest.raises(ValueError, match=r"class_ids: \[4\] are not in val2017, whose classes are 1..3"):
        run(Oracle(), loaded, class_ids=[1, 4])
    loaded[0].ACTIVE_CLASSES = np.array([3])
    assert run(Oracle(), loaded).records.settings["categories"] == [{"id": 18, "name": "triangle"}]


def test_a_category_without_instances(tree):
    content = json.loads((tree / "annotations" / "instances_val2017.json").read_text())
    content["categories"].append({"id": 99, "name": "unicorn"})
    coco_tree.write_annotations(tree, content)
    loaded = open_tree(tree)
    scores = run(Oracle(), loaded).scores
    assert scores.runs[0]["bbox"].per_class[99] == {"AP": -1, "AP50": -1}
    assert scores.mean["bbox"]["AP"] == pytest.approx(1)


def test_a_missing_image_is_found_before_the_work(loaded, tree):
    oracle = Oracle()
    (tree / "val2017" / "000000000030.png").unlink()
    with pytest.raises(ValueError, match="000000000030.png: no such image"):
        run(oracle, loaded)
    assert not oracle.searched


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shots": 0}, "shots = 0: expected a whole number of 1 or more"),
        ({"runs": 0}, "runs = 0"),
        ({"limit": -1}, "limit = -1"),
        ({"batch": 1.5}, "batch = 1.5"),
        ({"workers": 0}, "workers = 0"),
        ({"area": "bbox"}, "area = 'bbox': expected one of mask, box"),
        ({"shard": (3, 2)}, "shard = 3/2: expected i/n with i in 1..n"),
        ({"shard": (1, 2)}, "shard = 1/2: a part needs a folder"),
    ],
)
def test_arguments_are_checked(loaded, arguments, message):
    with pytest.raises(ValueError, match=message):
        run(Oracle(), loaded, **arguments)


def test_area_of_the_results(loaded):
    for area in ("mask", "box"):
        results = run(Oracle(), loaded, area=area).records.results(0)
        sizes = {result["area"] == result["bbox"][2] * result["bbox"][3] for result in results}
        assert False in sizes if area == "mask" else sizes == {True}


# ---- references ------------------------------------------------------------------------------------------------------


def test_references_are_recorded_and_depend_on_the_seed_alone(loaded):
    first, again = (run(Oracle(), loaded, seed=5, runs=3).records for _ in range(2))
    assert first.references(1) == again.references(1) != first.references(0)
    for record in first.references(0):
        for image_id, annotation_id in record["references"]:
            annotation = loaded[1].anns[annotation_id]
            assert (annotation["image_id"], annotation["category_id"]) == (image_id, record["category_id"])
    part = run(Oracle(), loaded, seed=5, limit=2, runs=1).records
    assert part.references(0) == first.references(0)[:4]
    assert run(Oracle(), loaded, seed=6).records.references(0) != first.references(0)


def test_no_references_from_the_query_image(loaded):
    for record in run(Oracle(), loaded, shots=8).records.references(0):
        drawn = {image_id for image_id, _ in record["references"]}
        assert record["image_id"] in drawn or len(drawn) > 1
    records = run(Oracle(), loaded, shots=8, exclude_query_image=True).records
    assert all(record["image_id"] not in dict(record["references"]) for record in records.references(0))


def test_recorded_references_are_replayed(loaded):
    recorded = run(Noise(), loaded, seed=3, shots=2).records
    replayed = run(Noise(), loaded, seed=4, shots=2, sampler=ReplayReferenceSampler(loaded[0], recorded)).records
    assert replayed.references(1) == recorded.references(1)
    assert replayed.settings["references"] == "given"


def test_a_sampler_may_give_crops(loaded):
    oracle, crop = Oracle(), np.zeros((64, 64, 3), np.uint8)
    records = run(oracle, loaded, sampler=lambda image_id, class_id, run, shots: [crop] * shots).records
    assert oracle.searched[0][1][0].references[0] is crop
    assert records.references(0)[0]["references"] == [None]
    pairs = run(Oracle(), loaded, sampler=lambda *key: np.array([[0, 0]])).records
    assert pairs.references(0)[0]["references"] == [[10, 100]]
    with pytest.raises(ValueError, match="expected 1 references for image 10, class 1, run 0, got 2"):
        run(Oracle(), loaded, sampler=lambda *key: [crop, crop])


# ---- controls --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("control", ["present", "absent"])
def test_controls_ask_for_each_category_with_references_of_another(loaded, tmp_path, control):
    about = {"split": 1, "subset": "val", "year": "2017", "protocol": "default", "category_set": "train"}
    detector = Noise()
    outcome = run(detector, loaded, control=control, folder=tmp_path / "out", shots=2, about=about)
    settings = json.loads((tmp_path / "out" / "settings.json").read_text())
    assert (settings["control"], settings["references"]) == (control, "drawn")
    images = [20, 30, 40, 50] if control == "absent" else [10, 20, 30, 40, 50]  # image 10 has a crowd of the third
    assert settings["images"] == images
    of_annotation = {entry["id"]: entry for entry in loaded[1].dataset["annotations"]}
    for record in outcome.records.references(0):
        wrong = {of_annotation[annotation_id]["category_id"] for _, annotation_id in record["references"]}
        there = {entry["category_id"] for entry in loaded[1].imgToAnns[record["image_id"]] if not entry["iscrowd"]}
        assert len(wrong) == 1 and record["category_id"] not in wrong
        assert (wrong <= there) == (control == "present")
    again = run(Noise(), loaded, control=control, shots=2)
    assert again.records.references(1) == outcome.records.references(1) != outcome.records.references(0)
    [experiment] = experiments.read_experiments([tmp_path / "out"])
    assert experiment.model == f"control-{control}" and experiment.published(1, "bbox") == {}
    assert experiment.title == f"2-shot, reference of a category that is {control}, train categories"


def test_controls_are_resumed_and_limited_as_others_are(loaded, tmp_path):
    limited = run(Noise(), loaded, control="absent", limit=2, folder=tmp_path)
    assert limited.records.settings["images"] == [20, 30]
    idle = Noise()
    run(idle, loaded, control="absent", limit=2, folder=tmp_path, resume=True)
    assert not idle.searched
    with pytest.raises(ValueError, match="other settings"):
        run(Noise(), loaded, control="present", limit=2, folder=tmp_path, resume=True)


def test_no_control_leaves_no_trace_in_the_settings(loaded):
    assert "control" not in run(Oracle(), loaded).records.settings


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"control": "other"}, "control = 'other': expected one of present, absent"),
        ({"sampler": lambda *key: []}, "control = 'absent': draws its own references, expected no sampler"),
        (
            {"exclude_query_image": True},
            "control = 'absent': draws its own references, expected no exclude_query_image",
        ),
    ],
)
def test_what_does_not_go_with_a_control(loaded, arguments, message):
    with pytest.raises(ValueError, match=message):
        run(Oracle(), loaded, **{"control": "absent"} | arguments)
    with pytest.raises(ValueError, match="control = 'absent': random-boxes takes no references"):
        run(RandomBoxes(), loaded, control="absent")


# ---- records, stops, shards ------------------------------------------------------------------------------------------


def test_files_of_an_evaluation(loaded, tmp_path):
    weights = tmp_path / "some.h5"
    weights.write_bytes(b"weights")
    about = {"split": 0, "subset": "val", "year": "2017", "protocol": "default"}
    outcome = run(Oracle(), loaded, folder=tmp_path / "out", weights=weights, about=about, limit=3)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    results = {"results_run_0.json", "results_run_1.json"}
    assert names == {"settings.json", "records-0001-of-0001.jsonl", "scores.json", "analysis.json"} | results
    assert json.loads((tmp_path / "out" / "results_run_1.json").read_text()) == outcome.records.results(1)
    settings = json.loads((tmp_path / "out" / "settings.json").read_text())
    assert about.items() <= settings.items() and settings["images"] == [10, 20, 30]
    assert settings["weights_file"] == "some.h5" and len(settings["weights_sha256"]) == 64
    assert {"tensorflow", "keras", "numpy", "pycocotools"} <= set(settings["versions"])
    assert (settings["seed"], settings["runs"], settings["shots"], settings["limit"]) == (0, 2, 1, 3)
    assert settings["config"] == json.loads(json.dumps(TinyConfig().to_dict()))
    scores = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert scores.pop("format") == 1
    assert scores == json.loads(json.dumps(outcome.scores.to_dict()))
    assert len(scores["runs"]) == 2 and len(scores["mean"]["bbox"]) == len(scores["interval"]["segm"]) == 12
    assert set(scores["runs"][0]["per_class"]["segm"]) == {"3", "7", "18"}
    assert (scores["num_images"], scores["num_queries"], scores["num_results"]) == (3, 12, 12)


@pytest.mark.parametrize("source", ["evaluate", "rescore", "merge"])
def test_a_report_from_python_has_the_analyses(loaded, tmp_path, source):
    """Figures 5 and A1 need nothing but the folder of `evaluate`, `rescore` or `merge`."""
    dataset, coco = loaded
    shard = (1, 1) if source != "merge" else (1, 2)
    run(Noise(), loaded, folder=tmp_path / "out", shard=shard)
    folder = tmp_path / "out"
    if source == "rescore":
        (folder / "analysis.json").unlink()
        rescore(folder, coco, dataset, progress=False)
    if source == "merge":
        run(Noise(), loaded, folder=tmp_path / "other", shard=(2, 2))
        folder = tmp_path / "merged"
        merge([tmp_path / "out", tmp_path / "other"], folder, coco, progress=False)
    names = {path.name for path in writer.write_report([folder], tmp_path / "report")}
    assert {
        "by_number.csv",
        "by_number_1shot.png",
        "confusion_1shot_all_bbox.csv",
        "confusion_1shot_all_segm.png",
    } <= names


def test_settings_and_keywords_are_the_same(loaded, tmp_path):
    settings = EvaluationSettings(
        shots=2, runs=2, seed=3, class_ids=[2, 3], limit=2, area="box", about={"year": "2017"}
    )
    evaluate(Noise(), *loaded, settings, folder=tmp_path / "a", progress=False)
    keywords = {"shots": 2, "seed": 3, "class_ids": [2, 3], "limit": 2, "area": "box", "about": {"year": "2017"}}
    run(Noise(), loaded, folder=tmp_path / "b", **keywords)
    evaluate(Noise(), *loaded, EvaluationSettings(runs=2), folder=tmp_path / "c", progress=False, **keywords)
    first, *others = (read_settings(tmp_path / name) for name in "abc")
    assert first == others[0] == others[1] and settings.to_dict().items() <= first.items()
    assert [category["id"] for category in first["categories"]] == [7, 18] and "class_ids" not in first
    with pytest.raises(TypeError, match="shot"):
        evaluate(Noise(), *loaded, shot=5)


def test_memory_and_files_agree(loaded, tmp_path):
    in_memory, in_files = run(Noise(), loaded), run(Noise(), loaded, folder=tmp_path / "out")
    assert without_time(in_memory.scores) == without_time(in_files.scores)
    assert in_memory.records.results(1) == in_files.records.results(1)
    mean = in_memory.scores.mean["bbox"]
    assert 0 < mean["AP"] < mean["AP50"] < 1  # there is something to compare


@pytest.mark.parametrize("cut", [0, 1, 40])
def test_a_stopped_evaluation_goes_on_to_the_same_result(loaded, tmp_path, cut):
    whole = run(Noise(), loaded, folder=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(Noise(stop_at=3), loaded, folder=tmp_path / "stopped")
    path = tmp_path / "stopped" / "records-0001-of-0001.jsonl"
    path.write_bytes(path.read_bytes()[: -cut or None])  # as a machine that fails leaves it
    detector = Noise()
    resumed = run(detector, loaded, folder=tmp_path / "stopped", resume=True)
    assert len(detector.searched) == (3 if cut else 2)
    assert without_time(resumed.scores) == without_time(whole.scores)
    assert lines_of(tmp_path / "stopped") == lines_of(tmp_path / "whole")
    idle = Noise()
    assert without_time(run(idle, loaded, folder=tmp_path / "stopped", resume=True).scores) == without_time(
        whole.scores
    )
    assert not idle.searched


def test_images_searched_at_once(loaded, tmp_path):
    """Records come in the images' order; what fails in one of the threads is raised, after the records before it."""
    for workers in (1, 3):
        run(Noise(), loaded, folder=tmp_path / f"{workers}", workers=workers)
    assert lines_of(tmp_path / "3") == lines_of(tmp_path / "1")

    class StopsAtTheThird(Noise):
        def search(self, dataset, image_id, queries):
            if image_id == 2:
                raise KeyboardInterrupt
            return super().search(dataset, image_id, queries)

    with pytest.raises(KeyboardInterrupt):
        run(StopsAtTheThird(), loaded, folder=tmp_path / "stopped", workers=2)
    assert lines_of(tmp_path / "stopped") == lines_of(tmp_path / "1")[:2]


@pytest.mark.parametrize("count", [2, 3, 7])
def test_shards_join_to_the_same_result(loaded, tmp_path, count):
    whole = run(Noise(), loaded, folder=tmp_path / "whole")
    folders = [tmp_path / f"part{index}" for index in range(1, count + 1)]
    for index, folder in enumerate(folders, 1):
        assert run(Noise(), loaded, folder=folder, shard=(index, count)).scores is None
    merge(folders, tmp_path / "merged", loaded[1], loaded[0])
    (tmp_path / "merged" / "scores.json").unlink()  # as if it had been killed
    merged = merge(folders[::-1], tmp_path / "merged", loaded[1], loaded[0])
    assert without_time(merged.scores) == without_time(whole.scores)
    assert lines_of(tmp_path / "merged") == lines_of(tmp_path / "whole")
    assert json.loads((tmp_path / "merged" / "scores.json").read_text())["mean"] == whole.scores.mean


def test_shards_may_share_a_folder(loaded, tmp_path):
    whole = run(Noise(), loaded)
    for index in (2, 1):
        run(Noise(), loaded, folder=tmp_path / "out", shard=(index, 2))
    assert without_time(rescore(tmp_path / "out", *loaded[::-1]).scores) == without_time(whole.scores)
    with pytest.raises(ValueError, match="records-0001-of-0003.jsonl does not go with it"):
        run(Noise(), loaded, folder=tmp_path / "out", shard=(1, 3))


def test_a_folder_is_not_overwritten(loaded, tmp_path):
    run(Noise(), loaded, folder=tmp_path)
    with pytest.raises(ValueError, match="is there already; resume that evaluation, or choose another folder"):
        run(Noise(), loaded, folder=tmp_path)
    with pytest.raises(ValueError, match="other settings: seed = 0 there and 1 here"):
        run(Noise(), loaded, folder=tmp_path, seed=1, resume=True)


def test_parts_that_do_not_fit(loaded, tmp_path):
    first, second, other = (tmp_path / name for name in ("first", "second", "other"))
    run(Noise(), loaded, folder=first, shard=(1, 2))
    run(Noise(), loaded, folder=second, shard=(2, 2))
    run(Noise(), loaded, folder=other, shard=(2, 2), seed=1)
    coco = loaded[1]
    with pytest.raises(ValueError, match="2 of 5 images are missing in the records, the first is 20"):
        merge([first], tmp_path / "merged", coco)
    with pytest.raises(ValueError, match=r"other: holds an evaluation with other settings: seed = 1 there and 0 here"):
        merge([first, other], tmp_path / "merged", coco)
    with pytest.raises(ValueError, match="image 10 is in .* too; parts must not overlap"):
        merge([first, second, first], tmp_path / "merged", coco)
    with pytest.raises(ValueError, match="no evaluation there, expected settings.json"):
        merge([first, tmp_path], tmp_path / "merged", coco)
    elsewhere = copy.copy(coco)
    elsewhere.imgs = {}
    with pytest.raises(ValueError, match="is of another set"):
        merge([first, second], tmp_path / "merged", elsewhere)
    with pytest.raises(ValueError, match="no absent category was searched there"):
        merge([first, second], tmp_path / "merged", coco, threshold=0.5)
    assert not (tmp_path / "merged").exists()
    with pytest.raises(ValueError, match="first: holds an evaluation already"):
        merge([first, second], first, coco)


# ---- without the model -----------------------------------------------------------------------------------------------


def test_rescoring(loaded, tmp_path):
    made = run(Noise(), loaded, folder=tmp_path)
    (tmp_path / "scores.json").unlink()
    again = rescore(tmp_path, loaded[1], loaded[0])
    assert again.scores.to_dict() == made.scores.to_dict()
    assert (tmp_path / "scores.json").is_file()


def test_rescoring_what_was_stopped(loaded, tmp_path, caplog):
    run(Noise(), loaded, folder=tmp_path)
    path = tmp_path / "records-0001-of-0001.jsonl"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match="1 of 5 images are missing in the records, the first is 50: .*cut short"):
        rescore(tmp_path, loaded[1])
    assert "line 6 was cut short" in caplog.text


def test_results_of_another_set(loaded, tmp_path):
    run(Noise(), loaded, folder=tmp_path / "out")
    coco_tree.write_tree(tmp_path / "other", num_images=6, first_id=30)
    other = open_tree(tmp_path / "other")
    with pytest.raises(ValueError, match="of another set .val2017.; .* 2 of its 5 image ids, the first is 10"):
        rescore(tmp_path / "out", other[1])
    content = json.loads((tmp_path / "set" / "annotations" / "instances_val2017.json").read_text())
    content["annotations"] = [entry for entry in content["annotations"] if entry["id"] != 101]
    coco_tree.write_annotations(tmp_path / "set", content)
    changed = open_tree(tmp_path / "set")
    with pytest.raises(ValueError, match="image 10 was searched for other categories than are in it"):
        rescore(tmp_path / "out", *changed[::-1])


def as_category(category_id):
    """Changes the category of the first query and of what it found."""

    def change(record):
        query = record["queries"][0]
        for one in (query, *query["detections"]):
            one.update(category_id=category_id)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda record: record["queries"].pop(), "image 10 was searched for other categories than are in it, or not"),
        (lambda record: record.update(image_id=999, queries=[]), "image 999 is not among the images of settings.json"),
        (as_category(1), "searched for category 1, which its settings lack"),
        (lambda record: record["queries"][0].update(run=7), "image 10 was searched for other categories"),
        (lambda record: record["queries"][0]["references"].append([10, 100]), "run 0: 2 references, expected 1"),
        (lambda record: record["queries"][0]["references"].clear(), "run 0: 0 references, expected 1"),
        (
            lambda record: [query["references"].clear() for query in record["queries"]],
            "run 0: (0 references, expected 1|1 references, expected 0)",
        ),
        (lambda record: record["queries"][0]["references"][0].reverse(), "is not in the annotation file"),
        (lambda record: record["queries"][0].pop("detections"), "line 2: .*the key 'detections' is missing"),
        (
            lambda record: record["queries"][0]["detections"][0].update(image_id=5),
            "line 2: .*image_id = 5, category_id",
        ),
        (lambda record: record["queries"][0]["detections"][0].pop("score"), "line 2: .*the key 'score' is missing"),
    ],
)
@pytest.mark.parametrize("resume", [False, True])
def test_broken_records(loaded, tmp_path, change, message, resume):
    run(Noise(), loaded, folder=tmp_path)
    path = tmp_path / "records-0001-of-0001.jsonl"
    lines = path.read_text().splitlines()
    record = json.loads(lines[1])
    change(record)
    path.write_text("\n".join([lines[0], json.dumps(record), *lines[2:], ""]))
    before = path.read_bytes()
    with pytest.raises(ValueError, match=message):
        if resume:
            run(Noise(), loaded, folder=tmp_path, resume=True)
        else:
            rescore(tmp_path, loaded[1])
    assert path.read_bytes() == before


def test_queries_in_another_order_are_not_resumed(loaded, tmp_path):
    run(Noise(), loaded, folder=tmp_path)
    path = tmp_path / "records-0001-of-0001.jsonl"
    header, *lines = path.read_text().splitlines()
    records = [json.loads(line) for line in lines]
    records[0]["queries"].reverse()
    path.write_text("\n".join([header, *map(json.dumps, records), ""]))
    with pytest.raises(ValueError, match=r"image 10 was searched for \(run, category\) .*; remove its line"):
        run(Noise(), loaded, folder=tmp_path, resume=True)


# ---- the open protocol -----------------------------------------------------------------------------------------------


class Eager(Noise):
    """Finds a false instance, too, in every other query of a category that is not in the image."""

    def _found(self, dataset, image_id, query):
        found = super()._found(dataset, image_id, query)
        if len(found["rois"]) or (image_id + query.run) % 2:
            return found
        masks = np.zeros((*coco_tree.SIZE, 1), bool)
        masks[10:40, 10:50] = True
        return {"rois": [(10, 10, 40, 50)], "scores": [0.8], "masks": masks}


def absent_of(records):
    """COCO image id -> [category ids that were searched and are not in it], in the first run."""
    return {
        record["image_id"]: [one["category_id"] for one in record["queries"] if one["run"] == 0 and "absent" in one]
        for record in records
    }


def test_absent_categories_are_searched_in_every_image(loaded):
    detector = Noise()
    records = run(detector, loaded, absent="all").records
    assert records.settings["images"] == [10, 20, 30, 40, 50, 60]  # nothing is in the last one
    # a crowd is not absent: image 10 has one of category 18
    assert absent_of(records) == {10: [], 20: [3], 30: [7], 40: [18], 50: [3], 60: [3, 7, 18]}
    of_annotation = loaded[1].anns
    for query in records.queries(1, absent=True):
        [(image_id, annotation_id)] = query["references"]
        assert of_annotation[annotation_id]["category_id"] == query["category_id"]
        assert of_annotation[annotation_id]["image_id"] == image_id
    assert [query.class_id for query in detector.searched[1][1]] == [1, 2, 3] * 2
    assert all("absent" not in query for query in records.queries(0))


def test_present_queries_and_their_metrics_are_those_of_the_paper(loaded, tmp_path):
    paper = run(Eager(), loaded, folder=tmp_path / "paper")
    both = run(Eager(), loaded, folder=tmp_path / "open", absent="all")
    assert without_time(both.scores) == without_time(paper.scores)
    assert both.records.references(1) == paper.records.references(1)
    for name in ("results_run_0.json", "results_run_1.json", "analysis.json"):
        assert (tmp_path / "open" / name).read_text() == (tmp_path / "paper" / name).read_text()
    assert "absent" not in paper.records.settings and "threshold" not in paper.records.settings
    assert paper.presence is None and not (tmp_path / "paper" / "presence.json").exists()
    found = json.loads((tmp_path / "open" / "presence.json").read_text())
    assert found.pop("format") == 1 and found == json.loads(json.dumps(both.presence))
    assert (found["absent"], found["threshold"], found["num_present"], found["num_absent"]) == ("all", 0.7, 10, 7)
    assert 0 < found["mean"]["queries"]["absent_firing"] < 1
    assert len(both.records.results(0, absent=True)) > len(both.records.results(0))


def test_some_of_the_absent_categories_are_chosen_by_seed_and_image(loaded):
    few, more = (absent_of(run(Noise(), loaded, absent=count).records) for count in (1, 2))
    assert [len(few[image]) for image in (10, 20, 60)] == [0, 1, 1] and len(more[60]) == 2
    assert set(few[60]) < set(more[60])
    assert absent_of(run(Noise(), loaded, absent=2, runs=4, class_ids=[1, 2]).records)[60] == [3, 7]
    chosen = {tuple(absent_of(run(Noise(), loaded, absent=1, seed=seed).records)[60]) for seed in range(12)}
    assert chosen == {(3,), (7,), (18,)}


def test_limits_count_images_with_a_category(loaded):
    of_class = {"class_ids": [3], "absent": "all"}
    assert run(Noise(), loaded, **of_class).records.settings["images"] == [20, 30, 40, 50, 60]  # 10 has a crowd of it
    limited = run(Noise(), loaded, **of_class, limit=2)
    assert limited.records.settings["images"] == [20, 30]
    assert limited.scores.num_images == 2
    third = run(Noise(), loaded, **of_class, limit=3)
    assert third.records.settings["images"] == [20, 30, 40, 50] and third.scores.num_images == 3
    assert run(Noise(), loaded, **of_class, limit=4).records.settings["images"] == [20, 30, 40, 50, 60]


def test_categories_without_a_usable_reference_are_not_absent(tree):
    content = json.loads((tree / "annotations" / "instances_val2017.json").read_text())
    content["categories"].append({"id": 99, "name": "unicorn"})
    coco_tree.write_annotations(tree, content)
    assert absent_of(run(Noise(), open_tree(tree), absent="all").records)[60] == [3, 7, 18]


def test_an_open_evaluation_is_resumed_joined_and_rescored(loaded, tmp_path):
    whole = run(Eager(), loaded, absent=1, folder=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(Eager(stop_at=3), loaded, absent=1, folder=tmp_path / "stopped")
    resumed = run(Eager(), loaded, absent=1, folder=tmp_path / "stopped", resume=True)
    parts = [tmp_path / f"part_{index}" for index in (1, 2)]
    for index, part in enumerate(parts, 1):
        assert run(Eager(), loaded, absent=1, folder=part, shard=(index, 2)).presence is None
    joined = merge(parts, tmp_path / "joined", loaded[1], loaded[0], progress=False)
    again = rescore(tmp_path / "whole", loaded[1], loaded[0], progress=False)
    assert whole.presence == resumed.presence == joined.presence == again.presence
    assert lines_of(tmp_path / "stopped") == lines_of(tmp_path / "whole")
    low = rescore(tmp_path / "whole", loaded[1], threshold=0.1, progress=False).presence
    assert low["threshold"] == 0.1 and low["mean"]["bbox"]["recall"] > whole.presence["mean"]["bbox"]["recall"]
    assert json.loads((tmp_path / "whole" / "presence.json").read_text())["threshold"] == 0.1
    paper = run(Eager(), loaded, folder=tmp_path / "paper")
    assert paper.presence is None
    with pytest.raises(ValueError, match="paper: threshold = 0.1: no absent category was searched there"):
        rescore(tmp_path / "paper", loaded[1], threshold=0.1, progress=False)
    with pytest.raises(ValueError, match="absent = 1 there and 2 here"):
        run(Eager(), loaded, absent=2, folder=tmp_path / "whole", resume=True)


def test_references_of_absent_categories_are_replayed(loaded):
    recorded = run(Noise(), loaded, absent="all", shots=2).records
    sampler = ReplayReferenceSampler(loaded[0], recorded)
    replayed = run(Noise(), loaded, absent="all", seed=4, shots=2, sampler=sampler).records
    assert replayed.references(1, absent=True) == recorded.references(1, absent=True)


def test_random_boxes_find_nothing_where_the_category_is_absent(loaded):
    found = run(RandomBoxes(), loaded, absent="all").presence["mean"]
    assert found["queries"]["AUROC"] == found["queries"]["IL_MCC"] == 1
    assert found["queries"]["false_detections"] == 0 and found["bbox"]["F1"] < 1


def test_train_and_novel_categories_are_measured_apart(loaded):
    about = {"split": 1, "category_set": "all"}
    groups = run(Noise(), loaded, absent="all", about=about).presence["groups"]
    assert {name: one["category_ids"] for name, one in groups.items()} == {"train": [7, 18], "novel": [3]}
    assert run(Noise(), loaded, absent="all", about=about | {"category_set": "train"}).presence["groups"] == {}
    assert run(Noise(), loaded, absent="all").presence["groups"] == {}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"absent": 0}, "absent = 0: expected a whole number of 1 or more"),
        ({"absent": "some"}, "absent = 'some': expected 'all' or a whole number of 1 or more"),
        ({"absent": "all", "control": "present"}, "absent = 'all': does not go with control = 'present'"),
        ({"absent": 1, "threshold": 0.0}, "threshold = 0.0: expected a number above 0 and at most 1"),
        ({"absent": 1, "threshold": "high"}, "threshold = 'high': expected a number"),
    ],
)
def test_settings_of_the_open_protocol_are_checked(loaded, arguments, message):
    with pytest.raises(ValueError, match=message):
        run(Noise(), loaded, **arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda queries: queries.pop(), r"absent categories \[3, 7, 18\], expected at most 3 .*, in all 2 runs"),
        (lambda queries: queries[0].pop("absent"), "image 60 was searched for other categories than are in it"),
        (lambda queries: queries[0].update(category_id=1), "image 60 was searched for category 1, which its settings"),
    ],
)
def test_broken_records_of_the_open_protocol(loaded, tmp_path, change, message):
    run(Noise(), loaded, absent="all", folder=tmp_path)
    change_last_record(tmp_path, change)
    with pytest.raises(ValueError, match=message):
        rescore(tmp_path, loaded[1], loaded[0])


def change_last_record(folder, change):
    """Let `change` edit the queries of the last record of a folder."""
    path = folder / "records-0001-of-0001.jsonl"
    *lines, last = path.read_text().splitlines()
    record = json.loads(last)
    change(record["queries"])
    path.write_text("\n".join([*lines, json.dumps(record), ""]))


def test_what_is_in_an_image_is_not_absent(loaded, tmp_path):
    """Also as a crowd, which only the data set tells."""
    run(Noise(), loaded, absent="all", limit=1, folder=tmp_path)
    added = [{"run": run, "category_id": 18, "references": [], "detections": [], "absent": True} for run in range(2)]
    change_last_record(tmp_path, lambda queries: queries.extend(added))
    with pytest.raises(ValueError, match=r"image 10 was searched for absent categories \[18\]"):
        rescore(tmp_path, loaded[1], loaded[0])


# ---- the network -----------------------------------------------------------------------------------------------------


class Counting:
    """A predictor that counts what it encodes."""

    def __init__(self, predictor):
        self._predictor, self.config, self.scenes, self.references = predictor, predictor.config, 0, 0

    def encode_scenes(self, images):
        self.scenes += len(images)
        return self._predictor.encode_scenes(images)

    def encode_references(self, crops):
        self.references += len(crops)
        return self._predictor.encode_references(crops)

    def detect_all(self, scene, references, **options):
        return self._predictor.detect_all(scene, references, **options)


@pytest.mark.slow
def test_the_network_encodes_each_scene_and_reference_once(loaded, tiny_model):
    counting = Counting(tiny_model.predictor)
    outcome = run(counting, loaded, limit=2, runs=3, shots=2)
    drawn = [
        reference for run in range(3) for entry in outcome.records.references(run) for reference in entry["references"]
    ]
    assert counting.scenes == 2 and len(drawn) == 24
    assert counting.references == len({tuple(reference) for reference in drawn}) < len(drawn)
    assert outcome.scores.num_results and outcome.scores.seconds > 0


def test_the_network_gives_what_single_queries_give(loaded, tiny_model):
    from siamese_mrcnn_tf.data.references import cut_reference, draw_reference
    from siamese_mrcnn_tf.evaluation.coco_scores import results_of

    dataset, _ = loaded
    outcome = run(tiny_model.predictor, loaded, limit=1, class_ids=[2], shots=2, seed=1)
    key = {"seed": 1, "run": 1, "image_id": 0, "config": tiny_model.config}
    crops = [cut_reference(dataset, tiny_model.config, *draw_reference(dataset, 2, shot=k, **key)) for k in range(2)]
    found = tiny_model.detect([crops], [dataset.load_image(0)])[0]
    expected = results_of(10, 7, found["rois"], found["scores"], found["masks"])
    results = outcome.records.results(1)
    assert [result["bbox"] for result in results] == [result["bbox"] for result in expected]
    scores = [[result["score"] for result in part] for part in (results, expected)]
    np.testing.assert_allclose(*scores, atol=1e-6)


def test_digits_do_not_depend_on_stops_other_images_and_threads(loaded, tiny_model, tmp_path):
    whole = run(tiny_model.predictor, loaded, limit=3, folder=tmp_path / "whole", workers=2)
    for index in (1, 2):
        run(tiny_model.predictor, loaded, limit=3, folder=tmp_path / f"part{index}", shard=(index, 2))
    merged = merge([tmp_path / "part2", tmp_path / "part1"], tmp_path / "merged", loaded[1])
    assert lines_of(tmp_path / "merged") == lines_of(tmp_path / "whole")
    assert without_time(merged.scores) == without_time(whole.scores)


def test_queries_matched_at_once(loaded, tiny_model):
    single, together = (run(tiny_model.predictor, loaded, limit=1, batch=batch).records for batch in (1, 3))
    for one, other in zip(single.results(1), together.results(1), strict=True):
        assert one["bbox"] == other["bbox"] and one["score"] == pytest.approx(other["score"], abs=1e-6)


def test_failures_name_image_and_category(loaded, tiny_model):
    class Unlucky(Counting):
        def detect_all(self, scene, references, **options):
            raise ValueError("out of luck")

    with pytest.raises(RuntimeError, match="000000000010.*'ellipse': the query failed .out of luck"):
        run(Unlucky(tiny_model.predictor), loaded)
