"""whipray jobs: what runs on a cluster."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from ...foundation.durations import minutes
from ..options import ClusterOption, Json
from ..output import print_json, stderr_console, stdout_console

if TYPE_CHECKING:
    from ...launching.jobs_client import Job

app = typer.Typer(help="What runs on a cluster: list, show, logs, stop.", no_args_is_help=True)
JobName = Annotated[str, typer.Argument(metavar="JOB")]


@app.command("list")
def list_jobs(
    on: ClusterOption,
    everyone: Annotated[
        bool, typer.Option("--all", help="Also jobs that are not whipray's.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Jobs of the cluster, the latest first."""
    from ...launching.jobs_client import JobsClient

    found = [job for job in JobsClient(on).jobs() if everyone or "whipray" in job.facts]
    if as_json:
        print_json({"jobs": [vars(job) for job in found]})
        return
    if not found:
        stderr_console.print(
            "no jobs yet; `whipray train digits-lt --on ADDRESS` starts one", markup=False
        )
        return
    table = Table(box=None, pad_edge=False)
    for column in ("job", "state", "started", "took", "what", "user"):
        table.add_column(column, no_wrap=True)
    for job in found:
        table.add_row(
            job.id,
            job.status.lower(),
            _clock(job.started),
            _took(job),
            f"{job.facts.get('verb', '')} {job.facts.get('name', '')}".strip(),
            job.facts.get("user", ""),
        )
    stdout_console.print(table)


@app.command()
def show(job: JobName, on: ClusterOption, as_json: Json = False) -> None:
    """One job: state, command, store, and the end of what it said."""
    from ...launching.jobs_client import JobsClient

    cluster = JobsClient(on)
    found = cluster.job(job)
    log = cluster.log(job)
    if as_json:
        print_json({"job": vars(found), "log": log})
        return
    facts = {"job": found.id, "state": found.status.lower(), "exit code": found.exit_code}
    facts |= {"started": _clock(found.started), "took": _took(found), "node": found.node}
    facts |= {key: found.facts.get(key, "") for key in ("command", "storage", "code", "user")}
    for key, value in facts.items():
        stdout_console.print(f"{key:<12}{'' if value is None else value}", markup=False)
    for line in log.splitlines()[-10:]:
        stdout_console.print(f"  {line}", markup=False)


@app.command()
def logs(
    job: JobName,
    on: ClusterOption,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Stay until it is over; Ctrl-C lets go of it.")
    ] = False,
) -> None:
    """What a job has said."""
    from ...launching.jobs_client import JobsClient
    from ..remote import follow as stay

    cluster = JobsClient(on)
    cluster.job(job)
    if follow:
        stay(cluster, job)
    typer.echo(cluster.log(job), nl=False)


@app.command()
def stop(
    job: JobName,
    on: ClusterOption,
    now: Annotated[
        bool, typer.Option("--now", help="At once: what came after its last checkpoint is lost.")
    ] = False,
) -> None:
    """End a job; it saves a checkpoint first, and the same command goes on from there."""
    from ...launching.jobs_client import JobsClient
    from ...launching.stop_job import end, kill
    from ..status_line import StatusLine

    cluster = JobsClient(on)
    found = cluster.job(job)
    if found.has_ended:
        stderr_console.print(f"{job} is over already: {found.status.lower()}", markup=False)
        return
    with StatusLine(stderr_console, lambda: f"{job} is {'ending' if now else 'saving'}"):
        ended = kill(cluster, found) if now else end(cluster, found)
    stderr_console.print(f"{job}: {ended.status.lower()}", markup=False)


def _clock(seconds: float | None) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds)) if seconds else ""


def _took(job: Job) -> str:
    return minutes((job.ended or time.time()) - job.started) if job.started else ""
