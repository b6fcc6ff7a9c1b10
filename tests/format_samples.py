"""A drawn set, and its export in the formats of annotation tools, written from the formats' documentation."""

import base64
import io
import json
import zlib
from xml.sax.saxutils import quoteattr

import numpy as np
import pycocotools.mask as coco_mask
from PIL import Image, ImageDraw

HEIGHT, WIDTH = 120, 160
NAMES = ("bolt, M8", "Käfer blau", "wing")
SUBSETS = {"one.png": "train", "two.png": "train", "three.png": "val", "four.png": "val"}
_CONCAVE = [[20, 20], [60, 20], [60, 60], [40, 30], [20, 60]]
_STAR = [[110, 30], [118, 50], [140, 52], [122, 64], [130, 90], [110, 72], [90, 90], [98, 64], [80, 52], [102, 50]]
_PARTS = [[[10, 80], [30, 80], [30, 110]], [[40, 80], [60, 85], [45, 112]]]
_HOLE = ([[90, 60], [150, 60], [150, 110], [90, 110]], [[110, 75], [130, 75], [130, 95], [110, 95]])


def objects(*, parts=True, holes=True):
    """Image -> objects: (category, polygons [[x, y], ...], holes)."""
    found = {
        "one.png": [(NAMES[0], [_CONCAVE], []), (NAMES[1], [_STAR], [])],
        "two.png": [(NAMES[1], [_CONCAVE], [])],
        "three.png": [(NAMES[2], [_STAR], []), (NAMES[0], [_CONCAVE], [])],
        "four.png": [],
    }
    if parts:
        found["two.png"].append((NAMES[2], _PARTS, []))
    if holes:
        found["three.png"].append((NAMES[2], [_HOLE[0]], [_HOLE[1]]))
    return found


def mask_of(polygons, holes=()):
    """Bool [HEIGHT, WIDTH]."""
    inside, outside = (_filled(outlines) for outlines in (polygons, holes))
    return inside & ~outside


def _filled(outlines):
    if not outlines:
        return np.zeros((HEIGHT, WIDTH), bool)
    flat = [np.ravel(outline).astype(float).tolist() for outline in outlines]
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(flat, HEIGHT, WIDTH))).astype(bool)


def write_images(folder, names=tuple(SUBSETS)):
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        image = Image.new("RGB", (WIDTH, HEIGHT), (90, 100 + 20 * number, 110))
        ImageDraw.Draw(image).rectangle((10 * number, 5, 10 * number + 8, 12), fill=(250, 0, 0))
        image.save(folder / name)


def _png(mask, *, alpha=False):
    buffer = io.BytesIO()
    values = mask.astype(np.uint8) * 255
    image = Image.fromarray(np.dstack([values] * 4), "RGBA") if alpha else Image.fromarray(values)
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _boxed(mask):
    """(x, y, part of the mask in its box)."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    part = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return int(columns[0]), int(rows[0]), part


# ---- formats: each writes an export of `drawn` below root and returns (annotations, image folder or None) ----------
def labelme(root, drawn, *, masks=False, embedded=False):
    write_images(root / "labelme")
    for name, found in drawn.items():
        shapes = []
        for number, (label, polygons, holes) in enumerate(found):
            if masks or holes:
                x, y, part = _boxed(mask_of(polygons, holes))
                corners = [[x, y], [x + part.shape[1] - 1, y + part.shape[0] - 1]]
                shape = {"shape_type": "mask", "points": corners, "mask": base64.b64encode(_png(part)).decode()}
                shapes.append({"label": label, "group_id": None, "flags": {}} | shape)
                continue
            group = number if len(polygons) > 1 else None
            for polygon in polygons:
                points = {"points": polygon, "shape_type": "polygon"}
                shapes.append({"label": label, "group_id": group, "flags": {}} | points)
        shapes.append({"label": "mark", "points": [[3, 3]], "shape_type": "point", "group_id": None, "flags": {}})
        image = root / "labelme" / name
        data = base64.b64encode(image.read_bytes()).decode() if embedded else None
        size = {"imageHeight": HEIGHT, "imageWidth": WIDTH}
        content = {"version": "5.4.1", "flags": {}, "shapes": shapes, "imagePath": name, "imageData": data} | size
        (root / "labelme" / name).with_suffix(".json").write_text(json.dumps(content), encoding="utf-8")
        if embedded:
            image.unlink()
    return [root / "labelme"], None


def cvat(root, drawn, *, masks=False):
    write_images(root / "images")
    lines = ['<?xml version="1.0" encoding="utf-8"?>', "<annotations>", "<version>1.1</version>"]
    for number, (name, found) in enumerate(drawn.items()):
        subset = {"train": "Train", "val": "Validation"}[SUBSETS[name]]
        head = f'<image id="{number}" name={quoteattr(name)} subset="{subset}" width="{WIDTH}" height="{HEIGHT}">'
        lines.append(head)
        for group, (label, polygons, holes) in enumerate(found, 1):
            common = f'label={quoteattr(label)} source="manual" occluded="0" z_order="0"'
            if masks or holes:
                x, y, part = _boxed(mask_of(polygons, holes))
                place = f'left="{x}" top="{y}" width="{part.shape[1]}" height="{part.shape[0]}"'
                lines.append(f'<mask {common} rle="{", ".join(map(str, _runs(part.ravel())))}" {place}></mask>')
                continue
            grouped = f' group_id="{group}"' if len(polygons) > 1 else ""
            for polygon in polygons:
                points = ";".join(f"{x:.2f},{y:.2f}" for x, y in polygon)
                lines.append(f'<polygon {common}{grouped} points="{points}"></polygon>')
        lines += ['<points label="mark" points="3.00,3.00"></points>', "</image>"]
    path = root / "annotations.xml"
    path.write_text("\n".join([*lines, "</annotations>"]), encoding="utf-8")
    return [path], root / "images"


def _runs(values):
    """Lengths of runs, the first of zeros."""
    borders = np.flatnonzero(np.diff(values.astype(np.int8))) + 1
    runs = np.diff([0, *borders.tolist(), values.size]).tolist()
    return [0, *runs] if values[0] else runs


def label_studio(root, drawn, *, masks=False):
    write_images(root / "upload")
    tasks = []
    for number, (name, found) in enumerate(drawn.items(), 1):
        results = []
        for label, polygons, holes in found:
            size = {"original_width": WIDTH, "original_height": HEIGHT, "to_name": "image", "from_name": "label"}
            if masks or holes or len(polygons) > 1:
                value = {"format": "rle", "rle": _packed(mask_of(polygons, holes)), "brushlabels": [label]}
                results.append(size | {"type": "brushlabels", "value": value})
                continue
            points = (np.array(polygons[0]) / (WIDTH, HEIGHT) * 100).tolist()
            value = {"points": points, "closed": True, "polygonlabels": [label]}
            results.append(size | {"type": "polygonlabels", "value": value})
        cancelled = {"id": 900 + number, "was_cancelled": True, "result": [{"type": "choices"}]}
        annotations = [cancelled, {"id": number, "was_cancelled": False, "result": results}]
        data = {"image": f"/data/upload/7/0a1b2c3d-{name}"}
        tasks.append({"id": number, "annotations": annotations, "data": data})
    path = root / "project.json"
    path.write_text(json.dumps(tasks), encoding="utf-8")
    return [path], root / "upload"


def _packed(mask):
    """Label Studio's runs of a mask's four channels, as bytes."""
    values = np.repeat(mask.ravel().astype(np.uint8) * 255, 4)
    bits = [f"{values.size:032b}", f"{8 - 1:05b}", *(f"{size - 1:04b}" for size in (3, 4, 8, 16))]
    borders = [0, *(np.flatnonzero(np.diff(values.astype(int))) + 1).tolist(), values.size]
    for start, end in zip(borders, borders[1:], strict=False):
        while start < end:
            length = min(end - start, 2**16)
            bits += ["1", f"{3:02b}", f"{length - 1:016b}", f"{values[start]:08b}"]
            start += length
    text = "".join(bits)
    text += "0" * (-len(text) % 8)
    return [int(text[i : i + 8], 2) for i in range(0, len(text), 8)]


def via2(root, drawn):
    write_images(root / "photos")
    content = {}
    for name, found in drawn.items():
        regions = []
        for label, polygons, _ in found:
            x, y = np.array(polygons[0]).T.tolist()
            shape = {"name": "polygon", "all_points_x": x, "all_points_y": y}
            regions.append({"shape_attributes": shape, "region_attributes": {"name": label}})
        content[f"{name}1"] = {"filename": name, "size": 1, "regions": regions, "file_attributes": {}}
    path = root / "via2.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return [path], root / "photos"


def via3(root, drawn):
    write_images(root / "photos")
    options = {str(number): name for number, name in enumerate(NAMES)}
    attribute = {"1": {"aname": "name", "anchor_id": "FILE1_Z0_XY1", "type": 4, "desc": "", "options": options}}
    files, views, metadata = {}, {}, {}
    for number, (name, found) in enumerate(drawn.items(), 1):
        files[str(number)] = {"fid": str(number), "fname": name, "type": 2, "loc": 1, "src": ""}
        views[str(number)] = {"fid_list": [str(number)]}
        for index, (label, polygons, _) in enumerate(found):
            xy = [7, *np.ravel(polygons[0]).tolist()]
            entry = {"vid": str(number), "flg": 0, "z": [], "xy": xy, "av": {"1": str(NAMES.index(label))}}
            metadata[f"{number}_{index}"] = entry
    content = {"project": {"pid": "x"}, "config": {}, "attribute": attribute, "file": files}
    path = root / "via3.json"
    path.write_text(json.dumps(content | {"metadata": metadata, "view": views}), encoding="utf-8")
    return [path], root / "photos"


def voc(root, drawn):
    folder = root / "voc"
    write_images(folder / "JPEGImages")
    for name in ("SegmentationObject", "SegmentationClass", "ImageSets/Segmentation"):
        (folder / name).mkdir(parents=True)
    lines = ["# label:color_rgb:parts:actions", "background:0,0,0::"]
    lines += [f"{name}:{50 * number},10,{200 - number}::" for number, name in enumerate(NAMES, 1)]
    (folder / "labelmap.txt").write_text("\n".join(lines), encoding="utf-8")
    for name, found in drawn.items():
        numbers, colours = np.zeros((HEIGHT, WIDTH), np.uint8), np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        for number, (label, polygons, holes) in enumerate(found, 1):
            mask, index = mask_of(polygons, holes), NAMES.index(label) + 1
            numbers[mask], colours[mask] = number, (50 * index, 10, 200 - index)
        image = Image.fromarray(numbers)
        image.putpalette([value for number in range(256) for value in (number, number, 255 - number)])
        image.save(folder / "SegmentationObject" / name)
        Image.fromarray(colours).save(folder / "SegmentationClass" / name)
    for subset in ("train", "val"):
        names = [name.removesuffix(".png") for name, of in SUBSETS.items() if of == subset]
        (folder / "ImageSets/Segmentation" / f"{subset}.txt").write_text("\n".join(names) + "\n")
    return [folder], None


def yolo(root, drawn):
    folder = root / "yolo"
    for name, found in drawn.items():
        write_images(folder / "images" / SUBSETS[name], [name])
        lines = []
        for label, polygons, _ in found:
            points = (np.array(polygons[0]) / (WIDTH, HEIGHT)).ravel()
            lines.append(f"{NAMES.index(label)} {' '.join(f'{value:.6f}' for value in points)}")
        path = folder / "labels" / SUBSETS[name] / name.replace(".png", ".txt")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines))
    names = "\n".join(f"  {number}: {json.dumps(name, ensure_ascii=False)}" for number, name in enumerate(NAMES))
    text = f"path: .\ntrain: images/train\nval: images/val\nnames:\n{names}\n"
    (folder / "data.yaml").write_text(text, encoding="utf-8")
    return [folder / "data.yaml"], None


def supervisely(root, drawn, *, masks=False):
    folder = root / "supervisely"
    classes = [{"title": name, "shape": "polygon", "color": "#ff0000"} for name in NAMES]
    folder.mkdir()
    (folder / "meta.json").write_text(json.dumps({"classes": classes, "tags": []}), encoding="utf-8")
    for name, found in drawn.items():
        write_images(folder / SUBSETS[name] / "img", [name])
        entries = []
        for label, polygons, holes in found:
            if masks:
                x, y, part = _boxed(mask_of(polygons, holes))
                data = base64.b64encode(zlib.compress(_png(part, alpha=True))).decode()
                shape = {"geometryType": "bitmap", "bitmap": {"data": data, "origin": [x, y]}}
            else:
                points = {"exterior": polygons[0], "interior": holes}
                shape = {"geometryType": "polygon", "points": points}
            entries.append({"classTitle": label, "tags": []} | shape)
        path = folder / SUBSETS[name] / "ann" / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {"description": "", "tags": [], "size": {"height": HEIGHT, "width": WIDTH}, "objects": entries}
        path.write_text(json.dumps(content), encoding="utf-8")
    return [folder], None


def coco(root, drawn):
    """One file of all images, in the layout of CVAT, with ids of its own."""
    write_images(root / "images" / "default")
    images, annotations = [], []
    for number, (name, found) in enumerate(drawn.items(), 5):
        images.append({"id": number, "file_name": name, "height": HEIGHT, "width": WIDTH})
        for label, polygons, holes in found:
            rle = coco_mask.encode(np.asfortranarray(mask_of(polygons, holes).astype(np.uint8)))
            counts = {"size": rle["size"], "counts": rle["counts"].decode()}
            shape = counts if holes else [np.ravel(polygon).tolist() for polygon in polygons]
            entry = {"id": 70 + len(annotations), "image_id": number, "category_id": 3 * NAMES.index(label) + 2}
            entry |= {"segmentation": shape, "bbox": coco_mask.toBbox(rle).tolist(), "iscrowd": 0}
            annotations.append(entry | {"area": float(coco_mask.area(rle))})
    categories = [{"id": 3 * number + 2, "name": name} for number, name in enumerate(NAMES)]
    path = root / "annotations" / "instances_default.json"
    path.parent.mkdir()
    content = {"images": images, "annotations": annotations, "categories": categories}
    path.write_text(json.dumps(content), encoding="utf-8")
    return [path], root / "images" / "default"
