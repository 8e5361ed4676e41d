"""A study in a bucket: it outlives the machine that drives the sweep, and needs nothing else.

    study/00003.jsonl           the token of the third driver, then all entries until it took over
    study/TOKEN/00000001.jsonl  its own entries, an object for each append
    study/TOKEN/driver.json     who it is; written again while it lives, gone when it has ended

A driver is the one writer of its folder, so nothing there is contended and no order is disputed:
it takes over by writing the next numbered file, which makes its folder count and every earlier one
past. One that was thought dead and is not writes where nobody reads, and is told so.

Objects are asked for by number, never listed: a listing may be behind what was written.
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
from ..foundation.retry import retry_during_outage
from ..storage import layout
from ..storage.errors import StorageProblem
from ..storage.objects import CONNECTIONS, Bucket
from ..storage.store import Storage

RENEW_S = 10.0
"""How often a driver says that it lives."""
STALE_S = 40.0
"""A driver that has said nothing for so long is taken for dead."""
LOOK_AGAIN_S = 1.0
SETTLE_S = 1.0
"""Of two that take over in one moment on a server that lets both, the other has written by then."""
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
    """Optuna's journal as objects; opening it takes it over.

    An append waits `retry_timeout_s` for a store that does not answer.
    """

    def __init__(self, bucket: Bucket, retry_timeout_s: float) -> None:
        self._bucket, self._retry_timeout_s = bucket, retry_timeout_s
        self._token = uuid4().hex
        self._appended = 0
        self._since = datetime.now(UTC).isoformat(" ", "minutes").replace("+00:00", " UTC")
        self._over = Event()
        self._loss: UsageProblem | None = None
        before = self._while_there(self._driver)
        self._number = len(before) + 1
        self._lines: list[str] = []
        if before:
            self._wait_until_free(before[-1])
            self._lines = self._read(before[-1])
        self._take_over()
        self._renewal = Thread(target=self._renew, name="study-renewal", daemon=True)
        self._renewal.start()

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        """See `BaseJournalBackend`: the one writer has all there is."""
        return [json.loads(line) for line in self._lines[log_number_from:]]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """See `BaseJournalBackend`.

        An append that failed may be there all the same. The next one takes its number, and so its
        place.
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
        with suppress(StorageProblem):  # then it is soon taken for dead
            self._bucket.delete(layout.study_driver(self._token))
        self._bucket.close()

    def _put(self, number: int, text: str) -> None:
        if self._loss is not None:
            raise self._loss
        self._bucket.put(layout.study_entry(self._token, number), text)

    # --- taking over -------------------------------------------------------------------------

    def _driver(self, number: int) -> str | None:
        """Token of the driver who took over as the `number`th."""
        return self._bucket.get(layout.study_takeover(number), first=TOKEN_LENGTH)

    def _wait_until_free(self, token: str) -> None:
        """Return when that driver has ended or is dead; raise as soon as it says that it lives."""
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
            time.sleep(LOOK_AGAIN_S)

    def _read(self, token: str) -> list[str]:
        """All entries, as the next driver finds them."""
        until_then = self._bucket.get(layout.study_takeover(self._number - 1))
        assert until_then is not None
        since = self._while_there(
            lambda number: self._bucket.get(layout.study_entry(token, number))
        )
        return [*until_then.splitlines()[1:], *"\n".join(since).splitlines()]

    def _take_over(self) -> None:
        """All that was read and the claim to go on are one object: a kill leaves both or none."""
        self._say_alive()
        self._bucket.put_once(
            layout.study_takeover(self._number), "\n".join([self._token, *self._lines])
        )
        time.sleep(SETTLE_S)
        winner = self._driver(self._number)
        if winner != self._token:
            self._bucket.delete(layout.study_driver(self._token))
            raise self._driven_by(winner)

    def _say_alive(self) -> None:
        who = {"host": socket.gethostname(), "pid": os.getpid(), "since": self._since}
        self._bucket.put(layout.study_driver(self._token), json.dumps(who))

    def _renew(self) -> None:
        while not self._over.wait(RENEW_S):
            with suppress(StorageProblem):  # the next time may do, and an append says what is wrong
                for number in (self._number + 1, self._number):
                    if (driver := self._driver(number)) not in (None, self._token):
                        self._loss = self._driven_by(driver)
                        return
                self._say_alive()

    def _driven_by(self, token: str | None) -> UsageProblem:
        who = self._who(token)
        return UsageProblem(f"{who} is driving this sweep", "follow that one, or stop it first")

    def _who(self, token: str | None) -> str:
        sign = token and self._bucket.get(layout.study_driver(token))
        if not sign:
            return "another process"
        said = json.loads(sign)
        return f"process {said['pid']} on {said['host']}, since {said['since']},"

    def _while_there(self, get: Callable[[int], str | None]) -> list[str]:
        """What 1, 2, 3, ... give until one gives nothing; asked for many at a time."""
        found: list[str] = []
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            while True:
                first = len(found) + 1
                several = list(pool.map(get, range(first, first + CONNECTIONS)))
                complete = several.index(None) if None in several else CONNECTIONS
                found += [text for text in several[:complete] if text is not None]
                if complete < CONNECTIONS:
                    return found
