"""A sweep's study in a bucket, on a real S3 server: kills, rivals, outages."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from optuna.study import StudyDirection
from support import study_driver
from support.servers import Server
from support.shell import WAIT_S

from whipray.platform.storage import layout, writer_lock
from whipray.platform.storage.config import StorageConfig
from whipray.platform.storage.errors import StorageOutage, StorageProblem
from whipray.platform.storage.objects import Bucket
from whipray.platform.storage.store import Storage
from whipray.platform.tuning.study_in_bucket import BucketStorage
from whipray.trainers.errors import UsageProblem

pytestmark = [pytest.mark.slow, pytest.mark.faults]


class Driver:
    """A process that drives the study and says what was accepted."""

    def __init__(self, storage: StorageConfig, renew_s: float) -> None:
        self.process = subprocess.Popen(
            [
                *(sys.executable, study_driver.__file__),
                *(storage.uri, str(storage.endpoint_url), str(renew_s)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.line() == "ready"

    def begin(self) -> None:
        print(file=self.process.stdin, flush=True)

    def line(self) -> str:
        line = self.process.stdout.readline()
        assert line, "it has ended"
        return line.rstrip()

    def lines(self, count: int) -> list[str]:
        return [self.line() for _ in range(count)]

    def ended(self) -> list[str]:
        """Let it come to its end; what it had still to say."""
        self.process.stdin.close()
        rest = self.process.stdout.read().splitlines()
        self.process.wait(WAIT_S)
        return rest

    def killed(self) -> list[str]:
        """Kill it; what it had said until then."""
        self.process.kill()
        return self.ended()


@pytest.fixture
def config(
    swift: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[StorageConfig]:
    for name, value in swift.environment().items():
        monkeypatch.setenv(name, value)
    bucket = re.sub("[^a-z]+", "-", tmp_path.name).strip("-")
    swift.make_bucket(bucket)
    return StorageConfig(uri=f"s3://{bucket}/sweep", endpoint_url=swift.endpoint)


@pytest.fixture
def start(config: StorageConfig) -> Iterator[Callable[..., Driver]]:
    started: list[Driver] = []

    def one(renew_s: float = writer_lock.RENEW_S) -> Driver:
        started.append(Driver(config, renew_s))
        return started[-1]

    yield one
    for driver in started:
        with driver.process as process:
            process.kill()


def entries(storage: BucketStorage) -> list[str]:
    """What writers have written, in order."""
    return [key for log in storage.journal.read_logs(0) for key in log.get("user_attr", ())]


def journal(config: StorageConfig) -> list[str]:
    """The same, as the next driver finds it."""
    storage = BucketStorage(Storage(config))
    found = entries(storage)
    storage.close()
    return found


def is_driving(pid: int) -> str:
    """The beginning of how a driver is told of."""
    return f"process {pid} on {socket.gethostname()}, since 20"


def test_a_killed_driver_loses_nothing_and_the_next_one_goes_on(
    config: StorageConfig, start: Callable[..., Driver], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_lock, "STALE_S", 3.0)
    before: list[str] = []
    for _ in range(2):
        driver = start()
        driver.begin()
        assert driver.line() == "driving"
        accepted = driver.lines(40) + driver.killed()
        after = journal(config)
        assert after[: len(before)] == before
        new = after[len(before) :]
        assert len(new) - len(accepted) <= 2, "more than was on its way at the kill"
        assert set(accepted) <= set(new)
        for writer in "ab":  # each entry once, in the order of its writer
            numbers = [int(e.split("-")[2]) for e in new if e.split("-")[1] == writer]
            assert numbers == list(range(len(numbers)))
            assert numbers
        before = after
    assert journal(config) == before


def test_of_two_that_start_at_once_one_drives_and_the_other_is_told_who(
    config: StorageConfig, start: Callable[..., Driver]
) -> None:
    accepted = []
    for _ in range(2):
        rivals = [start(renew_s=1), start(renew_s=1)]
        for rival in rivals:
            rival.begin()
        said = [rival.line() for rival in rivals]
        assert said.count("driving") == 1, said
        one, other = rivals if said[0] == "driving" else reversed(rivals)
        refused = next(line for line in said if line != "driving")
        assert is_driving(one.process.pid) in refused
        assert other.ended() == []
        accepted += [*one.lines(10), *one.ended()]
    assert sorted(journal(config)) == sorted(accepted)


def test_one_that_lives_is_not_robbed_and_one_that_was_taken_for_dead_is_not_heard(
    config: StorageConfig, start: Callable[..., Driver], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_lock, "STALE_S", 6.0)
    driver = start(renew_s=1)
    driver.begin()
    assert driver.line() == "driving"
    with pytest.raises(UsageProblem, match=is_driving(driver.process.pid)):
        BucketStorage(Storage(config))

    driver.process.send_signal(signal.SIGSTOP)
    storage = BucketStorage(Storage(config))
    known = entries(storage)
    assert known
    driver.process.send_signal(signal.SIGCONT)
    while is_driving(os.getpid()) not in driver.line():
        pass  # what it had said before, and what it wrote where nobody reads
    driver.ended()
    storage.set_study_user_attr(0, "ours", 1)
    storage.close()
    assert journal(config) == [*known, "ours"]


def test_an_outage_is_waited_for_and_a_longer_one_is_a_problem_that_costs_no_entry(
    config: StorageConfig, swift: Server, caplog: pytest.LogCaptureFixture
) -> None:
    expected = []
    for retry_timeout_s, survives in ((0.0, False), (300.0, True)):
        patient = config.model_copy(update={"retry_timeout_s": retry_timeout_s})
        storage = BucketStorage(Storage(patient))
        if not expected:
            storage.create_new_study([StudyDirection.MINIMIZE])
        swift.kill()
        with ThreadPoolExecutor(1) as pool:
            in_the_outage = f"{retry_timeout_s} s of retries"
            written = pool.submit(storage.set_study_user_attr, 0, in_the_outage, 1)
            try:
                if survives:
                    while "trying again" not in caplog.text:
                        assert not written.done()
                        time.sleep(0.05)
                else:
                    with pytest.raises(StorageOutage, match="does not answer"):
                        written.result(WAIT_S)
            finally:
                swift.start()
            if survives:
                written.result(WAIT_S)
                expected.append(in_the_outage)
        expected.append(f"after {retry_timeout_s} s")
        storage.set_study_user_attr(0, expected[-1], 1)
        storage.close()
        assert journal(config) == expected


def test_a_bucket_that_is_not_there_is_a_problem(config: StorageConfig) -> None:
    elsewhere = config.model_copy(update={"uri": "s3://mispelt/sweep"})
    with pytest.raises(StorageProblem, match="the bucket mispelt does not exist"):
        BucketStorage(Storage(elsewhere))


@pytest.fixture
def ten_entries(
    moto: Server, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[StorageConfig, Bucket, str]]:
    """A study of ten appends, its objects, and the folder of its driver."""
    for name, value in moto.environment().items():
        monkeypatch.setenv(name, value)
    bucket = f"bucket-{os.urandom(4).hex()}"
    moto.make_bucket(bucket)
    config = StorageConfig(uri=f"s3://{bucket}/sweep", endpoint_url=moto.endpoint)
    storage = BucketStorage(Storage(config))
    storage.create_new_study([StudyDirection.MINIMIZE])
    for number in range(9):
        storage.set_study_user_attr(0, f"entry-{number}", number)
    token = storage.journal._lock.token
    storage.close()
    objects = Bucket(Storage(config).child(layout.STUDY))
    yield config, objects, token
    objects.close()


@pytest.mark.parametrize("number", [1, 5, 9])
def test_an_object_that_is_missing_before_others_is_named(
    ten_entries: tuple[StorageConfig, Bucket, str], number: int
) -> None:
    config, objects, token = ten_entries
    lost = layout.study_entry(token, number)
    content = objects.get(lost)
    objects.delete(lost)
    with pytest.raises(StorageProblem, match=f"{lost}: missing, though later parts"):
        BucketStorage(Storage(config))
    assert content is not None
    objects.put(lost, content)
    assert journal(config) == [f"entry-{n}" for n in range(9)]


def test_a_flipped_bit_or_a_cut_in_any_object_of_a_study_is_noticed(
    ten_entries: tuple[StorageConfig, Bucket, str],
) -> None:
    config, objects, token = ten_entries
    for name in (layout.study_entry(token, 4), layout.claim_file(1)):
        whole = objects.get(name)
        assert whole is not None
        middle = len(whole) // 2
        flipped = whole[:middle] + chr(ord(whole[middle]) ^ 1) + whole[middle + 1 :]
        for damaged in (flipped, whole[:middle]):
            objects.put(name, damaged)
            with pytest.raises(StorageProblem, match=f"{name}: damaged"):
                BucketStorage(Storage(config))
        objects.put(name, whole)
    assert journal(config) == [f"entry-{n}" for n in range(9)]


def test_a_sign_of_life_that_cannot_be_read_names_no_driver_and_stops_nothing(
    ten_entries: tuple[StorageConfig, Bucket, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, objects, token = ten_entries
    monkeypatch.setattr(writer_lock, "STALE_S", 3.0)
    objects.put(layout.holder_file(token), "[]")
    assert journal(config) == [f"entry-{n}" for n in range(9)]
