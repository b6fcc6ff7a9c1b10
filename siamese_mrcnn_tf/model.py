"""`SiameseMaskRCNN`: the class of Matterport's Mask R-CNN, over network, weights, training and predictor.

Code written for the original Siamese Mask R-CNN needs to change only its imports.
"""

import functools
import logging
import re
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self, cast

import keras
import numpy as np

from . import lazy_names
from .base_predictor import Arrays, Images, References, crops_of
from .config import Config
from .data import molding
from .data.dataset import Dataset
from .io.errors import InputError, StateError
from .memory import check_memory
from .modeling import network
from .modeling.compiled import compiled
from .ops.boxes import norm_boxes
from .predictor import PathLike, SiamesePredictor
from .training import distribution, machines
from .training.checkpoints import CheckpointManager
from .training.schedules import Stage
from .training.trainable_layers import iter_layers, select_layers
from .training.trainer import Trainer, TrainingSettings, train_on_dataset
from .training.training_model import build_training_model, compile_model
from .weights import choice, loading, pretrained, thresholds
from .weights.loading import LoadReport
from .weights.runs import EPOCH_NAME, find_last_checkpoint, log_dir_of

_log = logging.getLogger(__name__)
# settings that may change when a run is resumed
_FREE_SETTINGS = """
    NAME EXPERIMENT CHECKPOINT_DIR GPU_COUNT IMAGES_PER_GPU VALIDATION_STEPS PRECISION USE_XLA LEARNING_RATE
    MOLD_TARGETS_AT_INFERENCE POST_NMS_ROIS_INFERENCE DETECTION_MAX_INSTANCES DETECTION_MIN_CONFIDENCE
    DETECTION_NMS_THRESHOLD DETECTION_REFINEMENTS VERIFY_DETECTIONS VERIFY_MIN_CONFIDENCE
""".split()

_ORIGINAL_NAMES = {  # module -> names of mrcnn/model.py and lib/model.py that are there now; looked up on first use
    "..data.data_generator": "load_image_gt",
    "..data.rpn_targets": "build_rpn_targets",
    "..data.molding": "mold_image unmold_image",
    "..modeling.backbone": "BatchNorm build_fpn_model build_resnet_model fpn_graph resnet_graph",
    "..modeling.detection": "DetectionLayer refine_detections_graph",
    "..modeling.detection_targets": "DetectionTargetLayer detection_targets_graph",
    "..modeling.losses": "rpn_class_loss_graph rpn_bbox_loss_graph mrcnn_class_loss_graph mrcnn_bbox_loss_graph "
    "mrcnn_mask_loss_graph",
    "..modeling.roi_align": "PyramidROIAlign",
    "..modeling.roi_heads": "fpn_classifier_graph build_fpn_mask_graph",
    "..modeling.rpn": "ProposalLayer build_rpn_model rpn_graph",
    "..ops.anchors": "compute_backbone_shapes",
    "..ops.box_ops": "apply_box_deltas_graph clip_boxes_graph norm_boxes_graph overlaps_graph",
    "..ops.image_meta": "compose_image_meta parse_image_meta",
    "..visualize.diagnostics": "log",
}
__getattr__ = lazy_names(__name__, _ORIGINAL_NAMES)


class SiameseMaskRCNN:
    """One-shot instance segmentation with the network of the paper.

    Args:
        mode: "training" or "inference".
        config: a Config.
        model_dir: folder of log directories and checkpoints; inference writes nothing to it.
        seed: of the sampling of rois in training.

    Attributes:
        keras_model: the Keras model of `training_model.build_training_model` or `network.build_inference_model`.
        predictor: a SiamesePredictor over the same layers, None in training.
        epoch: number of epochs that the loaded checkpoint was trained for.
        log_dir: model_dir / siamese_{MODEL}_{NAME}_{EXPERIMENT}, in lower case.
        checkpoint_path: pattern of checkpoint files, with {epoch:04d}.

    Raises:
        ValueError: unknown mode, or the network cannot be built with a setting.
    """

    def __init__(self, mode: str, config: Config, model_dir: PathLike, *, seed: int = 0) -> None:
        if mode not in ("training", "inference"):
            raise InputError(f"mode = {mode!r}: expected 'training' or 'inference'")
        config.validate_training() if mode == "training" else config.validate()
        check_memory(config, "training" if mode == "training" else "detection")
        self.mode = mode
        self.config = config
        self.model_dir = str(model_dir)
        self.epoch = 0
        self.predictor = cast(SiamesePredictor, None)  # set in inference mode
        self._tensors: dict[str, Any] = {}
        self._graphs: dict[tuple, Callable[..., Any]] = {}
        if mode == "training":
            with distribution.device_scope(config.GPU_COUNT):
                self._layers = network.build_layers(config)
                self.keras_model = build_training_model(config, self._layers, seed=seed)
        else:
            self._layers = network.build_layers(config)
            inference = network.build_inference_model(config, self._layers)
            self.keras_model, self._tensors = inference.model, inference.tensors
            self.predictor = SiamesePredictor(config, layers=self._layers)
        self.set_log_dir()

    @classmethod
    def from_pretrained(
        cls,
        name: PathLike,
        *,
        mode: str = "inference",
        model_dir: PathLike = "logs",
        checkpoints: PathLike = "checkpoints",
        **settings: Any,
    ) -> Self:
        """A model with the weights that a name stands for, as `SiamesePredictor.from_pretrained`."""
        path, config, _ = choice.choose_pretrained(name, checkpoints, settings)
        model = cls(mode, config, model_dir)
        model.load_weights(path)
        return model

    # ---- training ----------------------------------------------------------------------------------------------
    def compile(self, learning_rate: float, momentum: float) -> None:
        """Compile for `keras_model.train_on_batch(inputs)`: SGD, gradients clipped by global norm."""
        self._require("training")
        compile_model(self.keras_model, self.config, learning_rate=learning_rate, momentum=momentum)

    def train(
        self,
        train_dataset: Dataset,
        val_dataset: Dataset | None,
        learning_rate: float,
        epochs: int,
        layers: str,
        augmentation: Any = None,
        *,
        seed: int = 0,
        workers: int = 1,
        keep: int = 3,
    ) -> None:
        """Train from the epoch of the loaded checkpoint to the end of epoch `epochs`.

        Losses, TensorBoard logs and checkpoints are written to `log_dir`.

        Args:
            train_dataset: with indices built, or of your own class (`data.custom`); its ACTIVE_CLASSES are trained.
            val_dataset: None for no validation.
            learning_rate: of SGD; each call resets the momentum.
            epochs: the last epoch, counted from the start of training.
            layers: "heads", "rpn", "2+" .. "5+", "all", or a regular expression for layer names.
            augmentation: None, "fliplr", an imgaug augmenter, or a callable (see `data.augmentation`).
            seed: of samples and rois.
            workers: threads that prepare samples.
            keep: number of epochs whose weights are kept, in addition to the best by validation loss.

        Raises:
            RuntimeError: not in training mode; a sample cannot be prepared; the loss is NaN.
            ValueError: nothing to train on, unknown layers, or `log_dir` holds a run of more epochs.
        """
        trainer = self.trainer(seed=seed, keep=keep)
        stage = Stage(epochs, layers, learning_rate)
        train_on_dataset(trainer, [stage], train_dataset, val_dataset, augmentation=augmentation, workers=workers)
        self.epoch = max(self.epoch, epochs)

    def trainer(
        self,
        *,
        seed: int = 0,
        keep: int = 3,
        save_every: int = 250,
        stop: threading.Event | None = None,
        resume: bool = False,
        fixed: dict[str, Any] | None = None,
    ) -> Trainer:
        """A trainer.Trainer of this model that starts at `epoch` and writes to `log_dir`.

        Args:
            seed, keep: as in `train`.
            save_every: steps between checkpoints within an epoch.
            stop: once it is set, the run saves and stops.
            resume: continue the run in `log_dir`, with its weights.
            fixed: see `trainer.TrainingSettings`.

        Raises:
            RuntimeError: not in training mode.
            ValueError: `log_dir` holds a run of more epochs, or no run to resume.
        """
        self._require("training")
        config = self.config
        checkpoints = CheckpointManager(self.log_dir, self._layers, keep=keep, writes=machines.is_chief())
        constant = {name: value for name, value in config.to_dict().items() if name not in _FREE_SETTINGS}
        counts, constant = (config.STEPS_PER_EPOCH, config.VALIDATION_STEPS), constant | (fixed or {})
        settings = TrainingSettings(*counts, save_every=save_every, seed=seed, fixed=constant)
        trainer = Trainer(self.keras_model, self._layers, config, checkpoints, settings, stop=stop)
        if resume:
            trainer.resume()
        else:
            trainer.begin_at(self.epoch)
        return trainer

    def _require(self, mode: str) -> None:
        if self.mode != mode:
            raise StateError(f"mode = {self.mode!r}: build SiameseMaskRCNN with mode={mode!r} for this")

    # ---- detection ---------------------------------------------------------------------------------------------
    def detect(
        self,
        targets: Sequence[References],
        images: Images,
        verbose: int = 0,
        random_detections: bool = False,
        eps: float = 1e-6,
        *,
        rng: np.random.Generator | None = None,
    ) -> list[Arrays]:
        """Detect the objects that look like the references.

        Args:
            targets: for each image one crop uint8 [h, w, RGB], or a list or array of K crops (K-shot), of any size;
                crops of the molded size pass unchanged.
            images: list of uint8 [height, width, RGB], any number.
            verbose: 1 logs the shapes of the images.
            random_detections: shift the boxes at random inside the image and permute their scores (the original's
                random baseline; masks move with their boxes).
            eps: unused, kept for callers of the original.
            rng: for random_detections.

        Returns:
            list of dicts, one per image, in descending order of score: rois int32 [n, (y1, x1, y2, x2)] in pixels,
            class_ids int32 [n] (all 1), scores float32 [n], masks bool [height, width, n].

        Raises:
            ValueError: no image, the numbers of images and queries differ, or something is not an image.
        """
        self._require("inference")
        if len(targets) != len(images):
            raise InputError(f"targets: expected one query for each of {len(images)} images, got {len(targets)}")
        if verbose:
            _log.info("detecting in %d images of shapes %s", len(images), [np.shape(image) for image in images])
        scenes, queries = self.predictor.encode_scenes(images), self.predictor.encode_queries(targets)
        if not random_detections:
            return self.predictor.detect_in(scenes, queries)
        outputs = self.predictor.verify(scenes, self.predictor.match(scenes, queries), queries)
        rng = np.random.default_rng() if rng is None else rng
        outputs = shift_detections(outputs, norm_boxes(scenes.windows, scenes.molded_shape), rng)
        return self.predictor.unmold(scenes, outputs)

    def mold_inputs(self, images: Images) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """`molding.mold_inputs` with this configuration: (molded_images, image_metas, windows)."""
        return molding.mold_inputs(list(images), self.config)

    unmold_detections = staticmethod(molding.unmold_detections)

    def get_anchors(self, image_shape: Sequence[int]) -> np.ndarray:
        """Anchors of a molded image: float32 [anchors, (y1, x1, y2, x2)] normalized."""
        self._require("inference")
        return self.predictor.get_anchors(image_shape)

    def run_graph(
        self, targets: Sequence[References], images: Images, outputs: Sequence[Any], image_metas: Any = None
    ) -> Arrays:
        """Values of intermediate tensors by name, in the order of `outputs`.

        Args:
            targets, images: as in `detect`.
            outputs: names (`tensor_names`), or pairs of a name and a symbolic tensor such as
                `model.keras_model.get_layer("ROI").output`.
            image_metas: [batch, meta] if `images` are already molded, float32 [batch, H, W, 3].

        Raises:
            ValueError: no tensor has that name.
        """
        self._require("inference")
        wanted = {}
        for output in outputs:
            name, tensor = output if isinstance(output, tuple) else (output, self._tensors.get(output))
            if tensor is None:
                raise InputError(f"{name!r} is no tensor of the network: expected one of {', '.join(self._tensors)}")
            wanted[name] = tensor
        if image_metas is None:
            images, image_metas, _ = self.mold_inputs(images)
        images = np.asarray(images, np.float32)
        anchors = self.get_anchors(images.shape[1:])
        key = tuple((name, id(tensor)) for name, tensor in wanted.items())
        if key not in self._graphs:
            self._graphs[key] = compiled(
                functools.partial(keras.Model, self.keras_model.inputs, wanted), xla=self.config.USE_XLA
            )
        metas, anchors = np.asarray(image_metas, np.float32), np.broadcast_to(anchors, (len(images), *anchors.shape))
        values = self._graphs[key](images, metas, self._molded_targets(targets), anchors)
        return {name: np.asarray(values[name]) for name in wanted}

    def ancestor(self, tensor: Any, name: str, checked: Any = None) -> Any:
        """The tensor of `run_graph` with the last part of `name`, such as "ROI/refined_anchors:0"; None if none has it.

        `tensor` and `checked` are unused, kept for callers of Matterport's code.
        """
        return self._tensors.get(re.sub(r":\d+$", "", name).rpartition("/")[2])

    @staticmethod
    def find_trainable_layer(layer: keras.layers.Layer) -> keras.layers.Layer:
        """The layer itself, or that within its wrappers (`keras.layers.Wrapper`)."""
        while isinstance(layer, keras.layers.Wrapper):
            layer = layer.layer
        return layer

    def get_trainable_layers(self) -> list[keras.layers.Layer]:
        """The layers with weights, those of nested models in place of the models."""
        layers = map(self.find_trainable_layer, iter_layers(self._layers.layers))
        return [layer for layer in layers if layer.weights and not isinstance(layer, keras.Model)]

    @property
    def tensor_names(self) -> list[str]:
        """Names of the tensors for `run_graph`."""
        return list(self._tensors)

    def _molded_targets(self, targets: Sequence[Any]) -> np.ndarray:
        options = {"subtract_mean": self.config.MOLD_TARGETS_AT_INFERENCE}
        molded = [molding.mold_references(crops_of(target), self.config, **options) for target in targets]
        counts = [len(references) for references in molded]
        if len(set(counts)) > 1:
            raise InputError(f"targets: expected the same number of crops for each image, got {counts}")
        return np.stack(molded)

    # ---- weights and checkpoints -------------------------------------------------------------------------------
    def load_weights(self, filepath: PathLike, by_name: bool = False, exclude: Sequence[str] = ()) -> LoadReport:
        """Load a legacy .h5 file, by the names of weights: the names of loaded, missing and unused weights.

        With VERIFY_DETECTIONS the threshold file beside it says how finds are verified; its threshold is not used.

        Args:
            by_name: unused, kept for callers of the original.
            exclude: names of layers to leave unchanged, or regular expressions for them.

        Raises:
            ValueError: the file cannot be read or does not fit; the model is unchanged. Or VERIFY_DETECTIONS is set,
                and there is no verification beside the file.
        """
        report = loading.load_weights(self._layers, filepath, exclude=exclude or ())
        self.epoch = 0
        if self.mode == "inference" and self.config.VERIFY_DETECTIONS:
            self.predictor.verification = thresholds.find_verification(filepath)
        return report

    def load_imagenet_weights(
        self, pretraining: str = "imagenet-1k", weights_path: PathLike | None = None
    ) -> LoadReport:
        """Load a backbone: `weights_path`, or imagenet-1k, imagenet-771 or imagenet-687, from CHECKPOINT_DIR first."""
        return self.load_weights(weights_path or pretrained.find_weights(pretraining, self.config.CHECKPOINT_DIR))

    def load_checkpoint(self, weights_path: PathLike, training_schedule: Any = None, verbose: int = 1) -> LoadReport:
        """Load a checkpoint, and set `epoch` from the four digits at the end of its name.

        `training_schedule` is unused, kept for callers of the original.

        Raises:
            ValueError: no epoch in the name, or as in `load_weights`.
        """
        digits = re.search(r"(\d{4})\.h5$", str(weights_path))
        if not digits:
            raise InputError(f"{weights_path}: expected a name that ends in the epoch, such as siamese_mrcnn_0160.h5")
        report = self.load_weights(weights_path)
        self.epoch = int(digits[1])
        if verbose:
            _log.info("%s: epoch %d", weights_path, self.epoch)
        return report

    def load_latest_checkpoint(self, training_schedule: Any = None) -> LoadReport:
        """`load_checkpoint` of `find_last()`."""
        return self.load_checkpoint(self.find_last(), training_schedule)

    def get_latest_checkpoint(self) -> str:
        """`find_last()`: the original's name."""
        return self.find_last()

    def get_imagenet_weights(self, pretraining: str = "imagenet-1k") -> str:
        """Path of the backbone that `load_imagenet_weights` loads; it is downloaded if need be."""
        return str(pretrained.find_weights(pretraining, self.config.CHECKPOINT_DIR))

    def save_weights(self, filepath: PathLike) -> None:
        """Write all weights to a legacy .h5 file, which the original can read too."""
        loading.save_weights(self._layers, filepath)

    def find_last(self) -> str:
        """Path of the checkpoint of the last epoch in log_dir.

        Raises:
            ValueError: there is none.
        """
        return find_last_checkpoint(self.log_dir)

    def set_log_dir(self, model_path: str | None = None) -> None:
        """Set `log_dir` and `checkpoint_path` from the configuration, and `epoch` to 0; `model_path` is unused."""
        self.epoch = 0
        self.log_dir = str(log_dir_of(self.config, self.model_dir))
        self.checkpoint_path = str(Path(self.log_dir) / f"{EPOCH_NAME}.h5")

    def set_trainable(
        self, layer_regex: str, keras_model: keras.Model | None = None, indent: int = 0, verbose: int = 0
    ) -> None:
        """Make the layers trainable whose whole names match, nested models included, and freeze the others.

        `keras_model` is by default this model; `verbose` = 1 logs the trainable layers, indented by `indent`.

        Raises:
            ValueError: no layer matches.
        """
        names = select_layers((keras_model or self._layers).layers, layer_regex)
        if verbose:
            _log.info("%strainable layers: %s", " " * indent, ", ".join(names))


def shift_detections(outputs: Arrays, windows_norm: np.ndarray, rng: np.random.Generator) -> Arrays:
    """Detections at random places: boxes shifted inside their images, with permuted scores.

    Args:
        outputs: dict with mrcnn_detection [batch, n, (y1, x1, y2, x2, class_id, score)], boxes normalized, zero-padded,
            and optionally mrcnn_mask [batch, n, 28, 28].
        windows_norm: [batch, (y1, x1, y2, x2)], the images inside their padding, normalized.

    Returns:
        dict as `outputs`, best score first; each mask stays with its box.
    """
    shifted = {name: values.copy() for name, values in outputs.items()}
    for index, (rows, window) in enumerate(zip(shifted["mrcnn_detection"], windows_norm, strict=True)):
        count = np.count_nonzero(rows[:, 4])
        for start, stop in ((0, 2), (1, 3)):
            shift = rng.uniform(window[start] - rows[:count, start], window[stop] - rows[:count, stop])
            rows[:count, [start, stop]] += shift[:, None]
        rows[:count, 5] = rng.permutation(rows[:count, 5])
        order = np.argsort(-rows[:count, 5], kind="stable")
        for name in {"mrcnn_detection", "mrcnn_mask"} & set(shifted):
            shifted[name][index, :count] = shifted[name][index, order]
    return shifted
