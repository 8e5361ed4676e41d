"""The network of a training: fresh, from another model, or frozen under LoRA; and plain again."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.objectives import awake

from whipray.trainers.backbones import UNet, UNetConfig
from whipray.trainers.diffusion import DiffusionConfig
from whipray.trainers.errors import Problem, UsageProblem
from whipray.trainers.export import Card, plain
from whipray.trainers.network import build_network
from whipray.trainers.samplers import SamplingConfig
from whipray.trainers.start import Start
from whipray.trainers.trainer_config import TrainerConfig

NAMES = ["cat", "dog", "owl"]
SHAPE = (3, 8, 8)
SIZE = {
    "base_channels": 8,
    "channel_mult": [1, 2],
    "blocks_per_level": 1,
    "attention_resolutions": [4],
    "norm_groups": 4,
}
LORA = {"layers": ["down", "up"], "rank": 4}
CALL = {"name": "call", "reserve": {"rank": 2}}


def config_of(start: dict[str, Any] | None = None, **changes: Any) -> TrainerConfig:
    values = {"data": {"source": "digits"}, "model": SIZE, "training": {"images": 8}, **changes}
    if start is not None:
        values["start"] = {"model": "models:/birds@champion", **start}
    return TrainerConfig.model_validate(values)


def card_of(size: UNetConfig, shape: tuple[int, int, int]) -> Card:
    return Card(
        model=size,
        diffusion=DiffusionConfig(),
        sampling=SamplingConfig(),
        image_shape=shape,
        class_names=NAMES,
        class_counts=[9, 3, 1],
        images_seen=64,
        checkpoint="0" * 16,
    )


@pytest.fixture
def start() -> Start:
    size = UNetConfig.model_validate(SIZE)
    network = awake(UNet(size, SHAPE, len(NAMES)))
    weights = {name: p.detach().clone() for name, p in network.named_parameters()}
    return Start(card_of(size, SHAPE), weights, "1" * 64)


def output(network: UNet) -> torch.Tensor:
    x_t = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(1))
    return network.eval()(x_t, torch.arange(3) * 300, torch.tensor([0, 1, -1]))


@pytest.mark.parametrize("objective", [{"name": "ddpm"}, CALL])
@pytest.mark.parametrize("lora", [None, LORA])
def test_a_training_starts_where_its_start_stood(
    start: Start, objective: dict[str, Any], lora: dict[str, Any] | None
) -> None:
    network = build_network(config_of({"lora": lora}, objective=objective), SHAPE, NAMES, start)
    before = UNet(start.card.model, SHAPE, len(NAMES))
    before.load_state_dict(start.weights)
    assert torch.equal(output(network), output(before))
    learning = {name for name, p in network.named_parameters() if p.requires_grad}
    adapters = {name for name, _ in network.named_parameters() if ".parts." in name}
    assert learning == (adapters if lora else {name for name, _ in network.named_parameters()})
    kinds = {name.split(".parts.")[1].split(".")[0] for name in adapters}
    assert ("general" in kinds, "expert" in kinds) == (lora is not None, objective == CALL)


def test_adapters_alone_and_the_start_make_the_plain_network(start: Start) -> None:
    config = config_of({"lora": LORA}, objective=CALL)
    network = build_network(config, SHAPE, NAMES, start)
    for p in network.parameters():
        if p.requires_grad:
            torch.nn.init.normal_(p, std=0.3)
    trained = {name: p.detach() for name, p in network.named_parameters() if p.requires_grad}
    merged = UNet(config.model, SHAPE, len(NAMES))
    merged.load_state_dict(plain(trained, start))
    assert torch.equal(output(merged), output(network))
    with_experts = output(merged)
    merged.load_state_dict(plain(trained, start, general_only=True))
    assert (output(merged) - with_experts).norm() > 1e-3
    untouched = plain({}, start)
    assert all(torch.equal(untouched[name], w) for name, w in start.weights.items())


def test_augmentations_input_is_no_part_of_a_plain_network() -> None:
    network = build_network(config_of(objective=CALL), SHAPE, NAMES, None)
    network.listen_to_augmentation(9)
    trained = {name: p.detach() for name, p in network.named_parameters()}
    UNet(UNetConfig.model_validate(SIZE), SHAPE, len(NAMES)).load_state_dict(plain(trained, None))


@pytest.mark.parametrize("lora", [None, LORA])
def test_new_labels_keep_all_but_the_label_table(start: Start, lora: dict[str, Any] | None) -> None:
    names = ["wren", *NAMES]
    config = config_of({"labels": "new", "lora": lora})
    network = build_network(config, SHAPE, names, start)
    assert network.labels.weight.shape == (4, 32)
    assert network.labels.weight.requires_grad
    assert network.head.weight.requires_grad == (lora is None)
    for name, p in network.named_parameters():
        if name in start.weights and name != "labels.weight":
            assert torch.equal(p, start.weights[name]), name
    assert len(start.weights["labels.weight"]) == 3  # as it was
    trained = {name: p.detach() for name, p in network.named_parameters() if p.requires_grad}
    assert len(plain(trained, start)["labels.weight"]) == 4


@pytest.mark.parametrize(
    "names", [[*NAMES, "wren"], ["cat", "dog"], ["cat", "owl", "dog"]], ids=len
)
def test_other_classes_are_refused_in_one_line(start: Start, names: list[str]) -> None:
    with pytest.raises(
        UsageProblem, match=rf"knows 3 classes .*have {len(names)} .*labels=new"
    ) as e:
        build_network(config_of({}), SHAPE, names, start)
    assert "\n" not in str(e.value)
    assert build_network(config_of({"labels": "new"}), SHAPE, names, start)


@pytest.mark.parametrize("changes", [{"channel_mult": [1, 1]}, {"attention_resolutions": [8]}])
def test_another_architecture_is_refused(start: Start, changes: dict[str, Any]) -> None:
    with pytest.raises(Problem, match=rf"model\.{next(iter(changes))}|parameter \S+ is "):
        build_network(config_of({}, model={**SIZE, **changes}), SHAPE, NAMES, start)


def test_images_of_another_shape_are_refused(start: Start) -> None:
    with pytest.raises(Problem, match=r"head\.weight is \(8, 3, 3, 3\)|images of 3 x 8 x 8"):
        build_network(config_of({}), (1, 8, 8), NAMES, start)
    with pytest.raises(UsageProblem, match=r"cannot be halved .* model"):
        build_network(config_of(), (3, 9, 9), NAMES, None)


def test_an_expert_must_be_of_lower_rank_than_lora(start: Start) -> None:
    config = config_of({"lora": LORA}, objective={"name": "call", "reserve": {"rank": 4}})
    with pytest.raises(UsageProblem, match=r"objective\.reserve\.rank 4 is not below LoRA's 4"):
        build_network(config, SHAPE, NAMES, start)


def test_loras_defaults_fit_the_papers_network() -> None:
    config = config_of({"lora": {}}, model={}, objective={"name": "call", "reserve": {"rank": 8}})
    with torch.device("meta"):
        weights = dict(UNet(UNetConfig(), (3, 32, 32), 3).named_parameters())
        start = Start(card_of(UNetConfig(), (3, 32, 32)), weights, "")
        network = build_network(config, (3, 32, 32), NAMES, start)
    learning = sum(p.numel() for p in network.parameters() if p.requires_grad)
    assert 0 < learning < 0.2 * sum(p.numel() for p in network.parameters())
