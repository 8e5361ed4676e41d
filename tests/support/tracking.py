"""What MLflow says of the runs of a folder."""

from __future__ import annotations

from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Run


def statuses(folder: Path) -> dict[str, str]:
    """Return the status of each MLflow run by its key, after or during commands in this folder."""
    return {key: run.info.status for key, run in runs_by_key(folder).items()}


def metrics(folder: Path, key: str) -> dict[str, float]:
    """Return the last metrics of the run of this key; none where there is no such run yet."""
    run = runs_by_key(folder).get(key)
    return run.data.metrics if run else {}


def runs_by_key(folder: Path) -> dict[str, Run]:
    """Return the MLflow runs of a folder in which commands were typed."""
    database = folder / "whipray-runs/mlflow.db"
    if not database.exists():
        return {}
    client = MlflowClient(f"sqlite:///{database}")
    runs = client.search_runs(["1"])
    by_key = {run.data.tags["whipray.key"]: run for run in runs}
    assert len(by_key) == len(runs), "a run has two MLflow runs"
    return by_key
