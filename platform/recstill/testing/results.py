"""Results of the kit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


@dataclass(frozen=True)
class Check:
    """One rule, on one thing: whether it holds, and what was found if not."""

    subject: str
    rule: str
    passed: bool
    found: str = ""


def check(subject: str, rule: str, work: Callable[[], str | None]) -> Check:
    """Run one rule; it returns what is wrong, or None. An exception is a failed check with its text."""
    try:
        wrong = work()
    except Exception as error:  # a plugin may raise anything; the report names it
        wrong = f"{type(error).__name__}: {error}"
    return Check(subject, rule, wrong is None, wrong or "")


def assert_passed(checks: Iterable[Check]) -> None:
    """Raise AssertionError with every failed check."""
    failed = [f"{c.subject}: {c.rule}: {c.found}" for c in checks if not c.passed]
    assert not failed, "\n".join(failed)
