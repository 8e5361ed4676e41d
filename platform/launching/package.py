"""Whipray's own code as the working directory of a Ray job; nothing is installed on the nodes.

`working_dir` rather than `py_modules` with a wheel: the job's driver and its tasks import the
code as it is in the checkout, uncommitted changes included, and no node runs pip. The code is the
folder `whipray` in the working directory, not the directory itself: its `platform` must not
shadow Python's module.
"""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from ...trainers.errors import UsageProblem

PARTS = ("__init__.py", "py.typed", "platform", "trainers", "search_spaces", "infra")
"""The contents of the wheel; tests, runs and data are not sent."""

MAX_BYTES = 5 << 20
"""Ten times the size of the code. Ray 2.60 accepts 512 MiB, and every job would wait for them."""

REQUIREMENTS = "requirements.json"


@dataclass(frozen=True)
class Package:
    """A folder that is ready to be sent."""

    folder: Path
    sizes: Mapping[str, int]
    """Bytes of each file, by its path in the folder."""

    @property
    def size(self) -> int:
        """Total size in bytes."""
        return sum(self.sizes.values())

    def largest(self, count: int = 3) -> str:
        """Return the names and sizes of the largest files as text."""
        files = sorted(self.sizes.items(), key=lambda item: -item[1])[:count]
        return ", ".join(f"{name} {size / 1024:.0f} KiB" for name, size in files)


def stage(folder: Path, texts: Mapping[str, str]) -> Package:
    """Copy the code into `folder/whipray`, and `texts` beside it.

    In a git checkout, ignored files are left out.

    Args:
        texts: contents by file name: the resolved recipe and search space.

    Raises:
        UsageProblem: the folder is larger than `MAX_BYTES`.
    """
    root = Path(str(files("whipray")))
    for name in _package_files(root):
        target = folder / "whipray" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / name, target)
    requirements = {
        "python": importlib.metadata.metadata("whipray")["Requires-Python"],
        "libraries": importlib.metadata.requires("whipray") or [],
    }
    for file, text in {**texts, REQUIREMENTS: json.dumps(requirements)}.items():
        (folder / file).write_text(text, encoding="utf-8")
    staged = (path for path in sorted(folder.rglob("*")) if path.is_file())
    package = Package(folder, {str(p.relative_to(folder)): p.stat().st_size for p in staged})
    if package.size > MAX_BYTES:
        raise UsageProblem(
            f"the code to send has {package.size / 2**20:.1f} MiB, more than "
            f"{MAX_BYTES >> 20} MiB: {package.largest(5)}",
            "move data out of whipray's folders, or add it to .gitignore",
        )
    return package


def _package_files(root: Path) -> Iterator[Path]:
    """Yield the paths, relative to `root`, of the files that belong to the package."""
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *PARTS],
            cwd=root,
            capture_output=True,
            check=True,
            text=True,
        ).stdout.split("\0")
    except (OSError, subprocess.CalledProcessError):  # installed from a wheel, or git is missing
        listed = []
    names = [Path(name) for name in listed if name and (root / name).is_file()]
    if not names:
        parts = (root / part for part in PARTS)
        inside = (p for part in parts for p in ([part] if part.is_file() else part.rglob("*")))
        names = [path.relative_to(root) for path in inside if path.is_file()]
    return (name for name in names if "__pycache__" not in name.parts)
