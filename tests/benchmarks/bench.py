"""`make bench`: run the parts, each in a process of its own, and print one table.

    bench.py [--json] [steps] [networks] [data] [evaluation] [balancing] [averages] [overhead] [writing]

Ratios are of CPU time, which other work on the machine disturbs little; wall times need it idle.
A GPU is measured by `make gpu-bench`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from measure import Result
from rich.console import Console
from rich.markup import escape
from rich.table import Table

PARTS = ("steps", "networks", "data", "evaluation", "balancing", "averages", "overhead", "writing")
ON_CPU = {"CUDA_VISIBLE_DEVICES": ""}


def run(part: str) -> list[Result] | None:
    """A part's results, None if it failed; what it complains of goes to stderr."""
    script = Path(__file__).with_name(f"{part}.py")
    done = subprocess.run(
        [sys.executable, str(script)],
        env=os.environ | ON_CPU,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        return None
    return [Result(**result) for result in json.loads(done.stdout.splitlines()[-1])]


def table(results: list[Result]) -> Table:
    """Median [smallest-largest], target, met or not."""
    made = Table("", r"median \[min-max]", "", "target", "", box=None)
    for r in results:
        spread = f" [{min(r.values):.3g}-{max(r.values):.3g}]" if len(r.values) > 1 else ""
        target = f"≤ {r.at_most:g}" if r.at_most else f"≥ {r.at_least:g}" if r.at_least else ""
        verdict = {True: "met", False: "[bold]not met[/]", None: ""}[r.met]
        made.add_row(r.what, escape(f"{r.median:.3g}{spread}"), r.unit, target, verdict)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what the project promises of its speed.")
    parser.add_argument("parts", nargs="*", metavar="part", help=f"{', '.join(PARTS)}; default all")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no part {', '.join(sorted(unknown))}: there are {', '.join(PARTS)}")
    parts = [part for part in PARTS if part in (options.parts or PARTS)]

    out, talk = Console(highlight=False), Console(stderr=True, highlight=False)
    cores, load = os.cpu_count() or 1, os.getloadavg()[0]
    results: list[Result] = []
    failed = []
    for part in parts:
        talk.print(f"measuring {part}")
        found = run(part)
        if found is None:
            failed.append(part)
        results += found or []
    if options.json:
        rows = [asdict(r) | {"median": r.median, "met": r.met} for r in results]
        about = {"cores": cores, "load_average": load, "failed": failed}
        print(json.dumps({**about, "results": rows}, indent=1))
    else:
        out.print(table(results))
        busy = "; busy, so the wall times (s) say little" if load > cores / 2 else ""
        out.print(f"{cores} cores, load average {load:.1f} at the start{busy}")
    if failed:
        sys.exit(f"not measured, it failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
