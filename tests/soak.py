"""`make soak`: a sweep on a cluster where something is killed every minute, and a count at the end.

    soak.py [--trials 40] [--minutes 30] [--seed 0]

The store is a real S3 server, MLflow is on PostgreSQL, Ray has a token. Killed are, at random, a
process that trains, the job's driver, the laptop's command, and everything on the head node. It fails
unless exactly so many trials are finished, the study, MLflow and the store agree, and nothing is left
running or lying about.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import psutil
from mlflow import MlflowClient
from support.ray_head import RayHead
from support.servers import MLflowServer, Postgres, Swift
from support.shell import TINY, Shell

from whipray.platform.storage.checkpoints import CheckpointStore
from whipray.platform.storage.config import StorageConfig
from whipray.platform.storage.store import Storage

SPACE = """
description: soak
train:
  objective.tau: {type: float, low: 0.1, high: 5.0, log: true}
base: {objective: {name: cbdm}}
"""
IMAGES, REPORT = 19200, 320
SETTINGS = (
    *TINY,
    f"training.images={IMAGES}",
    "training.checkpoint_every_images=1600",
    "tuning.sample_points=1",
    "scaling.max_failures=99",
)
NAME = "soak"
EVERY_S = 60.0
SETTLE_S = 60.0  # for Ray to end what a finished job held


class Soak:
    """Servers, a cluster and a laptop. Use `close` at the end."""

    def __init__(self, folder: Path, trials: int, seed: int) -> None:
        self.folder, self.trials, self.random = folder, trials, random.Random(seed)
        self.killed: Counter[str] = Counter()
        binaries = Postgres.binaries()
        if binaries is None or not Swift.venv.exists():
            sys.exit("needs PostgreSQL and OpenStack Swift: `make machine test`")
        for name in ("swift", "postgres", "mlflow", "laptop", "laptop/tmp"):
            (folder / name).mkdir()
        folder.chmod(0o755)  # PostgreSQL runs as another user
        self.swift = Swift(folder / "swift")
        self.swift.start()
        self.swift.make_bucket("runs")
        self.postgres = Postgres(folder / "postgres", binaries)
        self.postgres.start()
        self.mlflow = MLflowServer(folder / "mlflow", self.postgres)
        self.mlflow.start()
        self.keys = self.swift.environment() | self.mlflow.environment()
        self.head = self._head()
        self.laptop = Shell(folder / "laptop")
        self.laptop.environment |= {**self.keys, "TMPDIR": str(folder / "laptop/tmp")}
        (folder / "laptop/soak.yaml").write_text(SPACE)
        self.command: subprocess.Popen[str] | None = None

    def _head(self) -> RayHead:
        return RayHead(environment=self.keys).__enter__()

    def close(self) -> None:
        if self.command is not None:
            self.command.kill()
        self.head.__exit__()
        for server in (self.mlflow, self.postgres, self.swift):
            server.kill()

    # -- a person at the laptop ---------------------------------------------------------------

    @property
    def sweep(self) -> tuple[str, ...]:
        return (
            *("sweep", "soak.yaml", "--recipe", "digits-demo", "--name", NAME, "--resume"),
            *("--trials", str(self.trials), *SETTINGS),
            *("storage.uri=s3://runs", f"storage.endpoint_url={self.swift.endpoint}"),
            f"tracking.uri={self.mlflow.endpoint}",
        )

    def start(self, *arguments: str) -> None:
        at = {"RAY_AUTH_TOKEN": self.head.token, "RAY_API_SERVER_ADDRESS": self.head.address}
        with (self.folder / "laptop/said.txt").open("a") as said:
            said.write(f"\n$ whipray {' '.join(arguments)}\n")
            said.flush()
            self.command = subprocess.Popen(
                [sys.executable, "-m", "whipray.platform.cli.main", *arguments],
                cwd=self.laptop.folder,
                env=self.laptop.environment | at,
                stdout=said,
                stderr=said,
                text=True,
            )

    def follow(self) -> None:
        """Again what runs, or the sweep anew where nothing does."""
        jobs = json.loads(self.head.get("/api/jobs/"))
        running = [job["submission_id"] for job in jobs if job["status"] in ("PENDING", "RUNNING")]
        if running:
            self.start("jobs", "logs", "-f", running[0])
        else:
            self.start(*self.sweep, "--on", self.head.address, "--yes")

    # -- what goes wrong ----------------------------------------------------------------------

    def kill(self) -> str:
        """Something at random; what it was."""
        what = self.random.choice(["training", "training", "driver", "laptop", "head"])
        self.killed[what] += 1
        assert self.command is not None
        if what == "head":
            self.head.__exit__()
            self.head = self._head()
            self.command.kill()  # the new one has another address
        elif what == "laptop":
            self.command.kill()
        else:
            word = {"training": "ImplicitFunc", "driver": "launching.entry"}[what]
            found = [process for process, line in self._processes() if word in line]
            if not found:
                return f"no {what} there"
            self.random.choice(found).kill()
        return what

    def _processes(self) -> Iterator[tuple[psutil.Process, str]]:
        """Those of the cluster, with their command lines."""
        for process in self.head.processes():
            with suppress(psutil.Error):
                yield process, " ".join(process.cmdline())

    def run(self, minutes: float) -> None:
        """Until the sweep is done; killing goes on for so long at most."""
        began = next_kill = time.monotonic()
        self.follow()
        while True:
            time.sleep(1)
            assert self.command is not None
            code = self.command.poll()
            if code == 0:
                return
            now = time.monotonic()
            if now - began > 3 * 60 * minutes + 600:
                raise TimeoutError("the sweep does not come to its end")
            if code is not None:
                self.follow()
            if now - next_kill > EVERY_S and now - began < 60 * minutes:
                next_kill = now
                print(f"{now - began:6.0f} s: killed {self.kill()}", flush=True)

    # -- what there is at the end -------------------------------------------------------------

    def count(self) -> list[str]:
        """What is wrong."""
        code, out, err = self.laptop.run(*self.sweep, "--json")
        if code:
            return [f"the finished sweep cannot be shown: {err}"]
        document = json.loads(out)
        rows = document["trials"]
        wrong = []
        if (states := Counter(row["state"] for row in rows)) != {"complete": self.trials}:
            wrong.append(f"the study has {dict(states)}")
        numbers = {row["number"] for row in rows}
        wrong += self._in_mlflow(rows, document["rank_by"])
        wrong += self._in_the_store(numbers)
        deadline = time.monotonic() + SETTLE_S
        while (left := list(self._left())) and time.monotonic() < deadline:
            time.sleep(2)
        return wrong + left

    def _in_mlflow(self, rows: list[dict[str, Any]], rank_by: str) -> Iterator[str]:
        os.environ.update(self.mlflow.environment())
        client = MlflowClient(self.mlflow.endpoint)
        experiment = client.get_experiment_by_name("whipray")
        assert experiment is not None
        runs = client.search_runs([experiment.experiment_id], max_results=1000)
        trials = [run for run in runs if run.data.tags["whipray.kind"] == "trial"]
        (parent,) = (run for run in runs if run.data.tags["whipray.kind"] == "sweep")
        of = {int(run.data.tags["whipray.trial"]): run for run in trials}
        if len(of) != len(trials) or set(of) != {row["number"] for row in rows}:
            yield f"MLflow has runs of trials {sorted(of)}"
        for row in rows:
            run = of[row["number"]]
            if run.info.status != "FINISHED":
                yield f"MLflow's run of trial {row['number']} is {run.info.status}"
            if run.data.metrics.get(rank_by) != row["value"]:
                yield f"MLflow's run of trial {row['number']} has another {rank_by}"
            history = client.get_metric_history(run.info.run_id, "loss/total")
            if {metric.step for metric in history} != set(range(REPORT, IMAGES + 1, REPORT)):
                yield f"MLflow's run of trial {row['number']} lacks reports"
        best = min(rows, key=lambda row: float(row["value"]))
        if parent.data.tags["whipray.best_trial"] != str(best["number"]):
            yield "MLflow's best trial is not the study's"

    def _in_the_store(self, numbers: set[int]) -> Iterator[str]:
        os.environ.update(self.swift.environment())
        config = StorageConfig(uri="s3://runs", endpoint_url=self.swift.endpoint)
        trials = Storage(config).child(f"sweeps/{NAME}/trials")
        folders = {int(path.split("/")[0]) for path in trials.list()}
        if folders != numbers:
            yield f"the store has folders of trials {sorted(folders)}"
        for number in sorted(folders):
            store = CheckpointStore(trials.child(f"{number:04d}"))
            latest = store.latest()
            if latest is None:
                yield f"trial {number} has no checkpoint"
                continue
            manifest = store.read_manifest(latest)
            store.check_sizes(latest, manifest)
            if manifest.images_seen != IMAGES:
                yield f"trial {number}'s last checkpoint is of {manifest.images_seen} images"

    def _left(self) -> Iterator[str]:
        def listed(kind: str) -> list[dict[str, Any]]:
            answer = json.loads(self.head.get(f"/api/v0/{kind}?limit=10000"))
            found: list[dict[str, Any]] = answer["data"]["result"]["result"]
            return found

        if alive := [actor["class_name"] for actor in listed("actors") if actor["state"] != "DEAD"]:
            yield f"actors: {', '.join(alive)}"
        if groups := [one for one in listed("placement_groups") if one["state"] != "REMOVED"]:
            yield f"{len(groups)} placement groups"
        busy = [line for _, line in self._processes() if "whipray" in line or "Implicit" in line]
        if busy:
            yield f"processes: {'; '.join(busy)}"
        for folder in (self.head.folder / "tmp", self.folder / "laptop/tmp"):
            names = {path.name for path in folder.iterdir()}
            # PyTorch's cache, and what Python's multiprocessing leaves when it is killed
            if files := sorted(n for n in names if not n.startswith(("torchinductor_", "pymp-"))):
                yield f"in {folder}: {', '.join(files)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    folder = Path(mkdtemp(prefix="soak-", dir="/tmp"))
    soak = Soak(folder, options.trials, options.seed)
    try:
        began = time.monotonic()
        soak.run(options.minutes)
        print(f"{time.monotonic() - began:6.0f} s: done; killed {dict(soak.killed)}", flush=True)
        wrong = soak.count()
    finally:
        soak.close()
    for line in wrong:
        print(f"wrong: {line}")
    if wrong:
        sys.exit(f"what was said is in {folder / 'laptop/said.txt'}")
    print(f"{options.trials} finished trials; study, MLflow and store agree; nothing is left")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
