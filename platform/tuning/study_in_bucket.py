"""A study in a bucket: it outlives the machine that drives the sweep, and needs no server.

Optuna 5.0 has no storage for S3.

    study/00003.jsonl           the token of the third driver, then all entries until it took over
    study/TOKEN/00000001.jsonl  its own entries, an object for each append
    study/TOKEN/driver.json     who it is; rewritten while it lives, deleted when it ends

A driver is the only writer of its folder, so writes never conflict. It takes over by writing the next
numbered file: from then on its folder is read and no earlier one. A driver that was taken for dead and
is not writes where nobody reads, and its next append raises.

Objects are requested by number, never listed: a listing may lag behind the writes. The last line of each
is the hash of the others. An object that is damaged, or missing before later ones, is named and nothing
goes on from there: trials would be forgotten and their numbers given again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend

from ...trainers.integrity import Altered, read_twice, seal_text, unseal_text
from ...trainers.retry import retry_during_outage
from ..storage import layout
from ..storage.errors import StorageProblem
from ..storage.objects import Bucket
from ..storage.store import Storage
from ..storage.writer_lock import RESTORE, BucketLock, read_consecutive

DRIVING = "is driving this sweep"
"""What a process with the lock of a study does."""


class BucketStorage(JournalStorage):
    """The study of the sweep at `store`, driven by this process until `close`.

    Raises:
        UsageProblem: another process drives the sweep.
        StorageProblem: the store fails.
    """

    def __init__(self, store: Storage) -> None:
        self.journal = BucketJournal(
            Bucket(store.child(layout.STUDY)), store.config.retry_timeout_s
        )
        super().__init__(self.journal)

    def close(self) -> None:
        """Let another process drive the sweep."""
        self.journal.close()


class BucketJournal(BaseJournalBackend):
    """Optuna's journal as objects; opening it takes the study over.

    An append waits `retry_timeout_s` for a store that does not answer.
    """

    def __init__(self, bucket: Bucket, retry_timeout_s: float) -> None:
        self._bucket, self._retry_timeout_s = bucket, retry_timeout_s
        self._appended = 0
        self._lock = BucketLock(bucket, DRIVING)
        self._lock.wait_until_free()
        self._lines = self._read(self._lock.before) if self._lock.before else []
        self._lock.take(*self._lines)

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        """See `BaseJournalBackend`. The only writer has all entries in memory."""
        return [json.loads(line) for line in self._lines[log_number_from:]]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """See `BaseJournalBackend`.

        An append that failed may be in the store all the same. The next one has its number, and so
        replaces it.
        """
        lines = [json.dumps(log, separators=(",", ":")) for log in logs]
        retry_during_outage(
            lambda: self._put(self._appended + 1, "\n".join(lines)), self._retry_timeout_s
        )
        self._appended += 1
        self._lines += lines

    def close(self) -> None:
        """Let another process drive the sweep."""
        self._lock.release()

    def _put(self, number: int, text: str) -> None:
        self._lock.check()
        self._bucket.put(layout.study_entry(self._lock.token, number), seal_text(text))

    def _read(self, token: str) -> list[str]:
        """Return all entries, as the driver after that one finds them."""
        before = self._get_whole(layout.claim_file(self._lock.number - 1))
        assert before is not None
        since = read_consecutive(
            self._bucket,
            lambda number: self._get_whole(layout.study_entry(token, number)),
            lambda number: layout.study_entry(token, number),
        )
        return [*before.splitlines()[1:], *"\n".join(since).splitlines()]

    def _get_whole(self, name: str) -> str | None:
        """Return what an object holds, without its hash; None where it does not exist.

        Raises:
            StorageProblem: it is damaged, also when read a second time.
        """

        def fetch() -> str | None:
            text = self._bucket.get(name)
            return None if text is None else unseal_text(text)

        try:
            return read_twice(fetch)
        except Altered as error:
            raise StorageProblem(
                f"{self._bucket.uri_of(name)}: damaged, or written by another version of whipray",
                RESTORE,
            ) from error
