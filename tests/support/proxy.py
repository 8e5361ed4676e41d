"""A network that fails: a TCP proxy in front of a server, which cuts connections on request, or
answers a request in the server's place."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

CHUNK = 1 << 16
REQUEST = re.compile(rb"[A-Z]+ [^\r\n]* HTTP/1\.1\r\n")
"""The first line of a request; S3's clients send a request's head in one piece."""
SLOW_DOWN = ("503 Slow Down", "SlowDown")
EXPIRED_TOKEN = ("400 Bad Request", "ExpiredToken")
MOVED = ("301 Moved Permanently", "PermanentRedirect")
"""Answers of S3: status line and code."""


class Proxy:
    """Forwards a port of its own to a server; a context manager.

    Args:
        port: of the server behind it, on this machine.
    """

    def __init__(self, port: int) -> None:
        self.behind = port
        self.uploads_to_cut = 0
        """Connections still to cut, each after `cut_after` bytes to the server."""
        self.cut_after = 1 << 20
        self.answers_to_lose = 0
        """Answers still to drop: the server has done the request, the client never hears of it."""
        self.requests_to_refuse = 0
        """Requests still to answer with `refusal`, of those whose first line fits."""
        self.refused = re.compile(rb".")
        """Is searched for in the first line of a request, such as `PUT /bucket/name HTTP/1.1`."""
        self.refusal = SLOW_DOWN
        self.meeting: threading.Barrier | None = None
        """Where requests whose first line fits `refused` wait until enough others are there."""
        self.seconds_a_mebibyte = 0.0
        """Delay of uploads, on each connection."""
        self.trickles = False
        """Whether answers come a byte at a time, fifty in a second."""
        self._down = False
        self._changed = threading.Lock()
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.go_down()
        _end(self._listener)

    def go_down(self) -> None:
        """Cut all connections, and accept none until `come_back`."""
        self._down = True
        for end in self._open:
            _end(end)
        self._open.clear()

    def come_back(self) -> None:
        self.trickles = False
        """Whether answers come a byte at a time, fifty in a second."""
        self._down = False

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # closed
                return
            if self._down:
                client.close()
                continue
            server = socket.create_connection(("127.0.0.1", self.behind))
            self._join(client, server)

    def _join(self, client: socket.socket, server: socket.socket) -> None:
        self._open += [client, server]
        sent = 0

        def upload(data: bytes) -> bool:
            nonlocal sent
            sent += len(data)
            time.sleep(len(data) * self.seconds_a_mebibyte / (1 << 20))
            first = REQUEST.match(data)
            if first and self.refused.search(first[0]) and self._take("requests_to_refuse"):
                _refuse(client, *self.refusal, head=first[0].startswith(b"HEAD"))
                return False
            if first and self.meeting and self.refused.search(first[0]):
                self.meeting.wait()
            return sent < self.cut_after or not self._take("uploads_to_cut")

        def answer(_data: bytes) -> bool:
            return not self._take("answers_to_lose")

        def send_answer(data: bytes) -> None:
            while self.trickles and data:
                client.sendall(data[:1])
                data = data[1:]
                time.sleep(0.02)
            client.sendall(data)

        for source, target, passes, send in (
            (client, server, upload, server.sendall),
            (server, client, answer, send_answer),
        ):
            carry = (source, target, passes, send)
            threading.Thread(target=_carry, args=carry, daemon=True).start()

    def _take(self, what: str) -> bool:
        """Count down a number of faults; return whether one was left."""
        with self._changed:
            left = int(getattr(self, what))
            setattr(self, what, max(0, left - 1))
        return left > 0


def _refuse(client: socket.socket, status: str, code: str, *, head: bool) -> None:
    """Answer, then read what the client still sends: closing before would reset the answer away."""
    body = f"<Error><Code>{code}</Code><Message>A detail.</Message></Error>".encode()
    headers = f"Content-Type: application/xml\r\nContent-Length: {len(body)}\r\n"
    answer = f"HTTP/1.1 {status}\r\n{headers}Connection: close\r\n\r\n".encode()
    with suppress(OSError):
        client.sendall(answer if head else answer + body)
        client.shutdown(socket.SHUT_WR)
        client.settimeout(1)
        while client.recv(CHUNK):
            pass


def _carry(
    source: socket.socket,
    target: socket.socket,
    passes: Callable[[bytes], bool],
    send: Callable[[bytes], object],
) -> None:
    with suppress(OSError):  # either side may go at any time: then both do
        while (data := source.recv(CHUNK)) and passes(data):
            send(data)
    for end in (source, target):
        _end(end)


def _end(connection: socket.socket) -> None:
    with suppress(OSError):  # ended before
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()
