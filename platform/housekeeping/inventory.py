"""What a store holds, by run: listed once, and read without PyTorch or MLflow, so that it is quick."""

from __future__ import annotations

import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from ...trainers.checkpoint_names import CHECKPOINT_NAME, MANIFEST, images_seen
from ...trainers.errors import UsageProblem, did_you_mean
from ..storage import layout
from ..storage.errors import MissingObject
from ..storage.store import Storage, StoredFile

READERS = 16
"""Files that are read at a time, which in a bucket is a round trip each."""


@dataclass(frozen=True)
class Checkpoint:
    """A folder of a checkpoint."""

    name: str
    images_seen: int
    bytes: int
    state: str
    """`whole`; `averages`, of an old one; `damaged`; `unfinished`: it has no manifest."""


@dataclass
class RunFiles:
    """The files of a run, or of a sweep itself without its trials."""

    target: str
    folder: str
    files: dict[str, StoredFile] = field(default_factory=dict)
    """By name in the run's folder."""

    @property
    def is_sweep(self) -> bool:
        """Whether it is a sweep's own files."""
        return self.folder == layout.sweep_address(self.target).folder

    @property
    def bytes(self) -> int:
        """The size of all files."""
        return sum(file.bytes for file in self.files.values())

    @property
    def written(self) -> float:
        """When a file was last written, in seconds since the epoch."""
        return max(file.written for file in self.files.values())

    @property
    def locks(self) -> list[str]:
        """The files of its locks, from the store's top."""
        return layout.lock_files(f"{self.folder}/{name}" for name in self.files)

    def checkpoints(self) -> list[Checkpoint]:
        """Return its checkpoints, the oldest first."""
        by_name: dict[str, dict[str, int]] = {}
        for name, file in self.files.items():
            top, _, rest = name.partition("/")
            folder, _, inner = rest.partition("/")
            if top == layout.CHECKPOINTS and CHECKPOINT_NAME.fullmatch(folder):
                by_name.setdefault(folder, {})[inner] = file.bytes
        return [
            Checkpoint(name, images_seen(name), sum(files.values()), _state(files))
            for name, files in sorted(by_name.items())
        ]

    def newest(self) -> Checkpoint | None:
        """Return the newest checkpoint that can be used."""
        whole = [checkpoint for checkpoint in self.checkpoints() if checkpoint.state == "whole"]
        return whole[-1] if whole else None

    def evaluations(self) -> list[str]:
        """Return the folders of its finished evaluations, the earliest first."""
        folders = layout.evaluations_in(self.files)

        def when(folder: str) -> float:
            return self.files[f"{folder}/{layout.EVALUATION_RESULT}"].written

        return sorted(folders, key=when)


def split_kind(text: str) -> tuple[str, str]:
    """Return the kind and the name in `run:NAME` or `sweep:NAME`; no kind where none of these is written."""
    kind, _, name = text.partition(":")
    return (kind, name) if kind in ("run", "sweep") and name else ("", text)


def _state(files: Iterable[str]) -> str:
    if MANIFEST in files:
        return "whole"
    if layout.DAMAGED_MANIFEST in files:
        return "damaged"
    return "averages" if layout.AVERAGES in files else "unfinished"


class Inventory:
    """All files of a store at one moment.

    Args:
        root: the store's top.

    Raises:
        StorageProblem: the store cannot be listed.
    """

    def __init__(self, root: Storage) -> None:
        self.root = root
        self.files = root.details()
        self.runs: dict[str, RunFiles] = {}
        """By folder: runs, trials, pre-trainings, and sweeps without these."""
        for name, file in self.files.items():
            if (owned := layout.owner(name)) is not None:
                target, folder = owned
                run = self.runs.setdefault(folder, RunFiles(target, folder))
                run.files[name.removeprefix(f"{folder}/")] = file

    def find(self, text: str) -> RunFiles:
        """Return what a person names: a run, SWEEP/TRIAL, a sweep; `run:` or `sweep:` before it says which.

        Raises:
            UsageProblem: there is nothing of this name, or both a run and a sweep.
        """
        kind, name = split_kind(text)
        folders = {
            "run": layout.run_address(name).folder,
            "sweep": layout.sweep_address(name).folder,
        }
        wanted = [folders[kind]] if kind else list(folders.values())
        matching = [self.runs[folder] for folder in dict.fromkeys(wanted) if folder in self.runs]
        if len(matching) > 1:
            raise UsageProblem(
                f"{text} is both a run and a sweep", f"write run:{name} or sweep:{name}"
            )
        if not matching:
            known = sorted({run.target for run in self.runs.values()})
            raise UsageProblem(
                f"no run or sweep {text} in {self.root.uri}",
                f"{did_you_mean(name, known)}`whipray runs list` names them; for another store give "
                "--storage",
            )
        return matching[0]

    def members(self, sweep: RunFiles) -> list[RunFiles]:
        """Return the trials and the pre-training of a sweep, in their order."""
        if not sweep.is_sweep:
            return []
        inside = [r for f, r in self.runs.items() if f.startswith(f"{sweep.folder}/")]
        return sorted(inside, key=lambda run: run.folder)

    def read_json(self, names: Iterable[str]) -> dict[str, dict[str, Any]]:
        """Read files from the store's top, many at a time; what is damaged or gone is left out."""

        def read(name: str) -> tuple[str, Any]:
            try:
                return name, json.loads(self.root.read_text(name))
            except (MissingObject, ValueError):
                return name, None

        with ThreadPoolExecutor(READERS) as pool:
            pairs = list(pool.map(read, names))
        return {name: content for name, content in pairs if isinstance(content, dict)}
