"""A Ray that Whipray starts on this machine: nobody else can use it, and it joins nobody else's."""

from __future__ import annotations

import multiprocessing
import os
import re
import socket
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import psutil
import pytest
import ray
from ray._raylet import AuthenticationMode, get_authentication_mode
from ray.util.state import list_nodes
from support import ray_attack
from support.hosts import Host, Network, why_not
from support.ray_train import is_loopback

from whipray.platform.compute.ray_session import ray_session

pytestmark = pytest.mark.slow

BIN = Path(sys.executable).parent
READ_GCS = """
import sys
from ray._raylet import GcsClient
print(GcsClient(address=sys.argv[1]).internal_kv_keys(b"", None))
"""
DRIVE = "import ray, sys; ray.init(address=sys.argv[1]); print(ray.nodes())"
ATTACK = Path(ray_attack.__file__)
NO_TOKEN = {"RAY_AUTH_MODE": "disabled"}
WRONG_TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}


@pytest.fixture
def stranger(tmp_path: Path) -> Iterator[Host]:
    """Another host of the network."""
    if reason := why_not():
        pytest.skip(reason)
    with Network(tmp_path, ["stranger"]) as network:
        yield network.hosts[0]


def open_ports() -> set[int]:
    """Return the ports on which this process and those of its Ray listen, without those on loopback."""
    found = set()
    for process in (psutil.Process(), *psutil.Process().children(recursive=True)):
        for connection in process.net_connections("tcp"):
            address = connection.laddr
            if connection.status == psutil.CONN_LISTEN and not is_loopback(address.ip):
                found.add(address.port)
    return found


@contextmanager
def careless_server() -> Iterator[int]:
    """A server of gRPC that asks nobody for a token: the attack has to notice it."""
    with ThreadPoolExecutor(4) as pool:
        server = grpc.server(pool, handlers=[AnswersAll()])
        port = server.add_insecure_port("0.0.0.0:0")
        server.start()
        yield port
        server.stop(None).wait()


class AnswersAll(grpc.GenericRpcHandler):  # type: ignore[misc]
    def service(self, _details: object) -> grpc.RpcMethodHandler:
        return grpc.unary_unary_rpc_method_handler(lambda request, _context: request)


def test_another_host_cannot_use_the_ray_of_this_machine(stranger: Host) -> None:
    with ray_session():
        address = ray.get_runtime_context().gcs_address
        python = (sys.executable, "-c")
        attempts = [
            (f"{BIN}/ray", "start", f"--address={address}", "--disable-usage-stats"),
            (*python, READ_GCS, address),
            (*python, DRIVE, address),
        ]
        with socket.create_connection(address.rsplit(":", 1), timeout=10):
            pass
        tries = [(attempt, token) for attempt in attempts for token in (NO_TOKEN, WRONG_TOKEN)]
        with ThreadPoolExecutor() as at_once:  # a refused `ray start` retries for a while
            answers = at_once.map(lambda t: stranger.ask(*t[0], environment=t[1]), tries)
        for attempt, (code, out, err) in zip(tries, answers, strict=True):
            assert code != 0, (attempt, out)
            assert re.search("InvalidAuthToken|authentication", out + err), err
        host, ports = ray.util.get_node_ip_address(), open_ports()
        assert int(address.rpartition(":")[2]) in ports
        with careless_server() as control:
            attack = (sys.executable, ATTACK, host, *map(str, (*ports, control)))
            _code, out, err = stranger.ask(*map(str, attack), environment=NO_TOKEN)
        *given, asked = out.splitlines()
        assert asked.startswith("asked "), err
        assert int(asked.split()[1]) > 100
        assert {line.partition("/")[0] for line in given} == {f"{host}:{control}"}

        assert len(ray.nodes()) == 1
        assert ray.get(ray.remote(lambda: 3).remote()) == 3
        assert len(list_nodes(address=address)) == 1


def test_the_token_is_new_each_time_and_gone_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "of a cluster")
    tokens = set()
    for _ in range(2):
        with ray_session():
            assert get_authentication_mode() == AuthenticationMode.TOKEN
            tokens.add(os.environ["RAY_AUTH_TOKEN"])
            assert ray.get(ray.remote(lambda: 3).remote()) == 3
        assert get_authentication_mode() == AuthenticationMode.DISABLED
        assert os.environ["RAY_AUTH_MODE"] == "disabled"
        assert os.environ["RAY_AUTH_TOKEN"] == "of a cluster"
    assert len(tokens) == 2
    assert "of a cluster" not in tokens


def test_neither_the_current_folder_nor_a_long_temporary_one_gets_in_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("random", "typing", "mlflow"):  # Ray's processes and ours import all three
        (tmp_path / f"{module}.py").write_text("raise ImportError('a file of the user')")
    monkeypatch.chdir(tmp_path)
    far = tmp_path / ("long" * 30)
    far.mkdir()
    monkeypatch.setenv("TMPDIR", str(far))
    monkeypatch.setattr(tempfile, "tempdir", str(far))

    def look() -> tuple[str | None, list[str], str]:
        import mlflow

        return mlflow.__file__, sys.path, tempfile.gettempdir()

    with ray_session():
        session = Path(ray._private.worker.global_worker.node.get_session_dir_path())
        mine = session.parent.parent
        assert oct(mine.stat().st_mode)[-3:] == "700"
        file, path, temporary = ray.get(ray.remote(look).remote())
    assert file is not None
    assert not file.startswith(str(tmp_path))
    assert str(tmp_path) not in path
    assert temporary == str(far)
    assert not mine.exists()


def test_an_address_in_the_shared_temporary_folder_is_not_joined(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # short, because sockets lie below it
        bait = Path(folder, "ray", "ray_current_cluster")
        bait.parent.mkdir()
        bait.write_text("127.0.0.1:1")
        for variable in ("RAY_TMPDIR", "TMPDIR"):
            monkeypatch.setenv(variable, folder)
        with ray_session():
            assert ray.get_runtime_context().gcs_address != "127.0.0.1:1"
            assert ray.get(ray.remote(lambda: 3).remote()) == 3
            assert len(list(Path(folder).glob("ray-*"))) == 1
            assert list(Path(folder).glob("pymp-*"))
        assert [path.name for path in Path(folder).iterdir()] == [bait.parent.name]


def test_processes_can_be_started_after_a_session() -> None:
    context = multiprocessing.get_context("forkserver")
    for _ in range(2):
        with ray_session():
            process = context.Process(target=abs, args=(1,))
            process.start()
            process.join()
            assert process.exitcode == 0
