"""Packing of a data set: its images decoded once, into shards that every machine fetches."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from ...trainers.data import DataConfig
from ...trainers.data.decoded import DecodedImages
from ...trainers.data.encoded_splits import EncodedSplits
from ...trainers.data.files import Files, LocalFiles, MissingFile
from ...trainers.data.packed import Pixels, fingerprint_of
from ...trainers.data.packed_set import Description, Index, Shard, shard_rows, write_index
from ...trainers.data.packed_set.description import DESCRIPTION, INDEX, read_description
from ...trainers.disk import DiskProblem
from ...trainers.errors import DataProblem, UsageProblem
from ...trainers.integrity import Altered, seal, unseal
from ..storage.config import StorageConfig
from .endpoint import environment_of
from .pack_tasks import PARTS, Finished, PackTask, make_shard, read_finished
from .pack_workers import run_tasks
from .source_state import check_packable, locations, source_state

SOURCE = "source.json"
"""In a packed set: of which data it is made, or was begun to be made."""
SHARDS_AT_LEAST = 256
"""Shards that a set is divided into, where its images are enough: so many processes can work on it."""
LEAST_ROWS = 256
"""Of a shard, where the set is small."""
READ_AHEAD = 4
"""Shards that are read at a time for the fingerprints."""


@dataclass(frozen=True)
class Packed:
    """A packed set and how it came to be.

    Args:
        description: of the set.
        made: number of shards that were made; 0 where the set was whole already.
        found: shards that an earlier command had finished.
    """

    description: Description
    made: int = 0
    found: int = 0


@dataclass
class OnPacking:
    """Callbacks of a packing.

    Args:
        on_phase: takes a line that says what is done.
        on_share: takes the share of the images that are decoded, in [0, 1].
    """

    on_phase: Callable[[str], None] = field(default=lambda _line: None)
    on_share: Callable[[float], None] = field(default=lambda _share: None)


def pack(
    data: DataConfig,
    to: Files,
    cache: Path,
    storage: StorageConfig,
    on: OnPacking | None = None,
    state: str | None = None,
) -> Packed:
    """Write a packed set of a source, or what is missing of it.

    What was finished when an earlier command ended is found again by the hash of what it is made of. Nothing is
    done where the set is whole and every shard is what was written; a damaged set is made again.

    Args:
        to: folder or prefix of the set.
        cache: folder of what is known of local files.
        storage: whose endpoint and region hold for buckets.
        state: what `source_state` says of the source now, where it is known.

    Raises:
        UsageProblem: a source without encoded images, or a set among them.
        DataProblem: images that cannot be used, or a set of other data at the same address.
        DiskProblem: too little room for the set.
    """
    on = on or OnPacking()
    config = check_packable(data)
    check_apart(data, to)
    on.on_phase("listing images")
    state = state or source_state(data, storage.endpoint_url)
    if (whole := find_whole(to, state)) is not None:
        on.on_phase("checking the set")
        if _is_intact(to, whole):
            return Packed(whole)
    on.on_phase("listing images, and reading them where some are held out")
    splits = config.prepare(cache)
    check_room(to, splits)
    to.write(SOURCE, json.dumps(seal({"state": state, "source": in_words(data)})).encode())
    tasks = list(divide(splits))
    present = to.list(PARTS)
    waiting = [task for task in tasks if task.part not in present]
    total = len(splits)
    done = total - sum(map(len, waiting))

    def on_done(task: PackTask) -> None:
        nonlocal done
        done += len(task)
        on.on_phase(f"decoding: {done:,} of {total:,} images")
        on.on_share(done / total)

    on.on_phase(f"decoding: {done:,} of {total:,} images")
    environment = environment_of(storage)
    run_tasks(partial(make_shard, to, environment), waiting, on_done)
    on.on_phase("completing the set")
    finished = _collect(to, environment, tasks)
    description = _complete(data, to, splits, tasks, finished)
    if source_state(data, storage.endpoint_url) != state:
        to.delete(DESCRIPTION)
        raise DataProblem(
            f"{in_words(data)}: images were changed while they were packed",
            "give the same command again when that is over",
        )
    with ThreadPoolExecutor(READ_AHEAD) as pool:
        for _ in pool.map(to.delete, [task.part for task in tasks]):
            pass
    return Packed(description, len(waiting), len(tasks) - len(waiting))


def find_whole(to: Files, state: str) -> Description | None:
    """Return the whole set of a source at an address; None where there is none yet.

    Args:
        state: what `source_state` says of the source.

    Raises:
        DataProblem: a set of other data.
    """
    try:
        about = unseal(to.read(SOURCE).decode())
    except (MissingFile, Altered, UnicodeDecodeError):
        about = None
    try:
        description = read_description(to)
    except DataProblem:
        if DESCRIPTION in to.list():
            raise
        return None
    if about is None or about.get("state") != state:
        made_of = f", made of {description.source}" if description.source else ""
        raise DataProblem(
            f"{to.uri} holds a packed set of other images, or of these as they were before{made_of}",
            "give another folder or prefix: runs may be reading this one",
        )
    return description


def _is_intact(to: Files, description: Description) -> bool:
    """Return whether all files of a whole set are there and are what was written."""
    wanted = {shard.file: shard.sha256 for shard in description.shards}
    wanted[INDEX] = description.index_sha256

    def is_right(file: str) -> bool:
        try:
            return hashlib.sha256(to.read(file)).hexdigest() == wanted[file]
        except MissingFile:
            return False

    with ThreadPoolExecutor(READ_AHEAD) as pool:
        return all(pool.map(is_right, wanted))


def divide(splits: EncodedSplits) -> Iterator[PackTask]:
    """Yield the shards of a set; their sizes depend on the number of rows alone."""
    total = len(splits)
    rows = min(shard_rows(splits.image_shape), max(LEAST_ROWS, -(-total // SHARDS_AT_LEAST)))
    for first in range(0, total, rows):
        images = tuple(splits.rows(first, min(first + rows, total)))
        yield PackTask.of(first, images, splits.image_shape)


def in_words(data: DataConfig) -> str:
    """Return which source it is, for people."""
    return f"{data.source} {', '.join(map(str, locations(data)))}"


def set_bytes(splits: EncodedSplits) -> int:
    """Return the size of the rows of a packed set."""
    return len(splits) * int(np.prod(splits.image_shape))


def check_apart(data: DataConfig, to: Files) -> None:
    """Raise where the set would be among the images: it would change what it is made of."""
    for location in locations(data):
        if isinstance(location, Path) and isinstance(to, LocalFiles):
            images = location.expanduser().resolve()
            is_inside = to.folder.resolve().is_relative_to(images)
        else:
            is_inside = f"{to.uri}/".startswith(f"{location}/")
        if is_inside:
            raise UsageProblem(
                f"{to.uri} is in {location}, where the images are: the packed set would change its own source",
                "give a folder or prefix outside of the images",
            )


def check_room(to: Files, splits: EncodedSplits) -> None:
    """Raise before anything is decoded where the disk has no room for the set."""
    if not isinstance(to, LocalFiles):
        return
    folder = to.folder.absolute()
    existing = next(each for each in (folder, *folder.parents) if each.exists())
    present = sum(facts.bytes for facts in to.list().values())
    free, needed = shutil.disk_usage(existing).free, set_bytes(splits) - present
    if free < needed:
        raise DiskProblem(
            f"{to.uri}: {free / 1e9:.1f} GB free, and the packed set needs {needed / 1e9:.1f} GB",
            "free space there, or pack into another folder or a bucket",
        )


def _collect(to: Files, environment: dict[str, str], tasks: list[PackTask]) -> list[Finished]:
    """Return what is known of all shards; one whose part is damaged is made again."""

    def read(task: PackTask) -> Finished:
        try:
            return read_finished(to, task)
        except (MissingFile, Altered):
            make_shard(to, environment, task)
            return read_finished(to, task)

    with ThreadPoolExecutor(READ_AHEAD) as pool:
        return list(pool.map(read, tasks))


def _complete(
    data: DataConfig,
    to: Files,
    splits: EncodedSplits,
    tasks: list[PackTask],
    finished: list[Finished],
) -> Description:
    """Write index and description of a set whose shards are there."""
    import PIL

    treatments = np.concatenate([each.treatments for each in finished])
    hashes = np.concatenate([each.hashes for each in finished])
    ends = np.cumsum([len(part.images.labels) for part in splits.parts])[:-1]
    no_pixels = np.empty((0, *splits.image_shape), np.uint8)
    decoded = [
        DecodedImages(no_pixels, *each)
        for each in zip(np.split(treatments, ends), np.split(hashes, ends), strict=True)
    ]
    shards = tuple(
        Shard(each.file, task.first, len(task), each.sha256)
        for task, each in zip(tasks, finished, strict=True)
    )
    labels = splits.labels
    blocks = ((rows.start, rows.stop) for rows in (splits.train, splits.reference))
    train, reference = blocks
    fingerprints = [
        fingerprint_of(
            splits.image_shape,
            labels[first:stop],
            splits.class_names,
            _pixels(to, shards, splits.image_shape, first, stop),
        )
        for first, stop in (train, reference)
    ]
    description = Description(
        image_shape=splits.image_shape,
        class_names=splits.class_names,
        train=train,
        reference=reference,
        train_fingerprint=fingerprints[0],
        reference_fingerprint=fingerprints[1],
        shards=shards,
        notes=splits.report(decoded).notes,
        available=splits.available,
        hold_out=splits.hold_out,
        validation=splits.validation,
        borrowed=splits.borrowed,
        source=in_words(data),
        pillow=PIL.__version__,
    )
    names = [splits.name(row) for row in range(len(splits))]
    write_index(to, description, Index(labels, hashes, treatments, names))
    return read_description(to)


def _pixels(
    to: Files, shards: tuple[Shard, ...], image_shape: tuple[int, int, int], first: int, stop: int
) -> Iterator[Pixels]:
    """Yield a range of rows from the shards, some of which are read ahead; each is checked."""
    wanted = [each for each in shards if each.first < stop and each.first + each.rows > first]

    def read(shard: Shard) -> bytes:
        content = to.read(shard.file)
        if hashlib.sha256(content).hexdigest() != shard.sha256:
            raise DataProblem(
                f"{to.uri_of(shard.file)}: damaged, its SHA-256 is not what was written",
                "check the disk or the store, remove this file, and pack into another folder",
            )
        return content

    with ThreadPoolExecutor(READ_AHEAD) as pool:
        for at in range(0, len(wanted), READ_AHEAD):
            some = wanted[at : at + READ_AHEAD]
            for shard, content in zip(some, pool.map(read, some), strict=True):
                rows = np.frombuffer(content, np.uint8).reshape(shard.rows, *image_shape)
                yield rows[max(0, first - shard.first) : stop - shard.first]
