"""README.md and docs/*.md: every snippet runs, every option, make target, path and link that they name exists.

Snippets are found in the files themselves and run from top to bottom, each document in a folder of its own. What a
reader would have is put there: weights under the names of the released ones, photos, data sets, all small. The
configurations are made small under their own names, so that commands and code run as they are written, only with
options appended that make them short (`SHORTER`). A snippet that this test does not know how to run fails.
"""

import contextlib
import dataclasses
import json
import pathlib
import re
import shlex
import shutil
import textwrap
import types

import cv2
import format_samples
import imagenet_tree
import numpy as np
import pytest
import via_samples
from conftest import MICRO
from PIL import Image
from scripts import load_script

from siamese_mrcnn_tf import config
from siamese_mrcnn_tf.cli.main import build_parsers, main
from siamese_mrcnn_tf.ops.boxes import extract_bboxes
from siamese_mrcnn_tf.shapes import dataset as shapes
from siamese_mrcnn_tf.training.schedules import load_schedule
from siamese_mrcnn_tf.weights.known_files import KNOWN_FILES

ROOT = pathlib.Path(__file__).resolve().parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PROGRAMS = {  # how a command line begins -> the words of `siamese-mrcnn` that it stands for
    "siamese-mrcnn": (),
    ".venv/bin/siamese-mrcnn": (),
    "python -m siamese_mrcnn_tf": (),
    ".venv/bin/python -m siamese_mrcnn_tf": (),
    "samples/coco/coco.py": (),
    "samples/imagenet/pretrain.py": ("pretrain",),
    "samples/shapes/shapes.py": ("shapes",),
    "samples/shapes/demo.py": ("demo",),
}
NOT_RUN = {  # commands that set up or run everything -> why they are not run here
    "make demo": "takes minutes and needs nothing but what other tests run",
    "make test": "runs this test",
    "make quick": "runs tests",
    "make lint": "changes nothing, and `make test` runs it",
    "make bench": "measures for tens of minutes",
    "make notebooks": "tests/test_notebooks.py runs the notebooks",
    "pip install .": "changes the environment",
}
SHORTER = {  # command -> options appended to it; those of demo, calibrate, quantize and app are parsed alone
    "train": ["--steps", "1", "--val-steps", "0", "--workers", "1"],
    "evaluate": ["--runs", "1", "--limit", "3"],
    "check": ["--samples", "1"],
    "weights": [],
    "settings": [],
    "convert": [],
    "pretrain": ["--steps", "1", "--epochs", "1", "--batch", "8", "--size", "32", "--workers", "1"],
    "shapes": ["--train", "48", "--val", "4"],
    "example": ["--scenes", "2", "--size", "64"],
}
LONGEST_SCHEDULE = 12  # epochs; of a longer one in a file only the first is run
EXPERIMENT = re.compile(r"samples/coco/experiments\.py (\w+)")
EXPORTS = {  # path in the documents -> what writes it
    "labelme": format_samples.labelme,
    "annotations.xml": format_samples.cvat,
    "project.json": format_samples.label_studio,
    "yolo/data.yaml": format_samples.yolo,
    "supervisely": format_samples.supervisely,
    "voc": format_samples.voc,
    "annotations/instances_default.json": format_samples.coco,
}
CATEGORIES = ("disc", "gear", "star")  # of the photos
NUM_CLASSES = 80  # of data sets, as in COCO: docs name class ids
_COMMAND_LINE = re.compile(r"^ +([\w./-]*(python[\d.]*|siamese-mrcnn)|samples/\S+\.py|make|pip) \S", re.MULTILINE)


# ---- what the documents hold -------------------------------------------------------------------------------------
def arguments_of(command):
    """The arguments that a command line gives `siamese-mrcnn`."""
    command = re.sub(r"^(\.venv/bin/)?python (?=samples/)", "", command)
    for program, words in PROGRAMS.items():
        if command.startswith(f"{program} "):
            return [*words, *shlex.split(command.removeprefix(program))]
    raise ValueError("the test does not know how to run this command")


@dataclasses.dataclass(frozen=True)
class Snippet:
    """A code block, or of a block of commands one command.

    Attributes:
        where: file and line.
        kind: "python", "json", "command", "listing" (paths that are there then), or what is not known.
        text: without indentation; a command in one line.
        before: the paragraph before it.
    """

    where: str
    kind: str
    text: str
    before: str


def snippets_of(path):
    """All snippets of a Markdown file, in order."""
    found, (blocks, _) = [], parse_markdown(path.read_text(encoding="utf-8"))
    for line, language, text, before in blocks:
        kind = kind_of(language, text)
        if kind != "command":
            found.append(Snippet(f"{path.name}:{line}", kind, text, before))
            continue
        for offset, command in commands_of(text):
            found.append(Snippet(f"{path.name}:{line + offset}", kind, command, before))
    return found


def parse_markdown(text):
    """Code blocks [(line number, language or None, text, paragraph before)], and the text without them."""
    blocks, prose, lines, index = [], [], text.splitlines(), 0
    while index < len(lines):
        fence = re.match(r"\s*(```+)\s*(\w*)", lines[index])
        is_indented = lines[index].startswith("    ") and (index == 0 or not lines[index - 1].strip())
        if not fence and not is_indented:
            prose.append(lines[index])
            index += 1
            continue
        first = index + bool(fence)
        stop = first
        if fence:
            while stop < len(lines) and lines[stop].strip() != fence[1]:
                stop += 1
        else:
            while stop < len(lines) and (lines[stop].startswith("    ") or not lines[stop].strip()):
                stop += 1
        paragraphs = [part.strip() for part in "\n".join(prose).split("\n\n") if part.strip()]
        content = textwrap.dedent("\n".join(lines[first:stop])).strip("\n")
        blocks.append((first + 1, fence[2] if fence else None, content, paragraphs[-1] if paragraphs else ""))
        index = stop + bool(fence)
        prose.append("")
    return blocks, "\n".join(prose)


def kind_of(language, text):
    """What a block is."""
    if language in ("python", "json", "bibtex"):
        return language
    if language in ("bash", "sh", "shell", "console") or _COMMAND_LINE.match(" " + text):
        return "command"
    if text[0] in "[{":
        return "json"
    if all("/" in word or word.endswith((".json", ".h5")) for word in text.split()):
        return "listing"
    return f"block of {language or 'unknown kind'}"


def commands_of(text):
    """(line within the block, command in one line without comment) of a block of shell commands."""
    begun, start = "", 0
    for number, line in enumerate(text.splitlines()):
        if not begun:
            start = number
        begun += line.removesuffix("\\").strip().removeprefix("$ ") + " "
        if not line.endswith("\\"):
            command = re.sub(r"\s+#.*", "", begun).strip()
            if command:
                yield start, command
            begun = ""


def code_spans(path):
    """The inline code of a Markdown file, each in one line."""
    _, prose = parse_markdown(path.read_text(encoding="utf-8"))
    return [" ".join(span.replace("\\|", "|").split()) for span in re.findall(r"`([^`]+)`", prose)]


# ---- tests -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_no_snippet_is_overlooked(path):
    commands = [snippet for snippet in snippets_of(path) if snippet.kind == "command"]
    text = re.sub(r"\\\n", "", path.read_text(encoding="utf-8"))
    assert len(commands) == len(_COMMAND_LINE.findall(text))
    assert sum(snippet.kind == "python" for snippet in snippets_of(path)) == text.count("```python")


@pytest.mark.slow
@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_all_snippets_run(path, workplace):
    for snippet in snippets_of(path):
        try:
            workplace.run(snippet)
        except (Exception, SystemExit) as error:
            pytest.fail(f"{snippet.where}: does not run as written: {error!r}\n{snippet.text}", pytrace=False)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_options_in_the_text_exist(path, options):
    everything = set().union(*options.values())
    for span in code_spans(path):
        words = span.removeprefix("python -m siamese_mrcnn_tf").split()
        words = [word for word in words if pathlib.PurePath(word).name not in ("coco.py", "siamese-mrcnn")]
        known = options.get(words[0], everything) if words else everything
        named = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", span))
        assert words[:1] == ["pip"] or named <= known, f"{path.name}: `{span}`: no option {', '.join(named - known)}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_make_targets_paths_and_links_exist(path):
    text = path.read_text(encoding="utf-8")
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    made = re.findall(r"(?:^    |`)make ([\w-]+)", text, re.MULTILINE)
    assert set(made) <= targets, f"{path.name}: make {', '.join(set(made) - targets)}"
    for link in re.findall(r"\]\((?!https?://|#)([^)#]+)", text):
        assert (path.parent / link).exists(), f"{path.name}: link to {link}"
    folders = "siamese_mrcnn_tf|samples|benchmarks|notebooks|docs|tests"
    for place in re.findall(rf"(?:^|\s|`)((?:{folders})/[\w./-]*[\w/])", text, re.MULTILINE):
        assert (ROOT / place).exists() or place.endswith(".h5"), f"{path.name}: {place}"


def test_an_unknown_snippet_fails(workplace):
    for kind, text in (
        ("block of text", "what is this"),
        ("command", "rm -rf ."),
        ("command", "make unheard-of"),
        ("command", "python samples/other.py"),
        ("command", "siamese-mrcnn check --dataset set --unknown 3"),
        ("command", ".venv/bin/siamese-mrcnn demo --unknown"),
        ("command", "samples/coco/experiments.py unknown"),
        ("listing", "not/there.json"),
    ):
        with pytest.raises((ValueError, SystemExit)):
            workplace.run(Snippet("test", kind, text, ""))


def test_extraction_by_example(tmp_path):
    text = """Text with `predict
--image FILE` in it, and in `other.json`:

    make this  # a comment
    siamese-mrcnn a --x 1 \\
        --y 2

Then `b.json`:

```json
[1]
```

    out/annotations/   out/b.json

```bash
$ python b.py
```
"""
    (tmp_path / "some.md").write_text(text, encoding="utf-8")
    found = snippets_of(tmp_path / "some.md")
    assert [(snippet.where, snippet.kind, snippet.text) for snippet in found] == [
        ("some.md:4", "command", "make this"),
        ("some.md:5", "command", "siamese-mrcnn a --x 1 --y 2"),
        ("some.md:11", "json", "[1]"),
        ("some.md:14", "listing", "out/annotations/   out/b.json"),
        ("some.md:17", "command", "python b.py"),
    ]
    assert found[2].before == "Then `b.json`:"
    assert code_spans(tmp_path / "some.md") == ["predict --image FILE", "other.json", "b.json"]


def ends_soon(path):
    """Whether a schedule is short enough to run; later snippets look for its last epoch."""
    return load_schedule(path)[-1].epochs <= LONGEST_SCHEDULE


def find_experiment(name):
    """Raises ValueError if the paper's experiments have none of this name."""
    if name not in load_script("samples/coco/experiments.py").EXPERIMENTS:
        raise ValueError(f"no experiment {name}")


# ---- the workplace -----------------------------------------------------------------------------------------------
class Workplace:
    """Runs snippets in the current folder, in which it puts what they need and no other snippet makes.

    Args:
        weights: configuration name, or "imagenet" for a backbone -> weight file.
    """

    def __init__(self, weights):
        self.weights = weights
        rng = np.random.default_rng(0)
        self.images = [shapes.make_scene(rng, 96, 96, categories=CATEGORIES) for _ in range(10)]
        self.names = {f"{'another_' * number}crop": self._crop(number) for number in range(2)}
        self.names["scene"] = self.images[0][0]
        for name in KNOWN_FILES:
            self.provide_weights(f"checkpoints/{name}")

    def run(self, snippet):
        """Run a snippet, or raise ValueError, SystemExit or what it raises."""
        runners = {"python": self._python, "json": self._json, "command": self._command, "listing": self._listing}
        runners["bibtex"] = self._bibtex
        if snippet.kind not in runners:
            raise ValueError(f"{snippet.kind}: the test does not know how to run it")
        runners[snippet.kind](snippet)

    def _python(self, snippet):
        for text in re.findall(r'"([^"\n]+)"', snippet.text):
            if text.endswith(".h5") and not text.startswith("logs/"):
                self.provide_weights(text)
            elif text.endswith((".jpg", ".png")):
                self.provide_images(text)
            elif text == "coco":
                self.provide_dataset(text, ())
        if ".train(" in snippet.text and "load_latest_checkpoint" not in snippet.text:
            shutil.rmtree("logs", ignore_errors=True)  # it is another way to do what a command before has done
        exec(compile(snippet.text, snippet.where, "exec"), dict(self.names))

    def _json(self, snippet):
        """Writes the file that the text before names, and reads it as what it is."""
        named = re.findall(r"`([\w./-]+\.json)`", snippet.before)
        path = pathlib.Path(named[-1] if named else "unnamed.json")
        path.write_text(snippet.text, encoding="utf-8")
        load_schedule(path) if isinstance(json.loads(snippet.text), list) else config.load_config(path)

    def _bibtex(self, snippet):
        """An entry agrees with CITATION.cff."""
        cited = (ROOT / "CITATION.cff").read_text(encoding="utf-8").partition("preferred-citation:")[2]
        fields = dict(re.findall(r"^ *(title|journal|year) *= *\{(.*)\}", snippet.text, re.MULTILINE))
        names = re.findall(r"family-names: (.*)\n *given-names: (.*)", cited)
        fields["author"] = re.search(r"author *= *\{(.*)\}", snippet.text)[1]
        expected = {key: re.search(rf"^  {key}: (.*)", cited, re.MULTILINE)[1] for key in ("title", "journal", "year")}
        expected["author"] = " and ".join(", ".join(name) for name in names)
        if fields != expected:
            raise ValueError(f"{fields}, but CITATION.cff has {expected}")

    def _listing(self, snippet):
        missing = [path for path in snippet.text.split() if not pathlib.Path(path).exists()]
        if missing:
            raise ValueError(f"{', '.join(missing)}: not there after the snippets before")

    def _command(self, snippet):
        if snippet.text in NOT_RUN:
            return
        experiment = EXPERIMENT.search(snippet.text)
        if experiment:
            find_experiment(experiment[1])
            return
        arguments = arguments_of(snippet.text)
        given = build_parsers()[0].parse_args(arguments)
        command = arguments[0]
        if command in ("demo", "calibrate", "quantize", "app"):
            return
        self._provide(command, given)
        if command == "predict":
            arguments += [] if given.resume or given.force else ["--force"]  # several write to the default folder
        elif getattr(given, "resume", None) is None:  # a run that is resumed has its options
            arguments += SHORTER[command]
            if command == "train" and not (given.stages.endswith(".json") and ends_soon(given.stages)):
                arguments += ["--epochs", "1"]
            if command == "pretrain" and given.data:
                arguments += ["--partial"]
        code = main(arguments)
        if code:
            raise ValueError(f"exit code {code}")

    # ---- what a reader has ---------------------------------------------------------------------------------------
    def _provide(self, command, given):
        """Put there what the options of a command name as its input."""
        if command == "convert":
            shutil.rmtree(given.out, ignore_errors=True)  # each tool's section writes the same data set
            if given.files[0] in EXPORTS:
                self.provide_export(given.files[0])
            else:
                self.provide_photos(given.images, given.files)
        elif getattr(given, "annotations", None):
            self.provide_export(given.annotations)
        elif getattr(given, "dataset", None):
            self.provide_dataset(given.dataset, getattr(given, "image_ids", None) or ())
        if command == "pretrain" and given.data:
            imagenet_tree.write_tree(given.data, train=4, val=2)
        if command == "predict":
            sources = [re.sub(r"^\w+=|:[\d,]+$", "", source) for query in given.reference for source in query]
            for text in (*given.image, *sources):
                self.provide_images(text)
            if given.reference_set:
                self.provide_export(given.reference_set)
        model = getattr(given, "model", None)
        if model and model.endswith(".h5"):
            self.provide_epoch(model) if model.startswith("logs/") else self.provide_weights(model, given.config)

    def provide_weights(self, path, name=None):
        """A weight file, of the configuration `name` or of the one that the file's name names."""
        size = pathlib.PurePath(path).name.partition("_")[0]
        name = name or (size if size in self.weights else "tiny")
        if not pathlib.Path(path).exists():
            pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.weights[name], path)

    def provide_epoch(self, path):
        """The weights of a later epoch of a run of which only the first was trained."""
        first = pathlib.Path(re.sub(r"\d{4}\.h5$", "0001.h5", path))
        if first.exists() and not pathlib.Path(path).exists():
            shutil.copyfile(first, path)

    def provide_images(self, text):
        """An image, a crop where its name is not that of a scene; or a folder with two scenes."""
        path = pathlib.Path(text)
        if path.exists() or "*" in text:
            return
        if path.suffix == ".mp4":
            pytest.importorskip("av")
            writer = cv2.VideoWriter(text, cv2.VideoWriter_fourcc(*"mp4v"), 5, (96, 96))
            for image, _, _ in self.images:
                writer.write(image[..., ::-1])
            writer.release()
            return
        if not path.suffix:
            path.mkdir()
            for number in range(2):
                self.provide_images(f"{text}/scene_{number}.jpg")
            return
        is_scene = path.suffix == ".jpg"
        Image.fromarray(self.images[0][0] if is_scene else self.names["crop"]).save(path)

    def provide_export(self, path):
        """The export of an annotation tool."""
        if not pathlib.Path(path).exists():
            EXPORTS[path](pathlib.Path(), format_samples.objects(parts=False, holes=False))

    def provide_photos(self, folder, files):
        """Photos, and the regions in them as the VGG Image Annotator writes them."""
        shutil.rmtree(folder, ignore_errors=True)
        pathlib.Path(folder).mkdir(parents=True)
        regions = {}
        for number, (image, masks, class_ids) in enumerate(self.images):
            name = f"photo_{number}.jpg"
            Image.fromarray(image).save(pathlib.Path(folder) / name)
            regions[name] = []
            for (y1, x1, y2, x2), class_id in zip(extract_bboxes(masks).tolist(), class_ids, strict=True):
                box = {"name": "rect", "x": x1, "y": y1, "width": x2 - x1, "height": y2 - y1}
                regions[name].append(via_samples.region(box, name=shapes.CATEGORIES[class_id - 1]))
        (path,) = files
        via_samples.write(pathlib.Path(path), regions)

    def provide_dataset(self, folder, image_ids):
        """A data set in COCO's layout with these ids among its images, and as many categories as COCO has."""
        if folder == "shapes" or pathlib.Path(folder).exists():  # the first is made by the command itself
            return
        shapes.write_coco(folder, train=12, val=4, size=96, seed=0)
        for path in pathlib.Path(folder, "annotations").iterdir():
            content = json.loads(path.read_text(encoding="utf-8"))
            renamed = dict(zip([image["id"] for image in content["images"]], image_ids, strict=False))
            for entry, key in [(image, "id") for image in content["images"]] + [
                (annotation, "image_id") for annotation in content["annotations"]
            ]:
                entry[key] = renamed.get(entry[key], entry[key])
            extra = range(len(content["categories"]) + 1, NUM_CLASSES + 1)
            content["categories"] += [{"id": number, "name": f"category {number}"} for number in extra]
            path.write_text(json.dumps(content), encoding="utf-8")

    def _crop(self, number):
        image, masks, _ = self.images[number]
        y1, x1, y2, x2 = extract_bboxes(masks)[0]
        return np.ascontiguousarray(image[y1:y2, x1:x2])


@pytest.fixture
def workplace(small_weights, small_settings, blank_plots, opened_once, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Workplace(small_weights)


@pytest.fixture(scope="module")
def options():
    """Command, "experiments", "make" or a script -> its options."""
    found = {name: set(parser._option_string_actions) for name, parser in build_parsers()[1].items()}
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "samples" / "coco").rglob("experiment*.py")]
    of_make = [ROOT / "tests" / "robustness" / "__main__.py", ROOT / "benchmarks" / "bench.py"]  # ROBUSTNESS, BENCH
    further = {
        "experiments": texts,
        "make": [path.read_text(encoding="utf-8") for path in of_make],
        **{name: [(ROOT / name).read_text(encoding="utf-8")] for name in ("benchmarks/bench.py", "docs/figures.py")},
    }
    return found | {name: set(re.findall(r'"(--[a-z][\w-]*)"', "".join(texts))) for name, texts in further.items()}


SMALL = {  # name -> a small configuration with the names of the real one; sizes tell their weights apart
    name: type(
        kind.__name__,
        (config.TinyConfig,),
        MICRO
        | {"NAME": kind.NAME, "FPN_CLASSIF_FC_LAYERS_SIZE": 16 * number}
        | {"IMAGES_PER_GPU": 1, "QUERIES_PER_IMAGE": 1}
        | {"STEPS_PER_EPOCH": 1, "VALIDATION_STEPS": 1, "DETECTION_MIN_CONFIDENCE": 0.0}
        | {"DETECTION_MAX_INSTANCES": 3, "POST_NMS_ROIS_INFERENCE": 20}
        | ({"BACKBONE_STEM_WIDTH": 32} if name == "tiny" else {})  # which no ImageNet backbone fits
        | {"OPTIMIZER": "sgd", "GRADIENT_CLIP_NORM": 0.01},  # from random weights, at any learning rate
    )
    for number, (name, kind) in enumerate(config.CONFIGS.items(), 1)
}


@pytest.fixture(scope="module")
def small_weights(tmp_path_factory):
    """Configuration name -> weight file; "imagenet" -> that of a backbone."""
    from siamese_mrcnn_tf.modeling import network
    from siamese_mrcnn_tf.weights import loading

    folder, found = tmp_path_factory.mktemp("weights"), {}
    for name, kind in SMALL.items():
        found[name] = folder / f"{name}.h5"
        layers = network.build_layers(kind())
        loading.save_weights(layers, found[name])
        if name == "small":
            found["imagenet"] = folder / "imagenet.h5"
            backbone = [layer for layer in layers.layers if layer.name == "resnet_model"]
            loading.save_weights(types.SimpleNamespace(layers=backbone), found["imagenet"])
    return found


@pytest.fixture
def small_settings(small_weights, short_training, monkeypatch):
    """Configurations, data sets and runs made small, under the names of the real ones."""
    from siamese_mrcnn_tf.cli import train as train_module
    from siamese_mrcnn_tf.data.dataset import CocoDataset
    from siamese_mrcnn_tf.training import distribution
    from siamese_mrcnn_tf.weights import pretrained

    for name, kind in SMALL.items():
        monkeypatch.setitem(config.CONFIGS, name, kind)
        monkeypatch.setattr(config, kind.__name__, kind)
    for name, count in {"train": 24, "val": 6}.items():
        monkeypatch.setitem(shapes.STANDARD, name, count)
    monkeypatch.setattr(train_module, "Config", SMALL["small"])  # whose backbone there are ImageNet weights for
    monkeypatch.setattr(pretrained, "BUNDLED", str(small_weights["tiny"]))
    monkeypatch.setitem(CocoDataset.load_coco.__wrapped__.__kwdefaults__, "val_images", 2)
    monkeypatch.setattr(distribution, "device_scope", lambda devices: contextlib.nullcontext())
    monkeypatch.setattr(distribution, "prepare_backend", lambda **settings: None)  # it would hold for later tests
