"""Hosts for tests: Linux namespaces on a bridge, each with its own network, processes and files.

    bridge ── eth0 of each host                 in namespaces of their own: a killed host is gone
       └───── this machine, `Network.address`   so that servers of the test can be reached

A host sees the machine's files read-only. /tmp (with its $HOME) and /dev/shm are its own; /tmp is a
disk that survives a reboot. Its name resolves to 127.0.1.1, as on a machine that Debian installed. Its
first process reaps no orphans, as in a container without an init.

Everything lives below a process that waits on a pipe from the test: whatever way the test ends, the
kernel kills every process of every host, and with them go their networks.
"""

from __future__ import annotations

import itertools
import os
import random
import secrets
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import psutil

from .shell import WAIT_S

NAMESPACES = ["unshare", "--net", "--mount", "--uts", "--pid", "--fork"]
OWN_FILES = """
set -e
ip link set lo up
hostname "$1"
printf '127.0.0.1 localhost\\n127.0.1.1 %s\\n' "$1" >"$2/hosts"
mount --bind "$2/hosts" /etc/hosts
mount --bind "$2/tmp" /tmp
mount -t tmpfs -o size=2g tmpfs /dev/shm
mount -t proc proc /proc
mount -o remount,bind,ro /
echo ready
read -r _ || true
"""


def why_not() -> str | None:
    """Return what this machine lacks to make hosts, None if nothing."""
    if os.geteuid() != 0:
        return "hosts out of namespaces need root"
    for tool in ("ip", "unshare", "nsenter"):
        if shutil.which(tool) is None:
            return f"hosts out of namespaces need the command {tool}"
    tried = subprocess.run([*NAMESPACES, "true"], check=False, capture_output=True, text=True)
    return tried.stderr.strip() if tried.returncode else None


class Namespaces:
    """A waiting process in namespaces of its own, which other processes enter."""

    def __init__(self, *setup: str) -> None:
        self._unshare = subprocess.Popen(
            [*NAMESPACES, *setup],
            stdin=subprocess.PIPE,  # which `setup` waits for
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._unshare.stdout is not None
        if self._unshare.stdout.readline() != "ready\n":
            raise RuntimeError(f"{setup} did not start: {self._unshare.communicate()[1]}")
        (self.init,) = psutil.Process(self._unshare.pid).children()

    def enter(self, *command: str) -> list[str]:
        """Return the command that runs `command` inside."""
        kinds = ("--net", "--mount", "--uts", "--pid")
        return ["nsenter", f"--target={self.init.pid}", *kinds, "--", *command]

    def kill(self) -> None:
        """Kill every process inside at once; the kernel does it."""
        if self._unshare.poll() is None:
            for child in psutil.Process(self._unshare.pid).children():
                child.kill()
        self._unshare.communicate()


class Host:
    """A machine of a `Network`: boot it, run commands on it, kill it."""

    def __init__(self, network: Network, name: str, address: str) -> None:
        self.network, self.name, self.address = network, name, address
        self.disk = network.folder / name
        """Folder of the test that holds its /tmp."""
        (self.disk / "tmp" / "home").mkdir(parents=True)
        self._hardware = f"02:00:00:00:00:{int(address.rpartition('.')[2]):02x}"
        self._inside: Namespaces | None = None
        self._started: list[subprocess.Popen[str]] = []

    def boot(self) -> None:
        """Start the host with the disk as it was left."""
        self._inside = Namespaces("sh", "-c", OWN_FILES, "sh", self.name, str(self.disk))
        self.port = self.network.plug(self._inside.init.pid, "eth0")
        for words in (
            f"link set eth0 address {self._hardware}",
            f"address add {self.address}/24 dev eth0",
            "link set eth0 up",
            f"route add default via {self.network.address}",
        ):
            ip(words, self._inside)

    def popen(
        self, *command: str, environment: Mapping[str, str], **options: Any
    ) -> subprocess.Popen[str]:
        """Start a command on this host, in /tmp, with only this environment."""
        assert self._inside is not None, f"{self.name} is down"
        own = {"PATH": os.environ["PATH"], "HOME": "/tmp/home", "PYTHONDONTWRITEBYTECODE": "1"}
        command = ("env", "--chdir=/tmp", *command)
        process = subprocess.Popen(
            self._inside.enter(*command), env={**own, **environment}, text=True, **options
        )
        self._started.append(process)
        return process

    def ask(self, *command: str, environment: Mapping[str, str]) -> tuple[int, str, str]:
        """Run a command on this host; return its exit status, stdout and stderr."""
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with self.popen(*command, environment=environment, **options) as process:
            out, err = process.communicate(timeout=WAIT_S)
        return process.returncode, out, err

    def limit(self, bits_per_second: int) -> None:
        """Limit what the host sends from now on."""
        assert self._inside is not None, f"{self.name} is down"
        shaping = f"tbf rate {bits_per_second}bit burst 128kb latency 50ms"
        command = self._inside.enter("tc", *f"qdisc replace dev eth0 root {shaping}".split())
        subprocess.run(command, check=True, timeout=WAIT_S)

    def processes(self, title: str = "") -> list[psutil.Process]:
        """Return the processes whose command line contains `title`."""
        if self._inside is None:
            return []
        mine = os.readlink(f"/proc/{self._inside.init.pid}/ns/pid")
        found = []
        psutil.process_iter.cache_clear()  # a reused process number would stand for the earlier process
        for process in psutil.process_iter():
            try:
                there = os.readlink(f"/proc/{process.pid}/ns/pid") == mine
                if there and title in " ".join(process.cmdline()):
                    found.append(process)
            except (psutil.Error, OSError):  # it has just ended
                continue
        return found

    def kill_all(self) -> None:
        """Cut the power: kill every process at once. The disk stays."""
        if self._inside is not None:
            self._inside.kill()
            self._inside = None
            while self._started:
                self._started.pop().wait()


class Network:
    """Hosts on one bridge; as a context manager it boots all of them."""

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self.folder = folder
        self._subnet = f"10.{random.randrange(64, 128)}.{random.randrange(256)}"
        self._ports = itertools.count()
        self._link = f"wr-{secrets.token_hex(4)}"
        self.address = f"{self._subnet}.254"
        """Address of this machine on the bridge."""
        self.hosts = [
            Host(self, name, f"{self._subnet}.{n}") for n, name in enumerate(names, start=1)
        ]

    def __enter__(self) -> Self:
        with ExitStack() as undo:
            self._switch = Namespaces("sh", "-c", "echo ready; read -r _ || true")
            undo.callback(self._switch.kill)
            ip("link add bridge type bridge", self._switch)
            ip("link set bridge up", self._switch)
            self.plug(os.getpid(), self._link)
            undo.callback(ip, f"link delete {self._link}")
            ip(f"address add {self.address}/24 dev {self._link}")
            ip(f"link set {self._link} up")
            for host in self.hosts:
                undo.callback(host.kill_all)
                host.boot()
            self._undo = undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    def plug(self, pid: int, name: str) -> str:
        """Connect the process's network to the bridge, as the device `name`; return the bridge's port."""
        port = f"port-{next(self._ports)}"
        ip(f"link add {port} type veth peer name {name} netns {pid}", self._switch)
        ip(f"link set {port} master bridge up", self._switch)
        return port

    def cut(self, host: Host) -> None:
        """Pull the host's cable."""
        ip(f"link set {host.port} down", self._switch)

    def heal(self, host: Host) -> None:
        """Plug the host's cable in again."""
        ip(f"link set {host.port} up", self._switch)


def ip(words: str, inside: Namespaces | None = None) -> None:
    """Run iproute2 on this machine's network or in namespaces."""
    where = ["nsenter", f"--target={inside.init.pid}", "--net", "--"] if inside else []
    subprocess.run([*where, "ip", *words.split()], check=True, timeout=300)
