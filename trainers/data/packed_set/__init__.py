"""A decoded data set as files in a folder or bucket, of which each machine keeps one copy.

`shards/HASH.bin` hold the rows, `index.safetensors` what is known of each, and `packed.json`, which is written
last, says that the set is whole.
"""

from .description import (
    Description,
    Index,
    Shard,
    encode_shard,
    read_description,
    shard_name,
    shard_rows,
    write_index,
)
from .opening import open_packed_set

__all__ = [
    "Description",
    "Index",
    "Shard",
    "encode_shard",
    "open_packed_set",
    "read_description",
    "shard_name",
    "shard_rows",
    "write_index",
]
