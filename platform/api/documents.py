"""What a training, a sweep or an evaluation returns, as JSON types: also what `--json` prints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..storage.layout import EVALUATION_PAGE

if TYPE_CHECKING:  # large; the callers have imported them
    from ..analysis.balance.result import BalanceResult
    from ..analysis.classify.result import RecordedClassification
    from ..analysis.compare import ComparisonResult
    from ..analysis.diffult.result import DiffultResult
    from ..analysis.guidance import GuidanceResult
    from ..analysis.sample_files import Samples
    from ..analysis.target import EvaluationResult
    from ..housekeeping.garbage import Garbage
    from ..housekeeping.inventory import Inventory
    from ..housekeeping.listing import Entry
    from ..housekeeping.removal import Removal
    from ..inspection.facts import Inspection
    from ..proposal.propose import Proposal
    from ..runs.run import RunResult
    from ..runs.single_run import SingleRun
    from ..storage.store import Storage
    from ..tracking.versions import Version
    from ..tuning.champion import Champion
    from ..tuning.sweep import Sweep
    from ..tuning.sweep_result import SweepResult

Document = dict[str, Any]


def run_document(single: SingleRun, result: RunResult) -> Document:
    """Return a finished run: names, checkpoint, metrics, sampling settings, address of the page."""
    assert result.best is not None
    return {
        "run": single.name,
        "mlflow_run": single.run_id,
        **result.summary(),
        "report": single.store.uri_of(f"{result.best.folder}/{EVALUATION_PAGE}"),
    }


def sweep_document(sweep: Sweep, result: SweepResult, champion: Champion | None) -> Document:
    """Return a finished sweep: all trials, the best one, and its registered version."""
    return {
        "sweep": sweep.name,
        "mlflow_run": result.parent.run_id,
        "rank_by": sweep.experiment.evaluation.rank_by,
        "trials": result.rows,
        "best": result.best["number"] if result.best else None,
        "model": champion.version.uri if champion else None,
        "champion": champion is not None and champion.reason_not_promoted is None,
        "grid": champion.grid if champion else None,
        "verdict": champion.verdict.sentence if champion else None,
        "not_distinguished": list(champion.verdict.not_distinguished) if champion else [],
        "warnings": list(champion.warnings) if champion else [],
    }


def evaluation_document(result: EvaluationResult) -> Document:
    """Return an evaluation: metrics, how they were measured, address of the page."""
    target, evaluated = result.target, result.evaluated
    return {
        "run": target.name,
        "checkpoint": target.run.checkpoint,
        "metrics": evaluated.metrics,
        "provenance": evaluated.provenance,
        "warnings": list(evaluated.warnings),
        "images_generated": result.images_generated,
        "report": target.run.store.uri_of(result.page),
        "note": result.note,
    }


def version_document(version: Version) -> Document:
    """Return a registered version: name, version, aliases, tags, address, and the run that it is of."""
    return {**vars(version), "uri": version.uri, "origin": version.origin}


def comparison_document(root: Storage, result: ComparisonResult) -> Document:
    """Return a comparison: rows, differences with intervals, address of the page."""
    return {**result.document(), "page": root.uri_of(result.page)}


def guidance_document(result: GuidanceResult) -> Document:
    """Return a measurement over guidance: points, the best of each group, address of the page."""
    return {**result.document(), "page": result.store.uri_of(result.page)}


def classification_document(recorded: RecordedClassification) -> Document:
    """Return what classifiers gained, how many were trained now, and the document's address."""
    result = recorded.result
    trained = {"classifiers_trained": result.trained, "result": recorded.uri}
    return {**result.document, **trained}


def diffult_document(result: DiffultResult) -> Document:
    """Return a result of DiffuLT's pipeline, the addresses of the document and the page, and whether MLflow has it."""
    where = {"result": result.uri, "page": result.page_uri, "note": result.note}
    return {**result.document, **where}


def balance_document(result: BalanceResult) -> Document:
    """Return a balanced set: counts of each class, distances, where it is, address of the datasheet."""
    return result.document()


def inspection_document(inspection: Inspection) -> Document:
    """Return what images hold, what is wrong with them, and whether anything can be trained on them."""
    return {"usable": inspection.problem() is None, **inspection.as_json()}


def proposal_document(file: Path, proposal: Proposal) -> Document:
    """Return a proposed recipe, its file, the times that it takes, and what the images hold."""
    return {
        "file": str(file),
        "recipe": proposal.values,
        "warnings": list(proposal.warnings),
        "times": proposal.times,
        "inspection": proposal.inspection.as_json(),
    }


def runs_document(inventory: Inventory, entries: Sequence[Entry]) -> Document:
    """Return what a store holds: its address, its size, and a row for each run and sweep."""
    return {
        "store": inventory.root.uri,
        "bytes": sum(file.bytes for file in inventory.files.values()),
        "runs": [asdict(entry) for entry in entries],
    }


def removal_document(removal: Removal) -> Document:
    """Return what was removed, with sizes."""
    rows = [{"run": run.target, "bytes": run.bytes} for run in removal.runs]
    return {"removed": rows, "bytes": removal.bytes}


def garbage_document(garbage: Sequence[Garbage], freed: bool) -> Document:
    """Return what nothing refers to any more, with sizes, and whether it was removed."""
    rows = [asdict(each) for each in garbage]
    return {"garbage": rows, "bytes": sum(each.bytes for each in garbage), "freed": freed}


def samples_document(target: str, samples: Samples) -> Document:
    """Return which images were generated, their files, and near copies where they were looked for."""
    document: Document = {
        "target": target,
        "classes": list(samples.chosen.ids),
        "class_names": [samples.card.class_names[c] for c in samples.chosen.ids],
        "images": samples.images,
        "files": samples.files,
    }
    if samples.copies is not None:
        document["copies"] = {**samples.copies.summary(), "table": str(samples.table)}
    return document
