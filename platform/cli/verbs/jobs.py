"""whipray jobs: list, show, follow and stop the jobs of a cluster."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from ...foundation.durations import minutes
from ..consoles import plain_table, print_json, stderr_console, stdout_console, write_output
from ..options import ClusterOption, Json

if TYPE_CHECKING:  # imported on use, so that `--help` is quick
    from ...launching.jobs_client import Job

app = typer.Typer(help="List, show, follow or stop the jobs of a cluster.", no_args_is_help=True)
JobName = Annotated[str, typer.Argument(metavar="JOB")]


@app.command("list")
def list_jobs(
    on: ClusterOption,
    everyone: Annotated[
        bool, typer.Option("--all", help="Show jobs of other programs, too.")
    ] = False,
    as_json: Json = False,
) -> None:
    """List the jobs of the cluster, the latest first."""
    from ...launching.jobs_client import JobsClient

    listed = [job for job in JobsClient(on).jobs() if everyone or "whipray" in job.facts]
    if as_json:
        print_json({"jobs": [vars(job) for job in listed]})
        return
    if not listed:
        stderr_console.print("no jobs yet; `whipray train digits-lt --on ADDRESS` starts one")
        return
    table = plain_table("job", "state", "started", "took", "what", "user")
    for job in listed:
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
    """Show a job and the end of its output."""
    from ...launching.jobs_client import JobsClient

    client = JobsClient(on)
    state = client.job(job)
    log = client.log(job)
    if as_json:
        print_json({"job": vars(state), "log": log})
        return
    facts = {"job": state.id, "state": state.status.lower(), "exit code": state.exit_code}
    facts |= {"started": _clock(state.started), "took": _took(state), "node": state.node}
    facts |= {key: state.facts.get(key, "") for key in ("command", "storage", "code", "user")}
    for key, value in facts.items():
        stdout_console.print(f"{key:<12}{'' if value is None else value}")
    for line in log.splitlines()[-10:]:
        stdout_console.print(f"  {line}")


@app.command()
def logs(
    job: JobName,
    on: ClusterOption,
    follow: Annotated[
        bool,
        typer.Option(
            "--follow", "-f", help="Follow until the job ends; Ctrl-C stops following, not the job."
        ),
    ] = False,
) -> None:
    """Print a job's output."""
    from ...launching.jobs_client import JobsClient
    from ..remote import follow as follow_job

    client = JobsClient(on)
    client.job(job)
    if follow:
        follow_job(client, job)
    write_output(client.log(job))


@app.command()
def stop(
    job: JobName,
    on: ClusterOption,
    now: Annotated[
        bool,
        typer.Option("--now", help="Kill it at once; progress since its last checkpoint is lost."),
    ] = False,
) -> None:
    """Stop a job after it has saved a checkpoint.

    The command that started the job resumes from it.
    """
    from ...launching.jobs_client import JobsClient
    from ...launching.stop_job import end, kill
    from ..status_line import StatusLine

    client = JobsClient(on)
    state = client.job(job)
    if state.has_ended:
        stderr_console.print(f"{job} has already ended: {state.status.lower()}")
        return
    with StatusLine(
        stderr_console, lambda: f"{job} is {'being killed' if now else 'saving a checkpoint'}"
    ):
        ended = kill(client, state) if now else end(client, state)
    stderr_console.print(f"{job}: {ended.status.lower()}")


def _clock(seconds: float | None) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds)) if seconds else ""


def _took(job: Job) -> str:
    return minutes((job.ended or time.time()) - job.started) if job.started else ""
