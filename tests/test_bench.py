"""benchmarks/bench.py: counted operations, stages, the table, and a whole quick run."""

import dataclasses
import json
import pathlib
import subprocess
import sys
import time
import types

import numpy as np
import pytest

BENCHMARKS = pathlib.Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def modules(monkeypatch):
    """The modules of the folder by name."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    import bench
    import detections
    import report
    import worker

    return types.SimpleNamespace(bench=bench, detections=detections, report=report, worker=worker)


def test_a_stopped_run_keeps_what_it_measured(modules, monkeypatch, tmp_path):
    def stop(*_, **__):
        raise KeyboardInterrupt

    row = modules.report.Row("startup", "tiny", "tensorflow", None, "import", "s", [1.0])
    monkeypatch.setattr(modules.bench, "measure_startup", lambda **_: ([row], ["a note"]))
    monkeypatch.setattr(modules.bench, "measure_loader", stop)
    with pytest.raises(KeyboardInterrupt):
        modules.bench.main(["--only", "startup", "loader", "--json", str(tmp_path / "kept.json")])
    kept = modules.report.Benchmark.read(tmp_path / "kept.json")
    assert kept.rows == [row] and kept.notes == ["a note"]


# ---- operations --------------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_operations_of_the_large_network(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    from flops import by_part, count_steps

    from siamese_mrcnn_tf import LargeConfig
    from siamese_mrcnn_tf.modeling import network

    config = LargeConfig()
    steps = count_steps(config, network.build_layers(config))
    expected = {"backbone": 161, "pyramid": 119, "reference": 10, "matching": 34, "RPN": 311, "class head": 41}
    found = by_part(steps)
    assert {part: round(found[part]) for part in expected} == expected
    assert found["mask head"] == pytest.approx(1.14, abs=0.005)

    cells, pooled = sum((1024 // stride) ** 2 for stride in (4, 8, 16, 32, 64)), (256**2 + 128**2 + 64**2 + 32**2)
    assert sum(count for name, count in steps["_detect"].items() if name.startswith("fpn_distance")) == (
        2 * cells * 512 * 384
    )
    assert steps["_detect_shared"]["shared_matching"] == 2 * (pooled * 256 * 384 + cells * 512 * (9 * 256 + 18))
    composed = 5 * 9 * 384 * 512 * (2 * 256 + 1)
    assert steps["_share"].total() == 2 * (pooled * 256 * 384 + cells * 9 * 257 * 512 + composed)


def test_a_layer_of_an_unknown_kind_is_an_error(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import keras
    from flops import count_operations

    inputs = keras.Input((8, 8, 3))
    known = keras.layers.Conv2DTranspose(4, 2, strides=2)(keras.layers.Conv2D(5, 3, padding="same")(inputs))
    assert count_operations(keras.Model(inputs, known)).total() == 2 * 64 * (9 * 3 * 5 + 4 * 5 * 4)
    unknown = keras.layers.DepthwiseConv2D(3, name="depthwise")(inputs)
    with pytest.raises(ValueError, match="depthwise: operations of a DepthwiseConv2D"):
        count_operations(keras.Model(inputs, unknown))


# ---- stages ------------------------------------------------------------------------------------------------------
class Slow:
    """A predictor whose functions sleep for as many hundredths of a second as their names say here."""

    TAKES = {"encode_queries": 1, "_encode_reference": 2, "_detect": 4, "verify": 1, "unmold": 1}

    def __getattr__(self, name):
        if name not in self.TAKES:
            raise AttributeError(name)
        return lambda *args: self.take(name)

    def take(self, name):
        time.sleep(self.TAKES[name] / 100)
        if name in ("encode_queries", "verify"):
            self._encode_reference(np.zeros((3, 2)))
        return np.zeros((2, 2))

    def detect(self):
        self.encode_queries()
        self._detect(np.zeros((1, 4)))
        self.verify()
        self.unmold()
        return "found"


def test_stages_do_not_count_twice(modules):
    predictor = Slow()
    found, stages = modules.worker.StageTimer(predictor).run(predictor.detect)
    assert found == "found"
    expected = {"reference molding": 0.01, "reference encoder": 0.02, "detector": 0.04, "verification": 0.03}
    assert list(stages) == ["rest", *expected, "unmolding"]
    for stage, seconds in expected.items():
        assert seconds <= stages[stage]["seconds"] < seconds + 0.5, stage
    assert stages["verification"]["rows"] == stages["reference encoder"]["rows"] == {"_encode_reference": 3}
    assert stages["detector"]["rows"] == {"_detect": 1}
    assert stages["detector"]["processor"] < 0.03  # it sleeps


def test_a_predictor_without_runtimes_says_what_is_missing(modules, monkeypatch, tmp_path):
    from siamese_mrcnn_tf import predictor

    class Plain:
        def __init__(self, config, *, weights=None, calibrated=True):
            raise AssertionError("must not be opened")

    monkeypatch.setattr(predictor, "SiamesePredictor", Plain)
    given = {"config": "tiny", "folder": str(tmp_path), "threshold": 0.5, "exported": False, "verified": False}
    missing = modules.worker.open_predictor(**given, runtime="openvino", precision="int8")
    assert missing == "SiamesePredictor has no precision and no runtime"


def test_runs_take_turns_with_the_baseline(modules):
    runs = modules.bench.chosen_runs(modules.bench.parse(["--only", "runtimes"]))
    blocks = list(modules.detections.blocks(runs))
    assert {block[0] for block in blocks} == {modules.detections.BASELINE}
    assert max(map(len, blocks)) <= 4
    assert [run for block in blocks for run in block[1:]] == runs[1:]
    assert len({run.name for run in runs}) == len(runs) == 7
    assert list(modules.detections.blocks(runs[:1])) == [runs[:1]]


# ---- table -------------------------------------------------------------------------------------------------------
def benchmark(report, seconds, **machine):
    rows = [
        report.Row("detection", "tiny", "tensorflow float32", 1, "detector", "s", seconds, [0.5], 2.0, [0.8], [0.9]),
        report.Row("startup", "", "", None, f"of {len(seconds)}", "GB", [0.123]),
    ]
    machine = {"processor": "A", "cores": 2, "flags": [], "load": 0.5, **machine}
    return report.Benchmark(machine, {"Python": "3"}, "2026-01-01", {}, {"tiny": {"RPN": 1.5}}, ["a note"], rows)


def test_comparison_with_an_earlier_run(modules, tmp_path):
    report, path = modules.report, tmp_path / "before.json"
    benchmark(report, [4.0, 2.0, 100.0]).write(path)
    before = report.Benchmark.read(path)
    assert before == benchmark(report, [4.0, 2.0, 100.0])
    now = benchmark(report, [1.0, 1.0], processor="B")
    lines = [line for line in now.text(before, path.name).splitlines() if line.startswith("|")]
    assert lines[0].endswith("| share | share of processor time | of before.json |")
    assert lines[2] == (
        "| detection | tiny | tensorflow float32 | 1 | detector | 1.00 s | 0.500 | 2.00 | 80% | 90% | 0.25 |"
    )
    assert lines[3] == "| startup | - | - | - | of 2 | 0.123 GB | - | - | - | - | - |"  # it was not measured before
    text = now.text(before, path.name)
    assert "- before.json is of another machine: A" in text and "- a note" in text and "RPN 1.50" in text
    assert "another machine" not in benchmark(report, [1.0]).text(before, path.name)
    path.write_text(json.dumps({"rows": []}))
    with pytest.raises(ValueError, match="not a file that bench.py"):
        report.Benchmark.read(path)


@pytest.mark.slow
def test_quick_run(tmp_path, modules):
    path = tmp_path / "now.json"
    command = [sys.executable, str(BENCHMARKS / "bench.py"), "--quick", "--json", str(path)]
    finished = subprocess.run(command, capture_output=True, text=True, check=True)
    found = modules.report.Benchmark.read(path)
    assert modules.report.table(found.rows) in finished.stdout
    rows = {row.key[3:5]: row for row in found.rows}
    for count in (1, 3, 8):
        stages = [row for row in found.rows if row.references in (None, count) and row.unit == "s"]
        total = rows[count, "all stages"]
        parts = [row for row in stages if row is not total]
        assert total.gflop == pytest.approx(sum(row.gflop or 0 for row in parts))
        assert sum(row.values[0] for row in parts) <= total.values[0] < sum(row.values[0] for row in parts) + 0.1
        assert total.shares[0] > 0 and total.processor_shares[0] > 0
    assert rows[3, "detector"].gflop < 3 * rows[1, "detector"].gflop  # its scene's terms are shared
    assert rows[3, "reference encoder"].gflop == pytest.approx(3 * rows[1, "reference encoder"].gflop)
    assert (1, "shared terms") not in rows and (3, "shared terms") in rows
    assert 0.1 < rows[None, "import tensorflow"].values[0] < rows[None, "peak memory"].values[0]
    assert rows[None, "samples per processor second, drawn scenes of 160 pixels"].values[0] > 0
    assert dataclasses.asdict(found)["machine"]["cores"] >= 1
