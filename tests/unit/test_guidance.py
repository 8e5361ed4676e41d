"""Every kind of guidance against its formula in float64, what it asks the networks, and what it refuses."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from whipray.trainers.data.groups import GroupsConfig
from whipray.trainers.guidance import (
    NULL_LABEL,
    AnyGuidance,
    ClassifierFree,
    Denoiser,
    GuidanceConfig,
    IntervalGuidance,
    guided,
)
from whipray.trainers.processes import EDMConfig, FlowConfig, Level, Process, VPConfig
from whipray.trainers.samplers import DDIMSampler
from whipray.trainers.sampling import SamplingConfig, sample
from whipray.trainers.trainer_config import TrainerConfig

COUNTS = [400, 100, 100, 25, 4]
LABELS = torch.tensor([0, 3, 4, 1, 4, NULL_LABEL, 2])
X_T = torch.randn(len(LABELS), 3, 2, 2, generator=torch.Generator().manual_seed(0))
VP = VPConfig().build()
THIRDS = GroupsConfig()  # many: class 0; medium: 1; few: 2, 3, 4
ANY: TypeAdapter[GuidanceConfig] = TypeAdapter(AnyGuidance)


class Network:
    """An output that depends on the label; keeps what it was asked."""

    guidance: object = None

    def __init__(self, scale: float = 1.0) -> None:
        self.scale, self.asked, self.omegas = scale, [], []
        self.asked: list[list[int]]
        self.omegas: list[list[float] | None]

    def __call__(
        self, x: Tensor, time: Tensor, labels: Tensor, omega: Tensor | None = None
    ) -> Tensor:
        self.asked.append(labels.tolist())
        self.omegas.append(None if omega is None else omega.tolist())
        shift = labels.float()[:, None, None, None] * self.scale
        return (x * self.scale + shift).sin() + time[:, None, None, None] / 1000


def predicted(x_t: Tensor, label: int, t: int, scale: float = 1.0) -> Any:
    """x_0 of one row by `Network` on vp, float64."""
    abar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))[t]
    x = x_t.double().numpy()
    eps = np.sin(x * scale + label * scale) + t / 1000
    return (x - math.sqrt(1 - abar) * eps) / math.sqrt(abar)


def ratio(t: int) -> float:
    abar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))[t]
    return math.sqrt((1 - abar) / abar)


def run(
    config: GuidanceConfig, t: int = 400, network: Network | None = None, guide: Any = None
) -> Tensor:
    own = Denoiser(network or Network(), VP)
    return guided(own, guide, config, LABELS, COUNTS)(X_T, VP.level(t))


KINDS: dict[str, tuple[dict[str, Any], list[float]]] = {
    "cfg": ({"omega": 1.5}, [1.5] * 5),
    "interval": ({"omega": 2.0, "low": 0.5, "high": 2.0}, [2.0] * 5),
    "groups": ({"many": 0.0, "medium": 0.5, "few": 2.0, "classes": THIRDS}, [0, 0.5, 2, 2, 2]),
    "counts": (
        {"omega": 0.5, "slope": 0.3},
        [0.5 + 0.3 * math.log(400 / n) for n in (400, 100, 100, 25, 4)],
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_prediction_is_moved_away_from_the_one_without_a_label(kind: str) -> None:
    settings, omegas = KINDS[kind]
    t = 250
    assert 0.5 < ratio(t) < 2
    rows = run(ANY.validate_python({"name": kind, **settings}), t)
    for x_t, label, row in zip(X_T, LABELS.tolist(), rows, strict=True):
        expected = predicted(x_t, label, t)
        if label != NULL_LABEL:
            expected = expected + omegas[label] * (expected - predicted(x_t, NULL_LABEL, t))
        np.testing.assert_allclose(row, expected, rtol=0, atol=2e-5)


def test_autoguidance_moves_away_from_another_model_of_the_same_label() -> None:
    config = ANY.validate_python({"name": "autoguidance", "omega": 0.7, "guide": "worse"})
    worse = Network(0.3)
    rows = run(config, 250, guide=Denoiser(worse, VP))
    for x_t, label, row in zip(X_T, LABELS.tolist(), rows, strict=True):
        expected = predicted(x_t, label, 250)
        if label != NULL_LABEL:
            expected = expected + 0.7 * (expected - predicted(x_t, label, 250, 0.3))
        np.testing.assert_allclose(row, expected, rtol=0, atol=2e-5)
    assert worse.asked == [[0, 3, 4, 1, 4, 2]]  # no row that is not guided
    plain = run(ClassifierFree(), 250)
    torch.testing.assert_close(run(config, 250, guide=Denoiser(Network(), VP)), plain)


def test_a_class_is_guided_alike_alone_and_among_others() -> None:
    for kind, (settings, _) in KINDS.items():
        config = ANY.validate_python({"name": kind, **settings})
        together = run(config, 250)
        for n, label in enumerate(LABELS):
            own = Denoiser(Network(), VP)
            alone = guided(own, None, config, label[None], COUNTS)(X_T[n : n + 1], VP.level(250))
            torch.testing.assert_close(alone[0], together[n])


def test_no_network_is_asked_for_what_is_not_guided() -> None:
    network = Network()
    config = IntervalGuidance(omega=1.0, low=0.3, high=3.0)
    sampling = SamplingConfig(sampler=DDIMSampler(steps=20), guidance=config)
    labels = torch.tensor([0, 1, 2, 3])
    sample(Denoiser(network, VP), labels, (3, 2, 2), sampling, class_counts=COUNTS, seed=0)
    times = range(999, 0, -50)
    inside = [0.3 < ratio(t) <= 3.0 for t in times]
    assert 3 < sum(inside) < 17
    assert [len(rows) for rows in network.asked] == [8 if i else 4 for i in inside]

    network = Network()
    run(ANY.validate_python({"name": "groups", "few": 1.0, "classes": THIRDS}), network=network)
    assert network.asked == [[*LABELS.tolist(), *[NULL_LABEL] * 4]]  # of classes 2, 3 and 4


def test_the_ends_of_an_interval_are_those_of_the_paper() -> None:
    config = IntervalGuidance(omega=1.0, low=0.5, high=2.0)
    at = {r: config.active(Level(t=0, alpha=0.1, sigma=0.1 * r)) for r in (0.5, 0.501, 2.0, 2.001)}
    assert at == {0.5: False, 0.501: True, 2.0: True, 2.001: False}
    assert not config.active(Level(t=1, alpha=0.0, sigma=1.0))  # flow's pure noise


def test_a_network_that_embeds_omega_is_given_that_of_each_class() -> None:
    for kind, (settings, omegas) in KINDS.items():
        network = Network()
        network.guidance = object()
        run(ANY.validate_python({"name": kind, **settings}), 250, network)
        assert network.asked == [LABELS.tolist()]
        given = [omegas[c] or -1.0 if c != NULL_LABEL else -1.0 for c in LABELS.tolist()]
        assert network.omegas[0] == pytest.approx(given)
        network = Network()
        network.guidance = object()
        run(ClassifierFree(), 250, network)
        assert network.omegas == [None]


class Gaussian:
    """The best denoiser of N(mean, 0.5^2), for x_t of any process."""

    network = None

    def __init__(self, process: Process, mean: float) -> None:
        self.process, self.mean = process, mean

    def __call__(self, x_t: Tensor, level: Level, labels: Tensor) -> Tensor:  # noqa: ARG002
        at = torch.tensor(level.t, dtype=torch.float64)
        assert (level.alpha, level.sigma) == (self.process.alpha(at), self.process.sigma(at))
        gain = level.alpha * 0.25 / (level.alpha**2 * 0.25 + level.sigma**2)
        return self.mean + gain * (x_t - level.alpha * self.mean)


@pytest.mark.parametrize("own", [VPConfig(), EDMConfig(), FlowConfig()])
@pytest.mark.parametrize(
    "other", [VPConfig(schedule="cosine"), VPConfig(prediction="v"), EDMConfig(), FlowConfig()]
)
def test_a_guide_of_another_process_sees_the_same_image_at_the_same_noise(
    own: Any, other: Any
) -> None:
    config = ANY.validate_python({"name": "autoguidance", "omega": 1.0, "guide": "worse"})
    mine, its = own.build(), other.build()
    for r in (0.03, 0.5, 4.0, 60.0):
        level = mine.level(mine.time_of(r))
        x_t = X_T * level.sigma + level.alpha * 0.2

        def through(process: Process) -> Tensor:
            own_model: Any = Gaussian(mine, 0.3)
            guide: Any = Gaussian(process, -0.4)
            return guided(own_model, guide, config, LABELS, COUNTS)(x_t, level)  # noqa: B023

        torch.testing.assert_close(through(its), through(mine), rtol=0, atol=2e-4)


def test_a_guide_is_given_no_more_noise_than_its_process_has() -> None:
    config = ANY.validate_python({"name": "autoguidance", "omega": 1.0, "guide": "worse"})
    flow, seen = FlowConfig().build(), []

    class Guide(Gaussian):
        def __call__(self, x_t: Tensor, level: Level, labels: Tensor) -> Tensor:
            seen.append((x_t.std().item() / level.sigma, level.ratio))
            return super().__call__(x_t, level, labels)

    own: Any = Gaussian(flow, 0.3)
    guide: Any = Guide(VP, -0.4)
    x_0 = guided(own, guide, config, LABELS, COUNTS)(X_T, flow.level(1.0))  # pure noise: alpha is 0
    assert torch.isfinite(x_0).all()
    ((scale, noise),) = seen
    assert scale == pytest.approx(X_T[LABELS >= 0].std().item())
    assert noise == pytest.approx(ratio(999))
    for other in (EDMConfig(), FlowConfig(times="logit_normal")):
        guide = Guide(other.build(), -0.4)
        x_0 = guided(own, guide, config, LABELS, COUNTS)(X_T, flow.level(1.0))
        assert torch.isfinite(x_0).all()


def test_a_guide_that_knows_no_noise_so_low_sees_an_image_of_the_same_contrast() -> None:
    config = ANY.validate_python({"name": "autoguidance", "omega": 1.0, "guide": "worse"})
    edm, seen = EDMConfig().build(), []

    class Guide(Gaussian):
        def __call__(self, x_t: Tensor, level: Level, labels: Tensor) -> Tensor:
            seen.append((x_t, level))
            return super().__call__(x_t, level, labels)

    own: Any = Gaussian(edm, 0.3)
    guide: Any = Guide(VP, -0.4)
    guided(own, guide, config, LABELS, COUNTS)(X_T, edm.level(0.002))
    ((x_t, level),) = seen
    assert level.ratio == pytest.approx(ratio(0))
    torch.testing.assert_close(x_t, level.alpha * X_T[LABELS >= 0])


def test_equal_images_have_equal_settings() -> None:
    none = ClassifierFree()
    for settings in (
        {"name": "interval"},
        {"name": "autoguidance", "guide": "worse"},
        {"name": "groups"},
        {"name": "counts"},
    ):
        assert ANY.validate_python(settings).effective() == none
    groups = {"name": "groups", "many": 2, "medium": 2, "few": 2}
    assert ANY.validate_python(groups).effective() == ClassifierFree(omega=2)
    counts = {"name": "counts", "omega": 2}
    assert ANY.validate_python(counts).effective() == ClassifierFree(omega=2)
    assert ANY.validate_python({**groups, "few": 3}).effective().name == "groups"


def test_a_checkpoint_of_the_same_run_has_one_name() -> None:
    for name in (12800, "12800", "checkpoint:12800", "checkpoint:images-000000012800"):
        config = ANY.validate_python({"name": "autoguidance", "guide": name})
        assert config.model_dump()["guide"] == "checkpoint:images-000000012800"


def test_what_decides_the_images_is_the_guide_s_content_and_not_its_name() -> None:
    def identity(**guidance: Any) -> Any:
        fields = {"name": "autoguidance", "omega": 1.0, **guidance}
        return SamplingConfig.model_validate({"guidance": fields}).identity()

    a, b = "a" * 64, "b" * 64
    assert identity(guide="x", content=a) == identity(guide="y", content=a)
    assert identity(guide="x", content=a) != identity(guide="x", content=b)


BASE = {"data": {"source": "digits"}, "training": {"images": 8}}


@pytest.mark.parametrize(
    ("guidance", "says"),
    [
        ({"name": "interval", "low": 2, "high": 2}, "at no noise level: set low below high"),
        ({"name": "interval", "low": 157.5, "high": 300}, r"outside of .* vp, 0\.01 to 157"),
        ({"name": "interval", "low": 0, "high": 0.009}, r"outside of .* vp, 0\.01 to 157"),
        ({"name": "autoguidance", "guide": "checkpoint:last"}, "last is no checkpoint"),
        ({"name": "autoguidance", "guide": "theta_g"}, "ddpm reserves no capacity"),
        ({"name": "autoguidance", "guide": "pretrained"}, "starts from no other model"),
    ],
)
def test_guidance_that_a_training_cannot_have_is_refused(
    guidance: dict[str, Any], says: str
) -> None:
    with pytest.raises(ValidationError, match=says):
        TrainerConfig.model_validate(BASE | {"sampling": {"guidance": guidance}})


def test_levels_of_an_interval_are_those_of_every_process() -> None:
    for process in ({"name": "edm", "sigma_data": None}, {"name": "flow"}):
        guidance = {"name": "interval", "low": 80.0, "high": 90.0}
        with pytest.raises(ValidationError, match=r"0\.002 to 80: set sampling\.guidance\.low"):
            TrainerConfig.model_validate(
                BASE | {"process": process, "sampling": {"guidance": guidance}}
            )
