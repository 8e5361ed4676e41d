"""Tables on narrow terminals: what a row is stays, what has no room is named, nothing is cut."""

from __future__ import annotations

import io
import re
import shlex
from typing import Any

import pytest
from rich.table import Table

from whipray.platform.cli import consoles
from whipray.platform.cli.consoles import PlainConsole, plain_table
from whipray.platform.cli.tables import GROUPS, comparison_table, metrics_table, sweep_table
from whipray.platform.evaluation.bootstrap import Estimate
from whipray.platform.evaluation.compare import ComparedRow, Comparison, Difference

METRICS = {
    f"{name}/{group}{end}": value
    for name in ("kid", "agreement")
    for group in GROUPS
    for end, value in (("", 0.1234), ("_low", 0.1), ("_high", 0.15))
}


def trial(number: int, **changes: Any) -> dict[str, Any]:
    summary = {"metrics": METRICS, "sampling": {"guidance": {"name": "cfg", "omega": 1.25}}}
    values = {"objective.tau": 0.1213, "objective.gamma": 0.25, "objective.label_set": "balanced"}
    row = {"number": number, "state": "complete", "value": 0.1 + number, "failure": None}
    return {**row, "baseline": None, "values": values, "attrs": {"summary": summary}, **changes}


ROWS = [
    trial(0),
    trial(1, baseline="ddpm", values={}),
    trial(2, state="failed", failure="loss is not finite", attrs={}),
]
BY_OVERALL, BY_MEDIUM = "kid/overall", "kid/medium"


def rendered(table: Table, width: int) -> list[str]:
    console = PlainConsole()
    console.file, console.width = io.StringIO(), width
    console.print(table)
    return console.file.getvalue().splitlines()


def test_a_search_over_samplers_names_them() -> None:
    guidance = {"name": "cfg", "omega": 1.25}

    def by(number: int, sampler: dict[str, Any]) -> dict[str, Any]:
        summary = {"metrics": METRICS, "sampling": {"guidance": guidance, "sampler": sampler}}
        return trial(number, attrs={"summary": summary})

    heun, unipc = {"name": "heun", "steps": 7}, {"name": "unipc", "steps": 9}
    header, *lines = rendered(sweep_table([by(0, heun), by(1, unipc)], BY_OVERALL, 0, 150)[0], 150)
    assert "sampler" in header
    assert "heun 7 steps" in " ".join(lines)
    assert "unipc 9 steps" in " ".join(lines)
    for rows in ([by(0, heun), by(1, heun), trial(2, attrs={})], ROWS):
        assert "sampler" not in rendered(sweep_table(rows, BY_OVERALL, 0, 150)[0], 150)[0]


@pytest.mark.parametrize(
    ("width", "rank_by", "left_out"),
    [
        (80, BY_OVERALL, ["kid many", "kid medium", "agreement few"]),
        (80, BY_MEDIUM, ["kid many", "agreement few", "kid few"]),
        (120, BY_OVERALL, ["kid many", "kid medium"]),
        (150, BY_OVERALL, []),
        (40, BY_OVERALL, ["kid many", "kid medium", "agreement few", "kid few", "kid overall"]),
    ],
)
def test_a_sweep_keeps_trial_what_and_omega_at_every_width(
    width: int, rank_by: str, left_out: list[str]
) -> None:
    table, missing = sweep_table(ROWS, rank_by, 0, width)
    lines = rendered(table, width)
    text = "\n".join(lines)
    assert missing == left_out
    assert max(map(len, lines)) <= width
    assert "…" not in text
    assert re.match(r"trial +what +omega", lines[0])
    assert lines[1].split()[:3] == ["0", "*", "tau=0.121"]
    for word in ("tau=0.121", "gamma=0.25", "label_set=balanced", "1.25", "(baseline)", "finite"):
        assert word in text
    shown = [f"kid {group}" for group in GROUPS if f"kid {group}" not in left_out]
    assert [name for name in shown if name not in lines[0]] == []
    assert text.count("0.123 [0.100, 0.150]") == 2 * (5 - len(left_out))


@pytest.mark.parametrize("width", [40, 80])
def test_other_tables_wrap_and_cut_nothing(width: int) -> None:
    for table in (metrics_table(METRICS), plain_table("job", "what")):
        if not table.row_count:
            table.add_row("train-" + "x" * 100, "train a-run")
        lines = rendered(table, width)
        text = "".join(lines)
        assert max(map(len, lines)) <= width
        assert "…" not in text
    assert text.count("x") == 100
    assert "".join(rendered(metrics_table(METRICS), width)).count("0.150]") == 8


def test_a_run_that_is_left_out_has_no_column_and_a_metric_without_values_no_row() -> None:
    one, difference = Estimate(0.5, 0.4, 0.6), Difference(0.1, -0.1, 0.2)
    rows = (
        ComparedRow("kid", "few", (one, None, one), (None, None, difference)),
        ComparedRow("kid", "many", (None, None, one), (None, None, None)),
        ComparedRow("prd", "few", (None, None, None), (None, None, None)),
    )
    names = ("a", "other", "c")
    comparison = Comparison(names, {"other": "5 images"}, rows, ({}, {}, {}), 0.95)
    lines = [line.split() for line in rendered(comparison_table(comparison), 200)]
    assert lines == [
        ["a", "c"],
        ["kid", "few", "0.5", "0.5", "+0.1", "[-0.1,", "+0.2]", "~"],
        ["kid", "many", "–", "0.5"],
    ]


def test_suggested_commands_are_words_of_a_shell(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(consoles, "stderr_console", PlainConsole(stderr=True))
    words = ["whipray", "sample", "a", "--out", "my runs/it's.png", "--classes", "$(rm) `x` *;#"]
    consoles.next_commands(words)
    (line,) = capsys.readouterr().err.partition("next:\n")[2].splitlines()
    assert shlex.split(line) == words
