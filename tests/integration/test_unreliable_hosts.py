"""A Ray cluster on two hosts that share no files: a run outlives whatever happens to them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from functools import partial
from pathlib import Path
from secrets import token_hex
from tempfile import TemporaryDirectory
from typing import Any

import psycopg2
import pytest
from support.hosts import Host, Network, why_not
from support.metadata import Metadata
from support.servers import MLflowServer, Postgres, Swift
from support.shell import TINY, WAIT_S
from support.training import Done, distance, state, train
from support.workers import Workers

from whipray.platform.config.experiment import load_experiment
from whipray.platform.storage.checkpoints import CheckpointStore
from whipray.platform.storage.config import StorageConfig
from whipray.platform.storage.store import Storage
from whipray.trainers.checkpoint import read_tensors

pytestmark = [pytest.mark.slow, pytest.mark.faults]

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
WHIPRAY = (sys.executable, "-m", "whipray.platform.cli.main")

REPORT = 80  # images
SAVE = 4 * REPORT
IMAGES = 40 * SAVE
SMALL = (
    *TINY,
    f"training.images={IMAGES}",
    "training.batch_size=16",
    "keep_checkpoints=99",
    f"training.checkpoint_every_images={SAVE}",
    f"training.report_every_images={REPORT}",
    "training.report_every_s=0",
    "training.checkpoint_every_s=0",
    "sampling.batch_size=8",
    "scaling.workers=2",
    "scaling.max_failures=9",
    "engine.zero_stage=2",
    "model.dropout=0",  # whose masks depend on how many workers share a batch
)
IMPATIENT = {  # a host that does not answer is given up after seconds, not most of a minute
    "RAY_health_check_initial_delay_ms": "2000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "3000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_gcs_rpc_server_reconnect_timeout_s": "10",
    "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "0.5",
}
SPACE = """
description: taus
train:
  objective.tau: {type: float, low: 0.1, high: 5.0, log: true}
base: {objective: {name: cbdm}}
"""


class Cluster:
    """Ray with tokens on a head and a worker host; a laptop; the servers of the team beside them."""

    def __init__(self, network: Network, swift: Swift, mlflow: MLflowServer) -> None:
        self.head, self.worker, self.laptop = network.hosts
        self.swift, self.mlflow = swift, mlflow
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token_hex(32)}
        keys = token | swift.environment() | mlflow.environment()
        self.environment = {
            **keys,
            "RAY_USAGE_STATS_ENABLED": "0",
            "PYTHONWARNINGS": "ignore",
            "OMP_NUM_THREADS": "1",
            "RAY_worker_niceness": "0",  # at Ray's 15 they starve beside whatever else runs here
            **IMPATIENT,
        }
        self.at_the_laptop = keys | {
            "RAY_API_SERVER_ADDRESS": f"http://{self.head.address}:8265",
            "COLUMNS": "200",
        }

    def start(self, host: Host) -> None:
        """Ray on a host, started again whenever it ends, as a supervisor would."""
        role = f"--head --port=6379 --dashboard-host={host.address}"
        if host is not self.head:
            role = f"--address={self.head.address}:6379"
        ray = f"{BIN}/ray start --block --disable-usage-stats --num-cpus=1"
        ray += f" --object-store-memory=100000000 --node-ip-address={host.address} {role}"
        with (host.disk / "ray.log").open("a") as log:
            loop = f"export PATH={BIN}:$PATH; while true; do {ray}; sleep 1; done"
            host.popen("sh", "-c", loop, environment=self.environment, stdout=log, stderr=log)

    def watch(self, metadata: Mapping[str, str]) -> None:
        """For the cloud's notice, on the worker host."""
        environment = {**self.environment, **metadata, "PATH": f"{BIN}:{os.environ['PATH']}"}
        with (self.worker.disk / "spot.log").open("a") as log:
            watch = str(ROOT / "infra" / "watch-spot.sh")
            self.worker.popen("bash", watch, environment=environment, stdout=log, stderr=log)

    def restart_the_worker(self) -> None:
        """After a power cut."""
        self.worker.kill_all()
        self.worker.boot()
        self.start(self.worker)

    def wait_for_head(self) -> None:
        """Until its dashboard answers."""
        deadline = time.monotonic() + WAIT_S
        ask = partial(self.laptop.ask, *WHIPRAY, "jobs", "list", environment=self.at_the_laptop)
        while (answer := ask())[0] != 0:
            assert answer[2].startswith("error: "), answer
            assert time.monotonic() < deadline
            time.sleep(1)

    def type(self, *arguments: str, **more: str) -> subprocess.Popen[str]:
        """`whipray` on the laptop."""
        with (self.laptop.disk / "said.txt").open("a") as log:
            return self.laptop.popen(
                *WHIPRAY, *arguments, environment=self.at_the_laptop | more, stdout=log, stderr=log
            )

    def ask(self, *arguments: str) -> dict[str, Any]:
        """What `whipray` on the laptop answers, as JSON."""
        code, out, err = self.laptop.ask(*WHIPRAY, *arguments, environment=self.at_the_laptop)
        assert code == 0, err
        answer: dict[str, Any] = json.loads(out)
        return answer

    def said(self) -> str:
        return (self.laptop.disk / "said.txt").read_text()

    def places(self) -> tuple[str, ...]:
        """Where everybody keeps what."""
        return (
            *("storage.uri=s3://runs", f"storage.endpoint_url={self.swift.endpoint}"),
            f"tracking.uri={self.mlflow.endpoint}",
        )

    def place(self, name: str) -> Storage:
        """The folder `name` in the bucket."""
        return Storage(StorageConfig(uri="s3://runs", endpoint_url=self.swift.endpoint)).child(name)

    def losses(self, run: str, metric: str = "loss/total") -> list[tuple[float, int, float]]:
        """When, at which image, which loss of the run with this `whipray.key`, in this order."""
        query = (
            "select timestamp / 1000.0, step, metrics.value from metrics join tags using (run_uuid) "
            "where tags.key = 'whipray.key' and tags.value = %s and metrics.key = %s "
            "order by timestamp"
        )
        with closing(psycopg2.connect(self.mlflow.backend.replace("+psycopg2", ""))) as database:
            cursor = database.cursor()
            cursor.execute(query, (run, metric))
            return [(float(when), step, value) for when, step, value in cursor.fetchall()]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, postgres: Postgres) -> Iterator[Cluster]:
    if reason := why_not():
        pytest.skip(reason)
    if not Swift.venv.exists():
        pytest.skip("OpenStack Swift is not installed in .venv-s3")
    names = ["head", "worker", "laptop"]
    with (
        Network(tmp_path_factory.mktemp("hosts"), names) as network,
        pytest.MonkeyPatch.context() as patch,
    ):
        swift = Swift(tmp_path_factory.mktemp("swift"), network.address)
        mlflow = MLflowServer(tmp_path_factory.mktemp("mlflow"), postgres, network.address)
        try:
            swift.start()
            swift.make_bucket("runs")
            mlflow.start()
            for name, value in swift.environment().items():
                patch.setenv(name, value)
            cluster = Cluster(network, swift, mlflow)
            cluster.start(cluster.head)
            cluster.start(cluster.worker)
            cluster.wait_for_head()
            yield cluster
        finally:
            mlflow.kill()
            swift.kill()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Done]:
    folder = tmp_path_factory.mktemp("undisturbed")
    with Workers(2) as two:
        done: Done = two.run(train, load_experiment("digits-lt", list(SMALL)).value, folder)[0]
    return folder, done


class Watched:
    """A training on the cluster, by what it leaves in the bucket and in MLflow."""

    process: subprocess.Popen[str]

    def __init__(self, cluster: Cluster, name: str, *overrides: str) -> None:
        self.cluster, self.name, self.overrides = cluster, name, overrides
        self.store = CheckpointStore(cluster.place(f"runs/{name}"))

    def type(self) -> None:
        """`whipray train --on` at the laptop, for the first time or again."""
        self.process = self.cluster.type(
            *("train", "digits-lt", "--run", self.name, *SMALL, *self.overrides),
            *(*self.cluster.places(), "--on", self.cluster.at_the_laptop["RAY_API_SERVER_ADDRESS"]),
        )

    def job(self) -> str:
        """Its name."""
        jobs = self.cluster.ask("jobs", "list", "--json")["jobs"]
        (job,) = (j["id"] for j in jobs if j["facts"]["name"] == self.name and not j["ended"])
        return str(job)

    def losses(self, metric: str = "loss/total") -> list[tuple[float, int, float]]:
        return self.cluster.losses(f"run/{self.name}", metric)

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

    def check(self, folder: Path, reference: Done) -> None:
        """That it is, to the bit, the undisturbed training in `folder`."""
        expected = {r.images_seen: r.metrics["loss/total"] for r in reference.reports}
        told = [(step, value) for _, step, value in self.losses()]
        assert {step for step, _ in told} == expected.keys()
        assert [(step, value) for step, value in told if expected[step] != value] == []
        with TemporaryDirectory() as scratch:
            manifest = self.store.fetch(reference.trained.checkpoint, Path(scratch))
            assert self.store.latest() == reference.trained.checkpoint
            for kind, tensors in state(folder, IMAGES)[1].items():
                assert distance(tensors, read_tensors(Path(scratch), manifest, kind)) == 0


def test_a_run_outlives_its_hosts(
    undisturbed: tuple[Path, Done], cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Watched(cluster, "one")
    run.type()
    run.wait_for("checkpoint", lambda: run.store.latest() is not None)

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

    def pull_the_cable() -> None:
        cluster.worker.network.cut(cluster.worker)
        time.sleep(30)
        cluster.worker.network.heal(cluster.worker)

    def take_the_servers_away() -> None:
        for server in (cluster.swift, cluster.mlflow):
            server.kill()
        time.sleep(60)
        for server in (cluster.swift, cluster.mlflow):
            server.start()

    def lose_the_laptop() -> None:
        job = run.job()
        cluster.laptop.kill_all()
        time.sleep(5)
        cluster.laptop.boot()
        run.process = cluster.type("jobs", "logs", "-f", job)

    def lose_the_head() -> None:
        cluster.head.kill_all()
        cluster.head.boot()
        cluster.start(cluster.head)
        assert run.process.wait(WAIT_S) == 4
        what, _fix = cluster.said().strip().splitlines()[-2:]
        assert "was restarted and no longer knows train-one-" in what
        run.type()

    disturbed("a worker killed", kill_a_worker)
    disturbed("a host killed, and back at once", cluster.restart_the_worker)
    disturbed("a cable out for 30 s", pull_the_cable)
    disturbed("S3 and MLflow down for 60 s", take_the_servers_away)
    disturbed("the laptop off for 5 s", lose_the_laptop)
    disturbed("the head killed, and the command typed again", lose_the_head)
    assert run.process.wait(WAIT_S) == 0, cluster.said()

    assert len(run.losses()) > IMAGES // REPORT  # some of it was done again
    run.check(*undisturbed)


def test_a_host_that_is_given_notice_is_saved_before_it_goes(
    undisturbed: tuple[Path, Done], cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Watched(cluster, "notice", f"training.checkpoint_every_images={IMAGES}")
    run.type()
    run.wait_for("report", lambda: run.seen() > 0)
    with Metadata("aws", cluster.worker.network.address) as metadata:
        cluster.watch(metadata.environment)
        since = time.monotonic()
        metadata.notice = True
        run.wait_for("checkpoint", lambda: run.store.latest() is not None)
    with capsys.disabled():
        print(f"\na host given notice: {time.monotonic() - since:.0f} s to a checkpoint")
    cluster.restart_the_worker()
    assert run.process.wait(WAIT_S) == 0, cluster.said()
    run.check(*undisturbed)


@pytest.mark.parametrize("zero_stage", [1, 2, 3])
def test_a_run_goes_on_with_fewer_workers_and_grows_again(
    undisturbed: tuple[Path, Done],
    cluster: Cluster,
    capsys: pytest.CaptureFixture[str],
    zero_stage: int,
) -> None:
    run = Watched(
        cluster,
        f"elastic-{zero_stage}",
        *("scaling.min_workers=1", f"training.images={100 * IMAGES}"),
        f"engine.zero_stage={zero_stage}",
    )
    run.type()

    def workers() -> float:
        told = run.losses("workers")
        return told[-1][2] if told else 0

    def until(many: int) -> float:
        began = time.monotonic()
        run.wait_for(f"report of {many} workers", lambda: workers() == many)
        return time.monotonic() - began

    run.wait_for("checkpoint", lambda: run.store.latest() is not None)
    until(2)
    cluster.worker.kill_all()
    took = until(1)
    cluster.worker.boot()
    cluster.start(cluster.worker)
    grown = until(2)
    with capsys.disabled():
        print(f"\nZeRO {zero_stage}, a host lost: {took:.0f} s to go on with one worker; ", end="")
        print(f"back: {grown:.0f} s to two")
    again = run.seen()
    run.wait_for("checkpoint after", lambda: run.seen() >= again + SAVE + REPORT)
    stop = ("jobs", "stop", run.job())
    code, _, err = cluster.laptop.ask(*WHIPRAY, *stop, environment=cluster.at_the_laptop)
    assert (code, err.strip().splitlines()[-1]) == (0, f"{stop[-1]}: stopped")
    run.process.wait(WAIT_S)
    latest = run.store.latest()
    assert latest is not None
    last = run.store.read_manifest(latest).images_seen
    told = [(step, value) for _, step, value in run.losses()]
    assert {step for step, _ in told} == set(range(REPORT, last + 1, REPORT))

    expected = {r.images_seen: r.metrics["loss/total"] for r in undisturbed[1].reports}
    shared = [(step, value) for step, value in told if step in expected]
    assert len(shared) > 2 * SAVE // REPORT
    for step, value in shared:  # one worker adds in another order than two: differs by about 2e-7
        assert value == pytest.approx(expected[step], rel=1e-5)


def test_a_sweep_outlives_a_host_that_was_given_notice(cluster: Cluster) -> None:
    """Checkpoints before the end are those that notices made."""
    (cluster.laptop.disk / "tmp/taus.yaml").write_text(SPACE)
    images, report = 9600, 320
    sweep = (
        *("sweep", "taus.yaml", "--recipe", "digits-demo", "--name", "taus", "--trials", "4"),
        *(*TINY, f"training.images={images}", f"training.checkpoint_every_images={images}"),
        *("tuning.sample_points=1", "scaling.max_failures=9", *cluster.places()),
    )
    process = cluster.type(*sweep, "--on", cluster.at_the_laptop["RAY_API_SERVER_ADDRESS"])
    trials = cluster.place("sweeps/taus/trials")

    def latest(trial: int) -> int:
        name = CheckpointStore(trials.child(f"{trial:04d}")).latest()
        return int(name.removeprefix("images-")) if name else 0

    def wait_for(happened: Callable[[], object]) -> None:
        deadline = time.monotonic() + WAIT_S
        while not happened():
            assert process.poll() is None, cluster.said()
            assert time.monotonic() < deadline
            time.sleep(0.2)

    wait_for(lambda: cluster.worker.processes("ImplicitFunc"))
    wait_for(lambda: all(cluster.losses(f"sweep/taus/{trial}") for trial in (0, 1)))
    with Metadata("gcp", cluster.worker.network.address) as metadata:
        cluster.watch(metadata.environment)
        metadata.notice = True
        wait_for(lambda: any(0 < latest(trial) < images for trial in (0, 1)))
    cluster.restart_the_worker()
    assert process.wait(WAIT_S) == 0, cluster.said()

    shown = cluster.ask(*sweep, "--resume", "--json")
    assert [trial["state"] for trial in shown["trials"]] == ["complete"] * 4
    assert {path.split("/")[0] for path in trials.list()} == {f"{n:04d}" for n in range(4)}
    for number in range(4):
        assert latest(number) == images
        told = cluster.losses(f"sweep/taus/{number}")
        assert {step for _, step, _ in told} == set(range(report, images + 1, report))


def test_no_room_for_the_workers_is_said_in_one_line(cluster: Cluster) -> None:
    """As when a host that was lost does not come back; by a person on the head."""
    too_many = ("scaling.workers=4", "scaling.max_failures=0")
    code, _, err = cluster.head.ask(
        *(*WHIPRAY, "train", "digits-lt", "--run", "crowd", *SMALL, *too_many),
        *cluster.places(),
        environment=cluster.environment
        | {
            "RAY_ADDRESS": f"{cluster.head.address}:6379",
            "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "3",
        },
    )
    assert code == 1
    *_, what, fix = err.strip().splitlines()
    assert what == (
        "error: 4 workers with 1 CPUs and 0 GPUs each: no room for them came free in the cluster"
    )
    assert fix.startswith("fix: bring lost hosts back or lower scaling.workers")
