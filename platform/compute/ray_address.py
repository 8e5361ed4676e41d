"""The address of a Ray cluster, tried before Ray is: Ray 2.60 looks for a dead head for minutes."""

from __future__ import annotations

import os
import socket
from urllib.parse import urlsplit

from ...trainers.errors import Problem
from ..foundation.job import in_cluster_job
from ..foundation.text import redact

ANSWER_TIMEOUT_S = 10.0
"""How long the head may take to accept a connection, and to answer."""
HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
"""Beginning of a connection of HTTP/2 (RFC 9113, 3.4), which gRPC speaks: a preface and empty settings."""
HEADER_BYTES, TYPE_BYTE, SETTINGS = 9, 3, 4
"""Of a frame of HTTP/2; a server's first one holds its settings."""


def cluster_address() -> str | None:
    """Return the address that RAY_ADDRESS names; None where Ray is to start on this machine."""
    address = os.environ.get("RAY_ADDRESS")
    return None if address in (None, "", "local") else address


def is_this_machine() -> bool:
    """Return whether a Ray that this process starts or joins is one of this machine alone."""
    return not in_cluster_job() and cluster_address() is None


def check_head(address: str) -> None:
    """Check that a Ray head answers at an address.

    Args:
        address: `HOST:PORT`; `auto` is left to Ray.

    Raises:
        Problem: it is no such address, or no Ray answers there.
    """
    if address == "auto":
        return
    try:
        with socket.create_connection(_parse(address), timeout=ANSWER_TIMEOUT_S) as connection:
            speaks_grpc = "RAY_USE_TLS" in os.environ or _is_greeted(connection)
    except OSError as error:
        reason = error.strerror or str(error) or type(error).__name__
        raise _no_head(address, reason) from error
    if not speaks_grpc:
        raise _no_head(address, "what answers there is no Ray head")


def _is_greeted(connection: socket.socket) -> bool:
    """Return whether the other side answers as a server of gRPC does."""
    connection.sendall(HELLO)
    header = connection.recv(HEADER_BYTES, socket.MSG_WAITALL)
    return len(header) == HEADER_BYTES and header[TYPE_BYTE] == SETTINGS


def _no_head(address: str, reason: str) -> Problem:
    return Problem(
        f"no Ray at {redact(address)}, which RAY_ADDRESS names: {reason}",
        "start the cluster, or correct RAY_ADDRESS; without it Ray starts on this machine",
    )


def _parse(address: str) -> tuple[str, int]:
    """Return host and port."""
    try:
        parts = urlsplit(address if "://" in address else f"//{address}")
        host, port = parts.hostname, parts.port
    except ValueError:
        parts, host, port = urlsplit(""), None, None
    if parts.scheme or host is None or port is None:
        shown = redact(address)
        raise Problem(
            f"RAY_ADDRESS={shown} is not the address of a Ray head",
            "give HOST:PORT of the head, whose port is 6379 by default; an address of the dashboard "
            "(http://HOST:8265) is for `--on`",
        )
    return host, port
