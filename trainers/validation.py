"""The validation loss of a training."""

from __future__ import annotations

import math

import torch
from torch.nn.functional import pad

from .data import PackedImages
from .data.batches import gather, to_float
from .engine import Engine
from .processes import Process
from .randomness import BatchRandom, derive_seed


def validation_loss(
    engine: Engine, process: Process, reference: PackedImages, images: int, micro: int, seed: int
) -> float:
    """Return the denoising loss on reference images, at fixed t and noise, dropout off.

    Every worker calls it.

    Args:
        images: how many are taken, evenly spaced over the reference.
        micro: images that a worker takes at once.
        seed: of the experiment.
    """
    count = min(images, len(reference.labels))
    share = math.ceil(count / engine.world)  # the same on all workers: ZeRO 3 gathers in lockstep
    chosen = torch.linspace(0, len(reference.labels) - 1, count).long()
    chosen_and_padded = pad(chosen, (0, share * engine.world - count)).numpy()
    noise_seed = derive_seed(seed, "validation")
    losses = []
    with engine.evaluating():
        for first in range(0, share, micro):
            rows = min(micro, share - first)
            first_row = engine.rank * share + first
            rng = BatchRandom(noise_seed, 0, first_row, rows, engine.device)
            indices = chosen_and_padded[first_row : first_row + rows]
            x_0 = to_float(gather(reference, indices, engine.device), None)
            t = process.sample_times(rng).to(engine.device)
            eps = rng.normal("eps", reference.image_shape)
            labels = torch.from_numpy(reference.labels[indices]).to(engine.device)
            x_t = process.perturb(x_0, t, eps)
            output = engine.predict(*process.network_input(x_t, t), labels)
            squares = (output - process.target(x_0, t, eps)).square().flatten(1).mean(1)
            losses.append(squares[: max(0, count - first_row)].sum())  # without the padding
    return float(engine.all_reduce_mean(torch.stack(losses).sum())) * engine.world / count
