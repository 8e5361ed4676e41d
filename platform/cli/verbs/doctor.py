"""whipray doctor: check that everything a run needs works."""

from __future__ import annotations

from typing import Annotated

import typer

from ..consoles import print_json, stdout_console
from ..exit_codes import PREFLIGHT_FAILED
from ..options import Json, On
from ..stores import StoreOptions, with_store_options


@with_store_options
def doctor(
    store: StoreOptions,
    ray: Annotated[
        bool,
        typer.Option("--ray", help="Check Ray too: attach to RAY_ADDRESS, or start a local Ray."),
    ] = False,
    on: On = None,
    as_json: Json = False,
) -> None:
    """Check that everything a run needs works.

    The checks are of libraries, devices, memory, disk, storage, MLflow and Ray; each problem
    comes with a fix. With --on, they run on a cluster, and also cover its nodes, their clocks and
    their network.
    """
    from ...config.tracking import TrackingConfig
    from ...diagnostics.doctor import checks
    from ...tracking.server import tracking_uri

    if on:
        from ...launching.tasks import doctor_task
        from ..remote import send

        task = doctor_task(store.config(), store.tracking)
        send(on, task, {"storage": task.storage.uri}, as_json)
    root = store.open()
    uri = tracking_uri(TrackingConfig(uri=store.tracking), root)
    results = []
    for check in checks(root.config, uri, ray=ray):
        results.append(check)
        if not as_json:
            state = "ok   " if check.ok else "fails"
            stdout_console.print(f"{state}  {check.name:<10} {check.detail}")
            if check.fix:
                stdout_console.print(f"       {'':<10} fix: {check.fix}")
    if as_json:
        print_json({"checks": [vars(check) for check in results]})
    if not all(check.ok for check in results):
        raise typer.Exit(PREFLIGHT_FAILED)
