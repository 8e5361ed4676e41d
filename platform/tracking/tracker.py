"""An MLflow experiment and the runs in it.

A sweep is a parent run, its trainings are child runs. A run is found again by its key
(`layout.Tag.KEY`), so that a restart continues it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from ...trainers.errors import UsageProblem
from ..config.tracking import VARIABLE, TrackingConfig
from ..foundation.text import redact
from ..storage import layout
from ..storage.s3 import environment as s3_environment
from ..storage.store import Storage
from .errors import translate_errors
from .mlflow_runs import Run
from .moved import artifact_address, follow_move
from .server import (
    check_file,
    configure_mlflow,
    database_lock,
    make_folder,
    move_login_to_environment,
    require_records,
    sqlite_file,
    tracking_uri,
    user_name,
)

if TYPE_CHECKING:
    from mlflow.entities import Run as MLflowRun
    from mlflow.tracking import MlflowClient


@dataclass(frozen=True)
class LoggedMetric:
    """The last value of a metric in some run."""

    value: float
    run: str
    """The run's name."""
    started: float
    """When the run started, in seconds since the epoch."""


class Tracker:
    """An MLflow experiment. Made by `open_tracker`; pickles as its address."""

    def __init__(self, uri: str, experiment_id: str) -> None:
        self.uri, self.experiment_id = uri, experiment_id

    def __reduce__(self) -> tuple[type[Tracker], tuple[str, str]]:
        return Tracker, (self.uri, self.experiment_id)

    @cached_property
    def client(self) -> MlflowClient:
        """A client of its own in each process."""
        configure_mlflow()
        from mlflow import MlflowClient

        return MlflowClient(self.uri)

    def find(self, key: str) -> Run:
        """Return the run of this key, as it is.

        Raises:
            UsageProblem: there is none.
        """
        if (run := self.existing(key)) is None:
            raise UsageProblem(
                f"MLflow at {redact(self.uri)} has no run {key}",
                "if its database was lost or replaced, `whipray runs rebuild` makes its runs again",
            )
        return run

    def existing(self, key: str) -> Run | None:
        """Return the run of this key, as it is; None where there is none."""
        run = self._of_key(key)
        return None if run is None else Run(self.uri, run.info.run_id)

    def tags_of(self, key: str) -> dict[str, str] | None:
        """Return the tags of the run of this key; None where there is none."""
        run = self._of_key(key)
        return None if run is None else dict(run.data.tags)

    def has_runs(self) -> bool:
        """Return whether there is any run of Whipray's."""
        with translate_errors(self.uri):
            return self._search(f"tags.`{layout.Tag.KIND}` != ''") is not None

    def latest_metric(self, tag: str, value: str, metric: str) -> LoggedMetric | None:
        """Return the metric of the latest run that has this tag and a positive value of it."""
        with translate_errors(self.uri):
            run = self._search(f"tags.`{tag}` = '{value}' and metrics.`{metric}` > 0")
        if run is None:
            return None
        info = run.info
        return LoggedMetric(run.data.metrics[metric], str(info.run_name), info.start_time / 1000)

    def run(self, key: str, name: str, tags: Mapping[str, str], parent: str | None = None) -> Run:
        """Return the run of this key, made now where there is none; its status becomes RUNNING.

        Args:
            name: shown by MLflow.
            tags: of a new run.
            parent: id of the parent run.
        """
        with translate_errors(self.uri):
            run = self._search(f"tags.`{layout.Tag.KEY}` = '{key}'")
            if run is not None:
                run_id = run.info.run_id
                self.client.update_run(run_id, status="RUNNING")
            else:
                relation = {"mlflow.parentRunId": parent} if parent else {}
                run_id = self.client.create_run(
                    self.experiment_id,
                    run_name=name,
                    tags={layout.Tag.KEY: key, "mlflow.user": user_name(), **relation, **tags},
                ).info.run_id
        return Run(self.uri, run_id)

    def delete(self, key: str) -> int:
        """Mark the runs of this key, and of all below it, as deleted; return how many."""
        with translate_errors(self.uri):
            found = self._with_key_like(f"{key}%", lambda of: of == key or of.startswith(f"{key}/"))
            for run_id in found:
                self.client.delete_run(run_id)
        return len(found)

    def was_deleted(self, key: str) -> bool:
        """Return whether a run of this key is marked as deleted."""
        with translate_errors(self.uri):
            filter_string = f"tags.`{layout.Tag.KEY}` = '{key}'"
            deleted_only = 2  # mlflow.entities.ViewType.DELETED_ONLY
            found = self.client.search_runs([self.experiment_id], filter_string, deleted_only, 1)
        return bool(found)

    def rename(self, key: str, new_key: str, name: str, tags: Mapping[str, str]) -> bool:
        """Give the run of a key another one, another name and these tags; return whether there is one."""
        run = self._of_key(key)
        if run is None:
            return False
        with translate_errors(self.uri):
            self.client.update_run(run.info.run_id, name=name)
            for tag, value in {
                **tags,
                layout.Tag.KEY: new_key,
            }.items():  # the key last: see `_of_key`
                self.client.set_tag(run.info.run_id, tag, value)
        return True

    def _with_key_like(self, pattern: str, wanted: Callable[[str], bool]) -> list[str]:
        """Return the ids of the runs whose key is wanted, among those that match MLflow's pattern."""
        found, token = [], None
        while True:
            page = self.client.search_runs(
                [self.experiment_id], f"tags.`{layout.Tag.KEY}` LIKE '{pattern}'", page_token=token
            )
            found += [run.info.run_id for run in page if wanted(run.data.tags[layout.Tag.KEY])]
            if not (token := page.token):
                return found

    def _of_key(self, key: str) -> MLflowRun | None:
        with translate_errors(self.uri):
            return self._search(f"tags.`{layout.Tag.KEY}` = '{key}'")

    def _search(self, filter_string: str) -> MLflowRun | None:
        """Return the run that was started last among those that the filter lets through."""
        runs = self.client.search_runs(
            [self.experiment_id],
            filter_string,
            max_results=1,
            order_by=["attributes.start_time DESC"],
        )
        return runs[0] if runs else None


def open_tracker(config: TrackingConfig, storage: Storage) -> Tracker:
    """Open the tracking server, and make the experiment where it is missing.

    A server that is down is reported within seconds.

    Raises:
        TrackingProblem: it does not answer, or refuses; or as `follow_move`.
        UsageProblem: as `tracking_uri`.
    """
    configure_mlflow()
    import mlflow

    logging.getLogger("alembic").setLevel(logging.WARNING)
    uri = move_login_to_environment(tracking_uri(config, storage))
    make_folder(storage)
    os.environ.update(s3_environment(storage.config))
    check_file(uri)
    with translate_errors(uri), database_lock(uri):
        if (database := sqlite_file(uri)) is not None:
            follow_move(database.resolve())
        given = os.environ.get(VARIABLE)
        mlflow.set_tracking_uri(uri)
        # MLflow 3 puts it into the environment, from where the next store's address would be taken.
        if given is None:
            os.environ.pop(VARIABLE, None)
        return Tracker(
            uri, _experiment_id(mlflow.MlflowClient(uri), uri, config.experiment, storage)
        )


def open_existing_tracker(config: TrackingConfig, storage: Storage) -> Tracker:
    """Open the tracking server to read what is recorded there; no database is made.

    Raises:
        TrackingProblem: as `open_tracker`.
        UsageProblem: as `tracking_uri`, or there is no database.
    """
    require_records(tracking_uri(config, storage))
    return open_tracker(config, storage)


def find_experiment(client: MlflowClient, name: str) -> str | None:
    """Return the id of an experiment, None where there is none of this name.

    Raises:
        UsageProblem: it is deleted, and MLflow takes no runs for it.
    """
    existing = client.get_experiment_by_name(name)
    if existing is None:
        return None
    if existing.lifecycle_stage == "deleted":
        raise UsageProblem(
            f"MLflow's experiment {name} is deleted",
            f"restore it with `mlflow experiments restore -x {existing.experiment_id}` (with "
            "MLFLOW_TRACKING_URI set), or set tracking.experiment to another name",
        )
    return str(existing.experiment_id)


def _experiment_id(client: MlflowClient, uri: str, name: str, storage: Storage) -> str:
    """Return the id of an experiment, which is made where it is missing."""
    from mlflow.exceptions import MlflowException

    if existing := find_experiment(client, name):
        return existing
    artifacts = None  # a server has its own artifact store
    if uri.startswith("sqlite:///"):
        folder = storage.path if storage.is_folder else storage.uri
        top = artifact_address(folder) if storage.is_folder else folder
        artifacts = f"{top}/{layout.MLFLOW_ARTIFACTS}"
    database = sqlite_file(uri)
    tags = {} if database is None else {layout.FOLDER_TAG: str(database.resolve().parent)}
    try:
        return str(client.create_experiment(name, artifacts, tags))
    except MlflowException as error:
        # Other processes that start at the same moment make it, too.
        existing = find_experiment(client, name)
        if error.error_code != "RESOURCE_ALREADY_EXISTS" or existing is None:
            raise
        return existing
