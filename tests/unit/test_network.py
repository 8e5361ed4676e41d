"""The network of a training: fresh, from another model, or frozen under LoRA; and plain again."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from support.objectives import awake

from whipray.trainers.errors import Problem, UsageProblem
from whipray.trainers.export import ModelCard, Pretrained, merged_weights
from whipray.trainers.network import build_network
from whipray.trainers.networks import UNet, UNetConfig
from whipray.trainers.processes import EDMConfig, FlowConfig, ProcessConfig, VPConfig
from whipray.trainers.sampling import SamplingConfig
from whipray.trainers.trainer_config import TrainerConfig

NAMES = ["cat", "dog", "owl"]
SHAPE = (3, 8, 8)
SIZE = {
    "name": "unet",
    "base_channels": 8,
    "channel_mult": [1, 2],
    "blocks_per_level": 1,
    "attention_resolutions": [4],
    "norm_groups": 4,
}
LORA = {"layers": ["down", "up"], "rank": 4}
CALL = {"name": "call", "reserve": {"rank": 2}}


def config_of(pretrained: dict[str, Any] | None = None, **changes: Any) -> TrainerConfig:
    values = {"data": {"source": "digits"}, "model": SIZE, "training": {"images": 8}, **changes}
    if pretrained is not None:
        values["pretrained"] = {"model": "models:/birds@champion", **pretrained}
    return TrainerConfig.model_validate(values)


def card_of(
    size: UNetConfig, shape: tuple[int, int, int], process: ProcessConfig | None = None
) -> ModelCard:
    return ModelCard(
        model=size,
        process=process or VPConfig(),
        sampling=SamplingConfig(),
        image_shape=shape,
        class_names=NAMES,
        class_counts=[9, 3, 1],
        images_seen=64,
        checkpoint="0" * 16,
    )


@pytest.fixture
def pretrained() -> Pretrained:
    size = UNetConfig.model_validate(SIZE)
    network = awake(UNet(size, SHAPE, len(NAMES)))
    weights = {name: p.detach().clone() for name, p in network.named_parameters()}
    return Pretrained(card_of(size, SHAPE), weights, "1" * 64)


def output(network: UNet) -> torch.Tensor:
    x_t = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(1))
    return network.eval()(x_t, torch.arange(3) * 300, torch.tensor([0, 1, -1]))


@pytest.mark.parametrize("objective", [{"name": "ddpm"}, CALL])
@pytest.mark.parametrize("lora", [None, LORA])
def test_a_training_starts_where_its_start_stood(
    pretrained: Pretrained, objective: dict[str, Any], lora: dict[str, Any] | None
) -> None:
    network = build_network(
        config_of({"lora": lora}, objective=objective), SHAPE, NAMES, pretrained
    )
    before = UNet(pretrained.card.model, SHAPE, len(NAMES))
    before.load_state_dict(pretrained.weights)
    assert torch.equal(output(network), output(before))
    learning = {name for name, p in network.named_parameters() if p.requires_grad}
    adapters = {name for name, _ in network.named_parameters() if ".parts." in name}
    assert learning == (adapters if lora else {name for name, _ in network.named_parameters()})
    kinds = {name.split(".parts.")[1].split(".")[0] for name in adapters}
    assert ("general" in kinds, "expert" in kinds) == (lora is not None, objective == CALL)


def test_adapters_alone_and_the_start_make_the_plain_network(pretrained: Pretrained) -> None:
    config = config_of({"lora": LORA}, objective=CALL)
    network = build_network(config, SHAPE, NAMES, pretrained)
    for p in network.parameters():
        if p.requires_grad:
            torch.nn.init.normal_(p, std=0.3)
    trained = {name: p.detach() for name, p in network.named_parameters() if p.requires_grad}
    merged = UNet(config.model, SHAPE, len(NAMES))
    merged.load_state_dict(merged_weights(trained, pretrained))
    assert torch.equal(output(merged), output(network))
    with_experts = output(merged)
    merged.load_state_dict(merged_weights(trained, pretrained, general_only=True))
    assert (output(merged) - with_experts).norm() > 1e-3
    untouched = merged_weights({}, pretrained)
    assert all(torch.equal(untouched[name], w) for name, w in pretrained.weights.items())


def test_augmentations_input_is_no_part_of_a_plain_network() -> None:
    network = build_network(config_of(objective=CALL), SHAPE, NAMES, None)
    network.add_augmentation_conditioning(9)
    trained = {name: p.detach() for name, p in network.named_parameters()}
    UNet(UNetConfig.model_validate(SIZE), SHAPE, len(NAMES)).load_state_dict(
        merged_weights(trained, None)
    )


@pytest.mark.parametrize("lora", [None, LORA])
def test_new_labels_keep_all_but_the_label_table(
    pretrained: Pretrained, lora: dict[str, Any] | None
) -> None:
    names = ["wren", *NAMES]
    config = config_of({"labels": "new", "lora": lora})
    network = build_network(config, SHAPE, names, pretrained)
    assert network.labels.weight.shape == (4, 32)
    assert network.labels.weight.requires_grad
    assert network.conv_in.weight.requires_grad == (lora is None)
    for name, p in network.named_parameters():
        if name in pretrained.weights and name != "labels.weight":
            assert torch.equal(p, pretrained.weights[name]), name
    assert len(pretrained.weights["labels.weight"]) == 3  # as it was
    trained = {name: p.detach() for name, p in network.named_parameters() if p.requires_grad}
    assert len(merged_weights(trained, pretrained)["labels.weight"]) == 4


@pytest.mark.parametrize(
    "names", [[*NAMES, "wren"], ["cat", "dog"], ["cat", "owl", "dog"]], ids=len
)
def test_other_classes_are_refused_in_one_line(pretrained: Pretrained, names: list[str]) -> None:
    with pytest.raises(UsageProblem, match=rf"has 3 classes .*have {len(names)} .*labels=new") as e:
        build_network(config_of({}), SHAPE, names, pretrained)
    assert "\n" not in str(e.value)
    assert build_network(config_of({"labels": "new"}), SHAPE, names, pretrained)


@pytest.mark.parametrize(
    ("its", "ours", "differs", "value"),
    [
        (VPConfig(), {"name": "edm"}, "name=vp, this training edm", "name=vp"),
        (FlowConfig(), {}, "name=flow, this training vp", "name=flow"),
        (VPConfig(prediction="v"), {}, "prediction=v, this training eps", "prediction=v"),
        (VPConfig(), {"schedule": "cosine"}, "schedule=linear, this training cosine", "schedule="),
        (EDMConfig(sigma_data=0.6), {"name": "edm"}, "sigma_data=0.6, this training 0.5", "sigma_"),
    ],
)
def test_a_model_of_another_process_is_refused(
    pretrained: Pretrained, its: ProcessConfig, ours: dict[str, Any], differs: str, value: str
) -> None:
    model = replace(pretrained, card=card_of(pretrained.card.model, SHAPE, its))
    with pytest.raises(UsageProblem) as caught:
        build_network(config_of({}, process={"name": "vp", **ours}), SHAPE, NAMES, model)
    assert caught.value.what == f"models:/birds@champion has process.{differs}"
    assert caught.value.fix.startswith(f"set process.{value}")
    assert caught.value.fix.endswith(", or start from another model")


@pytest.mark.parametrize(
    ("its", "ours"),
    [
        (
            EDMConfig(sigma_data=0.6, progress="quantile"),
            {"sigma_data": None, "p_mean": -0.8, "p_std": 1.6, "sigma_min": 0.01, "sigma_max": 100},
        ),
        (FlowConfig(), {"times": "logit_normal", "location": 0.5, "scale": 2}),
        (VPConfig(prediction="v"), {"prediction": "v"}),
    ],
)
def test_the_noise_that_is_trained_on_may_be_other_than_the_models(
    pretrained: Pretrained, its: Any, ours: dict[str, Any]
) -> None:
    model = replace(pretrained, card=card_of(pretrained.card.model, SHAPE, its))
    assert build_network(config_of({}, process={"name": its.name, **ours}), SHAPE, NAMES, model)


@pytest.mark.parametrize("changes", [{"channel_mult": [1, 1]}, {"attention_resolutions": [8]}])
def test_another_architecture_is_refused(pretrained: Pretrained, changes: dict[str, Any]) -> None:
    with pytest.raises(Problem, match=rf"model\.{next(iter(changes))}|parameter \S+ is "):
        build_network(config_of({}, model={**SIZE, **changes}), SHAPE, NAMES, pretrained)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (
            {"model": {"name": "dit"}},
            "has model.name=unet, this training dit .*set model.name=unet",
        ),
        ({"process": {"name": "flow"}}, "has process.name=vp, this training flow"),
    ],
)
def test_another_network_or_process_is_refused_in_one_line(
    pretrained: Pretrained, changes: dict[str, Any], problem: str
) -> None:
    with pytest.raises(UsageProblem, match=problem) as error:
        build_network(config_of({}, **changes), SHAPE, NAMES, pretrained)
    assert "\n" not in str(error.value)


def test_images_of_another_shape_are_refused(pretrained: Pretrained) -> None:
    with pytest.raises(Problem, match=r"conv_in\.weight is \(8, 3, 3, 3\)|images of 3 x 8 x 8"):
        build_network(config_of({}), (1, 8, 8), NAMES, pretrained)
    with pytest.raises(UsageProblem, match=r"cannot be halved .* model"):
        build_network(config_of(), (3, 9, 9), NAMES, None)


def test_an_expert_must_be_of_lower_rank_than_lora(pretrained: Pretrained) -> None:
    config = config_of({"lora": LORA}, objective={"name": "call", "reserve": {"rank": 4}})
    with pytest.raises(UsageProblem, match=r"objective\.reserve\.rank 4 is not below LoRA's 4"):
        build_network(config, SHAPE, NAMES, pretrained)


def test_loras_defaults_fit_the_papers_network() -> None:
    config = config_of(
        {"lora": {}}, model={"name": "unet"}, objective={"name": "call", "reserve": {"rank": 8}}
    )
    with torch.device("meta"):
        weights = dict(UNet(UNetConfig(), (3, 32, 32), 3).named_parameters())
        pretrained = Pretrained(card_of(UNetConfig(), (3, 32, 32)), weights, "")
        network = build_network(config, (3, 32, 32), NAMES, pretrained)
    learning = sum(p.numel() for p in network.parameters() if p.requires_grad)
    assert 0 < learning < 0.2 * sum(p.numel() for p in network.parameters())
