"""The model registry: models with their weights, their best guidance and their origin."""

from __future__ import annotations

import logging
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from ... import trainers
from ...trainers.errors import CheckpointProblem
from ...trainers.export import ModelCard, read_exported
from ...trainers.sampling import SamplingConfig
from ...trainers.scratch import Scratch
from ..foundation.names import is_name
from ..foundation.text import redact
from ..storage import layout
from ..storage.store import Storage
from ..storage.trained_weights import export_run
from .errors import translate_errors
from .mlflow_runs import Run
from .moved import artifact_address
from .tracker import Tracker
from .versions import Version, choose, parse_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient

CHAMPION = "champion"
REQUIREMENTS = ("mlflow-skinny", "torch", "safetensors", "pydantic", "numpy", "pandas")
"""What a registered model needs where it is loaded or served; MLflow reads tables with pandas."""
DESCRIPTION_CHARACTERS = 5000
"""The most that MLflow's databases keep of a version's description."""


def register(
    tracker: Tracker,
    run: Run,
    store: Storage,
    checkpoint: str,
    sampling: SamplingConfig,
    name: str,
    tags: Mapping[str, str],
    describe: Callable[[ModelCard], str],
) -> Version:
    """Export a run's checkpoint and return its registered version, made now where it is missing.

    Args:
        run: the run's MLflow run.
        store: the run's folder in the store.
        checkpoint: its name.
        sampling: becomes the model's default.
        name: of the registered model.
        tags: of the version.
        describe: returns the model card, which becomes the version's description.
    """
    with Scratch() as scratch, translate_errors(tracker.uri):
        folder = Path(scratch)
        card = export_run(store, checkpoint, sampling, folder)
        identity = model_identity(card.checkpoint, sampling)
        text = describe(card)
        known = find_version(tracker, name, identity)
        if known is None:
            file = folder / layout.Artifact.MODEL / layout.Artifact.MODEL_CARD
            file.write_text(text, encoding="utf-8")
            made = log_model(run, folder, card, name, {**tags, layout.VersionTag.MODEL: identity})
            known = get(tracker, name, made)
        set_description(tracker, known, text)
    return known


def model_identity(checkpoint: str, sampling: SamplingConfig) -> str:
    """Return what a registered version is known by: content of the checkpoint, and sampling."""
    facts = " ".join(f"{key}={value}" for key, value in sampling.facts().items())
    return f"{checkpoint} {facts}"


def find_version(tracker: Tracker, name: str, identity: str) -> Version | None:
    """Return the version of this model that has the identity; None where there is none."""
    tag = layout.VersionTag.MODEL
    return next((v for v in versions(tracker, name) if v.tags.get(tag) == identity), None)


def exported_models(root: Storage) -> list[tuple[Path, ModelCard]]:
    """Return the models whose files are in the store's own artifacts, the oldest first.

    Each with its folder, whose content is checked; those that are damaged are left out. Empty in a
    bucket, where a server keeps the artifacts.
    """
    models = []
    for file in Path(root.path).glob(layout.LOGGED_MODELS) if root.is_folder else ():
        try:
            made = str(yaml.safe_load(file.read_text())["utc_time_created"])
            card, _ = read_exported(file.parent / "artifacts" / layout.Artifact.MODEL)
        except (CheckpointProblem, OSError, ValueError, LookupError, TypeError, yaml.YAMLError):
            continue
        models.append((made, file.parent, card))
    return [(folder, card) for _, folder, card in sorted(models, key=lambda model: model[:2])]


def register_again(
    tracker: Tracker, run: Run, folder: Path, card: ModelCard, name: str, tags: Mapping[str, str]
) -> Version:
    """Register a model whose files are there already, after MLflow's database was lost."""
    file = folder / "artifacts" / layout.Artifact.MODEL / layout.Artifact.MODEL_CARD
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    identity = model_identity(card.checkpoint, card.sampling)
    with translate_errors(tracker.uri):
        if known := find_version(tracker, name, identity):
            return known
        _make_name(tracker.client, name)
        made = tracker.client.create_model_version(
            name,
            artifact_address(str(folder)),
            run_id=run.run_id,
            tags={**tags, layout.VersionTag.MODEL: identity},
            description=_cut(text) or None,
        )
    return get(tracker, name, str(made.version))


def _make_name(client: MlflowClient, name: str) -> None:
    if name not in {model.name for model in client.search_registered_models(f"name = '{name}'")}:
        client.create_registered_model(name)


def set_alias(tracker: Tracker, chosen: Version, alias: str) -> None:
    """Point an alias at a version."""
    with translate_errors(tracker.uri):
        tracker.client.set_registered_model_alias(chosen.name, alias, chosen.version)


def set_description(tracker: Tracker, chosen: Version, text: str) -> None:
    """Set the description that MLflow shows of a version, as much of it as MLflow keeps."""
    with translate_errors(tracker.uri):
        tracker.client.update_model_version(chosen.name, chosen.version, description=_cut(text))


def _cut(text: str) -> str:
    if len(text) <= DESCRIPTION_CHARACTERS:
        return text
    rest = f"\n\n... (the whole text is {layout.Artifact.MODEL_CARD} in the model's files)"
    return text[: DESCRIPTION_CHARACTERS - len(rest)].rpartition("\n")[0] + rest


def names(tracker: Tracker) -> list[str]:
    """Return the names of the registered models, without those that Whipray cannot have given."""
    with translate_errors(tracker.uri):
        registered = tracker.client.search_registered_models()
        return sorted(model.name for model in registered if is_name(model.name))


def versions(tracker: Tracker, name: str) -> list[Version]:
    """Return all versions of a model, the newest first; empty for an unknown name."""
    with translate_errors(tracker.uri):
        registered = tracker.client.search_model_versions(f"name = '{name}'")
        numbers = sorted((int(v.version) for v in registered), reverse=True)
        return [get(tracker, name, str(number)) for number in numbers]


def get(tracker: Tracker, name: str, number: str) -> Version:
    """Return one version."""
    with translate_errors(tracker.uri):
        v = tracker.client.get_model_version(name, number)
        return Version(name, str(v.version), tuple(v.aliases), v.run_id, dict(v.tags))


def resolve(tracker: Tracker, uri: str) -> Version:
    """Return the version that `models:/name@alias`, `models:/name/3` or `models:/name` means.

    Without an alias or a number it is the newest.

    Raises:
        UsageProblem: no such model, version or alias.
    """
    name, _, _ = parse_uri(uri)
    known = versions(tracker, name)
    return choose(uri, known, () if known else names(tracker))


def address_of(tracker: Tracker, chosen: Version) -> str:
    """Return the address of a version and of its exported model, for messages."""
    with translate_errors(tracker.uri):
        files = tracker.client.get_model_version_download_uri(chosen.name, chosen.version)
    return f"{chosen.uri} in {redact(files)}/artifacts/{layout.Artifact.MODEL}"


def download(tracker: Tracker, chosen: Version, folder: Path) -> Path:
    """Download a version's exported model, without the code beside it; return its folder.

    Raises:
        CheckpointProblem: the version holds no exported model.
    """
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    with translate_errors(tracker.uri), _quiet_mlflow():
        try:
            local = download_artifacts(
                f"{chosen.uri}/artifacts/{layout.Artifact.MODEL}",
                dst_path=str(folder),
                tracking_uri=tracker.uri,
            )
        except (MlflowException, OSError) as error:
            raise CheckpointProblem(
                f"{address_of(tracker, chosen)}: no model that whipray exported "
                f"({type(error).__name__})",
                "restore it, or choose a version that a sweep has registered: see `whipray models`",
            ) from error
    return Path(local)


def log_model(run: Run, folder: Path, card: ModelCard, name: str, tags: Mapping[str, str]) -> str:
    """Log `folder / "model"` as a pyfunc model of the run, register it, and return its version."""
    import mlflow
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema, TensorSpec

    code = folder / "code" / "whipray_trainers"
    shutil.copytree(
        Path(trainers.__file__).parent,
        code,
        ignore=shutil.ignore_patterns("__pycache__", "recipes"),
    )
    channels, height, width = card.image_shape
    facts = card.sampling.facts()
    signature = ModelSignature(
        inputs=Schema(
            [
                ColSpec(DataType.long, "class_id", required=False),
                ColSpec(DataType.string, "class_name", required=False),
            ]
        ),
        outputs=Schema([TensorSpec(np.dtype(np.uint8), (-1, height, width, channels))]),
        params=ParamSchema(
            [
                *(
                    ParamSpec(name, kind, facts[name])
                    for name, kind in (("omega", DataType.double), ("steps", DataType.long))
                    if name in facts
                ),
                ParamSpec("seed", DataType.long, 0),
                ParamSpec("format", DataType.string, "array"),
            ]
        ),
    )
    with mlflow.start_run(run_id=run.run_id, log_system_metrics=False), _quiet_mlflow():
        info = mlflow.pyfunc.log_model(
            name="model",
            python_model=str(Path(__file__).with_name("pyfunc_model.py")),
            artifacts={"model": str(folder / "model")},
            code_paths=[str(code)],
            signature=signature,
            pip_requirements=[f"{package}=={version(package)}" for package in REQUIREMENTS],
            metadata={"class_names": card.class_names, "class_counts": card.class_counts},
        )
    client = mlflow.MlflowClient()
    _make_name(client, name)
    made = client.create_model_version(
        name, info.model_uri, run_id=run.run_id, model_id=info.model_id, tags=dict(tags)
    )
    return str(made.version)


@contextmanager
def _quiet_mlflow() -> Iterator[None]:
    """Silence MLflow's hints on input examples and its progress bars for two small files."""
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module="mlflow")
        warnings.filterwarnings("ignore", message=".*input example.*")
        warnings.filterwarnings("ignore", message=".*type hints.*")
        yield
