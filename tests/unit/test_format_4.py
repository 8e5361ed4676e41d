"""What format 4 wrote, when there was one noise process, is read, goes on, and samples the same images.

`tests/data/format-4` has its texts; see its README.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from support.folder_hooks import FolderHooks
from torch import nn

from whipray.platform.config.experiment import CHANGEABLE_ON_RESUME, Experiment
from whipray.platform.config.layers import flatten
from whipray.trainers import format_4
from whipray.trainers.checkpoint import FORMAT, describe, parse_manifest, verify
from whipray.trainers.checkpoint_names import MANIFEST
from whipray.trainers.checkpointing import ResumePoint, check_same_run
from whipray.trainers.devices import join_workers
from whipray.trainers.disk import save_tensors
from whipray.trainers.errors import CheckpointProblem
from whipray.trainers.export import CARD, WEIGHTS, load_exported
from whipray.trainers.guidance import ClassifierFree
from whipray.trainers.integrity import seal, unseal
from whipray.trainers.loop import Training
from whipray.trainers.networks import UNet, UNetConfig
from whipray.trainers.processes import VPConfig
from whipray.trainers.samplers import DDIMSampler, DDPMSampler
from whipray.trainers.trainer_config import TrainerConfig

CPU = torch.device("cpu")
FOLDER = Path(__file__).parents[1] / "data" / "format-4"
MANIFEST_TEXT, CARD_TEXT = ((FOLDER / name).read_text() for name in (MANIFEST, CARD))
# 3 images, of classes 1, 1 and 9: channel 0, rows and columns 1, 4 and 7, as that version sampled them
SAMPLED = """
-0.506888 -0.512043 0.355585 -0.196922 0.290295 -0.229257 -0.235743 0.324922 -0.236921
-1.0 0.168154 -0.930981 -0.221036 -0.271151 0.801461 0.855819 0.35516 1.0
0.315275 0.763747 -0.674331 -0.742819 0.083665 0.04128 1.0 0.132765 0.892578
"""


def test_its_config_has_the_same_meaning_in_todays_keys() -> None:
    manifest = parse_manifest(MANIFEST_TEXT, "")
    assert manifest.format == FORMAT
    assert manifest.process == VPConfig(schedule="cosine", prediction="v")
    experiment = Experiment.model_validate(manifest.config)
    assert experiment.process == manifest.process
    assert experiment.objective.base.cutoff == 0.7  # 700 of 1000 steps
    assert experiment.sampling.sampler == DDIMSampler(steps=4, spacing="leading")
    assert experiment.sampling.guidance == ClassifierFree(omega=0.5)
    now = flatten(experiment.model_dump(mode="json"))
    check_same_run(flatten(manifest.config), now, CHANGEABLE_ON_RESUME)


@pytest.mark.parametrize(
    ("objective", "sampling"),
    [
        ({"name": "cbdm"}, {"sampler": "ddpm", "variance": "fixed_small"}),
        ({"name": "call", "base": {"name": "cbdm"}}, {"sampler": "ddim", "eta": 0.5}),
        ({"name": "oc", "cutoff": None}, {"clip_x0": False, "weights": "merged"}),
    ],
)
def test_runs_of_other_methods_are_resumed_as_the_same(
    objective: dict[str, Any], sampling: dict[str, Any]
) -> None:
    """No key of today's is missing, so that a resumed run does not look like another one."""
    old = json.loads(MANIFEST_TEXT)["config"]
    # as that version wrote the objective: all of its fields, without those that came later
    old["objective"] = json.loads(json.dumps(objective))
    whole = Experiment.model_validate(format_4.experiment_of(old)).objective.model_dump(mode="json")
    for part in (whole, whole.get("base", {})):
        if part.get("name") == "cbdm":
            del part["metric"]
    old["objective"], old["sampling"] = whole, {**old["sampling"], **sampling}
    moved = format_4.experiment_of(old)
    experiment = Experiment.model_validate(moved)
    now = flatten(experiment.model_dump(mode="json"))
    check_same_run(flatten(moved), now, CHANGEABLE_ON_RESUME)
    sampler = experiment.sampling.sampler
    assert sampler.name == old["sampling"]["sampler"]
    if isinstance(sampler, DDPMSampler):
        assert sampler.variance == "fixed_small"


def test_a_damaged_manifest_is_not_taken_for_an_old_one() -> None:
    for damaged in (
        MANIFEST_TEXT.replace('"cutoff": 700', '"cutoff": 701'),
        MANIFEST_TEXT.replace('"timesteps": 1000', '"timesteps": 0'),
        MANIFEST_TEXT.replace('"diffusion"', '"diffusioo"'),
    ):
        assert damaged != MANIFEST_TEXT
        with pytest.raises(CheckpointProblem, match=r"^x: altered since it was written"):
            parse_manifest(damaged, "x")


def test_a_run_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    """Two steps in today's code lead to what that version promised as its next loss."""
    join_workers(CPU)
    torch.set_num_threads(1)
    old = parse_manifest(MANIFEST_TEXT, "")
    config = TrainerConfig.model_validate(
        {key: value for key, value in old.config.items() if key in TrainerConfig.model_fields}
    )
    data = config.data.load(tmp_path)
    assert data.train.fingerprint() == old.train_fingerprint
    training = Training(config, data, CPU, None)
    training.run(FolderHooks(tmp_path / "run"), {"engine": {"precision": "fp32"}})
    training.close()
    (folder,) = (tmp_path / "run").iterdir()
    of_today = json.loads((folder / MANIFEST).read_text())
    files = {key: of_today[key] for key in ("tensors", "files", "state_norms")}
    (folder / MANIFEST).write_text(json.dumps(seal(unseal(MANIFEST_TEXT) | files)))

    longer = config.training.model_copy(update={"images": 96})
    resume = ResumePoint(folder, verify(folder))
    resumed = Training(config.model_copy(update={"training": longer}), data, CPU, resume)
    assert resumed._next_loss() == pytest.approx(old.next_loss, rel=1e-3)
    resumed.run(FolderHooks(tmp_path / "run"), old.config)
    resumed.close()
    after = verify(tmp_path / "run" / "images-000000000096")
    assert (after.format, after.process) == (FORMAT, old.process)


def test_an_exported_model_samples_the_images_of_that_version(tmp_path: Path) -> None:
    card = unseal(CARD_TEXT)
    network = UNet(UNetConfig.model_validate(card["model"]), (1, 8, 8), 10)
    generator = torch.Generator().manual_seed(0)
    shapes: dict[str, nn.Parameter] = dict(network.named_parameters())
    weights = {
        name: torch.randn(shapes[name].shape, generator=generator) * 0.1 for name in sorted(shapes)
    }
    save_tensors(weights, tmp_path / WEIGHTS)
    # sealed again: another version of safetensors may write the same tensors otherwise
    card[WEIGHTS] = describe(tmp_path / WEIGHTS).sha256
    (tmp_path / CARD).write_text(json.dumps(seal(card)))

    model = load_exported(tmp_path)
    assert model.card.process == VPConfig(schedule="cosine", prediction="v")
    images = model.sample(torch.tensor([1, 1, 9]), model.card.sampling, seed=3)
    expected = [float(value) for value in SAMPLED.split()]
    assert images[:, 0, 1::3, 1::3].flatten().tolist() == pytest.approx(expected, abs=1e-4)
