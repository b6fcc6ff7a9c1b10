r"""Trained on all 80 categories, five references: what the loss by holding categories out is measured against.

Command:

    python samples/coco/experiments/full_5shot.py --dataset data/coco

which stands for

    python samples/coco/coco.py evaluate --model large_siamese_mrcnn_coco_full_0320 --split 0 \
        --categories all --shots 5 --runs 5 --protocol paper --out results/full_5shot --dataset data/coco

Weights: large_siamese_mrcnn_coco_full_0320.h5, an asset of github.com/bethgelab/siamese-mask-rcnn/releases.
    As published, they were trained with one reference.
Data: COCO 2017, its validation images.
Published AP50: 40.5 ± 0.09 detection, 37.8 ± 0.14 segmentation.
"""

import sys

from experiment import arguments_of, run

ARGUMENTS = arguments_of("full_5shot", model="large_siamese_mrcnn_coco_full_0320", split=0, categories="all", shots=5)

if __name__ == "__main__":
    sys.exit(run(ARGUMENTS))
