"""The command line: verbs are thin, errors are two lines, exit codes are stable.

0 ok · 1 failure · 2 usage or config · 3 gate refused · 4 preflight failed · 5 budget reached ·
130 interrupted. Data goes to stdout, talk to stderr.
"""

from __future__ import annotations

import os
import sys
import tempfile
import traceback
from typing import Any

import typer

from ...trainers.errors import Problem
from ..foundation.text import describe_exception
from .output import print_error
from .verbs import (
    classify,
    cluster,
    compare,
    doctor,
    evaluate,
    guidance,
    jobs,
    models,
    sample,
    sweep,
    train,
    ui,
)

INTERRUPTED = 130

app = typer.Typer(
    name="whipray",
    help="Train, tune and ship class-balanced diffusion models on long-tailed images.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command()(train.train)
app.command()(sweep.sweep)
app.command()(evaluate.evaluate)
app.command()(compare.compare)
app.command()(guidance.guidance)
app.command()(classify.classify)
app.command()(sample.sample)
app.command()(models.models)
app.command()(doctor.doctor)
app.add_typer(jobs.app, name="jobs")
app.add_typer(cluster.app, name="cluster")
app.command()(ui.ui)


# Typer carries a click of its own; this is its base of "wrong argument", from its public child.
ClickException = next(c for c in typer.BadParameter.mro() if c.__name__ == "ClickException")


def main() -> None:
    """Run a command; whatever happens ends in one of the exit codes."""
    as_json = "--json" in sys.argv
    try:
        code = typer.main.get_command(app)(standalone_mode=False)
        if code == INTERRUPTED:  # Typer makes this of Ctrl-C, without a word
            raise KeyboardInterrupt
        sys.exit(code if isinstance(code, int) else 0)
    except Problem as problem:
        print_error(problem.what, problem.fix, problem.exit_code, as_json)
        sys.exit(problem.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        print_error("interrupted", "the same command goes on where it was", INTERRUPTED, as_json)
        _leave(INTERRUPTED)
    except Exception as error:  # noqa: BLE001  (the last resort; nothing is swallowed)
        if isinstance(error, ClickException):
            sys.exit(_wrong_argument(error, as_json))
        sys.exit(_defect(error, as_json))


def _wrong_argument(error: Any, as_json: bool) -> int:
    message = str(error.format_message())
    if "Usage:" in message:  # no arguments at all: the help is the answer
        sys.stderr.write(message + "\n")
    else:
        context = getattr(error, "ctx", None)
        path = context.command_path if context is not None else "whipray"
        print_error(message, f"see `{path} --help`", 2, as_json)
    return 2


def _defect(error: Exception, as_json: bool) -> int:
    """Keep the traceback for us, show a person one line."""
    with tempfile.NamedTemporaryFile("w", prefix="whipray-", suffix=".log", delete=False) as log:
        traceback.print_exception(error, file=log)
    print_error(
        f"unexpected {describe_exception(error)}",
        f"this is a defect of whipray; its traceback is in {log.name}",
        1,
        as_json,
    )
    return 1


def _leave(code: int) -> None:
    """Without waiting for worker threads, which an interrupt leaves in the middle of things."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
