"""What a request says that training never saw, and what it leaves out that training never lacked, in sentences."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from recstill.data.columns import Column, Lists, as_column

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from recstill.data.bundle import Manifest
    from recstill.data.columns import Columns, Typed, Values
    from recstill.data.transform import Transform


class Remarks:
    """The remarks of one model on the values of a request."""

    def __init__(self, manifest: Manifest, transform: Transform) -> None:
        self._transform = transform
        self._own = manifest.sides.row
        self._categories = {f.name for f in transform.features if f.kind == "categorical"}
        self._context = {field.name for field in manifest.task.endpoint.context} & set(manifest.sides.query)

    def of_items(self, rows: Mapping[str, Typed | Values], empty: NDArray[np.bool_]) -> dict[int, list[str]]:
        """Say, by place in the request, what an item brought or lacked that training never saw.

        rows: the fields of the items. empty: (N,), items of which nothing is known at all.
        """
        remarks = self._values({name: rows[name] for name in self._own})
        for name in sorted(self._transform.complete & set(self._own)):
            for index in np.flatnonzero(is_absent(rows[name]) & ~empty).tolist():
                remarks.setdefault(index, []).append(f"{name} is missing, which no training row lacked")
        for index in np.flatnonzero(empty).tolist():
            remarks[index] = ["nothing is known of it: the score is that of missing values"]
        return remarks

    def of_context(self, columns: Mapping[str, Typed]) -> list[str]:
        """Say which fields of the context, columns of one row, lie outside of what training saw."""
        given = {name: column for name, column in columns.items() if name in self._context}
        return self._values(given).get(0, []) if given else []

    def says_nothing(self, rows: Mapping[str, Typed | Values], count: int) -> NDArray[np.bool_]:
        """(N,): of which items all fields are missing; of none, where the items of a task are ids only."""
        if not self._own:
            return np.zeros(count, bool)
        return np.logical_and.reduce([is_absent(rows[name]) for name in self._own])

    def _values(self, columns: Columns) -> dict[int, list[str]]:
        """Say, by row, which values lie outside of what training saw. They are scored all the same: a number as the nearest
        one seen, a category as a rare one, or as missing where training had no rare ones."""
        found: dict[int, list[str]] = {}
        for name in columns:
            column = self._transform.column(name, columns)
            if isinstance(column, Lists):
                wrong, text = self._unseen_items(name, column)
            elif name in self._transform.numeric:
                wrong, text = self._out_of_range(name, column)
            elif name in self._categories:
                wrong = np.flatnonzero(~column.is_absent & ~self._transform.knows(name, column))
                text = f"{name} has a value that training never saw, or hardly ever"
            else:
                continue
            for place in wrong.tolist():
                found.setdefault(place, []).append(text)
        return found

    def _out_of_range(self, name: str, column: Column) -> tuple[NDArray[np.int64], str]:
        low, high = self._transform.numeric[name].seen
        # As training rounds them: a value that it saw must not lie a rounding beyond it.
        numbers = column.numbers().astype(np.float32) if column.type != "null" else np.full(len(column), np.nan, np.float32)
        text = f"{name} is outside of {low:g} to {high:g}, the values seen in training"
        return np.flatnonzero((numbers < low) | (numbers > high)), text

    def _unseen_items(self, name: str, lists: Lists) -> tuple[NDArray[np.int64], str]:
        is_new = ~self._transform.knows(name, lists.items)
        owner = np.repeat(np.arange(len(lists)), lists.lengths)[is_new]
        return np.unique(owner), f"{name} has values that training never saw, or hardly ever"


def is_absent(column: Typed | Values) -> NDArray[np.bool_]:
    """(N,): where a request says nothing, an empty string and an empty list included."""
    typed = column if isinstance(column, (Column, Lists)) else as_column(column)
    return np.asarray(typed.lengths == 0) if isinstance(typed, Lists) else typed.is_absent
