"""Detection with an exported network, without Keras and TensorFlow.

manifest: the file export.json of an exported folder.
sessions: one exported model in ONNX Runtime, OpenVINO or TensorFlow.
predictor: RuntimePredictor, the predictor over the exported parts, and open_predictor.
saved_model: a SavedModel as a session, the only module here that imports TensorFlow.
"""

from .. import lazy_names

__getattr__ = lazy_names(
    __name__, {".predictor": "RuntimePredictor open_predictor", ".manifest": "Manifest is_export read_export"}
)
