"""The pretrained model of a run: resolved once, stored by content, frozen under LoRA, merged at export."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file
from support.training import BATCH, at, copy_half_time, state, tiny, train
from torch import Tensor

from whipray.platform.config.experiment import Experiment, load_experiment
from whipray.platform.config.space_files import parse_space
from whipray.platform.runs.resolve_pretrained import resolve_pretrained
from whipray.platform.storage.layout import PRETRAINED_RECORD
from whipray.platform.storage.pretrained import PretrainedRecord, load_pretrained
from whipray.platform.storage.store import Storage
from whipray.platform.storage.trained_weights import export_run
from whipray.platform.tuning.sweep import Sweep
from whipray.trainers.checkpoint_names import checkpoint_name
from whipray.trainers.errors import CheckpointProblem, UsageProblem
from whipray.trainers.export import CARD, WEIGHTS, load_exported, read_exported, write_card
from whipray.trainers.networks import UNet, UNetConfig
from whipray.trainers.networks.low_rank import add_parts
from whipray.trainers.sampling import SamplingConfig
from whipray.trainers.trainer_config import LoRAConfig, PretrainedConfig

HALF, END = 4 * BATCH, 8 * BATCH
DIGITS = [str(digit) for digit in range(10)]
CALL = {"name": "call", "base": {"name": "cbdm"}, "reserve": {"layers": ["up"], "rank": 1}}


def resolve(
    experiment: Experiment, run: Storage, names: list[str] = DIGITS
) -> PretrainedRecord | None:
    return resolve_pretrained(experiment, run, names, (1, 8, 8))


def started(source: Path | str, *, lora: bool = False, **changes: Any) -> Experiment:
    adapters = {"lora": {"rank": 2}} if lora else {}
    return tiny(pretrained={"model": str(source), **adapters}, **changes)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that is started from."""
    run = tmp_path_factory.mktemp("base")
    train(tiny(training__images=HALF), run)
    return run


@pytest.fixture(scope="module")
def exported(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    export_run(at(trained), checkpoint_name(HALF), SamplingConfig(), folder)
    return folder / "model"


@pytest.fixture
def model(exported: Path, tmp_path: Path) -> Path:
    """The exported base, to be changed."""
    return Path(shutil.copytree(exported, tmp_path / "model"))


def spoil(model: Path) -> None:
    """Other weights, of the same architecture, in the same place."""
    card, weights = read_exported(model)
    save_file({name: tensor + 1 for name, tensor in weights.items()}, model / WEIGHTS)
    write_card(model, card)


def test_a_pretrained_model_is_resolved_once_and_stored_by_its_content(
    model: Path, tmp_path: Path
) -> None:
    root = at(tmp_path / "store")
    run, experiment = root.child("runs/tuned"), started(model)
    record = resolve(experiment, run)
    digest = hashlib.sha256((model / WEIGHTS).read_bytes()).hexdigest()
    card = json.loads((model / CARD).read_text())
    assert json.loads(run.read_text(PRETRAINED_RECORD)) == {
        "source": str(model),
        "kind": "folder",
        "version": None,
        "run_id": None,
        "checkpoint": card["checkpoint"],
        "sha256": digest,
    }
    before = load_file(model / WEIGHTS)
    spoil(model)
    assert resolve(experiment, run) == record
    pretrained = load_pretrained(run, experiment.pretrained)
    assert pretrained is not None
    assert pretrained.hash == digest
    assert all(torch.equal(pretrained.weights[name], tensor) for name, tensor in before.items())

    assert resolve(tiny(), root.child("runs/anew")) is None
    other = resolve(experiment, root.child("runs/other"))
    assert other is not None
    assert other.sha256 != digest
    kept = {path for path in root.list() if path.startswith("pretrained/")}
    assert kept == {
        f"pretrained/{sha[:16]}/{file}"
        for sha in (digest, other.sha256)
        for file in (CARD, WEIGHTS)
    }


def test_trials_start_from_what_their_sweep_resolved(model: Path, tmp_path: Path) -> None:
    root = at(tmp_path / "store")
    of_sweep = resolve(started(model), root.child("sweeps/s"))
    spoil(model)
    assert resolve(started(model), root.child("sweeps/s/trials/0003")) == of_sweep
    assert root.exists("sweeps/s/trials/0003/pretrained.json")
    assert resolve(started(model), root.child("sweeps/t/trials/0003")) != of_sweep
    with pytest.raises(UsageProblem, match=r"model\.attention_heads=1, this training 3"):
        resolve(started(model, model__attention_heads=3), root.child("sweeps/s/trials/0004"))


def test_a_run_that_has_learned_keeps_what_it_started_from(model: Path, tmp_path: Path) -> None:
    elsewhere = Path(shutil.copytree(model, tmp_path / "elsewhere"))
    run, short = tmp_path / "run", {"training__images": BATCH}
    resolve(started(elsewhere), at(run))
    resolve(started(model), at(run))  # changed one's mind: nothing is lost yet
    train(started(model, **short), run)
    with pytest.raises(CheckpointProblem, match=f"the run to resume started from {model}, and"):
        resolve(started(elsewhere), at(run))
    with pytest.raises(
        CheckpointProblem, match=r"the run to resume has pretrained\.labels=keep, not None"
    ):
        train(tiny(**short), run)
    (run / PRETRAINED_RECORD).unlink()
    with pytest.raises(CheckpointProblem, match=r"the run to resume has no pretrained\.json"):
        resolve(started(model), at(run))


def altered(run: Path) -> None:
    (file,) = run.glob(f"pretrained/*/{WEIGHTS}")
    file.write_bytes(file.read_bytes()[:-4] + b"\0\0\0\1")


def cut(run: Path) -> None:
    (file,) = run.glob(f"pretrained/*/{WEIGHTS}")
    file.write_bytes(file.read_bytes()[:-4])


def of_another_model(run: Path) -> None:
    record = json.loads((run / PRETRAINED_RECORD).read_text())
    (run / PRETRAINED_RECORD).write_text(json.dumps({**record, "sha256": 64 * "0"}))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (altered, r"model\.safetensors: its content does not match"),
        (cut, r"model\.safetensors: its content does not match"),
        (
            lambda run: shutil.rmtree(run / "pretrained"),
            r"model\.json: missing, and .* starts from",
        ),
        (lambda run: (run / PRETRAINED_RECORD).unlink(), r"pretrained\.json: missing"),
        (
            lambda run: (run / PRETRAINED_RECORD).write_text('{"source": "x"}'),
            r"pretrained\.json: damaged",
        ),
        (
            of_another_model,
            r"its checkpoint started from weights [0-9a-f]{16}, its pretrained\.json",
        ),
    ],
)
def test_a_start_that_is_not_what_the_run_began_with_is_one_line(
    exported: Path, tmp_path: Path, damage: Callable[[Path], object], says: str
) -> None:
    experiment = started(exported, lora=True, training__images=BATCH)
    resolve(experiment, at(tmp_path))
    train(experiment, tmp_path)
    damage(tmp_path)
    with pytest.raises(CheckpointProblem, match=says):
        train(experiment, tmp_path)
    with pytest.raises(CheckpointProblem, match=says):  # LoRA's export needs what is frozen
        export_run(at(tmp_path), checkpoint_name(BATCH), SamplingConfig(), tmp_path / "out")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model__base_channels": 12}, r"has model\.base_channels=9, this training 12"),
        # neither of these shows in the weights' shapes
        ({"model__norm_groups": 9}, r"has model\.norm_groups=3, this training 9"),
        ({"process__prediction": "v"}, r"has process\.prediction=eps, this training v"),
        ({"process": {"name": "edm"}}, r"has process\.name=vp, this training edm"),
        ({"model": {"name": "dit"}}, r"has model\.name=unet, this training dit"),
    ],
)
def test_a_base_of_another_kind_is_refused(
    exported: Path, tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(UsageProblem, match=says):
        resolve(started(exported, **changes), at(tmp_path))
    assert at(tmp_path).list() == {}


def test_other_classes_and_shapes_are_refused(exported: Path, tmp_path: Path) -> None:
    run, three = at(tmp_path), ["cat", "dog", "owl"]
    with pytest.raises(
        UsageProblem, match=r"10 classes \(0, 1, 2, \.\.\), the data have 3 classes .cat"
    ):
        resolve(started(exported), run, three)
    with pytest.raises(UsageProblem, match="images of 1 x 8 x 8, the data are 3 x 8 x 8"):
        resolve_pretrained(started(exported), run, DIGITS, (3, 8, 8))
    with pytest.raises(CheckpointProblem, match=r"no model\.json and model\.safetensors"):
        resolve(started("./nowhere"), run)
    assert run.list() == {}
    new = tiny(pretrained={"model": str(exported), "labels": "new"}, model__dropout=0.3)
    assert resolve(new, run, three) is not None


# -- LoRA ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tuned(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of adapters of rank 2 with CALL's of rank 1 beside them."""
    run = tmp_path_factory.mktemp("tuned")
    experiment = started(exported, lora=True, objective=CALL)
    resolve(experiment, at(run))
    train(experiment, run)
    return run


def by_hand(frozen: Tensor, b: Tensor, a: Tensor) -> Tensor:
    """B A in float64, one matrix under the other, in the shape of the layer's weight."""
    rows = [b[m].double().numpy() @ a[m].double().numpy() for m in range(len(b))]
    return torch.cat([torch.from_numpy(matrix) for matrix in rows]).reshape(frozen.shape)


@pytest.mark.parametrize("weights", ["merged", "general"])
def test_the_export_of_adapters_is_a_plain_network(
    exported: Path, tuned: Path, tmp_path: Path, weights: str
) -> None:
    """W^f + B^g A^g + B^e A^e, or without the last (CALL section 5.3, table 4)."""
    export_run(at(tuned), checkpoint_name(END), SamplingConfig(weights=weights), tmp_path)
    found, frozen = (load_file(folder / WEIGHTS) for folder in (tmp_path / "model", exported))
    average = state(tuned)[1]["ema"]
    assert found.keys() == frozen.keys()
    kinds = {"general": 0, "expert": 0}
    for name, tensor in found.items():
        expected = frozen[name].double()
        for kind in kinds:
            part = f"{name.removesuffix('weight')}parts.{kind}"
            if f"{part}.b" in average:
                kinds[kind] += 1
                if kind == "general" or weights == "merged":
                    expected = expected + by_hand(
                        tensor, average[f"{part}.b"], average[f"{part}.a"]
                    )
        assert torch.allclose(tensor.double(), expected, rtol=1e-5, atol=1e-7), name
    assert kinds["general"] > kinds["expert"] > 0


def test_the_merged_network_says_what_the_adapted_one_does(
    exported: Path, tuned: Path, tmp_path: Path
) -> None:
    model = load_exported(exported)
    apart = UNet(model.card.model, (1, 8, 8), 10)
    apart.load_state_dict(load_file(exported / WEIGHTS))
    add_parts(apart, "general", LoRAConfig(rank=2), "")
    add_parts(apart, "expert", LoRAConfig(rank=1, layers=("up",)), "")
    missing = apart.load_state_dict(state(tuned)[1]["ema"], strict=False)
    assert not missing.unexpected_keys
    export_run(at(tuned), checkpoint_name(END), SamplingConfig(), tmp_path)
    merged = load_exported(tmp_path / "model").denoiser.network
    given = (torch.randn(4, 1, 8, 8), torch.tensor([0, 10, 500, 999]), torch.tensor([0, 1, 2, -1]))
    with torch.no_grad():
        assert torch.equal(merged(*given), apart.eval()(*given))
        assert not torch.allclose(merged(*given), model.denoiser.network(*given), atol=1e-3)


def test_only_adapters_are_trained_and_kept(exported: Path, trained: Path, tuned: Path) -> None:
    manifest, kinds = state(tuned)
    for kind, tensors in kinds.items():
        assert all(".parts." in name for name in tensors), kind
    numbers = sum(tensor.numel() for tensor in kinds["ema"].values())
    headers = 4 * len(kinds["ema"]) * 150  # of safetensors, at most
    stored = sum(file.bytes for file in manifest.files.values())
    assert stored < 4 * 4 * numbers + headers
    whole = sum(file.bytes for file in state(trained, HALF)[0].files.values())
    assert stored < 0.6 * whole
    # B starts at 0: the first loss is the base's own, whatever A is
    assert manifest.pretrained == hashlib.sha256((exported / WEIGHTS).read_bytes()).hexdigest()


def test_adapters_resume_to_the_last_bit(exported: Path, tuned: Path, tmp_path: Path) -> None:
    run = copy_half_time(tuned, tmp_path / "run")
    shutil.copytree(tuned / "pretrained", run / "pretrained")
    shutil.copy(tuned / PRETRAINED_RECORD, run)
    done = train(started(exported, lora=True, objective=CALL), run)
    assert done.trained.notes == [f"resumed from {HALF} images"]
    for kind, tensors in state(tuned)[1].items():
        found = state(run)[1][kind]
        assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items()), kind


def test_a_new_label_embedding_is_trained_beside_the_adapters(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five classes instead of ten: the rest of the network is the base's (CBDM table 2)."""
    monkeypatch.setenv("WHIPRAY_CACHE", str(tmp_path / "cache"))
    names = ["ant", "bee", "cow", "dog", "eel"]
    for number, name in enumerate(2 * names):
        folder = tmp_path / "images" / ("train" if number < 5 else "reference") / name
        folder.mkdir(parents=True)
        Image.fromarray(np.full((8, 8), 25 * number, np.uint8)).save(folder / "one.png")
    root = str(tmp_path / "images")
    data = {"source": "folder", "root": root, "image_size": 8, "channels": 1}
    changes = {"data": data, "training__images": BATCH, "training__validation_images": 0}
    run = tmp_path / "run"
    experiment = tiny(
        pretrained={"model": str(exported), "labels": "new", "lora": {"rank": 2}}, **changes
    )
    resolve(experiment, at(run), names)
    train(experiment, run)
    kept = state(run, BATCH)[1]["ema"]
    assert {name for name in kept if ".parts." not in name} == {"labels.weight"}
    export_run(at(run), checkpoint_name(BATCH), SamplingConfig(), tmp_path / "out")
    card = load_exported(tmp_path / "out/model").card
    assert card.class_names == names
    found = load_file(tmp_path / "out/model" / WEIGHTS)
    assert torch.equal(found["labels.weight"], kept["labels.weight"])
    assert len(found["labels.weight"]) == 5


def test_lora_fits_as_it_is() -> None:
    """The ends of the network have as many channels as an image: no rank of 16 there."""
    with torch.device("meta"):
        network = UNet(UNetConfig(), (3, 32, 32), 10)
    layers = add_parts(network, "general", LoRAConfig(), "pretrained.lora")
    everything = [n for n, m in network.named_modules() if hasattr(m, "parts")]
    assert sorted(everything) == layers
    assert {"embedding.0", "down.0.conv_1", "middle.0.attention.qkv", "up.0.project"} < {*layers}


# -- theta_g alone ----------------------------------------------------------------------------------


def test_theta_g_alone_needs_reserved_capacity(trained: Path, tmp_path: Path) -> None:
    general = SamplingConfig(weights="general")
    with pytest.raises(UsageProblem, match="the model has no reserved capacity"):
        export_run(at(trained), checkpoint_name(HALF), general, tmp_path)
    with pytest.raises(UsageProblem, match="objective ddpm reserves no capacity"):
        tiny(sampling__weights="general")
    assert tiny(sampling__weights="general", objective=CALL).sampling.weights == "general"


def test_a_search_can_vary_which_weights_are_sampled() -> None:
    choices = {"type": "categorical", "choices": ["merged", "general"]}
    train_level = {"optimizer.lr": {"type": "float", "low": 1e-4, "high": 1e-3}}
    content = {"train": train_level, "sample": {"sampling.weights": choices}}
    space = parse_space(yaml.safe_dump({"description": "x", **content}), "x")
    Sweep("s", tiny(objective=CALL), space).points.check()
    with pytest.raises(UsageProblem, match=r"no point with sampling\.weights=general: .*theta_g"):
        Sweep("s", tiny(), space).points.check()


def test_a_recipe_takes_a_start() -> None:
    given = ["pretrained.model=models:/digits@champion", "pretrained.lora.rank=4"]
    experiment = load_experiment("digits-demo", given).value
    assert experiment.pretrained == PretrainedConfig(
        model="models:/digits@champion", lora=LoRAConfig(rank=4)
    )
