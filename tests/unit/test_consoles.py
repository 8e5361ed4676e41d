"""What the terminal gets: texts of servers and jobs are shown, and control nothing."""

from __future__ import annotations

import io
import re
import sys
import threading
import time

import pytest
from rich.table import Table

from whipray.platform.cli import consoles, status_line
from whipray.platform.cli.consoles import PlainConsole, print_error, write_output
from whipray.platform.cli.status_line import StatusLine
from whipray.platform.cli.verbs import jobs
from whipray.platform.foundation.text import printable
from whipray.platform.launching import jobs_client
from whipray.platform.launching.jobs_client import Job

EVIL = (
    "[/evil][link=http://evil]x[/link]:smile: "
    "\x1b]0;title\x07\x1b]52;c;Y2xpcA==\x1b\\\x1b[2J\x1b[31mred\x9b2J\x1bc\x08\u202ehidden\rlast"
)
OWN_CONTROLS = re.compile(r"\x1b\[(?:[0-9;]*m(?!red)|2K|1A|\?25[lh])")
"""Rich's: bold, and the status line in its place."""
SHOWN = "[/evil][link=http://evil]x[/link]:smile: red2Jchidden"


def open_terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """Return a terminal in the place of stdout and stderr."""
    screen = io.StringIO()
    monkeypatch.setattr(screen, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "400")
    for module in (consoles, jobs):
        monkeypatch.setattr(module, "stdout_console", PlainConsole())
        monkeypatch.setattr(module, "stderr_console", PlainConsole(stderr=True))
    return screen


class Jobs:
    """The jobs of a cluster that others use, too."""

    def __init__(self, _address: str) -> None:
        self.evil = Job(
            EVIL, EVIL, EVIL, 0.0, 1.0, 0, {"whipray": EVIL, "name": EVIL, "user": EVIL}
        )

    def jobs(self) -> list[Job]:
        return [self.evil]

    def job(self, _name: str) -> Job:
        return self.evil

    def log(self, _name: str) -> str:
        return EVIL


@pytest.mark.parametrize("verb", ["list", "show", "logs"])
def test_a_job_of_others_controls_no_terminal(monkeypatch: pytest.MonkeyPatch, verb: str) -> None:
    terminal = open_terminal(monkeypatch)
    monkeypatch.setattr(jobs_client, "JobsClient", Jobs)
    if verb == "list":
        jobs.list_jobs("http://head:8265", True, False)
    elif verb == "show":
        jobs.show("evil", "http://head:8265", False)
    else:
        jobs.logs("evil", "http://head:8265", False)
    check(terminal)


def test_errors_tables_status_and_followed_logs_control_no_terminal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = open_terminal(monkeypatch)
    print_error(EVIL, EVIL, 1, as_json=False)
    write_output(EVIL)
    table = Table(EVIL, box=None)
    table.add_row(EVIL)
    consoles.stdout_console.print(table)
    with StatusLine(consoles.stderr_console, EVIL):
        time.sleep(0.3)
    assert terminal.getvalue().count(SHOWN) >= 6
    check(terminal)


def test_a_log_has_a_line_at_each_change_and_seldom_the_same_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    starting = [f"0:{second} · starting · about 1:0{second % 10} left" for second in range(10, 40)]
    texts = iter([*starting, "1 of 9", "2 of 9", "2 of 9"])
    ended = threading.Event()

    def current() -> str:
        text = next(texts, None)
        if text is None:
            ended.set()
            return "2 of 9"
        return text

    clock = iter(range(0, 10**9, 10))  # a line could come each ten seconds
    monkeypatch.setattr(status_line, "LOG_EVERY_S", 0.001)
    monkeypatch.setattr(status_line, "monotonic", lambda: next(clock))
    with StatusLine(PlainConsole(stderr=True), current):
        assert ended.wait(60)
    lines = capsys.readouterr().err.splitlines()
    assert lines[:7] == [*starting[::6], "1 of 9", "2 of 9"]


def check(terminal: io.StringIO) -> None:
    """The text is there, no control of the terminal is."""
    text = OWN_CONTROLS.sub("", terminal.getvalue())
    assert SHOWN.lower() in text.lower()
    assert not {"\x1b", "\x9b", "\x07", "\x08", "\u202e"} & set(text)


def test_a_text_keeps_its_lines_and_tabs() -> None:
    text = "ein Wörtchen\t[x]\n日本 🐟\n"
    assert printable(text) == text
    assert printable("10%\r20%\r\nend") == "10%\n20%\nend"
