"""Images in tar archives, as WebDataset has them: KEY.jpg beside KEY.cls or KEY.json, or a class in the key."""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import product
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from ..disk import writing
from ..errors import DataProblem
from ..integrity import Altered, seal, unseal
from ..whole_files import whole_file
from .bucket_files import BucketFile
from .decoding import UNREAD
from .encoded import EncodedImages, Span
from .encoded_config import EncodedConfig
from .encoded_splits import EncodedSplits
from .files import FileFacts, Files
from .folder_scan import SUFFIXES
from .list_files import Listed, number_classes
from .list_lines import LABELS
from .locations import Location
from .packed import Indices
from .parquet_files import find_in_bucket
from .report import LISTED, PATH_SHOWN, listed, raise_together, shown
from .split_names import REFERENCE, TRAIN, split_of

FORMAT = 1
"""Of the lists of members in the cache: raise it when they are written in another way."""
AT_ONCE = 8
"""Archives that are listed at a time."""
BUFFER_BYTES = 8 << 20
"""Of an archive in a bucket that are read at a time: it can only be listed by reading all of it."""
BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")
LABEL_SUFFIXES = (".cls", ".json")

AnyArchive = Path | BucketFile


class TarShards(EncodedConfig):
    """Members of tar archives. The label of KEY.jpg is in KEY.cls or KEY.json, or the folder in KEY is its class."""

    source: Literal["tar"] = "tar"
    path: Location | tuple[Location, ...]
    """An archive, several of them, a folder of archives, or a pattern such as `shards/train-{000..009}.tar`; of
    this machine or s3:// addresses of one bucket. Names with `test` or `val` in them are to compare with."""
    label_key: str | None = None
    """Key of the label in KEY.json. None: `label`, `class` or the like, whichever there is first."""
    class_names: tuple[str, ...] | None = None
    """Names of the classes in the order of their labels; by default their numbers, or the labels
    themselves, sorted, where they are words."""

    def prepare(self, cache: Path) -> EncodedSplits:
        """Return which images are of which split; see `EncodedConfig`."""
        return self.choose(cache, *self.encoded(cache))

    def encoded(
        self, cache: Path
    ) -> tuple[EncodedImages, EncodedImages | None, Sequence[str] | None]:
        """Return training images, those to compare with, and the names of the classes.

        Raises:
            DataProblem: no archive, one that cannot be read, or images without a label.
        """
        paths = find_archives(self.path)
        by_split: dict[str, list[AnyArchive]] = {}
        for path in paths:
            by_split.setdefault(split_of(path) or TRAIN[0], []).append(path)
        train = [p for word in TRAIN for p in by_split.get(word, [])] or paths
        word = next((word for word in REFERENCE if word in by_split), None)
        chosen = [train, by_split[word]] if word and train is not paths else [train]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            lists = [self._listed(archives, cache, pool) for archives in chosen]
        ids, names = number_classes(lists, self.class_names)
        of_bucket = [path for path in paths if isinstance(path, BucketFile)]
        root: Path | Files = of_bucket[0].files if of_bucket else Path()
        facts = {file.name_in_bucket: file.facts for file in of_bucket if file.facts is not None}

        def images(of: Members, labels: Indices) -> EncodedImages:
            return EncodedImages(
                of.spans, labels, of.name, root, facts=facts if of_bucket else None
            )

        encoded = [images(each, labels) for each, labels in zip(lists, ids, strict=True)]
        return encoded[0], encoded[1] if len(encoded) > 1 else None, names

    def _listed(
        self, archives: Sequence[AnyArchive], cache: Path, pool: ThreadPoolExecutor
    ) -> Members:
        every = Members(archives[0])
        problems: list[DataProblem] = []
        more = 0
        for archive, members in zip(
            archives, pool.map(lambda a: _members(a, cache), archives), strict=True
        ):
            for key, (image, start, length) in members["images"].items():
                name = f"{shown(archive)}: {shown(image)}"
                label = self._label(key, members["labels"])
                if label is None:
                    problem = DataProblem(
                        f"{name}: no label: neither {PurePosixPath(key).name}.cls, nor a label in its .json, nor "
                        "a folder in its name",
                        "write KEY.cls beside each KEY.jpg, or name the key of the label by data.label_key",
                    )
                    if len(problems) < LISTED:
                        problems.append(problem)
                    more += len(problems) == LISTED
                    continue
                every.paths.append(name)
                every.labels.append(label)
                every.numbers.append(0)
                file = str(archive) if isinstance(archive, Path) else archive.name_in_bucket
                every.spans.append(Span(file, start, length))
        raise_together(problems, max(0, more - 1))
        if not every.paths:
            raise DataProblem(
                f"{listed([shown(archive) for archive in archives[:2]])}: no image in it",
                "give archives of KEY.jpg (or another image) and KEY.cls",
            )
        return every

    def _label(self, key: str, labels: dict[str, Any]) -> str | None:
        """Return the label of a sample as text; None where there is none."""
        own = labels.get(key, {})
        if ".cls" in own:
            return str(own[".cls"]).strip() or None
        content = own.get(".json")
        if isinstance(content, dict):
            keys = LABELS if self.label_key is None else (self.label_key,)
            for name in keys:
                if (value := content.get(name)) is not None:
                    return str(value)
        return PurePosixPath(key).parent.name or None


@dataclass
class Members(Listed):
    """Images of archives; `paths` are their archives and names."""

    def __post_init__(self) -> None:
        self.spans: list[Span] = []

    def name(self, index: int) -> str:
        """Return what messages call the image at an index: its archive and name."""
        return self.paths[index]


def find_archives(given: str | Path | tuple[str | Path, ...]) -> list[AnyArchive]:
    """Return the archives that a location, or several, name.

    Raises:
        DataProblem: a location that names none.
    """
    found: list[AnyArchive] = []
    for location in given if isinstance(given, tuple) else (given,):
        for each in _expanded(str(location)):
            if isinstance(location, str):
                found += find_in_bucket(each, (".tar",))
                continue
            path = Path(each).expanduser()
            files = sorted(path.rglob("*.tar")) if path.is_dir() else [path]
            if any(c in each for c in "*?["):
                anchor = Path(path.anchor)
                files = sorted(anchor.glob(str(path.relative_to(anchor))))
            if not files or not all(map(Path.is_file, files)):
                raise DataProblem(
                    f"{shown(each)[:PATH_SHOWN]}: no tar archive", "correct data.path"
                )
            found += files
    return list(dict.fromkeys(found))


def _expanded(pattern: str) -> Iterator[str]:
    """Yield the names of a pattern with ranges in braces, as WebDataset writes it."""
    ranges = []
    for first, last in BRACES.findall(pattern):
        ranges.append([str(n).zfill(len(first)) for n in range(int(first), int(last) + 1)])
    template = BRACES.sub("\0", pattern).split("\0")
    for numbers in product(*ranges):
        yield "".join(a + b for a, b in zip(template, (*numbers, ""), strict=True))


def _members(archive: AnyArchive, cache: Path) -> dict[str, Any]:
    """Return images and labels of an archive by their keys, from the cache where it is unchanged."""
    facts: FileFacts | None
    try:
        if isinstance(archive, Path):
            stat = archive.stat()
            where: Any = [str(archive.absolute()), stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
            size = stat.st_size
        else:
            facts = archive.facts
            where, size = [str(archive), facts and facts.version], facts.bytes if facts else 0
    except OSError as error:
        raise DataProblem(f"{shown(archive)}: cannot be read", "make it readable") from error
    key = hashlib.sha256(json.dumps([FORMAT, where, size]).encode()).hexdigest()[:32]
    kept = cache / f"{key}-tar.key"
    if cache != UNREAD:
        with suppress(OSError, Altered, KeyError):
            found: dict[str, Any] = unseal(kept.read_text())["members"]
            return found
    members = _read_members(archive)
    if cache != UNREAD:
        with writing(cache), whole_file(kept) as stream:
            stream.write(json.dumps(seal({"members": members})).encode())
    return members


def _read_members(archive: AnyArchive) -> dict[str, Any]:
    """Return images (key -> name, place, length) and labels (key -> suffix -> content) of an archive.

    Raises:
        DataProblem: no tar archive that can be read.
    """
    images: dict[str, tuple[str, int, int]] = {}
    labels: dict[str, dict[str, Any]] = {}
    try:
        with _open(archive) as tar:
            for member in tar:
                folder, _, base = member.name.removeprefix("./").rpartition("/")
                stem, dot, rest = base.partition(".")
                if not member.isfile() or not stem:
                    continue
                key, suffix = f"{folder}/{stem}".lstrip("/"), f"{dot}{rest}".lower()
                if suffix in SUFFIXES:
                    images[key] = (member.name, member.offset_data, member.size)
                elif suffix in LABEL_SUFFIXES:
                    stream = tar.extractfile(member)
                    content = stream.read().decode() if stream else ""
                    whole = json.loads(content) if suffix == ".json" else content
                    labels.setdefault(key, {})[suffix] = whole
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        raise DataProblem(
            f"{shown(archive)}: not a tar archive that can be read ({type(error).__name__})",
            "write it again, uncompressed",
        ) from error
    return {"images": images, "labels": labels}


def _open(archive: AnyArchive) -> tarfile.TarFile:
    if isinstance(archive, Path):
        return tarfile.open(archive, "r:")
    stream = io.BufferedReader(archive.open(), BUFFER_BYTES)  # type: ignore[type-var]
    return tarfile.open(fileobj=stream, mode="r|")
