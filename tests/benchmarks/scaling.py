"""How a training scales over nodes: the calculation, held against runs on hosts with little bandwidth.

    scaling.py check [--json FILE]   predicted and measured steps on 1, 2 and 4 hosts; some minutes, as root
    scaling.py table                 predicted efficiency on 1 to 64 nodes of 8 GPUs

The hosts are network namespaces, whose sending `tc` limits. What a worker computes is a sleep; DeepSpeed, its
collectives and the network are real. All pieces of a prediction are measured without the run that it is held
against: a step on one host, the collectives of a step, and messages and
single collectives between two hosts.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import get_args

from rich.console import Console
from rich.table import Table
from scaling_parts.hosts_run import group, hosts
from scaling_parts.model import Cluster, Collective, Kind, Link, Step, seconds_of
from scaling_parts.published import rows as table_rows
from scaling_parts.worker import LARGE

BANDWIDTHS = (200_000_000, 1_000_000_000)
"""Bits per second of a host."""
WORLDS = (2, 4)
STAGES = (0, 1, 2, 3)
NETWORK = {"blocks": 8, "parameters": 4_000_000, "seconds": 0.3}
STEPS = 5
WITHIN = 0.15
"""Largest relative difference of a prediction that is called right."""
NO_LINK = Link(float("inf"), 0.0)


@dataclass(frozen=True)
class Checked:
    """One prediction and the runs that it is held against."""

    bits_per_second: int
    stage: int
    world: int
    predicted: float
    measured: float
    spread: float
    """(Largest - smallest) / median of the steps."""

    @property
    def error(self) -> float:
        """(Predicted - measured) / measured."""
        return self.predicted / self.measured - 1


def check(python: str) -> Iterator[Checked]:
    """Yield each prediction with its run."""
    for bits in BANDWIDTHS:
        with tempfile.TemporaryDirectory() as folder, hosts(Path(folder), max(WORLDS), bits) as all_:
            alone = {}
            with group(all_[:1], python) as one:
                for stage in STAGES:
                    alone[stage] = median(one.do(_job(stage))["seconds"])
            with group(all_[:2], python) as two:
                link, factors = pieces(two.do(None))
            for world in WORLDS:
                cluster = Cluster(world, 1, NO_LINK, link, factors)
                with group(all_[:world], python) as some:
                    for stage in STAGES:
                        said = some.do(_job(stage))
                        collectives = [Collective(**each) for each in said["collectives"]]
                        seconds, middle = said["seconds"], median(said["seconds"])
                        predicted = Step(alone[stage], collectives).seconds(cluster)
                        spread = (max(seconds) - min(seconds)) / middle
                        yield Checked(bits, stage, world, predicted, middle, spread)


def pieces(probed: Mapping[str, float]) -> tuple[Link, dict[Kind, float]]:
    """Return the link between two hosts, and how often gloo sends what a ring sends once.

    Args:
        probed: what `worker.probe` says of two hosts.
    """
    latency = probed["small"]
    link = Link(4 * LARGE / (probed["large"] - latency), latency)
    factors: dict[Kind, float] = {}
    for kind in get_args(Kind):
        ring = seconds_of(Collective(kind, 4 * LARGE), Cluster(2, 1, NO_LINK, link))
        factors[kind] = max(1.0, (probed[kind] - latency) / ring)
    return link, factors


def _job(stage: int) -> dict[str, float]:
    return {"stage": stage, "steps": STEPS, **NETWORK}


def main() -> None:
    """Print one of the two tables."""
    parser = argparse.ArgumentParser(description="Predict, and check, how a training scales.")
    parser.add_argument("what", choices=("check", "table"))
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    options = parser.parse_args()
    out = Console(highlight=False)
    if options.what == "table":
        for line in table_rows():
            out.print(line, markup=False)
        return
    shown = Table("bandwidth", "ZeRO", "hosts", "predicted", "measured", "spread", "error", box=None)
    checked = []
    for row in check(sys.executable):
        checked.append(row)
        print(json.dumps(asdict(row)), file=sys.stderr)
        shown.add_row(
            f"{row.bits_per_second / 1e6:g} Mb/s",
            f"{row.stage}",
            f"{row.world}",
            f"{row.predicted:.3f} s",
            f"{row.measured:.3f} s",
            f"{row.spread:.0%}",
            f"{row.error:+.1%}",
        )
    out.print(shown)
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in checked], indent=1))
    worst = max(abs(row.error) for row in checked)
    out.print(f"largest difference {worst:.1%}, at most {WITHIN:.0%}")
    sys.exit(worst > WITHIN)


if __name__ == "__main__":
    main()
