"""A study in a file of one machine: Optuna's journal, each entry with a hash over all before it.

Any tool of Optuna reads the file; the hash is one more key of an entry. An entry that was changed or cut
out of the middle breaks the chain. The file of the lock holds how many entries there were when the last
writer was done, so that entries that are cut off at the end are missed, too. An entry that a writer had only
begun when it was killed is no damage, and is removed.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from optuna.storages.journal import BaseJournalBackend

from ...trainers.integrity import KEY
from ..storage.errors import StorageProblem, local_problem

LOCK = ".lock"
"""How the name of its lock ends."""
COUNT_BYTES = 20
"""More than the digits of a count of entries."""


class FileJournal(BaseJournalBackend):
    """Optuna's journal in a file, for several readers and writers.

    Not Optuna's own backend (5.0): its locks stay for 30 s when their holder is killed, the kernel
    releases this one at once; and after a kill in the middle of an entry it could read neither that nor
    the next one.

    Raises:
        StorageProblem: the file is damaged, or cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._entries: list[dict[str, Any]] = []
        self._end, self._hash = 0, ""
        with self._locked() as lock:
            path.touch()
            self._read_new()
            os.truncate(path, self._end)
            expected = os.pread(lock, COUNT_BYTES, 0).strip()
            if expected.isdigit() and int(expected) > len(self._entries):
                raise StorageProblem(
                    f"{path}: {expected.decode()} entries were written, {len(self._entries)} are left",
                    f"restore it from a copy; to go on with these, remove {path.name}{LOCK}",
                )

    def read_logs(self, log_number_from: int) -> list[dict[str, Any]]:
        """See `BaseJournalBackend`."""
        self._read_new()
        return self._entries[log_number_from:]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """See `BaseJournalBackend`."""
        with self._locked() as lock:
            self._read_new()
            text, chained = "", self._hash
            for entry in logs:
                chained = _chain(chained, json.loads(json.dumps(entry)))
                text += json.dumps({**entry, KEY: chained}, separators=(",", ":")) + "\n"
            with self._path.open("ab") as file:
                file.write(text.encode())
                file.flush()
                os.fsync(file.fileno())
            self._read_new()
            os.pwrite(lock, str(len(self._entries)).rjust(COUNT_BYTES).encode(), 0)

    @contextmanager
    def _locked(self) -> Iterator[int]:
        """Exclude other writers; yield the open file of the lock."""
        path = self._path.with_name(self._path.name + LOCK)
        try:
            lock = os.open(path, os.O_CREAT | os.O_RDWR, 0o666)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield lock
            finally:
                os.close(lock)
        except OSError as error:
            raise local_problem(error, error.filename or str(self._path)) from error

    def _read_new(self) -> None:
        """Read the whole entries that were appended since the last time, twice if they are damaged."""
        try:
            self._read_once()
        except StorageProblem:
            self._read_once()

    def _read_once(self) -> None:
        with self._path.open("rb") as file:
            file.seek(self._end)
            new = file.read()
        for line in new[: new.rfind(b"\n") + 1].splitlines(keepends=True):
            try:
                entry = json.loads(line)
                expected = entry.pop(KEY)
                chained = _chain(self._hash, entry)
            except (ValueError, AttributeError, LookupError, TypeError):
                expected, chained = None, ""
            if expected != chained:
                raise StorageProblem(
                    f"{self._path}: damaged at entry {len(self._entries) + 1}, or written by another "
                    "version of whipray",
                    "restore it from a copy, or begin under another name",
                )
            self._entries.append(entry)
            self._hash = chained
            self._end += len(line)


def _chain(before: str, entry: dict[str, Any]) -> str:
    text = json.dumps(entry, sort_keys=True)
    return hashlib.sha256(f"{before}{text}".encode()).hexdigest()
