"""What a launch would run, as `--dry-run` shows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import typer
from rich.text import Text

from ...trainers.errors import Problem, combine
from ..config.experiment import Experiment
from ..config.layers import Resolved, flatten, render
from .consoles import print_json, print_problem, print_warnings, stderr_console, stdout_console
from .exit_codes import exit_code_of


def show_plan(
    resolved: Resolved[Experiment],
    plan: Mapping[str, Any],
    problems: Sequence[Problem],
    as_json: bool,
    warnings: Sequence[str] = (),
) -> None:
    """Print the resolved config with the origin of each value, the plan, and what is wrong with it.

    Raises:
        typer.Exit: there are problems.
    """
    experiment = resolved.value
    facts = {**plan, **training_facts(experiment)}
    if as_json:
        print_json(
            {
                "plan": facts,
                **config_document(resolved),
                "warnings": list(warnings),
                "problems": [{"message": one.what, "hint": one.fix} for one in problems],
            }
        )
        _exit_if(problems)
        return
    print_config(resolved)
    stderr_console.print("\nwould run:")
    print_facts(facts)
    print_warnings(warnings)
    _exit_if(problems)


def config_document(resolved: Resolved[Experiment]) -> dict[str, Any]:
    """Return a config and the origin of each value, by dotted key."""
    return {"config": flatten(resolved.value), "origins": resolved.origins}


def print_config(resolved: Resolved[Experiment]) -> None:
    """Print a config with the origin of each value."""
    text = render(resolved, stdout_console.is_terminal).removesuffix("\n")
    # `from_ansi` keeps the colours, which a `str` would lose.
    stdout_console.print(Text.from_ansi(text) if stdout_console.is_terminal else text)


def _exit_if(problems: Sequence[Problem]) -> None:
    """End the command with what would stop it."""
    if problems:
        problem = combine(problems)
        code = exit_code_of(problem)
        print_problem(problem, code, as_json=False)
        raise typer.Exit(code)


def print_facts(facts: Mapping[str, Any]) -> None:
    """Print names and values in two columns on stderr."""
    width = max([13, *(len(name) + 2 for name in facts)])
    for name, value in facts.items():
        stderr_console.print(f"  {name:<{width}}{value}")


def training_facts(experiment: Experiment) -> dict[str, Any]:
    """Return what a training is, in a few lines by subject."""
    loop, scaling, objective = experiment.training, experiment.scaling, experiment.objective
    pretrained = experiment.pretrained
    steps = -(-loop.images // loop.batch_size)
    sampling = experiment.effective_sampling
    return {
        "objective": f"call over {objective.base.name}"
        if objective.name == "call"
        else objective.name,
        "network": experiment.model.name,
        "process": experiment.process.name,
        **(
            {"starts from": f"{pretrained.model}{', LoRA' if pretrained.lora else ''}"}
            if pretrained
            else {}
        ),
        "steps": f"{steps:,} of {loop.batch_size} images",
        "images": f"{experiment.evaluation.images_per_class:,} of each class by {sampling.label}",
        "workers": f"{scaling.workers} x {scaling.cpus_per_worker} CPU, "
        f"{scaling.gpus_per_worker:g} GPU, ZeRO {experiment.engine.zero_stage}, "
        f"{experiment.engine.precision}",
        "storage": experiment.storage.uri,
    }
