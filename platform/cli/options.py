"""Options that several verbs share. Those that name a store are in `stores.py`."""

from __future__ import annotations

from typing import Annotated

import typer

from . import completion

Recipe = Annotated[
    str,
    typer.Argument(
        help="Name of a recipe, or a YAML file.",
        metavar="RECIPE",
        autocompletion=completion.recipes,
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        help="Dotted overrides, such as objective.tau=1.5.",
        metavar="[KEY=VALUE]...",
        autocompletion=completion.overrides,
    ),
]
Target = Annotated[
    str,
    typer.Argument(
        help="A run, SWEEP/TRIAL, or models:/NAME@ALIAS.",
        metavar="TARGET",
        autocompletion=completion.targets,
    ),
]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Show what would run, and the origin of each config value."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
OpenPage = Annotated[bool, typer.Option("--open", help="Open the page in a browser.")]
On = Annotated[
    str | None,
    typer.Option("--on", help="Run on the Ray cluster with this dashboard: http://HEAD:8265."),
]
Yes = Annotated[bool, typer.Option("--yes", help="Skip the confirmation of costs.")]
ClusterOption = Annotated[
    str,
    typer.Option(
        "--on",
        envvar="RAY_API_SERVER_ADDRESS",
        help="Dashboard of the Ray cluster: http://HEAD:8265.",
    ),
]
