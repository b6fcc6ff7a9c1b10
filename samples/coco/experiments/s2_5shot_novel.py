r"""Split 2, five references, the 20 held-out categories.

Command:

    python samples/coco/experiments/s2_5shot_novel.py --dataset data/coco

which stands for

    python samples/coco/coco.py evaluate --model large_siamese_mrcnn_coco_i2_0160 --split 2 \
        --categories novel --shots 5 --runs 5 --protocol paper --out results/s2_5shot_novel --dataset data/coco

Weights: large_siamese_mrcnn_coco_i2_0160.h5, an asset of github.com/bethgelab/siamese-mask-rcnn/releases.
    As published, they were trained with one reference.
Data: COCO 2017, its validation images.
Published AP50: 20.0 ± 0.04 detection, 18.0 ± 0.15 segmentation (mean of the four splits: 18.5 ± 0.11, 16.8 ± 0.06).
"""

import sys

from experiment import arguments_of, run

ARGUMENTS = arguments_of(
    "s2_5shot_novel", model="large_siamese_mrcnn_coco_i2_0160", split=2, categories="novel", shots=5
)

if __name__ == "__main__":
    sys.exit(run(ARGUMENTS))
