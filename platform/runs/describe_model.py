"""What is stored of an exported model: its run's experiment, and the evaluation that fits it."""

from __future__ import annotations

from pathlib import Path

from ...trainers.errors import Problem
from ...trainers.export import ModelCard
from ...trainers.integrity import Altered, unseal
from ...trainers.sampling import SamplingConfig
from ...trainers.scratch import Scratch
from ..config.experiment import read_experiment
from ..evaluation.report import Report
from ..storage import layout
from ..storage.checkpoints import CheckpointStore
from ..storage.store import Storage
from .model_card import Described, render_model_card


def describe_model(
    store: Storage, checkpoint: str, card: ModelCard, name: str, origin: str, verdict: str = ""
) -> str:
    """Return the model card of a run's model, with the scores that the store has of it.

    Args:
        store: the run's folder.
        checkpoint: its name.
        card: of the exported model.
        name: of the model.
        origin: a run or SWEEP/TRIAL.
        verdict: what a sweep says of it.
    """
    manifest = CheckpointStore(store).read_manifest(checkpoint)
    experiment = read_experiment(manifest.config, store.uri)
    report = find_report(store, card.checkpoint, card.sampling, experiment.seed)
    return render_model_card(Described(name, card, experiment, report, origin, verdict))


def find_report(
    store: Storage, checkpoint: str, sampling: SamplingConfig, seed: int
) -> Report | None:
    """Return the evaluation of a checkpoint at sampling settings that has most metrics; None without one.

    Args:
        store: the run's folder.
        checkpoint: its content hash.
        sampling: as the images were generated.
        seed: of their noise; a search has another, which its choice has made look too good.
    """
    found = find_evaluation(store, checkpoint, sampling, seed)
    if found is None:
        return None
    with Scratch() as scratch:
        store.get_file(
            f"{found}/{layout.EVALUATION_REPORT}", Path(scratch) / layout.EVALUATION_REPORT
        )
        return Report.load(Path(scratch))


def find_evaluation(
    store: Storage, checkpoint: str, sampling: SamplingConfig, seed: int
) -> str | None:
    """Return the folder of the same evaluation, in the run's."""
    wanted = {"checkpoint": checkpoint, "seed": seed, **sampling.facts()}
    evaluations = []
    for folder in layout.evaluations_in(store.list(layout.EVALUATIONS)):
        try:
            result = unseal(store.read_text(f"{folder}/{layout.EVALUATION_RESULT}"))
            about = result["provenance"]
        except (Altered, Problem, LookupError, OSError):
            continue  # unfinished or damaged
        if all(about.get(key) == value for key, value in wanted.items()):
            evaluations.append((len(result["metrics"]), about["n_generated"], folder))
    return max(evaluations)[2] if evaluations else None
