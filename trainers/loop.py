"""The training loop: forward, backward, update; now and then a report and a checkpoint.

Progress is counted in images seen. Tracking, checkpoint stores and early stopping are hooks.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .cadence import Cadence
from .checkpoint import read_tensors
from .checkpointing import ResumePoint, check_continues, save_checkpoint
from .data import PackedImages, Splits
from .engine import Engine
from .errors import DivergenceProblem, UsageProblem
from .export import Pretrained
from .global_batches import GlobalBatches, part_of_many
from .hooks import Hooks, Progress
from .network import build_network
from .objectives import Loss
from .previews import Previews
from .processes import ProcessConfig
from .randomness import derive_seed
from .trainer_config import LoopConfig, TrainerConfig
from .validation import validation_loss


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
        """Build everything, anew or from a checkpoint.

        Args:
            pretrained: the model that `config.pretrained` names.

        Raises:
            UsageProblem: a batch that the workers cannot share evenly; as `build_network`.
            CheckpointProblem: a checkpoint of another architecture.
            DivergenceProblem: a checkpoint whose next loss this training does not reproduce.
        """
        self.config, self.data, self.device = config, data, device
        self.world, self.rank = dist.get_world_size(), dist.get_rank()
        self.rows, self.micro = rows_of_worker(config.training, self.world)
        self.process_config = process_of(config, data.train, resume, pretrained)
        self.process = self.process_config.build(device)
        train = part_of_many(data.train, config.training, config.seed)
        self.objective = config.objective.build(train.class_counts.tolist())
        self.batches = GlobalBatches(config, train, device, self.rank, self.world)
        self.previews = Previews(config, data.train, self.process_config)
        self.pretrained_hash = pretrained.hash if pretrained else None
        image_shape = data.train.image_shape
        torch.manual_seed(derive_seed(config.seed, "weights"))
        self.engine = Engine(
            build_network(config, image_shape, data.train.class_names, pretrained),
            config.engine,
            config.optimizer,
            micro_batch=self.micro,
            accumulation=self.rows // self.micro,
            device=device,
            image_shape=image_shape,
            weights=read_tensors(resume.folder, resume.manifest, "weights") if resume else None,
        )
        self.images_seen = 0
        if resume:
            try:
                self._continue(resume)
            except BaseException:
                self.close()
                raise

    def run(self, hooks: Hooks, experiment_config: dict[str, Any]) -> Progress:
        """Train to the end, or until a report is answered with True.

        Args:
            experiment_config: the whole experiment, kept in every checkpoint.

        Raises:
            DivergenceProblem: the loss is not finite; checkpoints from before stay.
        """
        plan, optimizer = self.config.training, self.config.optimizer
        batch = plan.batch_size
        cadence = Cadence(plan, self._agree)
        total = math.ceil(plan.images / batch) * batch
        pieces = self.rows // self.micro
        sums: dict[str, Tensor] = {}
        steps, since = 0, time.perf_counter()
        progress = Progress(self.images_seen, total, {})
        while self.images_seen < total:
            self._step(sums)
            steps += 1

            # now and then: show images, report, and sometimes save
            if self.previews.is_due(self.images_seen, batch, total):
                self.previews.show(
                    self.engine, self.process, self.images_seen, total, hooks.preview
                )
            report, save = cadence.due(self.images_seen, done=self.images_seen >= total)
            if not report:
                continue
            means = self._means(sums, steps * pieces)
            metrics = {f"loss/{name}": value for name, value in means.items()}
            metrics["lr"] = optimizer.lr_at(self.images_seen, batch)
            metrics["gradient_norm"] = self.engine.gradient_norm()
            if save and plan.validation_images:
                metrics["validation/denoising"] = self._validation_loss()
            # from report to report, with all that lies between: a forecast is made of it
            now = time.perf_counter()
            metrics["images_per_second"], since = steps * batch / (now - since), now
            self.objective.check(means)
            self._check_finite(metrics)
            # Reported before it is saved: a run that is killed in between resumes from the last
            # checkpoint and reports it again, while the other order could lose the report for good.
            progress = Progress(self.images_seen, total, metrics)
            (stop,) = self._agree([hooks.report(progress)])
            urgent = hooks.checkpoint_now()
            if save or stop or urgent:
                self._save(hooks, experiment_config)
            if urgent:
                hooks.wait_for_uploads()
            if stop:
                break
            sums, steps = {}, 0
        hooks.wait_for_uploads()
        return progress

    def close(self) -> None:
        """Release what the training holds of this process, so that it can train again."""
        self.batches.close()
        self.engine.close()

    # -- the pieces ---------------------------------------------------------------------------------

    def _step(self, sums: dict[str, Tensor]) -> None:
        """Take one step: forward, backward, update. Nothing in it waits for the device.

        Args:
            sums: of the loss, its terms and metrics since the last report; this step's are added.
        """
        optimizer, batch = self.config.optimizer, self.config.training.batch_size
        after = self.images_seen + batch
        for piece in range(self.rows // self.micro):
            loss = self._loss(self.images_seen, piece)
            self.engine.backward(loss.total)
            self.engine.step(optimizer.lr_at(after, batch), optimizer.decays_at(after, batch))
            values = {"total": loss.total.detach(), **loss.terms, **loss.metrics}
            for name, value in values.items():
                sums[name] = sums[name] + value if name in sums else value
        self.images_seen = after

    def _loss(self, images_seen: int, piece: int) -> Loss:
        """Return the objective on one piece of this worker's rows of the global batch."""
        step = images_seen // self.config.training.batch_size
        first = self.rank * self.rows + piece * self.micro  # row of the global batch
        batch, rng = self.batches.rows_and_random(images_seen, first, self.micro)
        torch.manual_seed(derive_seed(self.config.seed, "dropout", step, first))
        return self.objective(self._predict, batch, self.process, rng, images_seen)

    def _predict(self, x_t: Tensor, t: Tensor, labels: Tensor, **extra: Any) -> Tensor:
        """Return the network's output at x_t; see `Predictor`."""
        return self.engine.predict(*self.process.network_input(x_t, t), labels, **extra)

    def _next_loss(self) -> float:
        """Return the objective on the next global batch, dropout off: equal for any world size and device."""
        with self.engine.evaluating():
            pieces = [
                self._loss(self.images_seen, piece).total
                for piece in range(self.rows // self.micro)
            ]
            return float(self.engine.all_reduce_mean(torch.stack(pieces).mean()))

    def _validation_loss(self) -> float:
        images, seed = self.config.training.validation_images, self.config.seed
        return validation_loss(
            self.engine, self.process, self.data.reference, images, self.micro, seed
        )

    def _save(self, hooks: Hooks, experiment_config: dict[str, Any]) -> None:
        next_loss = self._next_loss()
        self._check_finite({"the next loss": next_loss})
        save_checkpoint(
            self.engine,
            hooks,
            images_seen=self.images_seen,
            batch_size=self.config.training.batch_size,
            train=self.data.train,
            experiment_config=experiment_config,
            process=self.process_config,
            pretrained_hash=self.pretrained_hash,
            next_loss=next_loss,
        )

    def _continue(self, resume: ResumePoint) -> None:
        """Restore the optimizer's state, and check that the losses go on from there."""
        self.engine.state.restore(resume.folder, resume.manifest)
        self.images_seen = resume.manifest.images_seen
        check_continues(resume.manifest, self._next_loss(), self.config.engine.precision)

    def _check_finite(self, metrics: dict[str, float]) -> None:
        for name, value in metrics.items():
            if not math.isfinite(value):
                raise DivergenceProblem(
                    f"{name} is {value} after {self.images_seen:,} images",
                    "lower optimizer.lr or the objective's weight, or lengthen the warm-up; "
                    "earlier checkpoints are kept",
                )

    def _means(self, sums: dict[str, Tensor], count: int) -> dict[str, float]:
        stacked = torch.stack([s.float() for s in sums.values()])
        means = self.engine.all_reduce_mean(stacked / count).tolist()
        return dict(zip(sums, means, strict=True))

    def _agree(self, answers: Sequence[bool]) -> list[bool]:
        """Return worker 0's answers on every worker."""
        if self.world == 1:
            return list(answers)
        agreed = torch.tensor(answers, dtype=torch.int32, device=self.device)
        dist.broadcast(agreed, src=0)
        return [bool(answer) for answer in agreed.tolist()]


def process_of(
    config: TrainerConfig,
    train: PackedImages,
    resume: ResumePoint | None,
    pretrained: Pretrained | None,
) -> ProcessConfig:
    """Return the process of a training, with everything in it that is measured.

    A training that goes on, or starts from a model, keeps what was measured then: the network has learnt it.

    Raises:
        DataProblem: images on which it cannot be measured.
    """
    if resume:
        return resume.manifest.process
    known = pretrained.card.process if pretrained else None
    # A model of another process is refused when the network is built.
    if type(known) is type(config.process):
        measured = {name: getattr(known, name) for name in config.process.measures}
        return config.process.model_copy(update=measured)
    return config.process.measured(train)


def rows_of_worker(plan: LoopConfig, world: int) -> tuple[int, int]:
    """Return the rows of a worker and of a micro-batch.

    Raises:
        UsageProblem: a batch that cannot be shared evenly.
    """
    if plan.batch_size % world:
        raise UsageProblem(
            f"training.batch_size {plan.batch_size} cannot be shared by {world} workers",
            "choose a multiple of the number of workers",
        )
    rows = plan.batch_size // world
    micro = min(plan.micro_batch or rows, rows)
    if rows % micro:
        raise UsageProblem(
            f"training.micro_batch {micro} does not divide a worker's {rows} rows",
            "choose a divisor",
        )
    return rows, micro
