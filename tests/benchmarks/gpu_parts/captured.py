"""A training step whose network is captured as CUDA graphs as it is, without a compiler, beside the eager one.

`torch.cuda.make_graphed_callables` captures forward and backward before the network has made a step. What it
would save is the host's share, which limits small networks; see `docs/gpu.md`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from whipray.trainers.networks import UNet, UNetConfig

from .setting import Setting, parse
from .timing import peak_memory, release, timed

SIDE, CLASSES = 32, 10


class InBF16(nn.Module):
    """A network under autocast, of tensors alone, as a capture needs it."""

    def __init__(self, network: nn.Module, device: str) -> None:
        super().__init__()
        self.network, self.device = network, device

    def forward(self, x_t: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        """Return the output (B, C, H, W) in float32."""
        with torch.autocast(self.device, torch.bfloat16, cache_enabled=False):
            output: Tensor = self.network(x_t, t, labels)
        return output.float()


def measure(setting: Setting, capture: bool) -> None:
    device, batch = setting.device, setting.batches[0]
    config = UNetConfig.model_validate(setting.model)
    network = InBF16(UNet(config, (3, SIDE, SIDE), CLASSES).to(device), device.type)
    inputs = (
        torch.randn(batch, 3, SIDE, SIDE, device=device),
        torch.rand(batch, device=device) * 1000,
        torch.arange(batch, device=device) % CLASSES,
    )
    eps = torch.randn_like(inputs[0])
    called = torch.cuda.make_graphed_callables(network, inputs) if capture else network
    optimizer = torch.optim.Adam(network.parameters(), fused=True)

    def step() -> None:
        nn.functional.mse_loss(called(*inputs), eps).backward()
        optimizer.step()
        optimizer.zero_grad()

    found = timed(setting, step)
    what = "captured" if capture else "eager"
    numbers = {"images/s": batch / found.seconds, "ms": 1e3 * found.seconds}
    numbers |= {**peak_memory(device), "% spread": 100 * found.spread}
    setting.say(f"network, loss and Adam alone, {batch}, bf16, {what}", numbers)


def main(setting: Setting) -> None:
    measure(setting, capture=False)
    release(setting.device)
    if not setting.gpu:
        setting.say("captured", {}, "needs a GPU")
        return
    measure(setting, capture=True)


if __name__ == "__main__":
    main(parse("captured"))
