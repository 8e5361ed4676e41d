"""Which sampler makes images of the same quality in the fewest calls of the network.

    fewest_calls.py --recipe digits-demo evaluation.images_per_class=200    # trains it first
    fewest_calls.py --store FOLDER --run NAME evaluation.images_per_class=200

One checkpoint, the same noise for every sampler, the same real images: the difference of each value to that
of the first line, DDIM in 50 steps, has a paired bootstrap interval over the images. CPU time is that of
this process, for the images alone and for a whole evaluation; of an evaluation that the store has already
it is not known, so give another --seed to measure it again. On one thread; other work on the machine
disturbs it little.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

import whipray
from whipray.platform.analysis.target import find_target
from whipray.platform.api.stores import open_store
from whipray.platform.config.paths import with_absolute_paths
from whipray.platform.evaluation.arrays import Floats
from whipray.platform.evaluation.compare import Difference, difference, read_evaluation
from whipray.platform.runs.evaluator import Evaluator
from whipray.platform.storage.layout import EVALUATION_REPORT, REPLICATES
from whipray.trainers.samplers import (
    DDIMSampler,
    DPMSolver2MSampler,
    HeunSampler,
    SamplerConfig,
    UniPCSampler,
)

SAMPLERS: tuple[SamplerConfig, ...] = (
    DDIMSampler(steps=50),
    *(DDIMSampler(steps=n) for n in (10, 20)),
    *(UniPCSampler(steps=n) for n in (8, 10, 15, 20)),
    *(UniPCSampler(steps=n, spacing="trailing") for n in (8, 10, 15, 20)),
    *(DPMSolver2MSampler(steps=n) for n in (10, 15, 20)),
    *(HeunSampler(steps=n) for n in (5, 10, 18)),
)
"""The first one is what the others are compared with."""
MOST_CALLS, LEAST_SAVED = 20, 2.0
"""What the project promises: as good in so many calls, by so many times less CPU for an evaluation."""


@dataclass(frozen=True)
class Measured:
    """One sampler."""

    label: str
    calls: int
    replicates: dict[str, Floats]
    """`kid/overall`, `kid/few` -> (1 + B,)."""
    images_s: float | None
    evaluation_s: float | None
    """CPU times; None where the evaluation was in the store."""


class Stopwatch:
    """Counts the CPU time of a function."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function, self.seconds = function, 0.0

    def __call__(self, *given: Any, **named: Any) -> Any:
        start = time.process_time()
        try:
            return self.function(*given, **named)
        finally:
            self.seconds += time.process_time() - start


def measure(
    evaluator: Evaluator, sampler: SamplerConfig, seed: int, images: Stopwatch, keys: Sequence[str]
) -> Measured:
    """Evaluate one sampler, or read what the store has of it."""
    settings = {f"sampling.sampler.{k}": v for k, v in sampler.model_dump(mode="json").items()}
    before, images.seconds = evaluator.images_generated, 0.0
    start = time.process_time()
    evaluated = evaluator.evaluate_at(settings, seed)
    seconds = time.process_time() - start
    new = evaluator.images_generated > before
    folder = evaluator.files.fetch(evaluated.folder, (EVALUATION_REPORT, REPLICATES))
    replicates = read_evaluation(folder).replicates
    return Measured(
        evaluated.sampling.sampler.label,
        evaluated.sampling.sampler.calls(evaluator.experiment.process),
        {key: replicates[key] for key in keys if key in replicates},
        images.seconds if new else None,
        seconds if new else None,
    )


def differences(measured: Measured, first: Measured, confidence: float) -> dict[str, Difference]:
    """Return each value less that of the first, where both have it."""
    found = {}
    for key in measured.replicates.keys() & first.replicates.keys():
        metric = key.partition("/")[0]
        between = difference(metric, measured.replicates[key], first.replicates[key], confidence)
        if between is not None:
            found[key] = between
    return found


def saved(measured: Measured, first: Measured) -> float | None:
    """Return how many times less CPU an evaluation takes."""
    if measured.evaluation_s is None or first.evaluation_s is None:
        return None
    return first.evaluation_s / measured.evaluation_s


def number(value: float | None, form: str = ".3g") -> str:
    return "" if value is None else format(value, form)


def table(rows: Sequence[Measured], keys: Sequence[str], confidence: float) -> list[str]:
    """Return Markdown; a difference in bold is one that its interval tells from 0."""
    first = rows[0]
    names = [name for key in keys for name in (key, f"{key}, difference [{confidence:.0%}]")]
    heads = ["sampler", "calls", *names, "images, s CPU", "evaluation, s CPU", "times less"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in rows:
        gaps = differences(row, first, confidence) if row is not first else {}
        cells = [row.label, str(row.calls)]
        for key in keys:
            cells.append(
                number(float(row.replicates[key][0]), ".4f") if key in row.replicates else ""
            )
            gap = gaps.get(key)
            text = f"{gap.value:+.4f} [{gap.low:+.4f}, {gap.high:+.4f}]" if gap else ""
            cells.append(f"**{text}**" if gap and not gap.noise else text)
        cells += [number(row.images_s), number(row.evaluation_s), number(saved(row, first))]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def verdict(rows: Sequence[Measured], keys: Sequence[str], confidence: float) -> str:
    """Say which sampler needs the fewest calls without being worse in any of the values."""
    first, *others = rows
    equal = [
        row
        for row in others
        if len(gaps := differences(row, first, confidence)) == len(keys)
        and all(gap.low <= 0 for gap in gaps.values())
    ]
    if not equal:
        return f"every other sampler is worse than {first.label} beyond noise"
    best = min(equal, key=lambda row: row.calls)
    line = f"not distinguished from {first.label} in the fewest calls: {best.label}, {best.calls}"
    less = saved(best, first)
    if less is None:
        return line
    met = best.calls <= MOST_CALLS and less >= LEAST_SAVED
    return (
        f"{line}; an evaluation takes {less:.1f} times less CPU (target: at most {MOST_CALLS} calls, "
        f"{LEAST_SAVED:g} times less: {'met' if met else 'not met'})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--recipe", help="train this first, with the overrides")
    parser.add_argument("--run", default="fewest-calls", help="the run, also its name in training")
    parser.add_argument("--store", help="default: a new folder, removed in the end")
    parser.add_argument("--metric", default="kid", help="compared overall and on the few")
    parser.add_argument("--seed", type=int, default=1, help="of the noise; a training has 0")
    options = parser.parse_args()
    torch.set_num_threads(1)
    keys = [f"{options.metric}/{group}" for group in ("overall", "few")]

    def report(line: str) -> None:
        print(line, file=sys.stderr)

    with tempfile.TemporaryDirectory() as folder:
        root = open_store(options.store or folder)
        overrides = list(options.overrides)
        if options.recipe:
            experiment = whipray.load_experiment(options.recipe, overrides)
            experiment = experiment.model_copy(update={"storage": root.config})
            whipray.train(with_absolute_paths(experiment), options.run)
            overrides = []  # the run has them
        metrics = f"evaluation.metrics={json.dumps(sorted({options.metric, 'kid'}))}"
        target = find_target(root, None, options.run, [*overrides, metrics])
        confidence = target.experiment.evaluation.confidence
        with target.evaluator(report) as evaluator:
            worker = evaluator.pipeline.shard_worker
            worker.models(target.experiment.sampling)  # what all evaluations share
            evaluator.pipeline.extract_real()
            images = Stopwatch(worker.generate)
            worker.generate = images  # type: ignore[method-assign]
            rows = [measure(evaluator, sampler, options.seed, images, keys) for sampler in SAMPLERS]
    print("\n".join(table(rows, keys, confidence)))
    print(verdict(rows, keys, confidence))


if __name__ == "__main__":
    main()
