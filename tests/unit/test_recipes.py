"""Recipes composed of others: which names there are, what wins, and what a mistake says."""

from __future__ import annotations

import re

import pytest

from whipray.platform.config.experiment import load_experiment
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
    assert len(names) == len(set(names)) == 49
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


CIFAR = [name for name in recipe_names() if name.startswith("cifar")]
"""Every recipe that names released code or a table; digits are in no paper."""
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


def test_without_a_network_one_setting_takes_the_own_classifier() -> None:
    override = "evaluation.features.extractor=classifier"
    features = load_experiment("cifar100-lt-cbdm", [override]).value.evaluation.features
    assert features.extractor == "classifier"
