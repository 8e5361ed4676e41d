"""The exit codes of every command. They are stable: scripts may rely on them."""

from __future__ import annotations

from ...trainers.errors import Problem, UsageProblem

OK = 0
FAILURE = 1
USAGE = 2
"""A wrong argument, key or value; nothing was started."""
PREFLIGHT_FAILED = 4
"""A check of `whipray doctor` failed, or the cluster cannot be used."""
INTERRUPTED = 130
"""Ctrl-C, SIGTERM or SIGHUP, or an answer of no to the question of costs."""

NOBODY_READS = 141
"""The output of a job that is followed can no longer be written; what SIGPIPE makes of programs."""

HELP = "Exit codes: 0 ok, 1 failure, 2 wrong usage, 4 preflight check failed, 130 interrupted."


def exit_code_of(problem: Problem) -> int:
    """Return the exit code of a command that ends with this problem."""
    from ..launching.jobs_client import ClusterProblem

    if isinstance(problem, ClusterProblem):
        return PREFLIGHT_FAILED
    return USAGE if isinstance(problem, UsageProblem) else FAILURE
