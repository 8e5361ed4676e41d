"""Models of a width that is chosen after the training: exported, evaluated, refused."""

from __future__ import annotations

import pickle
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.training import BATCH, at, distance, tiny, train

from whipray.platform.balancing.filling import ImageSource
from whipray.platform.config.space_files import parse_space
from whipray.platform.evaluation.extractors.base import ExtractorInfo
from whipray.platform.generation.loading import Models, load_model, load_splits
from whipray.platform.runs.evaluation_inputs import EvaluationInputs
from whipray.platform.runs.preflight import Subject, check_average
from whipray.platform.storage.checkpoints import CheckpointStore
from whipray.platform.storage.store import Storage
from whipray.platform.storage.trained_weights import TrainedWeights, export_run
from whipray.platform.tuning.sweep import Sweep
from whipray.trainers.averaging import Profile, fit, gamma_of, moments_of
from whipray.trainers.checkpoint import read_tensors
from whipray.trainers.checkpoint_names import checkpoint_name
from whipray.trainers.devices import join_workers
from whipray.trainers.errors import UsageProblem
from whipray.trainers.export import load_exported, merged_weights
from whipray.trainers.sampling import SamplingConfig

STEPS = 12
END = STEPS * BATCH
CHANGES = {
    "optimizer__ema_profiles": [0.05, 0.1],
    "training__images": END,
    "training__checkpoint_every_images": 2 * BATCH,
    "training__validation_images": 0,
    "keep_checkpoints": 2,
}

WHOLE = ("averages-0.safetensors", "manifest.json", "shard-0.safetensors")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six checkpoints, two of them whole."""
    join_workers(torch.device("cpu"))
    folder = tmp_path_factory.mktemp("run")
    train(tiny(**CHANGES), folder)
    return folder


def of_width(width: float | None) -> SamplingConfig:
    return SamplingConfig(ema_width=width)


@pytest.mark.parametrize("width", [0.05, 0.1])
@pytest.mark.parametrize("images_seen", [END - 2 * BATCH, END])
def test_the_model_of_a_width_that_is_kept_is_that_average(
    run: Path, tmp_path: Path, width: float, images_seen: int
) -> None:
    name = checkpoint_name(images_seen)
    card = export_run(at(run), name, of_width(width), tmp_path)
    exported = load_exported(tmp_path / "model").denoiser.network.state_dict()
    manifest = CheckpointStore(at(run)).fetch(name, tmp_path / "whole")
    kept = merged_weights(read_tensors(tmp_path / "whole", manifest, f"ema_{width:g}"), None)
    assert exported.keys() == kept.keys()
    assert all(torch.equal(tensor, kept[key]) for key, tensor in exported.items())
    assert card.sampling.ema_width == width


def test_the_model_of_another_width_is_near_the_average_that_a_training_keeps_of_it(
    run: Path, tmp_path: Path
) -> None:
    changes = {**CHANGES, "optimizer__ema_profiles": [0.07], "keep_checkpoints": 1}
    train(tiny(**changes), tmp_path / "direct")
    models = {
        key: TrainedWeights(at(folder), checkpoint_name(END), tmp_path / key)
        for key, folder in (("formed", run), ("direct", tmp_path / "direct"))
    }
    _, formed = models["formed"].model(of_width(0.07))
    _, direct = models["direct"].model(of_width(0.07))
    _, near = models["formed"].model(of_width(0.05))
    assert distance(direct, formed) < 0.1 * distance(direct, near)


def test_widths_of_a_checkpoint_download_it_once(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, get_file = [], Storage.get_file

    def recording(self: Storage, name: str, local: Path) -> None:
        read.append(name)
        get_file(self, name, local)

    monkeypatch.setattr(Storage, "get_file", recording)
    moments = [checkpoint_name(n * BATCH) for n in range(2, STEPS + 1, 2)]
    labels = torch.arange(4)
    with closing(pickle.loads(pickle.dumps(Models(at(run), moments[-1])))) as models:
        images = [
            models(of_width(width)).sample(labels, of_width(width), seed=0)
            for width in (0.07, 0.06, 0.12, 0.07)
        ]
        assert models(of_width(0.07)) is models(SamplingConfig(ema_width=0.07, clip_x0=False))
        assert len(read) == len(set(read))
        assert set(read) <= {f"{moment}/averages-0.safetensors" for moment in moments}
        read.clear()
        images += [models(of_width(None)).sample(labels, of_width(None), seed=0)]
        models(of_width(0.12))
        models(of_width(None))
    assert sorted(read) == [f"{moments[-1]}/{name}" for name in sorted(WHOLE)]
    assert torch.equal(images[0], images[3])
    assert not any(torch.equal(images[0], images[n]) for n in (1, 2, 4))


def test_images_are_kept_by_width_and_by_the_averages_that_formed_it(
    run: Path,
) -> None:
    experiment = tiny(**CHANGES)
    store = CheckpointStore(at(run))
    name = checkpoint_name(END)
    inputs = EvaluationInputs(
        experiment,
        at(run),
        name,
        store.read_manifest(name),
        store.averages(name),
        load_splits(experiment, at(run).root),
        extractor(),
    )
    folders = {
        width: inputs.samples_folder(of_width(width), 0) for width in (None, 0.05, 0.07, 0.1)
    }
    assert len(set(folders.values())) == 4
    for width, folder in folders.items():  # what fills classes up is kept beside
        sampled = experiment.model_copy(update={"sampling": of_width(width)})
        source = ImageSource(at(run), name, sampled, inputs.manifest, inputs.splits)
        assert source.samples_folder == folder
    some = dict(list(inputs.averages.items())[3:])  # others were removed meanwhile
    fewer = replace(inputs, averages=some)
    assert fewer.samples_folder(of_width(0.05), 0) == folders[0.05]
    assert fewer.samples_folder(of_width(0.07), 0) != folders[0.07]
    with pytest.raises(UsageProblem, match=r"ema_width=0\.27 cannot be formed .* at 6 moments"):
        inputs.samples_folder(of_width(0.27), 0)


@pytest.mark.parametrize("weights", ["merged", "general"])
def test_a_width_of_an_adapter_is_that_of_its_factors(tmp_path: Path, weights: str) -> None:
    """As the average of a half-life: the factors are averaged, then multiplied."""
    reserve = {"layers": ["up"], "rank": 1}
    objective = {"name": "call", "base": {"name": "ddpm"}, "reserve": reserve}
    changes = {**CHANGES, "training__images": 2 * BATCH, "objective": objective}
    train(tiny(**changes), tmp_path / "run")
    name = checkpoint_name(2 * BATCH)
    sampling = SamplingConfig(ema_width=0.1, weights=weights)
    with closing(Models(at(tmp_path / "run"), name)) as models:
        exported = models(sampling).denoiser.network.state_dict()
    manifest = CheckpointStore(at(tmp_path / "run")).fetch(name, tmp_path / "whole")
    factors = read_tensors(tmp_path / "whole", manifest, "ema_0.1")
    assert any(".parts.expert." in key for key in factors)
    expected = merged_weights(factors, None, general_only=weights == "general")
    assert exported.keys() == expected.keys()
    assert all(torch.equal(tensor, expected[key]) for key, tensor in exported.items())


def extractor() -> object:
    return type("E", (), {"info": ExtractorInfo("rows", "abcd", 8, "none", None)})()


def test_a_model_of_one_width_is_not_asked_for_another(run: Path) -> None:
    model = load_model(at(run), checkpoint_name(END), of_width(0.07))
    for other in (0.1, None):
        with pytest.raises(UsageProblem, match=rf"ema_width={other}: .* weights of 0\.07"):
            model.sample(torch.arange(2), of_width(other), seed=0)


def test_a_width_without_averages_is_refused_by_the_config() -> None:
    with pytest.raises(UsageProblem, match=r"ema_width=0\.1: the training keeps no averages"):
        tiny(sampling__ema_width=0.1)


@pytest.mark.parametrize(("every", "works"), [(END // 8, True), (END, False)])
def test_the_end_of_a_training_is_looked_at_before_it(
    tmp_path: Path, every: int, works: bool
) -> None:
    changes = {**CHANGES, "training__checkpoint_every_images": every, "training__batch_size": 4}
    subject = Subject(tiny(**changes, sampling__ema_width=0.15), at(tmp_path))
    if works:
        check_average(subject)
    else:
        with pytest.raises(UsageProblem, match=r"ema_width=0\.15 cannot be formed .* 1 moments"):
            check_average(subject)


def test_a_sweep_looks_at_both_ends_of_its_widths(tmp_path: Path) -> None:
    text = """
    description: widths
    train: {objective.tau: {type: float, low: 0.5, high: 2}}
    sample: {sampling.ema_width: {type: float, low: 0.05, high: LIMIT}}
    """

    def problems(limit: str, **changes: object) -> list[str]:
        values = {**CHANGES, "objective__name": "cbdm", "storage__uri": str(tmp_path), **changes}
        sweep = Sweep("s", tiny(**values), parse_space(text.replace("LIMIT", limit), "test"))
        sweep.points.check()
        return [
            p.what
            for p in sweep.points.find_problems(sweep.subject(dry_run=True), (check_average,))
        ]

    assert problems("0.12") == []
    (what,) = problems("0.25")
    assert what.startswith(
        "sample level (ema_width=0.25): sampling.ema_width=0.25 cannot be formed"
    )
    with pytest.raises(UsageProblem, match="the training keeps no averages"):
        problems("0.12", optimizer__ema_profiles=[])


def test_the_moments_of_a_training_are_those_of_its_checkpoints(run: Path) -> None:
    kept = CheckpointStore(at(run)).averages(checkpoint_name(END))
    seen = [manifest.images_seen for manifest in kept.values()]
    assert moments_of(END, 2 * BATCH, BATCH) == seen
    assert moments_of(100, 30, 32) == [32, 64, 96, 128]
    assert fit([Profile(n, w) for n in seen for w in (0.05, 0.1)], Profile(END, 0.07)).error < 0.05
    assert gamma_of(0.07) > gamma_of(0.1)


def test_what_was_downloaded_is_removed(run: Path) -> None:
    models = Models(at(run), checkpoint_name(END))
    models(of_width(0.05))
    assert models._scratch is not None
    scratch = Path(models._scratch.name)
    assert list(scratch.rglob("averages-0.safetensors"))
    models.close()
    assert not scratch.exists()
