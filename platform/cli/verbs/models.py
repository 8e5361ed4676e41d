"""whipray models: list registered models and choose their champions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ....trainers.errors import UsageProblem
from ..consoles import plain_table, print_json, stderr_console, stdout_console
from ..options import Json
from ..stores import StoreOptions, with_store_options

if TYPE_CHECKING:  # imported on use, so that `--help` is quick
    from rich.table import Table

    from ...tracking.versions import Version


@with_store_options
def models(
    store: StoreOptions,
    name: Annotated[
        str | None, typer.Argument(help="Name of one model; default: all models.")
    ] = None,
    champion: Annotated[
        str | None, typer.Option("--champion", help="Make this version of NAME its @champion.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List registered models, or choose a champion."""
    if champion is not None:
        _promote(store, name, champion)
    versions = store.registered_versions()
    if name is not None:
        from ...tracking.versions import choose

        of_name = [version for version in versions if version.name == name]
        choose(f"models:/{name}", of_name, {version.name for version in versions})
        versions = of_name
    if as_json:
        from ...api.documents import version_document

        print_json({"models": [version_document(version) for version in versions]})
        return
    if not versions:
        stderr_console.print(_nothing_registered(store))
        return
    stdout_console.print(_table(versions))


def _promote(store: StoreOptions, name: str | None, champion: str) -> None:
    """Make a version of a model its champion."""
    if name is None:
        raise UsageProblem(
            "--champion needs the name of a model", "whipray models NAME --champion 3"
        )
    from ...tracking import registry

    tracker = store.open_tracker()
    version = registry.resolve(tracker, f"models:/{name}/{champion}")
    registry.set_alias(tracker, version, registry.CHAMPION)


def _nothing_registered(store: StoreOptions) -> str:
    """Return why the table is empty: nothing was registered yet, or the database was lost."""
    from ...storage.layout import runs_in

    runs = runs_in(store.open().list())
    if runs and not store.has_recorded_runs():
        return (
            f"MLflow has no run, though the store has {len(runs)}: if its database was lost, "
            "`whipray runs rebuild` makes runs and models again"
        )
    return (
        "no model is registered yet; `whipray sweep cbdm` registers its best, `whipray register RUN` "
        "the model of a run"
    )


def _table(versions: list[Version]) -> Table:
    from ...storage.layout import VersionTag

    table = plain_table("model", "version", "aliases", "from", "score")
    for version in versions:
        tags = version.tags
        rank_by = tags.get(VersionTag.RANK_BY, "")
        score = tags.get(VersionTag.score(rank_by), "")
        table.add_row(
            version.name,
            version.version,
            ", ".join(version.aliases),
            version.origin,
            f"{rank_by} {score}".strip(),
        )
    return table
