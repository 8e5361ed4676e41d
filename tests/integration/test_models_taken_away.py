"""An exported model where the platform is not installed."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from support.environments import make_environment
from support.exported import export_small

import whipray

pytestmark = pytest.mark.slow
FOUR = ("torch", "safetensors", "pydantic", "numpy")
ABSENT = ("yaml", "rich", "typer", "ray", "mlflow", "PIL", "pandas", "boto3", "scipy", "pyarrow")
PROGRAM = """
import importlib.util, json, sys
import numpy as np, torch
import whipray
from whipray.trainers.png import encode_png

found = [name for name in sys.argv[2].split(",") if importlib.util.find_spec(name)]
assert not found, found
model = whipray.load_model(sys.argv[1])
images = model.sample(["owl", 0], n=3, omega=1.0, seed=5)
np.save("images.npy", images)
open("image.png", "wb").write(encode_png(images[0]))
real = np.zeros((4, *model.image_shape), np.uint8), [0, 0, 0, 1]
dataset = whipray.BalancedDataset(real, model)
batches = list(torch.utils.data.DataLoader(dataset, batch_size=5, num_workers=2))
labels = torch.cat([labels for _, labels in batches])
try:
    whipray.load_model("mine")
except whipray.Problem as problem:
    said = [problem.what, problem.fix]
print(json.dumps({"labels": labels.tolist(), "said": said}))
"""


def test_it_loads_samples_and_balances_with_four_libraries(tmp_path: Path) -> None:
    python = make_environment(tmp_path / "environment", FOUR)
    export_small(tmp_path / "out/model")
    command = [python, "-W", "error", "-c", PROGRAM, "out", ",".join(ABSENT)]
    done = subprocess.run(
        command, check=False, cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["labels"] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert "is not installed" in answer["said"][0]
    assert "pip install 'whipray[run]'" in answer["said"][1]

    images = np.load(tmp_path / "images.npy")
    here = whipray.load_model(tmp_path / "out").sample(["owl", 0], n=3, omega=1.0, seed=5)
    np.testing.assert_array_equal(images, here)
