"""Convert annotations of another tool to a COCO-format data set, or split one.

Formats: LabelMe (a folder of JSON files), CVAT (CVAT for images 1.1), Label Studio (JSON), VIA 1, 2 and 3, Pascal VOC
with masks or boxes, YOLO for segmentation, Supervisely, and COCO files themselves. The content tells the format.
Polygons, rectangles, circles, ellipses and masks become instances; points and lines are left out, with a warning.
Nothing is written if anything is wrong with an annotation or an image.
"""

import argparse
import collections
from typing import Any

from ..data.reading import ORIENTATIONS
from .effects import say_unused_options
from .inputs import picked
from .options import Commands, add_command, add_pixels_argument, name_part, seed, share

_ATTRIBUTE_HELP = "of VIA: region attribute that holds the category (default: the only one that all regions have)"
_VAL_SHARE_HELP = (
    "share of the images drawn for val, so that categories of two images or more are in both parts (default 0: none)"
)
_CATEGORIES_HELP = "all categories in the order of their ids (default: those found, by name)"
_ORIENTATION_HELP = (
    "ignore: the objects belong to the images as stored, before the orientation tag (browsers before 2020); obey (also "
    "auto): to the upright images (default obey)"
)


def add_parser(commands: Commands) -> None:
    parser = add_command(commands, "convert", run, __doc__)
    add = parser.add_argument
    add("files", nargs="+", metavar="FILE|DIR", help="annotations of one tool: files, or the folder of a data set")
    add("--images", metavar="DIR", help="folder with the images (default: where the data set has them)")
    add("--out", required=True, metavar="DIR", help="folder of the data set to write")
    subset = "of the images (default: what the data set says, or else train)"
    add("--subset", choices=("train", "val"), help=subset)
    add(
        "--year",
        type=name_part,
        default="2017",
        help="year in the name of the annotation file (default 2017, as in COCO)",
    )
    add("--val-share", type=share, default=0.0, metavar="P", help=_VAL_SHARE_HELP)
    add("--seed", type=seed, default=0, help="seed of that draw (default 0)")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--attribute", metavar="NAME", help=_ATTRIBUTE_HELP)
    which.add_argument("--category", metavar="NAME", help="one category for all objects")
    add("--categories", nargs="+", metavar="NAME", help=_CATEGORIES_HELP)
    add("--link", action="store_true", help="link the images instead of copying them")
    add("--orientation", choices=ORIENTATIONS, default="obey", help=_ORIENTATION_HELP)
    add("--ignore-orientation", dest="orientation", action="store_const", const="ignore", help="--orientation ignore")
    add_pixels_argument(parser)
    add("--force", action="store_true", help="replace existing files in --out")


def run(options: argparse.Namespace) -> None:
    from ..data.formats.convert import convert
    from ..io.files import writable_folder
    from ..io.locks import exclusive

    if not options.val_share:
        say_unused_options(options, ["seed"], "without --val-share")
    choices = ("subset", "year", "val_share", "seed", "attribute", "category", "categories")
    given = picked(options, *choices, "link", "force") | {"ignore_orientation": options.orientation == "ignore"}
    with exclusive(writable_folder(options.out)):
        contents = convert(options.files, options.images, options.out, **given)
    for name, content in contents.items():
        print(summary(name, content))
    print(f"The data set is in {options.out}")


def summary(name: str, content: dict[str, Any]) -> str:
    """A line with the numbers of images and instances."""
    annotated = {annotation["image_id"] for annotation in content["annotations"]}
    counts = collections.Counter(annotation["category_id"] for annotation in content["annotations"])
    bare = len(content["images"]) - len(annotated)
    instances = ", ".join(f"{category['name']} {counts[category['id']]}" for category in content["categories"])
    return f"{name}: {len(content['images'])} images, {bare} of them without annotations; instances: {instances}"
