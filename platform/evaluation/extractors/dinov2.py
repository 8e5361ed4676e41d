"""DINOv2, a vision transformer trained without labels: features for Fréchet distances.

Oquab et al., "DINOv2: Learning Robust Visual Features without Supervision", TMLR 2024. Stein et al.,
"Exposing flaws of generative model evaluation metrics and their unfair treatment of diffusion models",
NeurIPS 2023, find that distances in these features (ViT-L/14) follow people's judgement of images more
closely than those in Inception's. The network is the library transformers'.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....trainers.errors import CheckpointProblem, UsageProblem
from .base import ExtractorInfo, OnPhase
from .config import Dinov2Config
from .network import NetworkExtractor, as_rgb

NAME = "dinov2"
CONFIG, WEIGHTS = "config.json", "model.safetensors"
SIZE = 224
MEAN = (0.485, 0.456, 0.406)
DEVIATION = (0.229, 0.224, 0.225)
"""Of ImageNet's red, green and blue in [0, 1]."""
PREPROCESSING = (
    f"uint8 RGB; bicubic with antialiasing to {SIZE} x {SIZE}; cut to 0 to 255; to [0, 1], minus "
    f"{MEAN}, by {DEVIATION}"
)
LAYER = "class token after the last normalisation"
TOGETHER = 32
"""Images that go through the network at a time: 256 would need 3 GB."""
PUT = f"put a folder with {CONFIG} and {WEIGHTS} on this machine, and set evaluation.features.model to it"
HEAD = "classifier."
"""Names that weights of a whole classifier have besides; it is not used."""


class Dinov2(NetworkExtractor):
    """Features (N, d) of the class token, 1024 of ViT-L/14; no logits (N, 0): it knows no classes."""

    @classmethod
    def open(
        cls, config: Dinov2Config, device: torch.device, on_phase: OnPhase = lambda _line: None
    ) -> Dinov2:
        """Open the network with its weights: a folder's, the hub's cache's, or fetched from the hub.

        Raises:
            UsageProblem: transformers is not installed.
            CheckpointProblem: no weights, or not those of such a network.
        """
        check_installed()
        folder = _folder(config) or _cached(config.model) or _fetch(config.model, on_phase)
        _check_kind(folder)
        sha256 = _sha256(folder / WEIGHTS)
        network = _network(folder)
        return cls(network, _info(network, sha256), 0, device)

    def _forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        parts = images.split(TOGETHER)
        features = torch.cat([self._network(_prepared(part)).pooler_output for part in parts])
        return features, features.new_empty((len(features), 0))


def check_installed() -> None:
    """Check that transformers is installed, without importing it, which takes seconds.

    Raises:
        UsageProblem: it is not.
    """
    try:
        missing = find_spec("transformers") is None
    except ValueError:  # a module that says nothing of where it comes from
        missing = True
    if missing:
        raise UsageProblem(
            "features by DINOv2 need the library transformers, which is not installed",
            "pip install 'whipray[dinov2]', or use another evaluation.features.extractor",
        )


def has_weights(config: Dinov2Config) -> bool:
    """Return whether the weights are on this machine, in a folder or in the hub's cache.

    Raises:
        CheckpointProblem: a path to no folder.
    """
    return (_folder(config) or _cached(config.model)) is not None


def _folder(config: Dinov2Config) -> Path | None:
    if config.folder is not None and not config.folder.is_dir():
        raise CheckpointProblem(
            f"{config.model}: no such folder, and no OWNER/NAME of the hub", PUT
        )
    return config.folder


def _cached(model: str) -> Path | None:
    """Return the folder of a name's files in the hub's cache; None where one is missing."""
    from huggingface_hub import try_to_load_from_cache

    cached = [try_to_load_from_cache(model, file) for file in (CONFIG, WEIGHTS)]
    paths = [Path(path) for path in cached if isinstance(path, str)]
    return paths[0].parent if len(paths) == len(cached) else None


def _fetch(model: str, on_phase: OnPhase) -> Path:
    """Fetch the two files from the hub into its cache; return their folder."""
    from huggingface_hub import hf_hub_download

    on_phase(f"fetching {model} from the hub")
    try:
        with _quiet():
            paths = [Path(hf_hub_download(model, file)) for file in (CONFIG, WEIGHTS)]
    except Exception as error:  # whatever its HTTP library makes of a network
        reason = " ".join(str(error.__cause__ or error).split())[:120] or type(error).__name__
        raise CheckpointProblem(
            f"{model}: no such folder, and not fetched from the hub ({reason})", PUT
        ) from error
    return paths[0].parent


def _check_kind(folder: Path) -> None:
    """Check that the settings are of a DINOv2: the library would take those of another network."""
    path = folder / CONFIG
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise CheckpointProblem(f"{path}: cannot be read ({reason})", PUT) from error
    kind = settings.get("model_type") if isinstance(settings, dict) else None
    if kind != "dinov2":
        raise CheckpointProblem(f"{path}: a model of type {kind}, not dinov2", PUT)


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise CheckpointProblem(f"{path}: cannot be read ({reason})", PUT) from error


def _network(folder: Path) -> nn.Module:
    """Return the network; nothing but tensors and settings is read, and nothing is fetched."""
    path = folder / WEIGHTS
    try:
        with _quiet(), torch.random.fork_rng(devices=[]):
            from transformers import Dinov2Model

            network, report = Dinov2Model.from_pretrained(
                folder,
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                dtype=torch.float32,
                output_loading_info=True,
            )
    except Exception as error:  # whatever the library makes of damaged files
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise CheckpointProblem(f"{path}: not weights of DINOv2: {reason}", PUT) from error
    report["unexpected_keys"] = [k for k in report["unexpected_keys"] if not k.startswith(HEAD)]
    for problem in ("missing", "mismatched", "unexpected"):
        if keys := report[f"{problem}_keys"]:
            first = min(map(str, keys))
            raise CheckpointProblem(f"{path}: not weights of DINOv2: {first} is {problem}", PUT)
    module: nn.Module = network
    return module


def _info(network: Any, sha256: str) -> ExtractorInfo:
    about = network.config
    # What changes the values and neither its names nor its shapes show.
    unseen = f"{about.num_attention_heads} {about.hidden_act} {about.layer_norm_eps}"
    identity = f"{NAME} {sha256} {unseen} {LAYER} {PREPROCESSING}"
    patch = about.patch_size
    return ExtractorInfo(
        name=NAME,
        hash=hashlib.sha256(identity.encode()).hexdigest()[:16],
        dimensions=about.hidden_size,
        preprocessing=f"{PREPROCESSING}; grey images three times",
        class_names=None,
        facts={
            "weights_sha256": sha256,
            "layer": LAYER,
            "network": f"{about.num_hidden_layers} layers, patches of {patch} pixels",
        },
    )


def _prepared(images: Tensor) -> Tensor:
    """Return the network's input (n, 3, 224, 224) float32 of uint8 images (n, 1 or 3, H, W)."""
    resized = F.interpolate(as_rgb(images).float(), (SIZE, SIZE), mode="bicubic", antialias=True)
    mean, deviation = (resized.new_tensor(of)[:, None, None] for of in (MEAN, DEVIATION))
    return (resized.clamp(0, 255) / 255 - mean) / deviation


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out both libraries' progress bars and lines of their logs, then set them as they were."""
    from huggingface_hub.utils import logging as hub_logging
    from transformers.utils import logging

    levels = [(of, of.get_verbosity()) for of in (logging, hub_logging)]
    shows = logging.is_progress_bar_enabled()
    for of, _ in levels:
        of.set_verbosity_error()
    logging.disable_progress_bar()  # the hub's too
    try:
        yield
    finally:
        for of, level in levels:
            of.set_verbosity(level)
        if shows:
            logging.enable_progress_bar()
