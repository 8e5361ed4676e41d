"""How a training scales over nodes: the calculation, held against runs on hosts with little bandwidth.

    scaling.py check [--json FILE]   predicted and measured steps on 1, 2 and 4 hosts; some minutes, as root
    scaling.py table                 predicted efficiency on 1 to 64 nodes of 8 GPUs

The hosts are network namespaces, whose sending `tc` limits. What a worker computes is a sleep; DeepSpeed, its
collectives and the network are real. All pieces of a prediction are measured without the run that it is held
against: a step of each host by itself, the collectives of a step, and messages and single collectives between
the hosts.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import get_args

from rich.console import Console
from rich.table import Table
from scaling_parts.hosts_run import group, hosts
from scaling_parts.model import Cluster, Collective, Kind, Link, Step, seconds_of
from scaling_parts.published import rows as table_rows
from scaling_parts.worker import LARGE

BANDWIDTHS = (200_000_000, 500_000_000)
"""Bits per second of a host."""
WORLDS = (2, 4)
STAGES = (0, 1, 2, 3)
NETWORK = {"blocks": 8, "parameters": 4_000_000, "seconds": 0.3}
OVERLAPPED = {0: 2 / 3, 1: 0.0, 2: 0.0, 3: 0.0}
"""Share of a step behind which gradients are sent: the backward pass. On a CPU, DeepSpeed waits for each bucket."""
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
        with (
            tempfile.TemporaryDirectory() as folder,
            hosts(Path(folder), max(WORLDS), bits) as all_,
        ):
            for world in WORLDS:
                # As many at once: the hosts share one machine's cores, as those of a cluster do not.
                with group(all_[:world], python, apart=True) as lone:
                    alone = {
                        stage: max(median(each["seconds"]) for each in lone.do(_job(stage)))
                        for stage in STAGES
                    }
                with group(all_[:world], python) as some:
                    cluster = pieces(some.do(None)[0], world)
                    for stage in STAGES:
                        said = some.do(_job(stage))[0]
                        collectives = [Collective(**each) for each in said["collectives"]]
                        seconds, middle = said["seconds"], median(said["seconds"])
                        predicted = Step(alone[stage], collectives, OVERLAPPED[stage]).seconds(
                            cluster
                        )
                        spread = (max(seconds) - min(seconds)) / middle
                        yield Checked(bits, stage, world, predicted, middle, spread)


def pieces(probed: Mapping[str, float], world: int) -> Cluster:
    """Return the hosts as a cluster, with the time of gloo's collectives over that of a ring.

    Args:
        probed: what `worker.probe` says of them.
    """
    latency = probed["small"]
    link = Link(4 * LARGE / (probed["large"] - latency), latency)
    plain = Cluster(world, 1, NO_LINK, link)
    kinds: tuple[Kind, ...] = get_args(Kind)
    factors = {
        kind: probed[kind] / seconds_of(Collective(kind, 4 * LARGE), plain) for kind in kinds
    }
    return replace(plain, factors=factors)


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
    shown = Table(
        "bandwidth", "ZeRO", "hosts", "predicted", "measured", "spread", "error", box=None
    )
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
