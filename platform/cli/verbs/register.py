"""whipray register: register the model of a run."""

from __future__ import annotations

from typing import Annotated

import typer

from ..consoles import next_commands, print_json, stderr_console
from ..options import Json
from ..stores import StoreOptions, with_store_options


@with_store_options
def register(
    target: Annotated[str, typer.Argument(help="A run, or SWEEP/TRIAL.", metavar="RUN")],
    store: StoreOptions,
    name: Annotated[
        str | None, typer.Option("--name", help="Name of the model; default: the experiment's.")
    ] = None,
    alias: Annotated[
        str | None, typer.Option("--alias", help="Alias of the version, such as champion.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Register the model of a run, with its model card.

    It has the weights and the sampling settings of the run. What is registered already is found again; an
    alias is moved if asked for.
    """
    from ...analysis.register import register_run
    from ...api.documents import version_document
    from ..status_line import StatusLine

    with StatusLine(stderr_console, "registering"):
        version = register_run(store.open(), store.tracking, target, name, alias)
    if as_json:
        print_json(version_document(version))
        return
    aliases = f", as {', '.join('@' + each for each in version.aliases)}" if version.aliases else ""
    stderr_console.print(f"{version.uri}{aliases}")
    next_commands(
        ["whipray", "sample", version.uri, "--out", "samples.png", *store.words],
        ["whipray", "models", version.name, *store.words],
    )
