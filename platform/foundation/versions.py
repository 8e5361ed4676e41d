"""The libraries of a machine: whether they meet the requirements, and are the same on all nodes.

It imports only Python's own modules (and `packaging` where it is installed), since it reports a
library that is missing.
"""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Mapping, Sequence

from ...trainers.errors import Problem

PINNED_LIBRARIES = ("python", "ray", "torch", "deepspeed", "mlflow", "optuna")
"""Those that have to be the same on all nodes: they decide a run's numbers, or what processes send
each other."""


def local_versions() -> dict[str, str]:
    """Return this machine's `host` and the version of each pinned library, empty where missing."""
    versions = {"host": platform.node(), "python": platform.python_version()}
    for name in PINNED_LIBRARIES[1:]:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # trainers run without Ray too
            versions[name] = ""
    return versions


def check_alike(machines: Sequence[Mapping[str, str]]) -> None:
    """Check that several machines have the same pinned libraries.

    Args:
        machines: what `local_versions` returns on each of them.

    Raises:
        Problem: names the first library that differs, and the machines.
    """
    for name in PINNED_LIBRARIES:
        versions = {machine[name]: machine["host"] for machine in machines}
        if len(versions) > 1:
            lines = (f"{version or 'none'} on {host}" for version, host in sorted(versions.items()))
            raise Problem(f"{name} differs: {', '.join(lines)}", "use one image on all nodes")


def unsatisfied(wanted: Mapping[str, object]) -> list[str]:
    """Return the requirements that this machine does not meet, one line each.

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
            version = importlib.metadata.version(library.name)
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"no {library.name}")
            continue
        if not library.specifier.contains(version, prereleases=True):
            wrong.append(f"{library.name} {version}, not {library.specifier}")
    return wrong
