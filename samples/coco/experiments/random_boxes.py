r"""The baseline: ground truth boxes and masks at random places, on the held-out categories of each split.

Command:

    python samples/coco/experiments/random_boxes.py --dataset data/coco

which stands for

    python samples/coco/coco.py evaluate --model random-boxes --split all \
        --categories novel --shots 1 --runs 5 --protocol paper --out results/random_boxes --dataset data/coco

Weights: none.
Data: COCO 2017, its validation images.
Published AP50: 1.2 ± 0.05 detection, 0.5 ± 0.05 segmentation, mean of the four splits
    (S1 to S4: 0.8 / 0.2, 1.7 / 1.0, 0.8 / 0.4, 1.4 / 0.4).
The published figures came from shifting the detections of a model, so that they compare in kind only.
"""

import sys

from experiment import arguments_of, run

ARGUMENTS = arguments_of("random_boxes", model="random-boxes", split="all", categories="novel")

if __name__ == "__main__":
    sys.exit(run(ARGUMENTS))
