"""`SiameseMaskRCNN`: Matterport's facade over network, weights, training and predictor.

Code written for the original Siamese Mask R-CNN changes its imports only (design section 11).
"""

import logging
import re
from pathlib import Path

import keras
import numpy as np

from .data import molding
from .modeling import network
from .ops.boxes import norm_boxes
from .predictor import SiamesePredictor, compiled, crops_of
from .training import distribution
from .training.checkpoints import CheckpointManager, find_last_checkpoint, log_dir_of
from .training.schedules import Stage
from .training.trainable_layers import select_layers
from .training.trainer import Trainer, TrainingSettings, train_on_dataset
from .training.training_model import build_training_model, compile_model
from .weights import loading, pretrained

_log = logging.getLogger(__name__)
_FREE_SETTINGS = (  # of a Config, those that a run may be resumed with another value of
    *("NAME", "EXPERIMENT", "CHECKPOINT_DIR", "GPU_COUNT", "IMAGES_PER_GPU", "VALIDATION_STEPS", "PRECISION"),
    *("LEARNING_RATE", "MOLD_TARGETS_AT_INFERENCE", "POST_NMS_ROIS_INFERENCE"),
    *("DETECTION_MAX_INSTANCES", "DETECTION_MIN_CONFIDENCE", "DETECTION_NMS_THRESHOLD"),
)


class SiameseMaskRCNN:
    """One-shot instance segmentation with a model of the paper.

    Args:
        mode: "training" or "inference".
        config: a Config.
        model_dir: folder of log directories and checkpoints; nothing is written to it at inference.
        seed: of the choice of rois in training.

    Attributes:
        keras_model: the Keras model, that of `training_model.build_training_model` or the single one of
            `network.build_inference_model`.
        predictor: a SiamesePredictor over the same layers, None in training.
        epoch: epochs that the loaded checkpoint was trained for.
        log_dir: model_dir / siamese_{MODEL}_{NAME}_{EXPERIMENT}, in lower case.
        checkpoint_path: pattern of checkpoint files, with {epoch:04d}.

    Raises:
        ValueError: unknown mode, or a setting the network cannot be built with.
    """

    def __init__(self, mode, config, model_dir, *, seed=0):
        if mode not in ("training", "inference"):
            raise ValueError(f"mode = {mode!r}: expected 'training' or 'inference'")
        self.mode = mode
        self.config = config
        self.model_dir = str(model_dir)
        self._tensors, self._graphs, self.predictor = {}, {}, None
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

    # ---- training ----------------------------------------------------------------------------------------------
    def compile(self, learning_rate, momentum):
        """Get the model ready for `keras_model.train_on_batch(inputs)`: SGD, gradients clipped by global norm."""
        self._require("training")
        compile_model(self.keras_model, self.config, learning_rate=learning_rate, momentum=momentum)

    def train(
        self,
        train_dataset,
        val_dataset,
        learning_rate,
        epochs,
        layers,
        augmentation=None,
        *,
        seed=0,
        workers=1,
        keep=3,
    ):
        """Train to the end of epoch `epochs`, from the epoch of the loaded checkpoint on.

        Losses, TensorBoard logs and checkpoints go to `log_dir`.

        Args:
            train_dataset, val_dataset: IndexedCocoDataset with indices built; their ACTIVE_CLASSES are trained. None
                for the second leaves validation out.
            learning_rate: of SGD; momentum starts anew in each call.
            epochs: the last epoch, counted from the start of training.
            layers: "heads", "rpn", "2+" .. "5+", "all", or a regular expression for layer names.
            augmentation: None, "fliplr", an augmenter of imgaug, or a callable (module `augmentation`).
            seed: of samples and rois.
            workers: threads that make samples.
            keep: epochs whose weights are kept, beside the best by validation loss.

        Raises:
            RuntimeError: not in training mode; a sample that cannot be made; a loss that is NaN.
            ValueError: nothing to train on, unknown layers, or `log_dir` holds a run of more epochs.
        """
        trainer = self.trainer(seed=seed, keep=keep)
        stage = Stage(epochs, layers, learning_rate)
        train_on_dataset(trainer, [stage], train_dataset, val_dataset, augmentation=augmentation, workers=workers)
        self.epoch = max(self.epoch, epochs)

    def trainer(self, *, seed=0, keep=3, save_every=250, stop=None, resume=False, fixed=None):
        """A trainer.Trainer of this model, which writes to `log_dir` and begins at `epoch`.

        Args:
            seed: of samples and rois.
            keep: epochs whose weights are kept, beside the best by validation loss.
            save_every: steps between checkpoints within an epoch.
            stop: threading.Event; once it is set, the run saves and stops.
            resume: go on where the run in `log_dir` stopped, with its weights.
            fixed: see `trainer.TrainingSettings`.

        Raises:
            RuntimeError: not in training mode.
            ValueError: `log_dir` holds a run of more epochs, or with `resume` none.
        """
        self._require("training")
        config, folder = (
            self.config,
            CheckpointManager(self.log_dir, self._layers, keep=keep, writes=distribution.is_chief()),
        )
        settled = {name: value for name, value in config.to_dict().items() if name not in _FREE_SETTINGS}
        settings = TrainingSettings(
            config.STEPS_PER_EPOCH,
            config.VALIDATION_STEPS,
            save_every=save_every,
            seed=seed,
            fixed=settled | (fixed or {}),
        )
        trainer = Trainer(self.keras_model, self._layers, config, folder, settings, stop=stop)
        if resume:
            trainer.resume()
        else:
            trainer.begin_at(self.epoch)
        return trainer

    def _require(self, mode):
        if self.mode != mode:
            raise RuntimeError(f"mode = {self.mode!r}: build SiameseMaskRCNN with mode={mode!r} for this")

    # ---- detection ---------------------------------------------------------------------------------------------
    def detect(self, targets, images, verbose=0, random_detections=False, eps=1e-6, *, rng=None):
        """Find what looks like the references.

        Args:
            targets: for each image one crop uint8 [h, w, RGB], or a list or array of K crops (K-shot). Crops of any
                size; one that is the reference's square already passes unchanged.
            images: list of uint8 [height, width, RGB], any number.
            verbose: 1 logs the shapes that go in.
            random_detections: shift the boxes at random inside the picture and permute their scores (the original's
                random baseline; masks move with their boxes).
            eps: unused, kept for callers of the original.
            rng: numpy.random.Generator for random_detections.

        Returns:
            list of dicts, one an image: rois int32 [n, (y1, x1, y2, x2)] in pixels, class_ids int32 [n] (all 1),
            scores float32 [n] falling, masks bool [height, width, n].

        Raises:
            ValueError: no image, not one query an image, or something that is no picture.
        """
        self._require("inference")
        if len(targets) != len(images):
            raise ValueError(f"targets: expected one query for each of {len(images)} images, got {len(targets)}")
        if verbose:
            shapes = [np.shape(image) for image in images]
            _log.info("detecting in %d images of shapes %s", len(images), shapes)
        scenes = self.predictor.encode_scenes(images)
        outputs = self.predictor.match(scenes, targets)
        if random_detections:
            rng = np.random.default_rng() if rng is None else rng
            outputs = shift_detections(outputs, norm_boxes(scenes.windows, scenes.molded_shape), rng)
        return self.predictor.unmold(scenes, outputs)

    def mold_inputs(self, images):
        """`molding.mold_inputs` with this configuration: (molded_images, image_metas, windows)."""
        return molding.mold_inputs(images, self.config)

    def unmold_detections(self, detections, mrcnn_mask, original_image_shape, image_shape, window):
        """`molding.unmold_detections`: (rois, class_ids, scores, masks)."""
        return molding.unmold_detections(detections, mrcnn_mask, original_image_shape, image_shape, window)

    def get_anchors(self, image_shape):
        """Anchors of a molded image: float32 [anchors, (y1, x1, y2, x2)] normalized."""
        self._require("inference")
        return self.predictor.get_anchors(image_shape)

    def run_graph(self, targets, images, outputs, image_metas=None):
        """Values of inner tensors.

        Args:
            targets, images: as in `detect`.
            outputs: names (`tensor_names`), or pairs of a name and a symbolic tensor such as
                `model.keras_model.get_layer("ROI").output`.
            image_metas: [batch, meta] when `images` are molded already, float32 [batch, H, W, 3].

        Returns:
            dict of arrays by name, in the order of `outputs`.

        Raises:
            ValueError: a name that no tensor has.
        """
        self._require("inference")
        wanted = {}
        for output in outputs:
            name, tensor = output if isinstance(output, tuple) else (output, self._tensors.get(output))
            if tensor is None:
                raise ValueError(
                    f"{name!r} is no tensor of the network: expected one of {', '.join(self.tensor_names)}"
                )
            wanted[name] = tensor
        if image_metas is None:
            images, image_metas, _ = self.mold_inputs(images)
        images = np.asarray(images, np.float32)
        anchors = self.get_anchors(images.shape[1:])
        values = self._graph(wanted)(
            images,
            np.asarray(image_metas, np.float32),
            self._molded_targets(targets),
            np.broadcast_to(anchors, (len(images), *anchors.shape)),
        )
        return {name: np.asarray(values[name]) for name in wanted}

    @property
    def tensor_names(self):
        """Names that `run_graph` knows."""
        return list(self._tensors)

    def _graph(self, wanted):
        key = tuple((name, id(tensor)) for name, tensor in wanted.items())
        if key not in self._graphs:
            self._graphs[key] = compiled(keras.Model(self.keras_model.inputs, wanted))
        return self._graphs[key]

    def _molded_targets(self, targets):
        subtract_mean = self.config.MOLD_TARGETS_AT_INFERENCE
        molded = [
            molding.mold_references(crops_of(crops), self.config, subtract_mean=subtract_mean) for crops in targets
        ]
        if len({len(references) for references in molded}) > 1:
            raise ValueError(f"targets: one graph needs as many crops for each image, got {[len(t) for t in molded]}")
        return np.stack(molded)

    # ---- weights and checkpoints -------------------------------------------------------------------------------
    def load_weights(self, filepath, by_name=False, exclude=None):
        """Load a legacy .h5 file; weights are found by name whatever `by_name` says.

        Args:
            filepath: the file.
            by_name: kept for callers of the original.
            exclude: layer names, or regular expressions for them, that keep the values they have.

        Returns:
            loading.LoadReport: what was loaded, missing, unused.

        Raises:
            ValueError: the file cannot be read or does not fit; the model is left as it was.
        """
        report = loading.load_weights(self._layers, filepath, exclude=exclude or ())
        self.epoch = 0
        return report

    def load_imagenet_weights(self, pretraining="imagenet-1k", weights_path=None):
        """Load a backbone: `weights_path`, or imagenet-1k, imagenet-771 or imagenet-687 from CHECKPOINT_DIR."""
        path = weights_path or pretrained.find_weights(pretraining, self.config.CHECKPOINT_DIR)
        return self.load_weights(path)

    def load_checkpoint(self, weights_path, training_schedule=None, verbose=1):
        """Load a checkpoint and take its epoch from the four digits at the end of its name.

        `training_schedule` is kept for callers of the original, where reading depended on what was trainable.

        Raises:
            ValueError: no epoch in the name, or as `load_weights`.
        """
        digits = re.search(r"(\d{4})\.h5$", str(weights_path))
        if not digits:
            raise ValueError(f"{weights_path}: expected a name that ends in the epoch, such as siamese_mrcnn_0160.h5")
        report = self.load_weights(weights_path)
        self.epoch = int(digits.group(1))
        if verbose:
            _log.info("%s: epoch %d", weights_path, self.epoch)
        return report

    def load_latest_checkpoint(self, training_schedule=None):
        """`load_checkpoint` of `find_last()`."""
        return self.load_checkpoint(self.find_last(), training_schedule)

    def save_weights(self, filepath):
        """Write all weights to a legacy .h5 file that the original reads too."""
        loading.save_weights(self._layers, filepath)

    def find_last(self):
        """Path of the checkpoint of the last epoch in log_dir.

        Raises:
            ValueError: there is none.
        """
        return find_last_checkpoint(self.log_dir)

    def set_log_dir(self, model_path=None):
        """Set `log_dir` and `checkpoint_path` from the configuration, and epoch to 0.

        `model_path` is kept for callers of Matterport's; as in the original, the names do not depend on it.
        """
        self.epoch = 0
        self.log_dir = str(log_dir_of(self.config, self.model_dir))
        self.checkpoint_path = str(Path(self.log_dir) / "siamese_mrcnn_{epoch:04d}.h5")

    def set_trainable(self, layer_regex, keras_model=None, indent=0, verbose=0):
        """Make the layers trainable whose names match, nested models included, and freeze the others.

        Args:
            layer_regex: regular expression for whole layer names.
            keras_model: the model to go through, this one by default.
            indent: of what is logged.
            verbose: 1 logs the layers that train.

        Raises:
            ValueError: no layer matches.
        """
        names = select_layers((keras_model or self._layers).layers, layer_regex)
        if verbose:
            _log.info("%slayers that train: %s", " " * indent, ", ".join(names))


def shift_detections(outputs, windows_norm, rng):
    """Detections at random places: boxes shifted inside their pictures, scores permuted among them.

    Args:
        outputs: dict with mrcnn_detection [batch, n, (y1, x1, y2, x2, class_id, score)], boxes normalized, zero-padded,
            and perhaps mrcnn_mask [batch, n, 28, 28].
        windows_norm: [batch, (y1, x1, y2, x2)], the pictures inside their padding, normalized.
        rng: numpy.random.Generator.

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
