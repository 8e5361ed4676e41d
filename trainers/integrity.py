"""Hashes that go with what is kept, and are checked whenever it is read again.

Disks, networks and memory flip bits that no error reports; a changed pixel or metric then is a wrong
number. One form for each kind of file: JSON holds the hash of its other keys, lines end with the hash
of those before, safetensors hold the hash of their tensors in the metadata, a raw array is followed by
the hash of its bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from .disk import safetensors_file, writing

T = TypeVar("T")

KEY = "sha256"
"""Of the hash, in JSON and in the metadata of safetensors."""
DESCRIPTION = "description"
"""Of what is said about arrays, in the metadata of safetensors."""
DIGEST_BYTES = hashlib.sha256().digest_size


class Altered(Exception):
    """A file does not hold what was written to it."""


def read_twice(read: Callable[[], T]) -> T:
    """Return what `read` returns, at the second try if the first one is altered: one read may be bad.

    Raises:
        Altered: the second is, too.
    """
    try:
        return read()
    except Altered:
        return read()


def seal(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return a JSON object with the hash of its content under `sha256`."""
    as_read: dict[str, Any] = json.loads(json.dumps(content))
    return {**as_read, KEY: _json_hash(as_read)}


def unseal(text: str) -> dict[str, Any]:
    """Return what was sealed, from its JSON text.

    Raises:
        Altered: not JSON, or not what was sealed.
    """
    try:
        content = json.loads(text)
        expected = content.pop(KEY)
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise Altered(type(error).__name__) from error
    if expected != _json_hash(content):
        raise Altered("its hash does not match")
    return dict(content)


def seal_text(text: str) -> str:
    """Return a text with a last line that holds its hash."""
    return f"{text}\n{hashlib.sha256(text.encode()).hexdigest()}"


def unseal_text(text: str) -> str:
    """Return what was sealed.

    Raises:
        Altered: not what was sealed.
    """
    content, _, expected = text.rpartition("\n")
    if expected != hashlib.sha256(content.encode()).hexdigest():
        raise Altered("its hash does not match")
    return content


def save_arrays(
    arrays: Mapping[str, NDArray[Any]], path: Path, description: Mapping[str, Any] | None = None
) -> None:
    """Write arrays as safetensors, with their hash.

    Args:
        description: a JSON object that is written into the metadata, part of the hash.

    Raises:
        DiskProblem: they cannot be written.
    """
    whole = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    text = "" if description is None else json.dumps(description)
    metadata = {KEY: _arrays_hash(whole, text), **({DESCRIPTION: text} if text else {})}
    with writing(path, sum(array.nbytes for array in whole.values())), safetensors_file(path):
        save_file(whole, path, metadata=metadata)


def load_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Read what `save_arrays` wrote.

    Raises:
        Altered: not safetensors, or not what was written.
    """
    return load_described_arrays(path)[0]


def load_described_arrays(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Read what `save_arrays` wrote, and its description; empty where it has none.

    Raises:
        Altered: not safetensors, or not what was written.
    """
    try:
        with safe_open(path, framework="np") as reader:
            arrays = {name: reader.get_tensor(name) for name in reader.keys()}  # noqa: SIM118
            metadata = reader.metadata() or {}
    except (SafetensorError, OSError, ValueError, TypeError, KeyError) as error:
        raise Altered(type(error).__name__) from error
    text = metadata.get(DESCRIPTION, "")
    if metadata.get(KEY) != _arrays_hash(arrays, text):
        raise Altered("its hash does not match")
    description: dict[str, Any] = json.loads(text) if text else {}
    return arrays, description


def _json_hash(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _arrays_hash(arrays: Mapping[str, NDArray[Any]], description: str) -> str:
    digest = hashlib.sha256(description.encode())
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(repr((name, array.dtype.str, array.shape)).encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
