"""Folders of a bucket, made of the names of its objects, with what `os.scandir` gives of a folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from .files import FileFacts, Files
from .locations import open_files


@dataclass(frozen=True)
class BucketEntry:
    """A file or folder in a folder of a bucket; its methods are those of `os.DirEntry`."""

    name: str
    path: str
    folder: bool

    def is_dir(self) -> bool:
        """Return whether it is a folder."""
        return self.folder

    def is_file(self) -> bool:
        """Return whether it is a file."""
        return not self.folder

    def is_symlink(self) -> bool:
        """Return False: a bucket has no links."""
        return False


@dataclass(frozen=True, eq=False)
class BucketFolder:
    """A folder below an s3:// address, all of which was listed once.

    Args:
        files: of the address.
        facts: of all files, by name.
        tree: entries of each folder, by its path.
        path: of this folder; "" for the address itself.
    """

    files: Files
    facts: Mapping[str, FileFacts]
    tree: Mapping[str, Mapping[str, bool]]
    path: str = ""

    @staticmethod
    def at(uri: str) -> BucketFolder:
        """List all that is below an address.

        Raises:
            DataProblem: it cannot be listed.
        """
        files = open_files(uri)
        facts = files.list()
        tree: dict[str, dict[str, bool]] = {}
        for name in facts:
            folder, _, file = name.rpartition("/")
            is_new = folder not in tree
            tree.setdefault(folder, {})[file] = False
            while is_new and folder:
                above, _, last = folder.rpartition("/")
                is_new = above not in tree
                tree.setdefault(above, {})[last] = True
                folder = above
        return BucketFolder(files, facts, tree)

    @property
    def name(self) -> str:
        """Last part of its path."""
        return self.path.rpartition("/")[2] or self.files.uri.rpartition("/")[2]

    def __truediv__(self, name: str) -> BucketFolder:
        """Return a folder in it, which need not exist."""
        path = "/".join(filter(None, (self.path, name.strip("/"))))
        return BucketFolder(self.files, self.facts, self.tree, path)

    def __str__(self) -> str:
        """Return its address."""
        return self.files.uri_of(self.path)

    def __eq__(self, other: object) -> bool:
        """Return whether the other is the same folder."""
        return isinstance(other, BucketFolder) and str(self) == str(other)

    def __hash__(self) -> int:
        """Return the hash of its address."""
        return hash(str(self))

    def relative_to(self, other: BucketFolder) -> PurePosixPath:
        """Return its path from a folder above it."""
        return PurePosixPath(self.path).relative_to(other.path)

    def entries(self) -> list[BucketEntry]:
        """Return what lies in it, sorted by name.

        Raises:
            FileNotFoundError: nothing does.
        """
        if self.path not in self.tree:
            raise FileNotFoundError(self.path)
        prefix = f"{self.path}/".lstrip("/")
        return [
            BucketEntry(name, f"{prefix}{name}", folder)
            for name, folder in sorted(self.tree[self.path].items())
            if name
        ]
