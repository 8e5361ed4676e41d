"""The result of `whipray diffult`: one document, as it is kept, shown and recorded."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ....trainers.errors import Problem
from ....trainers.integrity import Altered, seal, unseal
from ...balancing.summary import flat_metrics
from ...generation.shards import short_hash
from ...storage import layout
from ...storage.errors import MissingObject
from ...storage.store import Storage
from ...tracking.tracker import open_tracker
from .content import Step as PageStep
from .materials import Materials
from .published import protocol_differences, published_rows
from .report import render_result

FORMAT = 1
"""Of the document; raise it when a value changes its meaning."""
QUALITY = ("fid/", "kid/")
"""Metrics of the diffusion model's evaluation that a result repeats."""
QUALITY_OF = ("extractor", "n_generated", "reference_source")
"""What they are of: FIDs by another extractor or of another number of images do not compare."""


@dataclass(frozen=True)
class DiffultResult:
    """A result, and where it is kept."""

    document: dict[str, Any]
    uri: str
    """Of the document in the store."""
    page: str
    """Path of the page in the run's folder."""
    page_uri: str
    note: str | None
    """Why it is not in MLflow; None where it is."""


def keep(
    materials: Materials, document: Mapping[str, Any], steps: Sequence[PageStep]
) -> DiffultResult:
    """Write a result and its page into the run's folder, and add both to the run's MLflow run.

    Args:
        document: as `make_document` returns it.
        steps: what this call did.
    """
    order, store = materials.order, materials.order.store
    content = short_hash(document)
    name, page = layout.diffult_result(content), layout.diffult_page(content)
    html = _kept_page(store, name, page, document)
    if html is None:
        html = render_result(document, steps)
        store.write_text(page, html)
        store.write_text(name, json.dumps(seal(document), indent=1))  # last: the result exists now
    note = None
    try:
        tracker = open_tracker(order.experiment.tracking, order.root)
        run = tracker.find(layout.run_address(order.run).key)
        run.log_json(document, f"{page.removesuffix('.html')}.json")
        run.log_text(html, page)
        run.log_metrics(flat_metrics(document, "diffult"), document["images_seen"])
        run.flush()
    except Problem as problem:
        note = f"not recorded in MLflow: {problem.what}"
    return DiffultResult(dict(document), store.uri_of(name), page, store.uri_of(page), note)


def _kept_page(store: Storage, name: str, page: str, document: Mapping[str, Any]) -> str | None:
    """Return the page of the call that made the result; None where there is none, or a damaged document."""
    try:
        kept = unseal(store.read_text(name))
        return store.read_text(page) if kept == json.loads(json.dumps(document)) else None
    except (Altered, MissingObject):
        return None


def make_document(materials: Materials, measured: Mapping[str, Any]) -> dict[str, Any]:
    """Return everything that a reader of the result needs, as JSON types.

    Args:
        measured: what the classifiers reached, as `balancing.arms.measure` returns it.
    """
    order, source = materials.order, materials.source
    experiment = order.experiment
    evaluation = materials.evaluation() or {"metrics": {}, "provenance": {}}
    published = published_rows(experiment)
    filters = experiment.balancing.filter
    document = {
        **measured,
        "format": FORMAT,
        "run": order.run,
        "chosen": order.chosen,
        "checkpoint": source.checkpoint,
        "model": source.manifest.content_hash(),
        "images_seen": source.manifest.images_seen,
        "to": materials.to,
        "filter": filters.model_dump(mode="json"),
        "generated": materials.counts.tolist(),
        "kept": int(materials.mask.sum()),
        "quality": {k: v for k, v in evaluation["metrics"].items() if k.startswith(QUALITY)},
        "quality_of": {key: evaluation["provenance"].get(key) for key in QUALITY_OF},
        "published": [asdict(row) for row in published],
        "protocol": [
            asdict(row)
            for row in protocol_differences(experiment, materials.to, order.seeds, bool(published))
        ],
        "warnings": [*measured["warnings"], *_warnings(materials)],
    }
    return {**document, "settings": _settings(materials, document)}


def _settings(materials: Materials, document: Mapping[str, Any]) -> dict[str, Any]:
    experiment = materials.order.experiment
    classifier = experiment.effective_classification
    chosen, by = document["chosen"], {}
    if chosen is not None:
        by["chosen"] = (
            f"trial {chosen['trial']} of {chosen['sweep']}: {chosen['rank_by']} {chosen['value']:.3g} on "
            f"validation images, the best of {chosen['complete']} trials and of the settings tried in each"
        )
    return {
        **by,
        "images of each class (N_t)": document["to"],
        "filter": experiment.balancing.filter.label,
        "weight of a generated image": classifier.generated_weight,
        "loss": classifier.loss.name,
        "epochs": f"{classifier.epochs} of {classifier.epoch_of} images",
        "objective": experiment.objective.name,
        "sampling": experiment.effective_sampling.label,
        "checkpoint": document["model"],
        "FID of the diffusion model": _fid(document),
    }


def _fid(document: Mapping[str, Any]) -> str | None:
    """Return the FID and what it is of; None where it was not computed."""
    value, of = document["quality"].get("fid/overall"), document["quality_of"]
    if value is None:
        return None
    return f"{value:.3g} by {of['extractor']}, {of['n_generated']:,} images, against {of['reference_source']}"


def _warnings(materials: Materials) -> list[str]:
    """Return what to know before believing the result, besides what the page says itself."""
    order, lines = materials.order, []
    if order.experiment.data.validation is not None:
        lines.append(
            "tested on images set apart from the training images (data.validation), not on the test images"
        )
    if order.experiment.balancing.filter.is_set and materials.mask.all():
        lines.append(
            "the filter rejects no image: `filtered`, `random` and `unfiltered` are the same images"
        )
    if "repeated" not in order.arms:
        lines.append(
            "without the arm `repeated`, a gain over real images may be due to balance alone"
        )
    return lines
