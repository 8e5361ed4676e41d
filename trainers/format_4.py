"""Read what format 4 of checkpoints and exported models wrote, which knew one process and two samplers.

Its parameters have today's names and meaning; its configs are moved to today's keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

OF_SAMPLER = {"ddpm": ("variance",), "ddim": ("steps", "spacing", "eta")}


def experiment_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return an experiment's config in today's keys."""
    moved = {key: value for key, value in config.items() if key != "diffusion"}
    moved["process"] = process_of(config["diffusion"])
    moved["sampling"] = sampling_of(config["sampling"])
    timesteps = config["diffusion"]["timesteps"]
    moved["objective"] = _objective_of(config["objective"], timesteps)
    return moved


def process_of(diffusion: Mapping[str, Any]) -> dict[str, Any]:
    """Return the noise process."""
    return {"name": "vp", **diffusion}


def sampling_of(sampling: Mapping[str, Any]) -> dict[str, Any]:
    """Return sampler and guidance as configs of their own; today's are returned as they are."""
    if isinstance(sampling["sampler"], Mapping):
        return dict(sampling)
    moved = {key: sampling[key] for key in ("clip_x0", "weights", "batch_size")}
    name = sampling["sampler"]
    moved["sampler"] = {"name": name, **{key: sampling[key] for key in OF_SAMPLER[name]}}
    moved["guidance"] = {"name": "cfg", "omega": sampling["omega"]}
    return moved


def _objective_of(objective: Mapping[str, Any], timesteps: int) -> dict[str, Any]:
    """Return the objective; OC's cutoff was a number of steps, and CBDM compared outputs."""
    moved = dict(objective)
    if moved["name"] == "cbdm":
        moved["metric"] = "output"
    if moved.get("cutoff") is not None:
        moved["cutoff"] = min(1.0, moved["cutoff"] / timesteps)
    if "base" in moved:
        moved["base"] = _objective_of(moved["base"], timesteps)
    return moved
