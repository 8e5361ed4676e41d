"""One MLflow run, as its one writer sees it.

Only one process writes a run at a time, and runs are addressed by id, never through MLflow's active
run, which is global to a process.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec

from ...trainers.errors import Problem
from ...trainers.retry import Outage, retry_during_outage
from ..config.experiment import Experiment
from ..config.layers import flatten
from ..foundation.abort import before_abort
from ..storage import layout
from .async_writer import AsyncWriter
from .errors import translate_errors
from .server import configure_mlflow

if TYPE_CHECKING:
    from mlflow.entities import Metric
    from mlflow.tracking import MlflowClient

P = ParamSpec("P")

RETRY_TIMEOUT_S = 300.0
"""How long writes are retried when a server that has answered before stops answering, as long as a
store's by default. Training itself does not wait."""

VALUE_CHARACTERS = 6000
"""The most that MLflow 3 keeps of a parameter's value; a tag may have more."""
PARAMS_PER_REQUEST = 100
METRICS_PER_REQUEST = 1000
"""The most that `log_batch` of MLflow 3 takes."""
MAX_WAITING_METRICS = 100_000
"""While the server is down: those of thousands of reports."""
WRITE_INTERVAL_S = 5.0
"""Between two requests with metrics; a request costs the same for one metric or for a thousand."""
DIFF_CHARACTERS = 1_000_000
"""Of uncommitted changes: all that a person writes, not a data file that was added by mistake."""
CURVES = ("loss/", "validation/", "images_per_second")
"""Beginnings of the metrics that are curves of a training."""
SIDE = 256
"""Pixels that a picture's height is enlarged to, about."""
PROBLEM_CHARACTERS = 500
"""Of a run's problem in its tag. MLflow takes more; people read its beginning in a table."""


def _retried(write: Callable[Concatenate[Run, P], None]) -> Callable[Concatenate[Run, P], None]:
    """Retry a write, which may be done twice, while the server does not answer."""

    @wraps(write)
    def retried(self: Run, /, *args: P.args, **kwargs: P.kwargs) -> None:
        def once() -> None:
            with translate_errors(self.uri):
                write(self, *args, **kwargs)

        try:
            retry_during_outage(once, self._retry_timeout_s)
        except Outage:
            self._retry_timeout_s = 0.0  # further writes do not wait for the same outage again
            raise

    return retried


@dataclass(frozen=True)
class ImagesInput:
    """Images that a run takes as an input."""

    name: str
    """Shown by MLflow."""
    digest: str
    """Of their content."""
    source: Mapping[str, Any]
    """Where they are from, without secrets."""
    profile: Mapping[str, Any]
    """What they are, such as the counts of their classes."""
    context: str
    """What they are for, such as `training` or `reference`."""


class Run:
    """One MLflow run, written by one process at a time. Pickles as its address.

    Metrics are written by a thread, in order and in batches of some seconds: a training continues while
    the server is slow or down, and all metrics arrive when it is back. A request whose answer was lost
    is sent again, which is safe: MLflow's databases hold a metric's value once for each step and
    time. A process that is killed loses what it has not written yet; whoever has to know that it is
    written calls `flush_best_effort` or `flush`.
    """

    def __init__(self, uri: str, run_id: str) -> None:
        self.uri = uri
        self.run_id = run_id
        self._client: MlflowClient | None = None
        self._retry_timeout_s = RETRY_TIMEOUT_S
        self._metrics = AsyncWriter(
            self._write_metrics,
            batch_size=METRICS_PER_REQUEST,
            capacity=MAX_WAITING_METRICS,
            interval_s=WRITE_INTERVAL_S,
            retry_timeout_s=RETRY_TIMEOUT_S,
        )

    def __reduce__(self) -> tuple[type[Run], tuple[str, str]]:
        return Run, (self.uri, self.run_id)

    @property
    def client(self) -> MlflowClient:
        """A client of its own in each process."""
        if self._client is None:
            configure_mlflow()
            from mlflow import MlflowClient

            self._client = MlflowClient(self.uri)
        return self._client

    # -- what a run is -------------------------------------------------------------------------

    @_retried
    def log_config(self, experiment: Experiment, tags: Mapping[str, str] | None = None) -> None:
        """Log the whole config: as parameters to compare by, and as a file to run again.

        Args:
            experiment: the config.
            tags: to set in the same request.
        """
        from mlflow.entities import Param, RunTag

        texts = {
            key: json.dumps(value).strip('"')[:VALUE_CHARACTERS]
            for key, value in flatten(experiment).items()
        }
        # MLflow's parameters stay as first written; what a resumed run changes becomes a tag.
        logged = self.client.get_run(self.run_id).data
        known = logged.params
        params = [Param(key, text) for key, text in texts.items() if key not in known]
        tags = dict(tags or {})
        changed = [f"{k}={text}" for k, text in texts.items() if known.get(k, text) != text]
        if changed:
            tags[layout.Tag.CHANGED] = ", ".join(changed)[:VALUE_CHARACTERS]
        waiting = [RunTag(key, text) for key, text in tags.items()]
        for first in range(0, max(len(params), bool(waiting)), PARAMS_PER_REQUEST):
            some = params[first : first + PARAMS_PER_REQUEST]
            self.client.log_batch(self.run_id, params=some, tags=waiting)
            waiting = []
        if not changed and layout.Tag.CHANGED in logged.tags:  # of a command before this one
            self.client.delete_tag(self.run_id, layout.Tag.CHANGED)
        config = experiment.model_dump(mode="json")
        self.client.log_dict(self.run_id, config, layout.Artifact.EXPERIMENT)

    def log_diff(self, diff: str) -> None:
        """Log what was changed in the code since its commit, as far as a person wrote it."""
        self.log_text(diff[:DIFF_CHARACTERS], layout.Artifact.CODE_DIFF)

    @_retried
    def log_images(self, *inputs: ImagesInput) -> None:
        """Log images as inputs of the run; the same ones once, however often it is called."""
        from mlflow.entities import Dataset, DatasetInput, InputTag
        from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

        logged = []
        for each in inputs:
            source, profile = (json.dumps(dict(content)) for content in (each.source, each.profile))
            kind = str(each.source.get("source", "images"))
            dataset = Dataset(each.name, each.digest, kind, source, profile=profile)
            logged.append(DatasetInput(dataset, [InputTag(MLFLOW_DATASET_CONTEXT, each.context)]))
        self.client.log_inputs(self.run_id, logged)

    @_retried
    def set_note(self, markdown: str) -> None:
        """Set the run's description, which MLflow shows on its page."""
        self.client.set_tag(self.run_id, layout.NOTE_TAG, markdown)

    def address_of(self, artifact: str) -> str:
        """Return the address of a file in MLflow's pages, relative to the server."""
        with translate_errors(self.uri):
            experiment = self.client.get_run(self.run_id).info.experiment_id
        return layout.artifact_page(experiment, self.run_id, artifact)

    # -- metrics, written by a thread ----------------------------------------------------------

    def log_metrics(self, values: Mapping[str, float], images_seen: int) -> None:
        """Log metrics at a point of the training, soon.

        Args:
            images_seen: MLflow's step.

        Raises:
            Problem: earlier metrics cannot be written, or too many are waiting.
        """
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._metrics.put([Metric(name, value, now, images_seen) for name, value in values.items()])

    def flush_best_effort(self) -> None:
        """Return when all metrics are written, or when the server turns out to be down or hangs.

        Raises:
            Problem: they cannot be written.
        """
        self._metrics.flush_best_effort()

    def flush(self) -> None:
        """Return when all metrics are written; during an outage, wait for its end.

        Raises:
            Problem: they cannot be written, or the server did not come back.
        """
        try:
            self._metrics.flush()
        except Problem:
            self._retry_timeout_s = 0.0  # it has been waited for
            raise

    def _write_metrics(self, metrics: Sequence[Metric]) -> None:
        with translate_errors(self.uri):
            self.client.log_batch(self.run_id, metrics=metrics)

    # -- tags and files ------------------------------------------------------------------------

    @_retried
    def set_tags(self, values: Mapping[str, str]) -> None:
        """Set tags, in one request."""
        from mlflow.entities import RunTag

        self.client.log_batch(self.run_id, tags=[RunTag(k, text) for k, text in values.items()])

    @_retried
    def log_json(self, content: Mapping[str, Any], name: str) -> None:
        """Log a JSON or YAML file; the ending of its name says which."""
        self.client.log_dict(self.run_id, dict(content), name)

    @_retried
    def log_text(self, content: str, name: str) -> None:
        """Log a text file."""
        self.client.log_text(self.run_id, content, name)

    @_retried
    def log_file(self, local: Path, folder: str) -> None:
        """Log a local file, under its own name in a folder of the run."""
        self.client.log_artifact(self.run_id, str(local), folder)

    def log_image(self, png: bytes, name: str, step: int) -> None:
        """Log a picture of a moment, which MLflow shows beside those of other moments; tried once.

        Args:
            png: whose pixels are enlarged, since a browser would blur the smallest.
            name: of the sequence.
            step: MLflow's.

        Raises:
            Problem: it cannot be written; a training does not wait for it.
        """
        from PIL import Image

        with Image.open(io.BytesIO(png)) as picture:
            scale = max(1, SIDE // max(1, picture.height))
            large = picture.resize(
                (picture.width * scale, picture.height * scale), Image.Resampling.NEAREST
            )
        with translate_errors(self.uri):
            self.client.log_image(self.run_id, large, key=name, step=step, synchronous=True)

    def history(self) -> dict[str, list[tuple[float, float]]]:
        """Return (step, value) of every metric of the training, in order; a step's last value counts.

        Raises:
            Problem: the server does not answer.
        """
        with translate_errors(self.uri):
            keys = [
                k for k in self.client.get_run(self.run_id).data.metrics if k.startswith(CURVES)
            ]
            series = {}
            for key in keys:
                points = self.client.get_metric_history(self.run_id, key)
                latest = {p.step: p.value for p in sorted(points, key=lambda p: p.timestamp)}
                series[key] = sorted((float(step), value) for step, value in latest.items())
            return series

    # -- the end -------------------------------------------------------------------------------

    @contextmanager
    def finishing(self) -> Iterator[None]:
        """Finish the run with the block: as FINISHED, FAILED or, by an interrupt, KILLED."""
        with self.marking_failure():
            yield
        self.finish("FINISHED")

    @contextmanager
    def marking_failure(self) -> Iterator[None]:
        """Finish the run where the block raises, or this process is aborted: as FAILED or KILLED."""

        def mark(error: BaseException) -> None:
            with suppress(Problem):  # the error that came first is the one to raise
                self.set_tags({layout.Tag.PROBLEM: str(error)[:PROBLEM_CHARACTERS]})
                self.finish("FAILED" if isinstance(error, Exception) else "KILLED")

        try:
            with before_abort(mark):
                yield
        except BaseException as error:
            mark(error)
            raise

    def finish(self, status: str) -> None:
        """Set the status once all metrics are written; FAILED if they cannot be.

        Args:
            status: FINISHED, FAILED or KILLED.
        """
        try:
            self.flush()
        except Problem:
            with suppress(Problem):  # the error that came first is the one to raise
                self._terminate("FAILED" if status == "FINISHED" else status)
            raise
        self._terminate(status)

    @_retried
    def _terminate(self, status: str) -> None:
        known = self.client.get_run(self.run_id).data.tags
        if status == "FINISHED" and layout.Tag.PROBLEM in known:  # of an earlier attempt
            self.client.delete_tag(self.run_id, layout.Tag.PROBLEM)
        self.client.set_terminated(self.run_id, status)
