"""The libraries of this machine: whether they are what is asked for, and the same everywhere.

Importing it takes Python's own modules alone: what is missing has to be said in words.
"""

from __future__ import annotations

import importlib.metadata as installed
import platform
from collections.abc import Mapping, Sequence

from ...trainers.errors import Problem

PINNED_LIBRARIES = ("python", "ray", "torch", "deepspeed", "mlflow", "optuna")
"""Those whose versions make results, and messages between processes, what they are."""


def local_versions() -> dict[str, str]:
    """`host`, and the version of each that decides; empty where one is not installed."""
    found = {"host": platform.node(), "python": platform.python_version()}
    for name in PINNED_LIBRARIES[1:]:
        try:
            found[name] = installed.version(name)
        except installed.PackageNotFoundError:  # trainers run without Ray too
            found[name] = ""
    return found


def check_alike(machines: Sequence[Mapping[str, str]]) -> None:
    """Whether several machines have the same.

    Args:
        machines: of each what `local_versions` says there.

    Raises:
        Problem: the first library that differs, and where.
    """
    for name in PINNED_LIBRARIES:
        versions = {machine[name]: machine["host"] for machine in machines}
        if len(versions) > 1:
            told = (f"{version or 'none'} on {host}" for version, host in sorted(versions.items()))
            raise Problem(f"{name} differs: {', '.join(told)}", "use one image on all nodes")


def unsatisfied(wanted: Mapping[str, object]) -> list[str]:
    """What of another machine's requirements this one does not meet, in words.

    Args:
        wanted: `python`, a version specifier, and `libraries`, requirement lines.
    """
    try:
        from packaging.requirements import Requirement
        from packaging.specifiers import SpecifierSet
    except ImportError:
        return ["no packaging"]
    wrong = []
    if not SpecifierSet(str(wanted["python"])).contains(platform.python_version()):
        wrong.append(f"Python {platform.python_version()}, not {wanted['python']}")
    lines = wanted["libraries"]
    assert isinstance(lines, list)
    for line in lines:
        library = Requirement(line)
        if library.marker is not None and not library.marker.evaluate({"extra": "run"}):
            continue
        try:
            found = installed.version(library.name)
        except installed.PackageNotFoundError:
            wrong.append(f"no {library.name}")
            continue
        if not library.specifier.contains(found, prereleases=True):
            wrong.append(f"{library.name} {found}, not {library.specifier}")
    return wrong
