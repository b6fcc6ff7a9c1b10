"""Packaging; requirements are read from requirements.txt."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
REQUIREMENTS = [
    line for line in (HERE / "requirements.txt").read_text().splitlines() if line and not line.startswith("#")
]
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "siamese_mrcnn_tf" / "__init__.py").read_text()).group(1)

setup(
    name="siamese-mrcnn-tf",
    version=VERSION,
    description="Siamese Mask R-CNN: one-shot instance segmentation with Keras 3 and TensorFlow",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    packages=find_packages(include=["siamese_mrcnn_tf", "siamese_mrcnn_tf.*"]),
    package_data={"siamese_mrcnn_tf": ["py.typed", "*/*.h5", "*/*.csv", "*/*.html", "*/*.txt"]},
    entry_points={"console_scripts": ["siamese-mrcnn = siamese_mrcnn_tf.cli.main:main"]},
    python_requires=">=3.11",
    install_requires=REQUIREMENTS,
    extras_require={
        "dev": [
            *("pytest>=8", "pytest-xdist>=3.7", "ruff>=0.6", "import-linter>=2.1"),
            *("jupytext>=1.16", "nbclient>=0.10", "ipykernel>=6.29"),  # for the notebooks
        ],
    },
)
