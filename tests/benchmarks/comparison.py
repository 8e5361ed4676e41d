"""Which differences between the methods are real: the sweep `comparison`, read over its seeds.

    whipray sweep comparison --recipe digits-demo evaluation.images_per_class=40 --json > found.json
    python tests/benchmarks/comparison.py found.json

Each method's value is that of its best guidance. A seed fixes the data order, the initial weights
and the sampling noise for all methods alike, so methods are compared seed by seed: the difference to
DDPM, and of CALL to its base, with Student's 95 % interval over the seeds. An interval that holds 0
does not tell the two apart.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from whipray.platform.config.points import in_words

DDPM = "objective=ddpm"
BASES = {
    "objective=call base=cbdm": "objective=cbdm label_set=train",
    "objective=call base=oc": "objective=oc",
}
Seeds = dict[int, dict[str, float]]
"""Seed -> metric -> value."""
METRICS = ("kid/overall", "kid/many", "kid/medium", "kid/few", "agreement/few")


def by_method(trials: list[dict[str, Any]]) -> dict[str, Seeds]:
    """Method -> seed -> metrics."""
    found: dict[str, Seeds] = defaultdict(dict)
    for trial in trials:
        if trial["state"] == "complete":
            values = dict(trial["values"])
            seed = values.pop("seed")
            found[in_words(values)][seed] = trial["attrs"]["summary"]["metrics"]
    return dict(found)


def difference(seeds: Seeds, base: Seeds, metric: str) -> str:
    """Mean of the differences seed by seed and its 95 % interval; bold where it leaves 0 out."""
    common = sorted(seeds.keys() & base.keys())
    gaps = [seeds[seed][metric] - base[seed][metric] for seed in common]
    gap = float(np.mean(gaps))
    half = float(stats.t.ppf(0.975, len(gaps) - 1) * stats.sem(gaps)) if len(gaps) > 1 else np.inf
    text = f"{gap:+.4f} [{gap - half:+.4f}, {gap + half:+.4f}]"
    return f"**{text}**" if abs(gap) > half else text


def main() -> None:
    parser = argparse.ArgumentParser(description="Read the sweep `comparison` over its seeds.")
    parser.add_argument("found", type=Path, help="what `whipray sweep comparison --json` printed")
    document = json.loads(parser.parse_args().found.read_text())
    methods = by_method(document["trials"])
    for metric in METRICS:

        def mean(method: str, metric: str = metric) -> float:
            return float(np.mean([found[metric] for found in methods[method].values()]))

        print(f"\n| {metric} | mean of seeds [min, max] | less DDPM's | less its base's |")
        print("|---|---|---|---|")
        for method in sorted(methods, key=mean):
            seeds = methods[method]
            values = [found[metric] for found in seeds.values()]
            columns = [method, f"{mean(method):.4f} [{min(values):.4f}, {max(values):.4f}]"]
            for base in (DDPM, BASES.get(method)):
                known = base is not None and base != method
                columns.append(difference(seeds, methods[base], metric) if known else "")
            print(f"| {' | '.join(columns)} |")


if __name__ == "__main__":
    main()
