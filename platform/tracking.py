"""MLflow: a sweep is a parent run, its trainings are child runs; one writer at a time for each.

Runs are found again by what they are (`whipray.key`), so that a restart continues them.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..trainers.errors import Problem, UsageProblem
from .experiment import Experiment, TrackingConfig
from .layers import flatten
from .storage import Storage

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

PARAM_LIMIT = 6000  # characters of a parameter's value that MLflow keeps
BATCH = 100  # parameters a request may carry


class TrackingProblem(Problem):
    """The tracking server refused, failed or could not be reached."""


def tracking_uri(config: TrackingConfig, storage: Storage) -> str:
    """The address in use: the config's, the environment's, or an SQLite file beside the runs.

    Raises:
        UsageProblem: runs in a bucket and no server named, so there is no place for the file.
    """
    if found := config.uri or os.environ.get("MLFLOW_TRACKING_URI"):
        return found
    if not storage.is_folder:
        raise UsageProblem(
            "no MLflow server is named, and the runs are in a bucket",
            "set tracking.uri or MLFLOW_TRACKING_URI",
        )
    try:
        Path(storage.path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageProblem(
            f"{storage.path}: cannot be made ({error.strerror})", "give another folder"
        ) from error
    return f"sqlite:///{storage.path}/mlflow.db"


class Tracker:
    """An MLflow experiment."""

    def __init__(self, config: TrackingConfig, storage: Storage) -> None:
        """Open the tracking server and make the experiment where it is missing.

        Raises:
            TrackingProblem: it does not answer, or refuses.
        """
        # MLflow retries a server that is down for minutes by default; a person waits seconds.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
        os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
        logging.getLogger("alembic").setLevel(logging.WARNING)
        import mlflow

        _hush()
        self.uri = tracking_uri(config, storage)
        os.environ.update(storage.export_environment())
        with answered(self.uri):
            mlflow.set_tracking_uri(self.uri)
            self.client: MlflowClient = mlflow.MlflowClient(self.uri)
            found = self.client.get_experiment_by_name(config.experiment)
            if found is not None:
                self.experiment_id = str(found.experiment_id)
            else:
                artifacts = None  # a server knows where
                if self.uri.startswith("sqlite:///"):
                    artifacts = storage.path if storage.is_folder else storage.uri
                    artifacts += "/artifacts"
                self.experiment_id = str(
                    self.client.create_experiment(config.experiment, artifacts)
                )

    def find(self, key: str) -> Run:
        """The run known by `key`, as it stands.

        Raises:
            UsageProblem: there is none.
        """
        with answered(self.uri):
            found = self.client.search_runs(
                [self.experiment_id], f"tags.`whipray.key` = '{key}'", max_results=1
            )
        if not found:
            raise UsageProblem(f"MLflow has no run {key}", "look at the runs with `whipray ui`")
        return Run(self.uri, found[0].info.run_id)

    def run(self, key: str, name: str, tags: Mapping[str, str], parent: str | None = None) -> Run:
        """The run known by `key`, begun now if there is none; it counts as running again."""
        with answered(self.uri):
            found = self.client.search_runs(
                [self.experiment_id], f"tags.`whipray.key` = '{key}'", max_results=1
            )
            if found:
                run_id = found[0].info.run_id
                self.client.update_run(run_id, status="RUNNING")
            else:
                relation = {"mlflow.parentRunId": parent} if parent else {}
                run_id = self.client.create_run(
                    self.experiment_id,
                    run_name=name,
                    tags={"whipray.key": key, "mlflow.user": _user(), **relation, **tags},
                ).info.run_id
        return Run(self.uri, run_id)


class Run:
    """One MLflow run, written by one process at a time. Pickles as its address."""

    def __init__(self, uri: str, run_id: str) -> None:
        self.uri = uri
        self.run_id = run_id
        self._client: MlflowClient | None = None

    def __reduce__(self) -> tuple[type[Run], tuple[str, str]]:
        return Run, (self.uri, self.run_id)

    @property
    def client(self) -> MlflowClient:
        """A client of its own in each process."""
        if self._client is None:
            from mlflow import MlflowClient

            _hush()
            self._client = MlflowClient(self.uri)
        return self._client

    def config(self, experiment: Experiment) -> None:
        """The whole config: as parameters to compare by, and as a file to run again."""
        from mlflow.entities import Param

        texts = {k: json.dumps(v).strip('"')[:PARAM_LIMIT] for k, v in flatten(experiment).items()}
        with answered(self.uri):
            # MLflow's parameters stay as first written; what a resumed run changes becomes a tag.
            known = self.client.get_run(self.run_id).data.params
            params = [Param(k, text) for k, text in texts.items() if k not in known]
            for first in range(0, len(params), BATCH):
                self.client.log_batch(self.run_id, params=params[first : first + BATCH])
            changed = [f"{k}={text}" for k, text in texts.items() if known.get(k, text) != text]
            if changed:
                self.client.set_tag(
                    self.run_id, "whipray.changed", ", ".join(changed)[:PARAM_LIMIT]
                )
            self.client.log_dict(self.run_id, experiment.model_dump(mode="json"), "experiment.yaml")

    def code(self) -> None:
        """Which code ran: commit, and what was changed since."""
        here = Path(__file__).parent
        commit = _git(here, "rev-parse", "HEAD")
        if not commit:
            return
        diff = _git(here, "diff", "HEAD")
        with answered(self.uri):
            self.client.set_tag(self.run_id, "mlflow.source.git.commit", commit)
            self.client.set_tag(self.run_id, "whipray.code", "changed" if diff else "as committed")
            if diff:
                self.client.log_text(self.run_id, diff[:1_000_000], "code.diff")

    def metrics(self, values: Mapping[str, float], images_seen: int) -> None:
        """Numbers at a point of the training; MLflow's step is the images seen."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        batch = [Metric(name, value, now, images_seen) for name, value in values.items()]
        with answered(self.uri):
            self.client.log_batch(self.run_id, metrics=batch)

    def tags(self, values: Mapping[str, str]) -> None:
        """Short facts."""
        with answered(self.uri):
            for key, value in values.items():
                self.client.set_tag(self.run_id, key, value)

    def document(self, content: Mapping[str, Any], name: str) -> None:
        """A JSON file."""
        with answered(self.uri):
            self.client.log_dict(self.run_id, dict(content), name)

    def text(self, content: str, name: str) -> None:
        """A file of text."""
        with answered(self.uri):
            self.client.log_text(self.run_id, content, name)

    def folder(self, local: Path, name: str) -> None:
        """All files of a local folder."""
        with answered(self.uri):
            self.client.log_artifacts(self.run_id, str(local), name)

    def finish(self, status: str) -> None:
        """FINISHED, FAILED or KILLED."""
        with answered(self.uri):
            self.client.set_terminated(self.run_id, status)

    @contextmanager
    def system_metrics(self, wanted: bool) -> Iterator[None]:
        """CPU, memory, disk, network and GPU figures of this machine, while inside."""
        if not wanted:
            yield
            return
        import mlflow
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        mlflow.set_tracking_uri(self.uri)
        monitor = SystemMetricsMonitor(
            self.run_id, sampling_interval=5, samples_before_logging=2, resume_logging=True
        )
        monitor.start()
        try:
            yield
        finally:
            monitor.finish()


@contextmanager
def answered(uri: str) -> Iterator[None]:
    """MLflow's failures as one line that shows no password."""
    from mlflow.exceptions import MlflowException
    from requests.exceptions import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, RequestException, SQLAlchemyError) as error:
        code = getattr(error, "error_code", type(error).__name__)
        raise TrackingProblem(
            f"MLflow at {without_password(uri)} failed ({code})",
            "check tracking.uri and that the server runs: `whipray doctor` tries each part",
        ) from error


def without_password(uri: str) -> str:
    """An address that may be shown."""
    scheme, separator, rest = uri.partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}" if separator else uri


def _hush() -> None:
    """MLflow logs a traceback of each database error that it raises, such as one that Ctrl-C makes."""
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)


def _git(folder: Path, *arguments: str) -> str:
    """A git answer, empty where this is no checkout or there is no git."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _user() -> str:
    return os.environ.get("USER") or os.environ.get("LOGNAME") or "unknown"
