"""Goals, and what is derived from the metrics' own files."""

from __future__ import annotations

from typing import get_args

import pytest
from pydantic import ValidationError

from whipray.platform.evaluation.config import EvaluationConfig
from whipray.platform.evaluation.goal import Goal
from whipray.platform.evaluation.metrics import METRIC_OF, METRICS, OUTPUTS
from whipray.platform.evaluation.metrics.base import NoSettings
from whipray.platform.evaluation.report import COMPARED


def test_a_goal_knows_its_direction() -> None:
    kid, recall = Goal.parse("kid/few"), Goal.parse("recall/overall")
    assert (kid.metric, kid.group, kid.better, str(kid)) == ("kid", "few", "lower", "kid/few")
    assert (kid.sign, recall.sign) == (1, -1)
    assert (kid.optuna_direction, recall.optuna_direction) == ("minimize", "maximize")
    assert kid.is_better(0.1, 0.2)
    assert recall.is_better(0.2, 0.1)
    assert not kid.is_better(0.1, 0.1)
    points = [("a", 2.0), ("b", 1.0), ("c", 1.0), ("d", 2.0)]
    assert kid.best(points, lambda p: p[1]) == ("b", 1.0)
    assert recall.best(points, lambda p: p[1]) == ("a", 2.0)
    with pytest.raises(KeyError):
        Goal.parse("loss/overall")


def test_the_config_is_derived_from_the_metrics() -> None:
    fields = EvaluationConfig.model_fields
    assert get_args(get_args(fields["metrics"].annotation)[0]) == tuple(METRICS)
    for name, metric in METRICS.items():
        assert name == metric.name
        assert (name in fields) == (metric.settings is not NoSettings)
        assert metric.settings_in(EvaluationConfig()) == metric.settings()
        assert metric.compared.keys() <= metric.provenance(metric.settings(), 10).keys()
        assert metric.compared.items() <= COMPARED.items()
        assert all(METRIC_OF[output] is metric for output in metric.outputs)
    changed = EvaluationConfig.model_validate({"kid": {"subsets": 7}})
    assert METRICS["kid"].settings_in(changed).subsets == 7


@pytest.mark.parametrize("output", OUTPUTS)
def test_models_are_ranked_by_every_metric_that_is_computed(output: str) -> None:
    key, metric = f"{output}/few", METRIC_OF[output].name
    if not OUTPUTS[output].ranks:
        with pytest.raises(ValidationError, match="rank_by"):
            EvaluationConfig(metrics=(metric,), rank_by=key)
        return
    assert EvaluationConfig(metrics=(metric,), rank_by=key).goal == Goal.parse(key)
    with pytest.raises(ValidationError, match=f"needs {metric} among evaluation.metrics"):
        EvaluationConfig(metrics=("kid" if metric == "fid" else "fid",), rank_by=key)
