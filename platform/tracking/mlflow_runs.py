"""MLflow: a sweep is a parent run, its trainings are child runs; one writer at a time for each.

Runs are found again by what they are (`layout.Tag.KEY`), so that a restart continues them. A server
that is down is reported within seconds when it is opened; one that has answered is waited for.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec
from urllib.parse import unquote, urlsplit

from ...trainers.errors import Problem, UsageProblem
from ..config.experiment import Experiment, TrackingConfig
from ..config.layers import flatten
from ..foundation.code_version import code_version
from ..foundation.retry import Outage, retry_during_outage
from ..foundation.text import redact, without_login
from ..storage import layout
from ..storage.s3 import environment as s3_environment
from ..storage.store import Storage
from .async_writer import AsyncWriter

if TYPE_CHECKING:
    from mlflow.entities import Metric
    from mlflow.entities import Run as MLflowRun
    from mlflow.tracking import MlflowClient

P = ParamSpec("P")

RETRY_TIMEOUT_S = 300.0
"""How long a server is waited for that has answered before; a training itself does not wait."""

PARAM_LIMIT = 6000  # characters of a parameter's value that MLflow keeps
BATCH = 100  # parameters a request may carry
METRICS = 1000  # metrics a request may carry
ROOM = 100_000  # metrics that wait while the server is down: thousands of reports
EVERY_S = 5.0  # between two requests with metrics


class TrackingProblem(Problem):
    """The tracking server refused, failed or could not be reached."""


class TrackingOutage(TrackingProblem, Outage):
    """The tracking server does not answer, or fails by itself."""


def tracking_uri(config: TrackingConfig, storage: Storage) -> str:
    """The address in use: the config's, the environment's, or an SQLite file beside the runs.

    Raises:
        UsageProblem: runs in a bucket and no server named, so there is no place for the file; or a
            config with a login, since it is kept with every run.
    """
    if config.uri and without_login(config.uri) != config.uri:
        raise UsageProblem(
            "tracking.uri holds a login",
            "give the address alone, and set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD; "
            "a database's address belongs into MLFLOW_TRACKING_URI",
        )
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
    return f"sqlite:///{storage.path}/{layout.MLFLOW_DATABASE}"


class Tracker:
    """An MLflow experiment."""

    def __init__(self, config: TrackingConfig, storage: Storage) -> None:
        """Open the tracking server and make the experiment where it is missing.

        Raises:
            TrackingProblem: it does not answer, or refuses.
        """
        _prepare()
        import mlflow

        logging.getLogger("alembic").setLevel(logging.WARNING)
        self.uri = _move_login_to_environment(tracking_uri(config, storage))
        os.environ.update(s3_environment(storage.config))
        with translate_errors(self.uri):
            mlflow.set_tracking_uri(self.uri)
            self.client: MlflowClient = mlflow.MlflowClient(self.uri)
            self.experiment_id = self._open(config.experiment, storage)

    def _open(self, name: str, storage: Storage) -> str:
        """The experiment's id."""
        from mlflow.exceptions import MlflowException

        if found := self.client.get_experiment_by_name(name):
            return str(found.experiment_id)
        artifacts = None  # a server knows where
        if self.uri.startswith("sqlite:///"):
            artifacts = (
                f"{storage.path if storage.is_folder else storage.uri}/{layout.MLFLOW_ARTIFACTS}"
            )
        try:
            return str(self.client.create_experiment(name, artifacts))
        except MlflowException as error:
            # Others that begin at the same moment make it, too.
            found = self.client.get_experiment_by_name(name)
            if error.error_code != "RESOURCE_ALREADY_EXISTS" or found is None:
                raise
            return str(found.experiment_id)

    def find(self, key: str) -> Run:
        """The run known by `key`, as it stands.

        Raises:
            UsageProblem: there is none.
        """
        with translate_errors(self.uri):
            found = self.client.search_runs(
                [self.experiment_id], f"tags.`{layout.Tag.KEY}` = '{key}'", max_results=1
            )
        if not found:
            raise UsageProblem(f"MLflow has no run {key}", "look at the runs with `whipray ui`")
        return Run(self.uri, found[0].info.run_id)

    def latest(self, tag: str, value: str, metric: str) -> MLflowRun | None:
        """The run begun last that has this tag and this metric."""
        with translate_errors(self.uri):
            found = self.client.search_runs(
                [self.experiment_id],
                f"tags.`{tag}` = '{value}' and metrics.`{metric}` > 0",
                max_results=1,
                order_by=["attributes.start_time DESC"],
            )
        return found[0] if found else None

    def run(self, key: str, name: str, tags: Mapping[str, str], parent: str | None = None) -> Run:
        """The run known by `key`, begun now if there is none; it counts as running again."""
        with translate_errors(self.uri):
            found = self.client.search_runs(
                [self.experiment_id], f"tags.`{layout.Tag.KEY}` = '{key}'", max_results=1
            )
            if found:
                run_id = found[0].info.run_id
                self.client.update_run(run_id, status="RUNNING")
            else:
                relation = {"mlflow.parentRunId": parent} if parent else {}
                run_id = self.client.create_run(
                    self.experiment_id,
                    run_name=name,
                    tags={layout.Tag.KEY: key, "mlflow.user": user_name(), **relation, **tags},
                ).info.run_id
        return Run(self.uri, run_id)


def _patient(write: Callable[Concatenate[Run, P], None]) -> Callable[Concatenate[Run, P], None]:
    """A write that may be done again, and is while the server does not answer."""

    @wraps(write)
    def tried(self: Run, /, *args: P.args, **kwargs: P.kwargs) -> None:
        def once() -> None:
            with translate_errors(self.uri):
                write(self, *args, **kwargs)

        try:
            retry_during_outage(once, self._retry_timeout_s)
        except Outage:
            self._retry_timeout_s = 0.0  # what else there is to say is not waited for again
            raise

    return tried


class Run:
    """One MLflow run, written by one process at a time. Pickles as its address.

    Metrics are written by a thread, in order and some seconds of them at a time: a training goes on
    while the server is slow or down, and has them all when it is back. MLflow's databases hold one
    value of a metric, step and time once, so a request whose answer was lost may be sent again. A
    process that is killed loses what it has not written yet; whoever has to know that it is written
    asks with `flush_best_effort` or `flush`.
    """

    def __init__(self, uri: str, run_id: str) -> None:
        self.uri = uri
        self.run_id = run_id
        self._client: MlflowClient | None = None
        self._retry_timeout_s = RETRY_TIMEOUT_S
        self._outbox = AsyncWriter(
            self._write_metrics,
            at_once=METRICS,
            room=ROOM,
            every_s=EVERY_S,
            retry_timeout_s=RETRY_TIMEOUT_S,
        )

    def __reduce__(self) -> tuple[type[Run], tuple[str, str]]:
        return Run, (self.uri, self.run_id)

    @property
    def client(self) -> MlflowClient:
        """A client of its own in each process."""
        if self._client is None:
            _prepare()
            from mlflow import MlflowClient

            self._client = MlflowClient(self.uri)
        return self._client

    @_patient
    def log_config(self, experiment: Experiment) -> None:
        """The whole config: as parameters to compare by, and as a file to run again."""
        from mlflow.entities import Param

        texts = {k: json.dumps(v).strip('"')[:PARAM_LIMIT] for k, v in flatten(experiment).items()}
        # MLflow's parameters stay as first written; what a resumed run changes becomes a tag.
        known = self.client.get_run(self.run_id).data.params
        params = [Param(k, text) for k, text in texts.items() if k not in known]
        for first in range(0, len(params), BATCH):
            self.client.log_batch(self.run_id, params=params[first : first + BATCH])
        changed = [f"{k}={text}" for k, text in texts.items() if known.get(k, text) != text]
        if changed:
            self.client.set_tag(self.run_id, layout.Tag.CHANGED, ", ".join(changed)[:PARAM_LIMIT])
        self.client.log_dict(
            self.run_id, experiment.model_dump(mode="json"), layout.Artifact.EXPERIMENT
        )

    @_patient
    def log_code(self) -> None:
        """Which code ran: commit, and what was changed since."""
        version = code_version()
        if version is None:
            return
        self.client.set_tag(self.run_id, "mlflow.source.git.commit", version.commit)
        state = "changed" if version.diff else "as committed"
        self.client.set_tag(self.run_id, layout.Tag.CODE, state)
        if version.diff:
            self.client.log_text(self.run_id, version.diff[:1_000_000], layout.Artifact.CODE_DIFF)

    def log_metrics(self, values: Mapping[str, float], images_seen: int) -> None:
        """Numbers at a point of the training; MLflow's step is the images seen."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._outbox.put([Metric(name, value, now, images_seen) for name, value in values.items()])

    def flush_best_effort(self) -> None:
        """Return when what was told is written, or when the server turns out to be down, or hangs.

        Raises:
            Problem: they cannot be written.
        """
        self._outbox.flush_best_effort()

    def flush(self) -> None:
        """Return when all metrics are written; the server is waited for.

        Raises:
            Problem: they cannot be written, or the server did not come back.
        """
        try:
            self._outbox.flush()
        except Problem:
            self._retry_timeout_s = 0.0  # it has been waited for
            raise

    @_patient
    def set_tags(self, values: Mapping[str, str]) -> None:
        """Short facts."""
        for key, value in values.items():
            self.client.set_tag(self.run_id, key, value)

    @_patient
    def log_json(self, content: Mapping[str, Any], name: str) -> None:
        """A JSON file."""
        self.client.log_dict(self.run_id, dict(content), name)

    @_patient
    def log_text(self, content: str, name: str) -> None:
        """A file of text."""
        self.client.log_text(self.run_id, content, name)

    @_patient
    def log_folder(self, local: Path, name: str) -> None:
        """All files of a local folder."""
        self.client.log_artifacts(self.run_id, str(local), name)

    def finish(self, status: str) -> None:
        """FINISHED, FAILED or KILLED, once all metrics are written; FAILED if they cannot be."""
        try:
            self.flush()
        except Problem:
            with suppress(Problem):  # the first problem is the one to tell
                self._terminate("FAILED" if status == "FINISHED" else status)
            raise
        self._terminate(status)

    @_patient
    def _terminate(self, status: str) -> None:
        self.client.set_terminated(self.run_id, status)

    def _write_metrics(self, metrics: Sequence[Metric]) -> None:
        with translate_errors(self.uri):
            self.client.log_batch(self.run_id, metrics=metrics)

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
def translate_errors(uri: str) -> Iterator[None]:
    """MLflow's failures as one line that shows no password."""
    from mlflow.exceptions import MlflowException
    from requests.exceptions import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, RequestException, SQLAlchemyError) as error:
        raise _problem(f"MLflow at {redact(uri)}", error) from error


def _problem(where: str, error: Exception) -> TrackingProblem:
    from requests.exceptions import RequestException

    code, status = type(error).__name__, 0
    if isinstance(error, RequestException):  # where artifacts go; no answer is as good as a 503
        status = 503 if error.response is None else error.response.status_code
    elif http := getattr(error, "get_http_status_code", None):
        code, status = str(getattr(error, "error_code", code)), int(http())
    if status == 401:
        return TrackingProblem(
            f"{where} refuses the login: none was given, or a wrong one",
            "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD",
        )
    if status == 403:
        return TrackingProblem(
            f"{where}: this user may not do that",
            "ask for the right, or log in as another with MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD",
        )
    fix = "check tracking.uri and that the server runs: `whipray doctor` tries each part"
    if status == 429 or status >= 500:
        return TrackingOutage(f"{where} does not answer, or fails by itself ({code})", fix)
    return TrackingProblem(f"{where} failed ({code})", fix)


def _move_login_to_environment(uri: str) -> str:
    """A server's address; a login in it moves into the environment, where MLflow looks for it.

    Otherwise it would stand in what MLflow prints and in what Ray is given.
    """
    parts = urlsplit(uri)
    if parts.scheme not in ("http", "https") or "@" not in parts.netloc:
        return uri
    os.environ["MLFLOW_TRACKING_USERNAME"] = unquote(parts.username or "")
    os.environ["MLFLOW_TRACKING_PASSWORD"] = unquote(parts.password or "")
    return without_login(uri)


def _prepare() -> None:
    """Settings of MLflow in every process that writes to it."""
    # MLflow retries a server that is down for minutes by default; here a person waits seconds.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    # Its lines on a run's address would stand in the middle of our own, or of JSON.
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    # It logs a traceback of each database error that it raises, such as one that Ctrl-C makes.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)


def user_name() -> str:
    return os.environ.get("USER") or os.environ.get("LOGNAME") or "unknown"
