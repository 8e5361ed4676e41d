"""What a Ray job runs on the cluster: the command line, after a look at the libraries there.

    python -m whipray.platform.cli.job_entry JOB -- train recipe.yaml --run NAME

Until the look is over, nothing but Python's own modules, and `packaging` where there is one, is
imported: what is missing has to be said in words.
"""

from __future__ import annotations

import json
import platform
import sys
from pathlib import Path

from ..foundation.job import enter_cluster_job
from ..foundation.versions import PINNED_LIBRARIES, local_versions, unsatisfied

PREFLIGHT_FAILED = 4


def main() -> None:
    """Check, say where this is, become the command line."""
    job, arguments = sys.argv[1], sys.argv[3:]
    enter_cluster_job(job)
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
    there = local_versions()
    versions = ", ".join(f"{name} {there[name]}" for name in PINNED_LIBRARIES)
    print(f"{job} on {there['host']}: {versions}", file=sys.stderr, flush=True)
    sys.argv = ["whipray", *arguments]
    from .main import main as command_line

    command_line()


if __name__ == "__main__":
    main()
