"""The loop, the engine and the export, in one process of one worker."""

from __future__ import annotations

import gc
import json
import shutil
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from support.sampling import ddim
from support.training import BATCH, config_of, digits_alone, distance
from torch import Tensor, nn

from whipray.platform.config.layers import flatten
from whipray.trainers.checkpoint import verify, write_manifest
from whipray.trainers.checkpoint_names import MANIFEST
from whipray.trainers.checkpointing import ResumePoint, check_same_run
from whipray.trainers.data import Splits
from whipray.trainers.data.batches import gather, to_float
from whipray.trainers.data.order import IndexOrder
from whipray.trainers.errors import CheckpointProblem, DivergenceProblem, UsageProblem
from whipray.trainers.export import (
    CARD,
    WEIGHTS,
    ModelCard,
    Pretrained,
    export,
    load_exported,
    read_pretrained,
    write_card,
)
from whipray.trainers.hooks import Progress
from whipray.trainers.integrity import seal, unseal
from whipray.trainers.loop import Training, rows_of_worker
from whipray.trainers.networks import UNet
from whipray.trainers.objectives import Batch
from whipray.trainers.processes import VPConfig, edm
from whipray.trainers.randomness import BatchRandom, derive_seed
from whipray.trainers.state_copy import Snapshot
from whipray.trainers.trainer_config import LoopConfig, TrainerConfig

CPU = torch.device("cpu")
PAUSE_S = 0.1


class Folder:
    """Hooks that keep reports, and checkpoints in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.reports: list[Progress] = []
        self.events: list[int | str] = []
        self.checkpoint_now_at = 0
        """Images at whose report a host is given notice."""

    def report(self, progress: Progress) -> bool:
        self.reports.append(progress)
        self.events.append(progress.images_seen)
        return False

    def checkpoint_now(self) -> bool:
        return self.reports[-1].images_seen == self.checkpoint_now_at

    def checkpoint(self, name: str, snapshot: Callable[[], Snapshot]) -> None:
        self.events.append(name)
        (self.folder / name).mkdir()
        taken = snapshot()
        share = taken.write(self.folder / name)
        write_manifest(self.folder / name, taken.manifest([share]))

    def wait_for_uploads(self) -> None:
        self.events.append("settled")

    def resume(self) -> ResumePoint:
        newest = max(path.parent for path in self.folder.glob(f"*/{MANIFEST}"))
        return ResumePoint(newest, verify(newest))


@pytest.fixture(scope="module")
def data() -> Splits:
    return digits_alone()


Train = Callable[..., tuple[Training, Folder]]


@pytest.fixture
def train(data: Splits, tmp_path: Path) -> Iterator[Train]:
    """Train, and leave the engine open to look at."""
    opened: list[Training] = []

    def run(
        resume: ResumePoint | None = None, checkpoint_now_at: int = 0, **changes: Any
    ) -> tuple[Training, Folder]:
        config = config_of(**changes)
        training = Training(config, data, CPU, resume)
        opened.append(training)
        hooks = Folder(tmp_path)
        hooks.checkpoint_now_at = checkpoint_now_at
        training.run(hooks, config.model_dump(mode="json"))
        return training, hooks

    yield run
    for training in opened:
        training.close()


def by_hand(
    config: TrainerConfig, data: Splits
) -> tuple[nn.Module, dict[str, Tensor], dict[str, Tensor]]:
    """The same training in plain PyTorch, the whole batch at once.

    Returns:
        its network, the average of a half-life, and that of a profile of width .1.
    """
    torch.manual_seed(derive_seed(config.seed, "weights"))
    network = UNet(config.model, (1, 8, 8), 10)
    average = {name: p.detach().clone() for name, p in network.named_parameters()}
    profile = {name: torch.zeros_like(p) for name, p in average.items()}
    optimizer = torch.optim.Adam(network.parameters(), betas=config.optimizer.betas)
    process = config.process.build()
    objective = config.objective.build(data.train.class_counts.tolist())
    order = IndexOrder(data.train.labels, 10, config.data.class_sampling, config.seed)

    def predict(x_t: Tensor, t: Tensor, labels: Tensor, **extra: Any) -> Tensor:
        output: Tensor = network(*process.network_input(x_t, t), labels, **extra)
        return output

    for step in range(config.training.images // BATCH):
        indices = order.indices(step * BATCH, BATCH)
        batch = Batch(
            to_float(gather(data.train, indices, CPU), None),
            torch.from_numpy(data.train.labels[indices]),
        )
        rng = BatchRandom(config.seed, step, 0, BATCH, CPU)
        loss = objective(predict, batch, process, rng, step * BATCH)
        optimizer.zero_grad()
        loss.total.backward()
        if config.optimizer.clip:
            nn.utils.clip_grad_norm_(network.parameters(), config.optimizer.clip)
        seen = (step + 1) * BATCH
        optimizer.param_groups[0]["lr"] = config.optimizer.lr * min(
            1.0, seen / config.optimizer.warmup_images
        )
        optimizer.step()
        half_life = min(config.optimizer.ema_half_life_images, config.optimizer.ema_ramp * seen)
        for name, p in network.named_parameters():
            average[name].lerp_(p.detach(), 1 - 0.5 ** (BATCH / half_life))
            end, begin = (x / config.training.images for x in (seen, seen - BATCH))
            profile[name] += (end**7.9372 - begin**7.9372) * p.detach()  # of gamma 6.9372
    return network, average, profile


@pytest.mark.parametrize(
    ("stage", "micro_batch", "clip"),
    [(0, 8, 0.5), (0, None, 0.0), (1, None, 0.5), (2, 8, 0.5), (3, 16, 0.0)],
)
def test_a_training_is_what_plain_pytorch_makes_of_it(
    train: Train, data: Splits, stage: int, micro_batch: int | None, clip: float
) -> None:
    """Gradients averaged over the pieces and clipped once, at every stage; warm-up; EMA ramp."""
    changes = {
        "objective": {"name": "cbdm", "tau": 2.0},
        "optimizer__clip": clip,
        "optimizer__ema_ramp": 0.5,
        "optimizer__ema_half_life_images": 2.2 * BATCH,
        "optimizer__ema_profiles": [0.1],
        "training__images": 5 * BATCH,
    }
    training, _ = train(**changes, engine__zero_stage=stage, training__micro_batch=micro_batch)
    network, average, profile = by_hand(config_of(**changes), data)
    plain = {name: p.detach() for name, p in network.named_parameters()}
    for kind, expected in (("weights", plain), ("ema", average), ("ema_0.1", profile)):
        found = {
            name: training.engine.state.full(p, kind).view_as(plain[name])
            for name, p in training.engine.network.named_parameters()
        }
        assert distance(expected, found) < 1e-5
    assert min(distance(plain, average), distance(profile, average)) > 1e-2


@pytest.mark.parametrize(
    "engine",
    [
        {"activation_checkpointing": True},
        {"activation_checkpointing": True, "zero_stage": 3},
        {"offload": "optimizer", "zero_stage": 1},
        {"offload": "all", "zero_stage": 3},
    ],
    ids=str,
)
def test_what_saves_memory_changes_no_result(train: Train, engine: dict[str, Any]) -> None:
    """CALL's, whose theta and theta_g share dropout; the state that is restored is the one saved."""
    changes = {
        "objective": {"name": "call", "base": {"name": "cbdm"}},
        "model__dropout": 0.3,
        "training__images": 2 * BATCH,
        "training__micro_batch": 16,
    }
    _, plain = train(**changes)
    expected = [report.metrics["loss/total"] for report in plain.reports]
    shutil.rmtree(plain.resume().folder)
    _, hooks = train(**changes, engine=engine)
    found = [report.metrics["loss/total"] for report in hooks.reports]
    assert found == pytest.approx(expected, rel=1e-6)
    train(hooks.resume(), **changes, engine=engine)  # checks the norms and the next loss


@pytest.mark.parametrize("old", [(True, "full"), (False, "off")])
def test_compile_is_read_as_it_was_written_before(old: tuple[bool, str]) -> None:
    assert config_of(engine__compile=old[0]).engine.compile == old[1]


@pytest.mark.parametrize(
    ("engine", "reason"),
    [
        ({"compile": "regional", "zero_stage": 3}, "choose stage 0, 1 or 2"),
        ({"compile": "full", "activation_checkpointing": True}, "choose regional"),
        ({"offload": "optimizer"}, "offload optimizer needs zero_stage 1"),
        ({"offload": "all", "zero_stage": 2}, "offload all needs zero_stage 3"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(engine: dict[str, Any], reason: str) -> None:
    with pytest.raises(UsageProblem, match=reason):
        config_of(engine=engine)


def test_graphs_need_a_gpu(data: Splits) -> None:
    with pytest.raises(
        UsageProblem, match=r"engine\.compile=graphs needs a GPU, this worker has cpu"
    ):
        Training(config_of(engine__compile="graphs"), data, CPU, None)


def test_stage_3_holds_no_more_than_a_share_of_the_weights(data: Splits) -> None:
    training = Training(config_of(engine__zero_stage=3, model__base_channels=18), data, CPU, None)
    network = training.engine.network
    whole = sum(shape.numel() for shape in training.engine.state.shapes.values())
    held: list[int] = []
    for module in network.modules():
        module.register_forward_hook(
            lambda *_: held.append(sum(p.numel() for p in network.parameters()))
        )
    training._loss(0, 0)
    training.close()
    assert max(held) < 0.4 * whole


def test_reports_and_checkpoints_come_by_images(train: Train) -> None:
    _, hooks = train(
        training__images=200,  # seven batches of 32 make it 224
        training__report_every_images=64,
        training__checkpoint_every_images=100,
    )
    # a report first: a run that is killed after a checkpoint has reported what led to it
    end = [224, "images-000000000224", "settled"]
    assert hooks.events == [64, 128, "images-000000000128", 192, *end]
    assert {p.total_images for p in hooks.reports} == {224}
    assert ["validation/denoising" in p.metrics for p in hooks.reports] == [0, 1, 0, 1]
    assert [p.metrics["lr"] for p in hooks.reports] == [2.5e-3, 5e-3, 5e-3, 5e-3]
    manifest = hooks.resume().manifest
    assert (manifest.images_seen, manifest.optimizer_steps) == (224, 7)


def test_notice_has_a_checkpoint_kept_before_the_training_goes_on(train: Train) -> None:
    _, hooks = train(training__images=4 * BATCH, checkpoint_now_at=2 * BATCH)
    now = [2 * BATCH, "images-000000000064", "settled"]
    end = [4 * BATCH, "images-000000000128", "settled"]
    assert hooks.events == [BATCH, *now, 3 * BATCH, *end]


def test_a_report_is_the_mean_since_the_last_one(train: Train) -> None:
    _, each = train(training__images=3 * BATCH)
    losses = [report.metrics["loss/total"] for report in each.reports]
    shutil.rmtree(each.resume().folder)
    _, once = train(
        training__images=3 * BATCH, training__micro_batch=16, training__report_every_images=96
    )
    (report,) = once.reports
    assert report.metrics["loss/total"] == pytest.approx(sum(losses) / 3, rel=1e-6)


def test_images_per_second_are_from_report_to_report_with_all_between(
    data: Splits, tmp_path: Path
) -> None:
    class Slow(Folder):
        def report(self, progress: Progress) -> bool:
            time.sleep(PAUSE_S)
            return super().report(progress)

        def checkpoint(self, *files: Any) -> None:
            time.sleep(PAUSE_S)
            super().checkpoint(*files)

    config = config_of(training__images=3 * BATCH, training__checkpoint_every_images=2 * BATCH)
    training, hooks = Training(config, data, CPU, None), Slow(tmp_path)
    training.run(hooks, config.model_dump(mode="json"))
    training.close()
    seconds = [BATCH / report.metrics["images_per_second"] for report in hooks.reports]
    assert seconds[1] >= PAUSE_S
    assert seconds[2] >= 2 * PAUSE_S


def test_a_finished_training_has_nothing_left_to_do(train: Train) -> None:
    _, hooks = train(training__images=BATCH)
    again, later = train(hooks.resume(), training__images=BATCH)
    assert later.reports == []
    assert again.images_seen == BATCH


def test_batches_are_shared_evenly() -> None:
    def plan(**values: int) -> LoopConfig:
        return LoopConfig(images=1, **values)

    assert rows_of_worker(plan(batch_size=96), 3) == (32, 32)
    assert rows_of_worker(plan(batch_size=96, micro_batch=8), 3) == (32, 8)
    assert rows_of_worker(plan(batch_size=96, micro_batch=64), 3) == (32, 32)
    with pytest.raises(UsageProblem, match="batch_size 64 cannot be shared by 3 workers"):
        rows_of_worker(plan(batch_size=64), 3)
    with pytest.raises(UsageProblem, match="micro_batch 5 does not divide a worker's 32 rows"):
        rows_of_worker(plan(batch_size=64, micro_batch=5), 2)


def test_the_validation_loss_is_a_fixed_mean_over_fixed_images(data: Splits) -> None:
    found = []
    for micro_batch in (None, 8, 4):
        config = config_of(training__micro_batch=micro_batch, model__dropout=0.5)
        training = Training(config, data, CPU, None)
        torch.manual_seed(3)
        for parameter in training.engine.network.parameters():
            nn.init.normal_(parameter, std=0.1)
        found += [training._validation_loss(), training._validation_loss()]
        assert training.engine.network.training
        training.close()

    picked = torch.linspace(0, 739, 37).long().numpy()  # of 740 reference images
    assert set(data.reference.labels[picked]) == set(range(10))
    rng = BatchRandom(derive_seed(config.seed, "validation"), 0, 0, 37, CPU)
    x_0 = to_float(gather(data.reference, picked, CPU), None)
    t, eps = rng.integers("t", 1000), rng.normal("eps", (1, 8, 8))
    labels = torch.from_numpy(data.reference.labels[picked])
    x_t = training.process.perturb(x_0, t, eps)
    with torch.no_grad():
        expected = nn.functional.mse_loss(
            training.engine.network.eval()(x_t, t.float(), labels), eps
        )
    assert found == pytest.approx([float(expected)] * 6, rel=1e-6)


def test_check_same_run_names_the_key() -> None:
    saved = config_of(objective__name="cbdm").model_dump(mode="json")
    free = ("engine.", "training.images")

    def now(**changes: Any) -> dict[str, Any]:
        return flatten(config_of(objective__name="cbdm", **changes))

    check_same_run(flatten(saved), now(engine__zero_stage=3, training__images=64), free)
    del saved["optimizer"]["ema_profiles"]  # as of a version that did not know them
    check_same_run(flatten(saved), now(), free)
    with pytest.raises(CheckpointProblem, match=r"optimizer\.ema_profiles=None, not \[0\.1\]"):
        check_same_run(flatten(saved), now(optimizer__ema_profiles=[0.1]), free)
    for key in ("share_of_many", "many_above"):
        del saved["training"][key]
    check_same_run(flatten(saved), now(), free)
    with pytest.raises(CheckpointProblem, match=r"training\.share_of_many=None, not 0\.5"):
        check_same_run(flatten(saved), now(training__share_of_many=0.5), free)
    with pytest.raises(CheckpointProblem, match=r"process\.name=vp, not edm"):
        check_same_run(flatten(saved), now(process__name="edm"), free)
    with pytest.raises(CheckpointProblem, match=r"objective\.tau=1\.0, not 1\.5"):
        check_same_run(flatten(saved), now(objective__tau=1.5), free)
    with pytest.raises(CheckpointProblem, match=r"data\.long_tail\.ratio=20\.0, not 50\.0"):
        check_same_run(flatten(saved), now(data__long_tail__ratio=50), free)
    packed = {key: value for key, value in now().items() if not key.startswith("data.")}
    packed |= {
        "data.source": "packed",
        "data.path": "s3://b/set",
        "data.flip": saved["data"]["flip"],
    }
    packed["data.class_sampling"] = saved["data"]["class_sampling"]
    check_same_run(
        flatten(saved), packed, free
    )  # which images it has is compared by `check_same_data`
    with pytest.raises(CheckpointProblem, match=r"data\.class_sampling=natural, not sqrt"):
        check_same_run(flatten(saved), packed | {"data.class_sampling": "sqrt"}, free)


@pytest.mark.slow
def test_trainings_one_after_another_leave_nothing_behind(data: Splits, tmp_path: Path) -> None:
    """A sweep's processes are used again: other sizes, stages and objectives, and failures."""

    def once(folder: Path, **changes: Any) -> weakref.ref[nn.Module]:
        folder.mkdir()
        config = config_of(training__images=BATCH, **changes)
        training = Training(config, data, CPU, None)
        training.run(Folder(folder), config.model_dump(mode="json"))
        training.close()
        return weakref.ref(training.engine.network)

    def failing(stage: int) -> weakref.ref[nn.Module]:
        """A resume that does not continue."""
        resume = Folder(tmp_path / "1").resume()
        other = resume.manifest.model_copy(update={"next_loss": 9.0})
        config = config_of(engine__zero_stage=stage)
        with (
            patch.object(Training, "_next_loss", autospec=True, return_value=8.0) as asked,
            pytest.raises(DivergenceProblem, match="next loss 8, saved 9"),
        ):
            Training(config, data, CPU, ResumePoint(resume.folder, other))
        (training,) = asked.call_args.args
        return weakref.ref(training.engine.network)

    networks = [once(tmp_path / str(stage), engine__zero_stage=stage) for stage in range(4)]
    networks.append(once(tmp_path / "other", model__base_channels=12, objective__name="cbdm"))
    networks += [failing(stage) for stage in (0, 1, 3)]
    gc.collect()
    assert [network() for network in networks] == [None] * 8


def test_an_exported_model_is_the_average(train: Train, tmp_path: Path) -> None:
    training, hooks = train()
    sampling = ddim(3, 0.5)
    resume = hooks.resume()
    card = export(resume.folder, resume.manifest, tmp_path / "model", sampling)
    model = load_exported(tmp_path / "model")
    assert model.card == card
    assert (card.sampling, card.images_seen, card.image_shape) == (sampling, 8 * BATCH, (1, 8, 8))
    assert card.class_counts[0] > card.class_counts[9] == 5
    assert card.checkpoint == resume.manifest.content_hash()

    x, t, labels = (
        torch.randn(4, 1, 8, 8),
        torch.tensor([0, 10, 500, 999]),
        torch.tensor([0, 1, 2, -1]),
    )
    network = training.engine.network.eval()
    weights_say = network(x, t, labels)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(training.engine.state.full(parameter, "ema"))
        average_says = network(x, t, labels)
        assert torch.equal(model.denoiser.network(x, t, labels), average_says)
    assert not torch.allclose(weights_say, average_says, atol=1e-2)
    images = model.sample(torch.tensor([1, 2]), card.sampling, seed=0)
    assert images.shape == (2, 1, 8, 8)


def test_a_measured_sigma_data_is_kept_by_all_that_follows(
    train: Train, data: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured_edm = {"process": {"name": "edm", "sigma_data": None}}
    training, hooks = train(**measured_edm, training__images=2 * BATCH)
    process = training.process_config
    assert process.sigma_data == pytest.approx((data.train.images / 127.5 - 1).std())
    resume = hooks.resume()
    assert resume.manifest.process == process
    assert resume.manifest.config["process"]["sigma_data"] is None  # as it was asked for

    def again(_images: Any) -> float:
        raise AssertionError("measured again")

    monkeypatch.setattr(edm, "standard_deviation", again)
    resumed, _ = train(resume, **measured_edm, training__images=3 * BATCH)
    assert resumed.process_config == resumed.process.config == process

    export(resume.folder, resume.manifest, tmp_path / "model", ddim(3))
    model = load_exported(tmp_path / "model")
    assert model.card.process == model.denoiser.process.config == process
    assert model.sample(torch.tensor([1, 2]), model.card.sampling, seed=0).isfinite().all()

    def tune(pretrained: Pretrained, **changes: Any) -> Training:
        config = config_of(pretrained={"model": "./model"}, **changes)
        tuned = Training(config, data, CPU, None, pretrained)
        tuned.close()
        return tuned

    pretrained = read_pretrained(tmp_path / "model")
    other_noise = {"process": {**measured_edm["process"], "p_mean": -0.8}}
    tuned = tune(pretrained, **other_noise).process_config
    assert tuned == process.model_copy(update={"p_mean": -0.8})
    with pytest.raises(UsageProblem, match=r"has process\.sigma_data=0\.\d+, this training 0\.5"):
        tune(pretrained, process={"name": "edm"})
    with pytest.raises(UsageProblem, match=r"has process\.name=edm, this training vp"):
        tune(pretrained)
    monkeypatch.undo()
    of_vp = replace(pretrained, card=pretrained.card.model_copy(update={"process": VPConfig()}))
    with pytest.raises(UsageProblem, match=r"has process\.name=vp, this training edm"):
        tune(of_vp, **measured_edm)


def test_a_checkpoint_of_an_earlier_format_is_refused(train: Train) -> None:
    _, hooks = train(training__images=BATCH)
    folder = hooks.resume().folder
    manifest = json.loads((folder / MANIFEST).read_text())
    earlier = {
        **manifest,
        "format": 1,
        "start": manifest.pop("pretrained"),
    }  # as it was in format 1
    (folder / MANIFEST).write_text(json.dumps(earlier))
    with pytest.raises(CheckpointProblem, match="checkpoint format 1, this version reads 5"):
        verify(folder)


def test_an_export_that_does_not_fit_together_says_so(train: Train, tmp_path: Path) -> None:
    _, hooks = train(training__images=BATCH)
    model = tmp_path / "model"
    with pytest.raises(CheckpointProblem, match=r"no model\.json"):
        load_exported(model)
    resume = hooks.resume()
    export(resume.folder, resume.manifest, model, ddim())

    card = (model / CARD).read_text()
    flipped = card.replace('"base_channels": 9', '"base_channels": 8')
    assert flipped != card
    (model / CARD).write_text(flipped)
    with pytest.raises(CheckpointProblem, match="altered since it was written"):
        load_exported(model)
    other = unseal(card)
    other["model"]["base_channels"] = 12
    (model / CARD).write_text(json.dumps(seal(other)))
    with pytest.raises(CheckpointProblem, match=r"parameter conv_in\.bias is \(9,\)"):
        load_exported(model)
    for old in (card.replace('"format": 5,', '"format": 1,'), card.replace('"format": 5,', "")):
        (model / CARD).write_text(old)
        with pytest.raises(CheckpointProblem, match=r"model format (1|None), this version reads 5"):
            load_exported(model)
    (model / CARD).write_text(card[: len(card) // 2])
    with pytest.raises(CheckpointProblem, match="cannot be read"):
        load_exported(model)
    (model / CARD).write_text(card)
    weights = (model / WEIGHTS).read_bytes()
    for damaged in (weights[:-1], weights[:-1] + bytes([weights[-1] ^ 1])):
        (model / WEIGHTS).write_bytes(damaged)
        with pytest.raises(CheckpointProblem, match=r"safetensors does not match model\.json"):
            load_exported(model)
    (model / WEIGHTS).write_bytes(weights[:-1])
    content = {key: value for key, value in unseal(card).items() if key != WEIGHTS}
    write_card(model, ModelCard.model_validate(content))
    with pytest.raises(CheckpointProblem, match="cannot be read"):
        load_exported(model)


@pytest.mark.slow
def test_a_first_training_says_nothing() -> None:
    """A process of its own, without a launcher: DeepSpeed's talk would drown the progress."""
    script = """
import sys, tempfile
from pathlib import Path
from support.training import BATCH, tiny, train
for stage in (0, 2, 3):
    train(tiny(engine__zero_stage=stage, training__images=BATCH), Path(tempfile.mkdtemp()))
sys.exit("mlflow" in sys.modules)  # DeepSpeed would import it, for a tool that nobody uses
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        check=False,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
