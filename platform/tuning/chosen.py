"""The point that a sweep chose on validation images, to be trained once more on all training images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...trainers.errors import UsageProblem
from ..analysis.diffult.order import chosen_layer
from ..config.experiment import Experiment, load_experiment, with_values
from ..config.layers import Resolved
from ..config.parameters import Values
from ..storage.store import Storage
from .sweep import stored_sweep
from .sweep_result import best_row

NO_VALIDATION: Values = {"data.validation": None}


@dataclass(frozen=True)
class Chosen:
    """The best point of a sweep.

    Args:
        trial: its number.
        values: by which it differs from the others, of both levels, by dotted key.
        rank_by: what it is the best by.
        value: of `rank_by`, on validation images; it owes to the choice among `complete` trials.
        complete: trials that finished.
        experiment: the point on all training images, tested on those that no trial has read.
    """

    trial: int
    values: Values
    rank_by: str
    value: float
    complete: int
    experiment: Experiment


def chosen_point(root: Storage, name: str) -> Chosen:
    """Return the best point of a sweep.

    Args:
        root: the store's top.
        name: of the sweep.

    Raises:
        UsageProblem: no such sweep, none of its trials finished, or it chose by other than validation images.
        Problem: what the store has of it is damaged.
    """
    sweep = stored_sweep(root, name)
    if sweep.experiment.data.validation is None:
        raise UsageProblem(
            f"sweep {name} chose by the images to test on: they say nothing of the chosen point any more",
            "search with data.validation.share=0.2, which sets training images apart for it",
        )
    with sweep.open_study() as study:
        rows = study.table()
    best = best_row(rows, sweep.experiment.evaluation.goal)
    if best is None:
        raise UsageProblem(
            f"no training of sweep {name} has finished", "run its command again with --resume"
        )
    baselines = {baseline.name: baseline.values() for baseline in sweep.space.baselines}
    trained = baselines.get(best["baseline"], {}) if best["baseline"] else best["values"]
    values = {**trained, **best["attrs"]["summary"].get("values", {})}
    trial = sweep.points.experiment_for(values, f"trial {best['number']}")
    experiment = with_values(trial, NO_VALIDATION, "the chosen point")
    experiment = experiment.model_copy(update={"storage": root.config})
    complete = sum(row["state"] == "complete" for row in rows)
    rank_by = sweep.experiment.evaluation.rank_by
    return Chosen(best["number"], values, rank_by, float(best["value"]), complete, experiment)


def load_recipe(
    recipe: str, overrides: list[str], chosen: str | None
) -> tuple[Resolved[Experiment], str, dict[str, Any] | None]:
    """Return a recipe of DiffuLT's pipeline, over which the best point of a sweep is laid if one is named.

    Args:
        recipe: a packaged recipe's name, or a YAML file.
        chosen: name of a sweep in the recipe's store.

    Returns:
        the config, the name of its run where none is given, and which point it is, as JSON types.

    Raises:
        UsageProblem, Problem: as `chosen_point`; or an override that no experiment has.
    """
    known = load_experiment(recipe, overrides)
    if chosen is None:
        return known, Path(recipe).stem, None
    point = chosen_point(Storage(known.value.storage), chosen)
    facts = {
        "sweep": chosen,
        "trial": point.trial,
        "rank_by": point.rank_by,
        "value": point.value,
        "complete": point.complete,
        "values": point.values,
    }
    layer = chosen_layer(f"trial {point.trial} of {chosen}", point.experiment)
    return load_experiment(recipe, overrides, [layer]), f"{chosen}-chosen", facts
