"""The model card of an exported model, in Markdown: what it is, how good, how to use it, and its limits.

The sections are those of Mitchell et al. 2019, "Model Cards for Model Reporting", as far as they can be
filled from what is stored.
"""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ...trainers.data.report import shown
from ...trainers.export import ModelCard
from ..config.experiment import Experiment
from ..config.layers import flatten
from ..evaluation.bootstrap import Estimate
from ..evaluation.metrics import METRICS, OUTPUTS
from ..evaluation.report import Report

MOST_CLASSES = 20
"""That are listed one by one; of more, the first and the last ten."""
MOST_WARNINGS = 6
TO_FILL_IN = "**to be stated by whoever passes the model on**"


@dataclass(frozen=True)
class Described:
    """What a card is about."""

    name: str
    """Of the model."""
    card: ModelCard
    experiment: Experiment
    report: Report | None = None
    """Of an evaluation of this model with these sampling settings; None where there is none."""
    origin: str = ""
    """A run or SWEEP/TRIAL."""
    verdict: str = ""
    """What a sweep says of it."""


def render_model_card(of: Described) -> str:
    """Return the card as Markdown."""
    parts = (
        [f"# {of.name}", "", _summary(of)],
        ["## Data", "", *_data(of)],
        ["## Method", "", *_method(of)],
        ["## Scores", "", *_scores(of)],
        ["## Use", "", *_use(of)],
        ["## Limits", "", *_limits(of)],
        ["## Licence", "", *_licence()],
    )
    return "\n\n".join("\n".join(part) for part in parts) + "\n"


def _summary(of: Described) -> str:
    channels, height, width = of.card.image_shape
    kind = {1: "grey", 3: "colour"}.get(channels, f"{channels}-channel")
    counts = of.card.class_counts
    text = (
        f"A diffusion model that generates {kind} images of {height} x {width} pixels, of "
        f"{len(counts)} classes. It was trained with Whipray on {sum(counts):,} images, "
        f"{max(counts):,} to {min(counts):,} of a class."
    )
    return f"{text} {of.verdict}".strip()


def _data(of: Described) -> list[str]:
    names, counts = of.card.class_names, of.card.class_counts
    order = sorted(range(len(counts)), key=lambda c: -counts[c])
    groups = {c: row.name for row in _groups(of.report) for c in row.classes}
    half = MOST_CLASSES // 2
    listed = order if len(order) <= MOST_CLASSES else [*order[:half], *order[-half:]]
    rows = [[shown(names[c]), f"{counts[c]:,}", groups.get(c, "")] for c in listed]
    if len(listed) < len(order):
        rows.insert(half, [f"... {len(order) - len(listed):,} more", "", ""])
    data = of.experiment.data
    return [
        f"Source: `{data.source}`, long tail: `{data.long_tail.kind}`. Classes, from head to tail:",
        "",
        *_table(["class", "training images", "group"], rows),
    ]


def _method(of: Described) -> list[str]:
    experiment, card = of.experiment, of.card
    values = flatten(experiment)
    deciding = [
        f"{key}={value}"
        for key, value in values.items()
        if key.startswith(("objective.", "augmentation."))
        or key in ("pretrained.model", "optimizer.lr")
        if value not in (None, [], {}) and not key.endswith(".name")
    ]
    origin = f" Run: `{of.origin}`." if of.origin else ""
    return [
        (
            f"- Objective `{experiment.objective.name}`, network `{card.model.name}`, noise process "
            f"`{card.process.name}`.{origin}"
        ),
        f"- Settings: {', '.join(f'`{each}`' for each in deciding) or 'the defaults'}.",
        (
            f"- {card.images_seen:,} images seen in training, batches of "
            f"{experiment.training.batch_size:,}; checkpoint `{card.checkpoint[:16]}`."
        ),
        f"- Sampled by {card.sampling.label}, unless asked otherwise.",
    ]


def _scores(of: Described) -> list[str]:
    report = of.report
    if report is None:
        return ["This model was not evaluated with these sampling settings."]
    about = report.provenance
    names = [name for name in OUTPUTS if any(name in row.values for row in report.rows)]
    rows = [
        [
            row.name,
            f"{row.n_generated:,}",
            f"{row.n_real:,}",
            *(_value(row.values.get(n)) for n in names),
        ]
        for row in report.rows
    ]
    overall = next(row.values for row in report.rows if row.name == "overall")
    copies = [
        f"{name} {_value(overall[name])}"
        for name in METRICS["memorisation"].outputs
        if name in overall
    ]
    near = (
        f"Near copies of training images, as a share of the generated ones: {', '.join(copies)}."
        if copies
        else "Near copies of training images were not looked for."
    )
    warnings = [f"- {line}" for line in report.warnings[:MOST_WARNINGS]]
    if len(report.warnings) > MOST_WARNINGS:
        warnings.append(f"- and {len(report.warnings) - MOST_WARNINGS} more")
    return [
        *_table(["classes", "generated", "real", *names], rows),
        "",
        (
            f"[low, high]: {about.get('confidence', 0.95):.0%} intervals over the choice of images, not "
            f"over trainings. Features: extractor `{about.get('extractor')}` "
            f"(`{str(about.get('extractor_hash'))[:12]}`). Real images: "
            f"{about.get('reference_source', 'not stored')}, {about.get('reference_per_class', '?')} of a "
            "class."
        ),
        "",
        near,
        *(["", "Before you believe the scores:", "", *warnings] if warnings else []),
    ]


def _use(of: Described) -> list[str]:
    first = json.dumps(of.card.class_names[0], ensure_ascii=False)
    question = {"dataframe_records": [{"class_id": 0}], "params": {"format": "png"}}
    return [
        "With `pip install torch safetensors pydantic numpy` and Whipray itself without its requirements:",
        "",
        "```python",
        "import whipray",
        "",
        'model = whipray.load_model("FOLDER")  # with model.json and model.safetensors',
        f"images = model.sample([{first}], n=4, seed=0)  # uint8, (4, C, H, W)",
        "```",
        "",
        f"Where it is registered in MLflow: `whipray sample models:/{of.name}`, or",
        f"`mlflow models serve -m models:/{of.name}/latest --env-manager local`, asked `{json.dumps(question)}`.",
    ]


def _limits(of: Described) -> list[str]:
    counts, names = of.card.class_counts, of.card.class_names
    rarest = counts.index(min(counts))
    return [
        "- It knows these classes alone, at this size.",
        (
            f"- Of small classes it knows what few images show: {shown(names[rarest])} has "
            f"{counts[rarest]:,}. Look at its near copies before you publish its images."
        ),
        "- Scores hold for these sampling settings, this extractor and these real images.",
        "- What the training images lack or overrepresent, the generated ones do too.",
    ]


def _licence() -> list[str]:
    return [
        f"- Code: Whipray {_version()}, Apache-2.0.",
        f"- Training images: {TO_FILL_IN}.",
        f"- Weights, which may reproduce training images: {TO_FILL_IN}.",
    ]


def _version() -> str:
    try:
        return importlib.metadata.version("whipray")
    except importlib.metadata.PackageNotFoundError:
        return ""


def _groups(report: Report | None) -> Iterable[Any]:
    return [row for row in report.rows if row.name != "overall"] if report else []


def _value(estimate: Estimate | None) -> str:
    if estimate is None:
        return ""
    return f"{estimate.value:.3g} [{estimate.low:.3g}, {estimate.high:.3g}]"


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return a table of Markdown; what a cell holds cannot end it."""
    lines = [titles, ["---"] * len(titles), *rows]
    return [
        f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines
    ]
