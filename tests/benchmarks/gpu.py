"""`make gpu-bench`: all that is to be known of a GPU, in one command of some eight minutes.

    gpu.py [--images FILE] [--json FILE] [--minutes 8] [--parts agree,speed] [--profile] [--toy]

Needs PyTorch, DeepSpeed and Pydantic; neither Ray nor MLflow nor a network. Every part is a process
of its own with a time limit, prints its rows as they come, and is ended if it runs over. Where there
is no GPU, or with --toy, the sizes are tiny: that proves the script and measures nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from gpu_parts.rows import Row, read, table

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]


@dataclass(frozen=True)
class Part:
    """A module of `gpu_parts` and the seconds that it may take."""

    name: str
    module: str
    seconds: float


PARTS = (
    Part("about", "about", 60),
    Part("agree", "agree", 75),
    Part("ceilings", "ceilings", 30),
    Part("speed", "speed", 150),
    Part("captured", "captured", 25),
    Part("sharing", "sharing", 80),
    Part("waits", "waits", 40),
    Part("large", "large", 70),
    Part("plain", "plain", 60),
    Part("agree_compiled", "agree_compiled", 60),
    Part("sampling", "sampling", 50),
    Part("classifier", "classifier", 120),
    Part("profile", "gaps", 50),
    Part("speed_rest", "speed_rest", 600),
)
"""What is most wanted comes first; the last takes the time that is left."""
LEAST_S = 10.0
"""A part that would have less is not begun."""
GRACE_S = 3.0
"""Between the time at which a part should be done and its end."""
TOY_S = 900.0
"""Of every part of a toy run, which may be on a slow machine."""


def environment() -> dict[str, str]:
    """For the parts: this package, the helpers of the tests, and whatever was there."""
    paths = [str(ROOT / ".dev"), str(HERE), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
    # one process talks to nobody, and its machine may have no other interface
    alone = {"NCCL_SOCKET_IFNAME": "lo", "GLOO_SOCKET_IFNAME": "lo"}
    here = {"PYTHONUNBUFFERED": "1", "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    return alone | os.environ | here


def run(part: Part, seconds: float, arguments: list[str]) -> list[Row]:
    """A part's rows, each shown as it comes; what it complains of goes to stderr."""
    asked = max(1.0, seconds - GRACE_S)
    process = subprocess.Popen(
        [sys.executable, "-m", f"gpu_parts.{part.module}", "--seconds", f"{asked:.0f}", *arguments],
        env=environment(),
        cwd=HERE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # so that a data loader's workers end with it
    )
    rows: list[Row] = []
    stopped = False
    try:
        for line in _lines_until(process, time.monotonic() + seconds):
            if row := read(line):
                rows.append(row)
                print(f"{row.part:>14}  {row.what}: {row.result()} {row.verdict()}", flush=True)
    except TimeoutError:
        stopped = True
    finally:  # also where this process is asked to end
        _end(process)
    if stopped:
        rows.append(Row(part.name, "stopped", {}, f"it had run for its {seconds:.0f} s"))
    elif process.returncode:
        rows.append(Row(part.name, "failed", {}, f"exit code {process.returncode}", False))
    return rows


def _lines_until(process: subprocess.Popen[str], ends: float) -> Iterator[str]:
    """What a process prints; TimeoutError where it still runs at the time of `time.monotonic`."""
    lines: queue.Queue[str | None] = queue.Queue()

    def read_all() -> None:
        assert process.stdout is not None
        with process.stdout as output:
            for line in output:
                lines.put(line)
        lines.put(None)

    threading.Thread(target=read_all, daemon=True).start()
    while True:
        try:
            line = lines.get(timeout=max(0.0, ends - time.monotonic()))
        except queue.Empty:
            raise TimeoutError from None
        if line is None:
            return
        yield line


def _end(process: subprocess.Popen[str]) -> None:
    """End a part and whatever it started."""
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=GRACE_S)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure Whipray's training on a GPU.")
    parser.add_argument("--images", type=Path, help="real images, as carry.sh makes them")
    parser.add_argument(
        "--json", type=Path, default=Path("gpu-bench.json"), help="the full numbers"
    )
    parser.add_argument("--minutes", type=float, default=8.0, help="for everything")
    names = ", ".join(part.name for part in PARTS)
    parser.add_argument("--parts", help=f"some of {names}; default all but profile")
    parser.add_argument("--profile", action="store_true", help="also the longest gaps")
    parser.add_argument("--toy", action="store_true", help="tiny sizes, on any device")
    options = parser.parse_args()
    wanted = options.parts.split(",") if options.parts else []
    if unknown := set(wanted) - {part.name for part in PARTS}:
        parser.error(f"no part {', '.join(sorted(unknown))}: there are {names}")
    if not wanted:
        wanted = [part.name for part in PARTS if part.name != "profile" or options.profile]
    options.chosen = [part for part in PARTS if part.name in {"about", *wanted}]
    return options


def write(file: Path, began: datetime, toy: bool, rows: list[Row]) -> None:
    """All numbers so far."""
    about = {"began": began.isoformat(timespec="seconds"), "toy": toy, "command": sys.argv}
    file.write_text(json.dumps({**about, "rows": [asdict(row) for row in rows]}, indent=1))


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    options = parse()
    began, start = datetime.now(UTC), time.monotonic()
    toy: bool = options.toy
    rows: list[Row] = []
    took: list[str] = []
    arguments = ["--so-far", str(options.json.resolve())]
    arguments += ["--images", str(options.images.resolve())] if options.images else []
    for part in options.chosen:
        left = 60 * options.minutes - (time.monotonic() - start)
        seconds = TOY_S if toy else min(part.seconds, left)
        if seconds < LEAST_S:
            rows.append(Row(part.name, "not begun", {}, "no time was left"))
            continue
        began_part = time.monotonic()
        rows += run(part, seconds, [*arguments, *["--toy"] * toy])
        took.append(f"{part.name} {time.monotonic() - began_part:.0f} s")
        if part.name == "about" and not toy and Row("about", "GPU", {}, "none") in rows:
            toy = True
            print("no GPU: tiny sizes, which prove the script and measure nothing", flush=True)
        write(options.json, began, toy, rows)
    write(options.json, began, toy, rows)
    images = "real CIFAR images" if options.images else "random images"
    rows.append(Row("time", "of the parts", {}, ", ".join(took)))
    print(f"\n{began:%Y-%m-%d %H:%M} UTC, {images}, {' '.join(sys.argv)}")
    if toy:
        print("A toy run: no number below says anything of a GPU.")
    print(f"\n{table(rows)}", flush=True)
    if any(row.met is False for row in rows):
        sys.exit(1)


if __name__ == "__main__":
    main()
