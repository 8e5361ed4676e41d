"""Options that several verbs share. Those that name a store are in `stores.py`."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from ...trainers.errors import UsageProblem
from ..foundation.job import in_cluster_job
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
Workers = Annotated[
    str,
    typer.Option(
        "--workers",
        help="Processes at a time, or `all` that have room; more than 1 run on Ray. Default: 1, in a "
        "cluster's job `all`.",
        show_default=False,
    ),
]
OpenPage = Annotated[bool, typer.Option("--open", help="Open the page in a browser.")]
LOCAL = "local"


def workers_of(given: str) -> int | Literal["all"]:
    """Return the number of processes that `--workers` gives.

    Raises:
        UsageProblem: it is no number of at least 1.
    """
    if given in ("", "all"):
        return "all" if given or in_cluster_job() else 1
    if not given.isdecimal() or int(given) < 1:
        raise UsageProblem(
            f"--workers is {given}", "give a number of at least 1, or `all` that have room"
        )
    return int(given)


def _cluster(given: str | None) -> str | None:
    """Return the cluster of --on, or of a settings file; None on this machine."""
    if given is None:
        from ..foundation.settings import setting

        in_file = setting("on")
        return in_file.value if in_file else None
    return None if given == LOCAL else given


def _cluster_of_jobs() -> str:
    """Return the cluster of a settings file, where neither --on nor the environment names one."""
    if (cluster := _cluster(None)) is None:
        if completion.is_running():
            return ""
        raise UsageProblem(
            "no cluster is named",
            "give --on http://HEAD:8265, set RAY_API_SERVER_ADDRESS, or `on` in whipray.toml",
        )
    return cluster


On = Annotated[
    str | None,
    typer.Option(
        "--on",
        callback=_cluster,
        help="Run on the Ray cluster with this dashboard: http://HEAD:8265; `local`: on this "
        "machine, whatever whipray.toml says.",
    ),
]
Yes = Annotated[bool, typer.Option("--yes", help="Skip the confirmation of costs.")]
ClusterOption = Annotated[
    str,
    typer.Option(
        "--on",
        envvar="RAY_API_SERVER_ADDRESS",
        default_factory=_cluster_of_jobs,
        help="Dashboard of the Ray cluster: http://HEAD:8265.",
    ),
]
