"""Settings that make TinyConfig smaller still: a step takes milliseconds, and most of a test is TensorFlow's start."""

# Channels are multiples of 16, below which oneDNN's gradient of a strided 1x1 convolution writes past its memory.
SIZES = {
    "IMAGE_MIN_DIM": 64,
    "IMAGE_MAX_DIM": 64,
    "TARGET_MIN_DIM": 32,
    "TARGET_MAX_DIM": 32,
    "BACKBONE_STEM_WIDTH": 16,
    "BACKBONE_WIDTHS": (16, 16, 32, 32),
    "FPN_FEATUREMAPS": 16,
    "RPN_CONV_CHANNELS": 16,
    "FPN_CLASSIF_FC_LAYERS_SIZE": 16,
    "MASK_HEAD_CHANNELS": 16,
    "RPN_ANCHOR_SCALES": (8, 16, 24, 32, 48),
    "TRAIN_ROIS_PER_IMAGE": 12,
    "NUM_JITTERED_GT_ROIS": 4,
}
