"""Recipes composed of others: which names there are, what wins, and what a mistake says."""

from __future__ import annotations

import re

import pytest

from whipray.platform.config.experiment import load_experiment, with_values
from whipray.platform.config.recipes import recipe_layers, recipe_names
from whipray.trainers.errors import UsageProblem


def origins(name: str) -> list[str]:
    return [layer.origin for layer in recipe_layers(name)]


def test_a_name_is_the_longest_data_recipe_and_a_method() -> None:
    assert origins("cifar100-lt-ir50-oc") == [
        "recipe cifar100-lt",
        "recipe cifar100-lt-ir50",
        "recipe methods/oc",
    ]
    resolved = load_experiment("cifar100-lt-ir50-cbdm-ada", ["sampling.guidance.omega=2"])
    assert resolved.value.name == "cifar100-lt-ir50"
    for key, origin in {
        "data.source": "recipe cifar100-lt",
        "data.long_tail.ratio": "recipe cifar100-lt-ir50",
        "augmentation.name": "recipe methods/ada",
        "objective.name": "recipe methods/cbdm",
        "training.images": "recipe methods/cbdm-ada",
        "sampling.guidance.omega": "command line",
    }.items():
        assert resolved.origins[key] == origin


def test_a_file_of_that_name_comes_first() -> None:
    assert origins("cifar10-lt-cbdm")[-2:] == ["recipe methods/cbdm", "recipe cifar10-lt-cbdm"]
    assert load_experiment("cifar10-lt-cbdm", []).value.sampling.guidance.omega == 1.0
    assert load_experiment("cifar100-lt-cbdm", []).value.sampling.guidance.omega == 1.6


def test_the_names_are_data_recipes_their_methods_and_files() -> None:
    names = recipe_names()
    assert len(names) == len(set(names)) == 84
    assert {"cifar10-lt", "cifar100-lt-ir50-sqrt-rs", "digits-lt-call-lora", "digits-demo"} <= {
        *names
    }
    # CIFAR training lengths do not suit digits; the demo sets no name; parts are no experiments.
    for name in ("digits-lt-cbdm", "digits-demo-ada", "cifar10-lt-cbdm-ada-rs", "methods/oc"):
        assert name not in names
    for name in ("digits-lt-cbdm", "digits-demo-ada", "cifar10-lt-"):
        with pytest.raises(UsageProblem, match=f"no recipe is named {name} — did you mean"):
            recipe_layers(name)
    with pytest.raises(UsageProblem, match=r"data\.source is missing"):
        load_experiment("methods/oc", [])


def test_a_list_is_laid_in_order_and_what_two_extend_comes_once(tmp_path) -> None:
    def write(name: str, text: str) -> str:
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    base = write("base.yaml", "seed: 1\nname: base\nextends: digits-lt\n")
    left = write("left.yaml", f"extends: {base}\nseed: 2\n")
    right = write("right.yaml", f"extends: [{base}]\nname: right\n")
    both = write("both.yaml", f"extends: [{left}, {right}, methods/oc]\ntraining.images: 640\n")
    assert origins(both) == [
        *("recipe digits-lt", "base.yaml", "left.yaml", "right.yaml"),
        *("recipe methods/oc", "both.yaml"),
    ]
    experiment = load_experiment(both, []).value
    assert (experiment.seed, experiment.name) == (2, "right")
    assert (experiment.objective.name, experiment.training.images) == ("oc", 640)
    assert load_experiment(write("empty.yaml", f"extends: [{right}]"), []).value.name == "right"

    circle = write("circle.yaml", f"extends: [digits-lt, {tmp_path / 'back.yaml'}]\n")
    back = write("back.yaml", f"extends: {circle}\n")
    with pytest.raises(UsageProblem, match=f"in a circle: {circle} -> {back} -> {circle}"):
        recipe_layers(circle)
    for wrong, near in {"methods/occ": "methods/oc", "digits-tl": "digits-lt"}.items():
        with pytest.raises(UsageProblem, match=f"named {wrong} — did you mean {near}"):
            recipe_layers(write("wrong.yaml", f"extends: [digits-lt, {wrong}]\n"))
    with pytest.raises(UsageProblem, match="unknown key methods"):
        load_experiment(write("own.yaml", "extends: digits-lt\nmethods: [oc]\n"), [])


OTHER_BACKBONES = ("edm", "edm-cbdm", "vit", "vit-cbdm", "dit", "flow")
CIFAR = [
    name
    for name in recipe_names()
    if name.startswith("cifar")
    and not name.endswith(tuple(f"-lt{i}-{b}" for i in ("", "-ir50") for b in OTHER_BACKBONES))
]
"""Every recipe of DDPM's U-Net and process that names released code or a table; digits are in no paper."""
README_STEPS = {"cbdm": 300_001, "cbdm-ada": 500_001, "cbdm-finetune": 50_001, "oc": 200_001}
"""Steps after which a checkpoint is evaluated, one more than its number: READMEs of CBDM-pytorch and OC_LT."""
OMEGAS = {"cbdm": 1.6, "cbdm-ada": 1.4, "cbdm-finetune": 2.0, "oc": 1.5, "call": 1.5, "focal": 1.5}
BATCHES = {"cbdm": 48, "cbdm-ada": 48, "cbdm-finetune": 48, "oc": 128}
DDIM_STEPS = {"oc": 100, "call": 50, "focal": 50}


def method_of(name: str) -> str:
    """Return what follows the data in a recipe's name; plain DDPM has nothing."""
    return re.sub(r"^cifar100?-lt(-ir50)?-?", "", name)


@pytest.mark.parametrize("name", CIFAR)
def test_warm_up_and_average_are_those_of_the_released_code(name: str) -> None:
    """CBDM-pytorch and OC_LT, main.py: warmup 5000 steps, ema_decay 0.9999 a step, lr 2e-4, clip 1."""
    config = load_experiment(name, []).value
    batch, optimizer = config.training.batch_size, config.optimizer
    for step, share in ((1, 1 / 5000), (2500, 0.5), (4999, 0.9998), (5000, 1), (10**6, 1)):
        assert optimizer.lr_at(step * batch, batch) == pytest.approx(2e-4 * share, rel=1e-12)
        assert optimizer.ema_decay_at(step * batch, batch) == pytest.approx(0.9999, abs=1e-8)
    assert (optimizer.betas, optimizer.weight_decay, optimizer.clip) == ((0.9, 0.999), 0, 1)


@pytest.mark.parametrize("name", CIFAR)
def test_recipes_follow_their_table_to_the_end(name: str) -> None:
    """The evaluated checkpoint, its sampling, 50,000 images by Inception: READMEs; CALL section 5.1."""
    config, method = load_experiment(name, []).value, method_of(name)
    loop, sampling, evaluation = config.training, config.sampling, config.evaluation
    assert loop.batch_size == BATCHES.get(method, 64)
    steps = 300_000 if method in ("call", "focal") else README_STEPS.get(method, 200_001)
    assert loop.images == steps * loop.batch_size
    if method in DDIM_STEPS:
        assert (sampling.sampler.name, sampling.sampler.spacing) == ("ddim", "leading")
        assert sampling.sampler.steps == DDIM_STEPS[method]
    else:
        assert (sampling.sampler.name, sampling.sampler.variance) == ("ddpm", "fixed_large")
    assert not sampling.clip_x0
    ten = config.data.source == "cifar10"
    if not ten or method in ("oc", "call", "focal"):  # the READMEs are of CIFAR-100-LT
        assert sampling.guidance.omega == OMEGAS.get(method, 0.8)
    assert evaluation.images_per_class * (10 if ten else 100) == 50_000
    assert evaluation.features.extractor == "inception"
    assert config.model.initial_weights == "released"
    assert {"fid", "kid", "precision_recall", "prd", "inception_score"} == {*evaluation.metrics}


@pytest.mark.parametrize("data", ["cifar100-lt", "cifar100-lt-ir50", "cifar10-lt"])
def test_edm_is_trained_and_sampled_as_its_release_does_cifar_10(data: str) -> None:
    """NVlabs/edm, train.py's defaults, its README's sampler; Karras et al. 2022, table 1."""
    config = load_experiment(f"{data}-edm", []).value
    optimizer, batch = config.optimizer, config.training.batch_size
    assert (batch, config.training.images) == (512, 200_000_000)
    for images, share in ((512, 512e-7), (5_000_000, 0.5), (10_000_000, 1), (200_000_000, 1)):
        assert optimizer.lr_at(images, batch) == pytest.approx(1e-3 * share, rel=1e-12)
    for images, half_life in ((1_000_000, 50_000), (10_000_000, 500_000), (10**8, 500_000)):
        decay = optimizer.ema_decay_at(images, batch)
        assert decay == pytest.approx(0.5 ** (batch / half_life), rel=1e-12)
    assert (optimizer.betas, optimizer.weight_decay, optimizer.clip) == ((0.9, 0.999), 0, 0)
    assert (config.augmentation.name, config.augmentation.probability) == ("ada", 0.12)
    assert config.model.model_dump() == {
        "name": "ddpmpp",
        "base_channels": 128,
        "channel_mult": (2, 2, 2),
        "dropout": 0.13,
        "blocks_per_level": 4,
        "attention_resolutions": (16,),
        "guidance_embedding": False,
    }
    process = config.process
    assert (process.name, process.sigma_data) == ("edm", 0.5)
    assert (process.p_mean, process.p_std) == (-1.2, 1.2)
    assert (process.sigma_min, process.sigma_max) == (0.002, 80)
    sampler = config.sampling.sampler
    assert (sampler.name, sampler.spacing, sampler.s_churn) == ("heun", "rho", 0)
    assert sampler.calls(process) == 35
    assert not config.sampling.clip_x0


@pytest.mark.parametrize("data", ["cifar100-lt", "cifar100-lt-ir50", "cifar10-lt"])
def test_genvit_is_trained_as_its_release_does_cifar_10(data: str) -> None:
    """sndnyang/Diffusion_ViT, gevit_main.py: AdamW, 390 whole batches an epoch, EMA 0.999, clip 1."""
    config = load_experiment(f"{data}-vit", []).value
    optimizer, batch, epoch = config.optimizer, config.training.batch_size, 390 * 128
    assert (batch, config.training.images) == (128, 500 * epoch)
    assert optimizer.lr_at(5 * epoch, batch) == pytest.approx(5e-4, rel=1e-12)
    assert optimizer.lr_at(10 * epoch, batch) == optimizer.lr_at(500 * epoch, batch) == 1e-3
    assert optimizer.ema_decay_at(10 * epoch, batch) == pytest.approx(0.999, rel=1e-9)
    assert (optimizer.weight_decay, optimizer.clip) == (0.05, 1)
    model, process = config.model, config.process
    assert (model.name, model.patch_size, model.width) == ("vit", 4, 384)
    assert (model.depth, model.heads, model.mlp_ratio, model.dropout) == (9, 12, 2, 0)
    assert (process.schedule, process.timesteps, process.prediction) == ("cosine", 1000, "eps")
    assert (config.sampling.sampler.name, config.sampling.clip_x0) == ("ddpm", True)


@pytest.mark.parametrize("backbone", ["edm", "vit"])
def test_cbdm_on_another_backbone_changes_the_objective_and_its_omega_only(backbone: str) -> None:
    base = load_experiment(f"cifar100-lt-{backbone}", []).value
    cbdm = load_experiment(f"cifar100-lt-{backbone}-cbdm", []).value
    unet = load_experiment("cifar100-lt-cbdm", []).value
    assert cbdm.objective == unet.objective
    assert cbdm.sampling.guidance == unet.sampling.guidance
    sampling = base.sampling.model_copy(update={"guidance": cbdm.sampling.guidance})
    assert base.model_copy(update={"objective": cbdm.objective, "sampling": sampling}) == cbdm


@pytest.mark.parametrize(("name", "steps"), [("heun", 18), ("dpmpp_2m", 20), ("unipc", 20)])
def test_another_sampler_has_its_own_steps_and_levels(name: str, steps: int) -> None:
    """Those of the recipe or the run (50 or 100 steps of ddim, leading) are no measure for it."""
    for recipe in ("cifar100-lt-oc", "cifar100-lt-call"):
        chosen = f"sampling.sampler.name={name}"
        of_recipe = load_experiment(recipe, [chosen]).value
        of_run = with_values(
            load_experiment(recipe, []).value, {"sampling.sampler.name": name}, "a point"
        )
        for config in (of_recipe, of_run):
            assert config.sampling.sampler.steps == steps
            assert config.sampling.sampler == type(config.sampling.sampler)()
    given = load_experiment(recipe, [chosen, "sampling.sampler.steps=7"]).value
    assert given.sampling.sampler.steps == 7


def test_imagenet_lt_is_edm_s_at_64_pixels() -> None:
    config = load_experiment("imagenet-lt-64", []).value
    assert (config.data.source, config.data.image_size) == ("list_files", 64)
    assert config.model.channel_mult == (1, 2, 2, 2)
    assert (config.process.p_mean, config.process.p_std) == (-0.8, 1.6)
    assert (config.engine.precision, config.engine.zero_stage) == ("bf16", 1)
    groups = config.evaluation.groups
    assert (groups.kind, groups.many_above, groups.few_below) == ("thresholds", 100, 20)
    dit = load_experiment("imagenet-lt-64-dit", []).value
    assert dit.model.grid_of((3, 64, 64)) == (16, 16)
    assert (dit.data, dit.process.name) == (config.data, "flow")


@pytest.mark.parametrize("name", ["imagenet-lt-32", "imagenet-lt-64-ddpm"])
def test_imagenet_lt_by_ddpm_is_trained_and_sampled_as_cm_has_it(name: str) -> None:
    """CM (ICLR 2026): DDIM in 50 steps at omega 1.5, 50,000 images; its code: batch 64, rate 2e-4, clip 1, bf16."""
    ddpm, call = load_experiment(name, []).value, load_experiment(f"{name}-call", []).value
    assert ddpm.data.image_size == int(name.split("-")[2])
    assert ddpm.data.train_list == load_experiment("imagenet-lt-64", []).value.data.train_list
    for config in (ddpm, call):
        loop, optimizer, sampling = config.training, config.optimizer, config.sampling
        assert (loop.batch_size, loop.images) == (64, 300_000 * 64)
        assert optimizer.lr_at(2500 * 64, 64) == pytest.approx(1e-4, rel=1e-12)
        assert optimizer.ema_decay_at(10**8, 64) == pytest.approx(0.9999, abs=1e-8)
        assert (optimizer.clip, config.engine.precision) == (1, "bf16")
        sampler = sampling.sampler
        assert (sampler.name, sampler.steps, sampler.spacing) == ("ddim", 50, "leading")
        assert (sampling.guidance.omega, sampling.clip_x0) == (1.5, False)
        assert (config.augmentation.name, config.process.name) == ("none", "vp")
        assert config.evaluation.images_per_class * 1000 == 50_000
    levels = [ddpm.data.image_size >> level for level in range(len(ddpm.model.channel_mult))]
    assert (levels[-1], ddpm.model.attention_resolutions) == (4, (16,))
    assert (call.objective.name, call.objective.base.name) == ("call", "oc")
    assert (call.objective.weight, call.objective.reserve.rank) == (1.0, 0.1)


def test_cbdm_fine_tunes_imagenet_lt_with_its_own_tau_and_omega() -> None:
    config = load_experiment("imagenet-lt-64-ddpm-cbdm-finetune", []).value
    base = load_experiment("imagenet-lt-64-ddpm", []).value
    assert (config.objective.name, config.objective.tau) == ("cbdm", 0.01)
    assert (config.objective.label_set, config.sampling.guidance.omega) == ("balanced", 1.6)
    assert (config.pretrained.model, config.model) == ("base", base.model)
    assert config.data == base.data


def test_without_a_network_one_setting_takes_the_own_classifier() -> None:
    override = "evaluation.features.extractor=classifier"
    features = load_experiment("cifar100-lt-cbdm", [override]).value.evaluation.features
    assert features.extractor == "classifier"
