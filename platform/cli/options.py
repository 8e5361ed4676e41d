"""Options that several verbs share, and what they make of them."""

from __future__ import annotations

from typing import Annotated

import typer

Recipe = Annotated[str, typer.Argument(help="A recipe's name or a YAML file.", metavar="RECIPE")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="Dotted overrides, such as objective.tau=1.5.", metavar="[KEY=VALUE]..."),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Show what would run, with each value's origin.")
]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
StorageUri = Annotated[
    str | None,
    typer.Option("--storage", help="Where runs are: a folder or s3://bucket/prefix."),
]
Endpoint = Annotated[str | None, typer.Option("--endpoint", help="Address of an S3 server.")]
TrackingUri = Annotated[
    str | None, typer.Option("--tracking", help="MLflow's address; default: beside the runs.")
]
OpenPage = Annotated[bool, typer.Option("--open", help="Show the page in a browser.")]
On = Annotated[
    str | None,
    typer.Option("--on", help="Run on the Ray cluster with this dashboard: http://HEAD:8265."),
]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask before money is spent.")]
ClusterOption = Annotated[
    str,
    typer.Option(
        "--on",
        envvar="RAY_API_SERVER_ADDRESS",
        help="The cluster's dashboard: http://HEAD:8265.",
    ),
]
