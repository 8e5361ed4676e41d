"""Wall time that a training spends on writing: checkpoints to S3, metrics to MLflow.

The servers are real and run on the same machine, so they take part of its CPUs: OpenStack Swift, behind
a network of 20 MiB/s, and MLflow with basic auth on PostgreSQL.
"""

from __future__ import annotations

import os
import random
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import mkdtemp
from unittest.mock import patch

from measure import Result, hand_over

sys.path.append(str(Path(__file__).parents[1]))  # for `support`

from support.proxy import Proxy
from support.servers import MLflowServer, Postgres, Swift

from whipray.platform.config.experiment import Experiment, load_experiment
from whipray.platform.config.tracking import TrackingConfig
from whipray.platform.runs import hooks
from whipray.platform.runs.hooks import StoreHooks
from whipray.platform.runs.local_training import ReportCallback, train_in_process_group
from whipray.platform.storage.config import StorageConfig
from whipray.platform.storage.store import Storage
from whipray.platform.tracking.tracker import open_tracker
from whipray.trainers.checkpoint_names import checkpoint_name
from whipray.trainers.hooks import Progress
from whipray.trainers.state_copy import Snapshot

ROUNDS, STEPS, BATCH, SAVES = 5, 60, 16, 3
NETWORK = 1 / 20  # seconds a MiB
SETTINGS = {
    "training.images": STEPS * BATCH,
    "training.batch_size": BATCH,
    "training.report_every_images": BATCH,
    "training.checkpoint_every_images": STEPS * BATCH // SAVES,
    "training.validation_images": 0,
    "model.base_channels": 32,
}


class InTheWay(StoreHooks):
    """Uploads while the training waits."""

    def checkpoint(self, name: str, snapshot: Callable[[], Snapshot]) -> None:
        super().checkpoint(name, snapshot)
        self.wait_for_uploads()


class AtTheEnd(StoreHooks):
    """Uploads only the last checkpoint."""

    def checkpoint(self, name: str, snapshot: Callable[[], Snapshot]) -> None:
        if name == checkpoint_name(STEPS * BATCH):
            super().checkpoint(name, snapshot)
        else:
            snapshot()


def seconds(
    experiment: Experiment, run: Storage, kind: type[StoreHooks], on_report: ReportCallback
) -> float:
    """Return the seconds from the first report to the last, without start and last checkpoint."""
    at = []

    def timed(progress: Progress) -> bool:
        at.append(time.perf_counter())
        return on_report(progress)

    with patch.object(hooks, "StoreHooks", kind):
        train_in_process_group(experiment, run, timed)
    return at[-1] - at[0]


@contextmanager
def servers() -> Iterator[tuple[Swift, MLflowServer]]:
    binaries = Postgres.binaries()
    if binaries is None or not Swift.venv.exists():
        sys.exit("needs PostgreSQL and OpenStack Swift: `make machine test`")
    folder = Path(mkdtemp(prefix="bench-", dir="/tmp"))
    folder.chmod(0o755)  # PostgreSQL runs as another user
    for name in ("swift", "postgres", "mlflow"):
        (folder / name).mkdir()
    swift = Swift(folder / "swift")
    postgres = Postgres(folder / "postgres", binaries)
    try:
        swift.start()
        postgres.start()
        mlflow = MLflowServer(folder / "mlflow", postgres)
        mlflow.start()
        yield swift, mlflow
        mlflow.kill()
    finally:
        postgres.kill()
        swift.kill()
        shutil.rmtree(folder)


def main() -> None:
    experiment = load_experiment("digits-lt", [f"{k}={v}" for k, v in SETTINGS.items()]).value
    with ExitStack() as stack:
        swift, mlflow = stack.enter_context(servers())
        os.environ.update(swift.environment() | mlflow.environment())
        swift.make_bucket("runs")
        network = stack.enter_context(Proxy(swift.port))
        network.seconds_a_mebibyte = NETWORK
        root = Storage(StorageConfig(uri="s3://runs", endpoint_url=network.endpoint))
        tracker = open_tracker(TrackingConfig(uri=mlflow.endpoint), root)
        kinds = {
            "none": AtTheEnd,
            "in the way": InTheWay,
            "behind": StoreHooks,
            "metrics": AtTheEnd,
        }
        took: dict[str, list[float]] = {name: [] for name in kinds}
        order = list(kinds)
        for number in range(ROUNDS + 1):  # the first warms up
            random.Random(number).shuffle(order)
            for name in order:
                run = tracker.run(f"{name}/{number}", name, {})

                def on_report(progress: Progress, run=run, name=name) -> bool:
                    if name == "metrics":
                        run.log_metrics(progress.metrics, progress.images_seen)
                    return False

                store = root.child(f"{name.replace(' ', '-')}/{number}")
                took[name].append(seconds(experiment, store, kinds[name], on_report))
                run.finish("FINISHED")
    none, way, behind, logged = (took[name][1:] for name in kinds)
    uploads = [w - n for w, n in zip(way, none, strict=True)]
    hidden = [1 - (b - n) / u for b, n, u in zip(behind, none, uploads, strict=True)]
    metrics = [100 * (t / n - 1) for t, n in zip(logged, none, strict=True)]
    hand_over(
        [
            Result(
                "uploads in the way, for one checkpoint", [u / (SAVES - 1) for u in uploads], "s"
            ),
            Result("uploads behind: share that is hidden", hidden, "", at_least=0.8),
            Result("metrics of every step to MLflow", metrics, "% of a step", at_most=2.0),
        ]
    )


if __name__ == "__main__":
    main()
