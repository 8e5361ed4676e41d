"""A small classifier trained on the reference images, and its features.

Published Inception weights are made for photographs of 299 x 299 pixels and cannot always be had.
This network fits the data set, needs only its reference images, and is named in every result.
Values are comparable only with those made by the same network (the same hash).
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ....trainers.classification.small_resnet import FEATURES, SmallResNet, train_small_resnet
from ....trainers.data.packed import PackedImages
from ....trainers.disk import save_tensors, writing
from ....trainers.errors import CheckpointProblem, DataProblem
from ...storage import layout
from .base import ExtractorInfo, OnPhase
from .config import ClassifierConfig
from .network import NetworkExtractor

if TYPE_CHECKING:
    from ...storage.store import Storage

NAME = "whipray-resnet-64"
VERSION = 2
"""Raise it when the network or its training changes: cached networks are then trained again."""

log = logging.getLogger(__name__)

CPU = torch.device("cpu")
SETTLE_S = 0.5
"""Shortest wait for the uploads of others: see `_elect_shared_network`."""


@dataclass(frozen=True)
class Origin:
    """How a network was made: `info.json`, beside its weights."""

    name: str
    hash: str
    """16 hex digits over the weights."""
    trained_on: str
    """Fingerprint of the reference images."""
    images_trained: int
    images_held_out: int
    held_out_accuracy: float
    """On the fifth of the reference images that it was not trained on, a mean over classes, in [0, 1]."""
    shape: tuple[int, int, int]
    """(channels, height, width) of the images that it takes."""
    class_names: tuple[str, ...]

    def info(self) -> ExtractorInfo:
        """Return what every extractor says about itself."""
        return ExtractorInfo(
            name=self.name,
            hash=self.hash,
            dimensions=FEATURES,
            preprocessing="values 0 to 255 scaled to [-1, 1]; size and colours as they are",
            class_names=self.class_names,
            facts={
                "trained_on": self.trained_on,
                "images_trained": self.images_trained,
                "images_held_out": self.images_held_out,
                "held_out_accuracy": self.held_out_accuracy,
                "shape": " x ".join(map(str, self.shape)),
            },
        )


class Classifier(NetworkExtractor):
    """A trained network and its origin; made by `fit_or_load`."""

    _network: SmallResNet

    def __init__(self, network: SmallResNet, origin: Origin, device: torch.device) -> None:
        super().__init__(network, origin.info(), len(origin.class_names), device, origin.shape)
        self._origin = origin

    @classmethod
    def fit(
        cls,
        reference: PackedImages,
        config: ClassifierConfig,
        device: torch.device = CPU,
        on_phase: OnPhase = lambda _line: None,
    ) -> Classifier:
        """Train on four fifths of every class, and compute the accuracy on the rest.

        The same reference, config, device and number of threads give the same bits; the global
        random state is left as it was.

        Raises:
            DataProblem: a class with fewer than two reference images, or images under 8 x 8.
        """
        check_reference(reference)
        network, trained, held_out = train_small_resnet(reference, config, device, on_phase)
        origin = Origin(
            name=NAME,
            hash=_hash(network.state_dict()),
            trained_on=reference.fingerprint(),
            images_trained=len(trained),
            images_held_out=len(held_out),
            held_out_accuracy=0.0,
            shape=reference.image_shape,
            class_names=tuple(reference.class_names),
        )
        predicted = (
            cls(network, origin, device).extract(reference.images[held_out]).logits.argmax(1)
        )
        labels = reference.labels[held_out]
        of_class = np.bincount(labels, predicted == labels) / np.bincount(labels)
        accuracy = float(of_class.mean())
        return cls(network, replace(origin, held_out_accuracy=accuracy), device)

    @classmethod
    def fit_or_load(
        cls,
        reference: PackedImages,
        cache: Path,
        shared: Storage | None = None,
        config: ClassifierConfig | None = None,
        device: torch.device = CPU,
        on_phase: OnPhase = lambda _line: None,
    ) -> Classifier:
        """Return the network for this reference and config: the store's, the cache's, or trained now.

        All who share the cache folder or the store get the same network, even if several train it at
        once. Networks of two machines may differ in the last bits and so in the hash: the one in the
        store is used, and a cache only saves fetching it.

        Args:
            shared: the network is kept in it below `extractors/`.

        Raises:
            DataProblem: as `fit`.
            CheckpointProblem: the store's network is damaged.
            DiskProblem: the cache cannot be written.
            StorageProblem: the store fails.
        """
        config = config or ClassifierConfig()
        key = _key(reference, config)
        folder = cache / f"features-{key}"

        def own() -> Classifier:
            if (kept := cls._kept(folder, device)) is not None:
                return kept
            cls.fit(reference, config, device, on_phase).save(folder)
            return cls.load(folder, device)

        if shared is None:
            return own()
        networks = shared.child(layout.extractor_folder(key))
        chosen = _first(networks) or _elect_shared_network(networks, own().info.hash, folder)
        fetched = folder.with_name(f"{folder.name}-{chosen}")
        for place in (folder, fetched):
            if (kept := cls._kept(place, device)) is not None and kept.info.hash == chosen:
                return kept
        return cls._fetched(networks, chosen, fetched, device)

    @classmethod
    def _fetched(
        cls, networks: Storage, chosen: str, folder: Path, device: torch.device
    ) -> Classifier:
        """Return the network `chosen` of the store, which is kept in `folder` from now on."""
        with _atomic_folder(folder) as partial:
            for name in (layout.EXTRACTOR_WEIGHTS, layout.EXTRACTOR_INFO):
                networks.get_file(f"{chosen}/{name}", partial / name)
            try:
                cls.load(partial)
            except CheckpointProblem as problem:
                where = networks.uri_of(chosen)
                raise _damaged(where, "its files do not belong together") from problem
        return cls.load(folder, device)

    @classmethod
    def _kept(cls, folder: Path, device: torch.device) -> Classifier | None:
        """Return the network in a folder of the cache; None where there is none or it is damaged."""
        if not folder.exists():
            return None
        try:
            return cls.load(folder, device)
        except CheckpointProblem as problem:
            log.warning("%s; it is deleted, fetched or trained again", problem.what)
            with writing(folder):
                shutil.rmtree(folder)
            return None

    def save(self, folder: Path) -> None:
        """Write `network.safetensors` and `info.json`; an existing folder is kept."""
        with _atomic_folder(folder) as partial:
            weights = {k: v.cpu().contiguous() for k, v in self._network.state_dict().items()}
            save_tensors(weights, partial / layout.EXTRACTOR_WEIGHTS)
            (partial / layout.EXTRACTOR_INFO).write_text(json.dumps(asdict(self._origin), indent=1))

    @classmethod
    def load(cls, folder: Path, device: torch.device = CPU) -> Classifier:
        """Read what `save` wrote.

        Raises:
            CheckpointProblem: files that are missing, damaged or not those of `info.json`.
        """
        try:
            content: dict[str, Any] = json.loads((folder / layout.EXTRACTOR_INFO).read_text())
            content["shape"] = tuple(content["shape"])
            content["class_names"] = tuple(content["class_names"])
            origin = Origin(**content)
            weights = load_file(folder / layout.EXTRACTOR_WEIGHTS)
            with torch.random.fork_rng(devices=[]):
                network = SmallResNet(origin.shape, len(origin.class_names))
            network.load_state_dict(weights)
            intact = _hash(weights) == origin.hash
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            raise _damaged(folder, type(error).__name__) from error
        if not intact:
            raise _damaged(folder, "its weights do not match info.json")
        return cls(network, origin, device)

    def _forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self._network.features(images)
        return features, self._network.head(features)


def _key(reference: PackedImages, config: ClassifierConfig) -> str:
    """Return 16 hex digits over everything that a network is made from."""
    made_from = [NAME, VERSION, reference.fingerprint(), config.model_dump(exclude={"extractor"})]
    return hashlib.sha256(json.dumps(made_from).encode()).hexdigest()[:16]


def _first(networks: Storage) -> str | None:
    """Return the hash of the network that all use; None where there is none yet."""
    whole = [
        name.removesuffix(f"/{layout.EXTRACTOR_INFO}")
        for name in networks.list()
        if name.endswith(f"/{layout.EXTRACTOR_INFO}")
    ]
    return min(whole, default=None)


def _elect_shared_network(networks: Storage, own: str, folder: Path) -> str:
    """Upload a network to the store, and return the hash of the one that all use.

    A store has no conditional write. So each network has its own folder, in which `info.json` is
    written last, and the one with the smallest hash is used. Whoever uploads waits for several times
    as long as the upload took before listing: all who listed an empty store at the same time have
    uploaded by then, and choose from the same list. Later ones list a network and upload none.
    """
    if (chosen := _first(networks)) is not None:  # while this one was trained
        return chosen
    began = time.monotonic()
    for name in (layout.EXTRACTOR_WEIGHTS, layout.EXTRACTOR_INFO):
        networks.put_file(folder / name, f"{own}/{name}")
    time.sleep(max(SETTLE_S, 4 * (time.monotonic() - began)))
    return _first(networks) or own


@contextmanager
def _atomic_folder(folder: Path) -> Iterator[Path]:
    """Yield a folder to fill, which becomes `folder` at once, or is deleted if that exists by then."""
    with writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = folder.with_name(f".{folder.name}-{uuid4().hex}")
        partial.mkdir()
    try:
        with writing(folder):
            yield partial
        try:
            os.rename(partial, folder)  # never over another one
        except OSError:
            if not folder.exists():
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _hash(weights: Mapping[str, Tensor]) -> str:
    """Return 16 hex digits over names, shapes and values."""
    digest = hashlib.sha256(NAME.encode())
    for name, tensor in sorted(weights.items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def check_reference(reference: PackedImages) -> None:
    """Check that a network can be trained on the reference images.

    Raises:
        DataProblem: a class with fewer than two of them, or images under 8 x 8.
    """
    counts = reference.class_counts
    if counts.min() < 2:
        c = int(counts.argmin())
        raise DataProblem(
            f"the reference has {counts[c]} images of class {c} ({reference.class_names[c]})",
            "give at least 2 real images of every class; 50 and more make the metrics useful",
        )
    if min(reference.images.shape[2:]) < 8:
        raise DataProblem(
            f"reference images are {reference.images.shape[2]} x {reference.images.shape[3]}",
            "the feature network needs at least 8 x 8 pixels; scale the images up",
        )


def _damaged(folder: Path | str, why: str) -> CheckpointProblem:
    return CheckpointProblem(
        f"{folder}: not a whole feature network ({why})", "delete the folder; it is trained again"
    )
