"""An evaluation's files: whole, damaged, and at hand once they were written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from support.reports import synthetic_curve, synthetic_pictures, synthetic_report
from support.training import at

from whipray.platform.evaluation.pages.content import Pictures
from whipray.platform.generation.grid import class_grid
from whipray.platform.runs.evaluation_files import FILES, HASHED, EvaluationFiles
from whipray.platform.storage.layout import EVALUATION_PAGE, EVALUATION_REPORT, EVALUATION_RESULT


def test_a_damaged_result_is_mentioned_and_ignored(tmp_path: Path) -> None:
    store, folder = at(tmp_path / "store"), "evaluations/x"
    said: list[str] = []
    files = EvaluationFiles(store, tmp_path / "local", said.append)
    report = synthetic_report(6)
    pictures = synthetic_pictures(report, 1, 8)
    tiles = pictures.worst[0].real
    grid = class_grid(tiles, np.zeros(len(tiles), np.int64), ["class 0"])
    result = files.write(folder, report, Pictures(grid, pictures.worst, pictures.copies))
    assert {f"{folder}/{name}" for name in (*FILES, EVALUATION_RESULT)} == set(store.list(folder))
    assert files.read_result(folder) == json.loads(json.dumps(result))
    assert said == []

    page = store.read_text(f"{folder}/{EVALUATION_PAGE}")
    elsewhere = EvaluationFiles(store, tmp_path / "other", said.append)
    elsewhere.add_curve(folder, synthetic_curve())  # from the store
    assert "images\nof another noise" in store.read_text(f"{folder}/{EVALUATION_PAGE}")
    assert store.read_text(f"{folder}/{EVALUATION_PAGE}") != page
    assert (elsewhere.fetch(folder, [EVALUATION_REPORT]) / EVALUATION_REPORT).exists()

    whole = store.read_text(f"{folder}/{EVALUATION_RESULT}")
    flipped = whole.replace("fid/overall", "fid/ovesall", 1)
    assert flipped != whole
    for damaged in ('{"metrics": {', "[]", '{"metrics": {}}', flipped):
        store.write_text(f"{folder}/{EVALUATION_RESULT}", damaged)
        assert files.read_result(folder) is None
        assert said.pop() == f"{folder}/{EVALUATION_RESULT} is damaged: evaluating again"
    store.write_text(f"{folder}/{EVALUATION_RESULT}", whole)
    for name in HASHED:  # one bit of each
        path = tmp_path / "store" / folder / name
        before = path.read_bytes()
        path.write_bytes(before[:20] + bytes([before[20] ^ 1]) + before[21:])
        assert EvaluationFiles(store, tmp_path / name, said.append).read_result(folder) is None
        assert said.pop() == f"{folder}/{name} is damaged: evaluating again"
        path.write_bytes(before)
        assert EvaluationFiles(store, tmp_path / name, said.append).read_result(folder)
    store.delete(f"{folder}/{EVALUATION_PAGE}")
    assert files.read_result(folder) is None
    assert said == []  # it was never finished
