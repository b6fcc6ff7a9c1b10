"""Good inputs that cases start from: each is made once, in a process of its own, when a case needs it."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import coco_tree
import micro
import numpy as np
from PIL import Image, ImageDraw

MICRO = {
    **micro.SIZES,
    "IMAGES_PER_GPU": 2,
    "STEPS_PER_EPOCH": 3,
    "VALIDATION_STEPS": 1,
}


def make(name: str, root: Path) -> Path:
    """The good input `name` below `root`, made where it is missing."""
    path = root / "base" / name
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    pid = os.fork()
    if not pid:
        code = 1
        try:
            log = os.open(root / f"base-{name}.log", os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
            os.dup2(log, 1), os.dup2(log, 2)
            sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", errors="backslashreplace", closefd=False)
            os.chdir(path.parent)
            MAKERS[name](path)
            code = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            sys.stdout.flush(), sys.stderr.flush()
            os._exit(code)
    if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) or not path.exists():
        raise RuntimeError(f"good input {name} was not made: {(root / f'base-{name}.log').read_text()[-2000:]}")
    return path


def command(*words: object) -> None:
    """Run a command that has to work."""
    from siamese_mrcnn_tf.cli.main import main

    code = main([str(word) for word in words])
    if code:
        raise RuntimeError(f"{words}: exit {code}")


def _scene(path: Path) -> None:
    image = Image.new("RGB", (128, 96), (110, 100, 90))
    draw = ImageDraw.Draw(image)
    draw.rectangle((10, 10, 50, 40), fill=(220, 30, 30))
    draw.ellipse((70, 30, 110, 80), fill=(30, 200, 40))
    image.save(path)


def _crop(path: Path) -> None:
    image = Image.new("RGB", (40, 30), (220, 30, 30))
    ImageDraw.Draw(image).rectangle((5, 5, 30, 20), fill=(60, 60, 160))
    image.save(path)


def write_set(path: Path) -> None:
    """A COCO tree with both subsets."""
    coco_tree.write_tree(path, subset="train", num_images=6)
    coco_tree.write_tree(path, subset="val", num_images=4, first_id=500, seed=1)


def _large(path: Path) -> None:
    coco_tree.write_tree(path, subset="train", num_images=60)


def micro_config():
    """The smallest configuration that trains."""
    from siamese_mrcnn_tf.config import TinyConfig

    return TinyConfig().replace(**MICRO)


def _config(path: Path) -> None:
    import json

    path.write_text(json.dumps({"BASE": "tiny", **MICRO}))


def _weights(path: Path) -> None:
    import keras

    from siamese_mrcnn_tf import SiameseMaskRCNN

    keras.utils.set_random_seed(0)
    model = SiameseMaskRCNN("inference", micro_config(), "logs", seed=0)
    model.keras_model.get_layer("mrcnn_class_logits").bias.assign(np.array([-3.0, 3.0]))
    model.save_weights(path)


def _exported(path: Path) -> None:
    weights = make_here("micro.h5", path)
    config = make_here("micro.json", path)
    command("export", "--model", weights, "--config", config, "--format", "onnx", "--out", path)


def _embedding(path: Path) -> None:
    from siamese_mrcnn_tf.data.embeddings import ReferenceEmbedding

    ReferenceEmbedding(np.random.default_rng(0).standard_normal((1, 5, 16)).astype(np.float32)).save(path)


def _evaluation(path: Path) -> None:
    made = make_here("set", path)
    command("evaluate", "--model", "random-boxes", "--dataset", made, "--runs", "1", "--out", path)


def _shapes(path: Path) -> None:
    command("shapes", "--out", path, "--train", "6", "--val", "6", "--size", "128")


def _parts(path: Path) -> None:
    made = make_here("set", path)
    words = ["evaluate", "--model", "random-boxes", "--dataset", made, "--subset", "train", "--runs", "5"]
    for part in ("1/2", "2/2"):
        command(*words, "--shard", part, "--out", path)


def _run(path: Path) -> None:
    made, config = make_here("set", path), make_here("micro.json", path)
    words = ["--dataset", made, "--config", config, "--model", "untrained", "--stages", "shapes"]
    command("train", *words, "--epochs", "2", "--batch", "2", "--logs", path.parent / "logs", "--workers", "1")
    next((path.parent / "logs").iterdir()).rename(path)


def _search(path: Path) -> None:
    exported, scene, crop = (make_here(name, path) for name in ("exported", "scene.png", "crop.png"))
    command("predict", "--model", exported, "--image", scene, "--reference", crop, "--out", path, "--quiet")


def make_here(name: str, other: Path) -> Path:
    """Another good input beside `other`."""
    path = other.parent / name
    if not path.exists():
        MAKERS[name](path)
    return path


MAKERS: dict[str, Callable[[Path], None]] = {
    "scene.png": _scene,
    "crop.png": _crop,
    "set": write_set,
    "large": _large,
    "micro.json": _config,
    "micro.h5": _weights,
    "exported": _exported,
    "reference.npz": _embedding,
    "evaluation": _evaluation,
    "shapes": _shapes,
    "parts": _parts,
    "run": _run,
    "search": _search,
}
