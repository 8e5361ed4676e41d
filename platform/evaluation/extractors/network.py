"""An extractor whose network is a PyTorch module."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..arrays import Floats32, Pixels
from .base import Extractor, ExtractorInfo


class NetworkExtractor(Extractor):
    """Runs a network in evaluation mode, without gradients and in full float32.

    TensorFloat-32 is off, which a training in this process may have switched on: a GPU would round what
    convolutions and linear layers multiply to 10 bits, and the hash of an extractor promises the same values
    on every machine.
    """

    def __init__(
        self,
        network: nn.Module,
        info: ExtractorInfo,
        num_logits: int,
        device: torch.device,
        image_shape: tuple[int, int, int] | None = None,
    ) -> None:
        self.info, self.num_logits, self.image_shape = info, num_logits, image_shape
        self._network = network.to(device).eval().requires_grad_(False)
        self._device = device

    def _extract(self, images: Pixels) -> tuple[Floats32, Floats32]:
        with (
            torch.inference_mode(),
            torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False),
            whole_products(),
        ):
            # Copied: the images may be a read-only memory map.
            features, logits = self._forward(torch.tensor(images, device=self._device))
        return features.cpu().numpy(), logits.cpu().numpy()

    @abstractmethod
    def _forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return float32 features (n, d) and logits (n, K) of uint8 images (n, C, H, W)."""


@contextmanager
def whole_products() -> Iterator[None]:
    """Multiply float32 matrices in float32 inside."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def as_rgb(images: Tensor) -> Tensor:
    """Return images (n, 1 or 3, H, W) with three channels; those of a grey image are the same."""
    return images.expand(-1, 3, -1, -1)
