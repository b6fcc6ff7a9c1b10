"""COCO itself: its 80 categories, and whether a data set is one of its subsets."""

from pathlib import Path
from urllib.parse import urlsplit

from .dataset import CocoDataset, split_classes

MAX_SIDE = 640  # of COCO's images, in pixels
CATEGORY_GROUPS = (  # first COCO id of each run of consecutive ids, and the names in order
    (1, "person bicycle car motorcycle airplane bus train truck boat traffic_light fire_hydrant"),
    (13, "stop_sign parking_meter bench bird cat dog horse sheep cow elephant bear zebra giraffe"),
    (27, "backpack umbrella"),
    (31, "handbag tie suitcase frisbee skis snowboard sports_ball kite baseball_bat baseball_glove"),
    (41, "skateboard surfboard tennis_racket bottle"),
    (46, "wine_glass cup fork knife spoon bowl banana apple sandwich orange broccoli carrot hot_dog pizza donut cake"),
    (62, "chair couch potted_plant bed"),
    (67, "dining_table"),
    (70, "toilet"),
    (72, "tv laptop mouse remote keyboard cell_phone microwave oven toaster sink refrigerator"),
    (84, "book clock vase scissors teddy_bear hair_drier toothbrush"),
)
CATEGORIES = {
    start + place: name.replace("_", " ")
    for start, names in CATEGORY_GROUPS
    for place, name in enumerate(names.split())
}  # COCO id -> name, in the order of the class ids 1..80


def coco_subset(dataset: CocoDataset) -> str | None:
    """The subset of COCO, such as "val2017", that a data set is, or has a part of the images of; None if it is another.

    A subset of COCO has its 80 categories with their ids and names. Its images are at most 640 pixels wide and high,
    are named by their ids (000000000139.jpg), and come from one folder of COCO's server (`coco_url`); where the
    annotation file has no addresses, the image folder has the subset's name. The place of the files does not matter.
    """
    named = {info["id"]: info["name"] for info in dataset.class_info[1:]}
    if named != CATEGORIES or not dataset.image_info:
        return None
    for info in dataset.image_info:
        is_named = Path(str(info["path"])).stem == f"{info['id']:012d}"
        if not is_named or max(info["height"] or 0, info["width"] or 0) > MAX_SIDE:
            return None
    folders = {_address_folder(info.get("coco_url")) for info in dataset.image_info}
    folders = set(dataset.set_names) if folders == {None} else folders
    return folders.pop() if len(folders) == 1 else None


def split_category_ids(split: int, category_set: str) -> list[int]:
    """COCO ids of the categories of a category split: `split` 0 to 4, `category_set` "train", "novel" or "all"."""
    ids = list(CATEGORIES)
    chosen = dict(zip(("train", "novel"), split_classes(len(ids), split), strict=True))
    return ids if category_set == "all" else [ids[class_id - 1] for class_id in chosen[category_set]]


def _address_folder(address: str | None) -> str | None:
    """The folder of an image on COCO's server: "val2017" of ".../val2017/000000000139.jpg"."""
    parts = urlsplit(address or "").path.strip("/").split("/")
    return parts[-2] if len(parts) > 1 else None
