"""whipray guidance: measure quality over guidance strength."""

from __future__ import annotations

from typing import Annotated

import typer

from ..consoles import next_commands, print_json, print_warnings, stderr_console, stdout_console
from ..options import Json, OpenPage, Overrides, Target
from ..stores import StoreOptions, with_store_options


@with_store_options
def guidance(
    target: Target,
    store: StoreOptions,
    overrides: Overrides = None,
    omega: Annotated[
        str, typer.Option("--omega", help="Guidance strengths, comma-separated.")
    ] = "0,0.5,1,1.5,2,3",
    steps: Annotated[
        str | None,
        typer.Option("--steps", help="Sampler steps, comma-separated; default: the run's."),
    ] = None,
    sampler: Annotated[
        str | None,
        typer.Option("--sampler", help="Samplers, comma-separated; default: the run's."),
    ] = None,
    open_page: OpenPage = False,
    as_json: Json = False,
) -> None:
    """Measure quality over guidance strength.

    Every combination of omega, steps and sampler is a point, with FID, KID and recall of images
    that are generated from the same noise; points that are known already are reused.
    """
    from ...analysis.guidance import measure_guidance
    from ..page import show_page
    from ..status_line import StatusLine
    from ..tables import guidance_table

    lists = {"omega": omega, "steps": steps, "sampler": sampler}
    with StatusLine(stderr_console, "loading the checkpoint") as line:
        result = measure_guidance(
            store.open(), store.tracking, target, overrides or [], lists, line.set
        )
    print_warnings(result.warnings)
    page = result.store.uri_of(result.page)
    if as_json:
        print_json({**result.document(), "page": page})
    else:
        stdout_console.print(guidance_table(result.points))
        stderr_console.print()
        for group, point in result.best.items():
            value = point.values[f"{result.metric}/{group}"].value
            stderr_console.print(
                f"best for {group:<8} omega {point.omega:g} ({point.sampler}): "
                f"{result.metric} {value:.4g}"
            )
        if result.note:
            stderr_console.print(result.note)
        stderr_console.print(f"page  {page}")
        best = result.best["overall"].omega
        next_commands(
            ["whipray", "evaluate", target, f"sampling.guidance.omega={best:g}", *store.words],
            [
                "whipray",
                "sample",
                target,
                "--omega",
                f"{best:g}",
                "--out",
                "samples.png",
                *store.words,
            ],
        )
    if open_page:
        show_page(result.store, result.page)
