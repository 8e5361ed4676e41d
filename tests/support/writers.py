"""Many processes that write to one server at once: `python -m support.writers WHAT ADDRESS NAME COUNT`.

They are forked from one process, which has imported everything, and start at the same moment.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from multiprocessing.synchronize import Barrier
from pathlib import Path
from tempfile import TemporaryDirectory

import optuna

from whipray.platform.config.tracking import TrackingConfig
from whipray.platform.storage.config import StorageConfig
from whipray.platform.storage.store import Storage
from whipray.platform.tracking.tracker import open_tracker
from whipray.platform.tuning.study_storage import close_storage, open_storage

WRITERS = 16
REPORTS = 10
TRIALS = 2


def key(writer: int) -> str:
    """Return the key of a writer's run."""
    return f"writer/{writer}"


def value(writer: int, report: int) -> float:
    """Return the `loss` of a writer at a report; no two are the same."""
    return writer + report / 100


def runs(address: str, name: str, writer: int, start: Barrier) -> None:
    """Write a run of its own, in an experiment that does not exist yet."""
    with TemporaryDirectory() as folder:
        start.wait()
        config = TrackingConfig(uri=address, experiment=name)
        tracker = open_tracker(config, Storage(StorageConfig(uri=folder)))
        run = tracker.run(key(writer), key(writer), {})
        for report in range(REPORTS):
            run.log_metrics({"loss": value(writer, report), "lr": 0.5}, report)
        run.finish("FINISHED")


def trials(address: str, name: str, writer: int, start: Barrier) -> None:
    """Write some trials of one study."""
    storage = open_storage(address)
    study = optuna.load_study(
        study_name=name, storage=storage, sampler=optuna.samplers.TPESampler(seed=writer)
    )
    start.wait()
    for _ in range(TRIALS):
        trial = study.ask()
        trial.set_user_attr("writer", writer)
        study.tell(trial, trial.suggest_float("x", 0, 1))
    close_storage(storage)


def main(what: str, address: str, name: str, count: str) -> int:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    context = multiprocessing.get_context("fork")
    start = context.Barrier(int(count))
    action = {"runs": runs, "trials": trials}[what]
    processes = [
        context.Process(target=action, args=(address, name, writer, start))
        for writer in range(int(count))
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return sum(process.exitcode != 0 for process in processes)


def start(what: str, address: str, name: str, count: int = WRITERS) -> list[str]:
    """Return the command that starts the writers."""
    return [sys.executable, "-m", "support.writers", what, address, name, str(count)]


def environment() -> dict[str, str]:
    """Return variables by which Python finds this module."""
    path = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path))}


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
