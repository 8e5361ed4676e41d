"""Some training images of a CIFAR parquet file as one array, for a machine that lacks the file.

pack_images.py FROM.parquet TO.npz
"""

from __future__ import annotations

import sys
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image
from pyarrow import parquet

COUNT = 2000


def main() -> None:
    source, target = map(Path, sys.argv[1:])
    table = parquet.read_table(source, columns=["image", "label", "split"])
    splits = np.array(table["split"].to_pylist())
    training = np.flatnonzero(splits == "train")
    rows = np.sort(np.random.default_rng(0).permutation(training)[:COUNT])  # as long-tailed
    images = [
        np.asarray(Image.open(BytesIO(table["image"][int(row)].as_py())).convert("RGB"))
        for row in rows
    ]
    names = (table.schema.metadata or {}).get(b"class_names", b"").decode().split(",")
    labels = table["label"].to_numpy()[rows].astype(np.int64)
    np.savez(
        target,
        images=np.stack(images).transpose(0, 3, 1, 2),  # (N, 3, H, W) uint8
        labels=labels,
        class_names=np.array(names),
    )
    print(f"{target}: {len(images)} images, {np.bincount(labels).tolist()} of each class")


if __name__ == "__main__":
    main()
