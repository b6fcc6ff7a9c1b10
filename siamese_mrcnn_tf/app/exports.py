"""Downloads of a session: COCO annotations, LabelMe files, embeddings."""

import io
import json
import zipfile
from collections.abc import Mapping
from typing import Any

from ..io.locks import temporary_folder
from ..search.formats import coco_annotations, labelme_json
from ..search.names import file_stems
from .session import Session


def coco_file(session: Session) -> bytes:
    """The annotations of all images in COCO's format."""
    categories, results = session.results()
    images, annotations = list[dict[str, Any]](), list[dict[str, Any]]()
    content = coco_annotations([], categories)
    for result in results:  # the masks of one image at a time
        found = coco_annotations([result], categories)
        images += found["images"]
        annotations += [one | {"id": len(annotations) + n} for n, one in enumerate(found["annotations"], 1)]
    return _json(content | {"images": images, "annotations": annotations})


def labelme_archive(session: Session) -> bytes:
    """A zip archive with a LabelMe file for each image, named after it."""
    categories, results = session.results()
    return _archive({f"{result.name}.json": _json(labelme_json(result, categories)) for result in results})


def embeddings_archive(session: Session) -> bytes:
    """A zip archive with the embedding of each category, named after it (`ReferenceEmbedding.load` reads it)."""
    used = session.used_categories()
    names = file_stems([category.name for category in used])
    files = {}
    with temporary_folder() as folder:
        for name, category in zip(names, used, strict=True):
            path = folder / "embedding.npz"
            category.embedding.save(path)
            files[f"{name}.npz"] = path.read_bytes()
    return _archive(files)


EXPORTS = {  # name in addresses -> (file name, media type, function)
    "coco": ("annotations.json", "application/json", coco_file),
    "labelme": ("labelme.zip", "application/zip", labelme_archive),
    "embeddings": ("embeddings.zip", "application/zip", embeddings_archive),
}


def _json(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, allow_nan=False).encode()


def _archive(files: Mapping[str, bytes]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return content.getvalue()
