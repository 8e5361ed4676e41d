"""The result of a classification, as it is saved and as MLflow gets it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...balancing.summary import flat_metrics
from ...tracking.mlflow_runs import Run


@dataclass(frozen=True)
class ClassificationResult:
    """Trained and tested classifiers."""

    document: dict[str, Any]
    """Content of `CLASSIFICATION_RESULT`."""
    folder: str
    """Folder of the document, in the run's store."""
    trained: int
    """Classifiers that had to be trained; 0 where all were in the store."""

    def record(self, run: Run) -> None:
        """Add the result to the run's MLflow run; of several results its metrics show the last."""
        run.log_json(self.document, f"{self.folder}.json")
        metrics = flat_metrics(self.document, "classification")
        run.log_metrics(metrics, self.document["images_seen"])
        run.flush()


@dataclass(frozen=True)
class RecordedClassification:
    """A result, and where it is kept."""

    result: ClassificationResult
    uri: str
    """URI of the document in the store."""
    note: str | None
    """Why the result is not in MLflow; None where it is."""
