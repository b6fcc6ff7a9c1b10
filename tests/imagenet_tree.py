"""Small ImageNet trees for tests: images of noise, each class with a colour of its own."""

from pathlib import Path

import numpy as np
from PIL import Image

TRAINED = ("n01440764", "n01443537", "n01484850")  # tench, goldfish, great white shark: the first of the 687
EXCLUDED = ("n02391049", "n07753592")  # zebra, banana
SIZES = ((48, 64), (40, 33))  # heights and widths of images, in turn


def write_tree(root, wnids=TRAINED + EXCLUDED, *, train=6, val=3):
    """Write `train` and `val` images of each class below `root`; returns it as a Path."""
    for subset, count in (("train", train), ("val", val)):
        for index, wnid in enumerate(wnids):
            folder = Path(root) / subset / wnid
            folder.mkdir(parents=True)
            for number in range(count):
                rng = np.random.default_rng([index, number, subset == "val"])
                values = rng.integers(0, 60, (*SIZES[number % 2], 3), np.uint8)
                values[..., index % 3] += 120
                Image.fromarray(values).save(folder / f"{wnid}_{number}.JPEG")
    return Path(root)
