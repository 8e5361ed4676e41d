"""whipray guidance: quality over guidance strength."""

from __future__ import annotations

from typing import Annotated

import typer

from ..options import Endpoint, Json, OpenPage, Overrides, StorageUri, TrackingUri
from ..output import (
    guidance_table,
    next_commands,
    print_json,
    show_page,
    stderr_console,
    stdout_console,
)


def guidance(
    target: Annotated[
        str, typer.Argument(help="A run, SWEEP/TRIAL, or models:/NAME@ALIAS.", metavar="TARGET")
    ],
    overrides: Overrides = None,
    omega: Annotated[
        str, typer.Option("--omega", help="Guidance strengths, comma-separated.")
    ] = "0,0.5,1,1.5,2,3",
    steps: Annotated[
        str | None, typer.Option("--steps", help="Sampler steps; default: the run's.")
    ] = None,
    sampler: Annotated[
        str | None, typer.Option("--sampler", help="ddim, ddpm or both; default: the run's.")
    ] = None,
    open_page: OpenPage = False,
    storage: StorageUri = None,
    endpoint: Endpoint = None,
    tracking: TrackingUri = None,
    as_json: Json = False,
) -> None:
    """FID, KID of the few classes and recall over omega, from the same noise; known points are kept.

    Every combination of omega, steps and sampler is a point.
    """
    from ...analysis.guidance import measure_guidance
    from ..status_line import StatusLine
    from ..stores import open_storage

    root = open_storage(storage, endpoint)
    state = {"line": "loading the checkpoint"}
    lists = {"omega": omega, "steps": steps, "sampler": sampler}
    with StatusLine(stderr_console, lambda: state["line"]):
        found = measure_guidance(
            root, tracking, target, overrides or [], lists, lambda x: state.update(line=x)
        )
    page = found.store.uri_of(found.page)
    if as_json:
        print_json({**found.document(), "page": page})
    else:
        stdout_console.print(guidance_table(found.points))
        stderr_console.print()
        for group, point in found.best.items():
            name = f"{found.number}/{group}"
            stderr_console.print(
                f"best for {group:<8} omega {point.omega:g} ({point.sampler}, {point.steps} steps): "
                f"{found.number} {point.values[name].value:.4g}",
                markup=False,
            )
        if found.note:
            stderr_console.print(found.note, markup=False)
        stderr_console.print(f"page  {page}", markup=False)
        best = found.best["overall"]
        next_commands(
            f"whipray evaluate {target} sampling.omega={best.omega:g}",
            f"whipray sample {target} --omega {best.omega:g} --out samples.png",
        )
    if open_page:
        show_page(found.store, found.page)
