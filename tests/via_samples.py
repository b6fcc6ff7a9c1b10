"""Annotations as the VGG Image Annotator writes them, for tests: both versions, each of their files, every shape."""

import csv
import io
import json

CSV_HEADER = "filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes"
FORMATS = ("json1", "json2", "project2", "csv1", "csv2")

SHAPES = {  # in an image of 120 x 160 pixels (height x width)
    "arrow": {
        "name": "polygon",
        "all_points_x": [10, 50, 30, 50, 10],
        "all_points_y": [10, 10, 25, 40, 40],
    },
    "bay": {"name": "polyline", "all_points_x": [60, 95, 95, 75, 60], "all_points_y": [8, 8, 44, 30, 44]},
    "box": {"name": "rect", "x": 100, "y": 12, "width": 41, "height": 23},
    "disk": {"name": "circle", "cx": 30, "cy": 80, "r": 17.5},
    "egg": {"name": "ellipse", "cx": 80, "cy": 80, "rx": 25, "ry": 12},
    "leaf": {"name": "ellipse", "cx": 130, "cy": 75, "rx": 28, "ry": 9, "theta": 0.7},
}


def region(shape, **attributes):
    """A region of VIA with its shape and region attributes."""
    return {"shape_attributes": dict(shape), "region_attributes": attributes}


def entry(name, regions, size=1234):
    """(key, entry) of an image in VIA's files."""
    return f"{name}{size}", {"filename": name, "size": size, "regions": list(regions), "file_attributes": {}}


def write(path, images, form="json2"):
    """Write images, a dict of lists of regions by file name, as one of FORMATS; returns the path."""
    entries = dict(entry(name, regions) for name, regions in images.items())
    path.parent.mkdir(parents=True, exist_ok=True)
    if form.startswith("csv"):
        path = path.with_suffix(".csv")
        path.write_text(_table(images, "#" if form == "csv1" else ""), encoding="utf-8")
        return path
    if form == "json1":
        for one in entries.values():
            one |= {"fileref": "", "base64_img_data": ""}
            one["regions"] = {str(index): region for index, region in enumerate(one["regions"])}
    content = entries
    if form == "project2":
        attributes = {"region": {"kind": {"type": "text", "description": "", "default_value": ""}}, "file": {}}
        content = {"_via_settings": {"ui": {}, "core": {}, "project": {"name": "mine"}}, "_via_img_metadata": entries}
        content |= {"_via_attributes": attributes, "_via_image_id_list": list(entries)}
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def _table(images, mark):
    """The CSV that VIA exports: texts of dicts are quoted, nothing else is."""
    lines = [mark + CSV_HEADER]
    for name, regions in images.items():
        for index, one in enumerate(regions):
            cells = [_quoted(one[key]) for key in ("shape_attributes", "region_attributes")]
            lines.append(",".join([name, "1234", '"{}"', str(len(regions)), str(index), *cells]))
        if not regions:
            lines.append(f'{name},1234,"{{}}",0,0,"{{}}","{{}}"')
    return "\n".join(lines)


def _quoted(values):
    text = io.StringIO()
    csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="").writerow([json.dumps(values, separators=(",", ":"))])
    return text.getvalue()
