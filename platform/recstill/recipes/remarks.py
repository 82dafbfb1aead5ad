"""What a finished run remarks about itself, kept in its folder for whoever shows it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from recstill.data.files import read_json, write_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

LAST_IS_BEST = "last_is_best"  # of the last look in a history: training ended while the model still got better
_FILE = "remarks.json"


def keep_remarks(folder: Path, histories: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """Store and return the remarks of a run. histories: what each look at the validation split found, by stage."""
    found = [stage for stage, looks in histories.items() if any(look.get(LAST_IS_BEST) for look in looks)]
    remarks = []
    if found:
        names = ", ".join(found)
        remarks = [f"The last epoch was the best of {names}: training may have ended too early; try more epochs."]
    write_json(folder / _FILE, remarks)
    return remarks


def remarks_of(folder: Path) -> list[str]:
    """Return the remarks of a run; none if it did not get so far, or its folder is gone."""
    return list(read_json(folder / _FILE)) if (folder / _FILE).is_file() else []
