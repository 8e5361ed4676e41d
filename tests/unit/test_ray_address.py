"""What RAY_ADDRESS may name, and where the files of a local Ray go."""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest

from whipray.platform.compute import ray_address, ray_folder
from whipray.platform.compute.ray_address import check_head, cluster_address
from whipray.trainers.errors import Problem

SETTINGS_FRAME = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])


def listening(answer: bytes | None) -> Iterator[str]:
    """A server that says this to whoever connects, or nothing at all."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        held = []

        def serve() -> None:
            connection, _ = server.accept()
            held.append(connection)
            if answer is not None:
                connection.sendall(answer)

        Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        for connection in held:
            connection.close()


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "what answers there is no Ray head"),
        (b"-ERR\r\n", "what answers there is no Ray head"),
        (None, "timed out"),
    ],
)
def test_a_port_of_something_else_is_named(
    answer: bytes | None, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_address, "ANSWER_TIMEOUT_S", 0.5)
    for address in listening(answer):
        with pytest.raises(Problem, match=f"{address}, which RAY_ADDRESS names: {message}"):
            check_head(address)


def test_a_server_of_grpc_is_a_head() -> None:
    for address in listening(SETTINGS_FRAME):
        check_head(address)


def test_a_dead_head_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(Problem, match=rf"127.0.0.1:{port}, which RAY_ADDRESS.*refused") as raised:
        check_head(f"127.0.0.1:{port}")
    assert "RAY_ADDRESS" in raised.value.fix


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:8265", "ray://127.0.0.1:10001", "head", "head:x", "head:99999"]
)
def test_what_is_no_address_of_a_head_is_refused(address: str) -> None:
    with pytest.raises(Problem, match=f"RAY_ADDRESS={address} is not the address") as raised:
        check_head(address)
    assert "HOST:PORT" in raised.value.fix


def test_what_starts_a_ray_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ("", "local"):
        monkeypatch.setenv("RAY_ADDRESS", value)
        assert cluster_address() is None
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    assert cluster_address() == "head:6379"


def test_a_long_ray_tmpdir_is_refused_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / ("long" * 30)))
    with pytest.raises(Problem, match=r"RAY_TMPDIR=.*too long"), ray_folder.ray_folder():
        pass


def test_the_folder_stays_for_its_logs_after_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as short:
        monkeypatch.setenv("RAY_TMPDIR", short)
        with pytest.raises(ValueError, match="lost"), ray_folder.ray_folder() as folder:
            raise ValueError("lost")
        assert folder.parent.parent == Path(short)
        assert folder.parent.is_dir()
        with pytest.raises(KeyboardInterrupt), ray_folder.ray_folder() as folder:
            raise KeyboardInterrupt
        assert not folder.parent.exists()
