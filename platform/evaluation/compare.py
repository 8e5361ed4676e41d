"""Evaluations compared: their differences, and which of them are within noise."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from ...trainers.errors import DataProblem
from ..storage.layout import REPLICATES
from .arrays import Floats
from .bootstrap import Estimate, percentile_interval, recentred_interval
from .extractors.base import Value
from .metrics import METRIC_OF, OUTPUTS
from .report import COMPARED, Report, comparable

PAIRED = {
    "bootstrap_seed": "it was resampled with another seed",
    "bootstrap_resamples": "it was resampled another number of times",
}
"""Provenance in which two reports must agree besides, for their replicates to be pairs."""


@dataclass(frozen=True)
class Evaluation:
    """What one evaluation left behind for comparing."""

    provenance: Mapping[str, Value]
    replicates: Mapping[str, Floats]
    """`kid/overall`, `kid/few`, ... -> (1 + B,): the estimate, then its resamples."""
    groups: Mapping[str, Mapping[int, int]]
    """`overall`, `many`, ... -> how many images were generated, by class id."""
    warnings: tuple[str, ...] = ()
    """What to know before believing its values."""
    given: Mapping[str, Estimate] = field(default_factory=dict)
    """Values without replicates, with their intervals: `accuracy/overall`, ..."""


@dataclass(frozen=True)
class Difference:
    """A value of one run less that of the first run, and the ends of its interval."""

    value: float
    low: float
    high: float

    @property
    def noise(self) -> bool:
        """Whether 0 is in the interval: these images do not distinguish the two runs."""
        return self.low <= 0 <= self.high


@dataclass(frozen=True)
class ComparedRow:
    """One value of one group in every run; None where it is undefined or the run is refused."""

    metric: str
    group: str
    estimates: tuple[Estimate | None, ...]
    differences: tuple[Difference | None, ...]
    """To the first run; its own is None."""


@dataclass(frozen=True)
class Comparison:
    """Runs against the first of them."""

    names: tuple[str, ...]
    refused: dict[str, str]
    """Runs that cannot be compared with the first, and why not."""
    rows: tuple[ComparedRow, ...]
    provenances: tuple[Mapping[str, Value], ...]
    confidence: float
    warnings: tuple[str, ...] = ()
    """What to know before believing the values, with the run that it is of where it is not of all."""

    @property
    def by_chance(self) -> float:
        """How many differences would leave 0 out if no run differed from the first at all."""
        count = sum(d is not None for row in self.rows for d in row.differences)
        return (1 - self.confidence) * count


def compare(
    names: Sequence[str], evaluations: Sequence[Evaluation], confidence: float
) -> Comparison:
    """Compare evaluations with the first one, with paired intervals.

    Values that are undefined in all of them have no row.

    Args:
        names: of the runs, all different.
        evaluations: as many.
        confidence: level of every interval.
    """
    first = evaluations[0]
    reasons = [_refusal(first, other) for other in evaluations]
    compared = [
        e if reason is None else None for e, reason in zip(evaluations, reasons, strict=True)
    ]
    present = {key for e in compared if e for key in (*e.replicates, *e.given)}
    keys = [(n, g) for n in OUTPUTS for g in first.groups if f"{n}/{g}" in present]
    rows = (_row(metric, group, compared, confidence) for metric, group in keys)
    return Comparison(
        tuple(names),
        {name: why for name, why in zip(names, reasons, strict=True) if why is not None},
        tuple(row for row in rows if any(row.estimates)),
        tuple(e.provenance for e in evaluations),
        confidence,
        _warnings({name: e for name, e in zip(names, compared, strict=True) if e is not None})
        + _without_differences(compared),
    )


def _warnings(compared: Mapping[str, Evaluation]) -> tuple[str, ...]:
    lines = []
    for line in dict.fromkeys(line for e in compared.values() for line in e.warnings):
        of = [name for name, e in compared.items() if line in e.warnings]
        lines.append(line if len(of) == len(compared) else f"{', '.join(of)}: {line}")
    return tuple(lines)


def _without_differences(compared: Sequence[Evaluation | None]) -> tuple[str, ...]:
    """Return a line for values whose differences have no intervals."""
    given = {key.partition("/")[0] for e in compared if e for key in e.given}
    titles = " and ".join(output.title for name, output in OUTPUTS.items() if name in given)
    if not titles or len(compared) < 2:
        return ()
    line = (
        f"differences of {titles} have no intervals: it is of classifiers, not of images that are resampled; "
        "look at the interval of each (balancing.seeds)"
    )
    return (line,)


def difference(
    metric: str, replicates: Floats, first: Floats, confidence: float
) -> Difference | None:
    """Return a metric's difference between two evaluations that were resampled alike.

    Resample b takes the same real images in both, and the same rows of the generated ones. What
    that does to both values alike cancels in the difference of their replicates (the paired
    bootstrap; Koehn, EMNLP 2004), so its interval is narrower than those of the values suggest.

    Args:
        metric: a key of `OUTPUTS`.
        replicates: (1 + B,), those of the other run.
        first: (1 + B,), those of the run that it is compared with.
        confidence: level of the interval.

    Returns:
        `replicates` less `first`; None where either is undefined.
    """
    between: Floats = np.asarray(replicates, np.float64) - np.asarray(first, np.float64)
    about = OUTPUTS[metric]
    low, high = about.bounds
    interval = (
        recentred_interval(between, confidence, (low - high, high - low))
        if about.interval == "recentred"
        else percentile_interval(between, confidence)
    )
    return Difference(interval.value, interval.low, interval.high) if interval else None


def read_evaluation(folder: Path, name: str | None = None) -> Evaluation:
    """Read what `Report.save` wrote.

    Args:
        name: what to call it, where the folder is a copy.

    Raises:
        DataProblem: files that are missing or damaged.
    """
    try:
        report = Report.load(folder)
        # opened here, because NumPy leaves a damaged archive open
        with (
            (folder / REPLICATES).open("rb") as stream,
            np.load(stream, allow_pickle=False) as file,
        ):
            replicates = {key: file[key].astype(np.float64) for key in file.files}
        counts = {row.class_id: row.n_generated for row in report.per_class}
        groups = {row.name: {c: counts[c] for c in row.classes} for row in report.rows}
    except FileNotFoundError as error:
        raise DataProblem(
            f"{name or folder} has no {Path(error.filename).name}",
            "name a finished evaluation, or make it with `whipray evaluate`",
        ) from error
    except (OSError, EOFError, ValueError, KeyError, TypeError, BadZipFile, zlib.error) as error:
        raise DataProblem(
            f"the evaluation in {name or folder} is damaged ({type(error).__name__})",
            "delete it and make it again with `whipray evaluate`",
        ) from error
    given = {
        f"{name}/{row.name}": estimate
        for row in report.rows
        for name, estimate in row.values.items()
        if OUTPUTS[name].interval == "given"
    }
    return Evaluation(report.provenance, replicates, groups, report.warnings, given)


def _refusal(first: Evaluation, other: Evaluation) -> str | None:
    """Return why the other run cannot be compared with the first, with the values of both."""
    a, b = first.provenance, other.provenance
    field = comparable(a, b) or next((f for f in PAIRED if a.get(f) != b.get(f)), None)
    if field is not None:
        return f"{(COMPARED | PAIRED)[field]}: {field} is {b.get(field)}, not {a.get(field)}"
    for group in {**first.groups, **other.groups}:
        ours, its = first.groups.get(group, {}), other.groups.get(group, {})
        if ours.keys() != its.keys():
            return f"{COMPARED['groups']}: {group} is {_listed(its)}, not {_listed(ours)}"
        for c in ours:
            if ours[c] != its[c]:
                return f"{COMPARED['n_generated']}: class {c} has {its[c]}, not {ours[c]}"
    return None


def alike(metric: str, other: Evaluation, first: Evaluation | None) -> bool:
    """Return whether this metric was computed alike in evaluations that are comparable otherwise."""
    fields = METRIC_OF[metric].compared_for_outputs
    return first is not None and all(
        other.provenance.get(field) == first.provenance.get(field) for field in fields
    )


def _listed(classes: Mapping[int, int]) -> str:
    return f"classes {', '.join(map(str, sorted(classes)))}" if classes else "empty"


def _row(
    metric: str, group: str, compared: Sequence[Evaluation | None], confidence: float
) -> ComparedRow:
    key = f"{metric}/{group}"
    if OUTPUTS[metric].interval == "given":
        values = tuple(e.given.get(key) if e else None for e in compared)
        return ComparedRow(metric, group, values, (None,) * len(values))
    of_runs = [e.replicates.get(key) if e else None for e in compared]
    estimates = (
        OUTPUTS[metric].estimate(replicates, sum(e.groups[group].values()), confidence)
        if e is not None and replicates is not None
        else None
        for e, replicates in zip(compared, of_runs, strict=True)
    )
    first = compared[0]
    differences = (
        difference(metric, replicates, of_runs[0], confidence)
        if e is not None
        and replicates is not None
        and of_runs[0] is not None
        and alike(metric, e, first)
        else None
        for e, replicates in zip(compared[1:], of_runs[1:], strict=True)
    )
    return ComparedRow(metric, group, tuple(estimates), (None, *differences))
