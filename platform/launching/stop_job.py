"""Stop a job: ask it to save and exit, or kill it.

    python -m whipray.platform.launching.stop_job JOB      # on the job's node: kills its processes

Ray 2.60 fixes the grace period of a job when the job is submitted (`jobs_client.STOP_GRACE_S`); a
second stop does not shorten it. To kill a job at once, a second job kills the processes of the
first.
"""

from __future__ import annotations

import shlex
import sys
import time
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from ...trainers.scratch import Scratch
from .jobs_client import STOP_GRACE_S, ClusterProblem, Job, JobsClient
from .package import stage

KILL_DETECTION_S = 60
"""Time for Ray to notice that the processes of a job are gone."""
EXIT_DETECTION_S = 10
"""Time for Ray to notice that a job has ended by itself."""
KILL_TIMEOUT_S = 300
"""Time for the killing job to start, too, on a busy node."""


def end(client: JobsClient, job: Job) -> Job:
    """Ask a job to save a checkpoint and exit, and wait until it has.

    Raises:
        ClusterProblem: it still runs after `STOP_GRACE_S`.
    """
    client.stop(job.id)
    fix = f"kill it with `whipray jobs stop --now {job.id} --on {client.address}`"
    return _wait(client, job, STOP_GRACE_S + KILL_DETECTION_S, fix)


def kill(client: JobsClient, job: Job) -> Job:
    """Kill a job at once, by a second job on its node that kills its processes.

    Raises:
        ClusterProblem: the second job failed or found no process to kill, or the first one still
            runs after `KILL_TIMEOUT_S`.
    """
    client.stop(job.id)  # so that Ray records it as stopped, not as failed
    with Scratch() as folder:
        helper = f"kill-{job.id}-{uuid4().hex[:6]}"
        package = stage(Path(folder), {})
        command = f"python -m whipray.platform.launching.stop_job {shlex.quote(job.id)}"
        client.submit(helper, command, str(package.folder), {"verb": "kill"}, job.node)
    fix = f"look at its node, and at `whipray jobs logs {helper} --on {client.address}`"
    return _wait(client, job, KILL_TIMEOUT_S, fix, helper)


def _wait(client: JobsClient, job: Job, seconds: float, fix: str, helper: str = "") -> Job:
    """Wait until `job` has ended; not much longer once `helper` has failed."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        state = client.job(job.id)
        if state.has_ended:
            return state
        if helper and client.job(helper).status in ("FAILED", "STOPPED"):
            until = min(until, time.monotonic() + EXIT_DETECTION_S)
        time.sleep(1)
    raise ClusterProblem(f"{job.id} has not ended", fix)


def main() -> None:
    """Kill the driver of a job and its child processes on this node; Ray ends the workers."""
    import psutil  # type: ignore[import-untyped]

    job, killed = sys.argv[1], 0
    for driver in psutil.process_iter(["cmdline"]):
        words = driver.info["cmdline"] or []
        if "whipray.platform.cli.job_entry" in words and job in words:
            processes = [driver]
            with suppress(psutil.NoSuchProcess):
                processes += driver.children(recursive=True)
            for process in processes:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
                    killed += 1
    if not killed:
        sys.exit(f"no process of {job} runs on this node")


if __name__ == "__main__":
    main()
