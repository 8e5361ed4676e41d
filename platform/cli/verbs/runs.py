"""whipray runs: what a store holds, and housekeeping in it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .. import completion
from ..confirm import confirm
from ..consoles import print_json, stderr_console, stdout_console
from ..options import Json, Target
from ..stores import StoreOptions, with_store_options

if TYPE_CHECKING:  # imported on use, so that `--help` is quick
    from ...housekeeping.inventory import Inventory

app = typer.Typer(help="List, show, remove, rename and export runs.", no_args_is_help=True)

Yes = Annotated[bool, typer.Option("--yes", help="Do it without asking.")]
Run = Annotated[
    str,
    typer.Argument(
        help="A run, SWEEP/TRIAL, or a sweep.", metavar="RUN", autocompletion=completion.runs
    ),
]


@app.callback()
def _runs() -> None:
    """List, show, remove, rename and export runs."""


@app.command("list")
@with_store_options
def list_(store: StoreOptions, as_json: Json = False) -> None:
    """List the store's runs and sweeps with their state, main metric, size and registered versions."""
    from ....trainers.data.report import counted
    from ...api.documents import runs_document
    from ...foundation.text import size_in_words
    from ...housekeeping.listing import list_runs
    from ...storage.layout import KIND_SWEEP
    from ..run_tables import runs_table

    inventory = _inventory(store)
    entries = list_runs(inventory, store.known_versions() or [])
    document = runs_document(inventory, entries)
    if as_json:
        print_json(document)
        return
    if entries:
        stdout_console.print(runs_table(entries))
    sweeps = sum(entry.kind == KIND_SWEEP for entry in entries)
    counts = f"{counted(len(entries) - sweeps, 'runs')}, {counted(sweeps, 'sweeps')}"
    stderr_console.print(f"{inventory.root.uri}: {counts}, {size_in_words(document['bytes'])}")


@app.command()
@with_store_options
def show(run: Run, store: StoreOptions, as_json: Json = False) -> None:
    """Show what a run is: its data and settings, checkpoints, evaluations, sizes and pages."""
    from ...housekeeping.details import describe
    from ..run_tables import print_details

    inventory = _inventory(store)
    document = describe(inventory, inventory.find(run), store.known_versions() or [])
    if as_json:
        print_json(document)
        return
    print_details(document)


@app.command()
@with_store_options
def rm(
    runs: Annotated[
        list[str],
        typer.Argument(
            help="Runs, SWEEP/TRIAL, or sweeps.", metavar="RUN...", autocompletion=completion.runs
        ),
    ],
    store: StoreOptions,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Remove runs and sweeps from the store, and mark them as deleted in MLflow.

    Refused are a registered version's run, one that a process is training, and one by which another run is
    guided. Models that other runs started from are kept as copies.
    """
    from ...api.documents import removal_document
    from ...foundation.text import size_in_words
    from ...housekeeping.records import Records
    from ...housekeeping.removal import plan_removal

    inventory = _inventory(store)
    removal = plan_removal(inventory, runs, store.known_versions() or [])
    if not as_json:
        for each in removal.runs:
            stderr_console.print(f"  {each.target:<24}{size_in_words(each.bytes)}")
    if not yes:
        confirm(
            f"remove {size_in_words(removal.bytes)}?",
            "nothing was removed",
            "add --yes to remove them",
        )
    removal.execute(Records(inventory.root, store.tracking))
    if as_json:
        print_json(removal_document(removal))
        return
    stderr_console.print(f"removed: {size_in_words(removal.bytes)} are free")


@app.command()
@with_store_options
def mv(
    run: Run,
    new: Annotated[str, typer.Argument(help="The new name.", metavar="NEW")],
    store: StoreOptions,
    as_json: Json = False,
) -> None:
    """Rename a run, in the store and in MLflow."""
    from ...housekeeping.records import Records
    from ...housekeeping.renaming import rename_run

    inventory = _inventory(store)
    versions = store.known_versions() or []
    rename_run(inventory, run, new, Records(inventory.root, store.tracking), versions)
    if as_json:
        print_json({"from": run, "to": new})
        return
    stderr_console.print(f"{run} is now {new}")


@app.command()
@with_store_options
def export(
    target: Target,
    folder: Annotated[Path, typer.Argument(help="A new folder.", metavar="FOLDER")],
    store: StoreOptions,
    as_json: Json = False,
) -> None:
    """Write a model to a folder, from which Python loads it without a store: `whipray.load_model(FOLDER)`."""
    from ...foundation.text import size_in_words
    from ...housekeeping.export import export_model
    from ..status_line import StatusLine

    with StatusLine(stderr_console, "exporting"):
        size = export_model(store.open(), store.tracking, target, folder)
    if as_json:
        print_json({"target": target, "folder": str(folder.absolute()), "bytes": size})
        return
    stderr_console.print(f"{folder}: {size_in_words(size)}")


@app.command()
@with_store_options
def gc(store: StoreOptions, yes: Yes = False, as_json: Json = False) -> None:
    """List what nothing refers to any more, with sizes; with --yes, free it.

    Checkpoints that were never finished, images of no evaluation, feature networks, features and models that
    no run uses, and what was not read from this machine's cache for 30 days. Nothing that was written in the
    last 24 hours.
    """
    from ...api.documents import garbage_document
    from ...foundation.text import size_in_words
    from ...housekeeping.garbage import find_garbage
    from ..run_tables import garbage_table

    inventory = _inventory(store)
    garbage = find_garbage(inventory, store.known_versions())
    size = sum(each.bytes for each in garbage)
    if not as_json and garbage:
        stdout_console.print(garbage_table(garbage))
    if yes:
        for each in garbage:
            each.free(inventory.root)
    if as_json:
        print_json(garbage_document(garbage, yes))
        return
    done = "freed" if yes else "could be freed with --yes"
    stderr_console.print(f"{len(garbage)} files and folders, {size_in_words(size)} {done}")


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


def _inventory(store: StoreOptions) -> Inventory:
    from ...housekeeping.inventory import Inventory

    return Inventory(store.open())
