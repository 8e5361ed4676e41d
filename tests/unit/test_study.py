"""A study: what `ask` returns, in which order, and what survives a kill."""

from __future__ import annotations

import math
import os
import pickle
import random
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from whipray.platform.config.space import Space
from whipray.platform.config.space_files import parse_space
from whipray.platform.storage import writer_lock
from whipray.platform.storage.config import StorageConfig
from whipray.platform.storage.errors import StorageProblem
from whipray.platform.storage.store import Storage
from whipray.platform.tuning.study import Study
from whipray.platform.tuning.study_storage import StudyLocation
from whipray.platform.tuning.trial_records import Point, Row
from whipray.trainers.errors import Problem, UsageProblem

if TYPE_CHECKING:  # this file is run as a script too
    from support.servers import Server

MIXED = """
description: continuous, stepped and conditional
train:
  tau: {type: float, low: 0.1, high: 5.0, log: true}
  gamma: {type: float, low: 0.0, high: 1.0, step: 0.1}
  label_set: {type: categorical, choices: [train, sqrt, balanced]}
  draws: {type: int, low: 1, high: 4, when: {label_set: balanced}}
seed_points:
  - {tau: 1, gamma: 0.3, label_set: train}
  - {tau: 2.0, gamma: 0.5, label_set: balanced, draws: 2}
baselines:
  - {name: ddpm, set: {objective: {name: ddpm}}}
"""
FINITE = """
description: six points
train:
  gamma: {type: float, low: 0.0, high: 0.2, step: 0.1}
  shared: {type: categorical, choices: [true, false]}
"""


def opened(
    location: StudyLocation, space: Space | str = MIXED, name: str = "sweep", **options: object
) -> Study:
    space = parse_space(space, "test") if isinstance(space, str) else space
    return Study.open(location, name, space, **{"seed": 0, "total": 6, **options})


@pytest.fixture(params=["journal", "sqlite", pytest.param("bucket", marks=pytest.mark.slow)])
def location(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> StudyLocation:
    if request.param != "bucket":
        return tmp_path / "s.log" if request.param == "journal" else f"sqlite:///{tmp_path}/s.db"
    moto: Server = request.getfixturevalue("moto")
    for name, value in moto.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(writer_lock, "TAKEOVER_WAIT_S", 0.0)  # moto honours If-None-Match
    moto.make_bucket("studies")
    return Storage(StorageConfig(uri=f"s3://studies{tmp_path}", endpoint_url=moto.endpoint))


def drain(study: Study, value: float = 1.0) -> list[Point]:
    points = []
    while point := study.ask():
        study.complete(point.number, value)
        points.append(point)
    return points


def best(study: Study, sign: int = 1) -> Row | None:
    """The complete searched trial with the best value."""
    rows = [r for r in study.table() if r["state"] == "complete" and r["baseline"] is None]
    return min(rows, key=lambda row: sign * row["value"], default=None)


def test_baselines_then_seed_points_then_new_ones_and_all_survive_a_restart(location) -> None:
    first = opened(location)
    begun = [first.ask() for _ in range(4)]
    assert begun[0] == Point(0, {"objective.name": "ddpm"}, False, "ddpm")
    assert begun[1] == Point(1, {"tau": 1.0, "gamma": 0.3, "label_set": "train"}, False)
    assert begun[2].values == {"tau": 2.0, "gamma": 0.5, "label_set": "balanced", "draws": 2}
    first.complete(1, 0.5, {"checkpoint": "s3://x"})
    first.close()

    second = opened(location)
    resumed = [second.ask() for _ in range(3)]
    assert [(p.number, p.values, p.baseline, p.resumed) for p in resumed] == [
        (p.number, p.values, p.baseline, True) for p in begun if p.number != 1
    ]
    for point in resumed:
        second.complete(point.number, 1.0)
    assert len(drain(second)) == 3  # 6 searched, 3 of them before
    assert [row["state"] for row in second.table()] == ["complete"] * 7
    assert second.table()[1]["attrs"] == {"seed_point": True, "checkpoint": "s3://x"}
    assert best(second)["number"] == 1
    second.close()

    longer = opened(location, total=8)
    assert [p.number for p in drain(longer)] == [7, 8]
    assert len(longer.finished()) == 9
    longer.close()


def test_draws_depend_on_the_seed_and_never_on_restarts(tmp_path) -> None:
    at_once = opened(tmp_path / "a.log")
    expected = drain(at_once)
    broken = []
    for _ in range(4):
        study = opened(tmp_path / "b.log")
        broken += [point for _ in range(2) if (point := study.ask())]
        for point in broken[-2:]:
            study.complete(point.number, 1.0)
        study.close()
    assert [p.values for p in broken] == [p.values for p in expected]
    other = opened(tmp_path / "c.log", seed=1)
    assert [p.values for p in drain(other)][3:] != [p.values for p in expected][3:]
    at_once.close()


def test_a_finite_space_is_searched_whole_and_no_point_twice(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("whipray.platform.tuning.point_sampler.TPE_TRIES", 1)
    monkeypatch.setattr("whipray.platform.tuning.point_sampler.UNIFORM_TRIES", 1)
    study = opened(tmp_path / "s.log", FINITE, total=20)
    # A sampler that knows no value but 1.0 soon repeats itself; every point must come all the same.
    points = drain(study)
    assert sorted((p.values["gamma"], p.values["shared"]) for p in points) == [
        (gamma, shared) for gamma in (0.0, 0.1, 0.2) for shared in (False, True)
    ]
    assert [row["values"] for row in study.table()] == [p.values for p in points]


def test_what_is_not_finite_fails_and_is_not_tried_again(location) -> None:
    study = opened(location, FINITE, total=20)
    a, b, c, d = (study.ask() for _ in range(4))
    assert not study.complete(a.number, math.nan)
    assert not study.complete(b.number, math.inf, {"note": "kept"})
    assert study.report(c.number, 100, math.nan)
    study.fail(d.number, "out of memory")
    study.prune(c.number)  # the driver stops what `report` said to stop: it stays failed
    rows = study.table()
    assert [row["state"] for row in rows] == ["fail"] * 4
    assert [row["failure"] for row in rows] == [
        "the value is nan",
        "the value is inf",
        "the value after 100 images is nan",
        "out of memory",
    ]
    assert rows[1]["attrs"]["note"] == "kept"
    assert best(study) is None
    later = [p.values for p in drain(study)]
    assert d.values in later
    assert not any(p.values in later for p in (a, b, c))
    study.close()


def test_what_failed_is_not_trained_again_by_a_later_driver(location) -> None:
    study = opened(location, total=3)
    ddpm, crashed, diverged, last = (study.ask() for _ in range(4))
    study.fail(ddpm.number, "node lost")
    study.fail(crashed.number, "node lost")
    study.complete(diverged.number, math.nan)
    study.complete(last.number, 1.0)
    assert study.ask() is None
    study.close()

    later = opened(location, total=3)
    assert later.ask() is None
    later.close()

    later = opened(location, total=4)
    assert [(point.number, point.resumed) for point in drain(later)] == [(4, False)]
    later.close()


def test_early_stopping_is_recorded_as_pruned_and_spares_baselines(location) -> None:
    asha = SimpleNamespace(min_images=100, reduction_factor=2)
    study = opened(location, early_stop=asha)
    ddpm, good, bad = (study.ask() for _ in range(3))
    assert not study.report(good.number, 100, 1.0)
    assert not study.report(ddpm.number, 100, 9.0)
    assert not study.report(bad.number, 99, 5.0)
    assert study.report(bad.number, 100, 5.0)
    study.close()
    study = opened(location, early_stop=asha)  # the driver died before it stopped the training
    assert study.report(bad.number, 100, 5.0)
    assert not study.report(good.number, 100, 1.0)  # resumed from before its last report
    study.prune(bad.number)
    study.prune(bad.number)
    row = next(row for row in study.table() if row["number"] == bad.number)
    assert (row["state"], row["value"], row["images_seen"]) == ("pruned", 5.0, 100)
    assert study.complete(good.number, 1.0)
    assert study.complete(good.number, 2.0)  # completed twice: the first value stays
    assert best(study)["value"] == 1.0
    study.close()


def test_baselines_mislead_neither_the_sampler_nor_readers_of_the_study(tmp_path) -> None:
    study = opened(tmp_path / "s.log", total=30, direction="maximize")
    while point := study.ask():
        study.complete(point.number, 1000.0 if point.baseline else point.values["tau"])
    rows = [row for row in study.table() if row["baseline"] is None]
    assert len(rows) == 30
    # Optuna's own eyes: what TPE splits by, and what other tools call best.
    seen = optuna.load_study(study_name="sweep", storage=study._study._storage)
    assert seen.best_trial.number == best(study, -1)["number"]


def test_a_study_of_another_format_is_refused(tmp_path, monkeypatch) -> None:
    opened(tmp_path / "s.log").close()
    monkeypatch.setattr("whipray.platform.tuning.study.FORMAT", 99)
    with pytest.raises(UsageProblem, match="another version of Whipray"):
        opened(tmp_path / "s.log")


def test_what_ray_tune_writes_down_of_a_study_holds_nothing(location) -> None:
    study = opened(location)
    assert study.ask()
    assert vars(pickle.loads(pickle.dumps(study))) == {}
    study.close()


def test_another_space_direction_or_driver_is_refused(tmp_path) -> None:
    location = tmp_path / "s.log"
    opened(location).close()
    with pytest.raises(UsageProblem, match="begun with another search space"):
        opened(location, FINITE)
    with pytest.raises(UsageProblem, match="or direction"):
        opened(location, direction="maximize")
    opened(location, FINITE, name="other").close()

    holder = subprocess.Popen([sys.executable, __file__, "hold", location], stdout=subprocess.PIPE)
    try:
        assert holder.stdout.readline() == b"asked\n"
        reader = opened(location)
        assert [row["state"] for row in reader.table()] == ["running"]
        with pytest.raises(
            UsageProblem, match=rf"process {holder.pid} on \S+, since 20.*, is driving this sweep"
        ):
            reader.ask()
        with pytest.raises(UsageProblem, match="is driving this sweep"):
            opened(location, starts_over=True)
    finally:
        holder.kill()
        holder.communicate()
    assert reader.ask().resumed
    reader.close()


def test_a_storage_that_cannot_be_opened_is_a_problem_without_its_password(tmp_path) -> None:
    (tmp_path / "file").touch()
    for location in (tmp_path / "file" / "s.log", f"sqlite:///{tmp_path}/absent/s.db", "nodb://"):
        with pytest.raises(Problem, match="cannot be opened"):
            opened(location)
    with pytest.raises(Problem) as caught:
        opened("nodb://me:hunter2@host/db?password=hunter2")
    assert "hunter2" not in str(caught.value)


def test_a_line_cut_short_by_a_crash_is_dropped(tmp_path) -> None:
    location = tmp_path / "s.log"
    study = opened(location)
    point = study.ask()
    study.close()
    with location.open("ab") as journal:
        journal.write(b'{"op_code":5,"trial')
    study = opened(location)
    assert study.ask().values == point.values
    assert len(drain(study)) == 6
    study.close()


def test_a_journal_that_was_changed_is_refused_and_what_is_left_of_it_stays(tmp_path) -> None:
    location = tmp_path / "s.log"
    study = opened(location)
    for _ in range(3):
        study.complete(study.ask().number, 0.25)
    study.close()
    whole = location.read_bytes()
    lines = whole.splitlines(keepends=True)
    metric = next(n for n, line in enumerate(lines) if b'"values":[0.25]' in line)
    changed = b"".join(lines).replace(b'"values":[0.25]', b'"values":[0.24]', 1)
    damages = {
        changed: f"damaged at entry {metric + 1}",
        b"".join(lines[:4] + lines[5:]): "damaged at entry 5",
        whole[:40] + b"\xff" + whole[41:]: "damaged at entry 1",
        b"".join(lines[:-1]): f"{len(lines)} entries were written, {len(lines) - 1} are left",
        whole[: len(whole) // 2]: "entries were written",
        b"": f"{len(lines)} entries were written, 0 are left",
    }
    for content, message in damages.items():
        location.write_bytes(content)
        with pytest.raises(StorageProblem, match=message) as caught:
            opened(location)
        assert caught.value.what.startswith(f"{location}: ")
    # An older copy is a choice: without the count it is what there is.
    location.write_bytes(b"".join(lines[:-1]))
    (tmp_path / "s.log.lock").unlink()
    study = opened(location)
    assert [row["state"] for row in study.table()].count("complete") == 2
    study.close()
    location.write_bytes(whole)
    assert JournalStorage(
        JournalFileBackend(str(location))
    ).get_all_studies()  # Optuna's tools read it


def test_a_lock_that_cannot_be_opened_is_named(tmp_path) -> None:
    study = opened(tmp_path / "s.log")
    lock = tmp_path / "s.log.sweep.driver"
    lock.mkdir()
    with pytest.raises(StorageProblem, match=f"^{lock}: Is a directory"):
        study.ask()
    study.close()


def _drive(location: Path, log: Path, total: int) -> None:
    """A driver like the real one: two at once, reports, early stops, failures; then it leaves."""
    study = opened(
        location, total=total, early_stop=SimpleNamespace(min_images=1, reduction_factor=2)
    )
    handed = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    running: list[Point] = []
    while True:
        while len(running) < 2 and (point := study.ask()):
            os.write(handed, f"{point.number} {sorted(point.values.items())}\n".encode())
            running.append(point)
        if not running:
            return
        point = running.pop(0)
        value = point.values.get("gamma", 1.0) + point.values.get("tau", 1.0)
        if point.number % 7 == 5:
            study.fail(point.number, "out of memory")
        elif any(study.report(point.number, step, value + 1 / step) for step in (1, 2, 3)):
            study.prune(point.number)
        else:
            value = math.nan if point.number % 7 == 6 else value
            study.complete(point.number, value, {"note": "x"})


def _drive_through_kills(location: Path, log: Path, total: int) -> int:
    """Start drivers and kill each, until one is left to come to its end; how many were killed."""
    chance, kills = random.Random(0), 0
    location.touch()
    while True:
        driver = os.fork()
        if driver == 0:
            _drive(location, log, total)
            os._exit(0)
        # Killed by how far it wrote, not by the clock: the same on fast and slow machines.
        limit = location.stat().st_size + chance.randrange(1, 1500)
        ended, status = 0, 0
        while not ended:
            if location.stat().st_size >= limit:
                os.kill(driver, signal.SIGKILL)
                limit = sys.maxsize
            ended, status = os.waitpid(driver, os.WNOHANG)
        if not os.WIFSIGNALED(status):
            assert status == 0, "a driver failed by itself"
            return kills
        kills += 1


@pytest.mark.slow
def test_a_driver_killed_again_and_again_ends_with_the_exact_sweep(tmp_path) -> None:
    location, log, total = tmp_path / "study.log", tmp_path / "handed.log", 24
    command = [sys.executable, __file__, "kill", location, log, str(total)]
    assert int(subprocess.run(command, check=True, capture_output=True).stdout) >= 10

    study = opened(location, total=total)
    rows = study.table()
    searched = [row for row in rows if row["baseline"] is None]
    assert len(searched) == total
    assert len(rows) == total + 1
    assert len({str(sorted(row["values"].items())) for row in searched}) == total
    assert {row["state"] for row in rows} == {"complete", "pruned", "fail"}
    assert sum("seed_point" in row["attrs"] for row in rows) == 2
    values_of: dict[str, set[str]] = {}
    for line in log.read_text().splitlines():
        number, _, values = line.partition(" ")
        values_of.setdefault(number, set()).add(values)
    assert len(values_of) == total + 1
    assert all(len(values) == 1 for values in values_of.values())
    assert study.ask() is None
    study.close()


if __name__ == "__main__":  # processes of their own, for the tests that kill
    if sys.argv[1] == "hold":
        opened(Path(sys.argv[2])).ask()
        print("asked", flush=True)
        signal.pause()
    else:
        print(_drive_through_kills(Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])))
