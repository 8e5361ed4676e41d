"""whipray models: what is registered."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from ....trainers.errors import UsageProblem
from ..options import Endpoint, Json, StorageUri, TrackingUri
from ..output import print_json, stderr_console, stdout_console


def models(
    name: Annotated[str | None, typer.Argument(help="One model; default: all.")] = None,
    champion: Annotated[
        str | None, typer.Option("--champion", help="Version of NAME to become its @champion.")
    ] = None,
    storage: StorageUri = None,
    endpoint: Endpoint = None,
    tracking: TrackingUri = None,
    as_json: Json = False,
) -> None:
    """List registered models, their versions and aliases; or say which is the champion."""
    from ...tracking import registry
    from ...tracking.registry import resolve
    from ..stores import open_tracker

    tracker = open_tracker(storage, endpoint, tracking)
    if name is not None:
        resolve(tracker, f"models:/{name}")  # says which names there are
    if champion is not None:
        if name is None:
            raise UsageProblem(
                "--champion needs a model's name", "whipray models NAME --champion 3"
            )
        chosen = resolve(tracker, f"models:/{name}/{champion}")
        registry.set_alias(tracker, chosen, registry.CHAMPION)
    found = [
        v
        for each in ([name] if name else registry.names(tracker))
        for v in registry.versions(tracker, each)
    ]
    if as_json:
        print_json({"models": [{**vars(version), "uri": version.uri} for version in found]})
        return
    if not found:
        stderr_console.print(
            "nothing is registered yet; `whipray sweep cbdm` registers its best model"
        )
        return
    table = Table(box=None, pad_edge=False)
    for column in ("model", "version", "aliases", "from", "score"):
        table.add_column(column)
    for version in found:
        tags = version.tags
        rank_by = tags.get("whipray.rank_by", "")
        score = tags.get(f"whipray.{rank_by.replace('/', '.')}", "")
        origin = f"{tags.get('whipray.sweep', '')}/{tags.get('whipray.trial', '')}".strip("/")
        table.add_row(
            version.name,
            version.version,
            ", ".join(version.aliases),
            origin,
            f"{rank_by} {score}".strip(),
        )
    stdout_console.print(table)
