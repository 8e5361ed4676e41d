"""The trainings of a sweep, run by Ray Tune."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from contextlib import nullcontext
from uuid import uuid4

from ray import tune

from ...trainers.disk import cache_folder
from ...trainers.errors import UsageProblem
from ..compute.capacity import cluster_capacity, is_single_machine, no_room
from ..compute.interrupts import broadcast_stop, saving_on_interrupt
from ..compute.ray_session import ray_session
from ..config.experiment import Experiment
from ..config.scaling import ScalingConfig
from ..runs.beginning import Prepared
from .bridge import PointQueue, ShowProgress, StudySearcher
from .pruning import run_pruning_actor
from .status import SweepStatus
from .trial import run_trial

WAITING_TRIAL: dict[str, float] = {"memory": 2**20}
"""Resources of a trial that only waits for its own workers: 1 MiB. Tune 2.60 refuses a trial that
requests nothing."""


def train_all(
    points: PointQueue,
    experiment: Experiment,
    prepared: Prepared,
    status: SweepStatus,
    features: Future[None],
    check: Callable[[], None] = lambda: None,
) -> None:
    """Train all points: one Tune run for each stretch of points with the same resource request.

    Args:
        points: what to train.
        experiment: the sweep's.
        prepared: the sweep's, for the trials that share its data.
        status: shows what happens; its event is set by Ctrl-C.
        features: done when the feature network exists, which every trial needs.
        check: what has to be so of the cluster's nodes; called once Ray runs.

    Raises:
        KeyboardInterrupt: trainings were interrupted, and have saved a checkpoint each.
        Problem: what made a training fail, and would make all others fail, too.
        UsageProblem: the trainings ask for more than this machine, if there is no other, has.
    """
    prunes = experiment.tuning.early_stop is not None
    goal = experiment.evaluation.goal
    status.say("starting Ray")
    with (
        ray_session(),
        run_pruning_actor(points.study, goal) if prunes else nullcontext(),
        saving_on_interrupt() as status.stop_requested,
        broadcast_stop(status.stop_requested) as stop,
    ):
        check()
        status.say("training the feature network on the reference images")
        features.result()
        status.say("starting trainings")
        while (ahead := points.peek()) and not status.stop_requested.is_set():
            scaling = ahead.experiment.scaling
            try:
                concurrent = _concurrent(experiment, scaling)
            except UsageProblem as problem:
                if scaling == experiment.scaling:
                    raise
                points.refuse_next(problem)  # this training alone asks for too much
                continue
            searcher = StudySearcher(points, experiment, asks_pruning=prunes, stop=stop)
            _tuner(experiment, prepared, scaling, concurrent, searcher, status).fit()
    if points.problem is not None:
        raise points.problem
    if status.stop_requested.is_set():
        raise KeyboardInterrupt


def _tuner(
    experiment: Experiment,
    prepared: Prepared,
    scaling: ScalingConfig,
    concurrent: int,
    searcher: StudySearcher,
    status: SweepStatus,
) -> tune.Tuner:
    """Return a Tune run for the trainings with this scaling, so many at once."""
    cpus, gpus = scaling.cpus_per_worker, scaling.gpus_per_worker
    own: dict[str, float] = {"cpu": cpus, "gpu": gpus} if scaling.workers == 1 else WAITING_TRIAL
    return tune.Tuner(
        tune.with_resources(tune.with_parameters(run_trial, prepared=prepared), own),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            max_concurrent_trials=concurrent,
            num_samples=-1,  # until the searcher has no more
            reuse_actors=True,  # a process imports PyTorch once, not once a trial
        ),
        run_config=tune.RunConfig(
            name=f"tune-{uuid4().hex[:12]}",
            storage_path=str(cache_folder() / "ray"),
            failure_config=tune.FailureConfig(max_failures=experiment.scaling.max_failures),
            callbacks=[ShowProgress(status.report)],
            verbose=0,
        ),
    )


def _concurrent(experiment: Experiment, scaling: ScalingConfig) -> int:
    """Return how many trainings run at once."""
    workers = cluster_capacity(scaling.cpus_per_worker, scaling.gpus_per_worker)
    room = workers // scaling.workers
    wanted = experiment.tuning.concurrent or max(1, room)
    if not is_single_machine():  # a host may still join
        return wanted
    if room < 1:
        raise no_room(scaling, workers, "this machine")
    return min(wanted, room)
