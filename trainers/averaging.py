"""Averages of the weights over a training whose width is chosen after it (Karras et al. 2024, section 3).

A power-function average weighs the weights at n' of n images by (gamma + 1) n'^gamma / n^(gamma + 1): its
profile. Its width is the profile's standard deviation as a share of n, so it looks back over the same share
of a training of any length. A training keeps averages of a few widths, and what they were at several
moments; a profile of another width is a sum of the profiles kept, and the weights the same sum of the
averages.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .checkpoint import PASS_OVER, Manifest, profile_kind
from .errors import CheckpointProblem, UsageProblem

Array = NDArray[np.float64]

WIDEST = 1 / math.sqrt(12)
"""Width of the plain mean over a whole training, gamma = 0."""
CLOSE_ENOUGH = 0.02
"""Error of a profile from which no further averages are read for it: see `Fit.error`."""
TOO_FAR = 0.08
"""Error of a profile from which it is refused. In the average of weights that jump independently around
their mean, what the error adds has this share of the standard deviation that the average itself has left:
0.6 % of its variance."""
MOMENTS = 20
"""Most moments of a training that are kept. With two widths, .05 and .10, every width from .03 to .25 has an
error below `TOO_FAR` then, at any time of a training of 60 or of 400 checkpoints."""
SPACING = 0.75
"""The moments kept are about even in images^SPACING: even ones are best for narrow profiles at the end, ones
of even ratios for wide profiles, which reach back to the start."""


NO_AVERAGES = (
    "the training keeps no averages to form it from",
    "train with optimizer.ema_profiles=[0.05, 0.1], or leave sampling.ema_width out",
)
"""What is wrong with a width of such a training, and what to do."""


class Profile(NamedTuple):
    """A power-function average of the weights."""

    images_seen: int
    """The moment: its last weights are from here."""
    width: float
    """Relative to the training up to that moment, in (0, WIDEST]."""


@dataclass(frozen=True)
class Fit:
    """A profile as a sum of others."""

    shares: Mapping[Profile, float]
    """Of each profile in the sum; they add up to 1. Some may be negative."""
    error: float
    """L2 norm of what is left of the profile, over its own."""


@lru_cache
def gamma_of(width: float) -> float:
    """Return the exponent of the profile of a width in (0, WIDEST] (section 3.1).

    It is the largest real root of (gamma + 2)^2 (gamma + 3) width^2 = gamma + 1.
    """
    inverse = width**-2
    roots = np.roots([1.0, 7.0, 16.0 - inverse, 12.0 - inverse])
    return max(0.0, float(roots[np.abs(roots.imag) < 1e-6].real.max()))


def width_of(gamma: float) -> float:
    """Return the width of the profile of an exponent >= 0 (section 3.1)."""
    return math.sqrt(gamma + 1) / (gamma + 2) / math.sqrt(gamma + 3)


def decay_at(width: float, images_seen: int, batch: int) -> float:
    """Return the share of the average that the step of `batch` images that ends at `images_seen` keeps.

    It is beta = (1 - 1 / steps)^(gamma + 1) (section 3.1): after the first step the average is its weights.
    """
    return float((1 - batch / max(images_seen, batch)) ** (gamma_of(width) + 1))


def inner_products(a: Sequence[Profile], b: Sequence[Profile]) -> Array:
    """Return the integrals of the products of two lists of profiles, (len(a), len(b)) (appendix C).

    With n_a <= n_b images: (gamma_a + 1) (gamma_b + 1) (n_a / n_b)^gamma_b / ((gamma_a + gamma_b + 1) n_b).
    """
    n_a, g_a = (x[:, None] for x in _moments_and_exponents(a))  # (len(a), 1)
    n_b, g_b = (x[None, :] for x in _moments_and_exponents(b))  # (1, len(b))
    earlier, later = np.minimum(n_a, n_b), np.maximum(n_a, n_b)
    of_later = np.where(n_a <= n_b, g_b, g_a)
    products = (g_a + 1) * (g_b + 1) * (earlier / later) ** of_later / ((g_a + g_b + 1) * later)
    return np.asarray(products, np.float64)


def fit(kept: Sequence[Profile], wanted: Profile) -> Fit:
    """Return a profile as the sum of a few of those kept that is nearest to it, by least squares.

    The one that lowers the error most is added until the error is below `CLOSE_ENOUGH`, or no other
    lowers it: what is kept exactly is then that alone.

    Args:
        kept: profiles up to the wanted one's moment, at least one.
        wanted: of any width.
    """
    a, b = inner_products(kept, kept), inner_products(kept, [wanted])[:, 0]
    whole = float(inner_products([wanted], [wanted])[0, 0])
    chosen: list[int] = []
    shares, error = np.zeros(0), math.inf
    while error > CLOSE_ENOUGH and len(chosen) < len(kept):
        tries = [[*chosen, i] for i in range(len(kept)) if i not in chosen]
        solved = [_least_squares(a[np.ix_(rows, rows)], b[rows], whole) for rows in tries]
        best = min(range(len(tries)), key=lambda i: solved[i][1])
        if solved[best][1] > 0.999 * error:
            break
        chosen, (shares, error) = tries[best], solved[best]
    profiles = {kept[i]: float(share) for i, share in zip(chosen, shares, strict=True)}
    return Fit(profiles, error)


def fit_or_refuse(kept: Sequence[Profile], wanted: Profile) -> Fit:
    """Return the profile as a sum of those kept.

    Raises:
        UsageProblem: none are kept, or their sums are all too far from it.
    """
    if not kept:
        raise UsageProblem(f"sampling.ema_width={wanted.width:g}: {NO_AVERAGES[0]}", NO_AVERAGES[1])
    found = fit(kept, wanted)
    if found.error > TOO_FAR:
        moments = len({profile.images_seen for profile in kept})
        widths = sorted({profile.width for profile in kept})
        raise UsageProblem(
            f"sampling.ema_width={wanted.width:g} cannot be formed from averages of widths "
            f"{', '.join(f'{width:g}' for width in widths)} at {moments} moments: "
            f"{found.error:.0%} of its profile would be missing",
            f"choose a width {_formable(kept, wanted.images_seen)}, or train with a smaller "
            "training.checkpoint_every_images and training.checkpoint_every_s, or other optimizer.ema_profiles",
        )
    return found


def combine(
    shares: Mapping[Profile, float], kept: Mapping[int, tuple[Path, Manifest]]
) -> dict[str, Tensor]:
    """Return the sum of averages by parameter name, fp32 on the CPU, added in float64.

    Tensor by tensor: it takes the memory of the result and of one parameter.

    Args:
        shares: of each average in the sum.
        kept: images seen -> a folder, and the description of the averages in it.

    Raises:
        CheckpointProblem: a file that is not safetensors, or lacks a tensor.
    """
    (_, manifest), *_ = kept.values()
    names = dict.fromkeys(name.partition("/")[2] for name in manifest.tensors)
    parts = [(profile_kind(p.width), share, *kept[p.images_seen]) for p, share in shares.items()]
    combined: dict[str, Tensor] = {}
    with ExitStack() as until_read:
        readers: dict[tuple[Path, str], Any] = {}  # by folder and file
        for name in names:
            total: Tensor | None = None
            for kind, share, folder, manifest in parts:
                tensor = f"{kind}/{name}"
                file = manifest.tensors.get(tensor, "")
                try:
                    if (reader := readers.get((folder, file))) is None:
                        opened = safe_open(folder / file, framework="pt")
                        reader = readers[folder, file] = until_read.enter_context(opened)
                    read = reader.get_tensor(tensor)
                except (SafetensorError, OSError) as error:
                    where = folder / file
                    raise CheckpointProblem(
                        f"{where}: cannot be read ({error})", PASS_OVER
                    ) from error
                total = torch.zeros_like(read, dtype=torch.float64) if total is None else total
                total.add_(read, alpha=share)
            assert total is not None
            combined[name] = total.float()
    return combined


def thinned(moments: Sequence[int]) -> list[int]:
    """Return which of the ascending moments stay: `MOMENTS` at most, the last two among them.

    Applied whenever one is added, the moments stay about even in images^SPACING.
    """
    kept = list(moments)
    while len(kept) > MOMENTS:
        scaled = [0.0, *(moment**SPACING for moment in kept)]
        gaps = [scaled[i + 2] - scaled[i] for i in range(len(kept) - 2)]  # if the i-th goes
        del kept[gaps.index(min(gaps))]
    return kept


def moments_of(images: int, every: int, batch: int) -> list[int]:
    """Return the moments that a training keeps at its end.

    Args:
        images: that it sees.
        every: images between checkpoints.
        batch: images of a step.
    """
    end = math.ceil(images / batch) * batch
    kept: list[int] = []
    for number in range(1, end // every + 1):
        kept = thinned([*kept, math.ceil(number * every / batch) * batch])
    return kept if end in kept else thinned([*kept, end])


def _least_squares(a: Array, b: Array, whole: float) -> tuple[Array, float]:
    """Return the shares of profiles in a sum, normalised, and its relative L2 error.

    Args:
        a: (K, K) inner products of the profiles.
        b: (K,) theirs with the wanted one.
        whole: the wanted one's with itself.
    """
    norms = np.sqrt(np.diag(a))
    x = np.linalg.lstsq(a / norms[:, None] / norms, b / norms, rcond=1e-12)[0] / norms
    if abs(total := float(x.sum())) < 1e-9:
        return x, math.inf
    x = x / total
    return x, math.sqrt(max(0.0, float(x @ a @ x - 2 * x @ b) / whole + 1))


def _moments_and_exponents(profiles: Sequence[Profile]) -> tuple[Array, Array]:
    return (
        np.array([profile.images_seen for profile in profiles], np.float64),
        np.array([gamma_of(profile.width) for profile in profiles]),
    )


def _formable(kept: Sequence[Profile], images_seen: int) -> str:
    """Return the range of widths around those kept that can be formed, in steps of .01."""
    widths = [profile.width for profile in kept]
    low, high = min(widths), max(widths)
    while low > 0.01 and fit(kept, Profile(images_seen, low - 0.01)).error <= TOO_FAR:
        low -= 0.01
    while high + 0.01 < WIDEST and fit(kept, Profile(images_seen, high + 0.01)).error <= TOO_FAR:
        high += 0.01
    return f"from {low:.2g} to {high:.2g}"
