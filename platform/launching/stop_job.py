"""How a job is ended: asked to save and leave, or killed.

    python -m whipray.platform.launching.stop_job JOB      # on its node: kills the job's processes

Ray's own stop asks first and kills after `cluster.STOP_PATIENCE_S`; it cannot be hurried afterwards.
"""

from __future__ import annotations

import shlex
import sys
import time
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from ...trainers.scratch import Scratch
from .jobs_client import STOP_PATIENCE_S, ClusterProblem, Job, JobsClient
from .package import stage

KILL_DETECTION_S = 60
"""For Ray to notice that a job's processes are gone."""
EXIT_DETECTION_S = 10
"""For Ray to notice that a job ended by itself."""
KILL_PATIENCE_S = 300
"""For the killing job to begin on a busy node, too."""


def end(cluster: JobsClient, job: Job) -> Job:
    """Ask a job to save and leave, and wait until it has.

    Raises:
        ClusterProblem: it is still there after `STOP_PATIENCE_S`.
    """
    cluster.stop(job.id)
    return _wait(
        cluster, job, STOP_PATIENCE_S + KILL_DETECTION_S, "`whipray jobs stop --now` kills it"
    )


def kill(cluster: JobsClient, job: Job) -> Job:
    """End a job at once, by a second job that kills the first one's processes.

    Raises:
        ClusterProblem: that job failed or had nothing to kill, or the first one is still there after
            `KILL_PATIENCE_S`.
    """
    cluster.stop(job.id)  # so that its end counts as stopped, not as failed
    with Scratch() as folder:
        helper = f"kill-{job.id}-{uuid4().hex[:6]}"
        package = stage(Path(folder), {})
        command = f"python -m whipray.platform.launching.stop_job {shlex.quote(job.id)}"
        cluster.submit(helper, command, str(package.folder), {"verb": "kill"}, job.node)
    fix = f"look at its node and at `whipray jobs logs {helper}`"
    return _wait(cluster, job, KILL_PATIENCE_S, fix, helper)


def _wait(cluster: JobsClient, job: Job, seconds: float, fix: str, helper: str = "") -> Job:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found = cluster.job(job.id)
        if found.over:
            return found
        if helper and cluster.job(helper).status in ("FAILED", "STOPPED"):
            until = min(until, time.monotonic() + EXIT_DETECTION_S)
        time.sleep(1)
    raise ClusterProblem(f"{job.id} has not ended", fix)


def main() -> None:
    """Kill the driver of a job and what it started on this node; Ray ends the rest."""
    import psutil  # type: ignore[import-untyped]

    job, killed = sys.argv[1], 0
    for process in psutil.process_iter(["cmdline"]):
        line = process.info["cmdline"] or []
        if "whipray.platform.cli.job_entry" in line and job in line:
            found = [process]
            with suppress(psutil.NoSuchProcess):
                found += process.children(recursive=True)
            for one in found:
                with suppress(psutil.NoSuchProcess):
                    one.kill()
                    killed += 1
    if not killed:
        sys.exit(f"no process of {job} is here")


if __name__ == "__main__":
    main()
