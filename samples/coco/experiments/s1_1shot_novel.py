r"""Split 1, one reference, the 20 held-out categories.

Command:

    python samples/coco/experiments/s1_1shot_novel.py --dataset data/coco

which stands for

    python samples/coco/coco.py evaluate --model large_siamese_mrcnn_coco_i1_0160 --split 1 \
        --categories novel --shots 1 --runs 5 --protocol paper --out results/s1_1shot_novel --dataset data/coco

Weights: large_siamese_mrcnn_coco_i1_0160.h5, an asset of github.com/bethgelab/siamese-mask-rcnn/releases.
Data: COCO 2017, its validation images.
Published AP50: 15.3 ± 0.24 detection, 13.5 ± 0.25 segmentation (mean of the four splits: 16.3 ± 0.06, 14.5 ± 0.01).
"""

import sys

from experiment import arguments_of, run

ARGUMENTS = arguments_of(
    "s1_1shot_novel", model="large_siamese_mrcnn_coco_i1_0160", split=1, categories="novel", shots=1
)

if __name__ == "__main__":
    sys.exit(run(ARGUMENTS))
