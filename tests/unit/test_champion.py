"""Which version is @champion, in a real registry."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest

from whipray.platform.config.tracking import TrackingConfig
from whipray.platform.evaluation.arrays import Floats
from whipray.platform.evaluation.config import EvaluationConfig
from whipray.platform.storage.config import StorageConfig
from whipray.platform.storage.layout import REPLICATES, VersionTag, trial_address
from whipray.platform.storage.store import Storage
from whipray.platform.tracking.registry import CHAMPION, get, set_alias, set_description
from whipray.platform.tracking.tracker import Tracker, open_tracker
from whipray.platform.tracking.versions import Version
from whipray.platform.tuning.champion import reason_not_promoted
from whipray.platform.tuning.trial_records import Row
from whipray.platform.tuning.verdict import beyond_noise, judge

pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")


@pytest.fixture(scope="module")
def tracker(tmp_path_factory: pytest.TempPathFactory) -> Tracker:
    folder = tmp_path_factory.mktemp("registry")
    made = open_tracker(TrackingConfig(), Storage(StorageConfig(uri=str(folder))))
    made.client.create_registered_model("m")
    return made


def version(tracker: Tracker, folder: Path, kid: float, generated: int = 400) -> Version:
    about = {"extractor_hash": "x", "n_generated": generated}
    tags = {"whipray.kid.overall": f"{kid:.6g}", VersionTag.PROVENANCE: json.dumps(about)}
    made = tracker.client.create_model_version("m", str(folder), tags=tags)
    return get(tracker, "m", str(made.version))


def test_a_champion_goes_only_to_a_better_one_measured_alike(
    tracker: Tracker, tmp_path: Path
) -> None:
    lower = EvaluationConfig(rank_by="kid/overall")
    first = version(tracker, tmp_path, 0.015)
    assert reason_not_promoted(lower, tracker, first) is None  # there is none yet
    set_alias(tracker, first, CHAMPION)
    assert reason_not_promoted(lower, tracker, first) is None  # it is the champion
    assert reason_not_promoted(lower, tracker, version(tracker, tmp_path, 0.014)) is None
    worse = reason_not_promoted(lower, tracker, version(tracker, tmp_path, 0.016))
    assert worse == "version 1 stays champion: its kid/overall is 0.015, not 0.016"
    hasty = reason_not_promoted(lower, tracker, version(tracker, tmp_path, 0.001, generated=40))
    assert hasty == (
        "version 1 stays champion: its score was measured differently (n generated 400, not 40)"
    )


def store_replicates(root: Storage, number: int, replicates: Floats) -> Row:
    folder = root.child(trial_address("s", number).folder)
    content = io.BytesIO()
    np.savez_compressed(content, **{"kid/overall": replicates})
    local = Path(root.path) / "replicates"
    local.write_bytes(content.getvalue())
    folder.put_file(local, f"e/{REPLICATES}")
    return {
        "number": number,
        "state": "complete",
        "value": replicates[0],
        "attrs": {"summary": {"evaluation": "e"}},
    }


def test_trials_that_images_do_not_tell_apart_from_the_best_are_named(tmp_path: Path) -> None:
    root = Storage(StorageConfig(uri=str(tmp_path)))
    rng = np.random.default_rng(0)
    shared = rng.normal(0, 0.05, 200)  # of the images that all trials share

    def row(number: int, value: float) -> Row:
        noise = shared + rng.normal(0, 0.001, 200)
        return store_replicates(root, number, np.concatenate([[value], value + noise]))

    best, close, worse = row(0, 0.010), row(1, 0.0105), row(2, 0.02)
    lost: Row = {**row(3, 0.05), "attrs": {"summary": {"evaluation": "gone"}}}
    failed: Row = {"number": 4, "state": "fail", "value": None, "attrs": {}}
    rows = [best, close, worse, lost, failed]
    verdict = judge(root, "s", rows, best, "kid/overall", 0.95)
    # their own intervals, of +- 0.1, would tell none apart
    assert (verdict.others, verdict.not_distinguished) == ((1, 2, 3), (1, 3))
    assert verdict.sentence == (
        "trial 0 has the best value but is not distinguished from 1, 3 (kid/overall, paired, 95 % over "
        "all comparisons (Holm)); more images or seeds would"
    )
    clear = judge(root, "s", [best, worse], best, "kid/overall", 0.95)
    assert clear.sentence.startswith("trial 0 is better than the other one (")
    alone = judge(root, "s", [best, failed], best, "kid/overall", 0.95)
    assert "the only one that finished" in alone.sentence


def test_many_comparisons_need_more_evidence_each() -> None:
    assert beyond_noise({1: 0.04}, 0.05) == {1}
    assert beyond_noise({1: 0.04, 2: 0.03, 3: 0.9}, 0.05) == set()
    assert beyond_noise({1: 0.001, 2: 0.02, 3: 0.9}, 0.05) == {1, 2}


def test_the_verdict_is_the_description_of_the_version(tracker: Tracker, tmp_path: Path) -> None:
    made = version(tracker, tmp_path, 0.5)
    set_description(tracker, made, "trial 0 is better")
    assert tracker.client.get_model_version("m", made.version).description == "trial 0 is better"
