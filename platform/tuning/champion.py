"""The end of a sweep: its best model is registered, loaded back, and draws every class."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from ...trainers.samplers import SamplingConfig
from ..evaluation.grid import class_grid
from ..registry import CHAMPION, Version, load, register, resolve, set_alias
from ..tracking import Tracker
from .sweep import Sweep, SweepResult

PER_CLASS = 10


@dataclass(frozen=True)
class Champion:
    """The registered model and the grid that it drew."""

    version: Version
    grid: str
    """Where the picture is, in the store."""


def crown(sweep: Sweep, result: SweepResult) -> Champion | None:
    """Register the best trial under the experiment's name, as `@champion`; None without one."""
    best = result.best
    if best is None:
        return None
    sweep.status.say("registering the best model")
    number, summary = best["number"], best["attrs"]["summary"]
    tracker = Tracker(sweep.experiment.tracking, sweep.root)
    run = tracker.find(f"sweep/{sweep.name}/{number}")
    rank_by = sweep.experiment.evaluation.rank_by
    version = register(
        tracker,
        run,
        result.store.child(f"trials/{number:04d}"),
        summary["checkpoint"],
        SamplingConfig.model_validate(summary["sampling"]),
        sweep.experiment.name,
        {
            "whipray.sweep": sweep.name,
            "whipray.trial": str(number),
            "whipray.rank_by": rank_by,
            "whipray.sampling": json.dumps(summary["sampling"]),
            f"whipray.{rank_by.replace('/', '.')}": f"{best['value']:.6g}",
            "whipray.extractor": str(summary["provenance"]["extractor_hash"]),
        },
    )
    set_alias(tracker, version, CHAMPION)
    sweep.status.say("the champion draws every class")
    grid = _draw(sweep, tracker, result)
    return Champion(version, grid)


def _draw(sweep: Sweep, tracker: Tracker, result: SweepResult) -> str:
    """A grid from the model as anybody would load it."""
    import pandas as pd

    chosen = resolve(tracker, f"models:/{sweep.experiment.name}@{CHAMPION}")
    model = load(chosen)
    about = model.metadata.metadata
    names, counts = about["class_names"], about["class_counts"]
    ids = np.repeat(np.arange(len(names)), PER_CLASS)
    images = model.predict(pd.DataFrame({"class_id": ids}), params={"seed": 0})
    picture = class_grid(
        np.ascontiguousarray(images.transpose(0, 3, 1, 2)), ids, names, PER_CLASS, None, counts
    )
    with TemporaryDirectory(prefix="whipray-") as scratch:
        file = Path(scratch) / "champion.png"
        picture.save(file)
        result.store.put_file(file, "champion.png")
        result.parent.folder(Path(scratch), "champion")
    return result.store.uri_of("champion.png")
