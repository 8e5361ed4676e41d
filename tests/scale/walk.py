"""`make scale`: ImageNet-LT's size from a list of files to a registered model, on a stand-in, with what it takes.

    walk.py [--classes 1000] [--keep FOLDER]

115,846 training images of 1000 classes are packed into a bucket, two workers with ZeRO 1 train 20 steps on them, all
processes are killed at the first checkpoint, the same command goes on, evaluates and writes the page, and the model
is registered and sampled. Two cores need a quarter of an hour, the disk some 6 GB. It fails where a step does; the
last lines are a table. The network is small and images per class are few: pieces are compared, not quality.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import mkdtemp

import boto3
import psutil

sys.path.append(str(Path(__file__).parents[1]))  # for `support`, which is no package of its own

from scale.measuring import Measuring, Piece, as_table
from scale.stand_in import CLASSES, make_stand_in
from support.servers import Moto, Server, Swift

from whipray.trainers.checkpoint_names import checkpoint_name

RECIPE, RUN, BUCKET = "imagenet-lt-64-ddpm", "walk", "scale"
BATCH, STEPS = 32, 20
IMAGES = BATCH * STEPS
SETTINGS = (
    "model.base_channels=16",
    "model.norm_groups=16",
    f"training.batch_size={BATCH}",
    f"training.images={IMAGES}",
    f"training.report_every_images={BATCH * 5}",
    f"training.checkpoint_every_images={IMAGES // 2}",
    "training.validation_images=32",
    "optimizer.warmup_steps=2",
    "scaling.workers=2",
    "engine.precision=fp32",
    "engine.zero_stage=1",
    "sampling.sampler.steps=2",
    "sampling.guidance.omega=0",
    "evaluation.images_per_class=2",
    "evaluation.bootstrap_resamples=20",
    "evaluation.features.extractor=imagenet",
    "evaluation.metrics=[fid,kid]",
    "evaluation.workers=2",
    "tracking.system_metrics=false",
)


class Walk:
    """The folders, the bucket and the commands of a walk."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.started: list[subprocess.Popen[bytes]] = []
        for name in ("data", "cache", "server", "t"):
            (folder / name).mkdir()
        kind: type[Server] = Swift if Swift.venv.exists() else Moto
        self.server = kind(folder / "server")
        self.server.start()
        self.server.make_bucket(BUCKET)
        own = ("RAY_", "MLFLOW_", "WHIPRAY_", "AWS_")
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith(own)}
        self.environment |= {
            **self.server.environment(),
            "WHIPRAY_CACHE": str(folder / "cache"),
            "TMPDIR": str(folder / "t"),
            "OMP_NUM_THREADS": "1",
        }

    @property
    def data(self) -> tuple[str, ...]:
        """Where the recipe's lists and images are."""
        root = self.folder / "data"
        return (
            f"data.root={root}/imagenet",
            f"data.train_list={root}/ImageNet_LT_train.txt",
            f"data.reference_list={root}/ImageNet_LT_val.txt",
        )

    @property
    def stores(self) -> tuple[str, ...]:
        """Where runs are kept."""
        return (
            f"storage.uri=s3://{BUCKET}/runs",
            f"storage.endpoint_url={self.server.endpoint}",
            f"tracking.uri=sqlite:///{self.folder}/mlflow.db",
        )

    def command(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start `whipray ...`; its output is this command's."""
        print(f"$ whipray {' '.join(arguments[:3])} ...", flush=True)
        command = [sys.executable, "-m", "whipray.platform.cli.main", *arguments]
        self.started.append(subprocess.Popen(command, cwd=self.folder, env=self.environment))
        return self.started[-1]

    def run(self, *arguments: str) -> None:
        """Run `whipray ...` to its end."""
        require(self.command(*arguments))

    def has(self, name: str) -> bool:
        """Return whether the bucket has an object whose name ends so."""
        client = boto3.client(
            "s3",
            endpoint_url=self.server.endpoint,
            region_name="us-east-1",
            aws_access_key_id=self.server.access_key,
            aws_secret_access_key=self.server.secret_key,
        )
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix="runs/")
        return any(
            each["Key"].endswith(name) for page in pages for each in page.get("Contents", [])
        )

    def until(self, process: subprocess.Popen[bytes], name: str) -> None:
        """Wait for an object in the bucket while a command runs."""
        while not self.has(name):
            if process.poll() is not None:
                sys.exit(f"the command ended with {process.returncode} before {name} was there")
            time.sleep(0.5)


def require(process: subprocess.Popen[bytes]) -> None:
    """Wait for a command, which has to succeed."""
    if process.wait():
        sys.exit(f"the command ended with {process.returncode}")


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a command with all that it has started, as a power cut would."""
    for each in [
        *psutil.Process(process.pid).children(recursive=True),
        psutil.Process(process.pid),
    ]:
        try:
            each.kill()
        except psutil.NoSuchProcess:
            continue
    process.wait()


def show(piece: Piece) -> None:
    """Print a piece when it has ended."""
    print(f"{piece.name}: {piece.seconds:.0f} s, {piece.cpu:.0f} s of CPU", flush=True)


def walk(folder: Path, classes: int) -> Measuring:
    """Do all pieces in order."""
    one = Walk(folder)
    folders = {name: folder / name for name in ("data", "cache", "server")}
    measuring = Measuring(folders, lambda: {each.pid for each in one.server.processes}, show)
    manifest = "checkpoints/{}/manifest.json".format
    packed = f"s3://{BUCKET}/packed"
    train = ("train", RECIPE, "--run", RUN, *SETTINGS, *one.stores)
    train = (*train, "data.source=packed", f"data.path={packed}")
    try:
        measuring.begin("making the stand-in")
        print(make_stand_in(folder / "data", classes), flush=True)
        measuring.begin("pack")
        one.run("data", "pack", RECIPE, packed, *one.data, "--endpoint", one.server.endpoint)
        shutil.rmtree(folder / "data")  # a training has the bucket alone
        shutil.rmtree(folder / "cache")
        measuring.begin("train to the first checkpoint, killed")
        process = one.command(*train)
        one.until(process, manifest(checkpoint_name(IMAGES // 2)))
        kill(process)
        measuring.begin("go on to the last checkpoint")
        process = one.command(*train)
        one.until(process, manifest(checkpoint_name(IMAGES)))
        measuring.begin("evaluate, page")
        require(process)
        if not one.has("report.html"):
            sys.exit("there is no page")
        measuring.begin("register")
        one.run("register", RUN, "--alias", "champion", *store_options(one))
        measuring.begin("sample")
        picture = ("--classes", "0,1", "--per-class", "2", "--out", "samples.png")
        one.run("sample", f"models:/{RECIPE}@champion", *picture, *store_options(one))
    finally:
        measuring.close()
        for each in one.started:
            if each.poll() is None:
                kill(each)
        one.server.kill()
    return measuring


def store_options(one: Walk) -> Sequence[str]:
    """Return the options of commands that take no overrides."""
    return (
        *("--storage", f"s3://{BUCKET}/runs", "--endpoint", one.server.endpoint),
        *("--tracking", f"sqlite:///{one.folder}/mlflow.db"),
    )


def main() -> None:
    """Walk, print the table, and remove everything."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--classes", type=int, default=CLASSES, help="fewer, to try it")
    parser.add_argument("--keep", type=Path, help="work in this folder, which stays")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the servers end with this process
    folder = arguments.keep or Path(mkdtemp(prefix="scale-"))
    folder.mkdir(exist_ok=True)
    began = time.monotonic()
    try:
        measuring = walk(folder.resolve(), arguments.classes)
    finally:
        if arguments.keep is None:
            shutil.rmtree(folder, ignore_errors=True)
    print(f"\n{(time.monotonic() - began) / 60:.1f} minutes on {os.cpu_count()} cores\n")
    print("\n".join(as_table(measuring.pieces)))


if __name__ == "__main__":
    main()
