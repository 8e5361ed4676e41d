"""One evaluation as a page: the groups, every class, the worst of them, and how the values were computed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ...foundation.durations import minutes
from ..extractors.base import Value
from ..extractors.config import IMAGENET
from ..extractors.nothing import Nothing
from ..metrics import OUTPUTS
from ..metrics.base import MetricOutput
from ..report import COMPARED, ClassRow, Report, Row
from .charts import WHISKERS, class_chart
from .content import CopyPair, CurvePoint, Pictures, TrainingRecord, WorstClass
from .curves import curves
from .formatting import Cell, cells, ends
from .page import render
from .previews import moment_of
from .tiles import Strip, png, strip
from .training_curves import training_charts

GLANCE = ("fid", "kid", "recall", "agreement", "accuracy")
"""Values at the top of the page, as far as they exist."""
CURVES = ("fid/overall", "kid/few", "recall/overall", "accuracy/overall", "accuracy/few")
OPEN = 40
"""Up to this many classes the table is open; with more it is folded."""
TILES = 6
"""Images a side of a worst class."""
PAIRS = 24
"""Near copies that are shown."""


@dataclass(frozen=True)
class Forest:
    """One value of every group on one axis."""

    name: str
    output: MetricOutput
    rows: tuple[tuple[Row, Cell | None], ...]


def render_report(
    report: Report,
    pictures: Pictures,
    curve: Sequence[CurvePoint] = (),
    training: TrainingRecord | None = None,
) -> str:
    """Return the report as one self-contained HTML page; sections without content are left out.

    Args:
        report: the values.
        pictures: samples, worst classes and near copies.
        curve: the guidance search that the setting came from; plotted from two points on.
        training: what it logged, and its previews.
    """
    provenance, rows = report.provenance, report.per_class
    training = training or TrainingRecord()
    return render(
        "report.html.jinja",
        provenance=provenance,
        name=_name(provenance),
        comparable=comparability(provenance),
        warnings=report.warnings,
        glance=_glance(report.rows),
        rows=report.rows,
        train=_train_counts(report),
        forests=_forests(report.rows),
        chart=class_chart(rows),
        outputs={name: OUTPUTS[name] for name in _present(rows)},
        classes=_class_table(rows),
        largest=max((row.train_count for row in rows), default=0) or 1,
        plots=len(rows) <= WHISKERS,
        open=len(rows) <= OPEN,
        worst=[_worst(worst) for worst in pictures.worst],
        grid=png(pictures.grid) if pictures.grid else None,
        grid_width=pictures.grid.width if pictures.grid else 0,
        curves=curves(curve, CURVES),
        learning=training_charts(training.series),
        preview=moment_of(training.preview) if training.preview else None,
        previews=training.previews,
        copies=_copies(report.rows),
        pairs=[_pair(pair) for pair in pictures.copies[:PAIRS]],
        method=_method(report),
        seconds=[(piece, _duration(taken)) for piece, taken in report.seconds.items()],
        must_agree=[(k, v) for k, v in provenance.items() if k in COMPARED],
        other=[(k, v) for k, v in provenance.items() if k not in COMPARED],
    )


def comparability(provenance: Mapping[str, Value]) -> tuple[str, str]:
    """Return with what the values can be compared: in a few words, and in a sentence or two."""
    name = str(provenance.get("extractor", "an unnamed extractor"))
    if provenance.get("extractor_as_published"):
        about = (
            "that were measured at the same number of images and against the same reference: the "
            f"features come from {name} with the published weights. FID falls as images are added, "
            "so that scores at different numbers of images do not compare."
        )
        return "Comparable with published Inception scores", about
    if name == Nothing.info.name:
        about = "There are no features: the values are the accuracy of classifiers on real images."
        return "Comparable with accuracies on the same real images", about
    made = "which is not the network of published scores"
    if "inception" in name.lower():
        made = "with weights other than the published ones"
    elif "extractor_trained_on" in provenance:
        made = "trained on this data set's reference images"
    elif name == IMAGENET:
        made = "with its published ImageNet weights, the same on every machine"
    about = (
        f"The features come from {name}, {made}. They compare with values of the same extractor "
        "(the same hash), reference and number of images, and with nothing else."
    )
    return "Not comparable with published Inception scores.", about


def _name(provenance: Mapping[str, Value]) -> Value:
    return next((provenance[k] for k in ("run", "model", "checkpoint") if provenance.get(k)), None)


def _present(rows: Sequence[Row | ClassRow]) -> list[str]:
    return [name for name in OUTPUTS if any(name in row.values for row in rows)]


def _forests(rows: Sequence[Row]) -> list[Forest]:
    return [
        Forest(
            name,
            OUTPUTS[name],
            tuple(zip(rows, cells(OUTPUTS[name], [r.values.get(name) for r in rows]), strict=True)),
        )
        for name in _present(rows)
    ]


def _glance(rows: Sequence[Row]) -> list[tuple[MetricOutput, Cell, Cell | None]]:
    """Return the values of all classes and, with each, those of the few."""
    few = next((row for row in rows if row.name == "few"), None)
    shown = []
    for name in GLANCE:
        estimates = [rows[0].values.get(name), few.values.get(name) if few else None]
        overall, tail = cells(OUTPUTS[name], estimates)
        if overall:
            shown.append((OUTPUTS[name], overall, tail))
    return shown


def _train_counts(report: Report) -> dict[str, int]:
    """Return the number of training images by row."""
    counts = {row.class_id: row.train_count for row in report.per_class}
    return {row.name: sum(counts.get(c, 0) for c in row.classes) for row in report.rows}


def _class_table(rows: Sequence[ClassRow]) -> list[tuple[ClassRow, list[Cell | None]]]:
    columns = [cells(OUTPUTS[n], [row.values.get(n) for row in rows]) for n in _present(rows)]
    return [(row, [column[i] for column in columns]) for i, row in enumerate(rows)]


def _method(report: Report) -> list[tuple[str, str]]:
    """Return a heading and a text about each metric that the report has."""
    notes = dict.fromkeys(note for n in _present(report.rows) if (note := OUTPUTS[n].note))
    settings = defaultdict(lambda: "as configured", report.provenance)
    return [(note.heading, note.text.format_map(settings)) for note in notes]


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else minutes(seconds)


def _worst(worst: WorstClass) -> tuple[ClassRow, str, Strip | None, Strip | None]:
    kid = worst.row.values.get("kid")
    text = f"{kid.value:.4f} ({ends(kid.low, kid.high, 4)})" if kid else "too few images"
    real, generated = (
        strip(side[:TILES]) if len(side) else None for side in (worst.real, worst.generated)
    )
    return worst.row, text, real, generated


def _copies(rows: Sequence[Row]) -> list[tuple[Row, int, int, Cell]]:
    """Return how many near copies each group has, those of other classes, and the share of all."""
    known = [row for row in rows if "copies" in row.values]
    shares = cells(OUTPUTS["copies"], [row.values["copies"] for row in known])
    return [
        (row, _count(row, "copies"), _count(row, "copies_across"), share)
        for row, share in zip(known, shares, strict=True)
        if share
    ]


def _count(row: Row, share: str) -> int:
    return round(row.values[share].value * row.n_generated)


def _pair(pair: CopyPair) -> tuple[CopyPair, Strip]:
    return pair, strip(np.stack([pair.generated, pair.nearest]))
