"""A CIFAR parquet file for a machine that cannot read one: the same encoded images in an array.

pack_images.py FROM.parquet TO.npz
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from pyarrow import parquet


def main() -> None:
    source, target = map(Path, sys.argv[1:])
    table = parquet.read_table(source, columns=["image", "label", "split"])
    images = table["image"].to_pylist()
    names = (table.schema.metadata or {}).get(b"class_names", b"").decode().split(",")
    labels = table["label"].to_numpy().astype(np.int64)
    np.savez(
        target,
        encoded=np.frombuffer(b"".join(images), np.uint8),
        ends=np.cumsum([len(image) for image in images]),
        labels=labels,
        test=np.array(table["split"].to_pylist()) == "test",
        class_names=np.array(names),
    )
    print(f"{target}: {len(images)} images, {np.bincount(labels).tolist()} of each class")


if __name__ == "__main__":
    main()
