"""Detect and segment the objects in images that look like a reference.

The exit code is 0 if all images were searched, 1 if some could not be read (they are listed at the end, and the results
of the others are written), 2 after an error of use, 130 after Ctrl-C.
"""

import argparse
import contextlib
import functools
import importlib.resources
import logging
import shlex
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import Config, without_new_defaults
from ..data.reading import ORIENTATIONS
from ..io.errors import InputError
from .effects import say_unused_options
from .inputs import calibration_path, choose_config, open_predictor, picked, start_keras, tell, weights_checksum
from .options import (
    Commands,
    add_command,
    add_model_arguments,
    add_pixels_argument,
    add_runtime_arguments,
    at_least,
    num_shots,
)

if TYPE_CHECKING:
    from ..search.frames import Frame
    from ..search.queries import Query
    from ..search.results import Category, ImageResult
    from ..search.run import Summary
    from ..search.sources import FoundSources, ImageReading

_IMAGE_HELP = (
    "images to search: files, folders, patterns, videos, or 'webcam' (webcam:1 for the second). Hidden files are "
    "passed over"
)
_REFERENCE_HELP = (
    "references of one category: a crop, a box in pixels cut from an image, a folder or a pattern of crops, or a saved "
    "embedding (.npz). NAME= names the category. Several are combined (K-shot); repeat the option for more categories"
)
_ORIENTATION_HELP = (
    "orientation tag of photographs, of images and references: obey (also auto) shows them upright, ignore reads them "
    "as stored (default obey)"
)
_SAVE_HELP = (
    "what to write: overlays, masks, coco, csv, cutouts, labelmap, labelme, video, page, or all "
    "(docs/outputs.md describes them and the default)"
)
_EMBEDDINGS_HELP = "save the embedding of each category as CATEGORY.npz in DIR (default embeddings/ in --out)"
_PHOTOGRAPH_NOTE = (
    "note: the weights 'shapes' know drawn shapes alone; {} looks like a photograph, in which they find little of use. "
    "The README names weights for photographs"
)
_PHOTOGRAPH_SIDE = 512  # pixels; the scenes that the program draws are smaller


def add_parser(commands: Commands) -> None:
    parser = add_command(commands, "predict", run, __doc__)
    add, positive = parser.add_argument, at_least(1)
    add("--image", required=True, nargs="+", action="extend", metavar="FILE|DIR|GLOB", help=_IMAGE_HELP)
    add("--recursive", action="store_true", help="search the folders below the folders of --image, too")
    add("--every", type=positive, default=1, metavar="N", help="search every N-th frame of videos (default 1)")
    add("--frames", type=positive, metavar="N", help="search N frames of each video or webcam at most (default all)")
    box = "[NAME=]FILE[:y1,x1,y2,x2]"
    add("--reference", nargs="+", action="append", default=[], metavar=box, help=_REFERENCE_HELP)
    add("--reference-set", metavar="FILE", help="annotation file in COCO format whose instances are references, too")
    add("--reference-images", metavar="DIR", help="image folder of --reference-set (default: looked for beside it)")
    add("--categories", nargs="+", metavar="NAME", help="categories of --reference-set (default all)")
    add("--shots", type=num_shots, metavar="K", help="references of a category of --reference-set (default 5)")
    add("--orientation", choices=ORIENTATIONS, default="obey", help=_ORIENTATION_HELP)
    add_pixels_argument(parser)
    add("--out", default="predictions", metavar="DIR", help="folder of results (default predictions)")
    add("--save", nargs="+", metavar="KIND", help=_SAVE_HELP)
    add("--save-embeddings", nargs="?", const="", metavar="DIR", help=_EMBEDDINGS_HELP)
    begun = parser.add_mutually_exclusive_group()
    begun.add_argument("--resume", action="store_true", help="resume the stopped search in --out")
    begun.add_argument("--force", action="store_true", help="clear --out, if an earlier search wrote it")
    add("--strict", action="store_true", help="stop at the first image that cannot be read")
    add(
        "--max-detections",
        type=at_least(1, 1_000_000),
        metavar="N",
        help="maximum number of detections of a category in an image",
    )
    add("--device", type=device, metavar="cpu|gpu|cuda:N", help="what computes (default: a GPU if TensorFlow sees one)")
    add("--quiet", action="store_true", help="print errors alone")
    add_model_arguments(parser, names_threshold=True)
    add_runtime_arguments(parser, exports=True)


def device(text: str) -> str:
    """Argument type: the name of a device."""
    from ..ops.devices import check_name

    try:
        check_name(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def run(options: argparse.Namespace) -> int:
    with _quietly() if options.quiet else contextlib.nullcontext():
        return _run(options)


def _run(options: argparse.Namespace) -> int:
    from ..io.files import writable_folder
    from ..io.locks import exclusive
    from ..search.journal import require_free

    with contextlib.ExitStack() as stack:
        stack.enter_context(exclusive(writable_folder(options.out)))
        if options.save_embeddings:
            embeddings = writable_folder(options.save_embeddings)
            if not embeddings.resolve().is_relative_to(Path(options.out).resolve()):
                stack.enter_context(exclusive(embeddings))
        require_free(options.out, resume=options.resume, force=options.force)
        return _search_all(options)


def _search_all(options: argparse.Namespace) -> int:
    """Read all that is given, and search; the outputs are locked."""
    from ..search.journal import can_resume, require_outside
    from ..search.outputs import DEFAULT_KINDS, KINDS
    from ..search.run import Detector
    from ..search.sources import find_sources

    kinds = _kinds(options.save, DEFAULT_KINDS, KINDS)
    found = find_sources(options.image, recursive=options.recursive, out=options.out)
    if all(source.kind == "image" for source in found.sources):
        say_unused_options(options, ["every", "frames"], "on images: these are for videos and webcams")
    changes = {"DETECTION_MAX_INSTANCES": options.max_detections} if options.max_detections else {}
    config, weights = choose_config(options, changes)
    if options.force:
        require_outside(options.out, _inputs(options, found, weights))
    read, queries = _read_references(options, found, config, weights)
    categories, config = _categories(options, queries, config)
    settings = _settings(options, config, weights, categories, queries, found, kinds)
    detector = Detector(functools.partial(_open, options, config, weights), queries, categories)
    if not (options.resume and can_resume(options.out)) or options.save_embeddings is not None:
        detector.embeddings  # noqa: B018  # errors of the weights come before the folder is cleared
    tell(options, found.skipped_text())
    summary = _search(options, found, read, detector, settings, kinds, weights)
    return _report(options, summary, len(categories))


def _read_references(
    options: argparse.Namespace, found: "FoundSources", config: Config, weights: Path | None
) -> "tuple[ImageReading, list[Query]]":
    """(how images are read, the references of all categories)."""
    from ..search.queries import read_queries, read_set_queries, reference_paths
    from ..search.sources import image_reader

    if not options.reference and options.reference_set is None:
        raise InputError("--reference: expected at least one, or --reference-set")
    of_set = {"--reference-images": options.reference_images, "--categories": options.categories}
    for name, value in (of_set | {"--shots": options.shots}).items():
        if value is not None and options.reference_set is None:
            raise InputError(f"{name}: is for --reference-set, which is missing")
    images = [source.path for source in found.sources if source.kind == "image"]
    paths: list[str | Path] = [*images, *reference_paths(options.reference)]
    read = image_reader(paths, options.orientation, progress=not options.quiet)
    queries = []
    if options.reference:
        queries += read_queries(options.reference, config, read, weights_sha256=weights_checksum(weights))
    if options.reference_set is not None:
        queries += read_set_queries(
            options.reference_set,
            config,
            images=options.reference_images,
            categories=options.categories,
            shots=options.shots or 5,
        )
    return read, queries


def _categories(
    options: argparse.Namespace, queries: "Sequence[Query]", config: Config
) -> "tuple[list[Category], Config]":
    """(the categories, the configuration with the lowest of their thresholds)."""
    from ..search.queries import categories_of

    categories = categories_of(queries, config.DETECTION_MIN_CONFIDENCE, options.min_confidence)
    lowest = min(category.threshold for category in categories)
    return categories, config.replace(DETECTION_MIN_CONFIDENCE=lowest)


def _kinds(given: Sequence[str] | None, default: Sequence[str], known: Sequence[str]) -> list[str]:
    """The kinds of files that --save names, in the order of all kinds."""
    if given is None:
        return list(default)
    named = [kind for text in given for kind in text.split(",")]
    if unknown := [kind for kind in named if kind not in (*known, "all")]:
        raise InputError(f"--save {', '.join(unknown)}: expected some of {', '.join(known)}, or all")
    return [kind for kind in known if kind in named or "all" in named]


def _settings(
    options: argparse.Namespace,
    config: Config,
    weights: Path | None,
    categories: "Sequence[Category]",
    queries: "Sequence[Query]",
    found: "FoundSources",
    kinds: Sequence[str],
) -> dict[str, Any]:
    """What the search depends on, as plain values."""
    from ..io.files import checksum

    computing = {"precision": options.precision} if options.precision else {}  # earlier versions did not know it
    calibration = calibration_path(weights) if weights is not None and config.VERIFY_DETECTIONS else None
    return {
        "weights": weights_checksum(weights) or "untrained",
        "verification": checksum(calibration) if calibration and calibration.is_file() else None,
        "category names": [category.name for category in categories],
        "categories": {
            category.name: {"threshold": category.threshold, "references": query.checksums()}
            for category, query in zip(categories, queries, strict=True)
        },
        "options": picked(options, "orientation", "every", "frames", "runtime") | computing | {"save": list(kinds)},
        "config": without_new_defaults(config.to_dict()),
        "images": [source.path for source in found.sources],
    }


def _open(options: argparse.Namespace, config: Config, weights: Path | None) -> Any:
    """The predictor on the device that --device names."""
    if options.device is not None:
        if options.runtime in ("onnx", "openvino"):
            raise InputError(f"--device {options.device}: is for TensorFlow, --runtime {options.runtime} uses the CPU")
        start_keras(options)
        from ..ops.devices import use_device

        use_device(options.device)
    return open_predictor(options, config, weights)


def _search(
    options: argparse.Namespace,
    found: "FoundSources",
    read: "ImageReading",
    detector: Any,
    settings: dict[str, Any],
    kinds: Sequence[str],
    weights: Path | None,
) -> "Summary":
    """Search all images with a progress bar; ends with what was found."""
    from tqdm import tqdm

    from ..search.frames import iter_frames
    from ..search.journal import Journal, can_resume
    from ..search.outputs import Outputs
    from ..search.run import search

    webcams = [source.path for source in found.sources if source.kind == "webcam"]
    if options.resume and can_resume(options.out):
        journal = Journal.resume(options.out, settings)
        if webcams and journal.whole_results() is None:
            raise InputError(f"--resume: the images of {webcams[0]} cannot be taken again")
    else:
        inputs = _inputs(options, found, weights)
        journal = Journal.create(options.out, settings, force=options.force, inputs=inputs)
    if options.save_embeddings is not None:
        _save_embeddings(options, detector, settings)
    outputs = Outputs(Path(options.out), kinds, detector.categories, _about(options, settings))
    total = len(found.sources) if all(source.kind == "image" for source in found.sources) else None
    frames = iter_frames(found.sources, read, every=options.every, limit=options.frames)
    with tqdm(total=total, desc="predict", unit="image", disable=options.quiet) as bar:
        on_image = _teller(options, weights, bar.update, bar.write)
        return search(frames, detector, journal, outputs, strict=options.strict, on_image=on_image)


def _inputs(options: argparse.Namespace, found: "FoundSources", weights: Path | None) -> list[str | Path]:
    """The files and folders that are read."""
    from ..search.queries import reference_paths

    given = (weights, options.reference_set, options.reference_images)
    inputs: list[str | Path] = [source.path for source in found.sources]
    return [*inputs, *reference_paths(options.reference), *(path for path in given if path is not None)]


def _about(options: argparse.Namespace, settings: dict[str, Any]) -> dict[str, str]:
    return {"model": str(options.model), "weights (SHA-256)": settings["weights"]}


def _save_embeddings(options: argparse.Namespace, detector: Any, settings: dict[str, Any]) -> None:
    folder = Path(options.save_embeddings or Path(options.out) / "embeddings")
    sha256 = None if settings["weights"] == "untrained" else settings["weights"]
    for path in detector.save_embeddings(folder, sha256):
        tell(options, f"embedding: {path}")


def _teller(
    options: argparse.Namespace, weights: Path | None, update: Callable[[], Any], write: Callable[..., Any]
) -> "Callable[[Frame, ImageResult | None], None]":
    """A function that moves the progress bar, and reports what is amiss with an image."""
    waits_for_photograph = is_bundled(weights)

    def on_image(frame: "Frame", result: "ImageResult | None") -> None:
        nonlocal waits_for_photograph
        update()
        if result is None or options.quiet:
            return
        if result.error is not None:
            write(f"skipped: {result.error}", file=sys.stderr)
        elif waits_for_photograph and is_photograph(result.source, result.height, result.width):
            waits_for_photograph = False
            write(_PHOTOGRAPH_NOTE.format(result.source), file=sys.stderr)

    return on_image


def is_bundled(weights: Path | None) -> bool:
    """Whether weights are those that come with the package, trained on drawn shapes."""
    folder = importlib.resources.files(__package__.partition(".")[0]) / "shapes"
    return weights is not None and weights.resolve().parent == Path(str(folder)).resolve()


def is_photograph(source: str, height: int, width: int) -> bool:
    """Whether an image may be a photograph: it is large, of a format of phones, of a webcam, or names its camera."""
    from ..io.images import HEIF_SUFFIXES, has_camera_tags

    is_large = max(height, width) > _PHOTOGRAPH_SIDE
    return is_large or source.lower().endswith(HEIF_SUFFIXES) or source.startswith("webcam:") or has_camera_tags(source)


def _to_resume(options: argparse.Namespace) -> list[str]:
    """The command line that resumes the search, which another command such as `example` may have begun."""
    begun = [word for word in options.arguments[1:] if word not in ("--force", "--resume")]
    return [*options.program, *begun, "--resume"]


def _gallery(out: Path) -> str:
    from ..search.gallery import PAGE_FILE

    return f", the gallery is {out / PAGE_FILE}" if (out / PAGE_FILE).is_file() else ""


def _report(options: argparse.Namespace, summary: "Summary", num_categories: int) -> int:
    """Say how the search ended; the exit code."""
    skipped = summary.skipped
    counts = f"images: {summary.num_images}, categories: {num_categories}, detections: {summary.num_finds}"
    if not options.quiet:
        print(f"{counts}. Results are in {options.out}{_gallery(Path(options.out))}")
    if skipped:
        words = "1 image was" if len(skipped) == 1 else f"{len(skipped)} images were"
        print(f"{options.prog}: {words} skipped:", *skipped, sep="\n  ", file=sys.stderr)
    if summary.is_interrupted:
        if not options.quiet:
            print(f"{options.prog}: interrupted. To resume: {shlex.join(_to_resume(options))}", file=sys.stderr)
        return 130
    return 1 if skipped else 0


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """No messages but errors."""
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.setLevel(before)
