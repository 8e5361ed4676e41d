"""One run in all that the store says of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from ..config.layers import flatten
from ..storage import layout
from ..tracking.versions import Version
from .inventory import Inventory, RunFiles
from .listing import list_members, manifest_of, registered

DECIDING = {
    "objective": ("objective", "name"),
    "network": ("model", "name"),
    "process": ("process", "name"),
    "data": ("data", "source"),
    "augmentation": ("augmentation", "name"),
    "sampler": ("sampling", "sampler", "name"),
    "guidance": ("sampling", "guidance", "name"),
    "starts from": ("pretrained", "model"),
    "batch": ("training", "batch_size"),
    "learning rate": ("optimizer", "lr"),
    "seed": ("seed",),
}
"""What a run is, by the config's keys."""
OWN_PARAMETERS = ("objective", "data")
"""Sections of which every key is shown."""


def describe(inventory: Inventory, run: RunFiles, versions: Iterable[Version]) -> dict[str, Any]:
    """Return a run as JSON types: what it is, its checkpoints, evaluations, sizes and pages."""
    by_trial = registered(versions)
    document: dict[str, Any] = {
        "name": run.target,
        "address": inventory.root.uri_of(run.folder),
        "bytes": run.bytes,
    }
    if run.is_sweep:
        members = list_members(inventory, run, [v for all_ in by_trial.values() for v in all_])
        trials = [asdict(entry) for entry in members]
        size = run.bytes + sum(entry["bytes"] for entry in trials)
        return {**document, "bytes": size, "trials": trials}
    name = manifest_of(run)
    manifest = inventory.read_json([name]).get(name, {}) if name else {}
    return {
        **document,
        "versions": [version.uri for version in by_trial.get(run.target, [])],
        "settings": _settings(manifest.get("config", {})),
        "classes": _classes(manifest),
        "checkpoints": [asdict(checkpoint) for checkpoint in run.checkpoints()],
        "evaluations": _evaluations(inventory, run),
        "parts": _parts(run),
        "pages": [
            inventory.root.uri_of(f"{run.folder}/{file}")
            for file in run.files
            if file.endswith(".html")
        ],
    }


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that decide what a run is, by their words."""
    deciding = {word: _value(config, path) for word, path in DECIDING.items()}
    own = {
        f"{section}.{key}": value
        for section in OWN_PARAMETERS
        for key, value in flatten(config.get(section) or {}).items()
        if key not in ("name", "source") and value is not None
    }
    return {word: value for word, value in {**deciding, **own}.items() if value is not None}


def _value(config: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        config = config.get(key) if isinstance(config, dict) else None
    return config


def _classes(manifest: Mapping[str, Any]) -> dict[str, int]:
    """Return the training images of each class."""
    return dict(
        zip(manifest.get("class_names", ()), manifest.get("class_counts", ()), strict=False)
    )


def _evaluations(inventory: Inventory, run: RunFiles) -> list[dict[str, Any]]:
    """Return its evaluations, the earliest first: how images were generated, and metrics of all classes."""
    names = {
        folder: f"{run.folder}/{folder}/{layout.EVALUATION_RESULT}" for folder in run.evaluations()
    }
    results = inventory.read_json(names.values())
    evaluations = []
    for folder, name in names.items():
        result = results.get(name, {})
        about, metrics = result.get("provenance", {}), result.get("metrics", {})
        evaluations.append(
            {
                "folder": folder,
                "images_seen": about.get("images_seen"),
                "sampler": about.get("sampler"),
                "omega": about.get("omega"),
                "n_generated": about.get("n_generated"),
                "metrics": {k: v for k, v in metrics.items() if k.endswith("/overall")},
                "page": inventory.root.uri_of(f"{run.folder}/{folder}/{layout.EVALUATION_PAGE}"),
            }
        )
    return evaluations


def _parts(run: RunFiles) -> dict[str, int]:
    """Return the size of each folder of a run."""
    sizes: dict[str, int] = {}
    for name, file in run.files.items():
        top, slash, _ = name.partition("/")
        sizes[top if slash else "records"] = sizes.get(top if slash else "records", 0) + file.bytes
    return sizes
