"""Virtual environments in which a few of the installed distributions can be imported, and no others."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import distribution, distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]


def make_environment(folder: Path, wanted: Iterable[str], with_whipray: bool = False) -> Path:
    """Make an environment of these distributions and what they require; return its Python.

    Their files are links to those of this environment: the same versions, and nothing is downloaded.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / "bin" / "python"
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = folder / "lib" / version / "site-packages"
    names = _with_requirements(wanted)
    inside, outside = set(), set()
    for each in distributions():
        top = {Path(file).parts[0] for file in each.files or ()}
        (inside if canonicalize_name(each.name) in names else outside).update(top)
    for name in names:
        installed = distribution(name)
        for file in installed.files or ():
            top = file.parts[0]
            whole = top in inside - outside  # a folder may be of several distributions
            link = packages / (Path(top) if whole else file)
            if top not in ("..", "__pycache__") and not link.exists():
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(Path(str(installed.locate_file(top if whole else file))))
        for script in installed.entry_points.select(group="console_scripts"):
            command = python.with_name(script.name)
            command.write_text(
                f"#!{python}\nimport sys\nfrom {script.module} import {script.attr}\n"
                f"sys.exit({script.attr}())\n"
            )
            command.chmod(0o755)
    if with_whipray:
        (packages / "whipray.pth").write_text(str(ROOT / ".dev"))
    return python


def _with_requirements(wanted: Iterable[str]) -> set[str]:
    """Return the distributions and all that they require on this machine."""
    names: set[str] = set()
    seen: set[str] = set()
    waiting = list(wanted)
    while waiting:
        requirement = Requirement(waiting.pop())
        if str(requirement) in seen:
            continue
        seen.add(str(requirement))
        names.add(canonicalize_name(requirement.name))
        extras = [*requirement.extras, ""]
        for line in distribution(requirement.name).requires or ():
            needed = Requirement(line)
            marker, needed.marker = needed.marker, None
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras):
                waiting.append(str(needed))
    return names
