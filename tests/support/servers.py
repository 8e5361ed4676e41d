"""Real servers for tests: two for S3, moto (in memory, checks no key) and OpenStack Swift (checks
keys); PostgreSQL; and MLflow with basic auth."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import closing
from pathlib import Path
from secrets import token_hex
from typing import Any

from .shell import WAIT_S

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    """Return a TCP port of this machine that is free at the moment."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(url: str, processes: list[subprocess.Popen[bytes]], log: Path) -> None:
    """Return when `url` answers; fail with the log's end when a process dies or after `WAIT_S`."""
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        if any(process.poll() is not None for process in processes):
            break
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(f"{url} did not come up:\n{log.read_text()[-2000:]}")


class Server:
    """A server of one or several processes, which can be killed and started again."""

    access_key = "test-key"
    secret_key = "test-secret-0123456789"
    health = "/"

    def __init__(self, folder: Path, host: str = "127.0.0.1") -> None:
        self.folder, self.host = folder, host
        self.log = folder / "server.log"
        self.port = free_port()
        self.processes: list[subprocess.Popen[bytes]] = []

    @property
    def endpoint(self) -> str:
        return f"http://{self.host}:{self.port}"

    def commands(self) -> list[list[str]]:
        raise NotImplementedError

    def start(self) -> None:
        """Start it, and return when it answers."""
        self._run(self.commands())
        wait_for(self.endpoint + self.health, self.processes, self.log)

    def _run(self, commands: list[list[str]]) -> None:
        with self.log.open("ab") as log:
            for command in commands:
                self.processes.append(
                    subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
                )

    def kill(self) -> None:
        """Kill every process with its children at once, as a power cut would."""
        for process in self.processes:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self.processes.clear()

    def environment(self) -> dict[str, str]:
        """Return the variables that a client needs; no profile and no metadata service is read."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_CONFIG_FILE": os.devnull,
        }

    def make_bucket(self, name: str) -> None:
        import boto3

        boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
        ).create_bucket(Bucket=name)


class Moto(Server):
    """moto_server: fast, in memory, accepts every key."""

    health = "/moto-api/"

    def commands(self) -> list[list[str]]:
        return [
            [sys.executable, "-m", "moto.server", "--host", self.host, "--port", str(self.port)]
        ]


class Swift(Server):
    """OpenStack Swift with its S3 interface, one replica, in one folder.

    It refuses wrong keys and keeps what it has acknowledged when it is killed.
    """

    venv = ROOT / ".venv-s3"
    access_key = "lab:admin"
    health = "/healthcheck"

    def __init__(self, folder: Path, host: str = "127.0.0.1") -> None:
        super().__init__(folder, host)
        self.ports = {kind: free_port() for kind in ("account", "container", "object")}
        self.configs = folder / "etc"
        self.configs.mkdir()
        (folder / "devices" / "d1").mkdir(parents=True)
        self._write_configs()
        for kind, port in self.ports.items():
            builder = f"{kind}.builder"
            self._ring(builder, "create", "6", "1", "0")
            self._ring(builder, "add", f"r1z1-127.0.0.1:{port}/d1", "1")
            self._ring(builder, "rebalance")

    def commands(self) -> list[list[str]]:
        return [
            [
                str(self.venv / "bin/python"),
                *("-W", "ignore"),
                str(self.venv / f"bin/swift-{kind}-server"),
                str(self.configs / f"{kind}-server.conf"),
            ]
            for kind in (*self.ports, "proxy")
        ]

    def start(self) -> None:
        """Start the proxy last: while its backends do not listen, it answers 404 for existing objects."""
        *behind, proxy = self.commands()
        self._run(behind)
        deadline = time.monotonic() + WAIT_S
        for port in self.ports.values():
            while True:
                with closing(socket.socket()) as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                if time.monotonic() > deadline:
                    raise RuntimeError(f"Swift did not come up:\n{self.log.read_text()[-2000:]}")
                time.sleep(0.1)
        self._run([proxy])
        wait_for(self.endpoint + self.health, self.processes, self.log)

    def _ring(self, *arguments: str) -> None:
        subprocess.run(
            [self.venv / "bin/swift-ring-builder", *arguments],
            cwd=self.configs,
            check=True,
            capture_output=True,
        )

    def _write_configs(self) -> None:
        import getpass

        common = f"swift_dir = {self.configs}\nuser = {getpass.getuser()}\n"
        (self.configs / "swift.conf").write_text(
            "[swift-hash]\nswift_hash_path_suffix = tail\nswift_hash_path_prefix = head\n"
            "[storage-policy:0]\nname = gold\ndefault = yes\n"
        )
        for kind, port in self.ports.items():
            (self.configs / f"{kind}-server.conf").write_text(
                f"[DEFAULT]\n{common}bind_ip = 127.0.0.1\nbind_port = {port}\nworkers = 0\n"
                f"devices = {self.folder / 'devices'}\n"
                "mount_check = false\ndisable_fallocate = true\n"
                f"[pipeline:main]\npipeline = {kind}-server\n"
                f"[app:{kind}-server]\nuse = egg:swift#{kind}\n"
            )
        pipeline = (
            "catch_errors gatekeeper healthcheck proxy-logging cache listing_formats bulk "
            "ratelimit s3api tempauth copy slo dlo versioned_writes symlink"
        )
        settings = {
            "cache": "use = egg:swift#memcache\n",
            "proxy-logging": "use = egg:swift#proxy_logging\n",
            "s3api": "use = egg:swift#s3api\nlocation = us-east-1\ns3_acl = false\n"
            "dns_compliant_bucket_names = no\n",
            "tempauth": f"use = egg:swift#tempauth\nuser_lab_admin = {self.secret_key} .admin\n",
        }
        (self.configs / "proxy-server.conf").write_text(
            f"[DEFAULT]\n{common}bind_ip = {self.host}\nbind_port = {self.port}\nworkers = 0\n"
            f"[pipeline:main]\npipeline = {pipeline} proxy-logging proxy-server\n"
            "[app:proxy-server]\nuse = egg:swift#proxy\naccount_autocreate = true\n"
            + "".join(
                f"[filter:{name}]\n{settings.get(name, f'use = egg:swift#{name}' + chr(10))}"
                for name in pipeline.split()
            )
        )


class Postgres(Server):
    """PostgreSQL in a folder of its own; run as another user where this one is root."""

    @staticmethod
    def binaries() -> Path | None:
        """Return the folder of `initdb` and `postgres`; distributions keep it off the PATH."""
        if found := shutil.which("initdb"):
            return Path(found).resolve().parent
        return max(Path("/usr/lib/postgresql").glob("*/bin"), default=None)

    @staticmethod
    def unprivileged() -> str | None:
        """Return the user to run as, None for the current one. The server refuses root."""
        return None if os.getuid() else pwd.getpwnam("nobody").pw_name

    def __init__(self, folder: Path, binaries: Path) -> None:
        super().__init__(folder)
        self.secret_key = token_hex(12)
        self.data = folder / "data"
        self.postgres = str(binaries / "postgres")
        self.user = self.unprivileged()
        password = folder / "password"
        password.write_text(self.secret_key)
        if self.user:
            for path in (folder, password):
                shutil.chown(path, self.user)
        access = ("--auth=scram-sha-256", "--username=postgres", f"--pwfile={password}")
        subprocess.run(
            [binaries / "initdb", *access, "--no-sync", "--locale=C.UTF-8", "-D", self.data],
            check=True,
            capture_output=True,
            cwd=folder,
            user=self.user,
        )

    def url(self, database: str) -> str:
        return f"postgresql+psycopg2://postgres:{self.secret_key}@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        command = [self.postgres, "-D", str(self.data), "-p", str(self.port)]
        command += ["-h", "127.0.0.1", "-k", str(self.folder), "-c", "fsync=off"]
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                command, stdout=log, stderr=log, cwd=self.folder, user=self.user
            )
        self.processes.append(process)
        deadline = time.monotonic() + WAIT_S
        while not self._answers():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"PostgreSQL did not come up:\n{self.log.read_text()[-2000:]}")
            time.sleep(0.1)

    def kill(self) -> None:
        """End it at once, without a clean shutdown of its data; SIGQUIT frees its shared memory."""
        for process in self.processes:
            process.send_signal(signal.SIGQUIT)
            process.wait()
        self.processes.clear()

    def make_database(self, name: str) -> str:
        """Make a database, and return its URL."""
        with closing(self._connect()) as connection:
            connection.autocommit = True
            connection.cursor().execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def _connect(self) -> Any:
        import psycopg2

        return psycopg2.connect(
            host="127.0.0.1", port=self.port, user="postgres", password=self.secret_key
        )

    def _answers(self) -> bool:
        import psycopg2

        try:
            self._connect().close()
        except psycopg2.OperationalError:
            return False
        return True


class MLflowServer(Server):
    """MLflow as a team runs it: on PostgreSQL, artifacts through the server, basic auth."""

    health = "/health"
    username = "admin"

    def __init__(self, folder: Path, postgres: Postgres, host: str = "127.0.0.1") -> None:
        super().__init__(folder, host)
        self.secret_key = token_hex(12)
        name = f"mlflow_{token_hex(4)}"
        self.backend = postgres.make_database(name)
        self.auth = folder / "auth.ini"
        self.auth.write_text(
            "[mlflow]\ndefault_permission = NO_PERMISSIONS\n"
            f"database_uri = {postgres.make_database(f'{name}_auth')}\n"
            f"admin_username = {self.username}\nadmin_password = {self.secret_key}\n"
            "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
            "auth_cache_ttl_seconds = 60\n"  # or each request hashes the password, 0.2 s of CPU
        )

    def commands(self) -> list[list[str]]:
        settings = {
            "MLFLOW_AUTH_CONFIG_PATH": self.auth,
            "MLFLOW_FLASK_SERVER_SECRET_KEY": "of-this-test",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # its processes outlive the server
        }
        return [
            [
                *("env", *(f"{name}={value}" for name, value in settings.items())),
                *(sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth"),
                *("--backend-store-uri", self.backend, "--workers", "1"),
                *("--artifacts-destination", str(self.folder / "artifacts")),
                *("--host", self.host, "--port", str(self.port)),
            ]
        ]

    def environment(self) -> dict[str, str]:
        """Return the variables that a client needs beside the address."""
        return {
            "MLFLOW_TRACKING_USERNAME": self.username,
            "MLFLOW_TRACKING_PASSWORD": self.secret_key,
        }
