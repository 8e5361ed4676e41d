"""The files of a run's evaluations: written to a local folder, and published from there."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from ...trainers.checkpoint import describe
from ...trainers.errors import Problem
from ...trainers.integrity import Altered, read_twice, seal, unseal
from ..evaluation.extractors.base import OnPhase, Value
from ..evaluation.pages.content import CurvePoint, Pictures, PreviewStrip, TrainingRecord
from ..evaluation.pages.report import render_report
from ..evaluation.pages.training_curves import Series
from ..evaluation.report import Report
from ..generation.pictures import load_pictures, save_pictures
from ..storage.layout import (
    EVALUATION_PAGE,
    EVALUATION_REPORT,
    EVALUATION_RESULT,
    PER_CLASS_TABLE,
    PREVIEW_PAGE,
    REPLICATES,
    SAMPLE_GRID,
    SAMPLE_TILES,
    Artifact,
    Tag,
    above,
)
from ..storage.store import Storage
from ..tracking.mlflow_runs import Run
from .previews import last_strip

FILES = (
    EVALUATION_PAGE,
    EVALUATION_REPORT,
    PER_CLASS_TABLE,
    REPLICATES,
    SAMPLE_GRID,
    SAMPLE_TILES,
)
"""Of an evaluation, besides its result."""
IN_MLFLOW = (EVALUATION_PAGE, PER_CLASS_TABLE, SAMPLE_GRID)
HASHED = tuple(name for name in FILES if name != EVALUATION_PAGE)
"""Their hashes are in the result. The page is made from them, and again with each guidance search."""
FORMAT = 10
"""Of an evaluation's files; raise it when their content or the meaning of a value changes."""


class EvaluationFiles:
    """Reads and writes evaluations in a run's folder; what was written or read stays at hand.

    Args:
        store: the run's folder.
        local: an empty local folder, which lives as long as this object.
        on_phase: takes a line about a result that is damaged.
        history: returns what the training logged, for a page; nothing where it is not known.
    """

    def __init__(
        self,
        store: Storage,
        local: Path,
        on_phase: OnPhase,
        history: Callable[[], Series] = dict,
    ) -> None:
        self.store, self.local, self.on_phase = store, local, on_phase
        self._history = history
        self._record: tuple[Series, PreviewStrip | None] | None = None

    def read_result(self, folder: str) -> dict[str, Any] | None:
        """Return an evaluation's metrics and provenance; None unless all of its files are whole."""
        try:
            return self.read_whole(folder)
        except Altered as damage:
            self.on_phase(f"{folder}/{damage} is damaged: evaluating again")
        return None

    def read_whole(self, folder: str) -> dict[str, Any] | None:
        """Return the same; None where the evaluation was never finished.

        Raises:
            Altered: by name, the first file that is not what was written, also when read twice.
        """
        existing = {name.rpartition("/")[2] for name in self.store.list(folder)}
        if not {EVALUATION_RESULT, *FILES} <= existing:
            return None
        result = read_twice(lambda: self._read_sealed(folder))
        for name, expected in result["files"].items():
            read_twice(partial(self._fetch_whole, folder, name, expected))
        return result

    def _read_sealed(self, folder: str) -> dict[str, Any]:
        try:
            result = unseal(self.store.read_text(f"{folder}/{EVALUATION_RESULT}"))
        except Altered as error:
            raise Altered(EVALUATION_RESULT) from error
        if result.get("format") != FORMAT:
            raise Altered(EVALUATION_RESULT)
        return result

    def _fetch_whole(self, folder: str, name: str, sha256: str) -> None:
        file = self.fetch(folder, [name]) / name
        if describe(file).sha256 != sha256:
            file.unlink()
            raise Altered(name)

    def write(self, folder: str, report: Report, pictures: Pictures) -> dict[str, Any]:
        """Write all files of an evaluation; return its metrics and provenance."""
        local = self._local(folder)
        report.save(local)
        save_pictures(pictures, local)
        page = render_report(report, pictures, training=self._training(folder))
        (local / EVALUATION_PAGE).write_text(page, encoding="utf-8")
        result = {
            "format": FORMAT,
            "metrics": report.metrics(),
            "provenance": dict(report.provenance),
            "warnings": list(report.warnings),
            "files": {name: describe(local / name).sha256 for name in HASHED},
        }
        (local / EVALUATION_RESULT).write_text(json.dumps(seal(result), indent=1))
        # The result last: an evaluation exists when its result does.
        for name in (*FILES, EVALUATION_RESULT):
            self.store.put_file(local / name, f"{folder}/{name}")
        return result

    def add_curve(self, folder: str, points: Sequence[CurvePoint]) -> None:
        """Render an evaluation's page again, with the guidance search that its setting was chosen in.

        Args:
            folder: of the evaluation.
            points: of the search.
        """
        local = self.fetch(folder, (EVALUATION_REPORT, SAMPLE_GRID, SAMPLE_TILES))
        report = Report.load(local)
        pictures = load_pictures(local, report)
        page = render_report(report, pictures, points, self._training(folder))
        (local / EVALUATION_PAGE).write_text(page, encoding="utf-8")
        self.store.put_file(local / EVALUATION_PAGE, f"{folder}/{EVALUATION_PAGE}")

    def _training(self, folder: str) -> TrainingRecord:
        """Return what a page shows of the training."""
        if self._record is None:  # read once: a search writes many pages
            series: Series = {}
            with suppress(Problem):  # a page without curves is worth more than none
                series = self._history()
            self._record = series, last_strip(self.store)
        return TrainingRecord(*self._record, above(folder, PREVIEW_PAGE))

    def fetch(self, folder: str, names: Iterable[str]) -> Path:
        """Return a local folder in which these files of an evaluation are."""
        local = self._local(folder)
        for name in names:
            if not (local / name).exists():
                self.store.get_file(f"{folder}/{name}", local / name)
        return local

    def log_best(
        self,
        run: Run,
        folder: str,
        metrics: Mapping[str, float],
        provenance: Mapping[str, Any],
        warnings: Sequence[str],
    ) -> None:
        """Log the evaluation of a training to its MLflow run: metrics, address and files."""
        strength = {key: provenance[key] for key in ("omega",) if key in provenance}
        run.log_metrics({**metrics, **strength}, provenance["images_seen"])
        if self.store.exists(PREVIEW_PAGE):
            self.store.get_file(PREVIEW_PAGE, self.local / PREVIEW_PAGE)
            run.log_file(self.local / PREVIEW_PAGE, "")
        run.set_tags({Tag.STORE: self.store.uri, Tag.EVALUATION: self.store.uri_of(folder)})
        self.log_to(run, folder, provenance, warnings, Artifact.EVALUATION)

    def log_to(
        self,
        run: Run,
        folder: str,
        provenance: Mapping[str, Value],
        warnings: Sequence[str],
        artifact_folder: str,
    ) -> None:
        """Log an evaluation to MLflow: page, samples, table of classes, provenance, warnings."""
        about = {**provenance, "warnings": list(warnings)}
        run.log_json(about, f"{artifact_folder}/{Artifact.PROVENANCE}")
        run.set_tags({Tag.WARNINGS: "\n".join(warnings) or "none"})
        local = self.fetch(folder, IN_MLFLOW)
        for name in IN_MLFLOW:
            run.log_file(local / name, artifact_folder)

    def _local(self, folder: str) -> Path:
        local = self.local / folder
        local.mkdir(parents=True, exist_ok=True)
        return local
