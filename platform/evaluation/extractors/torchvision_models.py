"""Classifiers of torchvision, by name: features before the last linear layer, logits after it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ....trainers.errors import UsageProblem, did_you_mean
from .base import ExtractorInfo, OnPhase
from .config import TorchvisionConfig
from .network import NetworkExtractor, as_rgb
from .weights import fetch, fitting, read_weights

AS_PUBLISHED = {"transform_input": True, "init_weights": False}
"""What these weights were made for; torchvision adds it only when it loads them itself."""
OPTIONS = {"googlenet": AS_PUBLISHED, "inception_v3": AS_PUBLISHED}

Transform = Callable[[Tensor], Tensor]


class TorchvisionModel(NetworkExtractor):
    """Features (N, d) that go into a model's last linear layer, logits (N, K) that it gives."""

    def __init__(
        self,
        network: nn.Module,
        head: nn.Linear,
        transform: Transform,
        info: ExtractorInfo,
        device: Any,
    ) -> None:
        super().__init__(network, info, head.out_features, device)
        self._transform = transform
        self._features: list[Tensor] = []
        head.register_forward_pre_hook(lambda _head, inputs: self._features.append(inputs[0]))

    @classmethod
    def open(
        cls,
        config: TorchvisionConfig,
        device: torch.device,
        on_phase: OnPhase = lambda _line: None,
    ) -> TorchvisionModel:
        """Open the model with its weights, which may be fetched.

        Raises:
            UsageProblem: an unknown model, or one whose classes do not come from a linear layer.
            CheckpointProblem: no weights, or not those of this model.
        """
        name = check_known(config.model)
        with torch.random.fork_rng(devices=[]):
            network: nn.Module = _models().get_model(name, weights=None, **OPTIONS.get(name, {}))
        layer, head = _last_linear(network, name)
        published = _models().get_model_weights(name).DEFAULT
        path = (
            config.weights.expanduser() if config.weights else _published(published.url, on_phase)
        )
        weights = read_weights(path, "" if config.weights else _hash_in(path.name))
        tensors = weights.tensors
        for key in list(tensors):
            tensors[_present_name(key)] = tensors.pop(key)
        with fitting(path, name):
            network.load_state_dict(tensors)
        transform = published.transforms()
        preprocessing = _in_words(transform)
        identity = f"torchvision {name} {weights.sha256} {layer} {preprocessing}"
        info = ExtractorInfo(
            name=f"torchvision-{name}",
            hash=hashlib.sha256(identity.encode()).hexdigest()[:16],
            dimensions=head.in_features,
            preprocessing=f"{preprocessing}; grey images three times",
            class_names=None,
            facts={
                "weights": "given" if config.weights else str(published),
                "weights_sha256": weights.sha256,
                "layer": f"input of {layer}",
            },
        )
        return cls(network, head, transform, info, device)

    def _forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        self._features.clear()
        logits = self._network(self._transform(as_rgb(images)))
        return self._features.pop(), logits


def check_known(name: str) -> str:
    """Return the name of a classifier of torchvision.

    Raises:
        UsageProblem: there is none of this name.
    """
    known = _models().list_models(module=_models())
    if name not in known:
        raise UsageProblem(
            f"torchvision has no classifier {name}",
            f"{did_you_mean(name, known, 3)}set evaluation.features.model to one of "
            "torchvision.models.list_models(torchvision.models)",
        )
    return name


def _published(url: str, on_phase: OnPhase) -> Path:
    """Return the published file, in torchvision's own cache."""
    path = _published_path(url)
    if not path.is_file():
        fix = (
            f"put {path.name} into {path.parent}, or set evaluation.features.weights to where it is"
        )
        fetch(url, path, _hash_in(path.name), fix, on_phase)
    return path


def has_published_weights(name: str) -> bool:
    """Return whether a model's published weights are in torchvision's own cache."""
    return _published_path(_models().get_model_weights(name).DEFAULT.url).is_file()


def _published_path(url: str) -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]


def _hash_in(name: str) -> str:
    """Return the first digits of a file's SHA-256: resnet50-11ad3fa6.pth -> 11ad3fa6."""
    digits = re.search(r"-([0-9a-f]{8,})\.", name)
    return digits[1] if digits else ""


def _present_name(key: str) -> str:
    """Return the present name of a tensor; DenseNet's files have norm.1 for norm1."""
    return re.sub(r"(denselayer\d+\.(?:norm|conv))\.(\d\.)", r"\1\2", key)


def _last_linear(network: nn.Module, name: str) -> tuple[str, nn.Linear]:
    layers = [(k, m) for k, m in network.named_modules() if isinstance(m, nn.Linear)]
    if not layers:
        raise UsageProblem(
            f"{name} has no linear layer, so it has no features before one",
            "use another evaluation.features.model, such as resnet50",
        )
    return layers[-1]


def _in_words(preset: Any) -> str:
    """Return torchvision's preprocessing in words, with every number in it."""
    return (
        f"uint8 RGB; shorter side to {preset.resize_size[0]} ({preset.interpolation.value}, "
        f"antialias {preset.antialias}); middle {preset.crop_size[0]} x {preset.crop_size[0]}; "
        f"to [0, 1], minus {preset.mean}, by {preset.std}"
    )


def _models() -> Any:
    from torchvision import models  # type: ignore[import-untyped]

    return models
