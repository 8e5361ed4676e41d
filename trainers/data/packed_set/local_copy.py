"""The copy of a packed set on this machine, fetched in the background by all of its processes together."""

from __future__ import annotations

import hashlib
import logging
import time
from functools import cached_property
from pathlib import Path

import numpy as np

from ...disk import FULL, disk_problem
from ...errors import DataProblem
from ..files import Files, MissingFile
from ..filling import Filling
from ..packed import Indices, Pixels
from ..row_store import open_rows
from .description import PACK_AGAIN, Description, Shard

FETCHERS = 4
"""Threads of a process that fetch, one shard each: one stream from a bucket is slower than most networks."""
PART_BYTES = 8 << 20
"""Of a shard that are in memory at a time."""
SAID_EVERY_S = 30.0
"""Of images that are waited for."""

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
        self._filling = Filling(self.store, self._fetch, FETCHERS)

    @cached_property
    def rows(self) -> Pixels:
        """(N, C, H, W), all rows; those of shards that are not ready are not to be used."""
        return self.store.array(self.description.image_shape)

    def start(self) -> None:
        """Fetch what is missing, in threads that end with it or with the process."""
        if not self.store.is_whole:
            self._filling.start()

    def want(self, rows: Indices) -> None:
        """Fetch the shards of these rows (B,) before all others, in the order of the rows."""
        self._filling.want(self.store.pieces_of(rows))

    def wait_for(self, rows: Indices) -> None:
        """Return when the shards of these rows (B,) are there, or never will be: the disk may be full.

        Raises:
            Problem: a shard cannot be fetched.
        """
        said = time.monotonic()

        def say() -> None:
            nonlocal said
            if time.monotonic() - said > SAID_EVERY_S:
                said = time.monotonic()
                log.warning(
                    "%s: waiting for images; %s of %s are on this machine",
                    *(self.files.uri, f"{self.store.rows_ready:,}", f"{self.store.rows:,}"),
                )

        self._filling.wait_for(np.unique(self.store.pieces_of(rows)), say)

    def check(self) -> None:
        """Raise what has ended the fetching, if anything has.

        Raises:
            Problem: a shard cannot be fetched.
        """
        self._filling.check()

    def _fetch(self, piece: int) -> None:
        shard = self.description.shards[piece]
        if self.store.is_written(piece):
            content = self.store.read(self.store.rows_of(piece))
            if hashlib.sha256(content).hexdigest() == shard.sha256:
                self.store.mark(piece)
                return
            log.warning("%s: %s is damaged there; fetching it again", self.folder, shard.file)
        for _ in range(2):  # a second time where the first copy was damaged on its way
            try:
                digest = self._copy(shard)
            except OSError as error:
                if error.errno not in FULL:
                    raise disk_problem(error, self.folder) from error
                if not self._filling.is_over:
                    log.warning(
                        "%s: the disk is full; what is missing there is read from %s, row by row",
                        *(self.folder, self.files.uri),
                    )
                self._filling.stop()
                return
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
            if self._filling.is_over:
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
