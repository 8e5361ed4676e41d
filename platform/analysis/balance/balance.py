"""Balance a data set: fill its classes with a model's images, leave out what harms, and write it (DiffuLT).

Images and scores are kept in the store beside the run. So another filter makes no image and asks no network;
it only reads scores, and writes another set.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from ....trainers.errors import Problem
from ...storage.store import Storage
from ...tracking.mlflow_runs import ImagesInput, Run
from ...tracking.tracker import open_tracker
from .datasheet import datasheet_page
from .datasheet_warnings import datasheet_warnings
from .folder import check_folder
from .inputs import BalanceInputs, OnPhase
from .manifest import Form
from .result import BalanceResult
from .subject import find_subject
from .writing import write_set


def balance_set(
    root: Storage,
    tracking: str | None,
    target: str,
    overrides: Sequence[str] = (),
    *,
    checkpoint: str | None = None,
    to: int | None = None,
    filters: Sequence[str] | None = None,
    seed: int | None = None,
    out: Path | None = None,
    form: Form = "folder",
    workers: int | Literal["all"] = 1,
    on_phase: OnPhase = lambda _line: None,
) -> BalanceResult:
    """Fill classes up, filter, and write the set; what is known or written already is not made again.

    Args:
        root, tracking, target, overrides, checkpoint, to, filters, seed: as `find_subject`.
        out: folder of the set; None: counts, distances and the datasheet alone.
        workers: 1 generates and scores in this process, more on Ray.

    Raises:
        UsageProblem: as `find_subject`; every class has as many real images; the filter rejects all of a
            class; or `out` holds something else.
        DataProblem: the training images are gone or others than the model was trained on.
        DiskProblem: no room in `out`, or it cannot be written.
    """
    if out is not None:
        out = out.expanduser().absolute()
        check_folder(out, None, form)
    subject = find_subject(
        root,
        tracking,
        target,
        overrides,
        checkpoint=checkpoint,
        to=to,
        filters=filters,
        seed=seed,
    )
    tracker = open_tracker(subject.experiment.tracking, root)
    on_phase("reading the images")
    inputs = BalanceInputs.read(subject)
    counts = inputs.counts()
    if out is not None:
        check_folder(out, inputs.identity(counts), form)
    missing = sum(map(len, inputs.source.missing(counts)))
    filled = inputs.source.fill(counts, workers, on_phase)
    rows = inputs.filtered(filled, workers, on_phase)
    result = inputs.result(rows, missing)
    sheet = inputs.sheet(rows, result)
    result = replace(result, warnings=datasheet_warnings(sheet, result.counts))
    if out is not None:
        content = inputs.content(rows, result)
        named = replace(sheet, name=out.name, path=str(out), form=form)
        written = write_set(content, out, form, lambda: datasheet_page(named), on_phase)
        result, sheet = replace(result, written=written), named
    page = datasheet_page(sheet)
    subject.run.store.write_text(result.page, page)
    try:
        _record(result, tracker.find(subject.run.key), page)
    except Problem as problem:
        result = replace(result, note=f"not recorded in MLflow: {problem.what}")
    return result


def _record(result: BalanceResult, run: Run, page: str) -> None:
    """Log the set as an input of the run that made it, and its datasheet."""
    total = result.counts.overall
    images = ImagesInput(
        name=f"balanced, up to {result.to}",
        digest=result.identity,
        source={
            "source": "balanced",
            "model": result.subject.name,
            "weights": result.weights,
            "filter": result.filter.model_dump(),
            "seed": result.subject.experiment.seed,
            "folder": result.written and result.written.folder.name,
        },
        profile={
            "images": total.total,
            "generated": total.kept,
            "classes": {each.name: each.total for each in result.classes},
        },
        context="balanced",
    )
    run.log_images(images)
    run.log_text(page, result.page)
