"""The part of the kit that takes no time: what `recstill plugins register` looks at."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from recstill.testing.results import Check, check

if TYPE_CHECKING:
    from collections.abc import Mapping

_NEEDED = {"strategies": ("signals", "reduction", "calibration", "reference", "fixed_point")}


def check_quickly(kind: str, thing: Any, *, name: str) -> list[Check]:
    """Check that a teacher, a student or a strategy is a class that can be built as runs build it."""
    rules = [check(name, "is a class that recstill can build", lambda: _buildable(kind, thing))]
    if kind == "students" and rules[0].passed:
        rules.append(check(name, "answers every label with the right shape", lambda: _answers(thing)))
    return rules


def _buildable(kind: str, thing: Any) -> str | None:
    if not inspect.isclass(thing):
        return f"it is a {type(thing).__name__}, not a class"
    if missing := [name for name in _NEEDED.get(kind, ()) if not hasattr(thing, name)]:
        return f"it does not declare {', '.join(missing)}"
    parameters = inspect.signature(thing).parameters
    given: Mapping[str, Any] = {} if kind == "strategies" else {"inputs": None}
    try:
        inspect.signature(thing).bind(*given.values())
    except TypeError as error:
        return f"it takes ({', '.join(parameters)}), and every option needs a default: {error}"
    return None


def _answers(factory: Any) -> str | None:
    from recstill.testing.models import answers_labels
    from recstill.testing.samples import inputs_for_training

    return answers_labels(factory(inputs_for_training()))
