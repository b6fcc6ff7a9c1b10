"""Draw the Shapes data set: `siamese-mrcnn shapes`, with the same arguments."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # runs from a checkout that is not installed

from siamese_mrcnn_tf.cli.main import main


def __getattr__(name: str) -> object:  # write_coco and the other functions that were here in version 0.1
    from siamese_mrcnn_tf.shapes import dataset

    return getattr(dataset, name)


if __name__ == "__main__":
    sys.exit(main(command="shapes"))
