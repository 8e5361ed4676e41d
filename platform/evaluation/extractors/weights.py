"""Files of published weights: fetched, checked, and read without running what is in them."""

from __future__ import annotations

import hashlib
import http.client
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.request import urlopen

import torch
from torch import Tensor

from ....trainers.errors import CheckpointProblem
from ....trainers.whole_files import whole_file
from .base import OnPhase

TIMEOUT_S = 30.0
BLOCK = 1 << 20
FETCH_AGAIN = "delete it, so that it is fetched again, or give the right file"


@dataclass(frozen=True)
class Weights:
    """The contents of a file."""

    tensors: dict[str, Tensor]
    """As saved, with the modules' versions that PyTorch adds as an attribute."""
    sha256: str
    """Of the file, 64 hex digits."""


def read_weights(path: Path, sha256: str = "", fix: str = FETCH_AGAIN) -> Weights:
    """Read a state dict that `torch.save` wrote; nothing that it contains is executed.

    Args:
        sha256: first digits that the file's SHA-256 must have; checked before anything is read.
        fix: what to do about a file of another hash.

    Raises:
        CheckpointProblem: no such file, another hash, or not a dict of tensors.
    """
    try:
        with path.open("rb") as stream:  # one open file: what is hashed is what is read
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            if not digest.startswith(sha256):
                raise CheckpointProblem(
                    f"{path}: its SHA-256 begins with {digest[: max(8, len(sha256))]}, not {sha256}",
                    fix,
                )
            stream.seek(0)
            return Weights(_tensors(stream, path), digest)
    except OSError as error:
        raise CheckpointProblem(
            f"{path}: cannot be read ({error.strerror or type(error).__name__})",
            "check the path of the weights' file and its permissions",
        ) from error


@contextmanager
def fitting(path: Path, network: str) -> Iterator[None]:
    """Translate the errors of loading a file's weights into a network.

    Raises:
        CheckpointProblem: a name or a shape that differs; the first is named.
    """
    try:
        yield
    except (RuntimeError, ValueError) as error:
        lines = [line.strip() for line in str(error).splitlines()]
        raise CheckpointProblem(
            f"{path}: not weights of {network}: {lines[min(1, len(lines) - 1)][:120]}",
            "give the weights of this very network",
        ) from error


def fetch(url: str, target: Path, sha256: str, fix: str, on_phase: OnPhase) -> None:
    """Download a file, which appears at `target` whole and with the right hash, or not at all.

    Not `torch.hub.download_url_to_file`: in PyTorch 2.15 it has no timeout, and follows a redirect to
    an address without https.

    Args:
        sha256: first digits of its SHA-256.
        fix: what to do without a network.

    Raises:
        CheckpointProblem: no answer, no https all the way, or another file than expected.
    """
    on_phase(f"fetching {url}")
    digest = hashlib.sha256()
    try:
        with _open(url) as source, whole_file(target) as copy:
            while block := source.read(BLOCK):
                digest.update(block)
                copy.write(block)
            if not digest.hexdigest().startswith(sha256):
                raise ValueError(f"its SHA-256 begins with {digest.hexdigest()[:8]}, not {sha256}")
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = " ".join(str(getattr(error, "reason", error)).split()) or type(error).__name__
        raise CheckpointProblem(f"cannot fetch {url} ({reason})", fix) from error


def _open(url: str) -> http.client.HTTPResponse:
    if not url.startswith("https://"):
        raise ValueError("not an https address")
    response: http.client.HTTPResponse = urlopen(url, timeout=TIMEOUT_S)
    if not response.url.startswith("https://"):
        response.close()
        raise ValueError("it leads to an address that is not https")
    return response


def _tensors(stream: IO[bytes], path: Path) -> dict[str, Tensor]:
    try:
        content: Any = torch.load(stream, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a parser of pickles makes of any bytes
        raise CheckpointProblem(
            f"{path}: not a file of weights alone ({type(error).__name__})",
            "give a state dict saved with torch.save; nothing in the file was executed",
        ) from error
    if not isinstance(content, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()
    ):
        raise CheckpointProblem(
            f"{path}: not a dict of names and tensors ({type(content).__name__})",
            "save model.state_dict() alone",
        )
    return content
