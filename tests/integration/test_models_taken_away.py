"""Models where the platform is not installed: an exported folder, and a registered one served by MLflow."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import urllib.error
import urllib.request
from base64 import b64decode
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow.artifacts import download_artifacts
from PIL import Image
from support.environments import make_environment
from support.exported import export_small
from support.marks import MLFLOW_WARNINGS
from support.servers import free_port, wait_for

import whipray
from whipray.platform.config.experiment import TrackingConfig
from whipray.platform.storage.config import StorageConfig
from whipray.platform.storage.store import Storage
from whipray.platform.tracking.registry import REQUIREMENTS, get, log_model
from whipray.platform.tracking.tracker import open_tracker
from whipray.trainers.model import Model

pytestmark = [pytest.mark.slow, *MLFLOW_WARNINGS]
FOUR = ("torch", "safetensors", "pydantic", "numpy")
ABSENT = ("yaml", "rich", "typer", "ray", "mlflow", "PIL", "pandas", "boto3", "scipy", "pyarrow")
PROGRAM = """
import importlib.util, json, sys
from pathlib import Path
import numpy as np, torch
import whipray
from whipray.trainers.png import encode_png

found = [name for name in sys.argv[2].split(",") if importlib.util.find_spec(name)]
assert not found, found
model = whipray.load_model(sys.argv[1])
images = model.sample(["owl", 0], n=3, omega=1.0, seed=5)
np.save("images.npy", images)
Path("image.png").write_bytes(encode_png(images[0]))
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


@dataclass(frozen=True)
class Served:
    """A model behind HTTP, and the same model in this process."""

    url: str
    model: Model

    def ask(self, rows: list[dict[str, Any]], **params: Any) -> Any:
        """Return the predictions for a table."""
        question = json.dumps({"dataframe_records": rows, "params": params}).encode()
        header = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.url, question, header)
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.load(answer)["predictions"]


def test_it_loads_samples_and_balances_with_four_libraries(tmp_path: Path) -> None:
    python = make_environment(tmp_path / "environment", FOUR, with_whipray=True)
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


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A registered model behind HTTP, in an environment of nothing but its requirements."""
    folder = tmp_path_factory.mktemp("served")
    card = export_small(folder / "model")
    root = Storage(StorageConfig(uri=str(folder / "store")))
    tracker = open_tracker(TrackingConfig(), root)
    run = tracker.run("run/mine", "mine", {})
    number = log_model(run, folder, card, "pets", {})
    taken = Path(download_artifacts(get(tracker, "pets", number).uri, tracking_uri=tracker.uri))

    python = make_environment(folder / "environment", REQUIREMENTS)
    port = free_port()
    command = ["-m", "mlflow", "models", "serve", "-m", taken, "--env-manager", "local"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "RAY_"))}
    environment["PATH"] = f"{python.parent}{os.pathsep}{environment['PATH']}"
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(
            [python, *command, "--port", str(port), "--workers", "1"],
            cwd=folder,
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        wait_for(f"http://127.0.0.1:{port}/ping", [server], folder / "log")
        yield Served(f"http://127.0.0.1:{port}/invocations", whipray.load_model(folder))
    finally:
        with suppress(ProcessLookupError):  # it has ended, and the log says why
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def test_a_served_model_answers_with_arrays_and_with_png(served: Served) -> None:
    expected = served.model.sample(["owl", "cat"], omega=1.5, seed=7)
    params = {"omega": 1.5, "seed": 7}
    for rows in (
        [{"class_id": 2}, {"class_id": 0}],
        [{"class_name": "owl"}, {"class_name": "cat"}],
    ):
        arrays = np.array(served.ask(rows, **params))
        assert np.abs(arrays.transpose(0, 3, 1, 2) - expected.astype(int)).max() <= 1
        for text, pixels in zip(served.ask(rows, format="png", **params), arrays, strict=True):
            with Image.open(io.BytesIO(b64decode(text))) as decoded:
                assert decoded.format == "PNG"
                np.testing.assert_array_equal(np.asarray(decoded), pixels)


@pytest.mark.parametrize(
    ("rows", "params", "said"),
    [
        ([{"class_id": 3}], {}, "no class 3"),
        ([{"class_name": "olw"}], {}, "did you mean owl"),
        ([{"class": 1}], {}, "class_id"),
        ([{"class_id": 1}], {"steps": 0}, "sampling.sampler.ddim.steps"),
        ([{"class_id": 1}], {"omega": -1.0}, "sampling.guidance.cfg.omega"),
        ([{"class_id": 1}], {"format": "gif"}, "format 'gif' is not one of array, png"),
    ],
)
def test_a_wrong_question_is_answered_with_the_reason(
    served: Served, rows: list[dict[str, Any]], params: dict[str, Any], said: str
) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        served.ask(rows, **params)
    with refused.value as answer:
        assert answer.code == 400
        assert said in answer.read().decode()
