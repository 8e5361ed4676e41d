"""Trainings by real groups of processes: shared, interrupted, resumed elsewhere, and refused."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from support.own_groups import train_late, train_without_data
from support.training import (
    BATCH,
    Done,
    at,
    copy_half_time,
    distance,
    rewrite,
    state,
    tiny,
    train,
    train_beside_another_image,
    train_with_nan,
    whole_batches,
)
from support.workers import Workers

from whipray.platform.storage.checkpoints import CheckpointStore
from whipray.trainers.checkpoint import profile_kind, read_tensors
from whipray.trainers.checkpoint_names import checkpoint_name
from whipray.trainers.errors import CheckpointProblem, DivergenceProblem
from whipray.trainers.hooks import Progress

pytestmark = pytest.mark.slow

ROUNDING = 2e-5  # of losses, relative; after eight steps they differ by about 1e-6
BF16 = 5e-3
HALF, END = 4 * BATCH, 8 * BATCH


class Groups:
    """Process groups of any size, each started once."""

    def __init__(self) -> None:
        self._groups: dict[int, Workers] = {}

    def run(self, size: int, *action: Any) -> list[Any]:
        if size not in self._groups:
            self._groups[size] = Workers(size)
        return self._groups[size].run(*action)

    def train(self, size: int, folder: Path, **changes: Any) -> Done:
        """What worker 0 has to tell, after making sure that all tell the same."""
        done = self.run(size, train, tiny(**changes), folder)
        for other in done:
            if isinstance(other, Exception):
                raise other
            assert other.losses() == done[0].losses()
        first: Done = done[0]
        return first

    def close(self) -> None:
        for group in self._groups.values():
            group.__exit__()


@pytest.fixture(scope="module")
def groups() -> Iterator[Groups]:
    groups = Groups()
    yield groups
    groups.close()


@pytest.fixture(scope="module")
def undisturbed(groups: Groups, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Done]:
    """One worker, ZeRO 0, from the start to the end."""
    folder = tmp_path_factory.mktemp("undisturbed")
    return folder, groups.train(1, folder)


def comparable(report: Progress) -> dict[str, float]:
    return {k: v for k, v in report.metrics.items() if k != "images_per_second"}


@pytest.mark.parametrize(
    ("workers", "changes"),
    [
        (2, {}),
        (4, {"engine__zero_stage": 3}),
        (1, {"training__micro_batch": 8}),
        (2, {"training__micro_batch": 4, "engine__zero_stage": 2}),
    ],
)
def test_workers_and_pieces_do_not_change_a_training(
    groups: Groups,
    undisturbed: tuple[Path, Done],
    tmp_path: Path,
    workers: int,
    changes: dict[str, Any],
) -> None:
    done = groups.train(workers, tmp_path, **changes, training__images=HALF)
    reference_folder, reference = undisturbed
    assert done.losses() == pytest.approx(reference.losses()[:4], rel=ROUNDING)
    for report, expected in zip(done.reports, reference.reports, strict=False):
        assert comparable(report) == pytest.approx(comparable(expected), rel=ROUNDING)
    assert "validation/denoising" in comparable(done.reports[-1])
    (manifest, found), (reference_manifest, expected_state) = (
        state(tmp_path, HALF),
        state(reference_folder, HALF),
    )
    assert manifest.next_loss == pytest.approx(reference_manifest.next_loss, rel=ROUNDING)
    assert len(manifest.files) == workers
    for kind, tensors in expected_state.items():
        assert distance(tensors, found[kind]) < ROUNDING


@pytest.mark.parametrize(
    "objective",
    [
        {"name": "cbdm", "tau": 1.0, "label_samples": 2},
        {"name": "cbdm", "tau": 5.0, "thin": 0.5},
        {"name": "cbdm", "tau": 1.0, "gamma": 0.0, "label_drop_per": "batch"},
    ],
)
def test_workers_share_the_regulariser(
    groups: Groups, tmp_path: Path, objective: dict[str, Any]
) -> None:
    changes = {"objective": objective, "training__images": HALF}
    alone = groups.train(1, tmp_path / "alone", **changes)
    shared = groups.train(2, tmp_path / "shared", **changes, training__micro_batch=8)
    for name in ("loss/total", "loss/regulariser", "loss/commitment"):
        expected = [report.metrics[name] for report in alone.reports]
        assert [report.metrics[name] for report in shared.reports] == pytest.approx(
            expected, rel=ROUNDING
        )
    assert alone.reports[-1].metrics["loss/regulariser"] > 0


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((2, 2), (1, 1)),
        ((2, 3), (1, 2)),
        ((1, 2), (2, 3)),
        ((2, 1), (2, 0)),
        ((2, 0), (1, 3)),
        ((1, 0), (1, 0)),
    ],
    ids=lambda pair: f"{pair[0]}-workers-zero-{pair[1]}",
)
def test_a_run_goes_on_with_other_workers_and_another_stage(
    groups: Groups,
    undisturbed: tuple[Path, Done],
    tmp_path: Path,
    before: tuple[int, int],
    after: tuple[int, int],
) -> None:
    (workers, stage), (later_workers, later_stage) = before, after
    first = groups.train(workers, tmp_path, engine__zero_stage=stage, training__images=HALF)
    second = groups.train(later_workers, tmp_path, engine__zero_stage=later_stage)
    assert second.trained.notes == [f"resumed from {HALF} images"]
    reference_folder, reference = undisturbed
    assert first.losses() + second.losses() == pytest.approx(reference.losses(), rel=ROUNDING)
    found, expected = state(tmp_path)[1], state(reference_folder)[1]
    for kind, tensors in expected.items():
        assert distance(tensors, found[kind]) < ROUNDING
    # the average is not just another copy of the weights
    assert distance(expected["weights"], expected["ema"]) > 1000 * ROUNDING


@pytest.mark.parametrize(
    ("before", "after"),
    [((2, 2), (1, 1)), ((2, 3), (1, 0)), ((1, 1), (2, 3)), ((1, 0), (2, 2))],
    ids=lambda pair: f"{pair[0]}-workers-zero-{pair[1]}",
)
def test_power_function_averages_go_on_with_other_workers_and_another_stage(
    groups: Groups,
    undisturbed_profiles: Path,
    tmp_path: Path,
    before: tuple[int, int],
    after: tuple[int, int],
) -> None:
    """At the end of a checkpoint at every second step, of which the store keeps the last two whole."""
    (workers, stage), (later_workers, later_stage) = before, after
    groups.train(workers, tmp_path, **PROFILES, engine__zero_stage=stage, training__images=HALF)
    groups.train(later_workers, tmp_path, **PROFILES, engine__zero_stage=later_stage)
    found, expected = averages(tmp_path), averages(undisturbed_profiles)
    assert list(found) == list(expected) == [checkpoint_name(n * BATCH) for n in (2, 4, 6, 8)]
    for name, kinds in expected.items():
        for kind, tensors in kinds.items():
            assert distance(tensors, found[name][kind]) < ROUNDING
    _, whole = state(tmp_path)
    kept = ("ema_0.05", "ema_0.2")
    assert whole.keys() == {"weights", "exp_avg", "exp_avg_sq", "ema", *kept}
    for a, b in combinations(("weights", "ema", *kept), 2):  # each is an average of its own
        assert distance(whole[a], whole[b]) > 20 * ROUNDING


PROFILES = {
    "optimizer__ema_profiles": [0.05, 0.2],
    "training__checkpoint_every_images": 2 * BATCH,
    "keep_checkpoints": 2,
}


@pytest.fixture(scope="module")
def undisturbed_profiles(groups: Groups, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One worker, ZeRO 0, from the start to the end, with power-function averages."""
    folder = tmp_path_factory.mktemp("profiles")
    groups.train(1, folder, **PROFILES)
    return folder


def averages(run: Path) -> dict[str, dict[str, dict[str, torch.Tensor]]]:
    """Those that the store keeps: checkpoint -> kind -> parameter -> tensor."""
    store = CheckpointStore(at(run))
    found = {}
    for name, described in store.averages(checkpoint_name(END)).items():
        with TemporaryDirectory() as scratch:
            manifest = store.fetch_averages(name, described, Path(scratch))
            found[name] = {
                profile_kind(width): read_tensors(Path(scratch), manifest, profile_kind(width))
                for width in manifest.profiles
            }
    return found


@pytest.mark.parametrize(
    ("changes", "piece"),
    [({"data__flip": True}, 16), ({"data__flip": True}, 4), ({"augmentation__name": "ada"}, 8)],
    ids=["bytes", "bytes-in-pieces", "augmented-in-pieces"],
)
def test_workers_put_the_global_batch_together(
    groups: Groups, changes: dict[str, Any], piece: int
) -> None:
    """To the last bit what one worker makes alone, and nobody reads more images than its own."""
    experiment = tiny(**changes)
    ((expected, _),) = groups.run(1, whole_batches, experiment, BATCH)
    for wholes, most_read in groups.run(2, whole_batches, experiment, piece):
        assert most_read == BATCH // 2
        for found, wanted in zip(wholes, expected, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


def call_over(base: str) -> dict[str, Any]:
    """CALL with capacity reserved in two of the network's parts."""
    reserve = {"layers": ["up", "middle"], "rank": 1}
    return {"objective": {"name": "call", "base": {"name": base}, "reserve": reserve}}


@pytest.fixture(scope="module")
def undisturbed_call(
    groups: Groups, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Path, Done]]:
    """CALL over each base: one worker, ZeRO 0, from the start to the end."""
    folders = {base: tmp_path_factory.mktemp(f"call-{base}") for base in ("oc", "cbdm")}
    return {b: (folder, groups.train(1, folder, **call_over(b))) for b, folder in folders.items()}


@pytest.mark.parametrize(
    ("base", "before", "after"),
    [
        ("oc", (2, 1), (1, 3)),
        ("oc", (1, 2), (2, 0)),
        ("cbdm", (2, 3), (1, 1)),
        ("cbdm", (1, 3), (2, 2)),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{value[0]}-workers-zero-{value[1]}",
)
def test_call_goes_on_with_other_workers_and_another_stage(
    groups: Groups,
    undisturbed_call: dict[str, tuple[Path, Done]],
    tmp_path: Path,
    base: str,
    before: tuple[int, int],
    after: tuple[int, int],
) -> None:
    (workers, stage), (later_workers, later_stage) = before, after
    changes = call_over(base)
    half = {**changes, "training__images": HALF, "engine__zero_stage": stage}
    first = groups.train(workers, tmp_path, **half)
    second = groups.train(later_workers, tmp_path, **changes, engine__zero_stage=later_stage)
    reference_folder, reference = undisturbed_call[base]
    for name in ("total", "allocation"):
        found, expected = (
            [report.metrics[f"loss/{name}"] for report in reports]
            for reports in ([*first.reports, *second.reports], reference.reports)
        )
        # the term is a small difference of large squares
        assert found == pytest.approx(expected, rel=ROUNDING, abs=ROUNDING), name
    (_, kinds), (_, expected_kinds) = state(tmp_path), state(reference_folder)
    for kind, tensors in expected_kinds.items():
        assert distance(tensors, kinds[kind]) < ROUNDING
        parts = {name: tensor for name, tensor in tensors.items() if ".parts.expert." in name}
        assert parts
        assert distance(parts, {name: kinds[kind][name] for name in parts}) < 10 * ROUNDING


def test_parameters_that_zero_3_fetches_layer_by_layer_survive(
    groups: Groups, tmp_path: Path
) -> None:
    """Above 100,000 numbers DeepSpeed keeps only this worker's part between uses."""
    wide = {"model__base_channels": 48, "training__images": 3 * BATCH}
    alone = groups.train(1, tmp_path / "alone", **wide)
    shared = tmp_path / "shared"
    first = groups.train(2, shared, **{**wide, "training__images": BATCH}, engine__zero_stage=3)
    second = groups.train(2, shared, **{**wide, "training__images": 2 * BATCH})
    third = groups.train(2, shared, **wide, engine__zero_stage=3)
    losses = first.losses() + second.losses() + third.losses()
    assert losses == pytest.approx(alone.losses(), rel=ROUNDING)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_bf16_resumes_and_keeps_its_state_in_fp32(
    groups: Groups, undisturbed: tuple[Path, Done], tmp_path: Path, stage: int
) -> None:
    bf16 = {"engine__precision": "bf16"}
    whole = groups.train(2, tmp_path / "whole", **bf16, engine__zero_stage=stage)
    assert whole.losses() == pytest.approx(undisturbed[1].losses(), rel=5 * BF16)
    assert whole.losses() != pytest.approx(undisturbed[1].losses(), rel=ROUNDING)  # it is bf16
    resumed_folder = copy_half_time(tmp_path / "whole", tmp_path / "resumed")
    resumed = groups.train(1, resumed_folder, **bf16, engine__zero_stage=3 - stage)
    assert resumed.losses() == pytest.approx(whole.losses()[4:], rel=BF16)
    for kind, tensors in state(resumed_folder)[1].items():
        for tensor in tensors.values():
            assert tensor.dtype == torch.float32
        finer = [not torch.equal(t, t.bfloat16().float()) for t in tensors.values()]
        assert sum(finer) > 0.9 * len(finer), kind


def test_a_run_may_change_its_precision(groups: Groups, tmp_path: Path) -> None:
    groups.train(1, tmp_path, engine__precision="bf16", training__images=HALF)
    assert groups.train(1, tmp_path).trained.images_seen == END


def test_dropout_resumes_exactly_on_as_many_workers(groups: Groups, tmp_path: Path) -> None:
    dropout = {"model__dropout": 0.3, "objective": {"name": "cbdm"}}
    whole = groups.train(2, tmp_path / "whole", **dropout)
    resumed_folder = copy_half_time(tmp_path / "whole", tmp_path / "resumed")
    assert groups.train(2, resumed_folder, **dropout).losses() == whole.losses()[4:]
    found, expected = state(resumed_folder)[1], state(tmp_path / "whole")[1]
    for kind, tensors in expected.items():
        for name, tensor in tensors.items():
            assert torch.equal(tensor, found[kind][name])


def test_a_run_stopped_early_has_a_checkpoint_to_go_on_from(
    groups: Groups, undisturbed: tuple[Path, Done], tmp_path: Path
) -> None:
    stop_at = 3 * BATCH  # no checkpoint is due there
    stopped = groups.run(2, train, tiny(), tmp_path, stop_at)
    for done in stopped:
        assert done.trained.images_seen == stop_at
        assert done.trained.checkpoint == checkpoint_name(stop_at)
    assert CheckpointStore(at(tmp_path)).names() == [checkpoint_name(stop_at)]
    resumed = groups.train(1, tmp_path)
    assert resumed.losses() == pytest.approx(undisturbed[1].losses()[3:], rel=ROUNDING)


def test_a_checkpoint_without_manifest_is_redone_from_the_one_before(
    groups: Groups, undisturbed: tuple[Path, Done], tmp_path: Path
) -> None:
    reference_folder, reference = undisturbed
    run = copy_half_time(reference_folder, tmp_path)
    torn = run / "checkpoints" / checkpoint_name(END)
    torn.mkdir()
    (torn / "shard-0.safetensors").write_bytes(b"half of a sha")
    resumed = groups.train(1, run)
    assert resumed.losses() == reference.losses()[4:]
    assert distance(state(reference_folder)[1]["ema"], state(run)[1]["ema"]) == 0


def test_a_resumed_run_that_does_not_continue_stops(
    groups: Groups, undisturbed: tuple[Path, Done], tmp_path: Path
) -> None:
    """Weights altered with their hashes: only the loss can tell, as with altered data."""
    run = copy_half_time(undisturbed[0], tmp_path)
    rewrite(run, "weights", -1.0)
    for problem in groups.run(2, train, tiny(), run):
        assert isinstance(problem, DivergenceProblem)
        assert "does not continue: next loss" in problem.what
    assert CheckpointStore(at(run)).names() == [checkpoint_name(HALF)]


@pytest.mark.parametrize("kind", ["exp_avg", "exp_avg_sq", "ema"])
def test_a_state_that_is_not_what_was_saved_is_noticed(
    groups: Groups, undisturbed: tuple[Path, Done], tmp_path: Path, kind: str
) -> None:
    run = copy_half_time(undisturbed[0], tmp_path)
    rewrite(run, kind, 1.001)
    (problem,) = groups.run(1, train, tiny(), run)
    assert isinstance(problem, CheckpointProblem)
    assert problem.what.startswith(f"{kind} restored with norm")


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"seed": 1}, "seed=0, not 1"),
        ({"objective__label_drop": 0.2}, "objective.label_drop=0.1, not 0.2"),
        ({"training__batch_size": 64}, "training.batch_size=32, not 64"),
        ({"model__base_channels": 12}, "model.base_channels=9, not 12"),
    ],
)
def test_another_experiment_does_not_resume(
    groups: Groups,
    undisturbed: tuple[Path, Done],
    tmp_path: Path,
    changes: dict[str, Any],
    key: str,
) -> None:
    run = copy_half_time(undisturbed[0], tmp_path)
    for problem in groups.run(2, train, tiny(**changes), run):
        assert isinstance(problem, CheckpointProblem)
        assert key in problem.what


def test_a_loss_that_is_not_a_number_stops_every_worker_and_leaves_what_was_saved(
    groups: Groups, undisturbed: tuple[Path, Done], tmp_path: Path
) -> None:
    """The NaN is in worker 1's images alone, after the first checkpoint."""
    for problem in groups.run(2, train_with_nan, tiny(), tmp_path, 1, HALF):
        assert isinstance(problem, DivergenceProblem)
        assert problem.what == f"loss/total is nan after {HALF + BATCH} images"
    assert CheckpointStore(at(tmp_path)).names() == [checkpoint_name(HALF)]
    resumed = groups.train(2, tmp_path)  # with the images mended
    assert resumed.losses() == pytest.approx(undisturbed[1].losses()[4:], rel=ROUNDING)


def test_weights_that_overflow_are_not_saved(groups: Groups, tmp_path: Path) -> None:
    """The loss before the first step was fine; nothing could resume from what came after it."""
    absurd = {"optimizer__lr": 1e38, "optimizer__warmup_images": 0, "training__images": BATCH}
    for problem in groups.run(2, train, tiny(**absurd, training__validation_images=0), tmp_path):
        assert isinstance(problem, DivergenceProblem)
        assert problem.what.startswith("the next loss is")
    assert CheckpointStore(at(tmp_path)).names() == []


def test_workers_get_ready_outside_of_their_process_group(tmp_path: Path) -> None:
    """One whose images come after the time limit of the group loses nothing, and one without stops all."""
    hasty = tiny(scaling__timeout_s=10, training__images=BATCH)
    with Workers(2, joined=False) as two:
        problems = two.run(train_without_data, hasty, tmp_path, 1)
        assert [str(problem) for problem in problems] == ["no images here — mount them"] * 2
        assert list(tmp_path.iterdir()) == []
    with Workers(2, joined=False) as two:
        one, other = two.run(train_late, hasty, tmp_path, 1, 12)
    assert one.trained.images_seen == BATCH
    assert one.losses() == other.losses()


def test_workers_with_other_libraries_do_not_begin(groups: Groups, tmp_path: Path) -> None:
    one, other = groups.run(2, train_beside_another_image, tiny(), tmp_path)
    assert str(one) == str(other)
    assert one.what.startswith("torch differs: 1.0 on node-2, ")
    assert list(tmp_path.iterdir()) == []
