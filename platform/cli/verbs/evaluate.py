"""whipray evaluate: measure a run or a registered model again."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from ..options import Endpoint, Json, Overrides, StorageUri, TrackingUri
from ..output import metrics_table, next_commands, out, say_json, talk


def evaluate(
    target: Annotated[
        str, typer.Argument(help="A run, SWEEP/TRIAL, or models:/NAME@ALIAS.", metavar="TARGET")
    ],
    overrides: Overrides = None,
    storage: StorageUri = None,
    endpoint: Endpoint = None,
    tracking: TrackingUri = None,
    as_json: Json = False,
) -> None:
    """Sample from a checkpoint and compare with the real images; known results are not redone.

    Overrides may change sampling.* and evaluation.*.
    """
    from ...evaluating import evaluate_again
    from ...experiment import TrackingConfig
    from ...places import find_run, open_storage
    from ...progress import StatusLine

    root = open_storage(storage, endpoint)
    state = {"line": "loading the checkpoint"}

    def phase(line: str) -> None:
        state["line"] = line

    with StatusLine(talk, lambda: state["line"]):
        if target.startswith("models:/"):
            from ...registry import resolve
            from ...tracking import Tracker

            version = resolve(Tracker(TrackingConfig(uri=tracking), root), target)
            sweep, trial = version.tags.get("whipray.sweep"), version.tags.get("whipray.trial")
            run_name = f"{sweep}/{trial}"
            sampling = json.loads(version.tags.get("whipray.sampling", "{}"))
            given = [f"sampling.{name}={json.dumps(value)}" for name, value in sampling.items()]
        else:
            run_name, given = target, []
        place = find_run(root, run_name)
        found, generated = evaluate_again(place, [*given, *(overrides or [])], phase)
    page = place.store.uri_of(f"{found.folder}/report.html")
    if as_json:
        say_json(
            {
                "run": run_name,
                "checkpoint": place.checkpoint,
                "metrics": found.metrics,
                "provenance": found.provenance,
                "images_generated": generated,
                "report": page,
            }
        )
        return
    out.print(metrics_table(found.metrics))
    talk.print(
        f"\n{place.checkpoint}, omega {found.sampling.omega:g}, "
        f"{found.provenance['n_generated']} images"
        f"{' (known already)' if generated == 0 else ''}",
        markup=False,
    )
    talk.print(f"report  {page}", markup=False)
    next_commands(
        f"whipray evaluate {target} sampling.omega={found.sampling.omega + 0.5:g}",
        f"whipray sample {target} --out samples.png",
        "whipray ui",
    )
