"""What a launch would run, as `--dry-run` shows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.text import Text

from ..config.experiment import Experiment
from ..config.layers import Resolved, flatten, render
from .consoles import print_json, stderr_console, stdout_console


def show_plan(resolved: Resolved[Experiment], plan: Mapping[str, Any], as_json: bool) -> None:
    """Print the resolved config with the origin of each value, and the plan."""
    experiment = resolved.value
    facts = {**plan, **training_facts(experiment)}
    if as_json:
        print_json({"plan": facts, "config": flatten(experiment), "origins": resolved.origins})
        return
    sampling = experiment.sampling
    unused = {f"sampling.{key}": sampling.sampler for key in sampling.unused}
    text = render(resolved, stdout_console.is_terminal, unused).removesuffix("\n")
    # `from_ansi` keeps the colours, which a `str` would lose.
    stdout_console.print(Text.from_ansi(text) if stdout_console.is_terminal else text)
    stderr_console.print("\nwould run:")
    print_facts(facts)


def print_facts(facts: Mapping[str, Any]) -> None:
    """Print names and values in two columns on stderr."""
    for name, value in facts.items():
        stderr_console.print(f"  {name:<13}{value}")


def training_facts(experiment: Experiment) -> dict[str, Any]:
    """Return what a training is, in a few lines by subject."""
    loop, scaling, objective = experiment.training, experiment.scaling, experiment.objective
    pretrained = experiment.pretrained
    steps = -(-loop.images // loop.batch_size)
    sampling = experiment.sampling.effective(experiment.diffusion.timesteps)
    return {
        "objective": f"call over {objective.base.name}"
        if objective.name == "call"
        else objective.name,
        **(
            {"starts from": f"{pretrained.model}{', LoRA' if pretrained.lora else ''}"}
            if pretrained
            else {}
        ),
        "steps": f"{steps:,} of {loop.batch_size} images",
        "images": f"{experiment.evaluation.images_per_class:,} of each class by "
        f"{sampling.sampler} in {sampling.steps} steps, omega {sampling.omega:g}",
        "workers": f"{scaling.workers} x {scaling.cpus_per_worker} CPU, "
        f"{scaling.gpus_per_worker:g} GPU, ZeRO {experiment.engine.zero_stage}, "
        f"{experiment.engine.precision}",
        "storage": experiment.storage.uri,
    }
