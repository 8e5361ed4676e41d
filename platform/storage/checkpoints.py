"""The checkpoints of one run in the store: shards first, manifest last, newest usable first.

    <run>/checkpoints/images-000000012800/shard-0.safetensors ...
                                         /manifest.json    the checkpoint exists from here on

A checkpoint without a manifest is invisible to readers, whatever it holds.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from ...trainers import checkpoint as checkpoint_format
from ...trainers.checkpoint import MANIFEST, Manifest
from ...trainers.errors import CheckpointProblem
from . import layout
from .errors import MissingObject
from .store import Storage

NAME = re.compile(r"images-\d{12}")


def name_of(images_seen: int) -> str:
    """A checkpoint's name; names sort by progress."""
    return f"images-{images_seen:012d}"


@dataclass(frozen=True)
class Fetched:
    """The newest usable checkpoint, now in a local folder."""

    name: str
    manifest: Manifest
    damaged: dict[str, CheckpointProblem]
    """Newer ones that had to be passed over, newest first: name -> what is wrong with it."""


class CheckpointStore:
    """The checkpoints of one run.

    To write one, every rank calls `put_shard`, all wait for each other, then rank 0 calls `commit`.

    A committed checkpoint is never rewritten: when a restarted run comes to the same name again,
    `put_shard` and `commit` leave it as it is. It holds the same state, since randomness depends on
    progress alone, and so there is no moment at which it cannot be read.

    Every method raises `StorageProblem` when the store fails.

    Args:
        run: the run's place in the store; its folder `checkpoints/` is used.
        keep: how many of the newest `prune` leaves, at least 1; two, so that one may be damaged.
    """

    def __init__(self, run: Storage, keep: int = 2) -> None:
        if keep < 1:
            raise ValueError(f"keep must be at least 1, {keep} given")
        self.storage = run.child(layout.CHECKPOINTS)
        self.keep = keep

    def put_shard(self, name: str, local_file: Path) -> None:
        """Add one file to a checkpoint that is being written; it keeps the local file's name."""
        if not self._is_committed(name):
            self.storage.put_file(local_file, f"{name}/{local_file.name}")

    def commit(self, name: str, local_manifest: Path) -> None:
        """Make a checkpoint exist, after all its files are in the store.

        Raises:
            CheckpointProblem: a file of the manifest is missing there or has another size; the
                checkpoint then does not exist.
        """
        if self._is_committed(name):
            return
        text = local_manifest.read_text()
        self.check_sizes(name, checkpoint_format.parse_manifest(text, str(local_manifest)))
        self.storage.write_text(f"{name}/{MANIFEST}", text)

    def names(self) -> list[str]:
        """Committed checkpoints, oldest first."""
        return _committed(self.storage.list())

    def latest(self) -> str | None:
        """The newest committed checkpoint."""
        return max(self.names(), default=None)

    def read_manifest(self, name: str) -> Manifest:
        """What a committed checkpoint holds.

        Raises:
            CheckpointProblem: there is none of this name, or its manifest is damaged.
        """
        where = self.storage.uri_of(f"{name}/{MANIFEST}")
        try:
            text = self.storage.read_text(f"{name}/{MANIFEST}")
        except MissingObject:
            raise CheckpointProblem(
                f"{where}: not there, so there is no finished checkpoint {name}",
                f"choose one of: {', '.join(self.names()) or 'none yet'}",
            ) from None
        return checkpoint_format.parse_manifest(text, where)

    def fetch(self, name: str, local_folder: Path) -> Manifest:
        """Copy a checkpoint into a local folder and check every byte of it.

        Raises:
            CheckpointProblem: there is none of this name, or a file of it is missing, cut short or
                altered. The local folder then holds no manifest.
        """
        (local_folder / MANIFEST).unlink(missing_ok=True)  # of a checkpoint fetched here before
        manifest = self.read_manifest(name)
        self.check_sizes(name, manifest)
        for file in manifest.files:
            self.storage.get_file(f"{name}/{file}", local_folder / file)
        self.storage.get_file(f"{name}/{MANIFEST}", local_folder / MANIFEST)
        try:
            return checkpoint_format.verify(local_folder)
        except CheckpointProblem:
            (local_folder / MANIFEST).unlink()
            raise

    def fetch_latest_usable(self, local_folder: Path) -> Fetched | None:
        """Fetch the newest checkpoint, or the newest before it that is whole; None if there is none.

        A store that fails is not a damaged checkpoint: it raises, and nothing is passed over.

        Raises:
            CheckpointProblem: there are checkpoints and all of them are damaged.
        """
        damaged: dict[str, CheckpointProblem] = {}
        for name in reversed(self.names()):
            try:
                return Fetched(name, self.fetch(name, local_folder), damaged)
            except CheckpointProblem as found:
                damaged[name] = found
        if damaged:
            newest, problem = next(iter(damaged.items()))
            raise CheckpointProblem(
                f"none of {len(damaged)} checkpoints in {self.storage.uri} is usable; "
                f"{newest}: {problem.what}",
                "restore that folder from a copy, or start the run under another name",
            )
        return None

    def set_aside(self, name: str) -> None:
        """Take a damaged checkpoint's manifest out of sight, so that its name can be written again.

        Called by the one who resumes from an earlier one, not by mere readers.
        """
        text = self.storage.read_text(f"{name}/{MANIFEST}")
        self.storage.write_text(f"{name}/{layout.DAMAGED_MANIFEST}", text)
        self.storage.delete(f"{name}/{MANIFEST}")

    def prune(self) -> list[str]:
        """Delete what is no longer needed; the names deleted, oldest first.

        Stay: the last `keep`, and whatever is newer than the newest committed
        one, which may be in the middle of being written.
        """
        listing = self.storage.list()
        committed = _committed(listing)
        if not committed:
            return []
        kept = set(committed[-self.keep :])
        present = {path.partition("/")[0] for path in listing}
        old = sorted(
            name for name in present - kept if NAME.fullmatch(name) and name < committed[-1]
        )
        for name in old:
            # First, so that a prune that is killed never leaves a manifest over missing files.
            self.storage.delete(f"{name}/{MANIFEST}")
            self.storage.delete(name)
        return old

    def _is_committed(self, name: str) -> bool:
        if not NAME.fullmatch(name):
            raise ValueError(f"{name} is not a checkpoint's name; see name_of")
        return self.storage.exists(f"{name}/{MANIFEST}")

    def check_sizes(self, name: str, manifest: Manifest) -> None:
        """Compare the sizes in the store with a manifest: cheap, before gigabytes are moved."""
        for file, expected in manifest.files.items():
            where = self.storage.uri_of(name)
            if (found := self.storage.size_of(f"{name}/{file}")) != expected.bytes:
                state = "is missing" if found is None else f"has {found} bytes"
                raise CheckpointProblem(
                    f"{where}/{file} {state}, the manifest says {expected.bytes} bytes",
                    "choose an earlier checkpoint; this one is incomplete",
                )


def _committed(listing: dict[str, int]) -> list[str]:
    folders = (
        path.removesuffix(f"/{MANIFEST}") for path in listing if path.endswith(f"/{MANIFEST}")
    )
    return sorted(folder for folder in folders if NAME.fullmatch(folder))
