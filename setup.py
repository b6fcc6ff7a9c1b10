"""Packaging. The requirements are in requirements.txt, the version in siamese_mrcnn_tf/__init__.py."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
LINES = (HERE / "requirements.txt").read_text(encoding="utf-8").splitlines()
INIT = (HERE / "siamese_mrcnn_tf" / "__init__.py").read_text(encoding="utf-8")

NOTEBOOKS = ["jupytext>=1.16", "nbclient>=0.10", "nbmake>=1.5.4", "ipykernel>=6.29"]
APP = ["starlette>=0.46", "uvicorn>=0.34"]
HEIF = ["pillow-heif>=0.18", "pillow>=11.3"]
VIDEO = ["av>=14"]
ONNX = ["onnxruntime>=1.20", "onnx>=1.17", "tf2onnx>=1.16.1"]  # the last two write the files
OPENVINO = ["openvino>=2025.0"]
JAX = ["jax>=0.10"]
QUANTIZE = [*OPENVINO, "nncf>=2.15"]  # not in OPENVINO: it brings scikit-learn, which slows the import of Keras
DOCS = ["mkdocs>=1.6,<2", "mkdocs-material>=9.6", "mkdocstrings[python]>=0.30"]
TESTS = ["pytest>=8.3", "pytest-xdist>=3.7", "setuptools>=68", "wheel>=0.43", "playwright>=1.50", "hypothesis>=6.130"]
LINT = ["ruff>=0.15", "import-linter>=2.1", "mypy>=1.18"]

setup(
    name="siamese-mrcnn-tf",
    version=re.search(r'__version__ = "(.+)"', INIT)[1],
    description="Siamese Mask R-CNN: one-shot instance segmentation with Keras 3 and TensorFlow",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="The siamese-mrcnn-tf authors",
    license="MIT",
    license_files=["LICENSE"],
    keywords=[
        "one-shot learning",
        "instance segmentation",
        "object detection",
        "Mask R-CNN",
        "siamese network",
        "Keras",
    ],
    project_urls={
        "Paper": "https://arxiv.org/abs/1811.11507",
        "Original implementation": "https://github.com/bethgelab/siamese-mask-rcnn",
    },
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Intended Audience :: Science/Research",
        "Operating System :: OS Independent",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Recognition",
        "Typing :: Typed",
    ],
    python_requires=">=3.11",
    packages=find_packages(include=["siamese_mrcnn_tf", "siamese_mrcnn_tf.*"]),
    package_data={
        "siamese_mrcnn_tf": ["py.typed", "*/*.h5", "*/*.csv", "*/*.txt", "*/*.html", "*/*.json", "app/static/*"]
    },
    entry_points={"console_scripts": ["siamese-mrcnn = siamese_mrcnn_tf.cli.main:main"]},
    install_requires=[line for line in LINES if line and not line.startswith("#")],
    extras_require={
        "app": APP,
        "heif": HEIF,
        "video": VIDEO,
        "onnx": ONNX,
        "openvino": OPENVINO,
        "quantize": QUANTIZE,
        "jax": JAX,
        "notebooks": NOTEBOOKS,
        "docs": DOCS,
        "dev": [*TESTS, *LINT, *DOCS, *NOTEBOOKS, *APP, *HEIF, *VIDEO, *ONNX, *QUANTIZE, *JAX],
    },
)
