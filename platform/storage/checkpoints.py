"""The checkpoints of one run in the store.

Shards are written first and the manifest last: a checkpoint exists when its manifest does. A folder
without one is invisible to readers, whatever it holds. Why not PyTorch's distributed checkpoints:
`docs/design/checkpoints.md`.

Of an old checkpoint the power-function averages stay, if the run keeps any, at up to
`trainers.averaging.MOMENTS` moments: averages of other widths are formed from them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ...trainers import checkpoint as checkpoint_format
from ...trainers.averaging import thinned
from ...trainers.checkpoint import PASS_OVER, PROFILE, Manifest, file_of_rank
from ...trainers.checkpoint_names import CHECKPOINT_NAME, MANIFEST, checkpoint_name, images_seen
from ...trainers.errors import CheckpointProblem
from . import layout
from .errors import MissingObject
from .store import Storage

REQUESTS = 16
"""Files of a checkpoint that are asked for at a time: there is one or two for each worker that wrote it."""

log = logging.getLogger(__name__)

FIRST_AVERAGES = file_of_rank(PROFILE, 0)
"""A file of every checkpoint that holds power-function averages."""
OF_AVERAGES = (FIRST_AVERAGES.partition("-")[0], layout.AVERAGES)
"""Beginnings of the names of files that stay of an old checkpoint."""


@dataclass(frozen=True)
class Fetched:
    """The newest usable checkpoint, now in a local folder."""

    name: str
    manifest: Manifest
    damaged: dict[str, CheckpointProblem]
    """Newer checkpoints that were passed over, newest first: name -> what is wrong with it."""


class CheckpointStore:
    """The checkpoints of one run.

    To write one, every rank calls `put_shard`, all wait for each other, then rank 0 calls `commit`.

    A committed checkpoint is never rewritten: when a restarted run comes to the same name again,
    `put_shard` and `commit` leave it as it is. It holds the same state, since randomness depends on
    progress alone, and so there is no moment at which it cannot be read.

    Every method raises `StorageProblem` when the store fails.

    Args:
        run: the run's folder in the store; its subfolder `checkpoints/` is used.
        keep: how many of the newest `prune` leaves, at least 1; two, so that one may be damaged.
    """

    def __init__(self, run: Storage, keep: int = 2) -> None:
        if keep < 1:
            raise ValueError(f"keep must be at least 1, {keep} given")
        self.storage = run.child(layout.CHECKPOINTS)
        self.keep = keep

    def put_shard(self, name: str, local_file: Path) -> None:
        """Upload one file of a checkpoint that is being written, under the local file's name."""
        if not self._is_committed(name):
            self.storage.put_file(local_file, f"{name}/{local_file.name}")

    def commit(self, name: str, local_manifest: Path) -> None:
        """Make a checkpoint exist, after all its files are in the store.

        Raises:
            CheckpointProblem: a file of the manifest is missing in the store or has another size;
                the checkpoint then does not exist.
        """
        if self._is_committed(name):
            return
        text = local_manifest.read_text()
        self.check_sizes(name, checkpoint_format.parse_manifest(text, str(local_manifest)))
        self.storage.write_text(f"{name}/{MANIFEST}", text)

    def lost_after(self, name: str) -> str | None:
        """Return a later checkpoint than this that has files and no manifest; None without one.

        It is being written, its writer died, or its manifest was lost.
        """
        folders = {path.partition("/")[0] for path in self.storage.list()}
        later = {
            folder for folder in folders if CHECKPOINT_NAME.fullmatch(folder) and folder > name
        }
        return max(later, default=None)

    def names(self) -> list[str]:
        """Return the names of the committed checkpoints, oldest first."""
        return _committed(self.storage.list())

    def latest(self) -> str | None:
        """Return the name of the newest committed checkpoint, None where there is none."""
        return max(self.names(), default=None)

    def read_manifest(self, name: str) -> Manifest:
        """Return the manifest of a committed checkpoint.

        Raises:
            CheckpointProblem: there is none of this name, or its manifest is damaged.
        """
        where = self.storage.uri_of(f"{name}/{MANIFEST}")
        try:
            text = self.storage.read_text(f"{name}/{MANIFEST}")
        except MissingObject:
            raise CheckpointProblem(
                f"{where}: missing, so there is no finished checkpoint {name}",
                f"choose one of: {', '.join(self.names()) or 'none yet'}",
            ) from None
        return checkpoint_format.parse_manifest(text, where)

    def check(self, name: str) -> Manifest:
        """Return a checkpoint's manifest after checking the sizes of its files.

        Raises:
            CheckpointProblem: there is none of this name, its manifest is damaged, or a file is missing or
                has another size.
        """
        return _twice(lambda: self._check_once(name))

    def _check_once(self, name: str) -> Manifest:
        manifest = self.read_manifest(name)
        self.check_sizes(name, manifest)
        return manifest

    def fetch(self, name: str, local_folder: Path) -> Manifest:
        """Download a checkpoint into a local folder and check every byte of it.

        What is damaged is read once more: a single bad read is not a damaged checkpoint.

        Raises:
            CheckpointProblem: there is none of this name, or a file of it is missing, cut short or
                altered. The local folder then holds no manifest.
        """
        return _twice(lambda: self._fetch_once(name, local_folder))

    def verify(self, name: str) -> Manifest:
        """Return a checkpoint's manifest after checking every byte in the store, without a copy.

        Raises:
            CheckpointProblem: as `fetch`.
        """
        return _twice(lambda: self._verify_once(name))

    def _verify_once(self, name: str) -> Manifest:
        manifest = self._check_once(name)
        for file, expected in manifest.files.items():
            if self.storage.sha256_of(f"{name}/{file}") != expected.sha256:
                raise CheckpointProblem(
                    f"{self.storage.uri_of(name)}/{file}: its content does not match the manifest",
                    PASS_OVER,
                )
        return manifest

    def _fetch_once(self, name: str, local_folder: Path) -> Manifest:
        (local_folder / MANIFEST).unlink(missing_ok=True)  # of a checkpoint fetched here before
        manifest = self._check_once(name)
        for file in manifest.files:
            self.storage.get_file(f"{name}/{file}", local_folder / file)
        self.storage.get_file(f"{name}/{MANIFEST}", local_folder / MANIFEST)
        try:
            return checkpoint_format.verify(local_folder, self.storage.uri_of(name))
        except CheckpointProblem:
            (local_folder / MANIFEST).unlink()
            raise

    def averages(self, until: str) -> dict[str, Manifest]:
        """Return which power-function averages are kept, of a checkpoint and of moments before it.

        Returns:
            name -> the description of the averages alone, oldest first; nothing of a run without any.

        Raises:
            CheckpointProblem: a description is damaged.
        """
        listing = self.storage.list()
        kept: dict[str, Manifest] = {}
        for name in _with_averages(listing):
            if name <= until:
                described = self._read_averages(name, f"{name}/{MANIFEST}" in listing)
                if described is not None:
                    kept[name] = described
        return kept

    def fetch_averages(self, name: str, described: Manifest, local_folder: Path) -> Manifest:
        """Download the averages of one moment into a local folder and check every byte of them.

        Args:
            described: as `averages` returns it.

        Raises:
            CheckpointProblem: a file is missing, cut short or altered.
        """

        def once() -> Manifest:
            self.check_sizes(name, described)
            for file in described.files:
                self.storage.get_file(f"{name}/{file}", local_folder / file)
            checkpoint_format.write_manifest(local_folder, described)
            return checkpoint_format.verify(local_folder, self.storage.uri_of(name))

        try:
            return _twice(once)
        except CheckpointProblem as problem:
            raise self._damaged_averages(name, problem) from problem

    def _read_averages(self, name: str, whole: bool) -> Manifest | None:
        """Return the description of a moment's averages, None of a checkpoint without any.

        Args:
            whole: the rest of the checkpoint is there, too.
        """
        if whole:
            return self.read_manifest(name).averages()
        where = f"{name}/{layout.AVERAGES}"
        try:
            return checkpoint_format.parse_manifest(
                self.storage.read_text(where), self.storage.uri_of(where)
            )
        except CheckpointProblem as problem:
            raise self._damaged_averages(name, problem) from problem

    def _damaged_averages(self, name: str, problem: CheckpointProblem) -> CheckpointProblem:
        return CheckpointProblem(
            problem.what,
            f"restore {self.storage.uri_of(name)} from a copy, or delete it: averages are then "
            "formed from other moments",
        )

    def latest_usable(
        self, names: Sequence[str], fetch: Callable[[str], Manifest]
    ) -> Fetched | None:
        """Fetch the newest checkpoint that is whole; None if there is no checkpoint.

        A store that fails is not a damaged checkpoint: it raises, and nothing is passed over.

        Args:
            names: of the committed checkpoints, oldest first.
            fetch: downloads and checks the one of this name, as `fetch` does.

        Raises:
            CheckpointProblem: there are checkpoints and all of them are damaged.
        """
        damaged: dict[str, CheckpointProblem] = {}
        for name in reversed(names):
            try:
                return Fetched(name, fetch(name), damaged)
            except CheckpointProblem as problem:
                damaged[name] = problem
        if damaged:
            newest, first = next(iter(damaged.items()))
            raise CheckpointProblem(
                f"none of {len(damaged)} checkpoints in {self.storage.uri} is usable; "
                f"{newest}: {first.what}",
                "restore that folder from a copy, or start the run under another name",
            )
        return None

    def set_aside(self, name: str) -> None:
        """Rename a damaged checkpoint's manifest, so that the checkpoint can be written again.

        Only for a training that resumes from an earlier checkpoint; other readers change nothing.
        """
        text = self.storage.read_text(f"{name}/{MANIFEST}")
        self.storage.write_text(f"{name}/{layout.DAMAGED_MANIFEST}", text)
        self.storage.delete(f"{name}/{MANIFEST}")

    def prune(self) -> list[str]:
        """Delete old checkpoints, and return their names, oldest first.

        The last `keep` stay, and so does anything newer than the newest committed checkpoint, which
        may be in the middle of being written. Power-function averages of the others stay at
        some moments, see `trainers.averaging.thinned`.
        """
        listing = self.storage.list()
        committed = _committed(listing)
        if not committed:
            return []
        kept = set(committed[-self.keep :])
        present = {path.partition("/")[0] for path in listing}
        old = sorted(
            name
            for name in present - kept
            if CHECKPOINT_NAME.fullmatch(name) and name < committed[-1]
        )
        moments = [images_seen(name) for name in _with_averages(listing) if name <= committed[-1]]
        averages = {checkpoint_name(moment) for moment in thinned(moments)}
        for name in old:
            if name in averages and self._leave_averages(name, listing):
                continue
            # First, so that a prune that is killed never leaves a manifest over missing files.
            self.storage.delete(f"{name}/{MANIFEST}")
            self.storage.delete(name)
        return [name for name in old if name not in averages or name in committed]

    def _leave_averages(self, name: str, listing: dict[str, int]) -> bool:
        """Delete what an old checkpoint holds beside its averages, after describing these alone.

        Returns:
            False if its manifest is damaged, so that nothing in it can be used.
        """
        files = [path for path in listing if path.startswith(f"{name}/")]
        if f"{name}/{MANIFEST}" in files:
            try:
                described = self.read_manifest(name).averages()
            except CheckpointProblem:
                return False
            if described is None:
                return False
            text = checkpoint_format.manifest_text(described)
            self.storage.write_text(f"{name}/{layout.AVERAGES}", text)
            self.storage.delete(f"{name}/{MANIFEST}")  # first of all, as above
        for path in files:
            if not path.removeprefix(f"{name}/").startswith(OF_AVERAGES):
                self.storage.delete(path)
        return True

    def _is_committed(self, name: str) -> bool:
        if not CHECKPOINT_NAME.fullmatch(name):
            raise ValueError(f"{name} is not a checkpoint's name; see checkpoint_name")
        return self.storage.exists(f"{name}/{MANIFEST}")

    def check_sizes(self, name: str, manifest: Manifest) -> None:
        """Compare the sizes in the store with a manifest: cheap, before gigabytes are moved.

        Raises:
            CheckpointProblem: a file is missing or has another size.
        """
        where = self.storage.uri_of(name)
        with ThreadPoolExecutor(REQUESTS) as pool:  # not a listing, which may lag behind the writes
            sizes = pool.map(self.storage.size_of, [f"{name}/{file}" for file in manifest.files])
            for (file, expected), size in zip(manifest.files.items(), sizes, strict=True):
                if size != expected.bytes:
                    state = "is missing" if size is None else f"has {size} bytes"
                    raise CheckpointProblem(
                        f"{where}/{file} {state}, the manifest says {expected.bytes} bytes",
                        PASS_OVER,
                    )


def _twice(read: Callable[[], Manifest]) -> Manifest:
    """Read once more what was damaged: a single bad read is not a damaged checkpoint."""
    try:
        return read()
    except CheckpointProblem as problem:
        log.warning("%s; reading it again", problem.what)
    return read()


def _committed(listing: dict[str, int]) -> list[str]:
    folders = (
        path.removesuffix(f"/{MANIFEST}") for path in listing if path.endswith(f"/{MANIFEST}")
    )
    return sorted(folder for folder in folders if CHECKPOINT_NAME.fullmatch(folder))


def _with_averages(listing: dict[str, int]) -> list[str]:
    """Return the moments of which averages are described, of whole checkpoints or alone, oldest first."""
    files: dict[str, set[str]] = {}
    for path in listing:
        folder, _, file = path.partition("/")
        files.setdefault(folder, set()).add(file)
    return sorted(
        folder
        for folder, names in files.items()
        if CHECKPOINT_NAME.fullmatch(folder)
        and FIRST_AVERAGES in names
        and names & {MANIFEST, layout.AVERAGES}
    )
