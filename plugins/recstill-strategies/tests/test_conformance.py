"""Every bundled strategy holds what the conformance kit asks of any strategy."""

from __future__ import annotations

import pytest

from recstill.testing import assert_passed, check_strategy
from recstill_strategies import register_strategies

STRATEGIES = register_strategies()
OPTIONS = {
    "soft-target": [{"temperature": 4.0}, {"loss": "ce"}],
    "auxiliary-head": [{"temperature": 4.0}, {"label_scale": 5.0}],
    "attention-transfer": [{"form": "maps"}],
    "committee": [{"gate": "learned"}, {"weights": (0.5, 0.3, 0.2)}],
    "hint": [{"layers": 2}],
    "margin-mse": [{"positives_only": True}],
    "multi-task": [{"weights": {"click": 2.0}, "temperatures": {"click": 3.0}}],
    "dist": [{"temperature": 2.0}],
}
CASES = [(name, {}) for name in STRATEGIES] + [(name, options) for name, several in OPTIONS.items() for options in several]


@pytest.mark.parametrize(("name", "options"), CASES, ids=lambda value: str(value))
def test_it_conforms(name: str, options: dict[str, object]) -> None:
    assert_passed(check_strategy(STRATEGIES[name], name=name, **options))
