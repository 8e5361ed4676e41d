"""whipray evaluate: evaluate a run or a registered model, with other settings if wanted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..consoles import next_commands, print_json, print_warnings, stderr_console, stdout_console
from ..options import Json, On, OpenPage, Overrides, Target, Yes
from ..stores import StoreOptions, with_store_options

if TYPE_CHECKING:  # imported on use, so that `--help` is quick
    from ...analysis.target import EvaluationResult


@with_store_options
def evaluate(
    target: Target,
    store: StoreOptions,
    overrides: Overrides = None,
    open_page: OpenPage = False,
    on: On = None,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Evaluate a checkpoint with every metric.

    It generates images and compares them with real ones; what is known already is reused.

    Overrides may change sampling.*, evaluation.* and scaling.*.
    """
    if on:
        from ...launching.tasks import evaluate_task
        from ..remote import send

        task = evaluate_task(target, overrides or [], store.config(), store.tracking)
        send(on, task, {"run": target, "storage": task.storage.uri}, as_json, yes)

    from ...analysis.target import evaluate_run
    from ...api.documents import evaluation_document
    from ..page import show_page
    from ..status_line import StatusLine

    with StatusLine(stderr_console, "loading the checkpoint") as line:
        result = evaluate_run(
            store.open(), store.tracking, target, overrides or [], line.set, line.report
        )
    print_warnings(result.evaluated.warnings)
    if as_json:
        print_json(evaluation_document(result))
    else:
        _print_result(result)
        next_commands(
            ["whipray", "guidance", target, *store.words],
            ["whipray", "compare", target, "OTHER", *store.words],
            ["whipray", "sample", target, "--out", "samples.png", *store.words],
        )
    if open_page:
        show_page(result.target.run.store, result.page)


def _print_result(result: EvaluationResult) -> None:
    from ..tables import metrics_table

    target, evaluated = result.target, result.evaluated
    stdout_console.print(metrics_table(evaluated.metrics, stdout_console.width))
    known = " (known already)" if result.images_generated == 0 else ""
    stderr_console.print(
        f"\n{target.run.checkpoint}, {evaluated.sampling.label}, "
        f"{evaluated.provenance['n_generated']} images{known}"
    )
    if result.note:
        stderr_console.print(result.note)
    stderr_console.print(f"report  {target.run.store.uri_of(result.page)}")
