"""Remove runs: first what MLflow shows of them, then their files.

MLflow may not answer, so it comes first: then nothing is removed. A removal that is killed leaves files,
which `whipray runs list` shows and the same command removes; of these files the manifests and results go
first, so that what is left is never taken for a whole checkpoint or evaluation.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ...trainers.checkpoint_names import MANIFEST
from ...trainers.errors import UsageProblem
from ..foundation.abort import abort
from ..storage import layout
from ..storage.store import Storage
from ..storage.writer_lock import is_held, writer_lock
from ..tracking.versions import Version
from .inventory import Inventory, RunFiles
from .listing import registered
from .records import Records, read_configs

REMOVING = "is removing this run"


@dataclass(frozen=True)
class Removal:
    """What is to be removed, checked."""

    root: Storage
    runs: tuple[RunFiles, ...]
    """Trials before their sweep."""
    tracking: dict[str, Any]
    """The `tracking` of each run's config, by its folder."""

    @property
    def bytes(self) -> int:
        """What is freed."""
        return sum(run.bytes for run in self.runs)

    def execute(self, records: Records) -> None:
        """Remove all of it.

        Raises:
            UsageProblem: the MLflow of a run's own config has a version of it, or a process has begun to
                drive a sweep; nothing is removed then.
            Problem: MLflow or the store fails, or another process has begun to train a run; the same
                command then removes the rest.
        """
        chosen = {run.folder: run for run in self.runs}
        configs = {str(config): config for config in self.tracking.values()}  # mostly one
        for config in configs.values():
            _refuse_registered(chosen, records.versions(config))
        for sweep in self.runs:
            if sweep.is_sweep:  # it has no lock that could be held until it is gone
                _refuse_held(self.root, sweep, layout.lock_files(self.root.list(sweep.folder)))
        for run in self.runs:
            key = (
                layout.sweep_address(run.target) if run.is_sweep else layout.run_address(run.target)
            )
            tracker = records.of(self.tracking[run.folder])
            store = self.root.child(run.folder)
            if run.is_sweep:
                if tracker is not None:
                    tracker.delete(key.key)
                _delete_files(self.root, run)
                continue
            with writer_lock(store, REMOVING, on_loss=abort):
                if tracker is not None:
                    tracker.delete(key.key)
                _delete_files(self.root, run)
            if not self.root.is_folder:  # the lock's own objects, which it renews until then
                store.delete(layout.WRITER)


def _refuse_held(root: Storage, run: RunFiles, locks: Iterable[str]) -> None:
    if is_held(root, locks):
        raise UsageProblem(
            f"{run.target}: a process is writing it", "stop it with Ctrl-C, or wait for its end"
        )


def _delete_files(root: Storage, run: RunFiles) -> None:
    ends = (f"/{MANIFEST}", f"/{layout.AVERAGES}", f"/{layout.EVALUATION_RESULT}")
    for name in run.files:
        if name.endswith(ends):
            root.delete(f"{run.folder}/{name}")
    root.delete(run.folder)


def plan_removal(
    inventory: Inventory, names: Sequence[str], versions: Iterable[Version]
) -> Removal:
    """Return what removing these runs and sweeps would remove.

    Raises:
        UsageProblem: no such run, a registered version needs one, another run is guided by it, or a
            process is training it.
    """
    chosen: dict[str, RunFiles] = {}
    for name in names:
        run = inventory.find(name)
        for each in (*inventory.members(run), run):
            chosen[each.folder] = each
    _refuse_registered(chosen, versions)
    for run in chosen.values():
        _refuse_held(inventory.root, run, run.locks)
    refuse_guides(inventory, chosen)
    configs = read_configs(inventory, list(chosen.values()))
    tracking = {folder: config.get("tracking") or {} for folder, config in configs.items()}
    return Removal(inventory.root, tuple(chosen.values()), tracking)


def _refuse_registered(chosen: dict[str, RunFiles], versions: Iterable[Version]) -> None:
    """Refuse trials that a registered version was made from: `whipray evaluate models:/...` reads them."""
    by_trial = registered(versions)
    for run in chosen.values():
        if run.target not in by_trial or run.is_sweep:
            continue
        needed = ", ".join(version.uri for version in by_trial[run.target])
        sweep = run.target.partition("/")[0]
        others = [
            r.target
            for r in chosen.values()
            if r.target.startswith(f"{sweep}/") and r.target not in by_trial
        ]
        fix = f"`whipray runs rm {' '.join(others)}` removes the others" if others else "keep it"
        raise UsageProblem(
            f"{run.target} is registered: {needed} is evaluated from its checkpoint",
            f"{fix}; or delete the version in MLflow first (`whipray ui`)",
        )


def refuse_guides(inventory: Inventory, chosen: dict[str, RunFiles]) -> None:
    """Refuse runs by whose name others are guided (autoguidance); models that runs start from are copies.

    Args:
        inventory: of the store.
        chosen: the runs that are removed or renamed, by folder.

    Raises:
        UsageProblem: one of the others, which stay, names one of these as its guide.
    """
    others = [run for folder, run in inventory.runs.items() if folder not in chosen]
    targets = {run.target for run in chosen.values() if not run.is_sweep}
    for folder, config in read_configs(inventory, others).items():
        guide = ((config.get("sampling") or {}).get("guidance") or {}).get("guide")
        if guide in targets:
            dependent = inventory.runs[folder].target
            raise UsageProblem(
                f"{dependent} is guided by {guide}, and is evaluated with it",
                f"name {dependent} too, or keep {guide}",
            )
