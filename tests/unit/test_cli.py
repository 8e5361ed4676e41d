"""The command line: exit codes, errors of two lines, one JSON document, options."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.documents import PAGES, Command, read_commands
from support.servers import free_port

from whipray.platform.cli import main as cli
from whipray.platform.cli.exit_codes import exit_code_of
from whipray.platform.launching.jobs_client import AuthenticationProblem
from whipray.platform.tracking.versions import parse_uri
from whipray.trainers.errors import Problem, UsageProblem


@dataclass(frozen=True)
class Answer:
    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.out)  # one document, nothing around it
        return found


class Shell:
    """Runs the command in this process, in an empty folder."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.monkeypatch, self.capsys = monkeypatch, capsys

    def __call__(self, *arguments: str) -> Answer:
        self.monkeypatch.setattr(sys, "argv", ["whipray", *arguments])
        with pytest.raises(SystemExit) as left:
            cli.main()
        out, err = self.capsys.readouterr()
        return Answer(int(left.value.code or 0), out, err)


@pytest.fixture
def whipray(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Shell:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WHIPRAY_CACHE", str(tmp_path / "cache"))
    for name in ("WHIPRAY_STORAGE", "MLFLOW_TRACKING_URI", "RAY_ADDRESS", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    return Shell(monkeypatch, capsys)


MISTAKES = {
    "no verb of this name": (("trian", "digits-lt"), "trian"),
    "no option of this name": (("train", "digits-lt", "--dry"), "--dry"),
    "nothing to train": (("train",), "RECIPE"),
    "no recipe of this name": (("train", "digits-tl"), "did you mean digits-lt or "),
    "no recipe file there": (("train", "mine.yaml"), "mine.yaml"),
    "no space of this name": (("sweep", "cbmd"), "cbdm"),
    "an unknown key": (("train", "digits-lt", "objective.tua=1"), "objective.tau"),
    "an unknown value": (
        ("train", "digits-lt", "sampling.sampler.name=dimm"),
        "did you mean ddim?",
    ),
    "a process under its old name": (
        ("train", "digits-lt", "diffusion.schedule=cosine"),
        "did you mean process.schedule?",
    ),
    "guidance under its old name": (
        ("train", "digits-lt", "sampling.omega=1.5"),
        "did you mean sampling.guidance.omega?",
    ),
    "steps under their old name": (
        ("train", "digits-lt", "sampling.steps=50"),
        "did you mean sampling.sampler.steps?",
    ),
    "a sampler under its old name": (
        ("train", "digits-lt", "sampling.sampler=ddim"),
        "write sampling.sampler.name=ddim",
    ),
    "a variance under its old name": (
        ("train", "digits-lt", "sampling.variance=fixed_small"),
        "did you mean sampling.sampler.variance?",
    ),
    "a sampler that the process cannot take": (
        ("train", "digits-lt-edm", "sampling.sampler.name=ddpm"),
        "set sampling.sampler.name to ddim, heun, dpmpp_2m or unipc",
    ),
    "a key of another process": (
        ("train", "digits-lt", "process.sigma_data=0.5"),
        "not a key of process when that is vp",
    ),
    "early stops over processes": (
        ("sweep", "processes", "tuning.early_stop.min_images=3200", "--recipe", "digits-lt"),
        "sweep over each process by itself",
    ),
    "a value out of range": (("train", "digits-lt", "training.images=-1"), "training.images"),
    "an override without a value": (("train", "digits-lt", "seed"), "seed"),
    "no run of this name": (("evaluate", "nothing"), "no run nothing"),
    "no trial of this name": (("sample", "nothing/3"), "no run nothing/3"),
    "trials that are no number": (("sweep", "cbdm", "--trials", "0"), "--trials"),
}


def test_patches_that_do_not_divide_the_image_are_refused(whipray: Shell, tmp_path: Path) -> None:
    answer = whipray("train", "digits-lt-vit", "model.patch_size=3")
    assert (answer.code, answer.out) == (2, "")
    error, fix = answer.err.strip().splitlines()[-2:]
    assert error.startswith("error: model.patch_size 3 does not divide images of 8x8")
    assert "1, 2, 4, 8" in error
    assert fix.startswith("fix: ")
    assert not (tmp_path / "whipray-runs").exists()


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_answered_in_two_lines(whipray: Shell, tmp_path: Path, mistake: str) -> None:
    arguments, said = MISTAKES[mistake]
    answer = whipray(*arguments)
    assert answer.code == 2
    assert answer.out == ""
    lines = answer.err.strip().splitlines()
    assert len(lines) == 2, answer.err
    assert lines[0].startswith("error: ")
    assert lines[1].startswith("fix: ")
    assert said in answer.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("verb", ["train digits-lt --run", "sweep cbdm --name"])
@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", "/", "-x", "a/1", "trials/0000", "models:/x", "o'brien", 'a"b', "a`b"),
        *("a=b", "a b", "a\n", "a\x1b[2J", "a\u202eb", "ü", "x" * 129),
    ],
)
def test_a_name_that_no_verb_could_read_is_refused(
    whipray: Shell, tmp_path: Path, verb: str, name: str
) -> None:
    for dry in ([], ["--dry-run"]):
        answer = whipray(*verb.split(), name, *dry)
        assert (answer.code, answer.out) == (2, "")
        what, fix = answer.err.strip().splitlines()
        assert "name of a run" in what or "name of a sweep" in what
        assert what.isascii()
        assert what.isprintable()
        assert "letter" in fix or "128" in fix
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("model", ["o'brien", "a b", "m@a'b", "m@"])
def test_a_model_that_cannot_be_named_so_is_not_searched(model: str) -> None:
    with pytest.raises(UsageProblem, match="cannot be the name of a"):
        parse_uri(f"models:/{model}")
    assert parse_uri("models:/m/3") == ("m", "3", "")
    assert parse_uri("models:/m@best") == ("m", "", "best")


@pytest.mark.parametrize("key", ["tracking.uri", "storage.endpoint_url", "storage.uri"])
@pytest.mark.parametrize(
    "address",
    [
        *("http://ann:hunter2@h", "postgresql://ann:hunter2@h/db", "http//ann:hunter2@h"),
        *("postgresql://h/db?password=hunter2", "http://h/?hunter2", "http://h/#hunter2"),
        *("s3://hunter2@b", "http://ann:hunter2@[h"),
    ],
)
def test_an_address_with_a_secret_is_refused_before_it_is_shown(
    whipray: Shell, tmp_path: Path, key: str, address: str
) -> None:
    for verb in (("train", "digits-lt"), ("sweep", "cbdm")):
        answer = whipray(*verb, f"{key}={json.dumps(address)}", "--dry-run")
        assert answer.code == 2
        assert answer.err.startswith(
            f"error: {key} holds a login, options or a fragment\nfix: give"
        )
        assert "hunter2" not in answer.out + answer.err
    assert list(tmp_path.iterdir()) == []


def test_a_mistake_is_a_document_where_one_was_asked_for(whipray: Shell) -> None:
    answer = whipray("train", "digits-tl", "--json")
    assert answer.code == 2
    error = answer.document["error"]
    assert error["code"] == 2
    assert f"error: {error['message']}\nfix: {error['hint']}\n" == answer.err


LONG = "x" * 100_000


@pytest.mark.parametrize(
    "words",
    [
        (LONG,),
        ("train", LONG),
        ("train", "digits-lt", f"name={LONG}"),
        ("train", "digits-lt", f"{LONG}=1"),
        ("evaluate", LONG),
        ("models", "--storage", f"gs://{LONG}"),
        ("jobs", "list", "--on", LONG),
    ],
)
def test_a_long_argument_is_not_repeated_whole(whipray: Shell, words: tuple[str, ...]) -> None:
    answer = whipray(*words, "--json")
    assert answer.code in (1, 2)
    assert "unexpected" not in answer.err
    assert len(answer.err) < 4000
    assert len(answer.document["error"]["message"]) < 1000


def test_a_space_that_names_no_key_is_refused(whipray: Shell, tmp_path: Path) -> None:
    parameter = {"type": "float", "low": 0.1, "high": 1.0}
    space = {"description": "wrong", "train": {"objective.tua": parameter}}
    (tmp_path / "wrong.yaml").write_text(yaml.safe_dump(space))
    answer = whipray("sweep", "wrong.yaml")
    assert answer.code == 2
    assert "objective.tua" in answer.err
    assert "objective.tau" in answer.err.partition("fix: ")[2]


@pytest.mark.parametrize("arguments", [("train", "digits-lt"), ("sweep", "cbdm")])
def test_a_dry_run_touches_nothing(
    whipray: Shell, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    answer = whipray(*arguments, "--dry-run", "--json", "training.images=640")
    assert answer.code == 0, answer.err
    document = answer.document
    assert document["config"]["training.images"] == 640
    assert document["origins"]["training.images"] == "command line"
    assert "10 of 64 images" in document["plan"]["steps"]
    assert list(tmp_path.iterdir()) == []


def test_a_defect_keeps_its_traceback_out_of_sight(
    whipray: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("of whipray's own making")

    monkeypatch.setattr("whipray.platform.config.experiment.load_experiment", broken)
    answer = whipray("train", "digits-lt")
    assert answer.code == 1
    assert "Traceback" not in answer.err
    log = Path(answer.err.strip().rpartition(" ")[2])
    assert "ZeroDivisionError: of whipray's own making" in log.read_text()
    log.unlink()


def test_a_lack_of_memory_is_no_defect(whipray: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    def starved(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("whipray.platform.config.experiment.load_experiment", starved)
    answer = whipray("train", "digits-lt")
    assert answer.code == 1
    assert answer.err.startswith("error: the memory did not suffice: MemoryError\nfix: free memory")


def test_a_problem_says_its_own_exit_code(whipray: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise Problem("the disk is full", "make room")

    monkeypatch.setattr("whipray.platform.config.experiment.load_experiment", refused)
    answer = whipray("train", "digits-lt")
    assert (answer.code, answer.err) == (1, "error: the disk is full\nfix: make room\n")


def test_an_interrupt_says_how_to_go_on(whipray: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    def leave(code: int) -> None:  # not by os._exit, which would end the tests
        sys.exit(code)

    monkeypatch.setattr("whipray.platform.config.experiment.load_experiment", interrupted)
    monkeypatch.setattr(cli, "_exit_now", leave)
    answer = whipray("train", "digits-lt", "--json")
    assert answer.code == 130
    assert answer.document["error"]["message"] == "interrupted"
    assert answer.err.endswith("error: interrupted\nfix: run the same command again to resume\n")


def test_help_does_not_wait_for_pytorch() -> None:
    code = (
        "import sys; sys.argv = ['whipray', 'sweep', '--help']\n"
        "from whipray.platform.cli.main import main\n"
        "try: main()\n"
        "except SystemExit as left: assert left.code == 0\n"
        "print(sorted({'torch', 'ray', 'mlflow', 'deepspeed', 'optuna'} & sys.modules.keys()))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--recipe" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_version_is_shown_at_once(whipray: Shell) -> None:
    answer = whipray("--version")
    assert (answer.code, answer.err) == (0, "")
    assert answer.out == f"whipray {importlib.metadata.version('whipray')}\n"


@pytest.mark.parametrize("words", [(), ("train",), ("jobs", "list")])
def test_help_has_a_short_name(whipray: Shell, words: tuple[str, ...]) -> None:
    long, short = whipray(*words, "--help"), whipray(*words, "-h")
    assert (short.code, short.out) == (0, long.out)
    assert "-h, --help" in long.out


def test_exit_codes_follow_the_kind_of_problem() -> None:
    assert exit_code_of(Problem("a", "b")) == 1
    assert exit_code_of(UsageProblem("a", "b")) == 2
    assert exit_code_of(AuthenticationProblem("a", "b")) == 4


VERBS = (
    "train",
    "sweep",
    "ui",
    "evaluate",
    "compare",
    "guidance",
    "classify",
    "balance",
    "sample",
    "models",
    "doctor",
)


@pytest.mark.parametrize("verb", VERBS)
def test_a_store_is_named_by_the_same_options_everywhere(whipray: Shell, verb: str) -> None:
    shown = whipray(verb, "--help").out
    assert all(option in shown for option in ("--storage", "--endpoint", "--tracking"))
    assert "STORE" not in shown


@pytest.mark.parametrize(
    ("options", "what"),
    [
        (("--storage", "gs://bucket"), "--storage gs://bucket cannot be used"),
        (("--storage", "s3://bucket", "--endpoint", "s3"), "--endpoint s3 cannot be used"),
    ],
)
def test_a_wrong_store_option_is_named(whipray: Shell, options: tuple[str, ...], what: str) -> None:
    answer = whipray("models", *options)
    assert answer.code == 2
    assert answer.err.startswith(f"error: {what}\nfix: use ")


@pytest.mark.parametrize("verb", [("train", "digits-lt"), ("sweep", "cbdm")])
def test_a_store_s_option_is_the_override_of_its_key(
    whipray: Shell, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, verb: tuple[str, ...]
) -> None:
    """The command line goes before the recipe, that before the environment."""
    keys = {
        "storage.uri": "/a b",
        "storage.endpoint_url": "http://s3:1",
        "tracking.uri": "http://m",
    }
    options = ("--storage", "/a b", "--endpoint", "http://s3:1", "--tracking", "http://m")
    monkeypatch.setenv("WHIPRAY_STORAGE", "/environment")

    def origin(*arguments: str) -> tuple[str, str]:
        answer = whipray(*verb, *arguments, "--dry-run", "--json")
        assert answer.code == 0, answer.err
        document = answer.document
        return document["config"]["storage.uri"], document["origins"]["storage.uri"]

    answer = whipray(*verb, *options, "--dry-run", "--json")
    assert {key: answer.document["config"][key] for key in keys} == keys
    assert {answer.document["origins"][key] for key in keys} == {"command line"}
    assert origin() == ("/environment", "WHIPRAY_STORAGE")
    if verb[0] == "train":
        (tmp_path / "own.yaml").write_text("extends: digits-lt\nstorage: {uri: /recipe}\n")
        verb = ("train", "own.yaml")
        assert origin() == ("/recipe", "own.yaml")
    assert origin("storage.uri=/x") == ("/x", "command line")
    answer = whipray(*verb, "--storage", "/a", "storage.uri=/b", "--dry-run")
    assert answer.code == 2
    assert answer.err.startswith(
        "error: --storage and storage.uri are the same, and both are given"
    )


def test_a_wrong_variable_is_named(whipray: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHIPRAY_STORAGE", "gs://bucket")
    for verb in (("train", "digits-lt"), ("models",), ("evaluate", "run")):
        answer = whipray(*verb)
        assert answer.code == 2
        assert "WHIPRAY_STORAGE" in answer.err
        assert "s3://bucket/prefix" in answer.err


READING = {
    "models": ("models",),
    "models of a name": ("models", "m", "--champion", "1"),
    "sample": ("sample", "models:/m@champion"),
    "evaluate": ("evaluate", "models:/m@champion"),
    "guidance": ("guidance", "models:/m@champion"),
    "ui": ("ui",),
}


@pytest.mark.parametrize("reading", READING)
def test_who_only_reads_makes_nothing_where_there_is_nothing(
    whipray: Shell, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, reading: str
) -> None:
    monkeypatch.setenv("WHIPRAY_STORAGE", str(tmp_path / "runs"))
    answer = whipray(*READING[reading])
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith(
        f"error: nothing is recorded yet: there is no {tmp_path}/runs/mlflow.db\nfix: "
    )
    assert list(tmp_path.iterdir()) == []


ON_A_CLUSTER = [
    command
    for page in PAGES
    for command in read_commands(page)
    if command.words[0] == "whipray" and "--on" in command.words
]


@pytest.mark.parametrize("command", ON_A_CLUSTER, ids=str)
def test_a_documented_launch_fails_only_where_the_network_begins(
    whipray: Shell, tmp_path: Path, command: Command
) -> None:
    """Its address is taken from it: no cluster answers, and that is all that is wrong."""
    address = f"http://127.0.0.1:{free_port()}"
    words = [os.path.expandvars(word) for word in command.words[1:]]
    words[words.index("--on") + 1] = address
    answer = whipray(*words)
    assert (answer.code, answer.out) == (4, ""), answer.err
    assert f"error: no Ray cluster answers at {address}\nfix: " in answer.err
    assert list(tmp_path.iterdir()) == []


def test_pages_show_launches() -> None:
    assert len([c for c in ON_A_CLUSTER if c.page == "infra/README.md"]) >= 11


def test_quiet_leaves_errors_and_data(whipray: Shell, tmp_path: Path) -> None:
    checkpoint = tmp_path / "whipray-runs/runs/mine/checkpoints/images-000000000128"
    checkpoint.mkdir(parents=True)
    (checkpoint / "manifest.json").write_text("{}")
    loud, quiet = whipray("runs", "list"), whipray("--quiet", "runs", "list")
    assert loud.err != ""
    assert (quiet.code, quiet.out, quiet.err) == (0, loud.out, "")
    refused = whipray("--quiet", "runs", "show", "nothing")
    assert (refused.code, refused.err.count("\n")) == (2, 2)
    assert whipray("--quiet", "--verbose", "runs", "list").code == 2
    assert whipray("runs", "list").err == loud.err


def test_verbose_shows_log_lines_with_their_times() -> None:
    code = (
        "import logging, sys\n"
        "from whipray.platform.cli.main import main\n"
        "from whipray.platform.config import recipes\n"
        "names = recipes.recipe_names\n"
        "recipes.recipe_names = lambda: (logging.getLogger('library').info('a line'), names())[1]\n"
        "sys.argv = ['whipray', *sys.argv[1:]]\n"
        "main()\n"
    )
    lines = []
    for options in ((), ("--verbose",)):
        words = [sys.executable, "-c", code, *options, "recipes", "--json"]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        lines.append(done.stderr)
    assert lines[0] == ""
    assert re.fullmatch(r"(\d\d:\d\d:\d\d library: a line\n)+", lines[1])


def test_removing_asks_for_a_yes(whipray: Shell, tmp_path: Path) -> None:
    manifest = tmp_path / "whipray-runs/runs/mine/checkpoints/images-000000000128/manifest.json"
    manifest.parent.mkdir(parents=True)
    manifest.write_text("{}")
    refused = whipray("runs", "rm", "mine")
    assert refused.code == 2
    assert "nothing was removed" in refused.err
    assert manifest.exists()
    done = whipray("runs", "rm", "mine", "--yes", "--json")
    assert done.document["removed"] == [{"run": "mine", "bytes": 2}]
    assert not manifest.exists()


def test_a_recipe_is_shown_as_a_recipe(whipray: Shell, tmp_path: Path) -> None:
    shown = whipray("config", "show", "digits-lt-oc", "seed=7")
    (tmp_path / "again.yaml").write_text(shown.out)
    again = whipray("config", "show", "again.yaml", "--json").document["config"]
    assert again == whipray("config", "show", "digits-lt-oc", "seed=7", "--json").document["config"]
    assert again["seed"] == 7
    explained = whipray("config", "explain", "objective.tau").out
    assert "objective.name=cbdm" in explained
    assert "Weight of the regulariser" in explained
    assert "did you mean objective.tau?" in whipray("config", "explain", "objective.tua").err
    listed = {each["name"]: each for each in whipray("recipes", "--json").document["recipes"]}
    assert listed["cifar100-lt-ir50-oc"]["method"] == "oc"
    assert all(each["text"].endswith(".") and len(each["text"]) > 4 for each in listed.values())
    assert whipray("recipes", "nothing").code == 2
