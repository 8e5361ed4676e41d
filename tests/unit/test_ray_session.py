"""A Ray session, as far as it needs no running Ray."""

from __future__ import annotations

import pytest
from ray._private.worker import print_worker_logs

from whipray.platform.compute.ray_session import TruncatingStderr


def test_rays_warnings_are_one_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    pages = "Raylet is terminated. " + "Possible reasons include: " * 20 + "\n[state-dump]\n" * 99
    print_worker_logs({"pid": "raylet", "lines": [pages]}, TruncatingStderr())
    print("two lines\nof somebody else", file=TruncatingStderr())
    out, err = capsys.readouterr()
    first, *others = err.splitlines()
    assert out == ""
    assert "Raylet is terminated. Possible" in first
    assert len(first) <= TruncatingStderr.MAX_CHARACTERS
    assert others == ["two lines", "of somebody else"]
