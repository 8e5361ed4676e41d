"""The MLflow records of runs that are removed or renamed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..config.tracking import TrackingConfig
from ..storage import layout
from ..storage.store import Storage
from ..tracking.records import known_versions
from ..tracking.server import database_exists, tracking_uri
from ..tracking.tracker import Tracker, open_tracker
from ..tracking.versions import Version
from .inventory import Inventory, RunFiles
from .listing import manifest_of


class Records:
    """MLflow, as each run's own config names it.

    Args:
        root: the store's top.
        tracking: MLflow's address; None: that of the run's config.
    """

    def __init__(self, root: Storage, tracking: str | None) -> None:
        self._root, self._tracking = root, tracking
        self._opened: dict[TrackingConfig, Tracker | None] = {}

    def of(self, config: Mapping[str, Any]) -> Tracker | None:
        """Return the tracker of a run's config; None where its SQLite database does not exist.

        Raises:
            TrackingProblem: MLflow does not answer, or refuses.
            UsageProblem: none is named.
        """
        named = self._named(config)
        if named not in self._opened:
            exists = database_exists(tracking_uri(named, self._root))
            self._opened[named] = open_tracker(named, self._root) if exists else None
        return self._opened[named]

    def versions(self, config: Mapping[str, Any]) -> list[Version]:
        """Return all versions that are registered in the MLflow of a run's config.

        Raises:
            TrackingProblem: MLflow does not answer, or refuses.
        """
        named = self._named(config)
        if not database_exists(tracking_uri(named, self._root)):
            return []
        return known_versions(named, self._root) or []

    def _named(self, config: Mapping[str, Any]) -> TrackingConfig:
        kept = {k: v for k, v in config.items() if k in TrackingConfig.model_fields}
        named = TrackingConfig.model_validate(kept)
        return named.model_copy(update={"uri": self._tracking}) if self._tracking else named


def read_configs(inventory: Inventory, runs: list[RunFiles]) -> dict[str, dict[str, Any]]:
    """Return the stored experiment of each run, by its folder; empty where none can be read."""
    names = {
        run.folder: f"{run.folder}/{layout.SWEEP_IDENTITY}" if run.is_sweep else manifest_of(run)
        for run in runs
    }
    contents = inventory.read_json([name for name in names.values() if name])
    configs: dict[str, dict[str, Any]] = {}
    for folder, name in names.items():
        content = contents.get(name or "", {})
        configs[folder] = content.get("config") or content.get("experiment") or {}
    return configs
