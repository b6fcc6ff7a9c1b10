"""Weight files and saved embeddings that are damaged, that lie about their size, or that point elsewhere."""

import io
import os
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from weight_models import flat, nested, network_shapes, random_arrays, write_h5

from ..base import micro_config
from ..case import EITHER, ERROR, WORKS, Case

Make = Callable[[Path], Any]
_PREDICT = ("predict", "--image", "{base}/scene.png", "--reference", "{base}/crop.png", "--out", "out", "--quiet")
_CONFIG = ("--config", "{base}/micro.json")
_NEEDS = ("scene.png", "crop.png", "micro.json")


def arrays() -> dict[str, np.ndarray]:
    """Values for all weights of the smallest network."""
    return random_arrays(network_shapes(micro_config()))


def good(path: Path) -> Path:
    """A legacy file of the smallest network."""
    return write_h5(path, nested(arrays()))


def _changed(change: Callable[[h5py.File], Any]) -> Make:
    def make(folder: Path) -> None:
        good(folder / "w.h5")
        with h5py.File(folder / "w.h5", "r+") as file:
            change(file)

    return make


def _place(file: h5py.File) -> tuple[h5py.Group, str]:
    """(group, name) of the first weight of the RPN."""
    group = file["rpn_model"] if "rpn_model" in file else file[file.attrs["layer_names"][0]]
    return group, group.attrs["weight_names"][0].decode()


def _replaced(write: Callable[[h5py.Group, str, tuple[int, ...]], Any]) -> Make:
    def change(file: h5py.File) -> None:
        group, name = _place(file)
        shape = group[name].shape
        del group[name]
        write(group, name, shape)

    return _changed(change)


def _filled(value: float) -> Make:
    def change(file: h5py.File) -> None:
        group, name = _place(file)
        group[name][...] = value

    return _changed(change)


def _external(group: h5py.Group, name: str, shape: tuple[int, ...]) -> None:
    size = int(np.prod(shape)) * 4
    group.create_dataset(name, shape, np.float32, external=[("/etc/services", 0, size)])


def _virtual(group: h5py.Group, name: str, shape: tuple[int, ...]) -> None:
    layout = h5py.VirtualLayout(shape, np.float32)
    layout[...] = h5py.VirtualSource("other.h5", "a", shape)
    group.create_virtual_dataset(name, layout)


def _bomb(group: h5py.Group, name: str, shape: tuple[int, ...]) -> None:
    group.create_dataset(name, (2**15, 2**15), np.float32, chunks=(2**10, 2**10), compression="gzip", fillvalue=0)


def _layer_names(value: Any) -> Make:
    def change(file: h5py.File) -> None:
        del file.attrs["layer_names"]
        if value is not None:
            file.attrs["layer_names"] = value

    return _changed(change)


def _without(*starts: str) -> Make:
    def make(folder: Path) -> None:
        kept = {name: array for name, array in arrays().items() if not name.startswith(starts)}
        write_h5(folder / "w.h5", nested(kept))

    return make


def _cut(share: float) -> Make:
    def make(folder: Path) -> None:
        content = good(folder / "w.h5").read_bytes()
        (folder / "w.h5").write_bytes(content[: int(len(content) * share)])

    return make


def _flipped(seed: int) -> Make:
    def make(folder: Path) -> None:
        content = bytearray(good(folder / "w.h5").read_bytes())
        rng = np.random.default_rng(seed)
        for place in rng.integers(0, min(len(content), 4000), 12):
            content[place] ^= 1 << int(rng.integers(8))
        (folder / "w.h5").write_bytes(bytes(content))

    return make


def _raw(content: bytes) -> Make:
    return lambda folder: (folder / "w.h5").write_bytes(content)


def _soft_to_itself(file: h5py.File) -> None:
    group, name = _place(file)
    del group[name]
    group[name] = h5py.SoftLink(f"{group.name}/{name}")


def _linked(link: Any) -> Make:
    return _replaced(lambda group, name, shape: group.__setitem__(name, link))


BROKEN: dict[str, Make] = {
    "zero_bytes": _raw(b""),
    "text": _raw(b"no weights\n" * 50),
    "signature": _raw(b"\x89HDF\r\n\x1a\n"),
    "zip": _raw(b"PK\x05\x06" + bytes(18)),
    "pickle": _raw(b"\x80\x04cos\nsystem\n."),
    "lfs_pointer": _raw(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n"),
    "html": _raw(b"<!DOCTYPE html><html><body>Not found</body></html>"),
    **{f"cut_{int(share * 100)}": _cut(share) for share in (0.02, 0.1, 0.3, 0.5, 0.9, 0.99)},
    "folder": lambda folder: (folder / "w.h5").mkdir(),
    "fifo": lambda folder: os.mkfifo(folder / "w.h5"),
    "dangling": lambda folder: (folder / "w.h5").symlink_to("gone.h5"),
    "device": lambda folder: (folder / "w.h5").symlink_to("/dev/zero"),
    "nothing_in_it": lambda folder: h5py.File(folder / "w.h5", "w").close(),
    "no_layer_names": _layer_names(None),
    "layer_names_number": _layer_names(5),
    "layer_names_empty": _layer_names(np.zeros(0, "S1")),
    "layer_names_gone": _layer_names(np.array([b"gone"])),
    "layer_names_up": _layer_names(np.array([b"../.."])),
    "layer_names_not_utf8": _layer_names(np.array([b"caf\xe9"])),
    "external_storage": _replaced(_external),
    "virtual": _replaced(_virtual),
    "soft_link_away": _linked(h5py.SoftLink("/gone")),
    "external_link": _linked(h5py.ExternalLink("/etc/passwd", "/a")),
    "link_loop": _changed(_soft_to_itself),
    "declares_4_gb": _replaced(lambda group, name, shape: group.create_dataset(name, (2**30,), np.float32)),
    "declares_4_tb": _replaced(lambda g, name, shape: g.create_dataset(name, (2**40,), np.float32, chunks=(2**20,))),
    "compressed_4_gb": _replaced(_bomb),
    "transposed": _replaced(lambda g, name, shape: g.create_dataset(name, shape[::-1], np.float32)),
    "flat": _replaced(lambda g, name, shape: g.create_dataset(name, (int(np.prod(shape)),), np.float32)),
    "scalar": _replaced(lambda g, name, shape: g.create_dataset(name, (), np.float32)),
    "no_rows": _replaced(lambda g, name, shape: g.create_dataset(name, (0, *shape[1:]), np.float32)),
    "null_space": _replaced(lambda g, name, shape: g.create_dataset(name, data=h5py.Empty("f"))),
    "texts": _replaced(lambda g, name, shape: g.create_dataset(name, shape, h5py.string_dtype())),
    "compound": _replaced(lambda g, name, shape: g.create_dataset(name, shape, [("a", "f4"), ("b", "i4")])),
    "complex": _replaced(lambda g, name, shape: g.create_dataset(name, shape, np.complex64)),
    "references": _replaced(lambda g, name, shape: g.create_dataset(name, shape, h5py.ref_dtype)),
    "group_in_place": _replaced(lambda g, name, shape: g.create_group(name)),
    "weight_gone": _replaced(lambda g, name, shape: None),
    "no_rpn": _without("rpn_"),
    "no_masks": _without("mrcnn_mask"),
    "no_backbone": _without("res", "bn", "conv1"),
    "backbone_alone": _without("fpn", "rpn", "mrcnn"),
    "one_bias_missing": _without("mrcnn_class_logits/bias"),
    "nan": _filled(np.nan),
    "infinite": _filled(-np.inf),
}


def cases() -> Iterator[Case]:
    """All of this family."""
    for name, make in BROKEN.items():
        told = name.startswith(("no_", "backbone", "one_bias", "nan", "infinite")) and name not in (
            "no_layer_names",
            "no_rows",
        )
        expected = EITHER if told else ERROR
        mention = ("w.h5",)
        yield Case(f"weights/describe/{name}", ("weights", "w.h5"), expected, mention, make, fault=_told(name))
        words = (*_PREDICT, "--model", "w.h5", *_CONFIG)
        yield Case(f"weights/predict/{name}", words, ERROR, mention, make, _NEEDS)
        words = ("evaluate", "--dataset", "{base}/set", "--out", "out", "--model", "w.h5", *_CONFIG)
        yield Case(f"weights/evaluate/{name}", words, ERROR, mention, make, (*_NEEDS, "set"))
    for seed in range(12):
        words = ("weights", "w.h5")
        yield Case(f"weights/describe/flipped_{seed}", words, EITHER, ("w.h5",), _flipped(seed))
    yield Case("weights/describe/good", ("weights", "w.h5"), WORKS, (), lambda folder: good(folder / "w.h5"))
    make = lambda folder: write_h5(folder / "w.h5", flat(arrays()))  # noqa: E731
    yield Case("weights/describe/good_flat", ("weights", "w.h5"), WORKS, (), make)
    words = (*_PREDICT, "--model", "w.h5", *_CONFIG)
    yield Case("weights/predict/good", words, WORKS, (), lambda folder: good(folder / "w.h5"), _NEEDS)
    yield from _keras()
    yield from _embeddings()


def _told(name: str) -> Callable[[Path, str], str | None]:
    """`weights FILE` says what is missing, and that values are no numbers."""

    def fault(folder: Path, output: str) -> str | None:
        if name in ("nan", "infinite"):
            return None if "NaN" in output or "finite" in output else "says nothing of values that are not finite"
        if name in ("no_rpn", "no_masks", "no_backbone", "one_bias_missing"):
            return None if "missing" in output or "lack" in output else "says nothing of missing weights"
        return None

    return fault


def _keras() -> Iterator[Case]:
    """Files with the suffixes of Keras."""

    def zipped(entries: dict[str, bytes]) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in entries.items():
                archive.writestr(name, content)
        return buffer.getvalue()

    lambda_config = b'{"class_name": "Lambda", "config": {"function": "import os"}, "module": "keras.layers"}'
    contents = {
        "w.keras": {
            "empty": b"",
            "text": b"text",
            "no_members": zipped({}),
            "no_weights": zipped({"config.json": b"{}", "metadata.json": b"{}"}),
            "lambda": zipped({"config.json": lambda_config, "metadata.json": b"{}", "model.weights.h5": b"x"}),
            "deep": zipped({"config.json": b"[" * 100_000, "metadata.json": b"{}", "model.weights.h5": b"x"}),
            "bomb": zipped({"config.json": b"{}", "metadata.json": b"{}", "model.weights.h5": bytes(300_000_000)}),
            "up": zipped({"../../up.txt": b"x", "config.json": b"{}"}),
            "cut": zipped({"config.json": b"{}" * 500})[:-30],
        },
        "w.weights.h5": {"empty": b"", "text": b"text", "zip": zipped({"a": b""})},
        "w.npz": {"as_weights": zipped({"a.npy": b"x"})},
        "w.pt": {"torch": zipped({"archive/data.pkl": b"\x80\x02}."})},
        "w.safetensors": {"header": struct.pack("<Q", 2**60) + b"{}"},
        "w.ckpt": {"text": b"text"},
    }
    for file, kinds in contents.items():
        for name, content in kinds.items():
            make = lambda folder, file=file, content=content: (folder / file).write_bytes(content)  # noqa: E731
            yield Case(f"weights/keras/describe/{file}/{name}", ("weights", file), ERROR, (file,), make)
            words = (*_PREDICT, "--model", file, *_CONFIG)
            yield Case(f"weights/keras/predict/{file}/{name}", words, ERROR, (file,), make, _NEEDS)


def npz(path: Path, **members: Any) -> None:
    """An archive of arrays; bytes are members as they are."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, value in members.items():
            if isinstance(value, bytes):
                archive.writestr(f"{name}.npy", value)
                continue
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, np.asarray(value), allow_pickle=True)
            archive.writestr(f"{name}.npy", buffer.getvalue())


def npy(descr: str, shape: str, body: bytes = b"") -> bytes:
    """An array file with a header of one's own."""
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + body


def _embeddings() -> Iterator[Case]:
    vectors = np.ones((1, 5, 16), np.float32)
    bad: dict[str, Make] = {
        "empty": lambda folder: (folder / "r.npz").write_bytes(b""),
        "text": lambda folder: (folder / "r.npz").write_text("text"),
        "zip_without_members": lambda folder: npz(folder / "r.npz"),
        "other_members": lambda folder: npz(folder / "r.npz", a=vectors),
        "numpy_array": lambda folder: (folder / "r.npz").write_bytes(npy("'<f4'", "(1, 5, 16)", bytes(320))),
        "cut": lambda folder: (npz(folder / "r.npz", vectors=vectors), os.truncate(folder / "r.npz", 60)),
        "bomb": lambda folder: npz(folder / "r.npz", vectors=npy("'<f4'", "(1, 5, 200000000)", bytes(10**8))),
        "declares_4_gb": lambda folder: npz(folder / "r.npz", vectors=npy("'<f4'", "(1, 5, 200000000)", bytes(64))),
        "short_body": lambda folder: npz(folder / "r.npz", vectors=npy("'<f4'", "(1, 5, 16)", bytes(64))),
        "negative_shape": lambda folder: npz(folder / "r.npz", vectors=npy("'<f4'", "(1, -5, -16)", bytes(320))),
        "digits_shape": lambda folder: npz(folder / "r.npz", vectors=npy("'<f4'", f"(1, {'9' * 400})", b"")),
        "text_shape": lambda folder: npz(folder / "r.npz", vectors=npy("'<f4'", "('a',)", b"")),
        "zero_width_type": lambda folder: npz(folder / "r.npz", vectors=npy("'<V0'", "(1000000000000,)", b"")),
        "code_in_header": lambda folder: npz(folder / "r.npz", vectors=npy("__import__('os')", "(1,)", b"")),
        "deep_header": lambda folder: npz(folder / "r.npz", vectors=npy("(" * 9000, "(1,)", b"")),
        "objects": lambda folder: npz(folder / "r.npz", vectors=np.array([{}], object)),
        "texts": lambda folder: npz(folder / "r.npz", vectors=np.array([[["a"]]])),
        "integers": lambda folder: npz(folder / "r.npz", vectors=vectors.astype(int)),
        "complex": lambda folder: npz(folder / "r.npz", vectors=vectors.astype(complex)),
        "two_axes": lambda folder: npz(folder / "r.npz", vectors=vectors[0]),
        "no_rows": lambda folder: npz(folder / "r.npz", vectors=vectors[:0]),
        "nan": lambda folder: npz(folder / "r.npz", vectors=vectors * np.nan),
        "other_width": lambda folder: npz(folder / "r.npz", vectors=np.ones((1, 5, 8), np.float32)),
        "other_levels": lambda folder: npz(folder / "r.npz", vectors=np.ones((1, 3, 16), np.float32)),
        "views_nan": lambda folder: npz(folder / "r.npz", vectors=vectors, views=vectors * np.nan),
        "views_shape": lambda folder: npz(folder / "r.npz", vectors=vectors, views=vectors[:, :2]),
        "threshold_nan": lambda folder: npz(folder / "r.npz", vectors=vectors, threshold=np.nan),
        "threshold_two": lambda folder: npz(folder / "r.npz", vectors=vectors, threshold=2.0),
        "threshold_text": lambda folder: npz(folder / "r.npz", vectors=vectors, threshold="high"),
        "threshold_array": lambda folder: npz(folder / "r.npz", vectors=vectors, threshold=[0.1, 0.2]),
        "sha_number": lambda folder: npz(folder / "r.npz", vectors=vectors, weights_sha256=5),
        "sha_other": lambda folder: npz(folder / "r.npz", vectors=vectors, weights_sha256="0" * 64),
        "num_views_digits": lambda folder: npz(
            folder / "r.npz", vectors=vectors, num_views=npy("'<f8'", "()", struct.pack("<d", 1e308))
        ),
        "num_views_nan": lambda folder: npz(folder / "r.npz", vectors=vectors, num_views=np.nan),
        "num_views_negative": lambda folder: npz(folder / "r.npz", vectors=vectors, num_views=-3),
        "fifo": lambda folder: os.mkfifo(folder / "r.npz"),
        "folder": lambda folder: (folder / "r.npz").mkdir(),
        "device": lambda folder: (folder / "r.npz").symlink_to("/dev/zero"),
    }
    words = (
        "predict",
        "--model",
        "{base}/exported",
        "--image",
        "{base}/scene.png",
        "--reference",
        "r.npz",
        "--out",
        "out",
    )
    needs = ("exported", "scene.png")
    for name, make in bad.items():
        yield Case(f"weights/embedding/{name}", words, ERROR, ("r.npz",), make, needs)
    make = lambda folder: npz(folder / "r.npz", vectors=vectors)  # noqa: E731
    yield Case("weights/embedding/good", words, WORKS, (), make, needs)
    make = lambda folder: npz(folder / "r.npz", vectors=vectors, name="a\0/../b" * 40)  # noqa: E731
    yield Case("weights/embedding/name", (*words, "--save-embeddings"), EITHER, ("r.npz",), make, needs)
