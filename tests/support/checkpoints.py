"""Small real checkpoints for tests of what carries and keeps them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from whipray.platform.storage.checkpoints import CheckpointStore, Fetched
from whipray.trainers.checkpoint import Manifest, describe, verify, write_manifest
from whipray.trainers.checkpoint_names import MANIFEST, checkpoint_name
from whipray.trainers.processes import VPConfig


def make_checkpoint(
    folder: Path, images_seen: int, numbers: int = 64, config: dict[str, Any] | None = None
) -> Path:
    """A checkpoint of two shards of `numbers` float32 each, filled by `images_seen`."""
    folder = folder / checkpoint_name(images_seen)
    folder.mkdir(parents=True)
    tensors = {}
    for shard in range(2):
        name = f"shard-{shard}.safetensors"
        tensor = torch.full((numbers,), float(images_seen + shard))
        save_file({f"weights/layer{shard}": tensor}, folder / name)
        tensors[f"weights/layer{shard}"] = name
    manifest = Manifest(
        images_seen=images_seen,
        optimizer_steps=images_seen // 8,
        config=config or {"seed": 0},
        process=VPConfig(),
        image_shape=(1, 8, 8),
        class_names=["many", "few"],
        class_counts=[5, 1],
        train_fingerprint="0123456789abcdef",
        next_loss=1.0,
        state_norms={},
        tensors=tensors,
        files={name: describe(folder / name) for name in tensors.values()},
    )
    write_manifest(folder, manifest)
    return folder


def save(store: CheckpointStore, folder: Path) -> str:
    """What two ranks do with a checkpoint on their disk; its name."""
    for shard in sorted(folder.glob("*.safetensors")):
        store.put_shard(folder.name, shard)
    store.commit(folder.name, folder / MANIFEST)
    return folder.name


def fetch_latest_usable(store: CheckpointStore, folder: Path) -> Fetched | None:
    """What a worker that is alone does when a run begins."""
    return store.latest_usable(store.names(), lambda name: store.fetch(name, folder))


def save_averages(folder: Path, values: dict[float, torch.Tensor]) -> None:
    """Add power-function averages of `layer0` to a checkpoint: width -> its tensor."""
    name = "averages-0.safetensors"
    tensors = {f"ema_{width:g}/layer0": tensor for width, tensor in values.items()}
    save_file(tensors, folder / name)
    manifest = verify(folder)
    changes = {
        "tensors": {**manifest.tensors, **dict.fromkeys(tensors, name)},
        "files": {**manifest.files, name: describe(folder / name)},
    }
    write_manifest(folder, manifest.model_copy(update=changes))
