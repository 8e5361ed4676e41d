"""What the process of a trial needs to begin its run."""

from __future__ import annotations

from dataclasses import dataclass

from ..config.experiment import Experiment
from ..config.space import Space
from ..runs.run import Plan
from ..storage import layout
from ..storage.store import Storage
from ..tracking.mlflow_runs import Run
from ..tracking.tracker import Tracker
from .trial_records import Point, run_name, run_tags


@dataclass(frozen=True)
class TrialSpec:
    """A point of a sweep as a training. To make it neither reads data nor calls a server; it pickles."""

    sweep: str
    """Name of the sweep."""
    point: Point
    experiment: Experiment
    root: Storage
    """The store's top."""
    space: Space
    """The search space whose `sample:` level is searched on the checkpoint."""
    tracker: Tracker
    parent_id: str
    """Id of the sweep's MLflow run."""

    @property
    def _address(self) -> layout.RunAddress:
        return layout.trial_address(self.sweep, self.point.number)

    def plan(self) -> Plan:
        """Return the training, with its MLflow run, which is made or found and now RUNNING.

        Raises:
            TrackingProblem: the tracking server does not answer, or refuses.
        """
        tags = run_tags(self.sweep, self.point)
        name = run_name(self.point)
        run = self.tracker.run(self._address.key, name, tags, self.parent_id)
        return Plan(self.experiment, self.root.child(self._address.folder), run, self.space)

    def existing_run(self) -> Run | None:
        """Return the MLflow run; None before there is one.

        Raises:
            TrackingProblem: as `plan`.
        """
        return self.tracker.existing(self._address.key)
