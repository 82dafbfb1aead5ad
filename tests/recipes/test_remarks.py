"""A model whose last epoch was its best is named, in the log, the report and `recstill runs show`."""

from __future__ import annotations

from pathlib import Path

from recstill.recipes.remarks import LAST_IS_BEST, keep_remarks, remarks_of


def test_models_whose_last_epoch_was_the_best_are_named(tmp_path: Path) -> None:
    assert remarks_of(tmp_path) == []
    histories = {"pretrain": [{"score": 0.6}, {"score": 0.7, LAST_IS_BEST: 1.0}], "alone-0": [{"score": 0.7}, {"score": 0.6}]}
    (remark,) = keep_remarks(tmp_path, histories)
    assert "the best of pretrain: " in remark
    assert remarks_of(tmp_path) == [remark]
    assert keep_remarks(tmp_path, {"alone-0": histories["alone-0"]}) == []
    assert remarks_of(tmp_path) == []
