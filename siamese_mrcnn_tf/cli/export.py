"""Export the network for other runtimes: ONNX, OpenVINO, SavedModel, Keras.

The folder has the network and its three parts in each format. Each is run again and compared with the network before
the command ends: boxes agree within 1 pixel and scores within 0.001, or nothing is written.

predict --model DIR --runtime onnx searches images with the exported parts, without TensorFlow.
"""

import argparse
from typing import TYPE_CHECKING

from ..data.reading import ORIENTATIONS
from ..io.errors import InputError
from .inputs import choose_config, start_keras
from .options import EXPORT_FORMATS, Commands, add_command, add_model_arguments

if TYPE_CHECKING:
    import numpy as np

    from ..config import Config

_SEED = 19
_IMAGE_HELP = "scene for the comparison, with --reference (default: a drawn scene)"
_REFERENCE_HELP = "crops of an object in --image; the exported network takes as many references (default 1)"


def add_parser(commands: Commands) -> None:
    parser = add_command(commands, "export", run, __doc__)
    add = parser.add_argument
    add("--format", required=True, nargs="+", choices=EXPORT_FORMATS, help="formats to write")
    add("--out", required=True, metavar="DIR", help="folder to write")
    add("--force", action="store_true", help="replace an exported network in DIR")
    add("--image", metavar="FILE", help=_IMAGE_HELP)
    add("--reference", nargs="+", metavar="FILE", help=_REFERENCE_HELP)
    add("--orientation", choices=ORIENTATIONS, default="obey", help="orientation tag of photographs (default obey)")
    add_model_arguments(parser, chooses_threshold=False)


def run(options: argparse.Namespace) -> None:
    from ..io.files import remove_temporaries, writable_folder
    from ..io.locks import exclusive

    with exclusive(writable_folder(options.out)):
        remove_temporaries(options.out, below=False)
        _run(options)


def _run(options: argparse.Namespace) -> None:
    from ..runtime.manifest import require_free

    if (options.image is None) != (options.reference is None):
        raise InputError("--image and --reference: expected both, or neither for a drawn scene")
    config, weights = choose_config(options)
    image, references = drawn_case(config) if options.image is None else _read_case(options)
    require_free(options.out, replace=options.force)
    start_keras(options)
    import keras

    from ..export.exporter import export_network

    keras.utils.set_random_seed(0)
    case = {"image": image, "references": references, "replace": options.force}
    manifest = export_network(options.out, options.format, config, weights=weights, progress=_show, **case)
    print(f"{options.out}: {', '.join(manifest.formats)}, {len(manifest.files)} files")


def drawn_case(config: "Config") -> "tuple[np.ndarray, list[np.ndarray]]":
    """(a drawn scene, one crop of an object in it)."""
    import numpy as np

    from ..shapes.dataset import reference_crops
    from ..shapes.scenes import make_scene

    scene = make_scene(np.random.default_rng(_SEED), config.IMAGE_MAX_DIM, config.IMAGE_MAX_DIM)
    crops = [crop for crop, _ in reference_crops(*scene).values()]
    return scene[0], crops[-1:]  # the largest object


def _read_case(options: argparse.Namespace) -> "tuple[np.ndarray, list[np.ndarray]]":
    from ..io.images import read_image

    return read_image(options.image, rule=options.orientation), [
        read_image(path, rule=options.orientation) for path in options.reference
    ]


def _show(line: str) -> None:
    print(line, flush=True)
