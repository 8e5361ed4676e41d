"""Every network keeps one contract, whatever its layers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from pydantic import TypeAdapter
from support.objectives import COUNTS, CPU, PROCESS, images_and_labels
from support.training import copy_half_time, distance, state, tiny, train
from torch import Tensor, nn

from whipray.trainers.compilation import compile_network, uncompiled
from whipray.trainers.devices import join_workers
from whipray.trainers.export import merged_weights
from whipray.trainers.networks import (
    AnyNetwork,
    DDPMPPConfig,
    DiTConfig,
    Network,
    NetworkConfig,
    UNetConfig,
    ViTConfig,
)
from whipray.trainers.networks.dropout import RowDropout
from whipray.trainers.networks.low_rank import (
    LowRankConfig,
    LowRankPart,
    add_parts,
    theta_g,
)
from whipray.trainers.objectives import AnyObjective, Batch
from whipray.trainers.randomness import BatchRandom
from whipray.trainers.trainer_config import LoRAConfig

SHAPE = (2, 8, 8)
CLASSES = len(COUNTS)
NETWORKS: list[NetworkConfig] = [  # a small one of each, with attention and dropout
    UNetConfig(
        base_channels=8,
        channel_mult=(1, 2),
        blocks_per_level=1,
        attention_resolutions=(4,),
        attention_heads=2,
        norm_groups=4,
        dropout=0.3,
    ),
    DDPMPPConfig(
        base_channels=8,
        channel_mult=(1, 2),
        blocks_per_level=1,
        attention_resolutions=(4,),
        dropout=0.3,
    ),
    ViTConfig(patch_size=2, width=12, depth=3, heads=3, dropout=0.3),
    DiTConfig(patch_size=2, width=12, depth=3, heads=3, dropout=0.3),
]
REGISTERED = get_args(get_args(AnyNetwork)[0])
OBJECTIVES = [objective() for objective in get_args(get_args(AnyObjective)[0])]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> None:
    """Many threads make tiny layers slower."""
    join_workers(CPU)
    torch.set_num_threads(1)


def test_every_registered_network_is_tested() -> None:
    assert {type(config) for config in NETWORKS} == set(REGISTERED)


def build(config: NetworkConfig, *, lively: bool = True, **changes: Any) -> Network:
    """A network; its initial weights silence most layers, so `lively` moves all of them."""
    torch.manual_seed(0)
    network = config.model_copy(update=changes).build(SHAPE, CLASSES)
    return awake(network) if lively else network


def awake(network: Network) -> Network:
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in network.parameters():
            p.add_(torch.randn(p.shape, generator=generator) * 0.2)
    return network


def inputs(rows: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x_t = torch.randn(rows, *SHAPE, generator=generator)
    return x_t, torch.arange(rows) * 250.0, torch.arange(rows) % CLASSES


def gaps(a: Tensor, b: Tensor) -> Tensor:
    """The largest difference within each row."""
    return (a - b).abs().flatten(1).amax(1)


def close(a: Tensor, b: Tensor) -> None:
    """Assert that rows are equal but for rounding, which is relative to a row's largest value."""
    assert ((gaps(a, b) < 1e-4) | (gaps(a, b) < 1e-4 * gaps(b, 0 * b))).all()


@contextmanager
def calls_of(network: nn.Module) -> Iterator[list[str]]:
    """The names of the layers that are called, in their order."""
    called: list[str] = []
    handles = [
        module.register_forward_pre_hook(lambda *_, name=name: called.append(name))
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    ]
    try:
        yield called
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def kept(network: nn.Module) -> Iterator[dict[int, int]]:
    """The bytes of what is kept for the backward pass beside the weights, by its address."""
    weights = {p.untyped_storage().data_ptr() for p in network.parameters()}
    sizes: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        yield sizes


@pytest.mark.parametrize("config", NETWORKS, ids=lambda c: c.name)
class TestContract:
    def test_the_config_is_chosen_by_its_name(self, config: NetworkConfig) -> None:
        assert TypeAdapter(AnyNetwork).validate_python(config.model_dump()) == config

    def test_output_is_as_the_input_at_any_time(self, config: NetworkConfig) -> None:
        network = build(config).eval()
        x_t, _, labels = inputs()
        for time in (
            torch.tensor([0, 1, 500, 999]),  # vp
            torch.tensor([0.002, 0.5, 5.0, 80.0]).log() / 4,  # edm
            torch.tensor([0.0, 0.4, 531.25, 1000.0]),  # flow
        ):
            output = network(x_t, time, labels)
            assert output.shape == x_t.shape
            assert output.dtype == torch.float32
            assert output.isfinite().all()
            assert output.std() > 0.05

    def test_rows_do_not_see_one_another(self, config: NetworkConfig) -> None:
        network = build(config).eval()
        x_t, time, labels = inputs()
        whole = network(x_t, time, labels)
        for i in range(4):
            close(network(x_t[[i]], time[[i]], labels[[i]]), whole[[i]])
        # under ZeRO 3 every worker goes through the network, also one without rows
        assert network(*(part[:0] for part in inputs())).shape == (0, *SHAPE)

    def test_time_and_label_change_the_output(self, config: NetworkConfig) -> None:
        network = build(config).eval()
        x_t, time, labels = inputs()
        base = network(x_t, time, labels)
        assert gaps(network(x_t, time + 5, labels), base).min() > 1e-3
        assert gaps(network(x_t, time, (labels + 1) % CLASSES), base).min() > 1e-3

    def test_the_null_label_is_no_label(self, config: NetworkConfig) -> None:
        network = build(config).eval()
        x_t, time, labels = inputs()
        null = torch.full_like(labels, -1)
        unconditional = network(x_t, time, null)
        assert gaps(network(x_t, time, labels), unconditional).min() > 1e-3
        unconditional.sum().backward()
        assert network.labels.weight.grad.count_nonzero() == 0
        with torch.no_grad():
            network.labels.weight.mul_(100)
            assert torch.equal(network(x_t, time, null), unconditional)
            network.labels.weight.zero_()
            assert torch.equal(network(x_t, time, labels), unconditional)

    def test_dropout_rows_share_masks(self, config: NetworkConfig) -> None:
        network = build(config)
        assert any(isinstance(module, RowDropout) for module in network.modules())
        same = torch.zeros(2, dtype=torch.int64)
        pair = [part[same] for part in inputs()]  # one image twice
        torch.manual_seed(0)
        for rows, equal in ((None, False), (torch.tensor([0, 1]), False), (same, True)):
            first, second = network.train()(*pair, rows)
            assert ((first - second).abs().max() < 1e-4).item() == equal
        in_evaluation = network.eval()(*pair)
        assert torch.equal(network(*pair, same), in_evaluation)
        assert gaps(network.train()(*pair, same), in_evaluation).min() > 1e-3

    def test_augmentation_is_an_input_whose_zeros_change_nothing(
        self, config: NetworkConfig
    ) -> None:
        network = build(config, lively=False)
        network.add_augmentation_conditioning(9)
        assert 0 < network.augmentation.weight.std() < 1
        awake(network).eval()
        numbers = torch.eye(4, 9)
        without = network(*inputs())
        assert gaps(network(*inputs(), augmentation=numbers), without).min() > 1e-3
        assert torch.equal(network(*inputs(), augmentation=0 * numbers), without)
        plain = build(config)
        plain.load_state_dict(merged_weights(network.state_dict(), None))
        assert torch.equal(plain.eval()(*inputs()), without)

    def test_omega_is_an_input_where_it_is_not_negative(self, config: NetworkConfig) -> None:
        network = build(config, guidance_embedding=True).eval()
        without = network(*inputs())
        assert torch.equal(network(*inputs(), omega=torch.full((4,), -1.0)), without)
        mixed = network(*inputs(), omega=torch.tensor([0.0, -1.0, 1.0, 3.0]))
        apart = gaps(mixed, without)
        assert apart[[0, 2, 3]].min() > 1e-3  # 0 is an input too
        assert apart[1] < 1e-5
        near, far = (network(*inputs(), omega=torch.full((4,), w)) for w in (0.3, 0.8))
        assert gaps(near, far).min() > 1e-3
        assert build(config).guidance is None

    # -- low-rank parts ---------------------------------------------------------------------------

    def test_layers_have_the_same_groups_in_every_network(self, config: NetworkConfig) -> None:
        chosen = {
            group: set(add_parts(build(config), "expert", ranked(group), "where"))
            for group in ("embedding", "down", "middle", "up", "*", "*.qkv", "up.*.qkv")
        }
        every = chosen.pop("*")
        attention, above = chosen.pop("*.qkv"), chosen.pop("up.*.qkv")
        assert every == {
            name
            for name, module in build(config).named_modules()
            if isinstance(module, nn.Conv2d | nn.Linear)
        }
        groups = list(chosen.values())
        assert sum(map(len, groups)) == len(set().union(*groups))  # no layer is in two
        assert set().union(*groups) < every
        assert above == attention & chosen["up"]
        assert above < attention
        network = build(config)
        add_parts(network, "expert", ranked("*.qkv"), "where")
        for name, module in network.named_modules():
            if isinstance(module, LowRankPart):
                assert fnmatchcase(name, "*.qkv.parts.expert")
                assert len(module.a) == 3  # q, k and v are three matrices

    @pytest.mark.parametrize("layers", ["up", "down", "embedding", "*"])
    def test_parts_change_nothing_at_first_and_merge_into_their_layers(
        self, config: NetworkConfig, layers: str
    ) -> None:
        network = build(config).eval()
        before = network(*inputs())
        add_parts(network, "general", ranked(layers, rank=2), "where")
        add_parts(network, "expert", ranked(layers, rank=1), "where")
        assert torch.equal(network(*inputs()), before)
        awake(network)
        plain = build(config).eval()
        plain.load_state_dict(merged_weights(network.state_dict(), None))
        assert torch.equal(plain(*inputs()), network(*inputs()))
        with theta_g(network):
            expected = network(*inputs())
        assert gaps(expected, network(*inputs())).min() > 1e-3
        plain.load_state_dict(merged_weights(network.state_dict(), None, general_only=True))
        assert torch.equal(plain(*inputs()), expected)

    def test_the_defaults_of_lora_and_call_fit_the_default_size(
        self, config: NetworkConfig
    ) -> None:
        with torch.device("meta"):
            network = type(config)().build((3, 32, 32), 100)
            whole = sum(p.numel() for p in network.parameters())
            add_parts(network, "general", LoRAConfig(), "pretrained.lora")
            add_parts(network, "expert", LowRankConfig(rank=8), "objective.reserve")
        parts = sum(p.numel() for name, p in network.named_parameters() if ".parts." in name)
        assert 0.03 < parts / whole < 0.3

    @pytest.mark.parametrize("layers", ["up", "middle", "down", "embedding", "up.*.qkv"])
    def test_one_pass_predicts_by_theta_and_by_theta_g(
        self, config: NetworkConfig, layers: str
    ) -> None:
        network = build(config, guidance_embedding=True)
        network.add_augmentation_conditioning(2)
        add_parts(network, "expert", ranked(layers), "where")
        awake(network).eval()
        before = {"up": ["down", "middle"], "up.*.qkv": ["down", "middle"], "middle": ["down"]}
        groups = before.get(layers, [])
        shared = add_parts(build(config), "general", ranked(*groups), "where") if groups else []
        more = {
            "augmentation": torch.arange(8.0).reshape(4, 2) / 4,
            "omega": torch.tensor([0.5, -1.0, 0.2, 0.0]),
        }
        theta = network(*inputs(), **more)
        for general in (1, 3, 4):
            with calls_of(network) as twice:
                both = network(*inputs(), **more, num_general=general)
            assert both.shape == (4 + general, *SHAPE)
            close(both[:4], theta)
            with theta_g(network):
                close(both[4:], network(*inputs(), **more)[:general])
            assert gaps(both[4:], both[:general]).min() > 1e-3
            for name in shared:
                assert twice.count(name) == 1, name

    @pytest.mark.parametrize("layers", ["up", "embedding"])
    def test_theta_and_theta_g_have_the_same_dropout_masks(
        self, config: NetworkConfig, layers: str
    ) -> None:
        network = build(config).train()
        add_parts(network, "expert", ranked(layers), "where")  # at 0: theta is theta_g
        for rows in (None, torch.tensor([0, 1, 0, 1])):
            torch.manual_seed(5)
            both = network(*inputs(), rows, num_general=3)
            close(both[4:], both[:3])
            assert gaps(both[:4], network(*inputs(), rows)).min() > 1e-3  # masks differ
        torch.manual_seed(5)
        first, second = network(*inputs(), num_general=4), network(*inputs(), num_general=4)
        assert gaps(first, second).min() > 1e-3  # and none is kept for a later pass

    def test_theta_g_needs_an_expert_part(self, config: NetworkConfig) -> None:
        network = build(config)
        add_parts(network, "general", ranked("up"), "where")
        with pytest.raises(ValueError, match="no layer has an expert part"):
            network(*inputs(), num_general=3)

    # -- training ---------------------------------------------------------------------------------

    @pytest.mark.parametrize("bf16", [False, True])
    def test_gradients_reach_every_parameter(self, config: NetworkConfig, bf16: bool) -> None:
        network = build(config, guidance_embedding=True)
        network.add_augmentation_conditioning(2)
        add_parts(network, "expert", ranked("*"), "where")
        awake(network)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            output = network(*inputs(), None, torch.ones(4, 2), torch.ones(4), num_general=4)
        output.float().square().mean().backward()
        for name, p in network.named_parameters():
            assert p.grad is not None, name
            assert p.grad.isfinite().all(), name
            assert p.grad.count_nonzero() > 0, name

    @pytest.mark.parametrize("general", [0, 2])
    def test_recomputed_blocks_give_the_same_gradients_for_less_memory(
        self, config: NetworkConfig, general: int
    ) -> None:
        """With dropout, whose masks rows share, and theta_g, whose pass shares those of theta's."""
        network = build(config, dropout=0.4)
        add_parts(network, "expert", ranked("up"), "where")
        awake(network).train()
        rows = torch.tensor([0, 1, 0, 1])

        def gradients() -> tuple[list[Tensor], int]:
            network.zero_grad()
            torch.manual_seed(5)
            with kept(network) as sizes:
                output = network(*inputs(), rows, num_general=general)
            output.square().mean().backward()
            return [output, *(p.grad for p in network.parameters() if p.grad is not None)], sum(
                sizes.values()
            )

        expected, whole = gradients()
        network.recompute = True
        found, less = gradients()
        assert len(found) == len(expected)
        assert all(torch.equal(x, y) for x, y in zip(found, expected, strict=True))
        assert less < 0.6 * whole

    def test_bfloat16_changes_the_output_by_rounding_only(self, config: NetworkConfig) -> None:
        network = build(config).eval()
        exact = network(*inputs())
        with torch.autocast("cpu", torch.bfloat16):
            output = network(*inputs()).float()
        assert 0 < (output - exact).norm() / exact.norm() < 0.05

    @pytest.mark.slow
    def test_compile_takes_it_as_one_graph(self, config: NetworkConfig) -> None:
        network = build(config, guidance_embedding=True)
        add_parts(network, "expert", ranked("up"), "where")
        awake(network).eval()
        arguments = (*inputs(), None, None, torch.ones(4), 4)
        expected = network(*arguments)
        torch._dynamo.reset()
        compiled = torch.compile(network, backend="eager", fullgraph=True)
        assert torch.equal(compiled(*arguments), expected)

    def test_weights_come_from_the_seed_and_go_through_a_state_dict(
        self, config: NetworkConfig
    ) -> None:
        first, second = (build(config, lively=False) for _ in range(2))
        for (name, p), q in zip(
            first.state_dict().items(), second.state_dict().values(), strict=True
        ):
            assert torch.equal(p, q), name
        assert first.state_dict().keys() == dict(first.named_parameters()).keys()  # no buffers
        awake(first).eval()
        second.load_state_dict(first.state_dict())
        assert torch.equal(second.eval()(*inputs()), first(*inputs()))

    @pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda c: c.name)
    def test_every_objective_trains_it(self, config: NetworkConfig, objective: Any) -> None:
        network = build(config, lively=False, guidance_embedding=objective.name == "tcfg")
        objective.prepare(network)
        network.add_augmentation_conditioning(2)
        awake(network)
        batch = images_and_labels(16)
        batch = Batch(batch.images, batch.labels, {"augmentation": torch.ones(16, 2)})
        rng = BatchRandom(3, 0, 0, 16, CPU)
        loss = objective.build(COUNTS)(network, batch, PROCESS, rng, 0).total
        loss.backward()
        assert loss.isfinite()
        assert all(p.grad.isfinite().all() for p in network.parameters() if p.grad is not None)

    def test_a_training_resumed_with_zero_3_goes_on_as_the_undisturbed_one(
        self, config: NetworkConfig, tmp_path: Path
    ) -> None:
        changes = {
            "model": config.model_dump(),
            "objective.name": "call",
            "augmentation.name": "ada",
            "data.flip": False,
        }
        whole = train(tiny(**changes), tmp_path / "whole")
        half = copy_half_time(tmp_path / "whole", tmp_path / "resumed")
        resumed = train(tiny(**changes, engine__zero_stage=3), half)
        assert resumed.losses() == pytest.approx(whole.losses()[4:], rel=1e-5)
        (_, expected), (_, found) = (state(tmp_path / name) for name in ("whole", "resumed"))
        for kind, tensors in expected.items():
            assert distance(tensors, found[kind]) < 1e-4, kind


def ranked(*layers: str, rank: int = 1) -> LowRankConfig:
    return LowRankConfig(layers=layers, rank=rank)


def test_rows_have_the_dropout_masks_of_the_rows_that_they_name() -> None:
    dropout = RowDropout(0.25)
    torch.manual_seed(0)
    rows = torch.tensor([0, 1, 2, 1, 1])
    out = dropout(torch.full((5, 4, 32, 32), 2.0), rows)
    assert torch.equal(out[3], out[1])
    assert torch.equal(out[4], out[1])
    assert not torch.equal(out[0], out[1])
    assert not torch.equal(out[2], out[1])
    values = out[:3].unique().tolist()
    assert values == pytest.approx([0, 2 / 0.75])
    share = (out[:3] == 0).float().mean().item()
    assert share == pytest.approx(0.25, abs=4 * (0.25 * 0.75 / out[:3].numel()) ** 0.5)


@pytest.mark.slow
@pytest.mark.parametrize("config", [NETWORKS[0], NETWORKS[-1]], ids=lambda c: c.name)
def test_blocks_compiled_by_themselves_give_the_same_gradients(
    config: NetworkConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And one variant each: none is looked for among those of the others."""
    network = build(config, dropout=0.0)
    awake(network).train()
    network.recompute = True
    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))

    def gradients() -> list[Tensor]:
        network.zero_grad()
        network(*inputs()).square().mean().backward()
        return [p.grad.clone() for p in network.parameters() if p.grad is not None]

    expected = gradients()
    compile_network(network, "regional")
    torch._dynamo.utils.counters.clear()
    found = gradients()
    assert all(torch.equal(x, y) for x, y in zip(found, expected, strict=True))
    compiled = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert compiled == len(network.repeated_blocks())
    with uncompiled("regional"), torch.no_grad():
        network.eval()(*inputs(2))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == compiled
