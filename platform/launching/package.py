"""The project's own code as a folder that a Ray job takes along; nothing is installed on the nodes."""

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
"""What the wheel holds, and no more: tests, runs and data stay at home."""

MOST_BYTES = 5 << 20
"""The code is a tenth of it. Ray would take 100 times as much, and every job would wait for it."""

REQUIREMENTS = "requirements.json"


@dataclass(frozen=True)
class Package:
    """A staged folder."""

    folder: Path
    sizes: Mapping[str, int]
    """Bytes of each file by its name in the folder."""

    @property
    def size(self) -> int:
        """Bytes in all."""
        return sum(self.sizes.values())

    def largest(self, count: int = 3) -> str:
        """The largest files in words."""
        biggest = sorted(self.sizes.items(), key=lambda item: -item[1])[:count]
        return ", ".join(f"{name} {size / 1024:.0f} KiB" for name, size in biggest)


def stage(folder: Path, texts: Mapping[str, str]) -> Package:
    """Copy the code into `folder/whipray`, and `texts` beside it.

    Files that git ignores stay out, where the code lies in a checkout.

    Args:
        texts: contents by file name: the resolved recipe and search space.

    Raises:
        UsageProblem: it is larger than code should be.
    """
    root = Path(str(files("whipray")))
    for own in _own_files(root):
        target = folder / "whipray" / own
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / own, target)
    wanted = importlib.metadata.metadata("whipray")
    requirements = {
        "python": wanted["Requires-Python"],
        "libraries": importlib.metadata.requires("whipray") or [],
    }
    for name, text in {**texts, REQUIREMENTS: json.dumps(requirements)}.items():
        (folder / name).write_text(text)
    found = (path for path in sorted(folder.rglob("*")) if path.is_file())
    package = Package(folder, {str(p.relative_to(folder)): p.stat().st_size for p in found})
    if package.size > MOST_BYTES:
        raise UsageProblem(
            f"the code to send is {package.size / 2**20:.1f} MiB, more than "
            f"{MOST_BYTES >> 20} MiB: {package.largest(5)}",
            "move data out of whipray's folders, or name it in .gitignore",
        )
    return package


def _own_files(root: Path) -> Iterator[Path]:
    """Names below `root` of what belongs to the package."""
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *PARTS],
            cwd=root,
            capture_output=True,
            check=True,
            text=True,
        ).stdout.split("\0")
    except (OSError, subprocess.CalledProcessError):  # installed from a wheel, or no git here
        listed = []
    names = [Path(name) for name in listed if name and (root / name).is_file()]
    if not names:
        parts = (root / part for part in PARTS)
        inside = (p for part in parts for p in ([part] if part.is_file() else part.rglob("*")))
        names = [path.relative_to(root) for path in inside if path.is_file()]
    return (name for name in names if "__pycache__" not in name.parts)
