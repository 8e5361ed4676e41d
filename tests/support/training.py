"""Tiny trainings on scikit-learn's digits, and what is left of them."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch import Tensor

from whipray.platform.compute.peers import Peers
from whipray.platform.config.experiment import Experiment
from whipray.platform.config.layers import Layer, resolve
from whipray.platform.foundation.versions import local_versions
from whipray.platform.runs.local_training import TrainingResult, train_in_process_group
from whipray.platform.storage.checkpoints import CheckpointStore
from whipray.platform.storage.config import StorageConfig
from whipray.platform.storage.store import Storage
from whipray.trainers.checkpoint import (
    Manifest,
    describe,
    kinds,
    parse_manifest,
    read_tensors,
    write_manifest,
)
from whipray.trainers.checkpoint_names import checkpoint_name
from whipray.trainers.data import Splits
from whipray.trainers.data.batches import to_float
from whipray.trainers.data.packed import PackedImages
from whipray.trainers.devices import join_workers
from whipray.trainers.global_batches import GlobalBatches
from whipray.trainers.hooks import Progress
from whipray.trainers.loop import Training
from whipray.trainers.objectives import Loss
from whipray.trainers.trainer_config import TrainerConfig

BATCH = 32
TINY = {
    "name": "tiny",
    "data": {"source": "digits"},
    # 9 and 18 channels: sizes that neither 2 nor 4 workers divide
    "model": {
        "base_channels": 9,
        "channel_mult": [1, 2],
        "blocks_per_level": 1,
        "attention_resolutions": [4],
        "norm_groups": 3,
        "dropout": 0.0,
    },
    # fast enough that every step shows in the loss, the average well apart from the weights
    "optimizer": {"lr": 5e-3, "warmup_images": 4 * BATCH, "ema_half_life_images": 2 * BATCH},
    "training": {
        "images": 8 * BATCH,
        "batch_size": BATCH,
        "report_every_images": BATCH,
        "checkpoint_every_images": 4 * BATCH,
        "validation_images": 37,
    },
    "keep_checkpoints": 10,
}


def tiny(**changes: Any) -> Experiment:
    """Eight steps with a report each and a checkpoint at half time; `a__b=1` changes a.b."""
    values = {key.replace("__", "."): value for key, value in changes.items()}
    return resolve(Experiment, [Layer("tiny", TINY), Layer("test", values)]).value


def config_of(**changes: Any) -> TrainerConfig:
    """The part of `tiny` that the trainers know."""
    values = {key.replace("__", "."): value for key, value in changes.items()}
    base = {key: value for key, value in TINY.items() if key in TrainerConfig.model_fields}
    return resolve(TrainerConfig, [Layer("tiny", base), Layer("test", values)]).value


def digits_alone() -> Splits:
    """The digits, for trainings in this process alone, on one thread."""
    join_workers(torch.device("cpu"))
    torch.set_num_threads(1)
    return config_of().data.load(Path())


def at(folder: Path) -> Storage:
    """The store of a run in a folder."""
    return Storage(StorageConfig(uri=str(folder)))


@dataclass(frozen=True)
class Done:
    """One worker's view of a training."""

    trained: TrainingResult
    reports: list[Progress]

    def losses(self) -> list[float]:
        return [report.metrics["loss/total"] for report in self.reports]


def train(
    experiment: Experiment, folder: Path, stop_at: int | None = None, peers: Peers | None = None
) -> Done:
    """Train in the current process group; worker 0 asks to stop at the report of `stop_at`."""
    reports: list[Progress] = []

    def on_report(progress: Progress) -> bool:
        reports.append(progress)
        return progress.images_seen == stop_at and dist.get_rank() == 0

    return Done(
        train_in_process_group(experiment, at(folder), on_report, peers=peers),
        reports,
    )


def copy_half_time(run: Path, to: Path) -> Path:
    """A run that was interrupted after its checkpoint at half time."""
    name = checkpoint_name(4 * BATCH)
    shutil.copytree(run / "checkpoints" / name, to / "checkpoints" / name)
    return to


def state(run: Path, images_seen: int = 8 * BATCH) -> tuple[Manifest, dict[str, dict[str, Tensor]]]:
    """A checkpoint: kind -> parameter -> tensor."""
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        manifest = CheckpointStore(at(run)).fetch(checkpoint_name(images_seen), folder)
        return manifest, {
            kind: read_tensors(folder, manifest, kind) for kind in kinds(manifest.profiles)
        }


def distance(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """L2 norm of the difference over that of `a`, over all parameters."""
    assert a.keys() == b.keys()
    gap = sum(float((a[name] - b[name]).double().square().sum()) for name in a)
    whole = sum(float(a[name].double().square().sum()) for name in a)
    return float((gap / whole) ** 0.5)


def rewrite(run: Path, kind: str, factor: float) -> None:
    """Multiply one kind of tensor in the half-time checkpoint, keeping the hashes in step."""
    from safetensors.torch import load_file, save_file

    folder = run / "checkpoints" / checkpoint_name(4 * BATCH)
    manifest = parse_manifest((folder / "manifest.json").read_text(), "")
    for file in manifest.files:
        tensors = load_file(folder / file)
        changed = {
            name: tensor * factor if name.startswith(f"{kind}/") else tensor
            for name, tensor in tensors.items()
        }
        save_file({name: torch.clone(tensor) for name, tensor in changed.items()}, folder / file)
    files = {file: describe(folder / file) for file in manifest.files}
    write_manifest(folder, manifest.model_copy(update={"files": files}))


def train_with_nan(experiment: Experiment, folder: Path, rank: int, after: int) -> Done:
    """Train while one worker's images turn into NaN, `after` so many images."""
    loss = Training._loss

    def spoilt(self: Training, images_seen: int, piece: int) -> Loss:
        bad = self.rank == rank and images_seen >= after and self.engine.network.training
        factor = torch.nan if bad else 1.0
        with patch(
            "whipray.trainers.global_batches.to_float", lambda *args: to_float(*args) * factor
        ):
            return loss(self, images_seen, piece)

    with patch.object(Training, "_loss", spoilt):
        return train(experiment, folder)


def train_beside_another_image(experiment: Experiment, folder: Path) -> Done:
    """Train while the last worker's machine has another PyTorch."""
    rank = dist.get_rank()
    mine = local_versions() if rank == 0 else {**local_versions(), "torch": "1.0", "host": "node-2"}
    with patch("whipray.platform.runs.local_training.local_versions", lambda: mine):
        return train(experiment, folder)


def whole_batches(experiment: Experiment, piece: int) -> tuple[list[tuple[Tensor, Tensor]], int]:
    """Images and labels of two global batches as a worker has them, and the most images that it read at once."""
    rank, world = dist.get_rank(), dist.get_world_size()
    train = experiment.data.load(Path()).train
    gather, read = PackedImages.gather, []

    def noted(self: PackedImages, indices: Any, out: Any = None) -> Any:
        read.append(len(indices))
        return gather(self, indices, out)

    wholes = []
    with patch.object(PackedImages, "gather", noted):
        batches = GlobalBatches(experiment, train, torch.device("cpu"), rank, world)
        for step in range(2):
            for first in range(rank * BATCH // world, (rank + 1) * BATCH // world, piece):
                batch = batches.rows(step * BATCH, first, piece)
                whole = batch.whole()
                assert torch.equal(whole.images[first : first + piece], batch.images)
            wholes.append((whole.images, whole.labels))
        batches.close()
    return wholes, max(read)
