"""Output that cannot be written or shown: the work and its exit code are not affected."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

import pytest

from whipray.platform.cli import remote
from whipray.platform.cli.consoles import PlainConsole
from whipray.platform.cli.streams import Output, lasting_output
from whipray.platform.cli.tables import metrics_table

COMMANDS = {
    "plan": ("train", "digits-lt", "--dry-run"),
    "document": ("train", "digits-lt", "--dry-run", "--json"),
    "mistake": ("train", "digits-tl", "--json"),
}
FULL = "the output could not be written (No space left on device); what was done is not affected\n"


def run(words: tuple[str, ...], stdout: int | IO[Any], script: str = "") -> tuple[int, str]:
    command = [sys.executable, "-m", "whipray.platform.cli.main", *words]
    if script:
        command = ["sh", "-c", script, "sh", *command]
    done = subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True, check=False)
    return done.returncode, done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_a_full_disk_is_one_line_and_not_the_exit_code(command: str) -> None:
    with Path("/dev/full").open("w") as full:
        code, err = run(COMMANDS[command], full)
    assert code == (2 if command == "mistake" else 0)
    assert err.endswith(FULL)
    assert err.count("\n") == {"document": 1, "mistake": 3}.get(command, err.count("\n"))
    assert "Traceback" not in err
    assert "unexpected" not in err


@pytest.mark.parametrize("command", ["plan", "mistake"])
def test_a_pipe_that_nobody_reads_is_silent(command: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    code, err = run(COMMANDS[command], writer)
    os.close(writer)
    assert code == (2 if command == "mistake" else 0)
    assert "could not be written" not in err
    assert "BrokenPipe" not in err
    assert "Traceback" not in err


@pytest.mark.parametrize("closed", [">&- 2>&-", "<&- >&-"])
def test_a_closed_output_is_nobody_s_file(closed: str) -> None:
    code, err = run(COMMANDS["plan"], subprocess.DEVNULL, f'exec "$@" {closed}')
    assert code == 0
    assert "Traceback" not in err


def test_errors_without_a_place_to_go_keep_their_exit_code() -> None:
    code, _ = run(COMMANDS["mistake"], subprocess.DEVNULL, 'exec "$@" 2>/dev/full')
    assert code == 2


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_character_that_a_terminal_lacks_is_replaced(
    monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    screen = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", screen)
    metrics = {"kid/few": 0.5, "kid/few_low": 0.4, "kid/few_high": 0.6, "é/many": 1.0}
    metrics |= {"é/many_low": 1.0, "é/many_high": 1.0}
    with lasting_output():
        PlainConsole().print(metrics_table(metrics))
    assert sys.stdout is screen
    shown = screen.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]
    assert "0.500 [0.400, 0.600]" in shown
    assert ("–" if encoding == "utf-8" else "-") in shown
    assert ("?" if encoding == "ascii" else "é") in shown


class Cluster:
    """A job that says a word for ever, or until writing fails."""

    address = "http://head:8265"

    def follow(self, _job: str, write: Any, _warn: Any) -> None:
        for _ in range(100_000):
            write("a word of the job\n")
        raise AssertionError("nobody has ended this")


def test_a_job_is_let_go_of_when_nobody_reads_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    monkeypatch.setattr(remote, "stderr_console", PlainConsole(stderr=True))
    with os.fdopen(writer, "w") as pipe, lasting_output():
        monkeypatch.setattr(sys, "stdout", Output(pipe))
        with pytest.raises(SystemExit) as left:
            remote.follow(Cluster(), "job-1")  # type: ignore[arg-type]
    assert left.value.code == 141
    assert "no longer following job-1, which is still running" in capsys.readouterr().err
