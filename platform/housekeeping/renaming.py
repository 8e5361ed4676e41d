"""Give a run another name: its folder in the store, and its name and key in MLflow.

In a folder the files move in one step, in a bucket they are copied and then deleted. A marker is with them
until the record has followed, so that the same command finishes what was killed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from ...trainers.checkpoint_names import MANIFEST
from ...trainers.errors import UsageProblem
from ..foundation.abort import abort
from ..foundation.names import check_name
from ..runs.run_note import renamed
from ..storage import layout
from ..storage.errors import local_problem
from ..storage.store import Storage
from ..storage.writer_lock import is_held, writer_lock
from ..tracking.tracker import Tracker
from ..tracking.versions import Version
from .inventory import Inventory, RunFiles, split_kind
from .listing import registered
from .records import Records, read_configs
from .removal import refuse_guides

RENAMING = "is renaming this run"


def rename_run(
    inventory: Inventory, name: str, new: str, records: Records, versions: Iterable[Version] = ()
) -> None:
    """Rename a run that belongs to no sweep.

    Args:
        inventory: of the store.
        name: of the run.
        new: its new name.
        records: MLflow.
        versions: all that are registered; those of the run follow.

    Raises:
        UsageProblem: no such run, one of a sweep, a name that is taken or cannot be one, another run that
            is guided by it, or a process that is training it.
        Problem: MLflow or the store fails; the same command then finishes.
    """
    root = inventory.root
    kind, name = split_kind(name)
    if layout.belongs_to_sweep(name):
        raise UsageProblem(f"{name} belongs to a sweep, which names it", "keep its name")
    old = layout.run_address(name)
    address = layout.run_address(check_name(new, "a run"))
    marker = json.dumps({"from": name, "to": new})
    begun = address.folder in inventory.runs
    is_run = begun or old.folder in inventory.runs
    if kind == "sweep" or (not is_run and layout.sweep_address(name).folder in inventory.runs):
        raise UsageProblem(f"{name} is a sweep, which its trials name", "keep its name")
    if begun and not _is_marked(root, address.folder, marker):
        raise UsageProblem(f"there is a run {new} already", "choose another name")
    if not begun or old.folder in inventory.runs:
        run = inventory.find(f"run:{name}")
        if is_held(root, run.locks):
            raise UsageProblem(f"{name}: a process is writing it", "wait for its end")
        refuse_guides(inventory, {run.folder: run})
        both = [run, inventory.runs[address.folder]] if begun else [run]
        tracker = _tracker(inventory, both, records)  # before anything changes: it may not answer
        with writer_lock(root.child(run.folder), RENAMING, on_loss=abort):
            _move(root, run, address.folder, marker)
        if not root.is_folder:
            root.delete(old.folder)
    else:
        tracker = _tracker(inventory, [inventory.runs[address.folder]], records)
    if tracker is not None:
        _rename_record(root, tracker, old, address, new)
        for version in registered(versions).get(name, ()):
            tracker.client.set_model_version_tag(
                version.name, version.version, layout.VersionTag.RUN, new
            )
    root.delete(f"{address.folder}/{layout.MOVING}")


def _tracker(inventory: Inventory, copies: list[RunFiles], records: Records) -> Tracker | None:
    """Return the tracker of a run; of one that is half moved either copy may lack its config."""
    configs = read_configs(inventory, copies).values()
    config = next((config for config in configs if config), {})
    return records.of(config.get("tracking") or {})


def _is_marked(root: Storage, folder: str, marker: str) -> bool:
    name = f"{folder}/{layout.MOVING}"
    return root.exists(name) and root.read_text(name) == marker


def _move(root: Storage, run: RunFiles, folder: str, marker: str) -> None:
    """Move a run's files; of a copy the manifests come last, of what is deleted first."""
    if root.is_folder:
        root.write_text(f"{run.folder}/{layout.MOVING}", marker)
        try:
            Path(root.path, run.folder).rename(Path(root.path, folder))
        except OSError as error:
            raise local_problem(error, f"{root.path}/{folder}") from error
        return
    root.write_text(f"{folder}/{layout.MOVING}", marker)
    names = [name for name in run.files if not name.startswith(f"{layout.WRITER}/")]
    names.sort(key=lambda name: name.endswith(f"/{MANIFEST}"))
    for name in names:
        root.copy(f"{run.folder}/{name}", f"{folder}/{name}")
    for name in reversed(names):
        root.delete(f"{run.folder}/{name}")


def _rename_record(
    root: Storage, tracker: Tracker, old: layout.RunAddress, new: layout.RunAddress, name: str
) -> None:
    """Change the MLflow run's name, key, addresses and note; nothing where there is none, or it is done."""
    tags = tracker.tags_of(old.key)
    if tags is None:
        return
    before, after = root.uri_of(old.folder), root.uri_of(new.folder)
    changed = {
        tag: after + tags[tag].removeprefix(before)
        for tag in (layout.Tag.STORE, layout.Tag.EVALUATION)
        if tags.get(tag, "").startswith(before)
    }
    if note := tags.get(layout.NOTE_TAG):
        changed[layout.NOTE_TAG] = renamed(note, layout.run_target(old.folder) or "", name)
    tracker.rename(old.key, new.key, name, changed)
