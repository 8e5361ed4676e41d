"""A person's own pictures as a recipe: what `init` and `train FOLDER` share."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ...trainers.errors import UsageProblem
from .consoles import print_warnings, stderr_console

if TYPE_CHECKING:  # imported on use, so that `--help` is quick
    from ..config.layers import Layer
    from ..proposal.machine import Machine
    from ..proposal.propose import Proposal
    from .stores import StoreOptions

PATHS = ("root", "path")
"""Keys of `data` that may hold what `whipray train` was given."""

Size = Annotated[
    int | None, typer.Option("--size", min=8, help="Side of the images, in pixels.", metavar="PX")
]
Minutes = Annotated[
    float | None,
    typer.Option(
        "--minutes", min=0.1, help="Time for the whole run; default: 10 on a CPU, 240 on a GPU."
    ),
]
ProposedFor = Annotated[
    str | None,
    typer.Option("--on", help="Propose for the Ray cluster with this dashboard: http://HEAD:8265."),
]


def look_and_propose(
    paths: Sequence[Path],
    *,
    size: int | None = None,
    minutes: float | None = None,
    on: str | None = None,
    relative: bool = False,
    quiet: bool = False,
) -> Proposal:
    """Inspect pictures, print what they hold, and propose a recipe.

    Args:
        paths: as `inspection.source_of` takes them.
        size: side of the images; None to choose it.
        minutes: the budget; None for the machine's default.
        on: address of a cluster's dashboard; None for this machine.
        relative: keep paths as they are typed.
        quiet: print nothing of what they hold.

    Raises:
        Problem: nothing can be trained on them, or the cluster does not answer.
    """
    from ..inspection.inspect import inspect
    from ..inspection.screen import screen
    from ..inspection.source import source_of
    from ..proposal.machine import busy
    from ..proposal.measure import measure
    from ..proposal.propose import name_of, propose
    from .status_line import StatusLine

    typed = [path.expanduser() for path in paths]
    source = source_of(typed if relative else [path.absolute() for path in typed])
    with StatusLine(stderr_console, "looking at the images") as line:
        inspection = inspect(source, line.set)
        if not quiet:
            for text in screen(inspection):
                stderr_console.print(text)
        if on is None and (load := busy()):
            print_warnings([load])
        line.set("measuring a training step")
        return propose(
            inspection, name_of(typed), _machine(on), measure, minutes=minutes, size=size
        )


def names_pictures(recipe: str) -> bool:
    """Return whether `whipray train` is given pictures: a folder with a separator in its name, or Parquet.

    A bare name is a recipe's.
    """
    separators = filter(None, (os.sep, os.altsep))
    is_path = any(separator in recipe for separator in separators)
    path = Path(recipe).expanduser()
    return ((is_path or recipe in (".", "..")) and os.path.isdir(path)) or path.suffix == ".parquet"


def name_of_pictures(recipe: str) -> str:
    """Return the name of the run of a folder of pictures, or of a Parquet file."""
    from ..proposal.propose import model_name, name_of

    return model_name(name_of([Path(recipe)]))


def layer_of_pictures(recipe: str, run: str, store: StoreOptions, on: str | None) -> Layer:
    """Return the proposed recipe, or that of the run of this name on the same pictures, which goes on.

    A proposal made again would differ, as it rests on measured times.

    Raises:
        Problem: as `look_and_propose`.
    """
    from ..config.layers import Layer
    from ..runs.find_run import find_run
    from ..storage.store import Storage

    if on is not None and not Path(recipe).expanduser().is_absolute():
        from ..launching.shared_config import check_paths

        check_paths([("data.path" if os.path.isfile(recipe) else "data.root", recipe)])
    path = Path(recipe).expanduser().absolute()
    try:
        stored = find_run(Storage(store.config()), run).experiment
    except UsageProblem:  # no such run
        stored = None
    if stored is not None and str(path) in {str(getattr(stored.data, key, "")) for key in PATHS}:
        config = stored.model_dump(mode="json", exclude={"storage", "tracking"})
        return Layer(f"run {run}", config)
    proposal = look_and_propose([path], on=on)
    print_warnings(proposal.warnings)
    stderr_console.print(f"{proposal.times}\n")
    return proposal.layer


def _machine(on: str | None) -> Machine:
    from ..proposal.machine import Machine, this_machine

    if on is None:
        return this_machine()
    from ..launching.jobs_client import JobsClient

    client = JobsClient(on)
    return Machine(client.room(1, 0), client.room(1, 1), client.address)
