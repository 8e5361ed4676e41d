"""What a person sees of a job on a cluster: what is sent, what it says, how to come back."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NoReturn

import typer

from .output import next_commands, print_json, stderr_console

if TYPE_CHECKING:
    from ..launching.forecast import Forecast
    from ..launching.jobs_client import JobsClient
    from ..launching.launch import Task

DETACHED = 130


def send(
    address: str, task: Task, plan: Mapping[str, Any], as_json: bool, assume_yes: bool = False
) -> NoReturn:
    """Submit, then follow to the end; exits as the job does.

    With `--json` it says which job it is and leaves it alone.

    Args:
        assume_yes: skip the cost confirmation.
    """
    from ..launching.launch import Launch
    from .status_line import StatusLine

    launch = Launch(address, task)
    with StatusLine(stderr_console, lambda: launch.status):
        launch.check()
        forecast = launch.forecast()
    facts = {"on": launch.cluster.address, **plan, **(forecast.lines() if forecast else {})}
    with launch:
        assert launch.package is not None
        package = launch.package
        facts["package"] = f"{package.size / 1024:.0f} KiB; largest: {package.largest()}"
        for key, value in facts.items():
            stderr_console.print(f"  {key:<12}{value}", markup=False)
        if forecast and not assume_yes and not as_json:
            ask(forecast)
        launch.submit()
    if as_json:
        print_json({"job": launch.job, **facts})
        sys.exit(0)
    stderr_console.print(f"  {'job':<12}{launch.job}", markup=False)
    follow(launch.cluster, launch.job)


def ask(forecast: Forecast) -> None:
    """Whether to spend the money, where it is any and somebody is there to say."""
    if not forecast.work.experiment.scaling.price_per_hour or not sys.stdin.isatty():
        return
    costs = "nobody knows how much" if forecast.money is None else f"{forecast.money:.2f}"
    if not typer.confirm(f"spend {costs}?", err=True):
        stderr_console.print("nothing was sent", markup=False)
        sys.exit(DETACHED)


def follow(cluster: JobsClient, job: str) -> NoReturn:
    """Pass on what a job says until it is over; Ctrl-C lets go of it and leaves it running."""

    def say(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    def lost() -> None:
        stderr_console.print(f"no connection to {cluster.address}; trying again", markup=False)

    try:
        ended = cluster.follow(job, say, lost)
    except KeyboardInterrupt:
        stderr_console.print(f"\n{job} goes on without you", markup=False)
        next_commands(
            f"whipray jobs logs -f {job} --on {cluster.address}",
            f"whipray jobs stop {job} --on {cluster.address}",
        )
        sys.exit(DETACHED)
    if ended.exit_code is None:  # not by itself: stopped, or its node was lost
        stderr_console.print(
            f"{job}: {ended.status.lower()}. {ended.message}".strip(), markup=False
        )
    sys.exit(ended.exit_code if ended.exit_code is not None else 1)
