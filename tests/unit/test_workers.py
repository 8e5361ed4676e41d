"""What is reported of shards that several actors work on."""

from __future__ import annotations

from whipray.platform.generation.shards import RealShard
from whipray.platform.generation.workers import _Parts


def test_parts_of_shards_add_up_and_late_messages_of_ended_ones_are_ignored() -> None:
    first, second = RealShard("folder", 0, 10), RealShard("folder", 10, 4)
    seen: list[float] = []
    parts = _Parts(seen.append)
    parts.report(first.stem, 2.5)
    parts.report(second.stem, 1)
    parts.end(first)
    parts.report(first.stem, 9.5)  # on its way when the shard ended
    parts.report(second.stem, 0.5)  # begun again by another actor
    parts.end(second)
    assert seen == [2.5, 3.5, 11, 10.5, 14]
