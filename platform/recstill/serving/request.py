"""Requests: checked by hand on the hot path, described by the task, read by the types of the training rows."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import NoneType
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from recstill.api.errors import RequestError
from recstill.data.columns import Column, item_type
from recstill.serving.values import read_column, read_lists, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from recstill.api.task import ContextSpec, EndpointSpec, FeatureSpec, TaskSpec
    from recstill.data.columns import Typed, Values

_CONTEXT = {"int": "int", "float": "float", "str": "string", "bool": "bool", "ints": "list<int>", "strs": "list<string>"}


@dataclass(frozen=True)
class ScoreRequest:
    """One query entity (None: there is none), its candidates, the context. rows: what the request says of each candidate, by
    field. k, filters: how many of the catalogue, and which of it. explain: give the reasons too. sent: the ids of the
    candidates as they were sent, for the answer.

    What is typed already stays as it is; bare values are of the types that the model was trained on.
    """

    entity: Column | int | str | None
    items: Column | Values
    context: Mapping[str, Any]
    rows: Mapping[str, Typed | Values] = field(default_factory=dict)
    k: int = 0
    filters: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    explain: bool = False
    sent: Sequence[Any] = ()


def parse_request(body: bytes, task: TaskSpec, own: Mapping[str, FeatureSpec], types: Mapping[str, str]) -> ScoreRequest:
    """Read a request. Raise RequestError with 400 for broken JSON and 422 for a field that cannot be.

    own: the features that each item of the request brings, with the join keys that it may bring. types: the logical type of
    every id, context field and own feature, as the model was trained on it.
    """
    endpoint = task.endpoint
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise RequestError(400, f"The body is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise RequestError(422, "The body must be a JSON object.")
    if extra := set(data) - (allowed := set(request_fields(task))):
        raise RequestError(422, f"Unknown field {sorted(extra)[0]!r}; allowed: {', '.join(sorted(allowed))}.")
    entity = _entity(data.get(endpoint.query_key), endpoint, types) if endpoint.query_key else None
    context = _context(data.get("context"), endpoint, types)
    if endpoint.catalogue:
        k = data.get("k", min(10, endpoint.max_items))
        if not isinstance(k, int) or isinstance(k, bool) or not 1 <= k <= endpoint.max_items:
            raise RequestError(422, f"'k' must be an integer from 1 to {endpoint.max_items}.")
        return ScoreRequest(entity, np.zeros(0, np.int64), context, k=k, filters=_filters(data.get("filters"), endpoint))
    explain = data.get("explain", False)
    if not isinstance(explain, bool):
        raise RequestError(422, "'explain' must be true or false.")
    listed: Any = data.get(endpoint.items_field)
    if not own:
        return ScoreRequest(entity, _items(listed, endpoint, types), context, explain=explain, sent=listed)
    items, sent, rows = _objects(listed, endpoint, own, types)
    return ScoreRequest(entity, items, context, rows, explain=explain, sent=sent)


def request_fields(task: TaskSpec) -> list[str]:
    """Return the fields that a request may have."""
    endpoint = task.endpoint
    fields = [endpoint.query_key] if endpoint.query_key else []
    fields += ["k", "filters"] if endpoint.catalogue else [endpoint.items_field]
    return [*fields, "context", *(["explain"] if task.decision is not None and not endpoint.catalogue else [])]


def _entity(value: Any, endpoint: EndpointSpec, types: Mapping[str, str]) -> Column | None:
    if value is None and endpoint.query_optional:
        return None
    name, kind = f"{endpoint.query_key!r}", types[endpoint.query_key]
    return _ids([value], kind, lambda _: name, endpoint)


def _items(values: Any, endpoint: EndpointSpec, types: Mapping[str, str]) -> Column:
    field = endpoint.items_field
    if not isinstance(values, list):
        raise RequestError(422, f"{field!r} must be a list of ids.")
    if not values:
        raise RequestError(422, f"{field!r} is empty: name at least one candidate.")
    if len(values) > endpoint.max_items:
        raise RequestError(422, f"{field!r} has {len(values)} ids; at most {endpoint.max_items} are scored at once.")
    return _ids(values, types[endpoint.item_key], lambda place: f"{field}[{place}]", endpoint)


def _ids(values: list[Any], kind: str, where: Callable[[int], str], endpoint: EndpointSpec) -> Column:
    found = read_column(values, kind, where, endpoint.max_id_bytes)
    if found.missing is not None or (found.values.dtype.kind != "i" and (None in values or "" in values)):
        place = next(place for place, value in enumerate(values) if value is None or value == "")
        raise RequestError(422, f"{where(place)} must be an id, not {shown(values[place])}.")
    return found


def _objects(
    values: Any, endpoint: EndpointSpec, own: Mapping[str, FeatureSpec], types: Mapping[str, str]
) -> tuple[Column, list[Any], dict[str, Typed]]:
    """Read items that bring features of their own: objects with the item's key and any of these fields."""
    name, key = endpoint.items_field, endpoint.item_key
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise RequestError(422, f"{name!r} must be a list of objects with {key!r} and what is known of each.")
    for place, value in enumerate(values):
        if extra := set(value) - {key, *own}:
            wrong = sorted(extra)[0]
            raise RequestError(422, f"{name}[{place}]: unknown field {wrong!r}; allowed: {', '.join([key, *sorted(own)])}.")
    sent = [value.get(key) for value in values]
    ids = _items(sent, endpoint, types)
    rows = {
        field: _column([value.get(field) for value in values], spec, types[field], name, endpoint)
        for field, spec in own.items()
    }
    return ids, sent, rows


def _column(values: list[Any], spec: FeatureSpec, kind: str, place: str, endpoint: EndpointSpec) -> Typed:
    """Return one field of all items; null and absent are missing. Numbers may be booleans where training had them."""
    is_number = spec.kind == "numeric" and kind not in ("bool", "null")
    longest = endpoint.max_body_bytes if spec.kind == "text" else endpoint.max_id_bytes
    if item := item_type(kind):
        return read_lists(values, item, lambda row: f"{place}[{row}].{spec.name}", longest)
    return read_column(values, "float" if is_number else kind, lambda row: f"{place}[{row}].{spec.name}", longest)


def _filters(values: Any, endpoint: EndpointSpec) -> dict[str, list[Any]]:
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise RequestError(422, "'filters' must be an object of a value, or a list of values, per attribute.")
    found = {}
    for name, wanted in values.items():
        if name not in endpoint.filters:
            raise RequestError(422, f"Unknown filter {name!r}; known: {', '.join(endpoint.filters) or 'none'}.")
        listed = wanted if isinstance(wanted, list) else [wanted]
        if not listed or not all(isinstance(value, (str, int)) for value in listed):
            raise RequestError(422, f"Filter {name!r} must be a string, an integer, a boolean, or a list of them.")
        found[name] = listed
    return found


def _context(values: Any, endpoint: EndpointSpec, types: Mapping[str, str]) -> dict[str, Typed]:
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise RequestError(422, "'context' must be an object.")
    specs = {spec.name: spec for spec in endpoint.context}
    if unknown := set(values) - set(specs):
        raise RequestError(422, f"Unknown context field {sorted(unknown)[0]!r}; known: {', '.join(specs) or 'none'}.")
    for spec in endpoint.context:
        value = values.get(spec.name)
        if spec.required and (value is None or (isinstance(value, str) and not value.strip())):
            raise RequestError(422, f"Context field {spec.name!r} is needed and must not be empty.")
    return {name: _context_field(specs[name], value, types.get(name, "")) for name, value in values.items()}


def _context_field(spec: ContextSpec, value: Any, kind: str) -> Typed:
    """Read one field by the type that training had it in; one that no model reads by the type that the task says."""
    name, kind = f"Context field {spec.name!r}", kind or _CONTEXT[spec.dtype]
    if spec.dtype == "str" and not isinstance(value, (str, NoneType)):
        raise RequestError(422, f"{name} must be of type str, not {shown(value)}.")
    if not (item := item_type(kind)):
        whole = "int" if kind == "float" and spec.dtype == "int" else kind
        return read_column([value], whole, lambda _: name, spec.max_bytes)
    return read_lists([value], item, lambda _: name, spec.max_bytes)
