"""Launch on a cluster: show what is sent, submit it, follow the job."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NoReturn

import typer

from ...trainers.errors import UsageProblem
from . import exit_codes
from .consoles import next_commands, print_json, stderr_console, write_output
from .streams import output_is_lost

if TYPE_CHECKING:  # imported on use, so that `--help` is quick
    from ..launching.forecast import Forecast
    from ..launching.jobs_client import JobsClient
    from ..launching.launch import Launch
    from ..launching.tasks import Task


class _NobodyReads(Exception):
    """What is followed can no longer be written: a closed pipe, a full disk."""


def send(
    address: str, task: Task, plan: Mapping[str, Any], as_json: bool, assume_yes: bool = False
) -> NoReturn:
    """Submit a job, follow it to its end, and exit with its exit code.

    With `as_json` print the job's document and exit without following.

    Args:
        assume_yes: skip the cost confirmation.
    """
    from .plan import print_facts

    launch, forecast = _check(address, task)
    facts = {"on": launch.client.address, **plan, **_outlook(launch, forecast)}
    with launch:
        assert launch.package is not None
        package = launch.package
        facts["package"] = f"{package.size / 1024:.0f} KiB; largest: {package.largest()}"
        print_facts(facts)
        if not assume_yes and (costs := launch.costs(forecast)):
            confirm_costs(costs)
        launch.submit()
    if as_json:
        print_json({"job": launch.job, **facts})
        sys.exit(exit_codes.OK)
    print_facts({"job": launch.job})
    follow(launch.client, launch.job)


def outlook(address: str, task: Task) -> dict[str, str]:
    """Check the cluster, and return its address, its room and the forecast; send nothing."""
    return _outlook(*_check(address, task))


def _check(address: str, task: Task) -> tuple[Launch, Forecast | None]:
    from ..launching.launch import Launch
    from .status_line import StatusLine

    launch = Launch(address, task)
    with StatusLine(stderr_console, lambda: launch.status):
        launch.check()
        return launch, launch.forecast()


def _outlook(launch: Launch, forecast: Forecast | None) -> dict[str, str]:
    return {"on": launch.client.address, **(forecast.lines() if forecast else {})}


def confirm_costs(costs: str) -> None:
    """Ask whether to spend the money; exit if not.

    Raises:
        UsageProblem: there is nobody to ask.
    """
    if not sys.stdin.isatty():
        raise UsageProblem(
            f"this launch costs {costs}, and there is no terminal to ask for a yes: nothing was sent",
            "add --yes to spend it, or scaling.price_per_hour=0 if it is free",
        )
    if not typer.confirm(f"spend {costs}?", err=True):
        stderr_console.print("nothing was sent")
        sys.exit(exit_codes.INTERRUPTED)


def follow(client: JobsClient, job: str) -> NoReturn:
    """Print a job's output until it ends, and exit with its exit code.

    Ctrl-C stops following, and so does a pipe that nobody reads any longer; the job runs on.
    """

    def warn() -> None:
        stderr_console.print(f"lost the connection to {client.address}; trying again")

    def write(text: str) -> None:
        write_output(text)
        if output_is_lost():
            raise _NobodyReads

    try:
        ended = client.follow(job, write, warn)
    except (KeyboardInterrupt, _NobodyReads) as end:
        stderr_console.print(f"\nno longer following {job}, which is still running")
        next_commands(
            ["whipray", "jobs", "logs", "-f", job, "--on", client.address],
            ["whipray", "jobs", "stop", job, "--on", client.address],
        )
        nobody = isinstance(end, _NobodyReads)
        sys.exit(exit_codes.NOBODY_READS if nobody else exit_codes.INTERRUPTED)
    if ended.exit_code is None:  # it did not exit by itself: it was stopped, or its node was lost
        stderr_console.print(f"{job}: {ended.status.lower()}. {ended.message}".strip())
        sys.exit(exit_codes.FAILURE)
    sys.exit(ended.exit_code)
