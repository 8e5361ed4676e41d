"""The copy of a packed set on this machine, fetched in the background by all of its processes together."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np

from ...disk import FULL, disk_problem
from ...errors import DataProblem, Problem
from ..files import Files, MissingFile
from ..packed import Indices, Pixels
from ..row_store import DONE, UNCHECKED, open_rows
from .description import PACK_AGAIN, Description, Shard

FETCHERS = 4
"""Threads of a process that fetch, one shard each: one stream from a bucket is slower than most networks."""
PART_BYTES = 8 << 20
"""Of a shard that are in memory at a time."""
POLL_S = 0.1
"""Between two looks at what other processes have fetched."""

log = logging.getLogger(__name__)


class LocalCopy:
    """All rows of a set in one file of this machine, of which a shard at a time becomes readable.

    Every process of the machine that opens it fetches shards that no other fetches at the moment, until all
    are there; one that is killed leaves what it had begun to the others. A shard counts when the hash of what
    was written is the set's. After the machine was started anew, shards are read and checked in place of
    being fetched.

    Args:
        files: the packed set.
        folder: of the copy; created when needed.

    Raises:
        DiskProblem: the folder cannot be written.
    """

    def __init__(self, files: Files, description: Description, folder: Path) -> None:
        self.files, self.description, self.folder = files, description, folder
        firsts = np.array([shard.first for shard in description.shards] + [description.rows])
        try:
            self.store = open_rows(folder, firsts, int(np.prod(description.image_shape)))
        except OSError as error:
            raise disk_problem(error, folder, description.bytes) from error
        self.is_full = False
        """Whether the disk has no room for the rest, which then stays in the bucket."""
        self._problem: Problem | None = None
        self._order = list(range(len(description.shards)))
        self._changed = threading.Condition()
        self._threads: list[threading.Thread] = []

    @cached_property
    def rows(self) -> Pixels:
        """(N, C, H, W), all rows; those of shards that are not `DONE` are not to be used."""
        return self.store.array(self.description.image_shape)

    def start(self) -> None:
        """Fetch what is missing, in threads that end with it or with the process."""
        if self.store.is_whole or self._threads:
            return
        for i in range(min(FETCHERS, len(self.description.shards))):
            thread = threading.Thread(target=self._work, name=f"fetch-{i}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def want(self, rows: Indices) -> None:
        """Fetch the shards of these rows (B,) before all others, in the order of the rows."""
        pieces = list(dict.fromkeys(self.store.pieces_of(rows).tolist()))
        with self._changed:
            first = set(pieces)
            self._order = pieces + [piece for piece in self._order if piece not in first]

    def wait_for(self, rows: Indices) -> None:
        """Return when the shards of these rows (B,) are there, or never will be: see `is_full`.

        Raises:
            Problem: a shard cannot be fetched.
        """
        pieces = np.unique(self.store.pieces_of(rows))
        while (self.store.marks[pieces] != DONE).any():
            self.check()
            if self.is_full or not any(thread.is_alive() for thread in self._threads):
                return
            with self._changed:
                self._changed.wait(POLL_S)

    def check(self) -> None:
        """Raise what has ended the fetching, if anything has.

        Raises:
            Problem: a shard cannot be fetched.
        """
        if self._problem is not None:
            raise type(self._problem)(self._problem.what, self._problem.fix)

    def _work(self) -> None:
        try:
            while not self._is_over():
                if not self._fetch_one():
                    with self._changed:
                        self._changed.wait(POLL_S)
        except Problem as problem:
            self._problem = self._problem or problem
        except OSError as error:
            if error.errno in FULL:
                if not self.is_full:
                    log.warning(
                        "%s: the disk is full; what is missing there is read from %s, row by row",
                        *(self.folder, self.files.uri),
                    )
                self.is_full = True
            else:
                self._problem = disk_problem(error, self.folder)
        finally:
            with self._changed:
                self._changed.notify_all()

    def _is_over(self) -> bool:
        return self.store.is_whole or self.is_full or self._problem is not None

    def _fetch_one(self) -> bool:
        """Fetch the first shard that is missing and that nobody fetches; return whether there was one."""
        for piece in self._missing():
            with self.store.claim(piece) as is_ours:
                if not is_ours or self.store.marks[piece] == DONE:
                    continue
                self._fetch(piece)
            with self._changed:
                self._changed.notify_all()
            return True
        return False

    def _missing(self) -> Iterator[int]:
        with self._changed:
            order = self._order
        return (piece for piece in order if self.store.marks[piece] != DONE)

    def _fetch(self, piece: int) -> None:
        shard, rows = self.description.shards[piece], self.store.rows_of(piece)
        if self.store.marks[piece] == UNCHECKED:
            if hashlib.sha256(self.store.read(rows)).hexdigest() == shard.sha256:
                self.store.mark(piece)
                return
            log.warning("%s: %s is damaged there; fetching it again", self.folder, shard.file)
        for _ in range(2):  # a second time where the first copy was damaged on its way
            digest = self._copy(shard)
            if digest == shard.sha256:
                self.store.mark(piece)
            if digest in (shard.sha256, None):
                return
        raise DataProblem(
            f"{self.files.uri_of(shard.file)}: damaged, its SHA-256 is not the packed set's",
            PACK_AGAIN,
        )

    def _copy(self, shard: Shard) -> str | None:
        """Write a shard into the file; return the hash of what was written, hex, None where it is given up."""
        digest = hashlib.sha256()
        size = shard.rows * self.store.row_bytes
        for start in range(0, size, PART_BYTES):
            if self._is_over():
                return None
            content = read_shard(self.files, shard, start, min(PART_BYTES, size - start))
            digest.update(content)
            self.store.write(shard.first, content, start)
        return digest.hexdigest()


def read_shard(files: Files, shard: Shard, start: int, length: int) -> bytes:
    """Return a range of a shard's bytes.

    Raises:
        DataProblem: the set lacks the shard, or it cannot be read.
    """
    try:
        return files.read(shard.file, start, length)
    except MissingFile as error:
        raise DataProblem(
            f"{files.uri_of(shard.file)}: missing from the packed set", PACK_AGAIN
        ) from error
