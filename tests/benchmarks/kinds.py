"""Which process and which guidance generate better images, on long-tailed digits.

    kinds.py [--store FOLDER] [processes] [guidance]

Trains 22,400 images of `digits-demo` for each process, objective and seed, which the store keeps, and prints
a table for each part. A seed fixes the data order, the initial weights and the noise for all alike, so kinds
are compared seed by seed: the difference to the first line has Student's 95 % interval over the seeds, in
bold where it leaves 0 out. Each training has its own best omega, and each kind of guidance its own best
setting; both are chosen by images of one noise and reported by images of another.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from comparison import difference

import whipray
from whipray.platform.analysis.guidance import measure_guidance
from whipray.platform.analysis.guidance_points import OMEGA
from whipray.platform.api.stores import open_store
from whipray.platform.storage.store import Storage

SEEDS = (0, 1, 2)
PROCESSES, OBJECTIVES = ("vp", "edm", "flow"), ("ddpm", "cbdm", "call")
IMAGES, EARLY_IMAGES = 22_400, 2_800
"""Of a training, and of the guide that autoguidance has."""
METRICS = ("kid/overall", "kid/few")
EVALUATION = [
    "evaluation.images_per_class=80",
    'evaluation.metrics=["kid"]',
    "sampling.sampler.name=unipc",
    "sampling.sampler.steps=10",
]
GUIDANCE: dict[str, list[dict[str, Sequence[Any]]]] = {
    "cfg": [{OMEGA: (0, 0.5, 1, 1.5, 2, 3)}],
    "interval": [
        {OMEGA: (0.5, 1, 2, 3), "sampling.guidance.low": (low,), "sampling.guidance.high": (high,)}
        for low, high in ((0.2, 2), (0.2, 10), (1, 160))
    ],
    "autoguidance": [{OMEGA: (0.25, 0.5, 1, 2)}],
    "groups": [
        {
            "sampling.guidance.many": (0, 1),
            "sampling.guidance.medium": (0.5, 1.5),
            "sampling.guidance.few": (0, 1, 2),
        }
    ],
    "counts": [{OMEGA: (0, 0.5, 1), "sampling.guidance.slope": (-0.3, 0.3, 0.6)}],
}
"""The points that each kind of guidance is tried at."""
Values = dict[int, dict[str, float]]
"""Seed -> metric -> value."""


def trained(root: Storage, process: str, objective: str, seed: int, images: int = IMAGES) -> str:
    """Train a run unless the store has it; return its name."""
    name = f"{process}-{objective}-{seed}" + ("" if images == IMAGES else f"-{images}")
    measured = ["process.sigma_data=null"] if process == "edm" else []
    experiment = whipray.load_experiment(
        "digits-demo",
        [
            f"process.name={process}",
            *measured,
            f"objective.name={objective}",
            f"seed={seed}",
            f"training.images={images}",
            "training.checkpoint_every_images=2800",
            "optimizer.ema_profiles=[0.05, 0.1]",
            "tracking.system_metrics=false",
            "evaluation.images_per_class=30",
        ],
    )
    whipray.train(experiment.model_copy(update={"storage": root.config}), name)
    return name


def best_of(
    root: Storage, run: str, kind: str, lists: Sequence[Mapping[str, Sequence[Any]]]
) -> tuple[dict[str, float], dict[str, str]]:
    """Return the best setting's values by other noise than it was chosen by, and the settings in words."""
    best: dict[str, tuple[float, float, str]] = {}
    for each in lists:
        document = measure_guidance(
            root, None, run, EVALUATION, {"sampling.guidance.name": (kind,), **each}, _quiet
        ).document()
        for metric in METRICS:
            found = document["best"][metric.partition("/")[2]]
            chosen = found["chosen"]["value"]
            held_out = (found["held_out"] or found["chosen"])["value"]
            setting = ", ".join(
                f"{key.rpartition('.')[2]} {value}"
                for key, value in found["overrides"].items()
                if not key.endswith(".name")
            )
            best[metric] = min(best.get(metric, (np.inf, 0.0, "")), (chosen, held_out, setting))
    return {m: best[m][1] for m in METRICS}, {m: best[m][2] for m in METRICS}


def processes(root: Storage) -> None:
    """Print each process with each objective."""
    found: dict[str, Values] = {}
    for process in PROCESSES:
        for objective in OBJECTIVES:
            of_seeds = found.setdefault(f"{process}, {objective}", {})
            for seed in SEEDS:
                run = trained(root, process, objective, seed)
                of_seeds[seed], _ = best_of(root, run, "cfg", [{OMEGA: (0, 1, 2)}])
    print_table("process, objective", found, "vp, ddpm")
    for process in PROCESSES[1:]:
        part = {name: values for name, values in found.items() if name.startswith(process)}
        print_table("process, objective", part, f"{process}, ddpm")


def guidance(root: Storage) -> None:
    """Print each kind of guidance at its best."""
    found: dict[str, Values] = {}
    words: dict[str, list[str]] = {}
    for seed in SEEDS:
        run = trained(root, "vp", "ddpm", seed)
        early = trained(root, "vp", "ddpm", seed, EARLY_IMAGES)
        for kind, lists in GUIDANCE.items():
            given = [dict(each) for each in lists]
            if kind == "autoguidance":
                given = [{**each, "sampling.guidance.guide": (early,)} for each in given]
            found.setdefault(kind, {})[seed], settings = best_of(root, run, kind, given)
            words.setdefault(kind, []).append(settings["kid/overall"])
    print_table("guidance", found, "cfg")
    for kind, of_seeds in words.items():
        print(f"- {kind}, chosen by KID overall for each seed: {'; '.join(of_seeds)}")


def print_table(head: str, found: Mapping[str, Values], base: str) -> None:
    """Print Markdown: the mean over the seeds, and the difference to the base seed by seed."""
    columns = [text for m in METRICS for text in (m, f"less {base}'s")]
    print(f"\n| {head} | {' | '.join(columns)} |")
    print("|---" * (1 + len(columns)) + "|")
    for name, of_seeds in found.items():
        cells = [name]
        for metric in METRICS:
            cells.append(f"{np.mean([values[metric] for values in of_seeds.values()]):.4f}")
            cells.append("" if name == base else difference(of_seeds, found[base], metric))
        print(f"| {' | '.join(cells)} |", flush=True)


def _quiet(_line: str) -> None:
    """Take a line of progress."""


PARTS: dict[str, Callable[[Storage], None]] = {
    "processes": processes,
    "guidance": guidance,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("parts", nargs="*", metavar="part", help=f"{', '.join(PARTS)}; default all")
    parser.add_argument("--store", help="default: WHIPRAY_STORAGE, or ./whipray-runs")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no part is named {', '.join(sorted(unknown))}: {', '.join(PARTS)}")
    root = open_store(options.store)
    for part in options.parts or PARTS:
        PARTS[part](root)
        print(f"{part}: done", file=sys.stderr)


if __name__ == "__main__":
    main()
