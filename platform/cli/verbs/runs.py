"""whipray runs: the record of runs in MLflow."""

from __future__ import annotations

import typer

from ..consoles import print_json, stderr_console
from ..options import Json
from ..stores import StoreOptions, with_store_options

app = typer.Typer(help="Look after the record of runs in MLflow.", no_args_is_help=True)


@app.callback()
def _runs() -> None:
    """Look after the record of runs in MLflow."""


@app.command()
@with_store_options
def rebuild(store: StoreOptions, as_json: Json = False) -> None:
    """Make again what MLflow lacks of the store's runs, sweeps and registered models.

    For a database that was lost. What MLflow has stays as it is. Curves of losses and system metrics are
    in MLflow alone and cannot be made again.
    """
    from ....trainers.data.report import counted
    from ...tuning.rebuild import Rebuilding
    from ..status_line import StatusLine

    with StatusLine(stderr_console, "reading the store") as line:
        rebuilt = Rebuilding(store.open(), store.tracking, line.set).run()
    for note in rebuilt.notes:
        stderr_console.print(note)
    if as_json:
        print_json(vars(rebuilt))
        return
    for done, what, made in (
        ("rebuilt", "runs", rebuilt.runs),
        ("registered", "models", rebuilt.models),
    ):
        names = f": {', '.join(made)}" if made else ""
        stderr_console.print(f"{done} {counted(len(made), what)}{names}")
    if rebuilt.runs:
        stderr_console.print("curves of losses and system metrics were in the lost database alone")
