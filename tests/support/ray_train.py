"""Callbacks that a test hands to Ray Train's own processes, which import them by name.

Not from a test file: `tests` is a namespace here, and a package of that name which another
distribution installs (torch-fidelity does) would be found in its place.
"""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import psutil
import torch.distributed as dist
from ray.train import UserCallback

from whipray.trainers.data import PackedImages
from whipray.trainers.errors import DataProblem
from whipray.trainers.hooks import Progress


class Diary(UserCallback):
    """The reports that the controller receives, as lines of a file: it is another process."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def _write(self, line: dict[str, Any]) -> None:
        with self.file.open("a") as out:
            out.write(json.dumps(line) + "\n")

    def after_report(self, run_context: Any, metrics: list[Any], checkpoint: Any) -> None:  # noqa: ARG002
        images, losses = metrics[0]["images_seen"], [m["metrics"]["loss/total"] for m in metrics]
        self._write({"images": images, "losses": losses})

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Any]) -> None:  # noqa: ARG002
        self._write({"lost": sorted(worker_exceptions)})

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.file.read_text().splitlines()]


class KillTheOther:
    """A report callback of worker 0 that kills the other worker with SIGKILL, once at each moment."""

    def __init__(self, *images_seen: int, folder: Path) -> None:
        self.killed = {moment: folder / f"killed-{moment}" for moment in images_seen}

    def __call__(self, progress: Progress) -> bool:
        once = self.killed.get(progress.images_seen)
        if once is not None and not once.exists():
            me = psutil.Process()
            siblings = me.parent().children()  # of this test's own Ray
            (other,) = [p for p in siblings if p != me and p.cmdline() == me.cmdline()]
            once.write_text(str(other.pid))
            os.kill(other.pid, signal.SIGKILL)
        return False


class Unreadable:
    """A report callback of worker 0; after the images of `moment` the other worker cannot read its own.

    Each worker has a copy, which begins to be of effect when it is unpickled.
    """

    def __init__(self, moment: int, now: Path) -> None:
        self.moment, self.now = moment, now

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        gather, now = PackedImages.gather, self.now

        def gathered(images: PackedImages, indices: Any, out: Any = None) -> Any:
            if dist.is_initialized() and dist.get_rank() == 1 and now.exists():
                raise DataProblem("shards/0.bin: damaged", "pack the set again")
            return gather(images, indices, out)

        PackedImages.gather = gathered  # type: ignore[method-assign]

    def __call__(self, progress: Progress) -> bool:
        if progress.images_seen == self.moment:
            self.now.touch()
        return False


class Surroundings:
    """A report callback of worker 0 that writes its environment, and how many ports others can reach."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __call__(self, _progress: Progress) -> bool:
        listening = [
            c for c in psutil.Process().net_connections() if c.status == psutil.CONN_LISTEN
        ]
        ports = sum(not is_loopback(c.laddr.ip) for c in listening)
        self.file.write_text(json.dumps({"ports": ports, **os.environ}))
        return False


def is_loopback(address: str) -> bool:
    return address == "::1" or address.removeprefix("::ffff:").startswith("127.")
