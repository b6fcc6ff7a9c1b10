"""The documentation site: it builds without warnings, its links hold, and its tables know every old name."""

import html.parser
import importlib
import inspect
import json
import os
import pathlib
import re
import subprocess
import sys
import urllib.parse

import pytest
from scripts import load_script

import siamese_mrcnn_tf
from siamese_mrcnn_tf.config import LargeConfig, SmallConfig

ROOT = pathlib.Path(__file__).resolve().parents[1]
OLD_NAMES = json.loads((ROOT / "tests" / "data" / "old_names.json").read_text(encoding="utf-8"))
PAGES = {"siamese-mask-rcnn": "coming_from_siamese_mask_rcnn.md", "Mask_RCNN": "coming_from_mask_rcnn.md"}
SAME, LOADS = "same attribute", {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src"}


class Page(html.parser.HTMLParser):
    """Links, ids and loaded resources of an HTML page."""

    def __init__(self, path):
        super().__init__()
        self.links, self.ids, self.loaded = [], set(), []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.ids |= {values.get("id"), values.get("name")} - {None}
        if tag == "a" and values.get("href"):
            self.links.append(values["href"])
        if values.get(LOADS.get(tag)) and values.get("rel") != "canonical":
            self.loaded.append(values[LOADS[tag]])


def rows_of(page):
    """(names before, names now, text of the cell now) of the tables of names in a page."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    for table in re.findall(r"\| before \| now \| what differs \|\n\|---\|---\|---\|\n((?:\|.*\n)+)", text):
        for line in table.splitlines():
            before, now, _ = (cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:4])
            yield re.findall(r"`([^`]+)`", before), re.findall(r"`([^`]+)`", now), now


def find(name):
    """Whether `name` is a public name, or a name in a module of the package."""
    parts = name.split(".")
    for count in range(len(parts), -1, -1):
        try:
            found = importlib.import_module(".".join(["siamese_mrcnn_tf", *parts[:count]]))
        except ModuleNotFoundError:
            continue
        return all_exist(found, parts[count:])
    return False


def all_exist(found, parts):
    """Whether the attributes lead on from an object; attributes that methods of a class set count too."""
    for part in parts:
        if not hasattr(found, part):
            return inspect.isclass(found) and any(
                re.search(rf"self\.{part}\b", inspect.getsource(kind)) for kind in found.__mro__[:-1]
            )
        found = getattr(found, part)
    return True


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site: path in it -> Page."""
    pytest.importorskip("material")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return {path.relative_to(folder).as_posix(): Page(path) for path in folder.rglob("*.html")} | {"": folder}


@pytest.mark.slow
def test_links_and_anchors_of_the_site_hold(site):
    folder = site[""]
    for name, page in site.items():
        for link in [*page.links, *page.loaded] if name else ():
            target = urllib.parse.urlsplit(link)
            if target.scheme or not (target.path or target.fragment) or name == "404.html":
                continue
            path = (folder / name).parent / urllib.parse.unquote(target.path) if target.path else folder / name
            assert path.exists(), f"{name}: {link}"
            anchors = site.get(path.resolve().relative_to(folder.resolve()).as_posix())
            fragment = urllib.parse.unquote(target.fragment)
            assert not fragment or anchors is None or fragment in anchors.ids, f"{name}: {link}"


@pytest.mark.slow
def test_the_site_loads_nothing_from_elsewhere(site):
    for name, page in site.items():
        for link in page.loaded if name else ():
            assert not re.match(r"(\w+:)?//", link), f"{name}: {link}"
    texts = [path.read_text(encoding="utf-8") for path in site[""].rglob("*.css")]
    assert texts and not re.search(r"(url\(|@import )[\"']?(https?:)?//", "".join(texts))


@pytest.mark.slow
def test_every_public_name_is_in_the_reference(site):
    found = set().union(*(page.ids for name, page in site.items() if name.startswith("reference/")))
    for module, names in siamese_mrcnn_tf._PUBLIC_NAMES.items():
        missing = [name for name in names.split() if f"siamese_mrcnn_tf.{module}.{name}" not in found]
        assert not missing, module


@pytest.mark.slow
def test_anchors_that_the_readme_names_exist(site):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for path, anchor in re.findall(r"\]\((docs/[^)#]+)\.md#([^)]+)\)", text):
        assert anchor in site[f"{path.removeprefix('docs/')}.html"].ids, f"{path}.md#{anchor}"
    heads = [re.sub(r"[^\w -]", "", head).strip().lower() for head in re.findall(r"^#+ (.+)$", text, re.MULTILINE)]
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= {head.replace(" ", "-") for head in heads}


@pytest.mark.parametrize("repository", PAGES)
def test_every_old_name_is_in_the_tables(repository):
    named = {name for before, _, _ in rows_of(PAGES[repository]) for name in before}
    for place, names in OLD_NAMES[repository].items():
        assert set(names.split()) <= named, f"{place}: {sorted(set(names.split()) - named)}"


@pytest.mark.parametrize("page", PAGES.values())
def test_names_that_the_tables_give_exist(page):
    rows = list(rows_of(page))
    assert len(rows) > 50
    for before, now, cell in rows:
        assert now or cell == SAME or cell.startswith(("not ", "see ")), before
        for name in before if cell == SAME else now:
            assert find(name), f"{page}: {', '.join(before)}: {name}"


ELSEWHERE = """COCO_MODEL_URL batch_slice box_refinement_graph download_trained_weights mold_mask
MaskRCNN batch_pack_graph build_detection_targets conv_block data_generator denorm_boxes_graph generate_random_rois
identity_block log2_graph parse_image_meta_graph smooth_l1_loss trim_zeros_graph l1_distance_graph fpn_mask_graph
MASK_RCNN_MODEL_PATH""".split()  # under another name or not here, as the tables say


@pytest.mark.parametrize(
    ("module", "places"),
    {
        "utils": ["mrcnn/utils.py", "lib/utils.py"],
        "model": ["mrcnn/model.py", "lib/model.py"],
        "visualize": ["mrcnn/visualize.py"],
        "config": ["mrcnn/config.py"],
    }.items(),
)
def test_modules_have_the_names_of_the_old_ones(module, places):
    found = importlib.import_module(f"siamese_mrcnn_tf.{module}")
    names = " ".join(files[place] for files in OLD_NAMES.values() for place in places if place in files).split()
    missing = {name for name in names if "." not in name and not hasattr(found, name)}
    assert missing <= set(ELSEWHERE) and len(missing) < len(names) / 2


def test_an_unknown_name_is_not_found():
    assert not find("SiameseMaskRCNN.unheard_of") and not find("data.unheard_of") and not find("unheard_of.name")
    assert find("SiameseMaskRCNN.keras_model") and find("utils.compute_iou")


def test_figures_show_the_sizes_of_a_configuration(tmp_path):
    figures = load_script("docs/figures.py")
    texts = [{text.get_text() for text in draw(LargeConfig()).axes[0].texts} for draw in figures.FIGURES.values()]
    assert {"1024 x 1024 x 3", "192 x 192 x 3", "1000 proposals", "384 channels"} <= texts[0]
    assert {"256 x 256 x 512", "48 x 48 x 256", "256 x 256 x 384"} <= texts[1]
    assert "512 x 512 x 3" in {text.get_text() for text in figures.draw_networks(SmallConfig()).axes[0].texts}
    figures.main(["--out", str(tmp_path), "--format", "svg"])
    assert {path.name for path in tmp_path.iterdir()} == {"figure2.svg", "figure3.svg"}
