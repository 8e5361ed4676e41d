"""whipray doctor: does everything that a run needs work here?"""

from __future__ import annotations

from typing import Annotated

import typer

from ..options import Endpoint, Json, On, StorageUri, TrackingUri
from ..output import print_json, stdout_console

PREFLIGHT_FAILED = 4


def doctor(
    ray: Annotated[
        bool, typer.Option("--ray", help="Also try Ray: attach to RAY_ADDRESS or start one.")
    ] = False,
    storage: StorageUri = None,
    endpoint: Endpoint = None,
    tracking: TrackingUri = None,
    on: On = None,
    as_json: Json = False,
) -> None:
    """Try libraries, devices, memory, disk, storage, MLflow and Ray; each with its fix.

    With --on all of it on a cluster: also every node, their clocks, and the network between them.
    """
    from ...config.experiment import TrackingConfig
    from ...diagnostics.doctor import checks
    from ...tracking.mlflow_runs import tracking_uri
    from ..stores import open_storage, store_config

    if on:
        from ...launching.launch import doctor_task
        from ..remote import send

        task = doctor_task(store_config(storage, endpoint), tracking)
        send(on, task, {"storage": task.storage.uri}, as_json)
    root = open_storage(storage, endpoint)
    uri = tracking_uri(TrackingConfig(uri=tracking), root)
    found = []
    for check in checks(root.config, uri, ray=ray):
        found.append(check)
        if not as_json:
            state = "ok   " if check.ok else "fails"
            stdout_console.print(f"{state}  {check.name:<10} {check.detail}", markup=False)
            if check.fix:
                stdout_console.print(f"       {'':<10} fix: {check.fix}", markup=False)
    if as_json:
        print_json({"checks": [vars(check) for check in found]})
    if not all(check.ok for check in found):
        raise typer.Exit(PREFLIGHT_FAILED)
