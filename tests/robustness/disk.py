"""Full disks: each command writes to a small file system in memory; the message names a path on it."""

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .processes import Forked, run_anew
from .recipes import Recipe, work_folder

SHARES = (0.02, 0.4, 0.85)  # of what the result takes
_LONGEST = 900


def why_not() -> str | None:
    """Why no file system can be mounted here; None if it can."""
    if os.geteuid():
        return "only root can mount a small file system"
    with tempfile.TemporaryDirectory() as folder:
        found = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], capture_output=True, check=False
        )
        if found.returncode:
            return f"mount: {found.stderr.decode(errors='replace').strip()}"
        subprocess.run(["umount", folder], check=False)
    return None


@contextlib.contextmanager
def small_disk(root: Path, size: int) -> Iterator[Path]:
    """Context with a file system of `size` bytes."""
    folder = Path(tempfile.mkdtemp(prefix="disk-", dir=root))
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={max(size // 1024, 4)}k,nr_inodes=100k", "tmpfs", folder], check=True
    )
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=False)
        folder.rmdir()


def fill(recipe: Recipe, root: Path) -> dict[str, Any]:
    """Run a command on disks that are too small for it, by more and by less."""
    recipe.make_needs(root)
    with tempfile.TemporaryDirectory(prefix=f"disk-{recipe.name}-", dir=root) as name:
        folder = work_folder(recipe, root, Path(name) / "large")
        whole = Forked(recipe.first(root, folder), folder, folder.with_suffix(".log")).wait(_LONGEST)
        if whole.code:
            return {
                "command": recipe.name,
                "disks": 0,
                "wrong": [f"on a large disk: exit {whole.code}: {whole.errors[-200:]}"],
            }
        given = sum((root / "base" / one).stat().st_size for one in recipe.copies)
        taken = sum(path.stat().st_size for path in (folder / recipe.out).rglob("*") if path.is_file())
    wrong = []
    for share in SHARES:
        with small_disk(root, given + int(taken * share)) as disk:
            work_folder(recipe, root, disk)
            ended = run_anew(recipe.first(root, disk), root)
            last = (ended.errors.strip().splitlines() or [""])[-1]
            if ended.code != 2 or str(disk) not in last or "bug:" in last or "Traceback" in ended.errors:
                wrong.append(f"{share:.0%} of {taken} bytes: exit {ended.code}: {last[:250]}")
    return {"command": recipe.name, "disks": len(SHARES), "wrong": wrong}
