"""What nothing refers to any more, in a store and on this machine.

Nothing is listed that a process may still be writing: files younger than `AGE_S`, runs whose lock is held,
local files that are locked. Where it cannot be known what is referred to, nothing is listed.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...trainers.data.packed_set.opening import FOLDER as SETS
from ...trainers.disk import cache_folder
from ...trainers.whole_files import PARTIAL
from ..storage import layout
from ..storage.store import Storage
from ..storage.writer_lock import is_held
from ..tracking.versions import Version
from .inventory import Inventory, RunFiles

AGE_S = 24 * 3600.0
"""Younger files may be of an evaluation that is still computed, which holds no lock."""
CACHE_AGE_S = 30 * 24 * 3600.0
"""Since it was last read; what is in the cache can be made or fetched again."""
OF_THE_CACHE = re.compile(
    r"[0-9a-f]{32}(-.*)?\.(npy|safetensors|key)|[0-9a-f]{32}-\dx\d+|[0-9a-f]{16}|features-.*|"
    r"keys-.*\.json|pretrained|ray"
)
"""Names of what Whipray keeps in it: WHIPRAY_CACHE may be a folder with other things."""


@dataclass(frozen=True)
class Garbage:
    """A file or a folder that nothing refers to."""

    kind: str
    name: str
    """In the store, or a path of this machine."""
    bytes: int
    is_local: bool = False

    def free(self, root: Storage) -> None:
        """Delete it; nothing happens where it is gone."""
        if not self.is_local:
            root.delete(self.name)
            return
        path = Path(self.name)
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def find_garbage(
    inventory: Inventory, versions: Iterable[Version] | None, now: float | None = None
) -> list[Garbage]:
    """Return what nothing refers to, in the store and in this machine's cache.

    Args:
        inventory: of the store.
        versions: all that are registered, whose guides are kept; None where it is not known.
        now: seconds since the epoch; None: the present.
    """
    now = time.time() if now is None else now
    return [*_Store(inventory, versions, now).find(), *_local(inventory.root, now)]


class _Store:
    """Searches a store."""

    def __init__(
        self, inventory: Inventory, versions: Iterable[Version] | None, now: float
    ) -> None:
        self.inventory, self.versions, self.now = inventory, versions, now
        runs = inventory.runs.values()
        self.held = {run.folder for run in runs if is_held(inventory.root, run.locks)}
        names = [
            f"{run.folder}/{folder}/{layout.EVALUATION_RESULT}"
            for run in runs
            for folder in run.evaluations()
        ]
        self.results = inventory.read_json(names)
        self.complete = len(self.results) == len(names)

    def find(self) -> Iterator[Garbage]:
        for run in self.inventory.runs.values():
            if run.folder not in self.held:
                yield from self._of_run(run)
        if self.complete and not self.held:
            yield from self._shared()

    def _of_run(self, run: RunFiles) -> Iterator[Garbage]:
        for checkpoint in run.checkpoints():
            folder = f"{layout.CHECKPOINTS}/{checkpoint.name}"
            if checkpoint.state in ("unfinished", "damaged"):
                yield from self._if_old(run, f"{checkpoint.state} checkpoint", folder)
            elif f"{folder}/{layout.DAMAGED_MANIFEST}" in run.files:
                name = f"{folder}/{layout.DAMAGED_MANIFEST}"
                yield from self._if_old(run, "damaged manifest set aside", name)
        provenances = [self._provenance(run, folder) for folder in run.evaluations()]
        used = {about.get(layout.SAMPLES_FACT) for about in provenances}
        if None in used or any(layout.is_made_of_samples(name) for name in run.files):
            return  # made by an earlier version, or used by another command: not known
        folders = {f for name in run.files if (f := layout.samples_folder_of(name))}
        for folder in sorted(folders):
            if folder.rpartition("/")[2] not in used:
                yield from self._if_old(run, "images of no evaluation", folder)

    def _provenance(self, run: RunFiles, folder: str) -> dict[str, Any]:
        result = self.results.get(f"{run.folder}/{folder}/{layout.EVALUATION_RESULT}", {})
        return dict(result.get("provenance", {}))

    def _if_old(self, run: RunFiles, kind: str, name: str) -> Iterator[Garbage]:
        yield from self._garbage(kind, f"{run.folder}/{name}")

    def _shared(self) -> Iterator[Garbage]:
        about = [result.get("provenance", {}) for result in self.results.values()]
        networks = {a.get(key) for a in about for key in ("extractor_hash", "agreement_hash")}
        references = {a.get("reference") for a in about}
        by_kind = layout.shared_folders(self.inventory.files)
        for folder, content in by_kind.networks.items():
            if content not in networks:
                yield from self._garbage("feature network of no evaluation", folder)
        for folder, content in by_kind.references.items():
            if content not in references:
                yield from self._garbage("features of real images of no evaluation", folder)
        sets, pointers = layout.packed_sets(self.inventory.files)
        pointed = {about.get("set") for about in self.inventory.read_json(pointers).values()}
        for state, folder in sets.items():
            if state not in pointed:
                yield from self._garbage("packed images of a source as it was before", folder)
        used = layout.classifiers_of_scores(self.inventory.files)
        for file, content in by_kind.classifiers.items():
            if content not in used:
                yield from self._garbage("classifier that no images are scored by", file)
        if not by_kind.pretrained or (texts := self._texts()) is None:
            return
        for folder, content in by_kind.pretrained.items():
            if not any(content in text for text in texts):
                yield from self._garbage("model that no run starts from or is guided by", folder)

    def _texts(self) -> list[str] | None:
        """Return all texts in which a model may be named by its content; None where there may be more."""
        if self.versions is None or os.environ.get(layout.STUDY_VARIABLE):
            return None  # trials of a database name guides, too
        names = [name for name in self.inventory.files if layout.may_name_models(name)]
        read = [self.inventory.root.read_text(name) for name in names]
        return [*read, *(str(version.tags) for version in self.versions)]

    def _garbage(self, kind: str, name: str) -> Iterator[Garbage]:
        """Yield a file or folder if nothing in it was written lately."""
        files = [
            file
            for path, file in self.inventory.files.items()
            if path == name or path.startswith(f"{name}/")
        ]
        if files and self.now - max(file.written for file in files) > AGE_S:
            yield Garbage(kind, name, sum(file.bytes for file in files))


def _local(root: Storage, now: float) -> Iterator[Garbage]:
    """Yield half-written files of ended processes, and what of the cache was not read for long."""
    if root.is_folder:
        for path in sorted(Path(root.path).rglob(f".*{PARTIAL}")):
            if now - _stat(path)[1] > AGE_S and not _is_locked(path):
                yield Garbage("half-written file", str(path), _stat(path)[0], is_local=True)
    cache = cache_folder()
    for path in sorted([*cache.glob("*"), *cache.glob(f"{SETS}/*")]):
        size, used = _stat(path)
        if path.name.endswith(PARTIAL) or path.name.startswith(".features-"):
            if now - used > AGE_S and not _is_locked(path):
                yield Garbage("half-written file of the cache", str(path), size, is_local=True)
        elif OF_THE_CACHE.fullmatch(path.name) and now - used > CACHE_AGE_S:
            yield Garbage("cache, unused for 30 days", str(path), size, is_local=True)


def _stat(path: Path) -> tuple[int, float]:
    """Return the bytes of a file or folder, and when anything of it was last read or written."""
    files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
    size, used = 0, 0.0
    for file in files:
        with suppress(OSError):
            status = file.stat()
            size += status.st_size
            used = max(used, status.st_atime, status.st_mtime)
    return size, used or time.time()


def _is_locked(path: Path) -> bool:
    """Return whether the process that writes a file still lives."""
    try:
        file = os.open(path, os.O_RDONLY)
    except OSError:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(file)
    return False
