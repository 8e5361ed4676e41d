"""Entry point of a Ray job: check the node's libraries, then run the command line.

    python -m whipray.platform.cli.job_entry JOB -- train recipe.yaml --run NAME

Until the check is done, only the standard library is imported, and `packaging` if it is
installed: a missing library must be reported, not raise an ImportError.
"""

from __future__ import annotations

import json
import platform
import sys
from pathlib import Path

from ..foundation.job import enter_cluster_job
from ..foundation.versions import PINNED_LIBRARIES, local_versions, unsatisfied
from .exit_codes import PREFLIGHT_FAILED


def main() -> None:
    """Check the libraries, print the host and versions, and run the command line."""
    job, arguments = sys.argv[1], sys.argv[3:]
    enter_cluster_job(job)
    problems = unsatisfied(json.loads(Path("requirements.json").read_text()))
    if problems:
        fix = "install whipray[run]'s requirements on the node, or build infra/Dockerfile"
        if "no ray" in problems:
            fix = "put the Python environment of Ray first on PATH before `ray start`"
        print(
            f"error: {sys.executable} on {platform.node()} has {'; '.join(problems)}",
            file=sys.stderr,
        )
        print(f"fix: {fix}", file=sys.stderr)
        sys.exit(PREFLIGHT_FAILED)
    local = local_versions()
    versions = ", ".join(f"{name} {local[name]}" for name in PINNED_LIBRARIES)
    print(f"{job} on {local['host']}: {versions}", file=sys.stderr, flush=True)
    sys.argv = ["whipray", *arguments]
    from .main import main as command_line

    command_line()


if __name__ == "__main__":
    main()
