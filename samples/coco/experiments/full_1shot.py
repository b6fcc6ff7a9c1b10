r"""Trained on all 80 categories, one reference: what the loss by holding categories out is measured against.

Command:

    python samples/coco/experiments/full_1shot.py --dataset data/coco

which stands for

    python samples/coco/coco.py evaluate --model large_siamese_mrcnn_coco_full_0320 --split 0 \
        --categories all --shots 1 --runs 5 --protocol paper --out results/full_1shot --dataset data/coco

Weights: large_siamese_mrcnn_coco_full_0320.h5, an asset of github.com/bethgelab/siamese-mask-rcnn/releases.
Data: COCO 2017, its validation images.
Published AP50: 35.5 ± 0.15 detection, 33.1 ± 0.09 segmentation.
"""

import sys

from experiment import arguments_of, run

ARGUMENTS = arguments_of("full_1shot", model="large_siamese_mrcnn_coco_full_0320", split=0, categories="all", shots=1)

if __name__ == "__main__":
    sys.exit(run(ARGUMENTS))
