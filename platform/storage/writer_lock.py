"""Locks of the one process that may write somewhere: a sweep's driver, a run's training.

In a folder the kernel holds a lock on a file. A bucket has no locks:

    writer/00003.jsonl          the token of the third holder; its owner may keep more after it
    writer/TOKEN/driver.json    who it is; rewritten while it lives, deleted when it ends

A process takes over by writing the next numbered file. One that was taken for dead and is not finds
out at its next renewal.

Objects are requested by number, never listed: a listing may lag behind the writes.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import socket
import struct
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from threading import Event, Thread
from uuid import uuid4

from ...trainers.errors import Problem, UsageProblem
from ...trainers.integrity import seal_text
from . import layout
from .errors import StorageProblem, local_problem
from .objects import CONNECTIONS, Bucket
from .store import Storage

RENEW_S = 10.0
"""How often a holder rewrites its `driver.json`."""
STALE_S = 40.0
"""Age of a `driver.json` from which its holder is taken for dead: four renewals that are missing."""
POLL_S = 1.0
"""How often a process that waits looks for the `driver.json` of the one before it."""
TAKEOVER_WAIT_S = 1.0
"""Between a claim and the check of it. Some servers ignore `If-None-Match`: of two that take over at the
same moment, the last one to write wins, and has written by then."""
TOKEN_LENGTH = len(uuid4().hex)
WHO_BYTES = 1000
"""More than a holder writes of itself into a lock file."""

RESTORE = "restore it from a copy or an older version of the object, or begin under another name"

log = logging.getLogger(__name__)

_own: set[tuple[int, int]] = set()
"""Device and inode of the files that this process has locked: closing any other descriptor of one would release
the lock, which belongs to the process."""


class FileLock:
    """A lock file; the kernel releases it when the process that holds it ends.

    Args:
        path: of the file, whose folder exists.
        action: what the holder does: "is driving this sweep".

    Raises:
        UsageProblem: another process holds it, or this one already.
        StorageProblem: the file cannot be opened.
    """

    def __init__(self, path: Path, action: str) -> None:
        if _identity(path) in _own:
            raise _held("this process", action, f" (it holds {path})")
        try:
            self._file = os.open(path, os.O_CREAT | os.O_RDWR, 0o666)
        except OSError as error:
            raise local_problem(error, str(path)) from error
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            who = os.pread(self._file, WHO_BYTES, 0).decode(errors="replace")
            os.close(self._file)
            raise _held(_describe(who), action, f" (it holds {path})") from error
        os.truncate(self._file, 0)
        os.pwrite(self._file, _this_process().encode(), 0)
        status = os.fstat(self._file)
        self._identity = (status.st_dev, status.st_ino)
        _own.add(self._identity)

    def release(self) -> None:
        """Let another process have it."""
        _own.discard(self._identity)
        os.close(self._file)


class BucketLock:
    """A lock in a bucket: first `wait_until_free`, then `take`, in the end `release`.

    Args:
        bucket: its folder, which is the lock's.
        action: what the holder does: "is driving this sweep".
        on_loss: called by a thread when another process has taken over.
    """

    def __init__(
        self,
        bucket: Bucket,
        action: str,
        on_loss: Callable[[UsageProblem], None] = lambda _problem: None,
    ) -> None:
        self._bucket, self._action, self._on_loss = bucket, action, on_loss
        self.token = uuid4().hex
        self._who_text = _this_process()
        self._over = Event()
        self._loss: UsageProblem | None = None
        self._renewal: Thread | None = None
        before = read_consecutive(bucket, self._holder, layout.claim_file)
        self.number = len(before) + 1
        """How many have held it, this process included."""
        self.before = before[-1] if before else None
        """Token of the holder before."""

    def wait_until_free(self) -> None:
        """Return when the holder before has ended or is taken for dead.

        Raises:
            UsageProblem: it lives; raised as soon as it shows life.
        """
        if self.before is None:
            return
        earlier = None
        sign_of_life = layout.holder_file(self.before)
        while (written := self._bucket.written(sign_of_life)) is not None:
            when, seconds_ago = written
            if seconds_ago > STALE_S:
                return
            if earlier is None:
                log.warning(
                    "waiting up to %d s to see if %s lives", STALE_S, self._who(self.before)
                )
            elif when != earlier:
                raise self._held_by(self.before)
            earlier = when
            time.sleep(POLL_S)

    def take(self, *lines: str) -> None:
        """Claim the lock, with further lines in the same object: a kill leaves all or nothing.

        Raises:
            UsageProblem: another process took it at the same moment.
        """
        self._write_sign_of_life()
        text = seal_text("\n".join([self.token, *lines]))
        self._bucket.put_once(layout.claim_file(self.number), text)
        time.sleep(TAKEOVER_WAIT_S)
        winner = self._holder(self.number)
        if winner != self.token:
            self._bucket.delete(layout.holder_file(self.token))
            raise self._held_by(winner)
        self._renewal = Thread(target=self._renew, name="lock-renewal", daemon=True)
        self._renewal.start()

    def check(self) -> None:
        """Raise the problem of a lock that was lost.

        Raises:
            UsageProblem: this process was taken for dead, and another one has it.
        """
        if self._loss is not None:
            raise self._loss

    def release(self) -> None:
        """Let another process have it, and close the bucket's connections."""
        self._over.set()
        if self._renewal is not None:
            self._renewal.join()
            with suppress(StorageProblem):  # then the holder is taken for dead after a while
                self._bucket.delete(layout.holder_file(self.token))
        self._bucket.close()

    def _holder(self, number: int) -> str | None:
        """Return the token of the `number`th holder."""
        return self._bucket.get(layout.claim_file(number), first=TOKEN_LENGTH)

    def _write_sign_of_life(self) -> None:
        self._bucket.put(layout.holder_file(self.token), self._who_text)

    def _renew(self) -> None:
        while not self._over.wait(RENEW_S):
            with suppress(StorageProblem):  # the next one may succeed
                for number in (self.number + 1, self.number):
                    if (holder := self._holder(number)) not in (None, self.token):
                        self._loss = self._held_by(holder)
                        self._on_loss(self._loss)
                        return
                self._write_sign_of_life()

    def _held_by(self, token: str | None) -> UsageProblem:
        return _held(self._who(token), self._action)

    def _who(self, token: str | None) -> str:
        return _describe((token and self._bucket.get(layout.holder_file(token))) or "")


@contextmanager
def writer_lock(folder: Storage, action: str, on_loss: Callable[[Problem], None]) -> Iterator[None]:
    """Inside, this process alone writes a folder of a store.

    Args:
        action: what the holder does: "is training this run".
        on_loss: called by a thread of a process that was taken for dead and is not.

    Raises:
        UsageProblem: another process does; it is named.
        StorageProblem: the store fails.
    """
    lock: FileLock | BucketLock
    if folder.is_folder:
        path = Path(folder.path) / layout.WRITER_LOCK
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(path, action)
        except OSError as error:
            raise local_problem(error, str(path)) from error
    else:
        lock = BucketLock(Bucket(folder.child(layout.WRITER)), action, on_loss)
        try:
            lock.wait_until_free()
            lock.take()
        except BaseException:
            lock.release()
            raise
    try:
        yield
    finally:
        lock.release()


def is_held(root: Storage, names: Iterable[str]) -> bool:
    """Return whether a process holds one of these locks; nothing is locked or written for it.

    Args:
        root: the store's top.
        names: as `layout.lock_files` returns them.
    """
    if root.is_folder:
        return any(_is_locked(Path(root.path) / name) for name in names)
    held = [name for name in names if name.endswith(layout.holder_file(""))]
    if not held:
        return False
    bucket = Bucket(root)
    try:
        signs = [bucket.written(name) for name in held]
        return any(sign is not None and sign[1] <= STALE_S for sign in signs)
    finally:
        bucket.close()


def _is_locked(path: Path) -> bool:
    """Return whether a process has locked a file, as `FileLock` does."""
    if _identity(path) in _own:
        return True
    asked = struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)  # Linux's struct flock
    try:
        with path.open("rb") as file:
            answer = struct.unpack("hhqqi", fcntl.fcntl(file, fcntl.F_GETLK, asked))
    except OSError:  # gone, or a file system without locks
        return False
    return int(answer[0]) != fcntl.F_UNLCK


def _identity(path: Path) -> tuple[int, int] | None:
    """Return a file's device and inode; None where there is no file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def read_consecutive(
    bucket: Bucket, get: Callable[[int], str | None], name: Callable[[int], str]
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
            # A holder that was taken for dead may have written it just after it was requested.
            if (missing := get(len(texts) + 1)) is None:
                where = bucket.uri_of(name(len(texts) + 1))
                raise StorageProblem(f"{where}: missing, though later parts exist", RESTORE)
            texts.append(missing)


def _this_process() -> str:
    since = datetime.now(UTC).isoformat(" ", "minutes").replace("+00:00", " UTC")
    return json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "since": since})


def _describe(who: str) -> str:
    """Return a holder in words, from what it wrote of itself."""
    try:
        holder = json.loads(who)
        return f"process {holder['pid']} on {holder['host']}, since {holder['since']},"
    except (ValueError, KeyError, TypeError):  # it has only begun to write, or has ended since
        return "another process"


def _held(who: str, action: str, where: str = "") -> UsageProblem:
    return UsageProblem(f"{who} {action}{where}", "watch that process, or stop it first")
