"""The checkpoint format: full fp32 tensors by parameter in safetensors, and a manifest, last.

A checkpoint is a folder. It depends on neither world size nor ZeRO stage, and reading it executes
nothing. It exists when `manifest.json` exists; the manifest names every file with its size and hash.

    shard-0.safetensors ...      tensors named `<kind>/<parameter>`, kind one of KINDS
    averages-0.safetensors ...   those of the averages of `optimizer.ema_profiles`, if any
    manifest.json                format, images seen, config, tensors -> file, files -> size, sha256

The averages have files of their own, since they stay in the store when the rest of an old checkpoint goes.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from . import format_4
from .checkpoint_names import MANIFEST
from .data.identity import DataIdentity
from .errors import CheckpointProblem
from .integrity import KEY, Altered, seal, unseal
from .processes import AnyProcess
from .whole_files import whole_file

SAFE_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
"""Of a file in the folder itself: no separator, no leading dot."""
EMA = "ema"
"""The average of a half-life, which images are generated with unless another is asked for."""
KINDS = ("weights", "exp_avg", "exp_avg_sq", EMA)
"""Of the tensors in every checkpoint; `kinds` adds those of the profiles."""
PROFILE = "ema_"
PASS_OVER = (
    "type its `whipray train` again, which passes over this checkpoint and trains the rest again, or "
    "restore the folder from a copy"
)
HASHED_AT_ONCE = 8
"""Files of a checkpoint, each by a thread."""
FORMAT = 5
"""Raise it when a checkpoint could be misread: another layout, other keys in the manifest or in the
config that it holds, other names of parameters, or other numbers under the same name."""


class File(BaseModel):
    """One file of a checkpoint."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    bytes: int
    sha256: str


class Manifest(BaseModel):
    """The contents of a checkpoint."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    format: int = FORMAT
    images_seen: int
    optimizer_steps: int
    config: dict[str, Any]
    """The whole experiment."""
    process: AnyProcess
    """The noise process as it was trained, with what was measured on the images."""
    image_shape: tuple[int, int, int]
    """(C, H, W)."""
    class_names: list[str]
    class_counts: list[int]
    """Training images of each class."""
    train_fingerprint: str
    """`PackedImages.fingerprint` of the training images."""
    pretrained: str | None = None
    """SHA-256 of the weights that the training started from, if any."""
    next_loss: float
    """The objective on the next global batch, dropout off; a resumed run must reproduce it."""
    state_norms: dict[str, float]
    """L2 norm of each kind of tensor over all parameters, computed in float64."""
    tensors: dict[str, str]
    """`<kind>/<parameter>` -> file name."""
    files: dict[str, File]

    @property
    def data(self) -> DataIdentity:
        """What was trained on."""
        counts = tuple(self.class_counts)
        return DataIdentity(
            tuple(self.class_names), counts, self.image_shape, self.train_fingerprint
        )

    @property
    def profiles(self) -> tuple[float, ...]:
        """The widths of the power-function averages in it."""
        found = dict.fromkeys(name.partition("/")[0] for name in self.tensors)
        return tuple(
            float(kind.removeprefix(PROFILE)) for kind in found if kind.startswith(PROFILE)
        )

    def averages(self) -> Manifest | None:
        """Return the description of the power-function averages alone, None where there are none."""
        tensors = {name: file for name, file in self.tensors.items() if name.startswith(PROFILE)}
        norms = {kind: n for kind, n in self.state_norms.items() if kind.startswith(PROFILE)}
        files = {name: file for name, file in self.files.items() if name in tensors.values()}
        changes = {"tensors": tensors, "files": files, "state_norms": norms}
        return self.model_copy(update=changes) if tensors else None

    def content_hash(self) -> str:
        """Return a name for the content: 16 hex digits over the files' hashes."""
        lines = sorted(f"{name}:{file.sha256}" for name, file in self.files.items())
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def profile_kind(width: float) -> str:
    """Return the kind of the tensors of a profile of this width."""
    return f"{PROFILE}{width:g}"


def kinds(profiles: Iterable[float] = ()) -> tuple[str, ...]:
    """Return the kinds of tensors in a checkpoint of a run that keeps averages of these widths."""
    return (*KINDS, *map(profile_kind, profiles))


def file_of_rank(kind: str, rank: int) -> str:
    """Return the file with a worker's tensors of a kind."""
    return f"{'averages' if kind.startswith(PROFILE) else 'shard'}-{rank}.safetensors"


def describe(path: Path) -> File:
    """Return size and hash of one file."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return File(bytes=path.stat().st_size, sha256=digest.hexdigest())


def manifest_text(manifest: Manifest) -> str:
    """Return the text of a manifest, with a hash of itself."""
    return json.dumps(seal(json.loads(manifest.model_dump_json())), indent=1)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest atomically."""
    with whole_file(folder / MANIFEST) as stream:
        stream.write(manifest_text(manifest).encode())


def parse_manifest(text: str, where: str) -> Manifest:
    """Read a manifest's text; `where` names it in the error.

    Raises:
        CheckpointProblem: not a manifest, of another format, naming a file elsewhere, or altered.
    """
    try:
        content = json.loads(text)
        stored = content.get("format")
        if stored == 4:
            unseal(text)  # first, so that a damaged file is not taken for an old one
            config = format_4.experiment_of(content["config"])
            content |= {"format": FORMAT, "config": config, "process": config["process"]}
        elif stored != FORMAT:
            raise CheckpointProblem(
                f"{where}: checkpoint format {stored}, this version reads {FORMAT}",
                "use the version of whipray that wrote it, or start a new run under another name",
            )
        content.pop(KEY, None)
        manifest = Manifest.model_validate_json(json.dumps(content))
    except Altered as error:
        raise _altered(where, error) from error
    except (ValidationError, json.JSONDecodeError, AttributeError, KeyError, TypeError) as error:
        raise CheckpointProblem(
            f"{where}: not a checkpoint manifest ({type(error).__name__})",
            PASS_OVER,
        ) from error
    for file in (*manifest.files, *manifest.tensors.values()):
        if not SAFE_FILE_NAME.fullmatch(file):
            raise CheckpointProblem(
                f"{where}: names the file {file!r}, outside the checkpoint",
                PASS_OVER,
            )
    try:
        unseal(text)
    except Altered as error:
        raise _altered(where, error) from error
    return manifest


def _altered(where: str, error: Altered) -> CheckpointProblem:
    return CheckpointProblem(f"{where}: altered since it was written ({error})", PASS_OVER)


def verify(folder: Path, where: str = "") -> Manifest:
    """Read a checkpoint's manifest and check every file against it.

    Args:
        where: address that messages name in place of `folder`, of what it is a copy of.

    Raises:
        CheckpointProblem: no manifest, or a file that is missing, cut short or altered.
    """
    path, where = folder / MANIFEST, where or str(folder)
    if not path.exists():
        raise CheckpointProblem(
            f"{where}: no {MANIFEST}, so the checkpoint was never finished",
            PASS_OVER,
        )
    manifest = parse_manifest(path.read_text(), f"{where}/{MANIFEST}")
    for name, expected in manifest.files.items():
        file = folder / name
        if not file.exists():
            raise CheckpointProblem(f"{where}/{name}: missing", PASS_OVER)
        if file.stat().st_size != expected.bytes:
            raise CheckpointProblem(
                f"{where}/{name}: {file.stat().st_size} bytes, the manifest says {expected.bytes}",
                PASS_OVER,
            )
    with ThreadPoolExecutor(HASHED_AT_ONCE) as pool:
        described = pool.map(describe, [folder / name for name in manifest.files])
        for (name, expected), found in zip(manifest.files.items(), described, strict=True):
            if found.sha256 != expected.sha256:
                raise CheckpointProblem(
                    f"{where}/{name}: its content does not match the manifest",
                    PASS_OVER,
                )
    return manifest


def read_tensors(folder: Path, manifest: Manifest, kind: str) -> dict[str, Tensor]:
    """Read all tensors of one kind, by parameter name, fp32 on the CPU.

    Raises:
        CheckpointProblem: a file that is not safetensors, or lacks a tensor.
    """
    by_file: dict[str, list[str]] = {}
    for tensor, file in manifest.tensors.items():
        if tensor.startswith(f"{kind}/"):
            by_file.setdefault(file, []).append(tensor)
    tensors: dict[str, Tensor] = {}
    for file, names in by_file.items():
        try:
            with safe_open(folder / file, framework="pt") as reader:
                for name in names:
                    tensors[name.removeprefix(f"{kind}/")] = reader.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise CheckpointProblem(
                f"{folder / file}: cannot be read ({error})", PASS_OVER
            ) from error
    return tensors


def check_architecture(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Compare names and shapes of a checkpoint's weights with a model's.

    Raises:
        CheckpointProblem: naming the first parameter that differs.
    """
    for name in sorted(set(weights) | set(expected)):
        if name not in weights or name not in expected:
            owner = "model" if name in expected else "checkpoint"
            raise CheckpointProblem(
                f"parameter {name} is only in the {owner}: another architecture",
                "use the model config that the checkpoint's manifest holds",
            )
        if weights[name].shape != expected[name].shape:
            raise CheckpointProblem(
                f"parameter {name} is {tuple(weights[name].shape)} in the checkpoint and "
                f"{tuple(expected[name].shape)} in the model",
                "use the model config that the checkpoint's manifest holds",
            )
