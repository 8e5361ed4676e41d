"""From a laptop to a cluster: a real Ray head with a token, real jobs, real kills."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from support.proxy import Proxy
from support.ray_head import RayHead
from support.shell import TINY, WAIT_S, Shell

pytestmark = [pytest.mark.slow, pytest.mark.faults]

LONG = ("training.images=6400000", "training.checkpoint_every_images=6400000")


class Laptop(Shell):
    """Knows a cluster by its address and token, and nothing else of it."""

    def __init__(self, folder: Path, head: RayHead) -> None:
        super().__init__(folder)
        self.head = head
        self.store = folder / "shared"
        self.environment |= {
            "RAY_AUTH_TOKEN": head.token,
            "RAY_API_SERVER_ADDRESS": head.address,
            "COLUMNS": "200",
            "HOME": str(folder),  # a token of a user's own may lie in theirs
        }

    def train(self, name: str, *overrides: str) -> tuple[str, ...]:
        places = (f"storage.uri={self.store}", "--run", name, "--on", self.head.address)
        return ("train", "digits-demo", *TINY, *overrides, *places)

    def jobs(self) -> list[dict[str, Any]]:
        code, out, err = self.run("jobs", "list", "--json")
        assert code == 0, err
        found: list[dict[str, Any]] = json.loads(out)["jobs"]
        return found


@pytest.fixture(scope="module")
def head() -> Iterator[RayHead]:
    with RayHead() as started:
        yield started


@pytest.fixture(scope="module")
def laptop(head: RayHead, tmp_path_factory: pytest.TempPathFactory) -> Laptop:
    return Laptop(tmp_path_factory.mktemp("laptop"), head)


def until(there: Callable[[], bool], process: subprocess.Popen[str] | None = None) -> None:
    deadline = time.monotonic() + WAIT_S
    while not there():
        assert process is None or process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_a_training_goes_to_the_cluster_and_its_words_come_back(
    laptop: Laptop, head: RayHead
) -> None:
    code, out, err = laptop.run(*laptop.train("first", "training.images=1280"))
    assert code == 0, err
    assert "kid " in out  # the table that the job printed
    assert str(laptop.store / "runs/first") in out
    assert re.search(rf"storage +{re.escape(str(laptop.store))}\n", err)
    (job,) = laptop.jobs()
    assert (job["status"], job["exit_code"], job["facts"]["name"]) == ("SUCCEEDED", 0, "first")
    assert list(laptop.store.glob("runs/first/evaluations/*/report.html"))
    # Nothing that is kept of the job, or that it said, holds the token.
    listed = head.get("/api/jobs/")
    assert job["id"] in listed
    assert head.token not in listed + out + err

    # Evaluated on the cluster too, with the workers of the cluster.
    code, out, err = laptop.run(
        *("evaluate", "first", "sampling.guidance.omega=2", "--storage", str(laptop.store)),
        *("--on", head.address),
    )
    assert code == 0, err
    assert "omega 2, 20 images" in out


def test_classes_are_filled_up_and_classifiers_trained_by_the_workers_of_a_cluster(
    laptop: Laptop,
) -> None:
    tiny = ("classification.network=resnet8", "classification.epochs=1", "balancing.to=40")
    command = ("diffult", "digits-demo", "--model", "first", *tiny, "sampling.sampler.steps=2")
    options = ("--arms", "repeated,filtered", "--seeds", "1", "--storage", str(laptop.store))
    code, out, err = laptop.run(*command, *options, "--on", laptop.head.address)
    assert code == 0, err
    assert "accuracy that filtered generated images give beyond repeated real ones: " in out
    (job,) = [job for job in laptop.jobs() if job["facts"]["verb"] == "diffult"]
    assert (job["status"], job["facts"]["name"]) == ("SUCCEEDED", "first")
    assert len(list(laptop.store.glob("runs/first/diffult/*.html"))) == 1
    assert len(list(laptop.store.glob("classifiers/*.json"))) == 2
    assert len(list(laptop.store.glob("classifiers/*.safetensors"))) == 1  # f_0


def test_a_job_is_let_go_of_stopped_with_a_checkpoint_and_gone_on_with(laptop: Laptop) -> None:
    priced = laptop.train("long", *LONG, "scaling.price_per_hour=3")
    code, out, err = laptop.run(*priced)  # nobody is there to be asked
    assert (code, out) == (2, "")
    assert "nothing was sent" in err
    assert [job for job in laptop.jobs() if job["facts"]["name"] == "long"] == []
    code, out, err = laptop.run(*priced, "--dry-run", "--json")
    assert code == 0, err
    plan = json.loads(out)["plan"]
    assert (plan["on"], plan["room"]) == (laptop.head.address, "2 workers")
    assert " images/s in first, " in plan["measured"]
    assert not (laptop.store / "runs/long").exists()
    with laptop.start(*priced, "--yes") as process:
        assert process.stdout is not None
        until(lambda: any(job["facts"]["name"] == "long" for job in laptop.jobs()), process)
        for line in process.stdout:
            if "images/s" in line:
                break
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=WAIT_S)
    assert process.returncode == 130
    assert "no longer following" in err
    assert " images/s in first, " in err  # the run before this one has the same step
    assert re.search(r"  costs +\S", err)
    (job,) = [job for job in laptop.jobs() if job["facts"]["name"] == "long"]
    assert job["status"] == "RUNNING"
    assert f"whipray jobs logs -f {job['id']}" in err

    code, out, err = laptop.run(*laptop.train("long", *LONG))
    assert (code, out) == (2, "")
    assert err.strip().splitlines()[-2] == f"error: {job['id']} already runs train long"

    checkpoints = laptop.store / "runs/long/checkpoints"
    assert not checkpoints.exists()
    code, _, err = laptop.run("jobs", "stop", job["id"])
    assert (code, err.strip()) == (0, f"{job['id']}: stopped")
    (saved,) = (path.name for path in checkpoints.iterdir())
    images = int(saved.removeprefix("images-"))

    code, out, err = laptop.run(*laptop.train("long", f"training.images={images + 640}"))
    assert code == 0, err
    assert f"resumed from {images:,} images" in out


def test_a_broken_connection_is_taken_up_where_it_was(laptop: Laptop, head: RayHead) -> None:
    with Proxy(head.dashboard) as cable:
        command = laptop.train("cut", "training.images=64000")[:-1]
        with laptop.start(*command, cable.endpoint) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            heard = process.stdout.readline()
            cable.go_down()
            (job,) = [job for job in laptop.jobs() if job["facts"]["name"] == "cut"]
            before = laptop.run("jobs", "logs", job["id"])[1]
            until(lambda: laptop.run("jobs", "logs", job["id"])[1] != before)
            cable.come_back()
            # not `communicate`, which forgets what `readline` has read ahead
            out, err = process.stdout.read(), process.stderr.read()
    assert process.returncode == 0, err
    assert f"lost the connection to {cable.endpoint}; trying again" in err
    assert heard + out == laptop.run("jobs", "logs", job["id"])[1]  # nothing twice, no gap


def test_more_than_the_cluster_has_is_refused_before_it_is_sent(laptop: Laptop) -> None:
    before = len(laptop.jobs())
    code, out, err = laptop.run(*laptop.train("vast", "scaling.gpus_per_worker=1"))
    assert (code, out) == (2, "")
    what, fix = err.strip().splitlines()[-2:]
    assert what == "error: 1 workers with 1 CPUs and 1 GPUs each: the cluster has room for 0"
    assert fix.startswith("fix: lower scaling.workers")
    assert len(laptop.jobs()) == before


def test_a_node_that_is_gone_is_no_obstacle(laptop: Laptop, head: RayHead) -> None:
    """As on every cluster of spot machines."""

    def states() -> list[str]:
        nodes = json.loads(head.get("/api/v0/nodes"))["data"]["result"]["result"]
        return sorted(node["state"] for node in nodes)

    node = head.join()
    until(lambda: states() == ["ALIVE", "ALIVE"])
    node.terminate()
    node.wait(WAIT_S)
    until(lambda: states() == ["ALIVE", "DEAD"])
    code, _, err = laptop.run(*laptop.train("after", "training.images=640"))
    assert code == 0, err
    assert re.search(r"room +2 workers", err)


def test_what_does_not_stop_is_killed(laptop: Laptop) -> None:
    with laptop.start(*laptop.train("stubborn", *LONG)) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "images/s" in line:
                break
        (job,) = [job for job in laptop.jobs() if job["facts"]["name"] == "stubborn"]
        for driver in psutil.process_iter(["cmdline"]):
            if {"whipray.platform.cli.job_entry", job["id"]} <= {*(driver.info["cmdline"] or [])}:
                os.kill(driver.pid, signal.SIGSTOP)  # it hears of nothing any more
        code, _, err = laptop.run("jobs", "stop", "--now", job["id"])
        assert (code, err.strip()) == (0, f"{job['id']}: stopped")
        process.communicate(timeout=WAIT_S)
    assert process.returncode == 1
    assert not (laptop.store / "runs/stubborn/checkpoints").exists()


@pytest.mark.parametrize(
    ("environment", "what"),
    [
        ({"RAY_AUTH_TOKEN": ""}, "requires a token"),
        ({"RAY_AUTH_TOKEN": "0123456789" * 4}, "rejects the token"),
    ],
)
def test_a_cluster_lets_nobody_in_without_its_token(
    laptop: Laptop, environment: dict[str, str], what: str
) -> None:
    before = len(laptop.jobs())
    code, out, err = laptop.run(*laptop.train("nobody"), **environment)
    assert (code, out) == (4, "")
    assert what in err.strip().splitlines()[-2]
    assert "RAY_AUTH_TOKEN" in err.strip().splitlines()[-1]
    assert len(laptop.jobs()) == before
