"""A Ray cluster on two hosts that share no files: a run outlives whatever happens to them."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from secrets import token_hex
from tempfile import TemporaryDirectory

import pytest
from support.hosts import Host, Network, SwiftOn, why_not
from support.shell import TINY, WAIT_S
from support.training import Done, distance, state, train
from support.workers import Workers

from whipray.platform.checkpoints import CheckpointStore
from whipray.platform.experiment import load_experiment
from whipray.platform.storage import Storage, StorageConfig
from whipray.trainers.checkpoint import read_tensors

pytestmark = [pytest.mark.slow, pytest.mark.faults]

REPORT = 80  # images
SAVE = 4 * REPORT
IMAGES = 16 * SAVE
SMALL = (
    *TINY,
    f"training.images={IMAGES}",
    "training.batch_size=16",
    "keep_checkpoints=99",
    f"training.checkpoint_every_images={SAVE}",
    f"training.report_every_images={REPORT}",
    "sampling.batch_size=8",
    "scaling.workers=2",
    "scaling.max_failures=9",
    "engine.zero_stage=2",
)
IMPATIENT = {  # a host that does not answer is given up after seconds, not most of a minute
    "RAY_health_check_initial_delay_ms": "2000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "3000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_gcs_rpc_server_reconnect_timeout_s": "10",
    "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "0.5",
}


class Cluster:
    """Ray with tokens on a head and a worker host, and the S3 server beside them."""

    def __init__(self, head: Host, worker: Host, swift: SwiftOn) -> None:
        self.head, self.worker, self.swift = head, worker, swift
        self.environment = {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": token_hex(32),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_ADDRESS": f"{head.address}:6379",
            "PYTHONWARNINGS": "ignore",
            "OMP_NUM_THREADS": "1",
            "RAY_worker_niceness": "0",  # at Ray's 15 they starve beside whatever else runs here
            **IMPATIENT,
            **swift.environment(),
        }

    def start(self, host: Host) -> None:
        """Ray on a host, started again whenever it ends, as a supervisor would."""
        role = "--head --port=6379 --dashboard-host=127.0.0.1"
        if host is not self.head:
            role = f"--address={self.head.address}:6379"
        ray = f"{Path(sys.executable).parent}/ray start --block --disable-usage-stats --num-cpus=1"
        ray += f" --object-store-memory=100000000 --node-ip-address={host.address} {role}"
        with (host.disk / "ray.log").open("a") as log:
            loop = f"while true; do {ray}; sleep 1; done"
            environment = {k: v for k, v in self.environment.items() if k != "RAY_ADDRESS"}
            host.popen("sh", "-c", loop, environment=environment, stdout=log, stderr=log)

    def command(self, *arguments: str, **more: str) -> subprocess.Popen[str]:
        """`whipray` on the head."""
        whipray = (sys.executable, "-m", "whipray.platform.cli.main")
        with (self.head.disk / "whipray.log").open("a") as log:
            return self.head.popen(
                *whipray, *arguments, environment=self.environment | more, stdout=log, stderr=log
            )

    def said(self) -> str:
        return (self.head.disk / "whipray.log").read_text()

    def place(self, name: str) -> Storage:
        """A run's place in the bucket."""
        config = StorageConfig(uri="s3://runs/lab", endpoint_url=self.swift.endpoint)
        return Storage(config).child(f"runs/{name}")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if reason := why_not():
        pytest.skip(reason)
    if not SwiftOn.venv.exists():
        pytest.skip("OpenStack Swift is not installed in .venv-s3")
    with (
        Network(tmp_path_factory.mktemp("hosts"), ["head", "worker"]) as network,
        pytest.MonkeyPatch.context() as patch,
    ):
        swift = SwiftOn(tmp_path_factory.mktemp("swift"), network.address)
        try:
            swift.start()
            swift.make_bucket("runs")
            for name, value in swift.environment().items():
                patch.setenv(name, value)
            head, worker = network.hosts
            cluster = Cluster(head, worker, swift)
            for host in network.hosts:
                cluster.start(host)
            yield cluster
        finally:
            swift.kill()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Done]:
    folder = tmp_path_factory.mktemp("undisturbed")
    with Workers(2) as two:
        done: Done = two.run(train, load_experiment("digits-lt", list(SMALL)).value, folder)[0]
    return folder, done


class Watched:
    """A run on the cluster, by what it leaves in the bucket and in MLflow."""

    process: subprocess.Popen[str]

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.cluster, self.name = cluster, name
        self.place = cluster.place(name)
        self.database = cluster.head.disk / "tmp/home/mlflow.db"

    def command(self, *overrides: str, **environment: str) -> subprocess.Popen[str]:
        """`whipray train`, typed for the first time or again."""
        return self.cluster.command(
            *("train", "digits-lt", "--run", self.name, *SMALL, "evaluation.workers=all"),
            f"storage.uri={self.place.config.uri}",
            f"storage.endpoint_url={self.place.config.endpoint_url}",
            "tracking.uri=sqlite:////tmp/home/mlflow.db",
            *overrides,
            **environment,
        )

    def losses(self, key: str = "loss/total") -> list[tuple[float, int, float]]:
        """When, at which image, which loss: in the order in which they were written."""
        query = f"select timestamp / 1000.0, step, value from metrics where key = '{key}'"
        with closing(sqlite3.connect(self.database, timeout=60)) as database:
            return database.execute(f"{query} order by timestamp").fetchall()

    def wait_for(self, what: str, happened: Callable[[], bool]) -> None:
        """Until it happened; fails when the command ends before."""
        deadline = time.monotonic() + WAIT_S
        while not happened():
            over = self.process.poll() is not None
            if over or time.monotonic() > deadline:
                pytest.fail(f"no {what}:\n{self.cluster.said()}")
            time.sleep(0.2)

    def seen(self) -> int:
        """Images, at the newest report."""
        return max((step for _, step, _ in self.losses()), default=0)


def test_a_run_outlives_its_hosts(
    undisturbed: tuple[Path, Done], cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Watched(cluster, "one")
    run.process = run.command()
    run.wait_for("checkpoint", lambda: CheckpointStore(run.place).latest() is not None)

    def disturbed(what: str, disturb: Callable[[], None]) -> None:
        """Do it between two checkpoints, and wait for the next step."""
        last = run.seen()
        run.wait_for(f"report before: {what}", lambda: run.seen() >= last + SAVE + REPORT)
        run.wait_for(f"report before: {what}", lambda: run.seen() % SAVE in (REPORT, 2 * REPORT))
        assert run.seen() < IMAGES - SAVE
        since = time.time()
        disturb()
        run.wait_for(f"step after: {what}", lambda: run.losses()[-1][0] > since + 1)
        first = next(when for when, *_ in run.losses() if when > since + 1)
        with capsys.disabled():
            print(f"\n{what}: {first - since:.0f} s to the next report")

    def kill_a_worker() -> None:
        (worker,) = cluster.worker.processes("TrainWorker")
        worker.kill()

    def power_cut() -> None:
        cluster.worker.kill_all()
        cluster.worker.boot()
        cluster.start(cluster.worker)

    def give_notice() -> None:
        ray = (str(Path(sys.executable).parent / "ray"), "drain-node")
        words = ("--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot")
        cluster.worker.run(
            *ray, *words, "--deadline-remaining-seconds", "30", environment=cluster.environment
        )
        run.wait_for("checkpoint at notice", lambda: saved_at_notice() != [])
        power_cut()

    def saved_at_notice() -> list[str]:
        """Checkpoints that are not those of every so many images."""
        names = CheckpointStore(run.place).names()
        return [name for name in names if int(name.removeprefix("images-")) % SAVE]

    def pull_the_cable() -> None:
        cluster.worker.network.cut(cluster.worker)
        time.sleep(30)
        cluster.worker.network.heal(cluster.worker)

    def lose_the_head() -> None:
        cluster.head.kill_all()
        assert run.process.wait() != 0
        cluster.head.boot()
        cluster.start(cluster.head)
        run.process = run.command()

    disturbed("a worker killed", kill_a_worker)
    disturbed("a host killed, and back at once", power_cut)
    disturbed("a host given notice, saved on, then killed", give_notice)
    disturbed("a cable out for 30 s", pull_the_cable)
    disturbed("the head killed, and the command typed again", lose_the_head)
    assert run.process.wait(WAIT_S) == 0, cluster.said()

    folder, reference = undisturbed
    expected = {r.images_seen: r.metrics["loss/total"] for r in reference.reports}
    told = [(step, value) for _, step, value in run.losses()]
    assert {step for step, _ in told} == expected.keys()
    assert len(told) > len(expected)  # what came after the last checkpoints was done again
    assert [(step, value) for step, value in told if expected[step] != value] == []
    with TemporaryDirectory() as scratch:
        store = CheckpointStore(run.place)
        manifest = store.fetch(reference.trained.checkpoint, Path(scratch))
        assert store.latest() == reference.trained.checkpoint
        for kind, tensors in state(folder, IMAGES)[1].items():
            assert distance(tensors, read_tensors(Path(scratch), manifest, kind)) == 0


def test_a_run_goes_on_with_fewer_workers_and_grows_again(
    undisturbed: tuple[Path, Done], cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Watched(cluster, "three")
    run.process = run.command("scaling.min_workers=1", f"training.images={100 * IMAGES}")

    def workers() -> float:
        return run.losses("workers")[-1][2] if run.losses() else 0

    def until(many: int) -> float:
        began = time.monotonic()
        run.wait_for(f"report of {many} workers", lambda: workers() == many)
        return time.monotonic() - began

    run.wait_for("checkpoint", lambda: CheckpointStore(run.place).latest() is not None)
    until(2)
    cluster.worker.kill_all()
    took = until(1)
    cluster.worker.boot()
    cluster.start(cluster.worker)
    grown = until(2)
    with capsys.disabled():
        print(f"\na host lost: {took:.0f} s to go on with one worker; back: {grown:.0f} s to two")
    (command,) = cluster.head.processes("whipray.platform.cli.main train")
    command.send_signal(signal.SIGINT)
    assert run.process.wait(WAIT_S) == 130, cluster.said()

    expected = {r.images_seen: r.metrics["loss/total"] for r in undisturbed[1].reports}
    told = [(step, value) for _, step, value in run.losses() if step in expected]
    assert {step for step, _ in told} == expected.keys()
    for step, value in told:  # one worker adds in another order than two, and steps amplify that
        assert value == pytest.approx(expected[step], rel=1e-3)


def test_no_room_for_the_workers_is_said_in_one_line(cluster: Cluster) -> None:
    """As when a host that was lost does not come back."""
    too_many = ("scaling.workers=4", "scaling.max_failures=0")
    run = Watched(cluster, "two").command(*too_many, RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S="3")
    assert run.wait(WAIT_S) == 1
    *_, what, fix = cluster.said().strip().splitlines()
    assert what == (
        "error: 4 workers with 1 CPUs and 0 GPUs each: no room for them came free in the cluster"
    )
    assert fix.startswith("fix: bring lost hosts back or lower scaling.workers")
