"""Open a page in the browser: draw a box around one object, see the others found.

The page is for this machine only, unless --host names another address. It needs the extra `app`.
"""

import argparse
import socket
import sys
import threading
import webbrowser
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..io.errors import InputError, MissingPackageError
from .inputs import choose_config, open_predictor
from .options import Commands, add_command, add_model_arguments, at_least

if TYPE_CHECKING:
    from ..app.images import Limits, StoredImage

_EXAMPLE_CATEGORIES = ("star", "gear", "heart")
_EXAMPLE_SEEDS, _EXAMPLE_SIDE = (9, 3, 15, 21, 11), 256  # scenes in which each category is seen several times
_BUNDLED = "bundled weights, for drawn shapes only"
_OPEN_TO_ALL = "anyone who can reach this address can use the page, see its images and keep this machine busy"


def add_parser(commands: Commands) -> None:
    parser = add_command(commands, "app", run, __doc__)
    add, positive = parser.add_argument, at_least(1)
    add(
        "--images", nargs="+", action="extend", default=[], metavar="FILE|DIR|GLOB", help="images that are open at once"
    )
    add("--host", default="127.0.0.1", metavar="ADDRESS", help="address to listen on (default 127.0.0.1, this machine)")
    add("--port", type=at_least(0, 65_535), default=7860, metavar="N", help="port (default 7860; 0 takes a free one)")
    add(
        "--max-upload-mb",
        type=at_least(1, 100_000),
        default=20,
        metavar="N",
        help="maximum size of an upload (default 20)",
    )
    pixels = "maximum number of pixels of an image (default 40000000)"
    add("--max-pixels", dest="upload_pixels", type=positive, default=40_000_000, metavar="N", help=pixels)
    add(
        "--max-images",
        type=at_least(1, 1_000_000),
        default=200,
        metavar="N",
        help="maximum images of a session (default 200)",
    )
    add("--open", action="store_true", help="open the page in the browser")
    add_model_arguments(parser)


def run(options: argparse.Namespace) -> None:
    _require_extra()
    import uvicorn

    from ..app.guard import is_loopback
    from ..app.images import Limits
    from ..app.searcher import Searcher, raw_config
    from ..app.server import build_app
    from ..app.sessions import Sessions

    limits = Limits(options.max_upload_mb, options.upload_pixels, options.max_images)
    config, weights = choose_config(options)
    images = open_images(options.images, limits)
    with _listen(options.host, options.port) as listening:
        searcher = Searcher(open_predictor(options, raw_config(config), weights))
        sessions = Sessions(searcher, threshold=config.DETECTION_MIN_CONFIDENCE, limits=limits, images=images)
        is_bundled = options.model == "shapes"
        about = _BUNDLED if is_bundled else f"{weights.name if weights else options.model}, {config.NAME}"
        examples = draw_examples if is_bundled else None
        app = build_app(sessions, about=about, loopback=is_loopback(options.host), examples=examples)
        address = _address(options.host, listening.getsockname()[1])
        print(f"The page is at {address} (Ctrl+C stops it)", flush=True)
        if not is_loopback(options.host):
            print(f"warning: --host {options.host}: {_OPEN_TO_ALL}", file=sys.stderr)
        threading.Thread(target=searcher.warm_up, daemon=True).start()
        if options.open:
            webbrowser.open(address)
        level = "info" if options.verbose else "warning"
        uvicorn.Server(uvicorn.Config(app, log_level=level, access_log=options.verbose)).run(sockets=[listening])


def open_images(sources: list[str], limits: "Limits") -> "list[StoredImage]":
    """The images that each session starts with.

    Raises:
        ValueError: a source that names no image, a file that is refused, or more images than are allowed.
    """
    from ..app.images import StoredImage, unique_names
    from ..search.sources import find_images

    paths = find_images(sources)
    if len(paths) > limits.images:
        raise InputError(f"--images: {len(paths)} images, at most --max-images {limits.images}")
    names = unique_names([path.name for path in paths])
    return [StoredImage.open(path.absolute(), name, limits) for path, name in zip(paths, names, strict=True)]


def draw_examples() -> Mapping[str, bytes]:
    """Scenes with some of the categories that the bundled weights were trained on: PNG files by name."""
    import numpy as np

    from ..app.images import encoded
    from ..shapes.scenes import make_scene

    scenes = {}
    for number, seed in enumerate(_EXAMPLE_SEEDS, 1):
        rng = np.random.default_rng(seed)
        image, _, _ = make_scene(rng, _EXAMPLE_SIDE, _EXAMPLE_SIDE, categories=_EXAMPLE_CATEGORIES)
        scenes[f"scene_{number}.png"], _ = encoded(image, _EXAMPLE_SIDE)
    return scenes


def _require_extra() -> None:
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise MissingPackageError(f'the page needs {error.name}: pip install "siamese-mrcnn-tf[app]"') from error


def _listen(host: str, port: int) -> socket.socket:
    """A socket that listens; ValueError if the address is taken or not of this machine."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host.strip("[]"), port), family=family)
    except (OSError, ValueError, TypeError) as error:  # the last two of a name that is none
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"--host {host} --port {port}: cannot listen there ({reason})") from error


def _address(host: str, port: int) -> str:
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host.strip("[]") else host)
    return f"http://{shown}:{port}"
