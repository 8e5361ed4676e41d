"""whipray cluster: start a cluster from a file of infra/, show its status, take it down."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..consoles import next_commands, stderr_console

if TYPE_CHECKING:  # imported on use, so that `--help` is quick
    from ...launching.cluster_files import Action, ClusterFile

app = typer.Typer(
    help="Start, show or take down the cluster of a file.\n\n"
    "Ray's launcher, kubectl or docker compose do it.",
    no_args_is_help=True,
)
File = Annotated[
    Path,
    typer.Argument(
        help="A cluster file, such as infra/aws.yaml, infra/raycluster.yaml or infra/compose.yaml."
    ),
]
Yes = Annotated[
    bool,
    typer.Option("--yes", "-y", help="Skip the confirmation; only Ray's launcher asks for one."),
]


@app.command()
def up(file: File, yes: Yes = False) -> None:
    """Start the cluster, or apply a changed file to it."""
    cluster = _run(file, "up", yes)
    forward = cluster.forward_command()
    doctor = [
        "whipray",
        "doctor",
        "--on",
        "http://127.0.0.1:8265",
        "--storage",
        "s3://BUCKET/PREFIX",
    ]
    next_commands(*([forward] if forward else []), doctor)


@app.command()
def down(file: File, yes: Yes = False) -> None:
    """Stop and remove what the file describes; buckets and Docker volumes are kept."""
    _run(file, "down", yes)


@app.command()
def status(file: File) -> None:
    """Show which parts of the cluster run."""
    _run(file, "status", yes=False)


def _run(file: Path, action: Action, yes: bool) -> ClusterFile:
    """Show the command and run it; exit with its exit code if that is not 0."""
    from ...launching.cluster_files import read_cluster, run

    cluster = read_cluster(file)
    command = cluster.command(action, yes=yes)
    stderr_console.print(f"$ {shlex.join(command)}")
    if code := run(command):
        raise typer.Exit(code)
    return cluster
