"""Forming the weights' average of a new width, against loading the same checkpoint.

Each in the place where an evaluation does it: from a store in a folder to a network ready to sample from.
Loading downloads the checkpoint, checks its hashes and reads the EMA; forming sums averages that were
downloaded before, of 8 moments and two widths. The first width of a checkpoint also downloads them.
"""

from __future__ import annotations

import random
import time
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from measure import Result, hand_over, ratios

from whipray.platform.config.experiment import Experiment, load_experiment
from whipray.platform.generation.loading import Models
from whipray.platform.storage.checkpoints import CheckpointStore
from whipray.platform.storage.config import StorageConfig
from whipray.platform.storage.store import Storage
from whipray.trainers.checkpoint import (
    Manifest,
    describe,
    file_of_rank,
    kinds,
    profile_kind,
    write_manifest,
)
from whipray.trainers.checkpoint_names import MANIFEST, checkpoint_name
from whipray.trainers.disk import save_tensors
from whipray.trainers.sampling import SamplingConfig

MOMENTS, EVERY, PROFILES = 8, 6400, (0.05, 0.1)
ROUNDS = 5
CHANNELS = {"2.2M": 32, "35.7M": 128}  # parameters of CBDM's U-Net
WIDTHS = {"a width of .075": 0.075, "a width of .20": 0.2}  # from 5 of the 16 averages, from all


def experiment_of(channels: int) -> Experiment:
    values = [f"model.base_channels={channels}", f"optimizer.ema_profiles={list(PROFILES)}"]
    return load_experiment("cifar10-lt", values).value


def save_checkpoints(store: CheckpointStore, experiment: Experiment, folder: Path) -> None:
    """A checkpoint of the initial weights, whatever the kind, and averages alone of earlier moments."""
    network = experiment.model.build((3, 32, 32), 10)
    weights = {name: p.detach() for name, p in network.named_parameters()}
    for number in range(1, MOMENTS + 1):
        tensors: dict[str, dict[str, torch.Tensor]] = {}
        whole = number == MOMENTS
        for kind in kinds(PROFILES) if whole else map(profile_kind, PROFILES):
            of_file = tensors.setdefault(file_of_rank(kind, 0), {})
            of_file |= {f"{kind}/{name}": p.clone() for name, p in weights.items()}
        for file, content in tensors.items():
            save_tensors(content, folder / file)
        manifest = Manifest(
            images_seen=number * EVERY,
            optimizer_steps=number,
            config=experiment.model_dump(mode="json"),
            process=experiment.process,
            image_shape=(3, 32, 32),
            class_names=[str(c) for c in range(10)],
            class_counts=[10] * 10,
            train_fingerprint="none",
            next_loss=1.0,
            state_norms={},
            tensors={name: file for file, content in tensors.items() for name in content},
            files={file: describe(folder / file) for file in tensors},
        )
        write_manifest(folder, manifest)
        name = checkpoint_name(manifest.images_seen)
        for file in tensors:
            store.put_shard(name, folder / file)
        store.commit(name, folder / MANIFEST)
        store.prune()


def measure(name: str, run: Storage) -> list[Result]:
    """CPU and wall time of each, in an order of its own in each round; the first round warms up."""
    last = checkpoint_name(MOMENTS * EVERY)
    half_life = SamplingConfig()
    seconds: dict[str, list[tuple[float, float]]] = {}
    with closing(Models(run, last)) as opened:
        opened(SamplingConfig(ema_width=WIDTHS["a width of .20"]))  # downloads every moment

        def load(sampling: SamplingConfig) -> None:
            with closing(Models(run, last)) as models:
                models(sampling)

        for number in range(ROUNDS + 1):
            moved = {what: width + 1e-4 * number for what, width in WIDTHS.items()}  # a new one
            variants = {what: SamplingConfig(ema_width=width) for what, width in moved.items()}
            order = ["load", "first", *variants]
            random.Random(number).shuffle(order)
            for what in order:
                cpu, wall = time.process_time(), time.perf_counter()
                if what in variants:
                    opened(variants[what])
                else:
                    load(half_life if what == "load" else variants["a width of .20"])
                spent = time.process_time() - cpu, time.perf_counter() - wall
                if number:
                    seconds.setdefault(what, []).append(spent)
    cpu_of = {what: [cpu for cpu, _ in spent] for what, spent in seconds.items()}
    wall_of = {what: [wall for _, wall in spent] for what, spent in seconds.items()}
    return [
        Result(f"loading a checkpoint of {name} parameters", cpu_of["load"], "s CPU"),
        *(
            Result(f"{what} / loading the checkpoint, {name}{kind}", values, "x", at_most)
            for what in WIDTHS
            for kind, values, at_most in (
                ("", ratios(cpu_of[what], cpu_of["load"]), 1.0),
                (", wall", ratios(wall_of[what], wall_of["load"]), None),
            )
        ),
        Result(
            f"the first width, with its downloads / loading, {name}",
            ratios(cpu_of["first"], cpu_of["load"]),
            "x",
        ),
    ]


def main() -> None:
    torch.set_num_threads(1)
    results = []
    for name, channels in CHANNELS.items():
        experiment = experiment_of(channels)
        with TemporaryDirectory() as folder, TemporaryDirectory() as made:
            run = Storage(StorageConfig(uri=folder))
            save_checkpoints(CheckpointStore(run, keep=1), experiment, Path(made))
            results += measure(name, run)
    hand_over(results)


if __name__ == "__main__":
    main()
