"""Export of a network to ONNX, OpenVINO, SavedModel and Keras files, each run again and compared.

exporter: export_network, which writes an exported folder.
graphs: the network and its three parts as functions of fixed shapes.
formats: these functions as files.
comparison: what an exported network finds in a scene, beside what the network itself finds.
"""

from .. import lazy_names

__getattr__ = lazy_names(__name__, {".exporter": "export_network", ".formats": "FORMATS"})
