"""Versions of libraries: what this machine lacks, and that several machines have the same."""

from __future__ import annotations

import importlib.metadata

import pytest

from whipray.platform.foundation.versions import check_alike, local_versions, unsatisfied
from whipray.trainers.errors import Problem


def test_another_image_s_libraries_are_named() -> None:
    ray = importlib.metadata.version("ray")
    wanted = {"python": ">=3.11", "libraries": [f"ray=={ray}", "no-such-library>=1", "numpy<1"]}
    assert unsatisfied(wanted) == [
        "no no-such-library",
        f"numpy {importlib.metadata.version('numpy')}, not <1",
    ]
    (wrong,) = unsatisfied({"python": ">=4", "libraries": []})
    assert wrong.endswith("not >=4")


def test_one_machine_among_several_with_another_image_is_named() -> None:
    mine = local_versions()
    check_alike([mine, {**mine, "host": "node-2"}])
    with pytest.raises(Problem, match="torch differs: ") as raised:
        check_alike([mine, mine, {**mine, "host": "node-2", "torch": "1.0"}])
    assert "1.0 on node-2" in raised.value.what
    assert f"{mine['torch']} on {mine['host']}" in raised.value.what
