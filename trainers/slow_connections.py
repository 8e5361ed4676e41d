"""Connections that move next to nothing are cut, so that their requests fail and are sent again.

A server that sends a byte a second holds a request up for days, and no client has a limit for it: that
of pyarrow 25 (the AWS SDK) is one byte a second over its `request_timeout`, which cannot be set, and
botocore 1.44 has one for each piece that it receives. So the kernel is asked what the process's
connections have moved (`TCP_INFO`, Linux), whoever opened them.
"""

from __future__ import annotations

import ctypes
import logging
import os
import socket
import stat
import struct
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

LEAST_BYTES_A_SECOND = 1024
WINDOW_S = 60.0
SAMPLES = 20
"""A connection is cut that moved less than that in such a time, but something in each twentieth of it.
One that is in use now and then, as for a sign of life every ten seconds, is left alone; so is one that
moves nothing, which the clients' own timeouts end."""

MOVED_OFFSET, MOVED = 120, struct.Struct("=QQ")
"""`tcpi_bytes_acked` and `tcpi_bytes_received` in Linux's `struct tcp_info`."""

log = logging.getLogger(__name__)


def port_of(url: str | None) -> int:
    """Return the TCP port of an http(s) address, that of https where there is none."""
    parts = urlsplit(url or "https://")
    return parts.port or (80 if parts.scheme == "http" else 443)


@contextmanager
def cutting_slow_connections(ports: Collection[int]) -> Iterator[None]:
    """Inside, for as long as it may last, this process's slow connections to these ports are cut."""
    over = threading.Event()
    threading.Thread(target=_watch, args=(ports, over), daemon=True).start()
    try:
        yield
    finally:
        over.set()


def _watch(ports: Collection[int], over: threading.Event) -> None:
    history: dict[int, list[int]] = {}  # by socket: bytes moved until each sample
    while not over.wait(WINDOW_S / SAMPLES):
        before, history = history, {}
        for connection, port in _connections(ports):
            with connection, suppress(OSError):  # closed meanwhile
                key, moved = os.fstat(connection.fileno()).st_ino, _bytes_moved(connection)
                samples = [*before.get(key, []), moved][-SAMPLES - 1 :]
                history[key] = samples if samples[-2:-1] != [moved] else [moved]
                lately = moved - samples[0]
                complete = len(history[key]) > SAMPLES
                if complete and lately < LEAST_BYTES_A_SECOND * WINDOW_S:
                    log.warning(
                        "a connection to port %d moved %d bytes in %g s; it is cut, and the request sent "
                        "again",
                        *(port, lately, WINDOW_S),
                    )
                    _reset(connection)


def _connections(ports: Collection[int]) -> Iterator[tuple[socket.socket, int]]:
    """Yield a duplicate of each open TCP connection of this process to one of these ports."""
    for entry in Path("/proc/self/fd").glob("*"):
        with suppress(OSError):  # closed meanwhile, or no connection
            duplicate = os.dup(int(entry.name))
            if not stat.S_ISSOCK(os.fstat(duplicate).st_mode):
                os.close(duplicate)
                continue
            connection = socket.socket(fileno=duplicate)
            port = _peer_port(connection)
            if port in ports:
                yield connection, port
            else:
                connection.close()


def _reset(connection: socket.socket) -> None:
    """End a connection so that whoever reads from it has an error, ECONNRESET.

    After a shutdown they would have an end of the data: curl and urllib3 take an answer that ends in its
    headers for a whole one without content, and pyarrow then reports an empty file or folder.
    """
    no_address = bytes(16)  # of the family AF_UNSPEC: such a connect dissolves the connection
    ctypes.CDLL(None).connect(connection.fileno(), no_address, len(no_address))


def _peer_port(connection: socket.socket) -> int:
    """Return the other end's TCP port; 0 where there is none."""
    if connection.family not in (socket.AF_INET, socket.AF_INET6):
        return 0
    if connection.type != socket.SOCK_STREAM:
        return 0
    try:
        return int(connection.getpeername()[1])
    except OSError:  # it listens, or has ended
        return 0


def _bytes_moved(connection: socket.socket) -> int:
    """Return how many bytes have come and how many sent ones have arrived, together."""
    size = MOVED_OFFSET + MOVED.size
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, size)
    return sum(MOVED.unpack_from(info, MOVED_OFFSET))
