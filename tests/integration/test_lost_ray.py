"""Commands whose Ray is lost: the kernel kills its largest process when memory runs out."""

from __future__ import annotations

import time
from pathlib import Path

import psutil
import pytest
import yaml
from support.marks import MLFLOW_WARNINGS
from support.ray_head import RayHead
from support.shell import TINY, WAIT_S, Shell
from support.tracking import statuses

pytestmark = [
    pytest.mark.slow,
    pytest.mark.faults,
    *MLFLOW_WARNINGS,
]

ENDS_S = 120
"""In which a command has to end that would otherwise wait for ever."""
SETTINGS = (*TINY, "training.images=6400", "tuning.sample_points=2")
SPACE = {
    "description": "tau",
    "train": {"objective.tau": {"type": "float", "low": 0.1, "high": 5.0, "log": True}},
    "sample": {"sampling.guidance.omega": {"type": "float", "low": 0.0, "high": 1.0, "step": 1.0}},
    "base": {"objective": {"name": "cbdm"}},
}

NEW_SWEEP = ("--recipe", "digits-demo", "--name", "s", "--trials", "1", "--resume")
COMMANDS = {
    "sweep": (("sweep", "space.yaml", *NEW_SWEEP), "sweeps/s/trials/0000"),
    "train": (("train", "digits-demo", "--run", "r", "scaling.workers=2"), "runs/r"),
}
"""Each with the folder of its training."""


@pytest.mark.parametrize("killed", ["raylet", "gcs_server"])
@pytest.mark.parametrize("what", ["sweep", "train"])
def test_a_lost_ray_ends_the_command_which_goes_on_when_typed_again(
    what: str, killed: str, tmp_path: Path
) -> None:
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(SPACE))
    command, run = COMMANDS[what]
    shell = Shell(tmp_path)
    driver = shell.start(*command, *SETTINGS)
    folder = tmp_path / "whipray-runs" / run
    try:
        deadline = time.monotonic() + WAIT_S
        while not list(folder.glob("checkpoints/*/manifest.json")):
            assert driver.poll() is None, driver.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        children = psutil.Process(driver.pid).children(recursive=True)
        (victim,) = (child for child in children if child.name() == killed)
        victim.kill()
        out, err = driver.communicate(timeout=ENDS_S)
    finally:
        driver.kill()

    assert driver.returncode == 1, err
    part = {"raylet": "raylet", "gcs_server": "head"}[killed]
    assert f"error: Ray on this machine was lost: its {part} ended" in err
    assert "fix: the same command goes on" in err
    assert "RUNNING" not in statuses(tmp_path).values()
    assert out == ""
    _, left = psutil.wait_procs(children, timeout=ENDS_S)
    assert not left

    code, _, err = shell.run(*command, *SETTINGS)
    assert code == 0, err
    assert set(statuses(tmp_path).values()) == {"FINISHED"}
    if what == "train":
        assert "resumed from" in err


def test_a_head_of_ones_own_that_is_lost_ends_the_command_which_goes_on_with_a_new_one(
    tmp_path: Path,
) -> None:
    command, run = COMMANDS["train"]
    shell = Shell(tmp_path)

    def at(head: RayHead) -> dict[str, str]:
        address = f"127.0.0.1:{head.port}"
        return {"RAY_ADDRESS": address, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": head.token}

    with RayHead() as head:
        driver = shell.start(*command, *SETTINGS, **at(head))
        try:
            deadline = time.monotonic() + WAIT_S
            while not list(tmp_path.glob(f"whipray-runs/{run}/checkpoints/*/manifest.json")):
                assert driver.poll() is None, driver.communicate()
                assert time.monotonic() < deadline
                time.sleep(0.1)
            (victim,) = (p for p in head.processes() if p.name() == "gcs_server")
            victim.kill()
            out, err = driver.communicate(timeout=ENDS_S)
        finally:
            driver.kill()
    assert driver.returncode == 1, err
    assert f"error: Ray at {at(head)['RAY_ADDRESS']} was lost" in err
    assert "fix: the same command goes on" in err
    assert out == ""
    assert "RUNNING" not in statuses(tmp_path).values()

    code, _, err = shell.run(*command, *SETTINGS, **at(head))
    assert code == 1, err
    assert "which RAY_ADDRESS names: Connection refused" in err
    with RayHead() as head:
        code, _, err = shell.run(*command, *SETTINGS, **at(head))
    assert code == 0, err
    assert "resumed from" in err
    assert set(statuses(tmp_path).values()) == {"FINISHED"}
