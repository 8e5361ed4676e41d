"""Where compiled kernels are kept."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SHARE = """
import os
import torchvision
from whipray.trainers.compilation import share_kernels
share_kernels()
print(os.environ["TORCHINDUCTOR_CACHE_DIR"])
"""


@pytest.mark.parametrize("named", [None, "of-the-user"])
def test_kernels_are_kept_in_the_cache_unless_the_user_names_a_folder(
    tmp_path: Path, named: str | None
) -> None:
    environment = {**os.environ, "WHIPRAY_CACHE": str(tmp_path / "cache")}
    environment.pop("TORCHINDUCTOR_CACHE_DIR", None)  # a test before it may have set it
    if named:
        environment["TORCHINDUCTOR_CACHE_DIR"] = str(tmp_path / named)
    command = [sys.executable, "-c", SHARE]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    wanted = tmp_path / named if named else tmp_path / "cache" / "compiled"
    assert done.stdout.strip() == str(wanted)
