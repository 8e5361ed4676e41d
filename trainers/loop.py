"""The training loop, one page, read from top to bottom.

Progress is counted in images seen. Tracking, checkpoint stores and early stopping are hooks.
"""

from __future__ import annotations

import math
import time
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import pad

from .checkpoint import File, Manifest, checkpoint_name, describe, read_tensors
from .data import Splits
from .data.batches import gather, to_float
from .data.order import IndexOrder
from .diffusion import build_schedule
from .engine import Engine
from .errors import CheckpointProblem, DivergenceProblem, Problem, UsageProblem
from .export import Pretrained
from .network import build_network
from .objectives import Batch, Loss
from .randomness import BatchRandom, derive_seed
from .scratch import Scratch
from .trainer_config import LoopConfig, TrainerConfig


@dataclass(frozen=True)
class Progress:
    """What a report says."""

    images_seen: int
    total_images: int
    metrics: dict[str, float]
    """Means since the last report: `loss/...`, `lr`, `gradient_norm`, `images_per_second`; before a
    checkpoint also `validation/denoising`."""


class Hooks(Protocol):
    """What a training tells its surroundings. Every worker calls every hook, in the same order."""

    def report(self, progress: Progress) -> bool:
        """Take note; True (worker 0's answer counts) asks the training to save and stop here."""
        ...

    def checkpoint_now(self) -> bool:
        """Asked after each report: whether a checkpoint is wanted now, here soon to be no more."""
        ...

    def checkpoint(
        self, name: str, scratch: TemporaryDirectory[str], file: str, manifest: Manifest
    ) -> None:
        """Keep this worker's `file` in `scratch`, and after all workers' files the manifest.

        The folder is the hook's to remove. It may be kept while the training goes on.
        """
        ...

    def wait_for_uploads(self) -> None:
        """Wait until what was given to `checkpoint` is kept."""
        ...


@dataclass(frozen=True)
class ResumePoint:
    """A verified checkpoint in a local folder."""

    folder: Path
    manifest: Manifest


class Training:
    """One worker's part of one training."""

    def __init__(
        self,
        config: TrainerConfig,
        data: Splits,
        device: torch.device,
        resume: ResumePoint | None,
        pretrained: Pretrained | None = None,
    ) -> None:
        """Build everything, from the start or from a checkpoint.

        Args:
            pretrained: the model that `config.pretrained` names.

        Raises:
            UsageProblem: a batch that the workers cannot share evenly; as `build_network`.
            CheckpointProblem: a checkpoint of another architecture.
            DivergenceProblem: a checkpoint whose next loss this training does not reproduce.
        """
        self.config, self.data, self.device = config, data, device
        self.world, self.rank = dist.get_world_size(), dist.get_rank()
        self.rows, self.micro = _shares(config.training, self.world)
        self.schedule = build_schedule(config.diffusion, device)
        self.objective = config.objective.build(data.train.class_counts.tolist())
        self.order = IndexOrder(
            data.train.labels, data.train.num_classes, config.data.class_sampling, config.seed
        )
        channels, height, width = data.train.images.shape[1:]
        self.image_shape = (channels, height, width)
        torch.manual_seed(derive_seed(config.seed, "weights"))
        self.pretrained_hash = pretrained.hash if pretrained else None
        self.engine = Engine(
            build_network(config, self.image_shape, data.train.class_names, pretrained),
            config.engine,
            config.optimizer,
            micro_batch=self.micro,
            accumulation=self.rows // self.micro,
            device=device,
            image_shape=self.image_shape,
            weights=read_tensors(resume.folder, resume.manifest, "weights") if resume else None,
        )
        self.images_seen = 0
        self._whole: tuple[int, Batch] | None = None
        if resume:
            try:
                self._continue(resume)
            except Problem:
                self.engine.close()
                raise

    def run(self, hooks: Hooks, experiment_config: dict[str, Any]) -> Progress:
        """Train to the end, or until a report is answered with True.

        Args:
            experiment_config: the whole experiment, kept in every checkpoint.

        Raises:
            DivergenceProblem: the loss is not finite; what was saved before stays.
        """
        plan, optimizer = self.config.training, self.config.optimizer
        batch = plan.batch_size
        total = math.ceil(plan.images / batch) * batch
        sums: dict[str, Tensor] = {}
        steps, since = 0, time.perf_counter()
        progress = Progress(self.images_seen, total, {})
        while self.images_seen < total:
            # one step: forward, backward, update
            for piece in range(self.rows // self.micro):
                loss = self._loss(self.images_seen, piece)
                self.engine.backward(loss.total)
                after = self.images_seen + batch
                self.engine.step(optimizer.lr_at(after), optimizer.ema_decay_at(after, batch))
                values = {"total": loss.total.detach(), **loss.terms, **loss.metrics}
                for name, value in values.items():
                    sums[name] = sums.get(name, torch.zeros_like(value)) + value
            self.images_seen += batch
            steps += 1

            # once in a while: report, and sometimes save
            done = self.images_seen >= total
            save = done or _passed(self.images_seen, plan.checkpoint_every_images, batch)
            if not (save or _passed(self.images_seen, plan.report_every_images, batch)):
                continue
            means = self._means(sums, steps * (self.rows // self.micro))
            metrics = {f"loss/{name}": value for name, value in means.items()}
            metrics["lr"] = optimizer.lr_at(self.images_seen)
            metrics["gradient_norm"] = self.engine.gradient_norm()
            metrics["images_per_second"] = steps * batch / (time.perf_counter() - since)
            if save and plan.validation_images:
                metrics["validation/denoising"] = self._validation_loss()
            self.objective.check(means)
            self._check_finite(metrics)
            # Told before it is saved: a run that is killed in between and goes on from the last
            # checkpoint tells it again, while the other order could lose it for good.
            progress = Progress(self.images_seen, total, metrics)
            stop = self._agree(hooks.report(progress))
            urgent = hooks.checkpoint_now()
            if save or stop or urgent:
                self._save(hooks, experiment_config)
            if urgent:
                hooks.wait_for_uploads()
            if stop:
                break
            sums, steps, since = {}, 0, time.perf_counter()
        hooks.wait_for_uploads()
        return progress

    # -- the pieces ---------------------------------------------------------------------------------

    def _loss(self, images_seen: int, piece: int, portable: bool = False) -> Loss:
        """The objective on one piece of this worker's rows of the global batch.

        Args:
            portable: sample noise that is the same on every device.
        """
        step = images_seen // self.config.training.batch_size
        first = self.rank * self.rows + piece * self.micro  # row of the global batch
        batch = self._batch(images_seen, first, self.micro)
        rng = BatchRandom(self.config.seed, step, first, self.micro, self.device, portable)
        torch.manual_seed(derive_seed(self.config.seed, "dropout", step, first))
        return self.objective(self.engine.predict, batch, self.schedule, rng, images_seen)

    def _batch(self, images_seen: int, first: int, rows: int) -> Batch:
        """Some rows of the global batch, as any worker would have them."""
        whole = self.config.training.batch_size
        rng = BatchRandom(self.config.seed, images_seen // whole, first, rows, self.device)
        indices = self.order.indices(images_seen + first, rows)
        flip = None
        if self.config.data.flip:
            flip = (rng.uniform("flip")[:, 0] < 0.5).to(self.device, non_blocking=True)
        images = to_float(gather(self.data.train, indices, self.device), flip)
        images, numbers = self.config.augmentation(images, rng)
        return Batch(
            images=images,
            labels=torch.from_numpy(self.data.train.labels[indices]).to(
                self.device, non_blocking=True
            ),
            extra={} if numbers is None else {"augmentation": numbers},
            load_whole=None if rows == whole else partial(self._whole_batch, images_seen),
        )

    def _whole_batch(self, images_seen: int) -> Batch:
        """The global batch, made once for all pieces of a step."""
        if self._whole is None or self._whole[0] != images_seen:
            whole = self._batch(images_seen, 0, self.config.training.batch_size)
            self._whole = (images_seen, whole)
        return self._whole[1]

    def _next_loss(self) -> float:
        """The objective on the next global batch, dropout off: the same for any world size.

        Also on any device: a run that went on from a CPU to a GPU would not reproduce it otherwise.
        """
        with self.engine.evaluating():
            pieces = [
                self._loss(self.images_seen, piece, portable=True).total
                for piece in range(self.rows // self.micro)
            ]
            return float(self.engine.mean(torch.stack(pieces).mean()))

    def _validation_loss(self) -> float:
        """Denoising loss on balanced reference images, at fixed t and noise, dropout off.

        The noise is the same on every device, so that these losses can be compared.
        """
        reference = self.data.reference
        count = min(self.config.training.validation_images, len(reference.labels))
        share = math.ceil(count / self.world)  # the same for all, as ZeRO 3 gathers in step
        picked = torch.linspace(0, len(reference.labels) - 1, count).long()
        picked_and_filled = pad(picked, (0, share * self.world - count)).numpy()
        losses = []
        with self.engine.evaluating():
            for first in range(0, share, self.micro):
                rows = min(self.micro, share - first)
                first_row = self.rank * share + first
                seed = derive_seed(self.config.seed, "validation")
                rng = BatchRandom(seed, 0, first_row, rows, self.device, portable=True)
                indices = picked_and_filled[first_row : first_row + rows]
                x_0 = to_float(gather(reference, indices, self.device), None)
                t = rng.integers("t", self.schedule.timesteps).to(self.device)
                eps = rng.normal("eps", self.image_shape)
                labels = torch.from_numpy(reference.labels[indices]).to(self.device)
                output = self.engine.predict(self.schedule.q_sample(x_0, t, eps), t, labels)
                squares = (output - self.schedule.target(x_0, t, eps)).square().flatten(1).mean(1)
                losses.append(squares[: max(0, count - first_row)].sum())
        return float(self.engine.mean(torch.stack(losses).sum())) * self.world / count

    def _save(self, hooks: Hooks, experiment_config: dict[str, Any]) -> None:
        """A checkpoint of where we are."""
        name = checkpoint_name(self.images_seen)
        next_loss = self._next_loss()
        self._check_finite({"the next loss": next_loss})
        with ExitStack() as until_handed_over:
            scratch = Scratch()
            until_handed_over.callback(scratch.cleanup)
            folder = Path(scratch.name)
            file, tensors, norms = self.engine.save_shard(folder)
            described: list[tuple[str, File] | None] = [None] * self.world
            dist.all_gather_object(described, (file, describe(folder / file)))
            manifest = Manifest(
                images_seen=self.images_seen,
                optimizer_steps=self.images_seen // self.config.training.batch_size,
                config=experiment_config,
                image_shape=self.image_shape,
                class_names=list(self.data.train.class_names),
                class_counts=self.data.train.class_counts.tolist(),
                pretrained=self.pretrained_hash,
                next_loss=next_loss,
                state_norms=norms,
                tensors=tensors,
                files=dict(entry for entry in described if entry),
            )
            until_handed_over.pop_all()
        hooks.checkpoint(name, scratch, file, manifest)

    def _continue(self, resume: ResumePoint) -> None:
        """Take up the optimizer's state, and make sure that the losses go on from there."""
        manifest = resume.manifest
        self.engine.restore_optimizer(resume.folder, manifest)
        self.images_seen = manifest.images_seen
        found, saved = self._next_loss(), manifest.next_loss
        precisions = {self.config.engine.precision, manifest.config["engine"]["precision"]}
        tolerance = 1e-3 if precisions == {"fp32"} else 2e-2
        if not math.isclose(found, saved, rel_tol=tolerance):
            raise DivergenceProblem(
                f"the resumed run does not continue: next loss {found:.6g}, saved {saved:.6g}",
                "resume with the data, seed and objective of the checkpoint, or start a new run",
            )

    def _check_finite(self, metrics: dict[str, float]) -> None:
        for name, value in metrics.items():
            if not math.isfinite(value):
                raise DivergenceProblem(
                    f"{name} is {value} after {self.images_seen:,} images",
                    "lower optimizer.lr or the objective's weight, or lengthen the warm-up; "
                    "checkpoints from before are untouched",
                )

    def _means(self, sums: dict[str, Tensor], count: int) -> dict[str, float]:
        values = self.engine.mean(torch.stack([s.float() for s in sums.values()]) / count).tolist()
        return dict(zip(sums, values, strict=True))

    def _agree(self, stop: bool) -> bool:
        """Worker 0's answer, for all."""
        answer = torch.tensor([float(stop)], device=self.device)
        if self.world > 1:
            dist.broadcast(answer, src=0)
        return bool(answer.item())


def check_same_run(saved: dict[str, Any], now: dict[str, Any], free: tuple[str, ...]) -> None:
    """A resumed run is the same experiment, but for the parts named in `free`.

    Args:
        saved: the flattened config of the checkpoint, dotted key -> value.
        now: the flattened config that wants to continue it.
        free: prefixes of keys that may differ (where and how fast it runs).

    Raises:
        CheckpointProblem: naming the first key that differs.
    """
    # What kind of thing it is comes first: with another objective, all of its keys differ.
    for key in sorted(
        set(saved) | set(now), key=lambda k: (not k.endswith(DISCRIMINATOR_SUFFIXES), k)
    ):
        if saved.get(key) != now.get(key) and not key.startswith(free):
            raise CheckpointProblem(
                f"the run to resume has {key}={saved.get(key)}, not {now.get(key)}",
                "keep its value, or start a new run under another name",
            )


DISCRIMINATOR_SUFFIXES = (".name", ".source", ".kind")


def _shares(plan: LoopConfig, world: int) -> tuple[int, int]:
    """Rows of a worker and of a micro-batch."""
    if plan.batch_size % world:
        raise UsageProblem(
            f"training.batch_size {plan.batch_size} cannot be shared by {world} workers",
            "choose a multiple of scaling.workers",
        )
    rows = plan.batch_size // world
    micro = min(plan.micro_batch or rows, rows)
    if rows % micro:
        raise UsageProblem(
            f"training.micro_batch {micro} does not divide a worker's {rows} rows",
            "choose a divisor",
        )
    return rows, micro


def _passed(images_seen: int, every: int, batch: int) -> bool:
    """Did the last batch pass a multiple of `every`?"""
    return images_seen // every > (images_seen - batch) // every
