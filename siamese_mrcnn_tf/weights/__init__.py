"""Weight files.

legacy_h5: the `.h5` layout of Keras 2 and Matterport, read and written by name.
identify: what a set of weights is, inferred from names and shapes.
loading: weights into layers and back, with a report.
batch_norm: the epsilon of keras-applications.
known_files: published files; names, sources, kinds.
pretrained: the file that a name stands for.
fetching, releases, trusted: downloads of known files, the releases of a repository, remembered checksums.
runs: folders of training runs.
choice: the configuration to detect with weights.
thresholds: threshold files beside weight files.
"""

from .. import lazy_names

__getattr__ = lazy_names(__name__, {".loading": "LoadReport describe_weights fitting_config load_weights save_weights"})
