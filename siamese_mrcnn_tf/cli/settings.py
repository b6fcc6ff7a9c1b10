"""List the settings of configurations: value, possible values and meaning of each.

--set KEY=VALUE of the other commands changes them, and --config FILE.
"""

import argparse
import difflib
from collections.abc import Iterator, Sequence

from ..config import CONFIGS, FORMER_NAMES, Config, load_config
from ..io.errors import InputError
from ..settings import PARTS, SETTINGS, shown
from .options import Commands, add_command

_INTRODUCTION = """# Settings

`--set KEY=VALUE` changes a setting of the configuration that `--config` names or that fits the weights, and
`config.replace(KEY=VALUE)` does so in Python. Values are in JSON: `--set NUM_TARGETS=5 MEAN_PIXEL=[120,115,104]`. A
value that is not possible ends a command before it does anything. This page is the output of

    siamese-mrcnn settings --markdown

`siamese-mrcnn settings NAME` shows single settings. Columns: the defaults of the configurations `small`, `large` and
`tiny` (one value where they are the same), the possible values, and the meaning.
"""


def add_parser(commands: Commands) -> None:
    parser = add_command(commands, "settings", run, __doc__)
    add = parser.add_argument
    add("names", nargs="*", metavar="NAME", help="settings to list (default all)")
    add("--config", default="small", metavar="NAME|FILE", help=f"{', '.join(CONFIGS)} or a JSON file (default small)")
    add("--markdown", action="store_true", help="write the page docs/settings.md: all settings, all configurations")


def run(options: argparse.Namespace) -> None:
    if options.markdown:
        if options.names:
            raise InputError(f"{options.names[0]}: --markdown writes all settings, leave the names out")
        print(page(), end="")
        return
    print("\n".join(lines(load_config(options.config), [known_setting(name) for name in options.names])))


def known_setting(name: str) -> str:
    """The setting that a name in any case, or a former name, stands for.

    Raises:
        ValueError: there is none.
    """
    found = FORMER_NAMES.get(name.upper(), name.upper())
    if found not in SETTINGS:
        close = difflib.get_close_matches(found, SETTINGS, 1)
        raise InputError(f"{shown(name)}: not a setting{f'; did you mean {close[0]}?' if close else ''}")
    return found


def lines(config: Config, names: Sequence[str] = ()) -> Iterator[str]:
    """The table of a configuration as text, of all settings or those of `names`."""
    chosen = [name for name in SETTINGS if not names or name in names]
    for part, title in PARTS.items():
        of_part = [name for name in chosen if SETTINGS[name].part == part]
        if of_part and not names:
            yield f"{title}:"
        for name in of_part:
            yield f"  {name} = {shown(getattr(config, name))}"
            yield f"      {SETTINGS[name].range}: {SETTINGS[name].meaning}"


def page() -> str:
    """docs/settings.md."""
    sections = [_INTRODUCTION]
    for part, title in PARTS.items():
        rows = [
            f"| `{name}` | {_defaults(name)} | {_cells(name)} |" for name in SETTINGS if SETTINGS[name].part == part
        ]
        head = "| setting | default | possible values | meaning |\n|---|---|---|---|"
        sections.append("\n".join([f"## {title[0].upper()}{title[1:]}\n", head, *rows, ""]))
    return "\n".join(sections)


def _defaults(name: str) -> str:
    values = [f"`{getattr(config, name)}`" for config in CONFIGS.values()]
    if name == "LOSS_WEIGHTS":
        return "see `Config`"
    return values[0] if len(set(values)) == 1 else ", ".join(values)


def _cells(name: str) -> str:
    texts = (SETTINGS[name].range, SETTINGS[name].meaning)
    return " | ".join(text.replace("\\", "\\\\").replace("|", "\\|") for text in texts)
