"""Class-balanced diffusion models on long-tailed images.

The names below are the public API; docs/python.md shows their use. They are imported when they are
first used, so that `import whipray` and the command line start without torch, Ray or MLflow.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .platform.api.analysis import balance, classify, compare, diffult, guidance
    from .platform.api.housekeeping import (
        collect_garbage,
        export_model,
        remove_runs,
        rename_run,
        runs,
        show_run,
    )
    from .platform.api.machine import doctor
    from .platform.api.models import load_model, sample
    from .platform.api.pictures import check_data, init
    from .platform.api.registry import models, register
    from .platform.api.runs import evaluate, load_experiment, sweep, train
    from .platform.config.experiment import Experiment
    from .platform.storage.store import Storage
    from .trainers.balanced_dataset import BalancedDataset
    from .trainers.errors import Problem
    from .trainers.model import Model
    from .trainers.objectives import Objective

__version__ = "0.1.0"

__all__ = [
    "BalancedDataset",
    "Experiment",
    "Model",
    "Objective",
    "Problem",
    "Storage",
    "__version__",
    "balance",
    "check_data",
    "classify",
    "collect_garbage",
    "compare",
    "diffult",
    "doctor",
    "evaluate",
    "export_model",
    "guidance",
    "init",
    "load_experiment",
    "load_model",
    "models",
    "register",
    "remove_runs",
    "rename_run",
    "runs",
    "sample",
    "show_run",
    "sweep",
    "train",
]

_MODULES = {
    "BalancedDataset": ".trainers.balanced_dataset",
    "Experiment": ".platform.config.experiment",
    "Model": ".trainers.model",
    "Objective": ".trainers.objectives",
    "Problem": ".trainers.errors",
    "Storage": ".platform.storage.store",
    "balance": ".platform.api.analysis",
    "check_data": ".platform.api.pictures",
    "classify": ".platform.api.analysis",
    "collect_garbage": ".platform.api.housekeeping",
    "compare": ".platform.api.analysis",
    "diffult": ".platform.api.analysis",
    "doctor": ".platform.api.machine",
    "evaluate": ".platform.api.runs",
    "export_model": ".platform.api.housekeeping",
    "guidance": ".platform.api.analysis",
    "init": ".platform.api.pictures",
    "load_experiment": ".platform.api.runs",
    "load_model": ".platform.api.models",
    "models": ".platform.api.registry",
    "register": ".platform.api.registry",
    "remove_runs": ".platform.api.housekeeping",
    "rename_run": ".platform.api.housekeeping",
    "runs": ".platform.api.housekeeping",
    "sample": ".platform.api.models",
    "show_run": ".platform.api.housekeeping",
    "sweep": ".platform.api.runs",
    "train": ".platform.api.runs",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_MODULES[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Return the public names."""
    return sorted(__all__)
