"""One-shot inference: encode a scene once, then detect with as many references as wanted.

    predictor = SiamesePredictor(LargeConfig(), weights="large_siamese_mrcnn_coco_full_0320.h5")
    predictor.set_image(scene)
    detections = predictor.detect([crop])

The same three steps (`encode_scenes`, `encode_references`, `match`) serve batches; `SiameseMaskRCNN.detect` is made of
them.
"""

import dataclasses
import zipfile

import keras
import numpy as np

from .data import molding
from .io.files import atomic_path
from .modeling import network
from .ops.anchors import pyramid_anchors
from .ops.boxes import norm_boxes
from .weights import loading


@dataclasses.dataclass(frozen=True)
class ReferenceEmbedding:
    """What the network keeps of references. It belongs to the weights that it was made with.

    Attributes:
        vectors: float32 [references, levels, channels], averages of each reference's P2..P6.
    """

    vectors: np.ndarray

    def __post_init__(self):
        vectors = np.asarray(self.vectors)
        if vectors.ndim != 3 or not vectors.size or vectors.dtype.kind != "f" or not np.isfinite(vectors).all():
            raise ValueError(
                "embedding: expected finite numbers [references, levels, channels], "
                f"got {vectors.dtype} of shape {vectors.shape}"
            )

    @property
    def mean(self):
        """float32 [levels, channels]: the query that all references make together (K-shot)."""
        return self.vectors.mean(axis=0)

    def save(self, path):
        """Write the embedding to an .npz file, whole or not at all."""
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, vectors=self.vectors)

    @classmethod
    def load(cls, path):
        """Read an embedding that `save` wrote.

        Raises:
            ValueError: no such file, or something else than an embedding is in it.
        """
        try:
            with np.load(path, allow_pickle=False) as content:
                return cls(content["vectors"])
        except (OSError, KeyError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path}: not a saved reference embedding ({error})") from error


@dataclasses.dataclass(frozen=True)
class EncodedScenes:
    """Scenes after backbone and pyramid.

    Attributes:
        pyramid: [P2..P6], each [scenes, h, w, channels].
        image_metas: float32 [scenes, meta].
        windows: int [scenes, (y1, x1, y2, x2)], the picture inside its padding, pixels of the molded image.
        anchors: float32 [scenes, anchors, (y1, x1, y2, x2)] normalized.
        shapes: original (height, width, channels) of each scene.
        molded_shape: (height, width, channels) of all.
    """

    pyramid: list
    image_metas: np.ndarray
    windows: np.ndarray
    anchors: np.ndarray
    shapes: list
    molded_shape: tuple


class SiamesePredictor:
    """Finds and segments what looks like a reference.

    Args:
        config: a Config; MOLD_TARGETS_AT_INFERENCE and the DETECTION_* settings matter here.
        weights: path of a legacy .h5 file that has all weights, or None to keep initial ones.
        layers: SharedLayers to work with, when a model has them already.

    Raises:
        ValueError: a setting the network cannot be built with, or weights that do not fit or are not all there.
    """

    def __init__(self, config, *, weights=None, layers=None):
        self.config = config
        self.layers = network.build_layers(config) if layers is None else layers
        parts = network.build_parts(config, self.layers)
        self._encode_scene = compiled(parts.scene_encoder)
        self._encode_reference = compiled(parts.reference_encoder)
        self._detect = compiled(parts.detector)
        self._anchors = {}
        self._scene = None
        if weights is not None:
            report = self.load_weights(weights)
            if report.missing:
                raise ValueError(
                    f"{weights}: cannot detect, {len(report.missing)} weights are not in it\n{report.summary()}"
                )

    def load_weights(self, path, *, exclude=()):
        """Load a weight file; returns the `loading.LoadReport`. A scene that was set is forgotten."""
        self._scene = None
        return loading.load_weights(self.layers, path, exclude=exclude)

    def set_image(self, image):
        """Encode the scene that `detect` is to search: uint8 [height, width, RGB]."""
        self._scene = None  # a picture that is refused must not leave the one before in its place
        self._scene = self.encode_scenes([image])

    def detect(self, references):
        """Find all that looks like the references in the scene of `set_image`.

        Args:
            references: one crop uint8 [h, w, RGB], a sequence of K crops of one category (K-shot), or a
                ReferenceEmbedding.

        Returns:
            dict: rois int32 [n, (y1, x1, y2, x2)] in pixels of the scene, class_ids int32 [n] (all 1), scores
            float32 [n] falling, masks bool [height, width, n] ([height, width, 0] for MODEL = "frcnn").

        Raises:
            RuntimeError: no scene was set.
            ValueError: no reference, or a crop that is empty or no picture.
        """
        if self._scene is None:
            raise RuntimeError("no scene to search: call set_image(image) first")
        return self.detect_in(self._scene, [references])[0]

    def detect_in(self, scenes, references):
        """Detect in encoded scenes: `unmold` of `match`; arguments and result as there."""
        return self.unmold(scenes, self.match(scenes, references))

    def encode_scenes(self, images):
        """Encode scenes for many queries.

        Args:
            images: sequence of uint8 [height, width, RGB].

        Returns:
            EncodedScenes.
        """
        molded, image_metas, windows = molding.mold_inputs(images, self.config)
        anchors = self.get_anchors(molded.shape[1:])
        return EncodedScenes(
            pyramid=self._encode_scene(molded),
            image_metas=image_metas.astype(np.float32),
            windows=windows,
            anchors=np.broadcast_to(anchors, (len(images), *anchors.shape)),
            shapes=[np.shape(image) for image in images],
            molded_shape=molded.shape[1:],
        )

    def get_anchors(self, image_shape):
        """Anchors of a molded image: float32 [anchors, (y1, x1, y2, x2)] normalized."""
        shape = tuple(image_shape[:2])
        if shape not in self._anchors:
            self._anchors[shape] = norm_boxes(pyramid_anchors(self.config, shape), shape)
        return self._anchors[shape]

    def encode_references(self, crops):
        """Encode references of one category.

        Args:
            crops: one uint8 [h, w, RGB] or a sequence of them.

        Returns:
            ReferenceEmbedding.
        """
        references = molding.mold_references(
            crops_of(crops), self.config, subtract_mean=self.config.MOLD_TARGETS_AT_INFERENCE
        )
        return ReferenceEmbedding(np.asarray(self._encode_reference(references)))

    def match(self, scenes, references):
        """Raw network outputs for encoded scenes.

        Args:
            scenes: EncodedScenes.
            references: for each scene what `detect` takes.

        Returns:
            dict of arrays by name, see `network.build_inference_model`.

        Raises:
            ValueError: not one query for each scene.
        """
        if len(references) != len(scenes.shapes):
            raise ValueError(
                f"references: expected one query for each of {len(scenes.shapes)} scenes, got {len(references)}"
            )
        queries = [
            query if isinstance(query, ReferenceEmbedding) else self.encode_references(query) for query in references
        ]
        expected = (len(network.LEVELS), self.config.FPN_FEATUREMAPS)
        for query in queries:
            if query.vectors.shape[1:] != expected:
                shape = f"[references, {expected[0]}, {expected[1]}]"
                raise ValueError(f"embedding: expected {shape}, got {query.vectors.shape}")
        embedding = np.stack([query.mean for query in queries]).astype(np.float32)
        outputs = self._detect(*scenes.pyramid, embedding, scenes.image_metas, scenes.anchors)
        return {name: np.asarray(output) for name, output in outputs.items()}

    def unmold(self, scenes, outputs):
        """Detections in pixels of the original pictures.

        Args:
            scenes: EncodedScenes.
            outputs: of `match`.

        Returns:
            list with one dict a scene, as `detect` returns it.
        """
        masks = outputs.get("mrcnn_mask", [None] * len(scenes.shapes))
        results = []
        for index, shape in enumerate(scenes.shapes):
            unmolded = molding.unmold_detections(
                outputs["mrcnn_detection"][index], masks[index], shape, scenes.molded_shape, scenes.windows[index]
            )
            results.append(dict(zip(("rois", "class_ids", "scores", "masks"), unmolded, strict=True)))
        return results


def crops_of(references):
    """References as a list of crops, whether one [h, w, RGB], an array [K, h, w, RGB] or a sequence came.

    Raises:
        ValueError: no crop at all, or something that is none.
    """
    if isinstance(references, np.ndarray) and references.ndim == 3:
        return [references]
    crops = list(references)
    if not crops:
        raise ValueError("references: expected at least one crop, got none")
    return crops


def compiled(model):
    """A model as a compiled function of its inputs, one argument each.

    On TensorFlow results stay tensors, so that the maps of a scene are not copied between the parts. Elsewhere Keras
    compiles, and results are arrays.
    """
    single = len(model.inputs) == 1
    if keras.backend.backend() != "tensorflow":
        return lambda *inputs: model.predict_on_batch(inputs[0] if single else list(inputs))
    import tensorflow as tf

    signature = [tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in model.inputs]

    @tf.function(input_signature=signature)
    def run(*inputs):
        return model(inputs[0] if single else list(inputs), training=False)

    return run
