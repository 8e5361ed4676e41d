"""A plain PyTorch loop for CBDM, as a user of the method's released code would have it.

Our own reading of that code, written for this benchmark: a data loader with PIL transforms and
worker processes, fp32 with PyTorch's defaults, two forward passes for y and y', an average of the
weights kept tensor by tensor, the loss read for the progress bar at every step. Its label drop is
left out, so that every row pays for its regulariser, as in the trainings that it is compared with.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, RandomSampler
from torchvision import transforms

from whipray.trainers.data.packed import PackedImages
from whipray.trainers.trainer_config import TrainerConfig

EPOCH = 12_406
"""Images of CIFAR-10-LT at imbalance 100: workers start anew at each of its epochs."""
TIMESTEPS, TAU, GAMMA, DECAY, CLIP, LR, WARM_UP = 1000, 1.0, 0.25, 0.9999, 1.0, 2e-4, 5000


class Images(Dataset[tuple[Tensor, int]]):
    """One image at a time, transformed as CIFAR commonly is."""

    def __init__(self, packed: PackedImages) -> None:
        self.pixels = packed.images.transpose(0, 2, 3, 1).copy()
        self.labels = packed.labels
        self.transform = transforms.Compose(
            [
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.pixels[index])), int(self.labels[index])


def endless(loader: DataLoader[Any]) -> Iterator[tuple[Tensor, Tensor]]:
    """Epoch after epoch."""
    while True:
        yield from loader


class PlainLoop:
    """Everything of the loop; `step` takes one step."""

    def __init__(
        self,
        config: TrainerConfig,
        packed: PackedImages,
        device: torch.device,
        workers: int,
        bf16: bool,
    ) -> None:
        self.device, self.bf16 = device, bf16
        self.network: nn.Module = config.model.build(packed.image_shape, packed.num_classes)
        self.network.to(device)
        self.average = deepcopy(self.network)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=LR)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: min(step, WARM_UP) / WARM_UP
        )
        images = Images(packed)
        sampler = RandomSampler(images, replacement=True, num_samples=EPOCH)
        batch = config.training.batch_size
        self.loader = DataLoader(
            images, batch, sampler=sampler, num_workers=workers, drop_last=True
        )
        self.batches = endless(self.loader)
        counts = torch.from_numpy(packed.class_counts)
        self.label_weights = (counts / counts.sum()).to(device)
        betas = torch.linspace(1e-4, 0.02, TIMESTEPS, dtype=torch.float64)
        kept = torch.cumprod(1 - betas, 0)
        self.signal = kept.sqrt().float().to(device)
        self.noise = (1 - kept).sqrt().float().to(device)

    def loss(self, x_0: Tensor, y: Tensor) -> Tensor:
        """CBDM's loss in two forward passes."""
        t = torch.randint(TIMESTEPS, (len(x_0),), device=self.device)
        eps = torch.randn_like(x_0)
        shape = (-1, 1, 1, 1)
        x_t = self.signal[t].view(shape) * x_0 + self.noise[t].view(shape) * eps
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            h = self.network(x_t, t, y)
            y_other = torch.multinomial(self.label_weights, len(y), replacement=True)
            h_other = self.network(x_t, t, y_other)
        h, h_other = h.float(), h_other.float()
        weight = (TAU * t / TIMESTEPS).view(shape)
        pull = weight * F.mse_loss(h, h_other.detach(), reduction="none")
        commit = weight * F.mse_loss(h.detach(), h_other, reduction="none")
        return (F.mse_loss(h, eps, reduction="none") + pull + GAMMA * commit).mean()

    def step(self) -> float:
        """One step; the loss as the progress bar shows it."""
        x_0, y = next(self.batches)
        loss = self.loss(x_0.to(self.device), y.to(self.device))
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), CLIP)
        self.optimizer.step()
        self.schedule.step()
        self.follow()
        return float(loss.detach())

    @torch.no_grad()
    def follow(self) -> None:
        """The average, tensor by tensor."""
        mine, average = self.network.state_dict(), self.average.state_dict()
        for name, tensor in mine.items():
            average[name].copy_(average[name] * DECAY + tensor * (1 - DECAY))

    def close(self) -> None:
        """End the loader's workers."""
        del self.batches
