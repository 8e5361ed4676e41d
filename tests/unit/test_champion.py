"""Which version is @champion, in a real registry."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from whipray.platform.config.experiment import TrackingConfig
from whipray.platform.evaluation.config import EvaluationConfig
from whipray.platform.storage.config import StorageConfig
from whipray.platform.storage.layout import VersionTag
from whipray.platform.storage.store import Storage
from whipray.platform.tracking.registry import CHAMPION, Version, get, set_alias
from whipray.platform.tracking.tracker import Tracker, open_tracker
from whipray.platform.tuning.champion import reason_not_promoted

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
