"""What the tests of the page share: image files, a searcher without a network, a running server."""

import contextlib
import io
import socket
import threading

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as mask_utils

from siamese_mrcnn_tf.app.searcher import RawFinds, outlines_of
from siamese_mrcnn_tf.data.embeddings import ReferenceEmbedding

THRESHOLD = 0.6


def image_file(pixels=None, kind="PNG", **options):
    """Bytes of an image file; pixels uint8 [height, width, RGB], by default 40 x 60."""
    content = io.BytesIO()
    pixels = np.full((40, 60, 3), 90, np.uint8) if pixels is None else pixels
    Image.fromarray(pixels).save(content, kind, **options)
    return content.getvalue()


class FakeSearcher:
    """Finds two objects with scores 0.9 and 0.3 in each image: one in the corner, one in the middle."""

    BOXES = np.array([[0, 0, 10, 10], [15, 20, 30, 40]], np.int32)

    def __init__(self, has_masks=True):
        self.num_searches, self.forgotten, self.has_masks = 0, [], has_masks

    def encode_reference(self, pixels, box):
        assert pixels.shape[:2] == (40, 60)
        return ReferenceEmbedding(np.full((1, 5, 4), float(box[0]), np.float32))

    def search(self, image, embedding):
        self.num_searches += 1
        masks = np.zeros((image.height, image.width, 2), bool)
        for number, (y1, x1, y2, x2) in enumerate(self.BOXES):
            masks[y1:y2, x1:x2, number] = True
        rles = mask_utils.encode(np.asfortranarray(masks, np.uint8)) if self.has_masks else None
        outlines = [outlines_of(masks[..., number], box) for number, box in enumerate(self.BOXES)]
        return RawFinds(self.BOXES, np.array([0.9, 0.3], np.float32), rles, outlines, (image.height, image.width))

    def forget(self, image):
        self.forgotten.append(image.name)


@contextlib.contextmanager
def served(sessions, **options):
    """The page of these sessions at a port of this machine: its (host, port)."""
    uvicorn = pytest.importorskip("uvicorn")
    pytest.importorskip("starlette")
    from siamese_mrcnn_tf.app.server import build_app

    app = build_app(sessions, about="a model", loopback=True, **options)
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=2))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield listening.getsockname()
        finally:
            server.should_exit = True
            thread.join(20)
