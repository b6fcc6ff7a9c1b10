"""Command lines of all commands: bad values of every option, contradictions, missing files, unusable outputs."""

import argparse
import functools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from siamese_mrcnn_tf.cli.main import build_parsers

from ..case import EITHER, ERROR, WORKS, Case

# What a command needs before an option of it is looked at; nothing here exists, so that none begins to work.
REQUIRED: dict[str, tuple[str, ...]] = {
    "example": (),
    "predict": ("--model", "gone.h5", "--image", "gone.png", "--reference", "gone.png"),
    "app": ("--model", "gone.h5"),
    "demo": ("--out", "file/demo"),
    "train": ("--dataset", "gone", "--model", "gone.h5"),
    "evaluate": ("--dataset", "gone", "--model", "random-boxes"),
    "calibrate": ("--dataset", "gone", "--model", "gone.h5"),
    "check": ("--dataset", "gone"),
    "convert": ("gone.json", "--out", "out"),
    "weights": (),
    "export": ("--model", "gone.h5", "--format", "onnx", "--out", "out"),
    "quantize": ("--dataset", "gone", "--model", "gone.h5"),
    "pretrain": ("--dataset", "gone"),
    "settings": (),
    "shapes": ("--out", "out", "--train", "1", "--val", "1"),
}
_NUMBERS = {
    "text": "many",
    "empty": "",
    "nan": "nan",
    "infinite": "-inf",
    "negative": "-1",
    "digits": "9" * 5000,
    "exponent": "1e400",
    "two": "1 2",
    "hex": "0x10",
}
_PATHS = (
    "--model",
    "--config",
    "--dataset",
    "--annotations",
    "--resume",
    "--merge",
    "--compare",
    "--report",
    "--results",
)


def cases() -> Iterator[Case]:
    """All of this family."""
    yield from _options()
    yield from _missing()
    yield from _contradictions()
    yield from _outputs()
    yield from _words()


@functools.cache
def _parsers() -> dict[str, argparse.ArgumentParser]:
    return build_parsers()[1]


def _shown(value: str) -> str:
    """How a message shows a path: as it is, or escaped."""
    start = value[:40]
    escaped = start.encode("utf-8", "backslashreplace").decode()
    return start if start == escaped else f"{start}|{escaped}"


def _file(folder: Path) -> None:
    (folder / "file").write_text("a file")


def _options() -> Iterator[Case]:
    """Every option with a type or choices, with values that it cannot have; every option without its value."""
    for command, parser in _parsers().items():
        for action in parser._actions:
            if not action.option_strings or action.nargs == 0:
                continue
            option = action.option_strings[-1]
            if isinstance(action, argparse.BooleanOptionalAction):
                continue
            words = (command, *REQUIRED[command])
            if action.nargs not in ("?",):
                yield Case(f"commands/{command}/{option}/no_value", (*words, option), ERROR, (option,), _file)
            if action.choices is not None:
                for label, value in {"unknown": "frob", "empty": "", "digits": "9" * 5000}.items():
                    given = (*words, f"{option}={value}")
                    yield Case(f"commands/{command}/{option}/{label}", given, ERROR, (option,), _file)
            elif action.type is not None:
                for label, value in _NUMBERS.items():
                    if label in ("negative", "digits") and option in ("--image-ids", "--seed", "--threshold"):
                        continue  # below
                    given = (*words, f"{option}={value}")
                    is_text = "confidence" in option or option in ("--year", "--subset")  # may be a name that is there
                    mention = f"{option}|gone" if is_text else option
                    yield Case(f"commands/{command}/{option}/{label}", given, ERROR, (mention,), _file)


def _missing() -> Iterator[Case]:
    """Required options left out, and files that are not there."""
    for command, words in REQUIRED.items():
        if words and command != "demo":  # it needs nothing, and takes minutes
            yield Case(f"commands/{command}/nothing_given", (command,), ERROR, ("--|arguments|FILE",))
        yield Case(f"commands/{command}/unknown_option", (command, *words, "--frob"), ERROR, ("--frob",), _file)
        yield Case(f"commands/{command}/stray_word", (command, *words, "--verbose", "stray"), ERROR, ("stray",), _file)
        known = {option for action in _parsers()[command]._actions for option in action.option_strings}
        for option in _PATHS:
            if option not in known:
                continue
            for label, value in {
                "missing": "gone",
                "file": "file",
                "empty": "",
                "not_utf8": "a\udc80b",
                "long": "n" * 5000,
            }.items():
                given = (command, *words, option, value)
                # what is missing besides may be named first, or that the option does not go with the others
                mention = f"{_shown(value) or option}|gone|leave out {option}"
                if option == "--model" and not value:
                    mention = option
                yield Case(f"commands/{command}/path{option}/{label}", given, ERROR, (mention,), _file)
    words = ("predict", "--model", "{base}/exported", "--image", "{base}/scene.png", "--out", "out")
    needs = ("exported", "scene.png", "crop.png")
    for label, reference in {
        "missing": "gone.png",
        "box_text": "{base}/crop.png:a,b,c,d",
        "box_three": "{base}/crop.png:1,2,3",
        "box_empty": "{base}/crop.png:5,5,5,5",
        "box_turned": "{base}/crop.png:20,20,5,5",
        "box_outside": "{base}/crop.png:900,900,950,950",
        "box_digits": "{base}/crop.png:" + "9" * 400 + ",1,2,3",
        "box_negative": "{base}/crop.png:-9,-9,-1,-1",
        "empty": "",
        "name_alone": "bolt=",
        "equals_alone": "=",
        "folder": "{base}",
    }.items():
        mention = reference.replace("{base}/", "")[:20] or "--reference|reference"
        expected = EITHER if label == "folder" else ERROR
        yield Case(
            f"commands/predict/reference/{label}",
            (*words, "--reference", reference),
            expected,
            (mention,) if label != "folder" else (),
            needs=needs,
        )


def _contradictions() -> Iterator[Case]:
    predict = ("predict", "--model", "{base}/exported", "--image", "{base}/scene.png", "--out", "out")
    referred = (*predict, "--reference", "{base}/crop.png")
    pneeds = ("exported", "scene.png", "crop.png")
    evaluate = ("evaluate", "--model", "random-boxes", "--dataset", "{base}/set", "--out", "out", "--runs", "1")
    train = (
        "train",
        "--dataset",
        "{base}/set",
        "--model",
        "untrained",
        "--config",
        "{base}/micro.json",
        "--logs",
        "logs",
    )
    tneeds = ("set", "micro.json")
    convert = ("convert", "{base}/set/annotations/instances_val2017.json", "--out", "out")
    listed: list[tuple[str, tuple[str, ...], str, tuple[str, ...]]] = [
        ("predict/no_reference", predict, "--reference", pneeds),
        ("predict/shots_without_set", (*referred, "--shots", "2"), "--shots", pneeds),
        ("predict/categories_without_set", (*referred, "--categories", "a"), "--categories", pneeds),
        ("predict/images_without_set", (*referred, "--reference-images", "a"), "--reference-images", pneeds),
        ("predict/resume_and_force", (*referred, "--resume", "--force"), "--force", pneeds),
        ("predict/config_of_export", (*referred, "--config", "tiny"), "--config", pneeds),
        ("predict/precision_of_export", (*referred, "--precision", "int8"), "--precision", pneeds),
        ("predict/runtime_openvino", (*referred, "--runtime", "openvino"), "openvino", pneeds),
        ("predict/device_of_onnx", (*referred, "--runtime", "onnx", "--device", "cpu"), "--device", pneeds),
        ("predict/device_unknown", (*referred, "--device", "tpu:9"), "tpu:9", pneeds),
        ("predict/confidence_above", (*referred, "--min-confidence", "1.5"), "1.5", pneeds),
        ("predict/confidence_below", (*referred, "--min-confidence=-0.5"), "-0.5", pneeds),
        ("predict/confidence_nan", (*referred, "--min-confidence", "nan"), "nan", pneeds),
        ("predict/save_unknown", (*referred, "--save", "frob"), "frob", pneeds),
        ("predict/save_nothing", (*referred, "--save", ""), "--save", pneeds),
        ("predict/save_with_resume_of_nothing", (*referred, "--set", "NUM_CLASSES=5"), "NUM_CLASSES", pneeds),
        (
            "predict/max_detections_huge",
            (*referred, "--max-detections", "3000000000"),
            "max-detections|DETECTION_MAX",
            pneeds,
        ),
        ("evaluate/novel_without_split", (*evaluate, "--categories", "novel"), "--categories", ("set",)),
        ("evaluate/shard_above", (*evaluate, "--shard", "3/2"), "--shard", ("set",)),
        ("evaluate/shard_zero", (*evaluate, "--shard", "0/2"), "--shard", ("set",)),
        ("evaluate/shard_text", (*evaluate, "--shard", "a/b"), "--shard", ("set",)),
        ("evaluate/shard_digits", (*evaluate, "--shard", "1/" + "9" * 5000), "--shard", ("set",)),
        ("evaluate/merge_and_compare", (*evaluate, "--merge", "a", "--compare", "b"), "--compare", ("set",)),
        ("evaluate/subset_unknown", (*evaluate, "--subset", "test"), "test", ("set",)),
        ("evaluate/image_unknown", (*evaluate, "--image-ids", "12345"), "12345", ("set",)),
        ("evaluate/image_negative", (*evaluate, "--image-ids=-5"), "-5", ("set",)),
        ("evaluate/image_digits", (*evaluate, "--image-ids", "9" * 4000), "9999", ("set",)),
        ("evaluate/limit_zero", (*evaluate, "--limit", "0"), "--limit", ("set",)),
        ("evaluate/threshold_above", (*evaluate, "--threshold", "1.5"), "--threshold", ("set",)),
        ("evaluate/seed_negative", (*evaluate, "--seed=-1"), "--seed", ("set",)),
        ("evaluate/absent_negative", (*evaluate, "--absent=-1"), "--absent", ("set",)),
        ("evaluate/annotations_and_dataset", (*evaluate, "--annotations", "a.json"), "--annotations|a.json", ("set",)),
        (
            "evaluate/annotations_without_images",
            ("evaluate", "--model", "random-boxes", "--annotations", "a.json"),
            "--images",
            (),
        ),
        ("evaluate/resume_nothing_twice", (*evaluate, "--results", "gone"), "gone", ("set",)),
        ("evaluate/shots_huge", (*evaluate, "--model", "untrained", "--shots", "9" * 40), "shots", ("set",)),
        ("train/batch_odd", (*train, "--batch", "3", "--devices", "2"), "--batch", tneeds),
        ("train/batch_of_queries", (*train, "--batch", "3"), "--batch", tneeds),
        ("train/stages_unknown", (*train, "--stages", "papper"), "papper", tneeds),
        ("train/stages_missing", (*train, "--stages", "gone.json"), "gone.json", tneeds),
        ("train/epochs_beyond", (*train, "--stages", "shapes", "--epochs", "100000"), "epochs", tneeds),
        ("train/val_images_all", (*train, "--stages", "shapes", "--val-images", "100000"), "val", tneeds),
        ("train/resume_nothing", ("train", "--resume", "gone"), "gone", ()),
        ("train/resume_with_model", ("train", "--resume", "gone", "--model", "untrained"), "--model", ()),
        (
            "train/devices_many",
            (*train, "--stages", "shapes", "--devices", "4096", "--batch", "8192"),
            "devices|GPU_COUNT",
            tneeds,
        ),
        ("train/rate_that_is_overridden_nan", (*train, "--set", "LEARNING_RATE=NaN"), "LEARNING_RATE", tneeds),
        ("train/no_dataset", ("train", "--model", "untrained", "--config", "tiny"), "--dataset", ()),
        (
            "calibrate/bundled_without_out",
            ("calibrate", "--model", "shapes", "--dataset", "{base}/set"),
            "--out",
            ("set",),
        ),
        (
            "calibrate/untrained",
            ("calibrate", "--model", "untrained", "--dataset", "{base}/set"),
            "untrained",
            ("set",),
        ),
        (
            "calibrate/val_images",
            ("calibrate", "--model", "shapes", "--dataset", "{base}/set", "--val-images", "3"),
            "--val-images",
            ("set",),
        ),
        (
            "calibrate/false_alarms",
            ("calibrate", "--model", "shapes", "--dataset", "{base}/set", "--false-alarms", "1"),
            "--false-alarms",
            ("set",),
        ),
        (
            "convert/category_and_attribute",
            (*convert, "--category", "a", "--attribute", "b"),
            "--category|--attribute",
            ("set",),
        ),
        ("convert/share_one", (*convert, "--val-share", "1"), "--val-share", ("set",)),
        ("convert/categories_lacking", (*convert, "--categories", "frob"), "frob|ellipse", ("set",)),
        ("convert/categories_twice", (*convert, "--categories", "ellipse", "ellipse"), "ellipse", ("set",)),
        ("convert/year_path", (*convert, "--year", "../../up"), "up", ("set",)),
        (
            "convert/two_tools",
            ("convert", "{base}/set/annotations/instances_val2017.json", "gone.xml", "--out", "out"),
            "gone.xml",
            ("set",),
        ),
        ("check/subset_unknown", ("check", "--dataset", "{base}/set", "--subset", "frob"), "frob", ("set",)),
        (
            "check/annotations_folder",
            ("check", "--annotations", "{base}/set", "--images", "{base}/set"),
            "set",
            ("set",),
        ),
        ("weights/accept_without_name", ("weights", "--accept", "abc"), "--accept", ()),
        ("weights/accept_no_checksum", ("weights", "large", "--accept", "xyz"), "xyz", ()),
        ("weights/unknown_name", ("weights", "huge"), "huge", ()),
        ("weights/offline", ("weights", "large"), "large", ()),
        (
            "export/image_alone",
            ("export", "--model", "shapes", "--format", "onnx", "--out", "out", "--image", "a.png"),
            "--image",
            (),
        ),
        ("export/format_unknown", ("export", "--model", "shapes", "--format", "tflite", "--out", "out"), "tflite", ()),
        ("quantize/nothing", ("quantize", "--model", "shapes"), "--image", ()),
        (
            "quantize/untrained",
            ("quantize", "--model", "untrained", "--dataset", "{base}/set"),
            "untrained|nncf",
            ("set",),
        ),
        ("pretrain/nothing", ("pretrain",), "--data", ()),
        ("pretrain/both", ("pretrain", "--data", "a", "--dataset", "b"), "--data", ()),
        (
            "pretrain/classes_of_dataset",
            ("pretrain", "--dataset", "{base}/set", "--classes", "771"),
            "--classes",
            ("set",),
        ),
        ("pretrain/data_missing", ("pretrain", "--data", "gone"), "gone", ()),
        (
            "pretrain/resume_nothing",
            ("pretrain", "--dataset", "{base}/set", "--out", "gone", "--resume"),
            "gone",
            ("set",),
        ),
        ("shapes/train_negative", ("shapes", "--out", "out", "--train=-1"), "train", ()),
        ("shapes/train_zero_both", ("shapes", "--out", "out", "--train", "0", "--val", "0"), "train", ()),
        ("shapes/categories_one", ("shapes", "--out", "out", "--categories", "1"), "categories", ()),
        ("shapes/categories_many", ("shapes", "--out", "out", "--categories", "100000"), "categories", ()),
        ("shapes/size_small", ("shapes", "--out", "out", "--size", "3"), "size", ()),
        ("shapes/size_zero", ("shapes", "--out", "out", "--size", "0"), "size", ()),
        ("shapes/size_huge", ("shapes", "--out", "out", "--size", "10000000"), "size", ()),
        ("shapes/seed_negative", ("shapes", "--out", "out", "--seed=-1", "--train", "1", "--val", "1"), "seed", ()),
        ("shapes/workers_negative", ("shapes", "--out", "out", "--workers=-1"), "workers", ()),
        ("shapes/workers_many", ("shapes", "--out", "out", "--workers", "1000000"), "workers", ()),
        ("example/scenes_zero", ("example", "--out", "out", "--scenes", "0"), "--scenes", ()),
        ("app/port_above", ("app", "--model", "shapes", "--port", "70000"), "--port", ()),
        ("app/host_nowhere", ("app", "--model", "shapes", "--host", "nowhere.invalid"), "nowhere.invalid", ()),
        ("demo/split_zero", ("demo", "--split", "0", "--out", "out"), "--split", ()),
    ]
    year = (*evaluate, "--year", "1999")
    yield Case("commands/contradictions/evaluate/year_unknown", year, WORKS, needs=("set",), fault=_names_other_year)
    for name, words, mention, needs in listed:
        yield Case(f"commands/contradictions/{name}", words, ERROR, (mention,), needs=needs)


def _names_other_year(folder: Path, output: str) -> str | None:
    """A file of the only other year is taken, and named."""
    return None if "no instances_val1999.json" in output else "no word of the other year"


WRITERS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {  # words before --out, needs
    "example": (("example",), ()),
    "predict": (
        ("predict", "--model", "{base}/exported", "--image", "{base}/scene.png", "--reference", "{base}/crop.png"),
        ("exported", "scene.png", "crop.png"),
    ),
    "demo": (("demo",), ()),
    "evaluate": (("evaluate", "--model", "random-boxes", "--dataset", "{base}/set", "--runs", "1"), ("set",)),
    "check": (("check", "--dataset", "{base}/set"), ("set",)),
    "convert": (("convert", "{base}/set/annotations/instances_val2017.json"), ("set",)),
    "export": (
        ("export", "--model", "{base}/micro.h5", "--config", "{base}/micro.json", "--format", "onnx"),
        ("micro.h5", "micro.json"),
    ),
    "pretrain": (("pretrain", "--dataset", "{base}/set", "--config", "{base}/micro.json"), ("set", "micro.json")),
    "shapes": (("shapes", "--train", "1", "--val", "1"), ()),
    "calibrate": (
        ("calibrate", "--model", "{base}/micro.h5", "--config", "{base}/micro.json", "--dataset", "{base}/set"),
        ("micro.h5", "micro.json", "set"),
    ),
}


def _outputs() -> Iterator[Case]:
    """An --out that cannot be used is refused before the work."""

    def loop(folder: Path) -> None:
        (folder / "loop").symlink_to("loop")

    def fifo(folder: Path) -> None:
        os.mkfifo(folder / "fifo")

    def foreign(folder: Path) -> None:
        (folder / "used").mkdir()
        (folder / "used" / "mine.txt").write_text("mine")

    outs: dict[str, tuple[str, Callable[[Path], object]]] = {
        "below_a_file": ("file/out", _file),
        "a_file": ("file", _file),
        "link_loop": ("loop", loop),
        "below_a_link_loop": ("loop/out", loop),
        "fifo": ("fifo", fifo),
        "of_the_system": ("/proc/out", lambda folder: None),
        "device": ("/dev/full", lambda folder: None),
        "below_a_device": ("/dev/null/out", lambda folder: None),
        "long_name": ("n" * 300, lambda folder: None),
        "not_utf8": ("a\udc80b/" + "n" * 300, lambda folder: None),
        "empty": ("", lambda folder: None),
    }
    for command, (words, needs) in WRITERS.items():
        for label, (out, make) in outs.items():
            if command == "calibrate" and label in ("a_file", "device"):
                continue  # writes a file
            mention = _shown(out) or "--out"
            if command == "calibrate":  # writes a file, and may name its folder
                mention = f"{mention}|{os.path.dirname(out) or out}:"
            given = (*words, "--out", out)
            yield Case(f"commands/out/{command}/{label}", given, ERROR, (mention,), make, needs)
    words, needs = WRITERS["predict"]
    yield Case(
        "commands/out/predict/foreign_files", (*words, "--out", "used", "--force"), ERROR, ("used",), foreign, needs
    )
    yield Case(
        "commands/out/predict/foreign_resume", (*words, "--out", "used", "--resume"), ERROR, ("used",), foreign, needs
    )
    for label, (out, make) in outs.items():
        train = (
            "train",
            "--dataset",
            "{base}/set",
            "--model",
            "untrained",
            "--config",
            "{base}/micro.json",
            "--stages",
            "shapes",
        )
        mention = _shown(out) or "--logs"
        yield Case(
            f"commands/out/train/{label}", (*train, "--logs", out), ERROR, (mention,), make, ("set", "micro.json")
        )


def _words() -> Iterator[Case]:
    """The program itself."""
    yield Case("commands/program/none", (), ERROR, ("COMMAND",))
    for word in ("frob", "", "--frob", "predict\n", "\udc80"):
        yield Case(f"commands/program/{ascii(word)}", (word,), ERROR, ("COMMAND|choice|--frob|required",))
    yield Case("commands/program/version", ("--version",), WORKS)
    for command in REQUIRED:
        yield Case(f"commands/program/help/{command}", (command, "--help"), WORKS)
