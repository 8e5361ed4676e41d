"""A search for what helps a classifier: on validation images, then once more on all training images."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.marks import MLFLOW_WARNINGS
from support.shell import TINY, Shell

from whipray import search_spaces
from whipray.platform.analysis.target import find_target
from whipray.platform.config.space import Space
from whipray.platform.runs.guidance_search import search_guidance
from whipray.platform.storage.config import StorageConfig
from whipray.platform.storage.store import Storage
from whipray.platform.tuning.chosen import chosen_point
from whipray.trainers.errors import UsageProblem

pytestmark = [pytest.mark.slow, *MLFLOW_WARNINGS]

SETTINGS = (
    *(setting for setting in TINY if "features" not in setting),
    "training.images=640",
    "classification.network=resnet8",
    "classification.epochs=1",
    "tuning.sample_points=2",
    "tuning.trials=1",
)


def test_a_space_is_searched_on_validation_images_and_its_choice_is_trained_on_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shell = Shell(tmp_path)
    text = (Path(search_spaces.__path__[0]) / "diffult.yaml").read_text()
    (tmp_path / "one.yaml").write_text(text.partition("baselines:")[0])
    code, out, err = shell.run(
        *("sweep", "one.yaml", "--recipe", "digits-demo", "--name", "s", "--json"), *SETTINGS
    )
    assert code == 0, err
    assert "no test image is used" in err
    document = json.loads(out)
    trials = {row["number"]: row for row in document["trials"]}
    root = Storage(StorageConfig(uri=str(tmp_path / "whipray-runs")))
    chosen = chosen_point(root, "s")
    assert chosen.complete == len(trials) == 1
    assert chosen.value == trials[chosen.trial]["value"]
    searched = {"balancing.of_largest", "classification.generated_weight"}
    assert searched <= chosen.values.keys()

    code, out, err = shell.run("diffult", "digits-demo", "--chosen", "s", "--dry-run", "--json")
    assert code == 0, err
    plan = json.loads(out)
    assert plan["plan"]["run"] == "s-chosen"
    assert plan["config"]["data.validation"] is None
    assert chosen.values.items() <= plan["config"].items()
    assert "fid" in plan["config"]["evaluation.metrics"]  # the recipe's, not the search's
    assert plan["origins"]["balancing.of_largest"] == f"trial {chosen.trial} of s"

    # What it read and what the chosen point will read.
    monkeypatch.chdir(tmp_path)
    experiment = chosen.experiment
    assert experiment.balancing.of_largest == chosen.values["balancing.of_largest"]
    assert experiment.data.validation is None
    splits = experiment.data.load(tmp_path / "cache")
    assert len(splits.train.images) == 335
    target = find_target(root, None, f"s/{chosen.trial}", [])
    assert target.experiment.evaluation.metrics == ("classification",)
    with target.evaluator(lambda _line: None) as evaluator:
        read = {image.tobytes() for image in evaluator.inputs.splits.reference.images}
        assert len(evaluator.inputs.splits.reference.images) == 67
        assert not read & {image.tobytes() for image in splits.reference.images}

        # A point that cannot be is left out; a weight that nothing depends on is another result all the same.
        space = Space.model_validate(
            {
                "description": "x",
                "train": {"objective.tau": {"type": "float", "low": 1, "high": 2}},
                "sample": {"balancing.to": {"type": "categorical", "choices": [1, 8]}},
            }
        )
        (tried,) = search_guidance(evaluator, space)
        assert tried.values == {"balancing.to": 8}
        with pytest.raises(UsageProblem):
            evaluator.evaluate_at({"balancing.to": 1})
        other = evaluator.evaluate_at({"balancing.to": 8, "classification.generated_weight": 0.5})
        assert other.folder != evaluator.evaluate_at({"balancing.to": 8}).folder
        before = evaluator.images_generated
        assert evaluator.evaluate_at({"balancing.to": 8}).metrics
        assert evaluator.images_generated == before  # known already

    with pytest.raises(UsageProblem, match="there is no sweep t"):
        chosen_point(root, "t")
