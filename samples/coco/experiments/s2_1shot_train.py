r"""Split 2, one reference, the 60 trained categories.

Command:

    python samples/coco/experiments/s2_1shot_train.py --dataset data/coco

which stands for

    python samples/coco/coco.py evaluate --model large_siamese_mrcnn_coco_i2_0160 --split 2 \
        --categories train --shots 1 --runs 5 --protocol paper --out results/s2_1shot_train --dataset data/coco

Weights: large_siamese_mrcnn_coco_i2_0160.h5, an asset of github.com/bethgelab/siamese-mask-rcnn/releases.
Data: COCO 2017, its validation images.
Published AP50: 36.6 ± 0.16 detection, 33.5 ± 0.10 segmentation (mean of the four splits: 37.6 ± 0.16, 34.9 ± 0.08).
"""

import sys

from experiment import arguments_of, run

ARGUMENTS = arguments_of(
    "s2_1shot_train", model="large_siamese_mrcnn_coco_i2_0160", split=2, categories="train", shots=1
)

if __name__ == "__main__":
    sys.exit(run(ARGUMENTS))
