"""What `whipray runs list` and `show` say of runs and sweeps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ...trainers.checkpoint_names import MANIFEST
from ..storage import layout
from ..storage.writer_lock import is_held
from ..tracking.versions import Version
from .inventory import Inventory, RunFiles

RANK_BY = "kid/overall"
"""The main metric of a run whose config names none."""

Content = Mapping[str, Any]
Tag = layout.VersionTag


@dataclass(frozen=True)
class Entry:
    """A run or a sweep in a list."""

    name: str
    kind: str
    """`run`, `trial`, `pretrain` or `sweep`."""
    written: str
    """When a file of it was last written, in UTC."""
    state: str
    """`training`, `finished`, `trained` (not evaluated), `stopped`, `damaged` or `no checkpoint`; of a sweep
    `driven` or its trials."""
    images_seen: int
    images: int
    """Of the whole training; 0 where it is not known."""
    metric: str
    """That runs are ranked by."""
    value: float | None
    low: float | None
    high: float | None
    bytes: int
    versions: tuple[str, ...]
    """Registered, as NAME/VERSION."""


def list_runs(inventory: Inventory, versions: Iterable[Version]) -> list[Entry]:
    """Return the runs and sweeps of a store, the latest last; a sweep's trials are in it."""
    shown = [
        run
        for run in inventory.runs.values()
        if run.is_sweep or not layout.belongs_to_sweep(run.target)
    ]
    return _entries(inventory, shown, versions)


def list_members(inventory: Inventory, sweep: RunFiles, versions: Iterable[Version]) -> list[Entry]:
    """Return the trials and the pre-training of a sweep."""
    return _entries(inventory, inventory.members(sweep), versions, by_date=False)


def registered(versions: Iterable[Version]) -> dict[str, list[Version]]:
    """Return the registered versions by the run that they are of."""
    by_run: dict[str, list[Version]] = {}
    for version in versions:
        by_run.setdefault(version.origin, []).append(version)
    return by_run


def manifest_of(run: RunFiles) -> str | None:
    """Return the manifest of a run's newest usable checkpoint, from the store's top."""
    newest = run.newest()
    return f"{run.folder}/{layout.CHECKPOINTS}/{newest.name}/{MANIFEST}" if newest else None


def result_of(run: RunFiles) -> str | None:
    """Return the result of a run's latest evaluation, from the store's top."""
    evaluations = run.evaluations()
    return f"{run.folder}/{evaluations[-1]}/{layout.EVALUATION_RESULT}" if evaluations else None


def _entries(
    inventory: Inventory,
    runs: Sequence[RunFiles],
    versions: Iterable[Version],
    by_date: bool = True,
) -> list[Entry]:
    by_trial = registered(versions)
    single = [run for run in runs if not run.is_sweep]
    wanted = [name for run in single for name in (manifest_of(run), result_of(run)) if name]
    contents = inventory.read_json(wanted)
    entries = []
    for run in runs:
        if run.is_sweep:
            entries.append(_sweep(inventory, run, by_trial))
        else:
            entries.append(_run(inventory, run, contents, by_trial.get(run.target, [])))
    return sorted(entries, key=lambda entry: entry.written) if by_date else entries


def _run(
    inventory: Inventory, run: RunFiles, contents: Mapping[str, Content], versions: list[Version]
) -> Entry:
    manifest = contents.get(manifest_of(run) or "")
    result = contents.get(result_of(run) or "")
    config = manifest.get("config", {}) if manifest else {}
    newest = run.newest()
    seen = newest.images_seen if newest else 0
    images = int(config.get("training", {}).get("images", 0))
    rank_by = str(config.get("evaluation", {}).get("rank_by", RANK_BY))
    metrics = result.get("metrics", {}) if result else {}
    return Entry(
        name=run.target,
        kind=_kind(run.target),
        written=_time(run.written),
        state=_run_state(inventory, run, manifest is not None, seen >= images, result is not None),
        images_seen=seen,
        images=images,
        metric=rank_by,
        value=metrics.get(rank_by),
        low=metrics.get(f"{rank_by}_low"),
        high=metrics.get(f"{rank_by}_high"),
        bytes=run.bytes,
        versions=_names(versions),
    )


def _run_state(
    inventory: Inventory, run: RunFiles, readable: bool, trained: bool, evaluated: bool
) -> str:
    if is_held(inventory.root, run.locks):
        return "training"
    if run.newest() is None:
        return "no checkpoint"
    if not readable:
        return "damaged"
    if not trained:
        return "stopped"
    return "finished" if evaluated or _kind(run.target) == layout.PRETRAIN else "trained"


def _sweep(inventory: Inventory, run: RunFiles, by_trial: Mapping[str, list[Version]]) -> Entry:
    members = inventory.members(run)
    trials = sum(_kind(member.target) == layout.KIND_TRIAL for member in members)
    versions = [v for member in members for v in by_trial.get(member.target, [])]
    newest = max(versions, key=lambda v: int(v.version), default=None)
    rank_by = newest.tags.get(Tag.RANK_BY, RANK_BY) if newest else RANK_BY
    score = newest.tags.get(Tag.score(rank_by)) if newest else None
    whole = [run, *members]
    locks = [lock for each in whole for lock in each.locks]
    return Entry(
        name=run.target,
        kind=layout.KIND_SWEEP,
        written=_time(max(each.written for each in whole)),
        state="driven" if is_held(inventory.root, locks) else f"{trials} trials",
        images_seen=sum(c.images_seen for m in members if (c := m.newest())),
        images=0,
        metric=rank_by,
        value=float(score) if score else None,
        low=None,
        high=None,
        bytes=sum(each.bytes for each in whole),
        versions=_names(versions),
    )


def _kind(target: str) -> str:
    if not layout.belongs_to_sweep(target):
        return layout.KIND_RUN
    return layout.PRETRAIN if target.endswith(f"/{layout.PRETRAIN}") else layout.KIND_TRIAL


def _names(versions: Iterable[Version]) -> tuple[str, ...]:
    return tuple(version.uri.removeprefix("models:/") for version in versions)


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(" ", "minutes").removesuffix("+00:00")
