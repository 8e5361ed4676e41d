"""What waits for a server; with real servers it is tests/integration/test_outages.py."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Sequence

import pytest
from support.shell import WAIT_S

from whipray.platform.tracking.async_writer import AsyncWriter
from whipray.trainers.errors import Problem
from whipray.trainers.retry import Outage, retry_during_outage


class Log:
    """A server that fails a given number of times, before or after it has written."""

    def __init__(self, failures: int = 0, after: bool = False) -> None:
        self.written: list[list[int]] = []
        self.failures, self.after = failures, after
        self.goes_on = threading.Event()
        self.goes_on.set()

    def write(self, items: Sequence[int]) -> None:
        assert self.goes_on.wait(300)
        if self.failures and not self.after:
            self._fail()
        self.written.append(list(items))
        if self.failures:
            self._fail()

    def _fail(self) -> None:
        self.failures -= 1
        raise Outage("the log does not answer", "start it")

    def writer(
        self, capacity: int = 100, interval_s: float = 0.0, retry_timeout_s: float = 30.0
    ) -> AsyncWriter[int]:
        return AsyncWriter(
            self.write,
            batch_size=3,
            capacity=capacity,
            interval_s=interval_s,
            retry_timeout_s=retry_timeout_s,
        )


def test_items_are_written_in_order_and_in_lots() -> None:
    log = Log()
    writer = log.writer()
    log.goes_on.clear()
    for item in range(7):
        writer.put([item])
    log.goes_on.set()
    writer.flush()
    assert [item for lot in log.written for item in lot] == list(range(7))
    assert max(map(len, log.written)) == 3


def test_items_wait_for_others_until_a_lot_is_full_or_somebody_waits_for_them() -> None:
    log = Log()
    writer = log.writer(interval_s=86_400)
    writer.put([1])  # the first has nothing to wait for
    writer.flush_best_effort()
    writer.put([2])
    writer.put([3])
    assert log.written == [[1]]
    writer.flush_best_effort()
    assert log.written == [[1], [2, 3]]
    writer.put([4, 5])
    writer.put([6, 7])
    deadline = time.monotonic() + WAIT_S
    while len(log.written) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert log.written == [[1], [2, 3], [4, 5, 6]]
    writer.flush()
    assert log.written == [[1], [2, 3], [4, 5, 6], [7]]


@pytest.mark.parametrize("after", [False, True])
def test_an_outage_brings_the_same_items_again(
    after: bool, caplog: pytest.LogCaptureFixture
) -> None:
    log = Log(failures=2, after=after)
    writer = log.writer()
    writer.put([1, 2])
    writer.flush()
    writer.put([3])
    writer.flush()
    assert log.written == [[1, 2]] * (3 if after else 1) + [[3]]
    said = [record.message for record in caplog.records]
    said = [text for text in said if not text.startswith("waiting")]  # if it was down at `flush`
    assert len(said) == 2  # at its beginning and at its end, however often it is tried
    assert said[0].startswith("the log does not answer")


def test_a_best_effort_ends_when_items_are_written_or_the_server_is_down() -> None:
    log = Log()
    writer = log.writer()
    writer.put([1])
    writer.flush_best_effort()
    assert log.written == [[1]]
    log.failures = 3
    writer.put([2])
    writer.flush_best_effort()
    assert log.written == [[1]]
    writer.flush()
    assert log.written == [[1], [2]]


def test_a_best_effort_does_not_wait_for_what_comes_later() -> None:
    written: list[int] = []
    enough = threading.Event()

    def write(items: Sequence[int]) -> None:
        """As a training that goes on: there is always more."""
        written.extend(items)
        if not enough.wait(0.05):
            writer.put([len(written)])

    writer = AsyncWriter(write, batch_size=3, capacity=9, interval_s=0.0, retry_timeout_s=30.0)
    writer.put([0])
    writer.flush_best_effort()
    assert 0 < len(written) < 100
    enough.set()
    writer.flush()


def test_a_refusal_is_the_end() -> None:
    def refuse(_items: Sequence[int]) -> None:
        raise Problem("the log refuses", "ask its owner")

    writer = AsyncWriter(refuse, batch_size=3, capacity=9, interval_s=0.0, retry_timeout_s=30.0)
    writer.put([1])
    for use in (writer.flush_best_effort, writer.flush, lambda: writer.put([2])):
        with pytest.raises(Problem, match="the log refuses"):
            use()


def test_what_the_retry_timeout_did_not_bring_is_lost_with_a_word() -> None:
    log = Log(failures=1000)
    writer = log.writer(capacity=4, retry_timeout_s=0.2)
    writer.put([1, 2, 3])
    with pytest.raises(Problem, match="3 values could not be written: more than 4 are waiting"):
        writer.put([4, 5])
    writer = log.writer(retry_timeout_s=0.2)
    writer.put([1, 2, 3])
    with pytest.raises(Problem, match="3 values could not be written: waited for 0:00"):
        writer.flush()
    with pytest.raises(Problem, match="3 values"):  # and is not waited for again
        writer.put([4])
    assert log.written == []


AT_ITS_END = """
import time
from whipray.platform.tracking.async_writer import AsyncWriter
def write(items):
    time.sleep(0.2)
    print(*items, flush=True)
writer = AsyncWriter(write, batch_size=1, capacity=9, interval_s=0.0, retry_timeout_s=30.0)
writer.put([1, 2, 3])
"""


def test_a_process_that_ends_writes_the_rest() -> None:
    done = subprocess.run(
        [sys.executable, "-c", AT_ITS_END], capture_output=True, text=True, timeout=600, check=True
    )
    assert done.stdout.split() == ["1", "2", "3"]


def test_retries_end_and_the_last_outage_is_raised() -> None:
    log = Log(failures=2)
    retry_during_outage(lambda: log.write([1]), 30.0)
    assert log.written == [[1]]
    log.failures = 1000
    start = time.monotonic()
    with pytest.raises(Outage, match="does not answer"):
        retry_during_outage(lambda: log.write([2]), 1.0)
    assert time.monotonic() - start >= 1.0
    assert log.failures < 998  # tried again meanwhile
