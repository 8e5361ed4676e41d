"""The end of `whipray train` on a screen."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from support.reports import synthetic_report
from support.training import tiny

from whipray.platform.cli import consoles, outcome
from whipray.platform.cli.consoles import PlainConsole
from whipray.platform.runs.evaluator import Evaluated
from whipray.platform.runs.local_training import TrainingResult
from whipray.platform.runs.run import RunResult
from whipray.platform.runs.single_run import SingleRun

LONG = "the feature network is right on 11.0 % of 120 held-out images: " + "give more images " * 4


@pytest.mark.parametrize(("width", "intervals"), [(80, 1), (120, 4)])
def test_it_fits_one_screen(monkeypatch: pytest.MonkeyPatch, width: int, intervals: int) -> None:
    shown = io.StringIO()
    for name in ("stdout_console", "stderr_console"):
        console = PlainConsole()
        console.file, console.width = shown, width
        monkeypatch.setattr(console, "_force_terminal", True)
        for module in (consoles, outcome):
            monkeypatch.setattr(module, name, console)
    report = synthetic_report(10)
    best = Evaluated(
        tiny().sampling,
        report.metrics(),
        dict(report.provenance),
        f"evaluations/{16 * 'a'}",
        0,
        warnings=(LONG, "second", "third", "fourth"),
    )
    single = SingleRun("a-run", tiny(storage__uri="/home/somebody/pictures/whipray-runs"))
    finished = RunResult(TrainingResult("images-1", 1, []), best)
    outcome.print_outcome(single, finished, ["--storage", "/home/somebody/pictures/whipray-runs"])
    plain = Console(file=io.StringIO(), width=width)
    lines = [
        line
        for text in shown.getvalue().splitlines()
        for line in plain.render_str(text, markup=False).wrap(plain, width)
    ]
    print("\n".join(str(line) for line in lines))
    assert len(lines) < 24  # one is the prompt's
    text = shown.getvalue()
    (kid,) = (line for line in text.splitlines() if line.startswith("kid "))
    assert kid.count("[") == intervals
    for group in ("overall", "many", "medium", "few"):  # none is lost
        assert f"{report.metrics()[f'kid/{group}']:.3f}" in kid
    assert "many" in text
    assert "3 warnings more in the report" in text
    assert "of 500 generated images are near copies" in text
    assert "whipray sample a-run" in text
