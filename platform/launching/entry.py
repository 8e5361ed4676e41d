"""What a Ray job runs on the cluster: the command line, after a look at the libraries there.

    python -m whipray.platform.launching.entry JOB -- train recipe.yaml --run NAME

Until the look is over, nothing but Python's own modules is imported: what is missing has to be said
in words.
"""

from __future__ import annotations

import importlib.metadata as installed
import json
import os
import platform
import sys
from pathlib import Path

PREFLIGHT_FAILED = 4
SHOWN = ("ray", "torch", "deepspeed", "mlflow", "optuna")

JOB_ENVIRONMENT = "WHIPRAY_JOB"
"""Set in a job's driver: its name. Whoever runs in a job trains on Ray's workers, not in itself."""


def main() -> None:
    """Check, say where this is, become the command line."""
    job, arguments = sys.argv[1], sys.argv[3:]
    os.environ[JOB_ENVIRONMENT] = job
    wrong = unsatisfied(json.loads(Path("requirements.json").read_text()))
    if wrong:
        fix = (
            "install whipray's `run` requirements there; infra/Dockerfile makes an image with them"
        )
        if "no ray" in wrong:
            fix = "put the environment that Ray runs in first on PATH where `ray start` is called"
        print(
            f"error: {sys.executable} on {platform.node()} has {'; '.join(wrong)}", file=sys.stderr
        )
        print(f"fix: {fix}", file=sys.stderr)
        sys.exit(PREFLIGHT_FAILED)
    print(f"{job} on {platform.node()}: {libraries()}", file=sys.stderr, flush=True)
    sys.argv = ["whipray", *arguments]
    from ..cli.main import main as command_line

    command_line()


def unsatisfied(wanted: dict[str, object]) -> list[str]:
    """What of the laptop's requirements this machine does not meet, in words.

    Args:
        wanted: `python`, a version specifier, and `libraries`, requirement lines.
    """
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

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


def libraries() -> str:
    """`Python 3.11.7, ray 2.60.0, ...`"""
    return f"Python {platform.python_version()}, " + ", ".join(
        f"{name} {installed.version(name)}" for name in SHOWN
    )


if __name__ == "__main__":
    main()
