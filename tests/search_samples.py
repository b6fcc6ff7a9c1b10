"""A search without a network: drawn images, a detector that finds their bright pixels, and the folder of results.

Run as a program it searches FOLDER into OUT, begins anew or goes on, and kills itself in image NUMBER:
`python search_samples.py FOLDER OUT NUMBER STEP`, STEP one of "detect", "write", "note".
"""

import os
import signal
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from siamese_mrcnn_tf.search.frames import iter_frames
from siamese_mrcnn_tf.search.journal import Journal, can_resume
from siamese_mrcnn_tf.search.outputs import Outputs
from siamese_mrcnn_tf.search.results import Category, Finds
from siamese_mrcnn_tf.search.run import search
from siamese_mrcnn_tf.search.sources import find_sources, image_reader

CATEGORIES = (Category(1, "red", 0.5), Category(2, "green", 0.5))


def write_images(folder, count=6, broken=()):
    """Images 000.png, 001.png, ... with a red and a green square each; those in `broken` are cut short."""
    folder.mkdir(exist_ok=True)
    for number in range(count):
        pixels = np.zeros((24, 32, 3), np.uint8)
        pixels[2 + number : 8 + number, 3:9, 0] = 255
        pixels[10:15, 12 + number : 20 + number, 1] = 255
        path = folder / f"{number:03d}.png"
        Image.fromarray(pixels).save(path)
        if number in broken:
            path.write_bytes(path.read_bytes()[:60])
    return folder


def detect(pixels):
    """The square of each color: one find each."""
    found = []
    for channel, score in ((0, 0.75), (1, 0.625)):
        mask = pixels[..., channel] > 128
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        box = [rows[0], columns[0], rows[-1] + 1, columns[-1] + 1]
        found.append(Finds(np.array([box], np.int32), np.array([score], np.float32), mask[..., None]))
    return tuple(found)


def run_search(given, out, *, detect=detect, settings=None, resume=False, limit=None, **options):
    """Search images into a folder; `options` are those of `search`."""
    sources = find_sources(given if isinstance(given, list) else [given]).sources
    names = [category.name for category in CATEGORIES]
    settings = settings or {"category names": names, "images": [source.path for source in sources]}
    journal = Journal.resume(out, settings) if resume else Journal.create(out, settings)
    outputs = Outputs(Path(out), ("overlays", "masks", "coco"), CATEGORIES, {})
    return search(iter_frames(sources, image_reader([]), limit=limit), detect, journal, outputs, **options)


def contents(folder):
    """Every file below a folder with its bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def main(folder, out, number, step):
    """Search until the process kills itself."""
    calls = {"detect": 0, "write": 0, "note": 0}

    def killing(name, function):
        def call(*arguments, **named):
            calls[name] += 1
            if name == step and calls[name] == int(number):
                if step == "write":
                    (Path(out) / "overlays").mkdir(exist_ok=True)
                    (Path(out) / "overlays" / ".0123abcd-000.red.png").write_bytes(b"half")
                if step == "note":
                    with open(Path(out) / "journal.jsonl", "ab") as file:
                        file.write(b'{"result": {"image_id": ')
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **named)

        return call

    Outputs.add = killing("write", Outputs.add)
    Journal.append = killing("note", Journal.append)
    run_search(folder, out, detect=killing("detect", detect), resume=can_resume(out))


if __name__ == "__main__":
    main(*sys.argv[1:])
