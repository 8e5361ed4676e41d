"""Export a checkpoint: its EMA weights as those of a plain network, with a card that describes it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, TypeAdapter
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from . import format_4
from .checkpoint import EMA, Manifest, check_architecture, describe, read_tensors
from .disk import save_tensors, writing
from .errors import CheckpointProblem, UsageProblem
from .guidance import Autoguidance, Denoiser
from .integrity import Altered, seal, unseal
from .networks import AnyNetwork
from .networks.low_rank import merge
from .processes import AnyProcess
from .sampling import SamplingConfig, sample

WEIGHTS, CARD = "model.safetensors", "model.json"
GUIDE = "guide"
"""Folder of the model that guides it, exported likewise, inside of an exported model's."""
FORMAT = 5
"""Raise it when an exported model could be misread: other fields in the card or in the configs that it
holds, other names of tensors, or another meaning of one of them."""


class ModelCard(BaseModel):
    """The description of an exported model."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    format: int = FORMAT
    model: AnyNetwork
    process: AnyProcess
    """The noise process as it was trained."""
    sampling: SamplingConfig
    image_shape: tuple[int, int, int]
    """(C, H, W)."""
    class_names: list[str]
    class_counts: list[int]
    images_seen: int
    checkpoint: str
    """Content hash of the checkpoint that was exported."""


@dataclass(frozen=True)
class Pretrained:
    """An exported model, read for a training to start from."""

    card: ModelCard
    weights: dict[str, Tensor]
    hash: str
    """SHA-256 of its weights file."""


@dataclass(frozen=True)
class Exported:
    """A network ready to sample from."""

    card: ModelCard
    denoiser: Denoiser
    device: torch.device
    guide: Denoiser | None = None
    """The model by which its own sampling is guided."""

    def sample(
        self,
        labels: Tensor,
        config: SamplingConfig,
        seed: int,
        guide: Denoiser | None = None,
        **options: Any,
    ) -> Tensor:
        """Generate images (N, C, H, W) float32 in [-1, 1] on the CPU, one for each of `labels` (N,).

        Args:
            guide: the other model, where guidance needs one; None: the exported one.

        Raises:
            UsageProblem: the settings are of other weights than this model has.
        """
        own = self.card.sampling
        for key in ("weights", "ema_width"):
            if getattr(config, key) != getattr(own, key):
                raise UsageProblem(
                    f"sampling.{key}={getattr(config, key)}: this model has the weights of "
                    f"{getattr(own, key)}",
                    f"keep its value, or use the run that it is from: `whipray evaluate RUN "
                    f"sampling.{key}={getattr(config, key)}`",
                )
        if config.compile:
            for one in (self.denoiser, guide or self.guide):
                if one is not None:
                    _compile(one.network)
        return sample(
            self.denoiser,
            labels,
            self.card.image_shape,
            config,
            class_counts=self.card.class_counts,
            seed=seed,
            guide=guide or self.guide,
            device=self.device,
            **options,
        )


def export(
    folder: Path,
    manifest: Manifest,
    destination: Path,
    sampling: SamplingConfig,
    pretrained: Pretrained | None = None,
) -> ModelCard:
    """Write a checkpoint's EMA weights, as those of a plain network, and the card.

    Args:
        sampling: becomes the model's default.
        pretrained: the model that the training started from; needed if it trained adapters only.

    Raises:
        UsageProblem: theta_g alone of a model that has no reserved capacity.
    """
    card, weights = model_of(read_tensors(folder, manifest, EMA), manifest, sampling, pretrained)
    write_exported(destination, card, weights)
    return card


def model_of(
    trained: Mapping[str, Tensor],
    manifest: Manifest,
    sampling: SamplingConfig,
    pretrained: Pretrained | None = None,
) -> tuple[ModelCard, dict[str, Tensor]]:
    """Return the card and the weights of a plain network, of what a training left.

    Args:
        trained: an average of what the training changed, that of `sampling.ema_width`.
        manifest: of the checkpoint that it is of.
        sampling: becomes the model's default.
        pretrained: the model that the training started from; needed if it trained adapters only.

    Raises:
        UsageProblem: theta_g alone of a model that has no reserved capacity.
    """
    general_only = sampling.weights == "general"
    if general_only and not any(".parts.expert." in name for name in trained):
        raise UsageProblem(
            "sampling.weights=general: the model has no reserved capacity to leave out",
            "set sampling.weights=merged, or train with objective.name=call",
        )
    card = ModelCard(
        model=TypeAdapter(AnyNetwork).validate_python(manifest.config["model"]),
        process=manifest.process,
        sampling=sampling,
        image_shape=manifest.image_shape,
        class_names=manifest.class_names,
        class_counts=manifest.class_counts,
        images_seen=manifest.images_seen,
        checkpoint=manifest.content_hash(),
    )
    return card, merged_weights(trained, pretrained, general_only=general_only)


def write_exported(folder: Path, card: ModelCard, weights: dict[str, Tensor]) -> None:
    """Write a model's weights and its card."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        save_tensors(weights, folder / WEIGHTS)
        write_card(folder, card)


def write_card(folder: Path, card: ModelCard) -> None:
    """Write a model's card beside its weights, with a hash of them and of itself."""
    content = {**json.loads(card.model_dump_json()), WEIGHTS: describe(folder / WEIGHTS).sha256}
    (folder / CARD).write_text(json.dumps(seal(content), indent=1))


def merged_weights(
    trained: Mapping[str, Tensor], pretrained: Pretrained | None, *, general_only: bool = False
) -> dict[str, Tensor]:
    """Return the tensors of a plain network, for sampling: parts merged, augmentation's input left out.

    Args:
        trained: what the training changed; everything, except with LoRA.
        pretrained: the model that it started from, needed if parts of it are frozen.
        general_only: theta_g alone (CALL table 4).
    """
    whole = {**(pretrained.weights if pretrained else {}), **trained}
    kept = {name: t for name, t in whole.items() if not name.startswith("augmentation.")}
    return merge(kept, general_only=general_only)


def read_exported(folder: Path, where: str = "") -> tuple[ModelCard, dict[str, Tensor]]:
    """Read the card and the weights that `export` wrote.

    Args:
        where: address that messages name in place of `folder`, of what it is a copy of.

    Raises:
        CheckpointProblem: files that are missing, cannot be read or are not what was written.
    """
    where = where or str(folder)
    if not (folder / CARD).exists() or not (folder / WEIGHTS).exists():
        raise CheckpointProblem(
            f"{where}: no {CARD} and {WEIGHTS}",
            "give a folder with these two files, or the name of a run",
        )
    try:
        text = (folder / CARD).read_text()
        stored = json.loads(text).get("format")
        if stored not in (4, FORMAT):
            raise CheckpointProblem(
                f"{where}/{CARD}: model format {stored}, this version reads {FORMAT}",
                "use the version of whipray that wrote it, or export the model's run again",
            )
        content = unseal(text)
        if content.pop(WEIGHTS) != describe(folder / WEIGHTS).sha256:
            raise Altered(f"{WEIGHTS} does not match {CARD}")
        if stored == 4:
            content["process"] = format_4.process_of(content.pop("diffusion"))
            content["sampling"] = format_4.sampling_of(content["sampling"])
            content["format"] = FORMAT
        card = ModelCard.model_validate_json(json.dumps(content))
        return card, load_file(folder / WEIGHTS)
    except Altered as error:
        raise CheckpointProblem(
            f"{where}: altered since it was written ({error})",
            "export the checkpoint again, or restore the folder from a copy",
        ) from error
    except (ValueError, AttributeError, KeyError, SafetensorError, OSError) as error:
        raise CheckpointProblem(
            f"{where}: cannot be read ({type(error).__name__})", "export the checkpoint again"
        ) from error


def read_pretrained(folder: Path, where: str = "") -> Pretrained:
    """Read an exported model for a training to start from.

    Args:
        where: as for `read_exported`.

    Raises:
        CheckpointProblem: files that are missing or cannot be read.
    """
    card, weights = read_exported(folder, where)
    return Pretrained(card, weights, describe(folder / WEIGHTS).sha256)


def load_exported(folder: Path, device: torch.device | str = "cpu", where: str = "") -> Exported:
    """Read what `export` wrote, as a network ready to sample from, with its guide if it has one.

    Args:
        where: as for `read_exported`.

    Raises:
        CheckpointProblem: files that are missing or do not fit together.
    """
    device = torch.device(device)
    model = build_exported(*read_exported(folder, where), device)
    if not isinstance(guidance := model.card.sampling.guidance, Autoguidance):
        return model
    guide = load_guide(folder / GUIDE, guidance, device, f"{where or folder}/{GUIDE}")
    return replace(model, guide=guide)


def load_guide(
    folder: Path, guidance: Autoguidance, device: torch.device | str, where: str = ""
) -> Denoiser:
    """Read what `export` wrote, as the guide of another model; what guides it itself is not read.

    Raises:
        CheckpointProblem: as `load_exported`, or it is another model than the guidance was fixed with.
    """
    exists = (folder / WEIGHTS).exists()  # else the message of `read_exported` fits
    if exists and describe(folder / WEIGHTS).sha256 != guidance.content:
        raise CheckpointProblem(
            f"{where or folder}: not the guide {guidance.guide} that the model was exported with",
            "export the checkpoint again, or restore the folder from a copy",
        )
    return build_exported(*read_exported(folder, where), device).denoiser


def _compile(network: Callable[..., Tensor]) -> None:
    """Compile a network in place at its next call, unless it is compiled already."""
    if isinstance(network, nn.Module) and network._compiled_call_impl is None:
        network.compile()


def build_exported(
    card: ModelCard, weights: Mapping[str, Tensor], device: torch.device | str = "cpu"
) -> Exported:
    """Return a model as a network ready to sample from, without its guide.

    Raises:
        CheckpointProblem: weights that do not fit the card.
    """
    device = torch.device(device)
    network = card.model.build(card.image_shape, len(card.class_names))
    check_architecture(weights, dict(network.named_parameters()))
    network.load_state_dict(weights)
    network.to(device).eval()
    return Exported(card, Denoiser(network, card.process.build(device)), device)
