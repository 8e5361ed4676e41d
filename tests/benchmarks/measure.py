"""What the parts of the benchmark share: a result, and rounds that compare variants fairly."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from statistics import fmean, median


@dataclass(frozen=True)
class Result:
    """One line of the table; its median is held against the target."""

    what: str
    values: list[float]
    unit: str
    at_most: float | None = None
    at_least: float | None = None

    @property
    def median(self) -> float:
        return median(self.values)

    @property
    def met(self) -> bool | None:
        """None where there is no target."""
        if self.at_most is not None:
            return self.median <= self.at_most
        if self.at_least is not None:
            return self.median >= self.at_least
        return None


def cpu_seconds(
    variants: Mapping[str, Callable[[int], None]], rounds: int, passes: int = 1
) -> dict[str, list[float]]:
    """CPU time of this process for one run of each variant, in each round, s.

    A pass runs every variant once, in an order of its own, so that a slow moment of the machine
    falls on each alike; a round is the mean over some passes. Compare variants within a round. One
    pass more, not counted, warms up.

    Args:
        variants: name -> what to run, given the number of the pass.
    """
    order = list(variants)
    shuffle = random.Random(0).shuffle
    seconds: dict[str, list[float]] = {name: [] for name in order}
    for number in range(rounds * passes + 1):
        shuffle(order)
        for name in order:
            start = time.process_time()
            variants[name](number)
            seconds[name].append(time.process_time() - start)
    return {
        name: [fmean(all_[1 + i * passes :][:passes]) for i in range(rounds)]
        for name, all_ in seconds.items()
    }


def ratios(numerator: list[float], denominator: list[float]) -> list[float]:
    """Round by round."""
    return [a / b for a, b in zip(numerator, denominator, strict=True)]


def hand_over(results: list[Result]) -> None:
    """A part's last line of output, which `bench.py` reads."""
    print(json.dumps([asdict(result) for result in results]), flush=True)
