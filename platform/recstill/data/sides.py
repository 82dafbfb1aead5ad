"""Which features belong to the query and which to the items: the query's part is computed once per request."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from recstill.api.task import EndpointSpec, FeatureSpec
    from recstill.data.transform import Transform


class Sides(BaseModel):
    """`query`: features of the query entity and of the context. `items`: groups that are encoded each in one go: the item's
    own id, the item's views together, then each view that crosses query and item. `row`: what the request says of each item.
    `match`: comparisons of query and item, made when the request comes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    query: tuple[str, ...]
    items: tuple[tuple[str, ...], ...]
    row: tuple[str, ...] = ()
    match: tuple[str, ...] = ()

    @property
    def groups(self) -> tuple[tuple[str, ...], ...]:
        """The groups of the items' part, in the order in which their columns are put together."""
        return *self.items, self.row, self.match

    def dense_places(self, transform: Transform) -> tuple[list[int], list[int]]:
        """Return where the query's and the items' dense columns stand in the model's input."""
        return transform.dense_index(self.query), [i for group in self.groups for i in transform.dense_index(group)]

    def slot_places(self, transform: Transform) -> tuple[list[int], list[int]]:
        """Return where the query's and the items' id columns stand in the model's input."""
        return transform.id_index(self.query), [i for group in self.groups for i in transform.id_index(group)]


def split_sides(features: Sequence[FeatureSpec], join_keys: Mapping[str, tuple[str, ...]], endpoint: EndpointSpec) -> Sides:
    """Sort features by the keys of their views: only the query key, only the item key, or both."""
    query, key, own, row, match = [], [], [], [], []
    crossed: dict[str, list[str]] = {}
    for feature in features:
        if feature.view == "context" or (feature.view == "key" and feature.name == endpoint.query_key):
            query.append(feature.name)
        elif feature.view == "row":
            row.append(feature.name)
        elif feature.view == "match":
            match.append(feature.name)
        elif feature.view == "key":
            key.append(feature.name)
        elif join_keys[feature.view] == (endpoint.query_key,):
            query.append(feature.name)
        elif join_keys[feature.view] == (endpoint.item_key,):
            own.append(feature.name)
        else:
            crossed.setdefault(feature.view, []).append(feature.name)
    items = tuple(tuple(names) for names in (key, own, *crossed.values()))
    return Sides(query=tuple(query), items=items, row=tuple(row), match=tuple(match))
