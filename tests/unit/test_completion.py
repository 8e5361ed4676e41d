"""Completion in real shells, of recipes, runs, keys and values."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from whipray.platform.config.experiment import Experiment
from whipray.platform.config.key_facts import find_facts, known_facts
from whipray.platform.config.schema import known_keys

WHIPRAY = f'#!/bin/sh\nexec "{sys.executable}" -m whipray.platform.cli.main "$@"\n'

CASES = {
    "whipray ru": ["runs"],
    "whipray train cifar10-lt-ed": ["cifar10-lt-edm", "cifar10-lt-edm-cbdm"],
    "whipray train digits-lt objective.ta": ["objective.tau="],
    "whipray train digits-lt objective.tau=1 engine.precision=b": ["bf16"],
    "whipray train digits-lt sampling.sampler.name=": ["ddim", "ddpm", "dpmpp_2m", "heun", "unipc"],
    "whipray evaluate mi": ["mine"],
    "whipray sweep proc": ["processes"],
    "whipray config explain objective.lab": [
        "objective.label_drop",
        "objective.label_drop_per",
        "objective.label_samples",
        "objective.label_set",
    ],
}
BASH = """
eval "$(whipray --show-completion bash)"
for line; do
  apart=${line//=/ = }  # as bash itself does, by COMP_WORDBREAKS
  read -ra COMP_WORDS <<< "$apart"
  COMP_CWORD=$(( ${#COMP_WORDS[@]} - 1 ))
  _whipray_completion whipray
  echo "${COMPREPLY[*]}"
done
"""
FISH = """
whipray --show-completion fish | source
for line in $argv
  echo (complete -C $line | string replace -r '\\t.*' '')
end
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """`whipray` on the PATH, and a store with a run `mine`."""
    folder = tmp_path_factory.mktemp("shell")
    command = folder / "bin/whipray"
    command.parent.mkdir()
    command.write_text(WHIPRAY)
    command.chmod(0o755)
    checkpoint = folder / "runs/runs/mine/checkpoints/images-000000000128"
    checkpoint.mkdir(parents=True)
    (checkpoint / "manifest.json").write_text("{}")
    cache = {"WHIPRAY_CACHE": str(folder / "cache"), "WHIPRAY_STORAGE": str(folder / "runs")}
    home = {"HOME": str(folder), "PATH": f"{command.parent}:{os.environ['PATH']}"}
    return {**os.environ, **cache, **home}


def reply(words: list[str], environment: dict[str, str]) -> list[str]:
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    return [line.split("\t")[0] for line in done.stdout.split("\n") if line]


def test_bash_completes(environment: dict[str, str]) -> None:
    got = reply(["bash", "--norc", "-c", BASH, "bash", *CASES], environment)
    assert got == [" ".join(expected) for expected in CASES.values()]


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
def test_fish_completes(environment: dict[str, str]) -> None:
    got = reply(["fish", "--no-config", "-c", FISH, *CASES], environment)
    keys = [line.split()[-1].rpartition("=") for line in CASES]
    whole = [
        [f"{key}{equals}{word}" for word in expected]
        for (key, equals, _), expected in zip(keys, CASES.values(), strict=True)
    ]
    assert got == [" ".join(words) for words in whole]


ZSH = """
zmodload zsh/zpty
zpty z zsh -f -i
zpty -w z 'autoload -Uz compinit; compinit -u -d $HOME/dump; eval "$(whipray --show-completion zsh)"; echo rea''dy'
zpty -r z out '*ready*'
zpty -w -n z "$1"$'\\t'
repeat 100; do
  sleep 0.2; zpty -r -t z part && out+=$part; [[ $out == *"$2"* ]] && break
done
print -r -- "$out"
"""


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
def test_zsh_completes(environment: dict[str, str]) -> None:
    for line, added in (
        ("whipray train digits-lt objective.ta", "objective.tau="),
        ("whipray train digits-lt engine.precision=b", "engine.precision=bf16"),
    ):
        words = ["zsh", "-f", "-c", ZSH, "zsh", line, added]
        assert added in "".join(reply(words, environment))


def test_completion_imports_neither_torch_nor_mlflow(environment: dict[str, str]) -> None:
    known_facts_first = [
        sys.executable,
        "-c",
        "from whipray.platform.config.key_facts import known_facts; known_facts()",
    ]
    subprocess.run(known_facts_first, env=environment, check=True)
    code = (
        "import sys\n"
        "from whipray.platform.cli import completion\n"
        "for find in (completion.recipes, completion.spaces, completion.runs, completion.targets):\n"
        "    assert find('')\n"
        "assert completion.overrides('objective.name=')\n"
        "print({'torch', 'mlflow', 'ray', 'pandas', 'sklearn', 'scipy'} & {*sys.modules})\n"
    )
    assert reply([sys.executable, "-c", code], environment) == ["set()"]


def test_every_key_has_its_facts() -> None:
    facts = list(find_facts(Experiment))
    assert {fact.key for fact in facts} == set(known_keys(Experiment))
    by_key = {(fact.key, fact.variant): fact for fact in facts}
    tau = by_key["objective.tau", "objective.name=cbdm"]
    assert (tau.type, tau.range, tau.default) == ("number", ">= 0", "1.0")
    assert by_key["engine.precision", ""].choices[:2] == ("fp32", "bf16")
    assert by_key["training.images", ""].default == "required"


def test_known_facts_are_kept_until_a_module_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WHIPRAY_CACHE", str(tmp_path))
    assert known_facts() == list(find_facts(Experiment))
    (kept,) = tmp_path.iterdir()
    assert known_facts() == list(find_facts(Experiment))
    kept.write_text("damaged")
    assert known_facts() == list(find_facts(Experiment))
