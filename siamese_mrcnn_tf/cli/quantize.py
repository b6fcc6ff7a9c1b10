"""Quantize the dense parts of a network to int8, for --runtime openvino --precision int8.

A few scenes of your own and references show the range of the network's activations: ten scenes do. The result is
written beside the weights as NAME.int8/, where predict, evaluate and calibrate find it. Compare its accuracy with
that of float32 by evaluate.
"""

import argparse
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..io.errors import InputError
from .inputs import choose_config, open_dataset, open_keras_predictor, tell, weights_checksum
from .options import Commands, add_command, add_dataset_arguments, add_model_arguments, at_least, seed

if TYPE_CHECKING:
    import numpy as np

    from ..config import Config
    from ..predictor import SiamesePredictor

    Case = tuple[np.ndarray, list[list[np.ndarray]]]  # (scene uint8 [h, w, RGB], crops of each category)

_IMAGE_HELP = "scenes, with --reference: files, folders or patterns"
_REFERENCE_HELP = "references of one category, as in predict; repeat the option for more categories"
_SUBSET_HELP = "'train' or 'val' of --dataset, whose images and references are drawn at random (default train)"


def add_parser(commands: Commands) -> None:
    parser = add_command(commands, "quantize", run, __doc__)
    add = parser.add_argument
    add("--image", nargs="+", action="extend", default=[], metavar="FILE|DIR|GLOB", help=_IMAGE_HELP)
    add(
        "--reference", nargs="+", action="append", default=[], metavar="[NAME=]FILE[:y1,x1,y2,x2]", help=_REFERENCE_HELP
    )
    add_dataset_arguments(parser)
    add("--subset", choices=("train", "val"), default="train", help=_SUBSET_HELP)
    add("--limit", type=at_least(1), default=10, metavar="N", help="number of scenes (default 10)")
    add("--seed", type=seed, default=0, help="seed of the draws (default 0)")
    add_model_arguments(parser, chooses_threshold=False)


def run(options: argparse.Namespace) -> None:
    from ..compute.quantization import quantized_folder, require_free, require_nncf
    from ..io.files import remove_temporaries, writable_folder
    from ..io.locks import exclusive

    from_files = bool(options.image and options.reference)
    if from_files == bool(options.dataset or options.annotations) or bool(options.image) != bool(options.reference):
        raise InputError("--image and --reference: expected both, or --dataset (or --annotations) in their place")
    require_nncf()
    config, weights = choose_config(options)
    if weights is None:
        raise InputError(f"--model {options.model}: there is no weight file to quantize")
    folder = quantized_folder(weights)
    with exclusive(writable_folder(folder)):
        require_free(folder)
        remove_temporaries(folder, below=False)
        _quantize(options, config, weights, folder)


def _quantize(options: argparse.Namespace, config: "Config", weights: Path, folder: Path) -> None:
    """Search the scenes and quantize; `folder` is locked."""
    from ..compute.quantization import quantize_parts, recorded_inputs

    from_files = bool(options.image)
    options.runtime, options.precision = "openvino", "float32"
    predictor = open_keras_predictor(options, config, weights)
    with recorded_inputs(predictor.parts) as samples:
        names = [
            search(predictor, case) for case in (_cases(options, config) if from_files else _drawn(options, config))
        ]
    tell(options, f"searched {len(names)} scenes in float32, quantizing")
    about = {"scenes": len(names), "data": options.dataset or options.annotations or options.image}
    identity: dict[str, Any] = {"weights_sha256": weights_checksum(weights), "config": predictor.config}
    quantize_parts(predictor.parts, samples, folder, **identity, about=about)
    print(f"int8 of {', '.join(name for name, found in samples.items() if found)} is in {folder}")
    words = [*options.launcher, "predict", "--model", str(options.model), "--runtime", "openvino"]
    print(f"Use it: {shlex.join([*words, '--precision', 'int8', '--image', 'FILE', '--reference', 'FILE'])}")


def search(predictor: "SiamesePredictor", case: "Case") -> int:
    """Search a scene as a user does: once for one category, then for all, which computes what they share."""
    image, references = case
    scene = predictor.encode_scenes([image])
    predictor.detect_all(scene, references[:1])
    predictor.detect_all(scene, references, more=True)
    return len(references)


def _cases(options: argparse.Namespace, config: "Config") -> "Iterator[Case]":
    """Scenes of --image, each with the references of all categories."""
    from ..search.queries import read_queries, reference_paths
    from ..search.sources import find_images, image_reader

    images = find_images(options.image)[: options.limit]
    read = image_reader([*images, *reference_paths(options.reference)], options.orientation)
    queries = read_queries(options.reference, config, read)
    for path in images:
        yield read(path), [list(query.crops) for query in queries if query.crops]


def _drawn(options: argparse.Namespace, config: "Config") -> "Iterator[Case]":
    """Scenes of --dataset at random, each with a reference of every category that is in it."""
    import numpy as np

    from ..data.references import cut_reference, draw_reference
    from ..evaluation.queries import queries_of

    dataset, _ = open_dataset(options, options.subset)
    queries = queries_of(dataset)
    for index in np.random.default_rng(options.seed).permutation(len(queries))[: options.limit]:
        image_id, class_ids = queries[index]
        key: dict[str, Any] = {"seed": options.seed, "run": 0, "image_id": image_id, "shot": 0, "config": config}
        drawn = [draw_reference(dataset, class_id, **key) for class_id in class_ids]
        yield dataset.load_image(image_id), [[cut_reference(dataset, config, *one)] for one in drawn]
