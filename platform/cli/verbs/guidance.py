"""whipray guidance: measure quality over guidance strength."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ..consoles import next_commands, print_json, print_warnings, stderr_console, stdout_console
from ..options import Json, OpenPage, Overrides, Target
from ..stores import StoreOptions, with_store_options

if TYPE_CHECKING:
    from ...analysis.guidance import GuidanceResult
    from ...evaluation.pages.content import BestPoint


@with_store_options
def guidance(
    target: Target,
    store: StoreOptions,
    overrides: Overrides = None,
    omega: Annotated[
        str | None,
        typer.Option(
            "--omega", help="Guidance strengths, comma-separated; default: 0,0.5,1,1.5,2,3."
        ),
    ] = None,
    kinds: Annotated[
        str | None,
        typer.Option(
            "--guidance",
            help="Kinds of guidance, comma-separated: cfg, interval, autoguidance, groups, counts; "
            "default: the run's.",
        ),
    ] = None,
    steps: Annotated[
        str | None,
        typer.Option("--steps", help="Sampler steps, comma-separated; default: the run's."),
    ] = None,
    sampler: Annotated[
        str | None,
        typer.Option("--sampler", help="Samplers, comma-separated; default: the run's."),
    ] = None,
    over: Annotated[
        list[str] | None,
        typer.Option(
            "--over",
            help="KEY=V1,V2 of any other sampling setting, as low=0.2,0.5 or guide=6400,pretrained; repeated.",
        ),
    ] = None,
    open_page: OpenPage = False,
    as_json: Json = False,
) -> None:
    """Measure quality over guidance.

    Every combination of the values is a point, with FID, KID and recall of images that are generated from the
    same noise; points that are known already are reused. A kind of guidance is varied in the settings that it
    has. The best point of each group is measured again with other noise, by which it was not chosen.
    """
    from ...analysis.guidance import measure_guidance
    from ...analysis.guidance_points import GUIDANCE, OMEGA, SAMPLER, STEPS, parse_lists
    from ...api.documents import guidance_document
    from ...config.yaml12 import dump_scalar
    from ..page import show_page
    from ..status_line import StatusLine
    from ..tables import guidance_table

    options = {GUIDANCE: kinds, OMEGA: omega, SAMPLER: sampler, STEPS: steps}
    lists = parse_lists(options, over or [])
    with StatusLine(stderr_console, "loading the checkpoint") as line:
        result = measure_guidance(
            store.open(), store.tracking, target, overrides or [], lists, line.set, line.report
        )
    print_warnings(result.warnings)
    page = result.store.uri_of(result.page)
    if as_json:
        print_json(guidance_document(result))
    else:
        stdout_console.print(guidance_table(result.points))
        stderr_console.print()
        for group, best in result.best.items():
            stderr_console.print(_line(result, group, best))
        if result.note:
            stderr_console.print(result.note)
        stderr_console.print(f"page  {page}")
        values = result.values["overall"]
        words = [f"{key}={dump_scalar(value)}" for key, value in values.items()]
        commands = [["whipray", "evaluate", target, *words]]
        if values.keys() == {OMEGA}:
            strength = f"{values[OMEGA]:g}"
            commands.append(
                ["whipray", "sample", target, "--omega", strength, "--out", "samples.png"]
            )
        next_commands(*([*command, *store.words] for command in commands))
    if open_page:
        show_page(result.store, result.page)


def _line(result: GuidanceResult, group: str, best: BestPoint) -> str:
    """Return the best setting of a group, with its value where it was not chosen."""
    key = f"{result.metric}/{group}"
    setting = f"best for {group:<8} {result.settings.label(best.point)}: {result.metric}"
    chosen, held_out = best.point.values.get(key), best.held_out.values.get(key)
    if chosen is None or best.held_out is best.point:
        return setting if chosen is None else f"{setting} {chosen.value:.4g}"
    if held_out is None:
        return f"{setting} undefined with other noise, {chosen.value:.4g} as chosen"
    return (
        f"{setting} {held_out.value:.4g} [{held_out.low:.4g}, {held_out.high:.4g}] with other noise, "
        f"{chosen.value:.4g} as chosen"
    )
