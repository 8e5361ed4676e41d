"""Compare runs and measure them, with the functions behind the commands of the same names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from ..storage.store import Storage
from .documents import (
    balance_document,
    classification_document,
    comparison_document,
    diffult_document,
    guidance_document,
)
from .stores import open_store


def compare(
    runs: Sequence[str],
    overrides: Sequence[str] = (),
    *,
    storage: Storage | str | None = None,
    tracking: str | None = None,
) -> dict[str, Any]:
    """Compare runs with the first of them, with paired intervals; what is known already is reused.

    Args:
        runs: two or more, each a run, SWEEP/TRIAL, or models:/NAME@ALIAS.
        overrides: of `sampling.*`, `evaluation.*` and `scaling.*`, for each of them.
        storage: the store of the runs; None: WHIPRAY_STORAGE, or ./whipray-runs.
        tracking: MLflow's address; None: MLFLOW_TRACKING_URI, or beside the runs.

    Returns:
        the document that `whipray compare --json` prints: rows with differences, and the page's address.

    Raises:
        UsageProblem: fewer than two runs, the same run twice, or no such run.
    """
    from ..analysis.compare import compare_runs

    root = open_store(storage)
    result = compare_runs(root, tracking, runs, overrides, lambda _line: None)
    return comparison_document(root, result)


def guidance(
    reference: str,
    overrides: Sequence[str] = (),
    *,
    omega: Sequence[float] | None = None,
    kinds: Sequence[str] | None = None,
    sampler: Sequence[str] | None = None,
    steps: Sequence[int] | None = None,
    over: Mapping[str, Sequence[Any]] | None = None,
    storage: Storage | str | None = None,
    tracking: str | None = None,
) -> dict[str, Any]:
    """Measure quality over guidance: every combination of the values, from the same noise.

    Args:
        reference: a run, SWEEP/TRIAL, or models:/NAME@ALIAS.
        overrides: of `sampling.*`, `evaluation.*` and `scaling.*`.
        omega: strengths; None: 0, 0.5, 1, 1.5, 2 and 3.
        kinds: of guidance, by name; None: the run's.
        sampler: by name; None: the run's.
        steps: of the sampler; None: the run's.
        over: values of any other sampling setting, by its key: `{"low": [0.2, 0.5]}`.
        storage: the store of the runs; None: WHIPRAY_STORAGE, or ./whipray-runs.
        tracking: MLflow's address; None: MLFLOW_TRACKING_URI, or beside the runs.

    Returns:
        the document that `whipray guidance --json` prints: points, the best of each group, and the page's
        address.

    Raises:
        UsageProblem: no such run, or a value that its sampler or guidance does not take.
    """
    from ..analysis.guidance import measure_guidance
    from ..analysis.guidance_points import GUIDANCE, OMEGA, SAMPLER, STEPS, dotted_key

    given = {OMEGA: omega, GUIDANCE: kinds, SAMPLER: sampler, STEPS: steps}
    lists = {key: list(values) for key, values in given.items() if values is not None}
    lists |= {dotted_key(key): list(values) for key, values in (over or {}).items()}
    result = measure_guidance(
        open_store(storage), tracking, reference, overrides, lists, lambda _line: None
    )
    return guidance_document(result)


def classify(
    run: str,
    overrides: Sequence[str] = (),
    *,
    per_class: int | None = None,
    fill_to: int | None = None,
    control: bool = True,
    seeds: int = 1,
    workers: int | Literal["all"] = 1,
    storage: Storage | str | None = None,
    tracking: str | None = None,
) -> dict[str, Any]:
    """Measure whether a run's generated images help a classifier; what is known already is reused.

    Args:
        run: a run, or SWEEP/TRIAL.
        overrides: of `classification.*`, `sampling.*`, `evaluation.groups.*` and `scaling.*`.
        per_class: generated images of every class; this or `fill_to`.
        fill_to: generate as many as each class lacks of this many.
        control: also train on as many copies of real images, since balance alone helps.
        seeds: classifiers of each kind.
        workers: processes at a time; more than 1 run on Ray.
        storage: the store of the runs; None: WHIPRAY_STORAGE, or ./whipray-runs.
        tracking: MLflow's address; None: MLFLOW_TRACKING_URI, or beside the runs.

    Returns:
        the document that `whipray classify --json` prints.

    Raises:
        UsageProblem: no such run, impossible counts, or an override of anything else.
    """
    from ..analysis.classify.classify import classify_and_record

    recorded = classify_and_record(
        open_store(storage),
        tracking,
        run,
        overrides,
        lambda _line: None,
        per_class=per_class,
        fill_to=fill_to,
        control=control,
        seeds=seeds,
        workers=workers,
    )
    return classification_document(recorded)


def balance(
    reference: str,
    overrides: Sequence[str] = (),
    *,
    to: int | None = None,
    filters: Sequence[str] | None = None,
    out: Path | str | None = None,
    form: Literal["folder", "parquet", "torchvision"] = "folder",
    checkpoint: str | None = None,
    seed: int | None = None,
    workers: int | Literal["all"] = 1,
    storage: Storage | str | None = None,
    tracking: str | None = None,
) -> dict[str, Any]:
    """Fill classes up with a model's images, leave out what harms, and write the set.

    Args:
        reference: a run, SWEEP/TRIAL, or models:/NAME@ALIAS.
        overrides: of `sampling.*`, `balancing.*`, `classification.*`, `scaling.*`, `evaluation.groups.*` and
            `evaluation.memorisation.*`.
        to: images of each class; None: `balancing.to`, else as many as the largest class has.
        filters: what is kept, as `probability>=5e-7` or `no_copies`; None: `balancing.filter`.
        out: folder of the set; None: counts, distances and the datasheet alone.
        form: how the images lie in it.
        checkpoint: name of a certain one of the run; None: its last.
        seed: of the images' noise; None: the run's.
        workers: processes; more than 1 run on Ray.
        storage: the store of the runs; None: WHIPRAY_STORAGE, or ./whipray-runs.
        tracking: MLflow's address; None: MLFLOW_TRACKING_URI, or beside the runs.

    Returns:
        the document that `whipray balance --json` prints: counts of each class, and the datasheet's address.

    Raises:
        UsageProblem: no such run, nothing to generate, a filter that rejects all of a class, or `out` holds
            something else.
    """
    from ..analysis.balance.balance import balance_set

    result = balance_set(
        open_store(storage),
        tracking,
        reference,
        overrides,
        checkpoint=checkpoint,
        to=to,
        filters=filters,
        seed=seed,
        out=None if out is None else Path(out),
        form=form,
        workers=workers,
    )
    return balance_document(result)


def diffult(
    recipe: str | Path,
    overrides: Sequence[str] = (),
    *,
    run: str | None = None,
    model: str | None = None,
    chosen: str | None = None,
    arms: Sequence[str] | None = None,
    controls: bool = True,
    seeds: int = 5,
    workers: int | Literal["all"] = 1,
) -> dict[str, Any]:
    """Fill classes up with generated images and measure what classifiers gain, beside controls (DiffuLT).

    What is in the store is not made again: a call that was stopped goes on, and another number, filter or
    weight repeats only what depends on it.

    Args:
        recipe: a packaged recipe's name, or a YAML file.
        overrides: `balancing.to`, `balancing.filter.*`, `classification.*` and all others of an experiment.
        run: name of the run that is trained, or gone on with; None: the recipe's name.
        model: a trained model in place of it: a run, SWEEP/TRIAL, or models:/NAME@ALIAS.
        chosen: a sweep that chose on validation images: its best point is trained on all training images.
        arms: names; None: all that there are with or without a filter.
        controls: also the arms that say what balance and length alone give.
        seeds: classifiers of each arm.
        workers: processes that generate, score and train classifiers; more than 1 run on Ray.

    Returns:
        the document that `whipray diffult --json` prints: `headline`, `arms`, `differences`, and the page's
        address.

    Raises:
        Problem: as `train`; nothing to fill up, a class of which the filter rejects every image, or options
            that do not fit.
    """
    from ..analysis.diffult.order import make_order
    from ..analysis.diffult.pipeline import Pipeline
    from ..tuning.chosen import load_recipe

    known, default, point = load_recipe(str(recipe), list(overrides), chosen)
    order, _ = make_order(
        known,
        default,
        overrides,
        run=run,
        model=model,
        arms=None if arms is None else ",".join(arms),
        controls=controls,
        seeds=seeds,
        workers=workers,
        chosen=point,
    )
    return diffult_document(Pipeline(order).run())
