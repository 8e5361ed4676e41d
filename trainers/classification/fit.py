"""Training and test of one classifier."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..data import PackedImages
from ..data.batches import gather
from ..data.order import IndexOrder
from ..data.packed import Indices
from ..errors import DataProblem, DivergenceProblem
from ..randomness import BatchRandom, derive_seed
from .augment import augment
from .config import ClassificationConfig
from .data_parallel import Group
from .losses import weighted_loss
from .networks import ClassifierNetwork, build_network
from .recipe import Normaliser, learning_rate
from .scores import Scores, recall_by_class, score
from .trained import TrainedClassifier

AfterEpoch = Callable[[int, float, TrainedClassifier], None]


@dataclass(frozen=True)
class Outcome:
    """One trained classifier."""

    scores: Scores
    """Of the network after the last epoch."""
    train_loss: float
    """Mean over the last epoch's batches."""
    best_epoch: int
    """Counted from 1; the first of those with the best accuracy."""
    best_accuracy: float
    """Overall, after the best epoch. Chosen by the test images themselves, as LDAM-DRW's code and
    many papers do, so it is higher than the truth: for comparison with such papers only."""


def train_and_test(
    real: PackedImages,
    test: PackedImages,
    groups: Mapping[str, Sequence[int]],
    config: ClassificationConfig,
    seed: int,
    device: torch.device,
    generated: PackedImages | None = None,
    on_phase: Callable[[str], None] = lambda _line: None,
) -> Outcome:
    """Train a classifier and test it after every epoch.

    Initial weights, order, crops and flips are functions of the seed: the same seed gives the same
    numbers on one machine and device, and the same initial weights for any images. The global random
    state is left as it was.

    Args:
        real: long-tailed; normalisation uses these alone, also where generated ones are added.
        test: real, of the same classes and shape; each class has some and counts alike.
        groups: class ids of each group that gets an accuracy.
        generated: more training images, each weighing `config.generated_weight` in the loss. Batch
            norm sees them alike, whatever their weight.
        on_phase: called with a line after each epoch.

    Raises:
        DataProblem: images too small for the network, or of other shapes or classes in the three sets.
        DivergenceProblem: a loss that is not a number.
    """
    _check_alike(real, test, "test")
    loss, best = 0.0, (0, -1.0)
    predictions = np.empty(0, np.int64)
    group = Group.joined()

    def after_epoch(epoch: int, train_loss: float, trained: TrainedClassifier) -> None:
        nonlocal predictions, loss, best
        own = test.images[group.share(len(test.labels))]
        predictions = group.join(trained.logits(own).argmax(1))
        accuracy = float(recall_by_class(test.labels, predictions, test.num_classes).mean())
        best = max(best, (epoch + 1, accuracy), key=lambda result: result[1])
        loss = train_loss
        on_phase(f"epoch {epoch + 1} of {config.epochs}, loss {loss:.3f}, accuracy {accuracy:.3f}")

    train_classifier(real, config, seed, device, generated, after_epoch)
    return Outcome(score(test.labels, predictions, test.num_classes, groups), loss, *best)


def train_classifier(
    real: PackedImages,
    config: ClassificationConfig,
    seed: int,
    device: torch.device,
    generated: PackedImages | None = None,
    after_epoch: AfterEpoch = lambda _epoch, _loss, _trained: None,
) -> TrainedClassifier:
    """Train a network; no image but those given is read.

    The processes of a group that has been joined train one together, each of them a part of every
    batch; all of them have it in the end.

    Args:
        real, config, seed, device, generated: as for `train_and_test`.
        after_epoch: called after each epoch with its number from 0, the mean loss of its batches, and
            the classifier as it is then, which training goes on to change.

    Raises:
        DataProblem: images too small for the network, or generated ones of another shape or other classes.
        DivergenceProblem: a loss that is not a number.
    """
    everything, weights = _together(real, generated, config.generated_weight)
    per_epoch = len(real.labels) if config.epoch_of == "real" else len(everything.labels)
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
        trained = TrainedClassifier(
            _first_network(config, real, seed),
            config,
            real.image_shape,
            real.class_names,
            Normaliser.of(real, config.normalise, device),
            device,
        )
        trainer = _Trainer(trained, everything, weights, seed, per_epoch)
        for epoch in range(config.epochs):
            loss = trainer.train_epoch(epoch)
            if not np.isfinite(loss):
                raise DivergenceProblem(
                    f"the classifier's loss is {loss} in epoch {epoch + 1}",
                    f"lower classification.lr ({config.lr:g})",
                )
            after_epoch(epoch, loss, trained)
    trained.network.eval()
    return trained


class _Trainer:
    """Trains a network, one epoch at a time.

    Args:
        images: all training images.
        weights: (N,) float32, of each image in the loss.
        per_epoch: images that an epoch has.
    """

    def __init__(
        self,
        trained: TrainedClassifier,
        images: PackedImages,
        weights: Tensor,
        seed: int,
        per_epoch: int,
    ) -> None:
        self.network, self.normalise, self.images = trained.network, trained.normalise, images
        self.weights, self.seed, self.device = weights, seed, trained.device
        self.config = config = trained.config
        self.per_epoch = per_epoch
        self.group = Group.joined()
        self.in_group = self.group.wrap(self.network, self.device)
        self.order = IndexOrder(
            images.labels, images.num_classes, "natural", derive_seed(seed, "order")
        )
        self.labels = torch.tensor(images.labels)
        counts = torch.bincount(self.labels, weights.double(), minlength=images.num_classes)
        self.loss = config.loss.build(counts.to(self.device))
        self.sgd = torch.optim.SGD(
            self.network.parameters(),
            config.lr,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
        )

    def train_epoch(self, epoch: int) -> float:
        """Train for an epoch, counted from 0; return the mean loss of its batches."""
        config, device = self.config, self.device
        for group in self.sgd.param_groups:
            group["lr"] = learning_rate(epoch, config)
        of_class = self.loss.class_weights(epoch, config.epochs)
        order = self.order.indices(epoch * self.per_epoch, self.per_epoch)
        starts = range(0, self.per_epoch, config.batch_size)
        total = torch.zeros((), device=device)
        self.network.train()
        for i, start in enumerate(starts):
            batch = order[start : start + config.batch_size]
            total += self._step(batch, epoch * len(starts) + i, of_class)
        return self.group.mean(total) / len(starts)

    def _step(self, batch: Indices, step: int, of_class: Tensor) -> Tensor:
        """Update the weights by a batch (B,) of images; return the loss of this process's rows, ()."""
        config, device, group = self.config, self.device, self.group
        # of fewer rows than processes each has all, so that none is without any
        own = group.share(len(batch)) if len(batch) >= group.size else slice(0, len(batch))
        rows = batch[own]
        rng = BatchRandom(self.seed, step, own.start, len(rows), device)
        images = gather(self.images, rows, device)
        images = augment(images, rng, config)
        labels = self.labels[rows].to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            logits = self.in_group(self.normalise(images))
        by_class = of_class[labels]
        of_each = self.loss(logits.float(), labels)
        loss = weighted_loss(of_each, by_class, self.weights[rows].to(device))
        if len(rows) < len(batch):  # the mean over processes becomes that over the batch
            whole = of_class[self.labels[batch].to(device)].sum()
            loss = loss * by_class.sum() / whole * group.size
        self.sgd.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.sgd.step()
        return loss.detach()


def _first_network(
    config: ClassificationConfig, real: PackedImages, seed: int
) -> ClassifierNetwork:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive_seed(seed, "classifier"))
        return build_network(
            config.network, real.image_shape, real.num_classes, config.loss.head_scale
        )


def _check_alike(real: PackedImages, images: PackedImages, name: str) -> None:
    if (images.image_shape, images.class_names) != (real.image_shape, real.class_names):
        raise DataProblem(
            f"{name} images are {images.image_shape} of {images.num_classes} classes, "
            f"the real training images {real.image_shape} of {real.num_classes}",
            "give images of the same size, channels and classes",
        )


def _together(
    real: PackedImages, generated: PackedImages | None, weight: float
) -> tuple[PackedImages, Tensor]:
    """Return all training images in one block, and the weight of each (N,) float32."""
    weights = torch.ones(len(real.labels))
    if generated is None:
        return real, weights
    _check_alike(real, generated, "generated")
    both = PackedImages(
        np.concatenate([real.images, generated.images]),
        np.concatenate([real.labels, generated.labels]),
        real.class_names,
    )
    return both, torch.cat([weights, torch.full((len(generated.labels),), weight)])
