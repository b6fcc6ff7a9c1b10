"""Image files: broken, truncated, thin, huge, deep, of other kinds, and things that are no files; five readers."""

import io
import json
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import coco_tree
import numpy as np
from PIL import Image

from ..case import EITHER, ERROR, FINDS, SKIPS, WORKS, Case

GOOD, BAD, OPEN = "good", "bad", "open"  # is read, is refused, may be either
Writer = Callable[[Path], object]


def photo(width: int = 60, height: int = 40, mode: str = "RGB") -> Image.Image:
    """A gradient."""
    rows, columns = np.mgrid[:height, :width]
    pixels = np.stack([rows * 5 % 256, columns * 4 % 256, (rows + columns) % 256], axis=-1)
    return Image.fromarray(pixels.astype(np.uint8)).convert(mode)


def encoded(kind: str, **options: object) -> bytes:
    """The bytes of a gradient in a format."""
    buffer = io.BytesIO()
    photo().save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG file."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *, depth: int = 8, colour: int = 2, data: bytes = b"", before: bytes = b"") -> bytes:
    """A PNG file whose header declares a size."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(data, 9))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + before + body + chunk(b"IEND", b"")


def bmp(width: int, height: int) -> bytes:
    """A BMP header and a few bytes."""
    head = struct.pack("<2sIHHI", b"BM", 100, 0, 0, 54)
    return head + struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0) + bytes(64)


def gif(width: int, height: int) -> bytes:
    """A GIF header and a few bytes."""
    return b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6) + b",\0\0\0\0" + bytes(30)


def tiff(width: int, height: int, bits: int = 8) -> bytes:
    """A TIFF header that declares a size, with one short strip."""
    entries = [(256, 4, width), (257, 4, height), (258, 3, bits), (259, 3, 1), (262, 3, 1)]
    entries += [(273, 4, 8), (277, 3, 1), (278, 4, height), (279, 4, 16)]
    directory = struct.pack("<H", len(entries))
    for tag, kind, value in entries:
        directory += struct.pack("<HHII", tag, kind, 1, value)
    return b"II*\0" + struct.pack("<I", 24) + bytes(16) + directory + struct.pack("<I", 0)


def _bytes(content: bytes) -> Writer:
    return lambda path: path.write_bytes(content)


def _image(mode: str, kind: str, size: tuple[int, int] = (60, 40), **options: object) -> Writer:
    return lambda path: photo(*size, mode=mode).save(path, kind, **options)


def _array(values: np.ndarray, kind: str) -> Writer:
    return lambda path: Image.fromarray(values).save(path, kind)


def _frames(kind: str) -> Writer:
    def write(path: Path) -> None:
        frames = [Image.new("RGB", (40, 30), (80 * number, 10, 10)) for number in range(3)]
        frames[0].save(path, kind, save_all=True, append_images=frames[1:], duration=50)

    return write


def _link(target: str) -> Writer:
    return lambda path: path.symlink_to(target)


def _to_good(path: Path) -> None:
    photo().save(path.with_name("linked.dat"), "PNG")
    path.symlink_to("linked.dat")


def _animated_with_tags(path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 77
    photo().save(path, "JPEG", exif=exif)


def _truncated() -> Iterator[tuple[str, Writer, str]]:
    for suffix, kind in (
        ("png", "PNG"),
        ("jpg", "JPEG"),
        ("gif", "GIF"),
        ("tif", "TIFF"),
        ("bmp", "BMP"),
        ("webp", "WEBP"),
    ):
        content = encoded(kind)
        for share in (4, 20, 55):
            cut = content[: max(len(content) * share // 100, 3)]
            yield f"truncated_{share}.{suffix}", _bytes(cut), BAD


def kinds() -> Iterator[tuple[str, Writer, str]]:
    """(name, writer of the file, GOOD, BAD or OPEN)."""
    yield from _truncated()
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 50 50\n%%EndComments\nshowpage\n%%EOF\n"
    deep = (np.arange(2400, dtype=np.uint16).reshape(40, 60)) * 20
    noisy = np.full((40, 60), np.nan, np.float32)
    flat_png, crc = encoded("PNG"), bytearray(encoded("PNG"))
    crc[45] ^= 0xFF
    bomb = chunk(b"zTXt", b"key\0\0" + zlib.compress(bytes(200_000_000), 9))
    yield from (
        ("zero_bytes.png", _bytes(b""), BAD),
        ("text.png", _bytes(b"hello\n" * 20), BAD),
        ("eps.png", _bytes(eps), BAD),
        ("eps.jpg", _bytes(eps), BAD),
        ("pdf.png", _bytes(b"%PDF-1.4\n1 0 obj\n<<>>\nendobj\n"), BAD),
        ("svg.png", _bytes(b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>"), BAD),
        ("wmf.png", _bytes(b"\xd7\xcd\xc6\x9a\0\0" + bytes(60)), BAD),
        ("signature_alone.png", _bytes(flat_png[:8]), BAD),
        ("damaged_data.png", _bytes(bytes(crc)), BAD),
        ("no_data.png", _bytes(png(10, 10)), BAD),
        ("declares_100000_squared.png", _bytes(png(100_000, 100_000)), BAD),
        ("declares_2_31.png", _bytes(png(2**31 - 1, 2**31 - 1)), BAD),
        ("declares_2_31_by_1.png", _bytes(png(2**31 - 1, 1)), BAD),
        ("declares_zero.png", _bytes(png(0, 0)), BAD),
        ("declares_zero_height.png", _bytes(png(10, 0)), BAD),
        ("depth_3.png", _bytes(png(10, 10, depth=3, data=bytes(400))), BAD),
        ("text_bomb.png", _bytes(png(4, 4, data=bytes(52), before=bomb)), OPEN),
        ("declares_huge.bmp", _bytes(bmp(2**30, 2**30)), BAD),
        ("declares_negative.bmp", _bytes(bmp(-5, 10)), BAD),
        ("declares_huge.gif", _bytes(gif(65535, 65535)), BAD),
        ("declares_huge.tif", _bytes(tiff(2**31, 2**31)), BAD),
        ("declares_huge_16.tif", _bytes(tiff(60_000, 60_000, 16)), BAD),
        ("declares_wide_16.tif", _bytes(tiff(2**31, 2, 16)), BAD),
        ("declares_17_bits.tif", _bytes(tiff(10, 10, 17)), BAD),
        ("zero_size.tif", _bytes(tiff(0, 0)), BAD),
        ("directory_loop.tif", _bytes(b"II*\0\x08\0\0\0\0\0\x08\0\0\0"), BAD),
        ("fifo.png", lambda path: os.mkfifo(path), BAD),
        ("folder.png", lambda path: path.mkdir(), BAD),
        ("dangling_link.png", _link("nowhere.png"), BAD),
        ("link_to_itself.png", lambda path: path.symlink_to(path.name), BAD),
        ("link_to_zeros.png", _link("/dev/zero"), BAD),
        ("link_to_null.png", _link("/dev/null"), BAD),
        ("link_to_image.png", _to_good, GOOD),
        ("deep.png", _array(deep, "PNG"), GOOD),
        ("deep.tif", _array(deep, "TIFF"), GOOD),
        ("numbers_that_are_none.tif", _array(noisy, "TIFF"), OPEN),
        ("integers.tif", _array(deep.astype(np.int32), "TIFF"), OPEN),
        ("cmyk.jpg", _image("CMYK", "JPEG"), GOOD),
        ("grey.jpg", _image("L", "JPEG"), GOOD),
        ("grey_alpha.png", _image("LA", "PNG"), GOOD),
        ("palette.gif", _image("P", "GIF"), GOOD),
        ("one_bit.png", _image("1", "PNG"), GOOD),
        ("alpha.webp", _image("RGBA", "WEBP"), GOOD),
        ("animated.gif", _frames("GIF"), GOOD),
        ("animated.png", _frames("PNG"), GOOD),
        ("animated.webp", _frames("WEBP"), GOOD),
        ("pages.tif", _frames("TIFF"), GOOD),
        ("png_named.jpg", _image("RGB", "PNG"), GOOD),
        ("orientation_77.jpg", _animated_with_tags, GOOD),
        ("broken_exif.jpg", _image("RGB", "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff" + bytes(8)), GOOD),
        ("broken_profile.png", _image("RGB", "PNG", icc_profile=b"nonsense" * 20), GOOD),
        ("one_pixel.png", _image("RGB", "PNG", (1, 1)), GOOD),
        ("thin_1_by_90.png", _image("RGB", "PNG", (1, 90)), GOOD),
        ("thin_1_by_3000.png", _image("RGB", "PNG", (1, 3000)), GOOD),
        ("thin_9000_by_2.png", _image("RGB", "PNG", (9000, 2)), GOOD),
        ("thin_60000_by_1.png", _image("RGB", "PNG", (60_000, 1)), GOOD),
    )


def cases() -> Iterator[Case]:
    """Each file as the image, in a folder beside a good image, as reference, in a data set, and for `convert`."""
    predict = ("predict", "--model", "{base}/exported", "--quiet", "--out", "out")
    for name, write, state in kinds():
        needs = ("exported", "scene.png", "crop.png")
        one = {GOOD: WORKS, BAD: ERROR, OPEN: EITHER}[state]
        words = (*predict, "--image", name, "--reference", "{base}/crop.png")
        yield Case(f"images/predict/{name}", words, one, (name,), _at(name, write), needs)
        words = (*predict, "--image", "{base}/scene.png", "--reference", name)
        yield Case(f"images/reference/{name}", words, one, (name,), _at(name, write), needs)
        if state != OPEN and not name.startswith("folder"):
            several = {GOOD: WORKS, BAD: SKIPS}[state]
            words = (*predict, "--image", "many", "--reference", "{base}/crop.png")
            named = () if "fifo" in name or "link" in name else (name,)
            yield Case(
                f"images/among_others/{name}", words, several if named else EITHER, named, _among(name, write), needs
            )
            found = {GOOD: WORKS, BAD: FINDS}[state]
            words = ("check", "--dataset", "set", "--subset", "val", "--samples", "0", "--out", "drawn")
            yield Case(f"images/check/{name}", words, found, (name,), _in_set(name, write))
            words = ("convert", "set/annotations/instances_val2017.json", "--images", "set/val2017", "--out", "out")
            yield Case(f"images/convert/{name}", words, one, (name,), _in_set(name, write))
    yield from _names()


def _at(name: str, write: Writer) -> Writer:
    return lambda folder: write(folder / name)


def _among(name: str, write: Writer) -> Writer:
    def make(folder: Path) -> None:
        (folder / "many").mkdir()
        photo().save(folder / "many" / "a_good.png")
        write(folder / "many" / name)

    return make


def _in_set(name: str, write: Writer) -> Writer:
    def make(folder: Path) -> None:
        content = coco_tree.write_tree(folder / "set", num_images=3)
        image = content["images"][0]
        (folder / "set" / "val2017" / image["file_name"]).unlink()
        image["file_name"] = name
        path = folder / "set" / "val2017" / name
        write(path)
        if path.is_file() and path.stat().st_size < 10**7:
            _fit(content, path)
        coco_tree.write_annotations(folder / "set", content)

    return make


def _fit(content: dict, path: Path) -> None:
    """Annotate the size that an image has, with boxes of it."""
    try:
        with Image.open(path) as image:
            width, height = image.size
    except Exception:  # a broken one keeps what is annotated
        return
    if not 0 < width * height < 10**6:
        return
    entry = content["images"][0]
    entry["width"], entry["height"] = width, height
    for annotation in content["annotations"]:
        if annotation["image_id"] == entry["id"]:
            annotation["segmentation"] = [[0, 0, width, 0, width, height, 0, height]]
            annotation |= {"bbox": [0, 0, width, height], "area": width * height, "iscrowd": 0}


def _names() -> Iterator[Case]:
    """Names of files, good images all."""
    names = {
        "space": "two words.png",
        "accents": "Käfer é.png",
        "chinese": "螺栓.png",
        "new_line": "two\nlines.png",
        "not_utf8": os.fsdecode(b"caf\xe9.png"),
        "dash": "-x.png",
        "percent": "100%s%d.png",
        "markup": "<b>&amp;.png",
        "dollar": "$\\frac{$.png",
        "long": "n" * 240 + ".png",
        "no_suffix": "image",
        "hidden": ".hidden.png",
        "box": "a:1,2,3,4.png",
        "equals": "a=b.png",
    }
    needs = ("exported", "scene.png", "crop.png")
    for name, file in names.items():
        make = _at(file, lambda path: photo().save(path, "PNG"))
        expected = (ERROR, ("no characters",)) if name == "not_utf8" else (WORKS, ())
        words = ("predict", "--model", "{base}/exported", "--out", "out", "--save", "all", "--image", f"./{file}")
        yield Case(f"images/names/{name}", (*words, "--reference", "{base}/crop.png"), *expected, make, needs)
        words = (
            "predict",
            "--model",
            "{base}/exported",
            "--out",
            "out",
            "--save",
            "all",
            "--image",
            "{base}/scene.png",
        )
        yield Case(f"images/reference_names/{name}", (*words, "--reference", f"./{file}"), *expected, make, needs)
    plain = ("predict", "--model", "{base}/exported", "--out", "out", "--reference", "{base}/crop.png", "--image")
    for name, given in {"empty": "", "root_device": "/dev/zero", "nothing": "no.png", "no_match": "*.webp"}.items():
        yield Case(f"images/given/{name}", (*plain, given), ERROR, ("--image" if not given else given,), needs=needs)
    text = json.dumps({"a": 1})
    make = _at("notes.json", lambda path: path.write_text(text))
    yield Case("images/given/json", (*plain, "notes.json"), ERROR, ("notes.json",), make, needs)
