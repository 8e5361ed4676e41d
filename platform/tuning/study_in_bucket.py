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
import logging
import os
import socket
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from threading import Event, Thread
from typing import Any
from uuid import uuid4

from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend

from ...trainers.errors import UsageProblem
from ...trainers.integrity import Altered, seal_text, unseal_text
from ..foundation.retry import retry_during_outage
from ..storage import layout
from ..storage.errors import StorageProblem
from ..storage.objects import CONNECTIONS, Bucket
from ..storage.store import Storage

RENEW_S = 10.0
"""How often a driver rewrites its `driver.json`."""
STALE_S = 40.0
"""Age of a `driver.json` from which its driver is taken for dead: four renewals that are missing."""
POLL_S = 1.0
"""How often a driver that waits looks for the `driver.json` of the one before it."""
TAKEOVER_WAIT_S = 1.0
"""Between the claim to a study and the check of it. Some servers ignore `If-None-Match`: of two drivers that
take over at the same moment, the last one to write wins, and has written by then."""
OR_BEGIN_ANEW = "or sweep under another name"
TOKEN_LENGTH = len(uuid4().hex)

log = logging.getLogger(__name__)


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
        self._token = uuid4().hex
        self._appended = 0
        self._since = datetime.now(UTC).isoformat(" ", "minutes").replace("+00:00", " UTC")
        self._over = Event()
        self._loss: UsageProblem | None = None
        before = self._read_consecutive(self._driver, layout.study_takeover)
        self._number = len(before) + 1
        self._lines: list[str] = []
        if before:
            self._wait_until_free(before[-1])
            self._lines = self._read(before[-1])
        self._take_over()
        self._renewal = Thread(target=self._renew, name="study-renewal", daemon=True)
        self._renewal.start()

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
        self._over.set()
        self._renewal.join()
        with suppress(StorageProblem):  # then the driver is taken for dead after a while
            self._bucket.delete(layout.study_driver(self._token))
        self._bucket.close()

    def _put(self, number: int, text: str) -> None:
        if self._loss is not None:
            raise self._loss
        self._bucket.put(layout.study_entry(self._token, number), seal_text(text))

    # --- taking over -------------------------------------------------------------------------

    def _driver(self, number: int) -> str | None:
        """Return the token of the driver that took over as the `number`th."""
        return self._bucket.get(layout.study_takeover(number), first=TOKEN_LENGTH)

    def _wait_until_free(self, token: str) -> None:
        """Return when that driver has ended or is taken for dead; raise as soon as it shows life."""
        earlier = None
        while (written := self._bucket.written(layout.study_driver(token))) is not None:
            when, seconds_ago = written
            if seconds_ago > STALE_S:
                return
            if earlier is None:
                log.warning("waiting up to %d s to see if %s lives", STALE_S, self._who(token))
            elif when != earlier:
                raise self._driven_by(token)
            earlier = when
            time.sleep(POLL_S)

    def _read(self, token: str) -> list[str]:
        """Return all entries, as the driver after that one finds them."""
        before = self._get_whole(layout.study_takeover(self._number - 1))
        assert before is not None
        since = self._read_consecutive(
            lambda number: self._get_whole(layout.study_entry(token, number)),
            lambda number: layout.study_entry(token, number),
        )
        return [*before.splitlines()[1:], *"\n".join(since).splitlines()]

    def _take_over(self) -> None:
        """Write the entries of before and the claim as one object: a kill leaves both or none."""
        self._write_sign_of_life()
        self._bucket.put_once(
            layout.study_takeover(self._number), seal_text("\n".join([self._token, *self._lines]))
        )
        time.sleep(TAKEOVER_WAIT_S)
        winner = self._driver(self._number)
        if winner != self._token:
            self._bucket.delete(layout.study_driver(self._token))
            raise self._driven_by(winner)

    def _write_sign_of_life(self) -> None:
        who = {"host": socket.gethostname(), "pid": os.getpid(), "since": self._since}
        self._bucket.put(layout.study_driver(self._token), json.dumps(who))

    def _renew(self) -> None:
        while not self._over.wait(RENEW_S):
            with suppress(StorageProblem):  # the next one may succeed; appends raise the problem
                for number in (self._number + 1, self._number):
                    if (driver := self._driver(number)) not in (None, self._token):
                        self._loss = self._driven_by(driver)
                        return
                self._write_sign_of_life()

    def _driven_by(self, token: str | None) -> UsageProblem:
        who = self._who(token)
        return UsageProblem(f"{who} is driving this sweep", "watch that process, or stop it first")

    def _who(self, token: str | None) -> str:
        text = token and self._bucket.get(layout.study_driver(token))
        if not text:
            return "another process"
        with suppress(ValueError, KeyError, TypeError):
            driver = json.loads(text)
            return f"process {driver['pid']} on {driver['host']}, since {driver['since']},"
        return "another process"

    def _get_whole(self, name: str) -> str | None:
        """Return what an object holds, without its hash; None where it does not exist.

        Raises:
            StorageProblem: it is damaged, also when read a second time.
        """
        for _ in range(2):
            if (text := self._bucket.get(name)) is None:
                return None
            with suppress(Altered):
                return unseal_text(text)
        raise StorageProblem(
            f"{self._bucket.uri_of(name)}: damaged, or written by another version of whipray",
            f"restore it from a copy or an older version of the object; {OR_BEGIN_ANEW}",
        )

    def _read_consecutive(
        self, get: Callable[[int], str | None], name: Callable[[int], str]
    ) -> list[str]:
        """Return `get(1)`, `get(2)`, ... up to the first None; many are requested at once.

        Args:
            name: of the object with this number.

        Raises:
            StorageProblem: there are objects after one that is missing.
        """
        texts: list[str] = []
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            while True:
                first = len(texts) + 1
                # One batch further than the first gap, to know the end from a hole.
                several = list(pool.map(get, range(first, first + 2 * CONNECTIONS)))
                complete = several.index(None) if None in several else CONNECTIONS
                complete = min(complete, CONNECTIONS)
                later = [text for text in several[complete:] if text is not None]
                texts += [text for text in several[:complete] if text is not None]
                if complete == CONNECTIONS:
                    continue
                if not later:
                    return texts
                # A driver that was taken for dead may have written it just after it was requested.
                if (missing := get(len(texts) + 1)) is None:
                    raise StorageProblem(
                        f"{self._bucket.uri_of(name(len(texts) + 1))}: missing, though later parts of "
                        "the study exist",
                        f"restore it from a copy or an older version of the object; {OR_BEGIN_ANEW}",
                    )
                texts.append(missing)
