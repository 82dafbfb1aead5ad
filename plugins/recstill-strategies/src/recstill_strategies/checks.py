"""Checks of options, with messages that name them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from recstill.api import Schedule

if TYPE_CHECKING:
    from collections.abc import Mapping


def above_zero(**options: float | Schedule) -> None:
    """Raise ValueError for an option that is not above 0, a schedule at both its ends."""
    for name, value in options.items():
        ends = (value.start, value.stop) if isinstance(value, Schedule) else (value,)
        if not all(end > 0 for end in ends):
            raise ValueError(f"{name} must be above 0, not {value}")


def not_below(low: float, **options: float) -> None:
    """Raise ValueError for an option below `low`."""
    for name, value in options.items():
        if not value >= low:
            raise ValueError(f"{name} must be at least {low:g}, not {value}")


def within(low: float, high: float, **options: float) -> None:
    """Raise ValueError for an option outside of [low, high]."""
    for name, value in options.items():
        if not low <= value <= high:
            raise ValueError(f"{name} must be between {low:g} and {high:g}, not {value}")


def known_width(hidden: Mapping[str, int], name: str, side: str) -> int:
    """Return the width of a hidden vector. Raise ValueError, naming those there are, if the side lacks it."""
    if name not in hidden:
        raise ValueError(f"the {side} has no hidden vector {name!r}; it has {', '.join(sorted(hidden)) or 'none'}")
    return hidden[name]
