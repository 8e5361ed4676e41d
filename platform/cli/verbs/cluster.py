"""whipray cluster: bring a cluster up from a file of infra/, look at it, take it down."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..output import next_commands, stderr_console

if TYPE_CHECKING:
    from ...launching.cluster_files import Action, ClusterFile

app = typer.Typer(
    help="Bring a cluster up, look at it, take it down, through Ray's launcher, kubectl or docker.",
    no_args_is_help=True,
)
File = Annotated[
    Path,
    typer.Argument(help="Such as infra/aws.yaml, infra/raycluster.yaml, infra/compose.yaml."),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask; only Ray's launcher does.")]


@app.command()
def up(file: File, yes: Yes = False) -> None:
    """Start the cluster, or bring it in line with a changed file."""
    cluster = _run(file, "up", yes)
    forward = cluster.forward_command()
    next_commands(*([forward] if forward else []), "whipray doctor --on http://127.0.0.1:8265")


@app.command()
def down(file: File, yes: Yes = False) -> None:
    """Stop and remove what the file describes; buckets and docker's volumes stay."""
    _run(file, "down", yes)


@app.command()
def status(file: File) -> None:
    """Show what runs of it."""
    _run(file, "status", yes=False)


def _run(file: Path, action: Action, yes: bool) -> ClusterFile:
    """Show the command, run it, and leave with its exit code where that is not 0."""
    from ...launching.cluster_files import read_cluster, run

    cluster = read_cluster(file)
    command = cluster.command(action, yes=yes)
    stderr_console.print(f"$ {shlex.join(command)}", markup=False)
    if code := run(command):
        raise typer.Exit(code)
    return cluster
