r"""Split 1, one reference, the 60 trained categories.

Command:

    python samples/coco/experiments/s1_1shot_train.py --dataset data/coco

which stands for

    python samples/coco/coco.py evaluate --model large_siamese_mrcnn_coco_i1_0160 --split 1 \
        --categories train --shots 1 --runs 5 --protocol paper --out results/s1_1shot_train --dataset data/coco

Weights: large_siamese_mrcnn_coco_i1_0160.h5, an asset of github.com/bethgelab/siamese-mask-rcnn/releases.
Data: COCO 2017, its validation images.
Published AP50: 39.1 ± 0.15 detection, 36.6 ± 0.15 segmentation (mean of the four splits: 37.6 ± 0.16, 34.9 ± 0.08).
"""

import sys

from experiment import arguments_of, run

ARGUMENTS = arguments_of(
    "s1_1shot_train", model="large_siamese_mrcnn_coco_i1_0160", split=1, categories="train", shots=1
)

if __name__ == "__main__":
    sys.exit(run(ARGUMENTS))
