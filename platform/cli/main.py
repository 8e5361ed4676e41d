"""The command line: thin verbs, errors of two lines, stable exit codes (`exit_codes.py`).

    0 ok · 1 failure · 2 wrong usage · 4 preflight check failed · 130 interrupted

Data goes to stdout, messages to stderr.
"""

from __future__ import annotations

import importlib.metadata
import os
import sys
import tempfile
import traceback
from typing import Annotated, Any

import typer

from ...trainers.disk import unexpected_disk_problem
from ...trainers.errors import Problem, UsageProblem
from ...trainers.memory import memory_problem
from ..foundation.abort import before_abort
from ..foundation.logs import show_all_logs
from ..foundation.signals import handling_stop, interrupt
from . import exit_codes
from .completion import whole_words
from .consoles import print_error, print_problem, set_quiet, stdout_console
from .streams import lasting_output
from .verbs import (
    balance,
    classify,
    cluster,
    compare,
    config,
    data,
    diffult,
    doctor,
    evaluate,
    guidance,
    init,
    jobs,
    models,
    recipes,
    register,
    runs,
    sample,
    sweep,
    train,
    ui,
)

LESS_MEMORY = (
    "free memory, raise its limit (`ulimit -v`, a container's), or ask for smaller batches"
)

app = typer.Typer(
    name="whipray",
    help="Train, tune and ship class-balanced diffusion models on long-tailed images.",
    epilog=f"{exit_codes.HELP}\n\nEnvironment variables and settings files: docs/configuration.md.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(init.init)
app.command()(train.train)
app.command()(sweep.sweep)
app.command()(evaluate.evaluate)
app.command()(compare.compare)
app.command()(guidance.guidance)
app.command()(classify.classify)
app.command()(balance.balance)
app.command()(diffult.diffult)
app.command()(sample.sample)
app.command()(models.models)
app.command()(register.register)
app.command()(recipes.recipes)
app.add_typer(config.app, name="config")
app.command()(doctor.doctor)
app.add_typer(data.app, name="data")
app.add_typer(runs.app, name="runs")
app.add_typer(jobs.app, name="jobs")
app.add_typer(cluster.app, name="cluster")
app.command()(ui.ui)

# Typer 0.15 and later bring their own copy of click without a public name for its base of "wrong
# argument"; this is it, reached from a public subclass.
ClickException = next(c for c in typer.BadParameter.mro() if c.__name__ == "ClickException")


def _show_version(wanted: bool) -> None:
    if wanted:
        stdout_console.print(f"whipray {importlib.metadata.version('whipray')}")
        raise typer.Exit(exit_codes.OK)


@app.callback()
def _whipray(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", help="Show the version and exit.", callback=_show_version, is_eager=True
        ),
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print errors and data alone.")
    ] = False,
    verbose: Annotated[
        bool,
        typer.Option(
            "--verbose", "-v", help="Print log lines of libraries, and each phase with its time."
        ),
    ] = False,
) -> None:
    if quiet and verbose:
        raise UsageProblem("--quiet and --verbose exclude each other", "give one of them")
    set_quiet(quiet)
    if verbose:
        show_all_logs()


def main() -> None:
    """Run a command and exit with one of the exit codes, whatever happens."""
    as_json = "--json" in sys.argv

    def show(problem: Problem) -> None:
        print_error(problem.what, problem.fix, exit_codes.FAILURE, as_json)

    with lasting_output(), before_abort(show), whole_words():
        _run(as_json)


def _run(as_json: bool) -> None:
    try:
        with handling_stop(interrupt):
            code = typer.main.get_command(app)(prog_name="whipray", standalone_mode=False)
        if code == exit_codes.INTERRUPTED:  # what Typer returns after Ctrl-C
            raise KeyboardInterrupt
        sys.exit(code if isinstance(code, int) else exit_codes.OK)
    except Problem as problem:
        code = exit_codes.exit_code_of(problem)
        print_problem(problem, code, as_json)
        sys.exit(code)
    except (KeyboardInterrupt, typer.Abort):
        fix = "run the same command again to resume"
        print_error("interrupted", fix, exit_codes.INTERRUPTED, as_json)
        _exit_now(exit_codes.INTERRUPTED)
    except Exception as error:  # noqa: BLE001  (the last resort; nothing is swallowed)
        if isinstance(error, ClickException):
            sys.exit(_wrong_argument(error, as_json))
        if lacking := unexpected_disk_problem(error) or memory_problem(error, LESS_MEMORY):
            print_error(lacking.what, lacking.fix, exit_codes.FAILURE, as_json)
            sys.exit(exit_codes.FAILURE)
        sys.exit(_defect(error, as_json))


def _wrong_argument(error: Any, as_json: bool) -> int:
    message = str(error.format_message())
    if "Usage:" in message:  # there were no arguments at all, and the message is the help
        sys.stderr.write(message + "\n")
    else:
        context = getattr(error, "ctx", None)
        path = context.command_path if context is not None else "whipray"
        print_error(message, f"see `{path} --help`", exit_codes.USAGE, as_json)
    return exit_codes.USAGE


def _defect(error: Exception, as_json: bool) -> int:
    """Print one line about an unexpected exception; its traceback goes to a file."""
    from ..foundation.text import describe_exception

    with tempfile.NamedTemporaryFile("w", prefix="whipray-", suffix=".log", delete=False) as log:
        traceback.print_exception(error, file=log)
    print_error(
        f"unexpected {describe_exception(error)}",
        f"please report this defect of whipray; its traceback is in {log.name}",
        exit_codes.FAILURE,
        as_json,
    )
    return exit_codes.FAILURE


def _exit_now(code: int) -> None:
    """Exit without waiting for worker threads, which an interrupt leaves amid their work."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
