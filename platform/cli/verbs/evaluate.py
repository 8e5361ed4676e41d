"""whipray evaluate: measure a run or a registered model again."""

from __future__ import annotations

from typing import Annotated

import typer

from ..options import Endpoint, Json, On, OpenPage, Overrides, StorageUri, TrackingUri
from ..output import (
    metrics_table,
    next_commands,
    print_json,
    show_page,
    stderr_console,
    stdout_console,
)


def evaluate(
    target: Annotated[
        str, typer.Argument(help="A run, SWEEP/TRIAL, or models:/NAME@ALIAS.", metavar="TARGET")
    ],
    overrides: Overrides = None,
    open_page: OpenPage = False,
    storage: StorageUri = None,
    endpoint: Endpoint = None,
    tracking: TrackingUri = None,
    on: On = None,
    as_json: Json = False,
) -> None:
    """Draw from a checkpoint and compare with real images, in full; known results are not redone.

    Overrides may change sampling.*, evaluation.* and scaling.*.
    """
    from ...analysis.target import evaluate_again, find_target
    from ...runs.run import record
    from ..status_line import StatusLine
    from ..stores import open_storage, store_config

    if on:
        from ...launching.launch import evaluate_task
        from ..remote import send

        given = store_config(storage, endpoint)
        task = evaluate_task(target, overrides or [], given, tracking)
        send(on, task, {"run": target, "storage": task.storage.uri}, as_json)
    root = open_storage(storage, endpoint)
    state = {"line": "loading the checkpoint"}
    with StatusLine(stderr_console, lambda: state["line"]):
        run = find_target(root, tracking, target, overrides or [])
        found, generated = evaluate_again(run, lambda line: state.update(line=line))
        note = run.record(root, lambda to: record(to, run.place.store, found, found.folder))
    store = run.place.store
    page = store.uri_of(f"{found.folder}/report.html")
    if as_json:
        print_json(
            {
                "run": run.name,
                "checkpoint": run.place.checkpoint,
                "metrics": found.metrics,
                "provenance": found.provenance,
                "images_generated": generated,
                "report": page,
                "note": note,
            }
        )
    else:
        stdout_console.print(metrics_table(found.metrics))
        stderr_console.print(
            f"\n{run.place.checkpoint}, omega {found.sampling.omega:g}, "
            f"{found.provenance['n_generated']} images"
            f"{' (known already)' if generated == 0 else ''}",
            markup=False,
        )
        if note:
            stderr_console.print(note, markup=False)
        stderr_console.print(f"report  {page}", markup=False)
        next_commands(
            f"whipray guidance {target}",
            f"whipray compare {target} OTHER",
            f"whipray sample {target} --out samples.png",
        )
    if open_page:
        show_page(store, f"{found.folder}/report.html")
