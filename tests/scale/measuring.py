"""Time, CPU time, memory and disk of each piece of a walk, of this process's children and theirs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil

EVERY_S = 0.5
"""Between two looks at the processes; what a process used after the last one is not counted."""
MEMORY_EVERY = 6
"""Looks, to one at the memory, which costs more."""
BLOCK_BYTES = 512


@dataclass
class Piece:
    """What one piece took."""

    name: str
    seconds: float = 0.0
    cpu: float = 0.0
    memory: int = 0
    """The largest sum of the processes' shares of memory (PSS), bytes."""
    disk: dict[str, int] = field(default_factory=dict)
    """Bytes of each folder at the end."""


class Measuring:
    """Looks at all processes that this one has started, except some, until it is closed.

    Args:
        folders: by name, whose bytes on disk are counted after each piece.
        apart: returns the processes that are not counted, such as a server's.
        on_piece: takes each piece when the next one begins.
    """

    def __init__(
        self,
        folders: dict[str, Path],
        apart: Callable[[], set[int]],
        on_piece: Callable[[Piece], None],
    ) -> None:
        self._folders, self._apart, self._on_piece = folders, apart, on_piece
        self.pieces: list[Piece] = []
        self._used: dict[tuple[int, float], float] = {}
        self._counted = 0.0
        self._began = time.monotonic()
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._look_on, daemon=True)
        self._thread.start()

    def begin(self, name: str) -> None:
        """End the present piece, if any, and begin one."""
        self.end()
        self._began = time.monotonic()
        self.pieces.append(Piece(name))

    def end(self) -> None:
        """End the present piece."""
        if self.pieces and not self.pieces[-1].seconds:
            piece = self.pieces[-1]
            self._look(memory=False)
            piece.seconds = time.monotonic() - self._began
            total = sum(self._used.values())
            piece.cpu, self._counted = total - self._counted, total
            piece.disk = {name: bytes_in(folder) for name, folder in self._folders.items()}
            self._on_piece(piece)

    def close(self) -> None:
        """End the present piece and look no more."""
        self.end()
        self._over.set()
        self._thread.join()

    def _look_on(self) -> None:
        looks = 0
        while not self._over.wait(EVERY_S):
            looks += 1
            self._look(memory=looks % MEMORY_EVERY == 0)

    def _look(self, memory: bool) -> None:
        with self._lock:
            own = psutil.Process()
            apart, shares = self._apart(), 0
            for process in [own, *own.children(recursive=True)]:
                try:
                    parents = {process.pid, *(each.pid for each in process.parents())}
                    if apart & parents:
                        continue
                    times = process.cpu_times()
                    self._used[process.pid, process.create_time()] = times.user + times.system
                    shares += _share_of_memory(process.pid) if memory else 0
                except (psutil.Error, OSError):  # it has ended
                    continue
            if self.pieces:
                self.pieces[-1].memory = max(self.pieces[-1].memory, shares)


def _share_of_memory(pid: int) -> int:
    """Return a process's memory in bytes, what it shares with others divided among them (PSS)."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0


def bytes_in(folder: Path) -> int:
    """Return the bytes on disk of all files below a folder."""
    total = 0
    for each in folder.rglob("*"):
        try:
            total += each.lstat().st_blocks * BLOCK_BYTES
        except OSError:  # it was removed meanwhile
            continue
    return total


def as_table(pieces: list[Piece]) -> list[str]:
    """Return the pieces as a table in Markdown."""
    folders = list(pieces[0].disk)
    head = ["piece", "s", "CPU s", "peak memory, GB", *(f"{name}, GB" for name in folders)]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for piece in pieces:
        sizes = [f"{piece.disk.get(name, 0) / 1e9:.2f}" for name in folders]
        cells = [
            piece.name,
            f"{piece.seconds:.0f}",
            f"{piece.cpu:.0f}",
            f"{piece.memory / 1e9:.2f}",
        ]
        lines.append("| " + " | ".join([*cells, *sizes]) + " |")
    return lines
