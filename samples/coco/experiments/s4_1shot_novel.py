r"""Split 4, one reference, the 20 held-out categories.

Command:

    python samples/coco/experiments/s4_1shot_novel.py --dataset data/coco

which stands for

    python samples/coco/coco.py evaluate --model large_siamese_mrcnn_coco_i4_0160 --split 4 \
        --categories novel --shots 1 --runs 5 --protocol paper --out results/s4_1shot_novel --dataset data/coco

Weights: large_siamese_mrcnn_coco_i4_0160.h5, an asset of github.com/bethgelab/siamese-mask-rcnn/releases.
Data: COCO 2017, its validation images.
Published AP50: 16.4 ± 0.19 detection, 14.2 ± 0.13 segmentation (mean of the four splits: 16.3 ± 0.06, 14.5 ± 0.01).
"""

import sys

from experiment import arguments_of, run

ARGUMENTS = arguments_of(
    "s4_1shot_novel", model="large_siamese_mrcnn_coco_i4_0160", split=4, categories="novel", shots=1
)

if __name__ == "__main__":
    sys.exit(run(ARGUMENTS))
