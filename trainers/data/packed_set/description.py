"""What a packed set says of itself: `packed.json`, sealed and written last, and the index of its rows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import DataProblem
from ...integrity import Altered, load_arrays, save_arrays, seal, unseal
from ..files import Files, MissingFile
from ..hold_out import HoldOut
from ..packed import Indices, Pixels
from ..report import Note
from ..validation import Validation

FORMAT = 1
"""Of `packed.json`, of the index and of the shards; raise it when one of them changes its meaning."""
DESCRIPTION, INDEX, SHARDS = "packed.json", "index.safetensors", "shards"
SHARD_BYTES = 128 << 20
"""At most, of one shard: few enough for one request each, and small enough to be fetched again."""
PACK_AGAIN = "pack the set again (`whipray data pack`), which makes what is missing or damaged anew"


@dataclass(frozen=True)
class Shard:
    """A file of raw rows (n, C, H, W) uint8, named by its content.

    Args:
        file: its name in the set.
        first: its first row.
        rows: how many it has.
        sha256: of its bytes, hex.
    """

    file: str
    first: int
    rows: int
    sha256: str


@dataclass(frozen=True, eq=False)
class Description:
    """A packed set without its rows.

    Args:
        image_shape: (channels, height, width).
        class_names: by id.
        train: first row of the training images, and the row after their last.
        reference: likewise, of the images to compare with; the two overlap where images are lent.
        train_fingerprint: `PackedImages.fingerprint` of the training images.
        reference_fingerprint: likewise.
        shards: in the order of their rows.
        notes: what `Splits.report` says.
        available: as in `Splits`, like those that follow.
        source: of what it was made, in words.
        pillow: version of Pillow that decoded it.
        index_sha256: of the index's bytes, hex.
    """

    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    train: tuple[int, int]
    reference: tuple[int, int]
    train_fingerprint: str
    reference_fingerprint: str
    shards: tuple[Shard, ...]
    notes: tuple[Note, ...] = ()
    available: int | None = None
    hold_out: HoldOut | None = None
    validation: Validation | None = None
    borrowed: tuple[int, ...] = ()
    source: str = ""
    pillow: str = ""
    index_sha256: str = ""

    @property
    def rows(self) -> int:
        """Number of rows."""
        return sum(shard.rows for shard in self.shards)

    @property
    def bytes(self) -> int:
        """Size of all rows."""
        return self.rows * int(np.prod(self.image_shape))

    @property
    def identity(self) -> str:
        """16 hex digits over the rows alone: two sets with the same have one copy on a machine."""
        content = repr((FORMAT, self.image_shape, [(s.rows, s.sha256) for s in self.shards]))
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON types."""
        plain = {field.name: getattr(self, field.name) for field in fields(self)}
        plain["shards"] = [asdict(shard) for shard in self.shards]
        plain["notes"] = [asdict(note) for note in self.notes]
        for name in ("hold_out", "validation"):
            config = plain[name]
            plain[name] = None if config is None else config.model_dump(mode="json")
        return {"format": FORMAT, **plain}

    @staticmethod
    def from_json(content: dict[str, Any]) -> Description:
        """Return what `as_json` gave."""
        given = {name: value for name, value in content.items() if name != "format"}
        for name in ("image_shape", "class_names", "train", "reference", "borrowed"):
            given[name] = tuple(given[name])
        given["shards"] = tuple(Shard(**shard) for shard in given["shards"])
        given["notes"] = tuple(Note(**note) for note in given["notes"])
        for name, kind in (("hold_out", HoldOut), ("validation", Validation)):
            if given[name] is not None:
                given[name] = kind.model_validate(given[name])
        return Description(**given)


@dataclass(frozen=True, eq=False)
class Index:
    """What is known of each row.

    Args:
        labels: (N,) int64.
        hashes: (N,) uint64, of the pixels of each, as `DecodedImages` has them.
        treatments: (N,) uint8, likewise.
        names: what messages call each.
    """

    labels: Indices
    hashes: NDArray[np.uint64]
    treatments: Pixels
    names: Sequence[str]


def shard_rows(image_shape: tuple[int, int, int]) -> int:
    """Return the rows of each shard of a set but its last."""
    return max(1, SHARD_BYTES // int(np.prod(image_shape)))


def encode_shard(pixels: Pixels) -> tuple[str, bytes]:
    """Return the name and the bytes of a shard.

    Args:
        pixels: (n, C, H, W) uint8.
    """
    content = np.ascontiguousarray(pixels).tobytes()
    return shard_name(hashlib.sha256(content).hexdigest()), content


def shard_name(sha256: str) -> str:
    """Return the name of a shard by the hash of its bytes, hex."""
    return f"{SHARDS}/{sha256[:16]}.bin"


def write_index(files: Files, description: Description, index: Index) -> None:
    """Complete a set whose shards are written: its index, then its description, by which it is whole.

    Args:
        description: `index_sha256` is filled in here.

    Raises:
        DataProblem: it cannot be written.
    """
    encoded = [name.encode("utf-8", "surrogateescape") for name in index.names]
    with TemporaryDirectory() as folder:
        file = Path(folder) / INDEX
        save_arrays(
            {
                "labels": index.labels,
                "hashes": index.hashes,
                "treatments": index.treatments,
                "names": np.frombuffer(b"".join(encoded), np.uint8),
                "ends": np.cumsum([len(name) for name in encoded], dtype=np.int64),
            },
            file,
        )
        content = file.read_bytes()
    files.write(INDEX, content)
    digest = hashlib.sha256(content).hexdigest()
    whole = {**description.as_json(), "index_sha256": digest}
    files.write(DESCRIPTION, json.dumps(seal(whole), indent=1).encode())


def read_description(files: Files) -> Description:
    """Return what a packed set says of itself.

    Raises:
        DataProblem: no whole set, or one of another format.
    """
    where = files.uri_of(DESCRIPTION)
    try:
        content = unseal(files.read(DESCRIPTION).decode())
    except MissingFile as error:
        raise DataProblem(
            f"{where}: missing, so this is no whole packed set",
            "correct data.path; or give the same `whipray data pack` again, which completes it",
        ) from error
    except (Altered, UnicodeDecodeError) as error:
        raise DataProblem(f"{where}: damaged", PACK_AGAIN) from error
    if content.get("format") != FORMAT:
        raise DataProblem(
            f"{where}: format {content.get('format')}, not {FORMAT}",
            "pack the set again with this version of Whipray, or use the version that packed it",
        )
    return Description.from_json(content)


def names_of(file: Path) -> list[str]:
    """Return the names of all rows, from the index in a file of this machine."""
    arrays = load_arrays(file)
    text, ends = arrays["names"].tobytes(), arrays["ends"].tolist()
    return [
        text[begin:end].decode("utf-8", "surrogateescape")
        for begin, end in zip([0, *ends[:-1]], ends, strict=True)
    ]
