"""What a resumed sweep may change, and which stored sweeps are refused."""

from __future__ import annotations

import json

import pytest

from whipray.platform.config.experiment import load_experiment
from whipray.platform.config.space_files import load_space
from whipray.platform.tuning.sweep_identity import check_same_sweep, identity_of, read_identity
from whipray.trainers.errors import Problem, UsageProblem
from whipray.trainers.integrity import seal

SPACE = load_space("cbdm")
STORED = identity_of(load_experiment("digits-lt", []).value, SPACE)


def test_a_resumed_sweep_may_run_elsewhere_and_have_more_trials() -> None:
    elsewhere = ["storage.uri=elsewhere", "scaling.workers=2", "tuning.trials=99"]
    now = identity_of(load_experiment("digits-lt", elsewhere).value, SPACE)
    check_same_sweep("s", read_identity(json.dumps(seal(STORED)), "here"), now)


def test_a_sweep_of_before_a_key_existed_goes_on_with_its_default_alone() -> None:
    stored = json.loads(json.dumps(STORED))
    del stored["experiment"]["sampling"]["precision"]
    del stored["experiment"]["sampling"]["compile"]
    del stored["experiment"]["training"]["report_every_s"]
    del stored["experiment"]["training"]["checkpoint_every_s"]
    del stored["experiment"]["scaling"]["environment"]
    stored["experiment"]["engine"] = {"compile": False}
    stored["experiment"]["evaluation"]["workers"] = 1
    check_same_sweep("s", stored, STORED)
    bf16 = load_experiment("digits-lt", ["sampling.precision=bf16"]).value
    with pytest.raises(UsageProblem, match=r"begun with sampling\.precision=fp32, not bf16"):
        check_same_sweep("s", stored, identity_of(bf16, SPACE))


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        ({**STORED, "format": 1}, "begun by another version of Whipray"),
        ({k: v for k, v in STORED.items() if k != "format"}, "begun by another version"),
        ({**STORED, "space": {}}, "begun with another search space"),
        (
            {**STORED, "experiment": {**STORED["experiment"], "seed": 7}},
            "begun with seed=7, not 0",
        ),
    ],
)
def test_another_sweep_is_refused(stored: dict[str, object], message: str) -> None:
    with pytest.raises(UsageProblem, match=message):
        check_same_sweep("s", read_identity(json.dumps(seal(stored)), "here"), STORED)


def test_a_damaged_identity_is_named() -> None:
    whole = json.dumps(seal(STORED))
    flipped = whole.replace('"seed": 0', '"seed": 1', 1)
    assert flipped != whole
    for damaged in ("", whole[:100], "[]", "null", flipped):
        with pytest.raises(Problem, match=r"^s3://b/s/sweep.json: damaged") as caught:
            read_identity(damaged, "s3://b/s/sweep.json")
        assert "restore it" in caught.value.fix
    assert read_identity(whole, "here") == STORED
