"""What can be known of a training before it starts, checked all at once.

Everything here reads: a refused command leaves the store and MLflow as they were.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from ...trainers import disk
from ...trainers.averaging import MOMENTS, Profile, fit_or_refuse, moments_of
from ...trainers.checkpoint import Manifest, kinds
from ...trainers.checkpointing import check_not_shortened, check_same_data, check_same_run
from ...trainers.data import DataConfig, Splits
from ...trainers.data.decoding import UNREAD
from ...trainers.data.identity import DataIdentity
from ...trainers.disk import cache_folder
from ...trainers.errors import CheckpointProblem, DataProblem, Problem, UsageProblem, combine
from ..compute.gpus import check_gpus
from ..config.experiment import CHANGEABLE_ON_RESUME, Experiment
from ..config.layers import flatten
from ..datasets.endpoint import use_endpoint
from ..datasets.load import load_images
from ..evaluation.evaluate import check_groups
from ..evaluation.extractors import check_extractor, check_own_classes, choose
from ..evaluation.extractors.base import OnPhase
from ..evaluation.metrics import METRIC_OF
from ..foundation.job import in_cluster_job
from ..storage.checkpoints import CheckpointStore
from ..storage.store import Storage

FLOAT_BYTES = 4


@dataclass
class Subject:
    """One training to check; what several checks need is read once."""

    experiment: Experiment
    store: Storage
    """The run's folder."""
    local_workers: int = 0
    """Workers of it on this machine; 0 where Ray's nodes do the work."""
    dry_run: bool = False
    """Decode no image, fetch nothing, write nothing; pixels are then not compared."""
    on_phase: OnPhase = lambda _line: None
    images: DataIdentity | None = None
    """Of the training's own images, where they are known and need not be loaded for it."""
    loaded: dict[str, Splits | Problem] = field(default_factory=dict)
    """Data by their config, shared by the points of a sweep."""

    def load(self, data: DataConfig) -> Splits:
        """Return the images of a source.

        Raises:
            Problem: they cannot be used.
        """
        key = data.model_dump_json()
        if key not in self.loaded:
            self.on_phase("reading the data")
            use_endpoint(self.store.root.config)
            try:
                self.loaded[key] = (
                    data.load(UNREAD)
                    if self.dry_run
                    else load_images(data, self.store.root, self.on_phase)
                )
            except Problem as problem:
                self.loaded[key] = problem
        loaded = self.loaded[key]
        if isinstance(loaded, Problem):
            raise loaded
        return loaded

    @cached_property
    def splits(self) -> Splits | None:
        """The training's own images; None where they cannot be used, which `check_data` reports."""
        try:
            return self.load(self.experiment.data)
        except Problem:
            return None

    @cached_property
    def reference(self) -> Splits | None:
        """The training images, and those to compare with; None where one of them cannot be used."""
        other = self.experiment.evaluation.reference
        if self.splits is None or other is None:
            return self.splits
        try:
            return Splits(self.splits.train, self.load(other).real_images())
        except Problem:
            return None

    @cached_property
    def saved(self) -> Manifest | None:
        """The last checkpoint of the run that this one continues; a damaged one will be skipped."""
        checkpoints = CheckpointStore(self.store)
        name = checkpoints.latest()
        try:
            return checkpoints.read_manifest(name) if name else None
        except CheckpointProblem:
            return None

    @cached_property
    def network_bytes(self) -> tuple[int, int]:
        """Bytes of a checkpoint's tensors, and of those of its power-function averages.

        Raises:
            UsageProblem: no network can be built.
        """
        from ...trainers.network import build_plain_network

        shape = self.splits.train.image_shape if self.splits else self.experiment.data.image_shape
        classes = self.splits.train.num_classes if self.splits else 2
        network = build_plain_network(self.experiment, shape, classes)
        profiles = self.experiment.optimizer.ema_profiles
        trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
        frozen = sum(p.numel() for p in network.parameters() if not p.requires_grad)
        averages = FLOAT_BYTES * trained * len(profiles)
        return FLOAT_BYTES * (trained * len(kinds(profiles)) + frozen), averages


def check_gpu(subject: Subject) -> None:
    """Check that GPUs are there, where the training runs on this machine."""
    check_gpus(subject.experiment.scaling.gpus_per_worker, subject.local_workers)


def check_batch(subject: Subject) -> None:
    """Check that the workers can share a batch evenly."""
    from ...trainers.loop import rows_of_worker

    for workers in subject.experiment.scaling.sizes:
        rows_of_worker(subject.experiment.training, workers)


def check_data(subject: Subject) -> None:
    """Check that the training images can be read, and that every class has some."""
    try:
        subject.load(subject.experiment.data)
    except DataProblem as problem:
        if not in_cluster_job():
            raise
        fix = "a job reads images on its nodes: copy them to this path on every node, or mount it"
        raise DataProblem(problem.what, f"{problem.fix}; {fix}") from problem


def check_reference(subject: Subject) -> None:
    """Check that the real images can be read, and have the training's classes and size."""
    other = subject.experiment.evaluation.reference
    if other is None:
        return
    images = subject.load(other).real_images()
    if subject.splits is not None:
        Splits(subject.splits.train, images)


def check_features(subject: Subject) -> None:
    """Check the feature extractor's weights, or the images that it is to be trained on."""
    evaluation = subject.experiment.evaluation
    if not evaluation.uses_features:
        return
    config = choose(evaluation.features, subject.experiment.data.image_shape)
    images = None if subject.reference is None else subject.reference.reference
    check_extractor(config, images, cache_folder(), not subject.dry_run, subject.on_phase)
    if images is not None and METRIC_OF[evaluation.goal.metric].needs_own_classes:
        check_own_classes(config, images)


def check_classes(subject: Subject) -> None:
    """Check that groups and objective fit the classes."""
    if subject.splits is None:
        return
    counts = subject.splits.train.class_counts.tolist()
    check_groups(subject.experiment.evaluation, counts)
    subject.experiment.objective.build(counts)


def check_process(subject: Subject) -> None:
    """Check that the noise process can measure on the training images what it is to measure."""
    experiment = subject.experiment
    known = subject.saved is not None or experiment.pretrained is not None
    if subject.splits is not None and not subject.dry_run and not known:
        experiment.process.measured(subject.splits.train)


def check_network(subject: Subject) -> None:
    """Check that the network can be built for these images."""
    _ = subject.network_bytes


def check_cache(subject: Subject) -> None:
    """Check that decoded images and feature networks can be kept."""
    if not subject.dry_run:
        disk.check_cache()
    cache = cache_folder()
    _check_writable(cache, "the cache", "set WHIPRAY_CACHE to a folder that can be written")


def check_scratch(_subject: Subject) -> None:
    """Check that there is a folder for temporary files."""
    try:
        tempfile.gettempdir()
    except FileNotFoundError as error:
        raise UsageProblem(
            f"no folder for temporary files can be written ({error.strerror})",
            "set TMPDIR to a folder that can be written",
        ) from error


def check_store(subject: Subject) -> None:
    """Check that the runs' folder can be written; a bucket is tried when the run begins."""
    if subject.store.is_folder:
        fix = "set storage.uri (--storage) to a folder that can be written"
        _check_writable(Path(subject.store.config.uri), "the store", fix)


def check_room(subject: Subject) -> None:
    """Check that checkpoints fit on the disks that they are written to."""
    training = subject.experiment.training
    try:
        one, averages = subject.network_bytes
    except Problem:
        return  # `check_network` reports it
    written = -(-training.images // training.checkpoint_every_images)
    kept = min(subject.experiment.keep_checkpoints + 1, written)
    existing = len(CheckpointStore(subject.store).names()) if subject.store.is_folder else 0
    moments = min(MOMENTS, written)
    forms_width = subject.experiment.sampling.ema_width is not None
    local = max(one, averages * moments if forms_width else 0)
    wanted = [("TMPDIR", Path(tempfile.gettempdir()), local)]
    if subject.store.is_folder:
        folder = Path(subject.store.config.uri)
        needed = one * max(kept - existing, 1) + averages * max(moments - kept, 0)
        wanted.append(("the store", folder, needed))
    for what, folder, needed in wanted:
        free = shutil.disk_usage(_existing(folder)).free
        if free < needed:
            raise UsageProblem(
                f"{what} ({folder}) has {_size(free)} free, and the checkpoints need {_size(needed)}",
                "free some space, or choose another disk"
                + (
                    " by TMPDIR" if what == "TMPDIR" else ": storage.uri; or lower keep_checkpoints"
                ),
            )


def check_average(subject: Subject) -> None:
    """Check that the averages kept at the end of the training can form that of `sampling.ema_width`."""
    experiment, plan = subject.experiment, subject.experiment.training
    if experiment.sampling.ema_width is None:
        return
    moments = moments_of(plan.images, plan.checkpoint_every_images, plan.batch_size)
    profiles = experiment.optimizer.ema_profiles
    kept = [Profile(moment, width) for moment in moments for width in profiles]
    fit_or_refuse(kept, Profile(moments[-1], experiment.sampling.ema_width))


def check_continued(subject: Subject) -> None:
    """Check that a run that goes on is the same, on the same images, and no shorter."""
    saved = subject.saved
    if saved is None:
        return
    now = subject.experiment.model_dump(mode="json")
    check_same_run(flatten(saved.config), flatten(now), CHANGEABLE_ON_RESUME)
    training = subject.experiment.training
    check_not_shortened(saved.images_seen, training.images, training.batch_size)
    images = subject.images
    if images is None and subject.splits is not None:
        images = DataIdentity.of(subject.splits.train, not subject.dry_run)
    if images is not None:
        check_same_data(saved.data, images)


Checks = tuple[Callable[[Subject], None], ...]
CHECKS: Checks = (
    check_gpu,
    check_batch,
    check_data,
    check_reference,
    check_network,
    check_process,
    check_classes,
    check_features,
    check_cache,
    check_scratch,
    check_store,
    check_room,
    check_average,
    check_continued,
)
"""Each raises a `Problem`, in the order in which they are reported."""


OF_A_POINT: Checks = (check_batch, check_data, check_network, check_classes, check_average)
"""Of a point of a sweep, what depends on the values that it changes."""
ELSEWHERE: Checks = (check_batch, check_network, check_average)
"""Of a training on a cluster, what the machine that sends it can check."""


def find_problems(subject: Subject, checks: Checks = CHECKS) -> list[Problem]:
    """Return what every check finds."""
    problems = []
    for check in checks:
        try:
            check(subject)
        except Problem as problem:
            problems.append(problem)
    return problems


def check_training(subject: Subject, checks: Checks = CHECKS) -> None:
    """Raise what is wrong with a training, all of it at once.

    Raises:
        Problem: one, or several combined.
    """
    if problems := find_problems(subject, checks):
        raise combine(problems)


def _check_writable(folder: Path, what: str, fix: str) -> None:
    parent = _existing(folder)
    if not parent.is_dir():
        raise UsageProblem(f"{what} {folder} cannot be made: {parent} is a file", fix)
    if not os.access(parent, os.W_OK | os.X_OK):
        raise UsageProblem(f"{what} {folder} cannot be written", fix)


def _existing(path: Path) -> Path:
    """Return the path, or the nearest above it that exists."""
    return next(each for each in (path, *path.absolute().parents) if each.exists())


def _size(number: int) -> str:
    return f"{number / 2**30:.1f} GiB" if number >= 2**30 else f"{number / 2**20:.1f} MiB"
