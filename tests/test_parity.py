"""The numbers of the original implementation: small configuration, one reference (tests/data/small_1shot.npz).

The original resized the scene with scikit-image 0.13, whose last bits depend on the linear algebra library of the day:
about 30 of the 786,432 values of this scene are one grey level lower than ours. What depends on the scene therefore
agrees to about 1e-3 at worst and far better in most places, what depends on the reference alone to float32 rounding.
"""

import conftest
import keras
import numpy as np
import pytest
import seeded

pytestmark = pytest.mark.slow

REFERENCE_SEEDS = (101, 102, 103, 104, 105)
SCENE_TOLERANCE, EXACT = 4e-3, 1e-4  # relative to the largest value of a map
LEVELS = ("P2", "P3", "P4", "P5", "P6")
# medians relative to the largest value of a map: about twice what the few unequal pixels cause at that depth, and in
# every map less than a factor of 1.001 causes
SCENE_MEDIANS = {"C1": 1e-6, "C2": 1e-6, "C3": 1e-6, "C4": 2e-5, "C5": 5e-5}
SCENE_MEDIANS |= {"P2": 5e-5, "P3": 6e-5, "P4": 1e-4, "P5": 2.5e-4, "P6": 3e-4}
MATCHED_MEDIANS = {"P2": 5e-5, "P3": 1e-4, "P4": 1.2e-4, "P5": 1.8e-4, "P6": 2e-4}
RPN_MEDIANS = {"rpn_class_logits": 6e-5, "rpn_bbox": 4e-5}


@pytest.fixture(scope="module")
def record():
    with np.load(conftest.DATA / "small_1shot.npz", allow_pickle=False) as content:
        return dict(content)


@pytest.fixture(scope="module")
def query():
    return seeded.make_scene(375, 500, seed=7)[0], seeded.reference_crop(REFERENCE_SEEDS[0], kind=2)


@pytest.fixture(scope="module")
def tensors(small_model, query):
    image, reference = query
    return small_model.run_graph([[reference]], [image], small_model.tensor_names)


@pytest.fixture(scope="module")
def detections(small_model, query):
    image, reference = query
    return small_model.detect([[reference]], [image])[0]


def thinned(values):
    """The part of a map [1, H, W, C] that is recorded."""
    height, width = values.shape[1:3]
    return values[0, :: max(1, height // 16), :: max(1, width // 16), ::8][::4, ::4, ::4]


def relative_error(values, recorded):
    assert values.shape == recorded.shape
    return np.abs(values - recorded).max() / np.abs(recorded).max()


def relative_quantile(values, recorded, quantile=0.5):
    """A quantile of the relative errors, without the places where ReLU leaves nothing to compare."""
    is_live = (values != 0) | (recorded != 0)
    return np.quantile(np.abs(values - recorded)[is_live], quantile) / np.abs(recorded).max()


@pytest.mark.parametrize("name", SCENE_MEDIANS)
def test_scene_and_reference_maps(tensors, record, name):
    values, recorded = thinned(tensors[f"img_{name}"]), record[f"sub_img_{name}"]
    assert relative_error(values, recorded) < SCENE_TOLERANCE
    assert relative_quantile(values, recorded) < SCENE_MEDIANS[name]
    if name == "C1":
        assert relative_quantile(values, recorded, 0.95) < 1e-5
    assert relative_error(thinned(tensors[f"tgt_{name}"]), record[f"sub_tgt0_{name}"]) < EXACT


def test_reference_embedding(tensors, record):
    recorded = np.stack([record[f"tgtgap_{level}"] for level in LEVELS])
    assert relative_error(tensors["target_embedding"][0], recorded) < EXACT


@pytest.mark.parametrize("level", LEVELS)
def test_matched_maps(tensors, record, level):
    values, recorded = thinned(tensors[f"matched_{level}"]), record[f"sub_matched_{level}"]
    assert relative_error(values, recorded) < SCENE_TOLERANCE
    assert relative_quantile(values, recorded) < MATCHED_MEDIANS[level]


@pytest.mark.parametrize("name", RPN_MEDIANS)
def test_rpn(tensors, record, name):
    values = tensors[name][0, ::128]
    assert relative_error(values, record[name]) < SCENE_TOLERANCE
    assert relative_quantile(values, record[name]) < RPN_MEDIANS[name]


def test_proposals_as_a_set(tensors, record):
    distances = np.abs(tensors["ROI"][0][:, None] - record["rpn_rois"][None]).max(axis=-1) * 511
    assert (distances.min(axis=1) < 1).mean() > 0.98  # pixels
    assert (distances.min(axis=0) < 1).mean() > 0.98


@pytest.fixture(scope="module")
def head_outputs(small_model, tensors, record):
    """The heads on the recorded rois and detections."""
    from siamese_mrcnn_tf.modeling import roi_heads

    layers, config = small_model.predictor.layers, small_model.config
    maps = [keras.Input(tensors[f"matched_{level}"].shape[1:]) for level in LEVELS[:4]]
    rois, boxes, meta = keras.Input((500, 4)), keras.Input((30, 4)), keras.Input((14,))
    classified = roi_heads.fpn_classifier_graph(rois, maps, meta, layers.classifier, pool_size=config.POOL_SIZE)
    masked = roi_heads.build_fpn_mask_graph(boxes, maps, meta, layers.mask, pool_size=config.MASK_POOL_SIZE)
    model = keras.Model([rois, boxes, meta, *maps], {**classified, **masked})
    inputs = [
        record["rpn_rois"][None],
        record["detections"][None, :, :4],
        record["image_meta"][None].astype(np.float32),
    ]
    outputs = model.predict_on_batch([*inputs, *(tensors[f"matched_{level}"] for level in LEVELS[:4])])
    return {name: values[0] for name, values in outputs.items()}


def test_class_and_box_head_on_recorded_rois(head_outputs, record):
    step = len(record["rpn_rois"]) // 25
    pooled = head_outputs["roi_align_classifier"][::step, :, :, ::16][..., ::4]
    assert relative_error(pooled, record["sub_roi_align_classifier"]) < SCENE_TOLERANCE
    for name in ("mrcnn_class_bn1", "mrcnn_class_bn2"):
        assert relative_error(head_outputs[name][::step, 0, 0, ::8], record[f"sub_{name}"]) < SCENE_TOLERANCE
    for name in ("mrcnn_class_logits", "mrcnn_class", "mrcnn_bbox"):
        assert relative_error(head_outputs[name], record[name]) < SCENE_TOLERANCE


def test_mask_head_on_recorded_detections(head_outputs, record):
    pooled = head_outputs["roi_align_mask"][::4, :, :, ::32][:, ::3, ::3, ::2]
    assert relative_error(pooled, record["sub_roi_align_mask"]) < SCENE_TOLERANCE
    for name in ("mrcnn_mask_bn1", "mrcnn_mask_bn4"):
        assert relative_error(head_outputs[name][::10, :, :, ::16], record[f"sub_{name}"]) < SCENE_TOLERANCE
    deconvolved = head_outputs["mrcnn_mask_deconv"][::10, ::2, ::2, ::16]
    assert relative_error(deconvolved, record["sub_mrcnn_mask_deconv"]) < SCENE_TOLERANCE
    assert np.abs(head_outputs["mrcnn_mask"] - record["mrcnn_mask"]).max() < 0.02


def assert_recorded_detections(found, record):
    """Boxes within 1 pixel and scores within 5e-3, at most one missing and one extra."""
    distances = np.abs(found["rois"][:, None].astype(float) - record["detect_rois"][None]).max(axis=-1)
    scores = np.abs(found["scores"][:, None] - record["detect_scores"][None])
    matches = (distances <= 1) & (scores <= 5e-3)
    assert (~matches.any(axis=1)).sum() <= 1
    assert (~matches.any(axis=0)).sum() <= 1
    for index, recorded in zip(*np.nonzero(matches), strict=True):
        area, recorded_area = found["masks"][:, :, index].sum(), record["detect_mask_area"][recorded]
        assert abs(area - recorded_area) <= 0.03 * recorded_area


def test_detect(detections, record):
    assert detections["masks"].shape[:2] == tuple(record["detect_mask_shape"][:2])
    assert detections["class_ids"].tolist() == [1] * len(detections["rois"])
    assert_recorded_detections(detections, record)


def test_masks_overlap_the_recorded_ones(detections):
    with np.load(conftest.DATA / "molding.npz", allow_pickle=False) as content:  # of the same run
        height, width, count = content["detect_mask_shape"]
        bits = np.unpackbits(content["detect_masks_packed"])
        boxes = content["detect_rois"]
    recorded = bits[: count * height * width].reshape(count, height, width)
    recorded = np.moveaxis(recorded, 0, -1).astype(bool)
    close = np.abs(detections["rois"][:, None].astype(float) - boxes[None]).max(axis=-1) <= 1
    pairs = list(zip(*np.nonzero(close), strict=True))
    assert len(pairs) >= len(boxes) - 1
    for index, other in pairs:
        mask, truth = detections["masks"][:, :, index], recorded[:, :, other]
        assert (mask & truth).sum() / (mask | truth).sum() > 0.97


def test_predictor_agrees(small_model, query, record):
    image, reference = query
    small_model.predictor.set_image(image)
    assert_recorded_detections(small_model.predictor.detect(reference), record)


def test_single_model_agrees(small_model, query, record):
    image, reference = query
    molded, metas, windows = small_model.mold_inputs([image])
    references = small_model._molded_targets([[reference]])
    inputs = {
        "input_image": molded,
        "input_image_meta": metas,
        "input_target": references,
        "input_anchors": small_model.get_anchors(molded.shape[1:])[None],
    }
    outputs = small_model.keras_model.predict(inputs, verbose=0)
    names = ("rois", "class_ids", "scores", "masks")
    unmolded = small_model.unmold_detections(
        outputs["mrcnn_detection"][0], outputs["mrcnn_mask"][0], image.shape, molded.shape[1:], windows[0]
    )
    assert_recorded_detections(dict(zip(names, unmolded, strict=True)), record)


def test_batch_of_two_equals_two_of_one(small_model, query):
    other = seeded.make_scene(300, 400, seed=12)[0]
    references = [seeded.reference_crop(seed, kind=2) for seed in REFERENCE_SEEDS]
    queries, images = [references[:2], references[3:]], [query[0], other]
    together = small_model.detect(queries, images)
    for query_, image, found in zip(queries, images, together, strict=True):
        alone = small_model.detect([query_], [image])[0]
        # convolutions may round by the size of the batch, and then one near-tied box may be kept or dropped
        pairs = [
            (index, other)
            for index, box in enumerate(found["rois"])
            for other in np.flatnonzero((alone["rois"] == box).all(axis=1))
        ]
        assert len(pairs) >= max(len(found["rois"]), len(alone["rois"])) - 1 > 0
        for index, other in pairs:
            assert found["scores"][index] == pytest.approx(alone["scores"][other], abs=1e-4)
            assert (found["masks"][..., index] != alone["masks"][..., other]).mean() < 1e-4


def test_five_references_are_their_mean(small_model, query):
    references = [seeded.reference_crop(seed, kind=2) for seed in REFERENCE_SEEDS]
    tensors = small_model.run_graph([references], [query[0]], ["target_embedding"])
    single = [small_model.predictor.encode_references(reference).vectors[0] for reference in references]
    np.testing.assert_allclose(tensors["target_embedding"][0], np.mean(single, axis=0), rtol=1e-4, atol=1e-5)
    small_model.predictor.set_image(query[0])
    several = small_model.predictor.detect(references)
    np.testing.assert_array_equal(several["rois"], small_model.detect([references], [query[0]])[0]["rois"])


def test_exact_inputs_give_exact_outputs(small_model):
    """Two recorded molded images and references, mean subtracted: what flows from them agrees to float32 rounding."""
    from siamese_mrcnn_tf.data import molding
    from siamese_mrcnn_tf.modeling import roi_heads

    if not (conftest.SHARED / "parity" / "train_batch.npz").exists():
        pytest.skip("the full records are not here")
    inputs = np.load(conftest.SHARED / "parity" / "train_batch.npz", allow_pickle=False)
    outputs = np.load(conftest.SHARED / "parity" / "train_forward.npz", allow_pickle=False)
    config, layers = small_model.config, small_model.predictor.layers
    names = [*(f"matched_{level}" for level in LEVELS[:4]), "ROI"]
    network = keras.Model(small_model.keras_model.inputs, {name: small_model._tensors[name] for name in names})
    images, references = (molding.mold_image(inputs[name], config) for name in ("images_u8", "targets_u8"))
    meta, anchors = inputs["image_meta"].astype(np.float32), small_model.get_anchors(images.shape[1:])
    values = network.predict_on_batch([images, meta, references, np.stack([anchors, anchors])])
    for found, recorded in zip(values["ROI"], outputs["b2_identity_rpn_rois"], strict=True):
        distances = np.abs(found[:, None] - recorded[None]).max(axis=-1) * 511
        assert max(distances.min(axis=0).max(), distances.min(axis=1).max()) < 0.05  # pixels
    maps = [keras.Input(values[name].shape[1:]) for name in names[:4]]
    rois, meta_input = keras.Input((100, 4)), keras.Input((14,))
    classified = roi_heads.fpn_classifier_graph(rois, maps, meta_input, layers.classifier, pool_size=config.POOL_SIZE)
    masked = roi_heads.build_fpn_mask_graph(rois, maps, meta_input, layers.mask, pool_size=config.MASK_POOL_SIZE)
    head = keras.Model([rois, meta_input, *maps], {**classified, **masked})
    of_rois = head.predict_on_batch([outputs["b2_identity_output_rois"], meta, *(values[name] for name in names[:4])])
    for name in ("mrcnn_class_logits", "mrcnn_bbox"):
        assert relative_error(of_rois[name], outputs[f"b2_identity_{name}"]) < EXACT
    image, row = outputs["b2_identity_mrcnn_mask_pos_index"].T
    np.testing.assert_allclose(of_rois["mrcnn_mask"][image, row], outputs["b2_identity_mrcnn_mask_pos"], atol=EXACT)
