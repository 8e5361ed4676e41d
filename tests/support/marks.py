"""Marks that several test files carry."""

from __future__ import annotations

import pytest

MLFLOW_WARNINGS = (
    pytest.mark.filterwarnings("ignore::UserWarning:mlflow"),
    pytest.mark.filterwarnings("ignore::FutureWarning:mlflow"),
    pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning"),
)
"""For tests that open MLflow in their own process: the warnings are of its own code."""
