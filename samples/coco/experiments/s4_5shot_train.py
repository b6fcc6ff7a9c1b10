r"""Split 4, five references, the 60 trained categories.

Command:

    python samples/coco/experiments/s4_5shot_train.py --dataset data/coco

which stands for

    python samples/coco/coco.py evaluate --model large_siamese_mrcnn_coco_i4_0160 --split 4 \
        --categories train --shots 5 --runs 5 --protocol paper --out results/s4_5shot_train --dataset data/coco

Weights: large_siamese_mrcnn_coco_i4_0160.h5, an asset of github.com/bethgelab/siamese-mask-rcnn/releases.
    As published, they were trained with one reference.
Data: COCO 2017, its validation images.
Published AP50: 40.9 ± 0.11 detection, 37.9 ± 0.14 segmentation (mean of the four splits: 41.3 ± 0.04, 38.4 ± 0.04).
"""

import sys

from experiment import arguments_of, run

ARGUMENTS = arguments_of(
    "s4_5shot_train", model="large_siamese_mrcnn_coco_i4_0160", split=4, categories="train", shots=5
)

if __name__ == "__main__":
    sys.exit(run(ARGUMENTS))
