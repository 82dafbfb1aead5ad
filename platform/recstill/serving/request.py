"""Requests: checked by hand on the hot path, described by the task."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from recstill.api.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from recstill.api.task import EndpointSpec, FeatureSpec, TaskSpec
    from recstill.data.encoders import Values

_KINDS: dict[str, tuple[type, ...]] = {"int": (int,), "float": (int, float), "str": (str,)}
_LISTS: dict[str, type] = {"ints": int, "strs": str}
_MAX_LIST = 10_000


@dataclass(frozen=True)
class ScoreRequest:
    """One query entity, its candidates, the context. rows: what the request says of each candidate, by field. k, filters: how
    many of the catalogue, and which of it. explain: give the reasons too."""

    entity: int | str
    items: Values
    context: dict[str, Any]
    rows: Mapping[str, Values] = field(default_factory=dict)
    k: int = 0
    filters: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    explain: bool = False


def parse_request(body: bytes, task: TaskSpec, own: Mapping[str, FeatureSpec] | None = None) -> ScoreRequest:
    """Read a request. Raise RequestError with 400 for broken JSON and 422 for a field that cannot be.

    own: the features that each item of the request brings, with the join keys that it may bring.
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
    entity = _entity(data.get(endpoint.query_key), endpoint) if endpoint.query_key else ""
    context = _context(data.get("context"), endpoint)
    if endpoint.catalogue:
        k = data.get("k", min(10, endpoint.max_items))
        if not isinstance(k, int) or isinstance(k, bool) or not 1 <= k <= endpoint.max_items:
            raise RequestError(422, f"'k' must be an integer from 1 to {endpoint.max_items}.")
        return ScoreRequest(entity, np.zeros(0, np.int64), context, k=k, filters=_filters(data.get("filters"), endpoint))
    explain = data.get("explain", False)
    if not isinstance(explain, bool):
        raise RequestError(422, "'explain' must be true or false.")
    listed = data.get(endpoint.items_field)
    if own:
        items, rows = _objects(listed, endpoint, own)
    else:
        items, rows = _items(listed, endpoint), {}
    return ScoreRequest(entity, items, context, rows, explain=explain)


def request_fields(task: TaskSpec) -> list[str]:
    """Return the fields that a request may have."""
    endpoint = task.endpoint
    fields = [endpoint.query_key] if endpoint.query_key else []
    fields += ["k", "filters"] if endpoint.catalogue else [endpoint.items_field]
    return [*fields, "context", *(["explain"] if task.decision is not None and not endpoint.catalogue else [])]


def _entity(value: Any, endpoint: EndpointSpec) -> int | str:
    if value is None and endpoint.query_optional:
        return ""
    if value is None or not _is_id(value):
        raise RequestError(422, f"{endpoint.query_key!r} must be an integer or a string.")
    known: int | str = value
    return known


def _items(values: Any, endpoint: EndpointSpec) -> Values:
    field = endpoint.items_field
    if not isinstance(values, list):
        raise RequestError(422, f"{field!r} must be a list of ids.")
    if not values:
        raise RequestError(422, f"{field!r} is empty: name at least one candidate.")
    if len(values) > endpoint.max_items:
        raise RequestError(422, f"{field!r} has {len(values)} ids; at most {endpoint.max_items} are scored at once.")
    kinds = set(map(type, values))
    if kinds == {int}:
        try:
            return np.array(values, dtype=np.int64)
        except OverflowError as error:
            raise RequestError(422, f"{field!r} holds an integer beyond 64 bits.") from error
    if kinds == {str}:
        return np.array(values, dtype=object)
    raise RequestError(422, f"{field!r} must hold integers only, or strings only.")


def _objects(values: Any, endpoint: EndpointSpec, own: Mapping[str, FeatureSpec]) -> tuple[Values, dict[str, Values]]:
    """Read items that bring features of their own: objects with the item's key and any of these fields."""
    name, key = endpoint.items_field, endpoint.item_key
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise RequestError(422, f"{name!r} must be a list of objects with {key!r} and what is known of each.")
    for place, value in enumerate(values):
        if extra := set(value) - {key, *own}:
            wrong = sorted(extra)[0]
            raise RequestError(422, f"{name}[{place}]: unknown field {wrong!r}; allowed: {', '.join([key, *sorted(own)])}.")
    ids = _items([value.get(key) for value in values], endpoint)
    rows = {field: _column([value.get(field) for value in values], spec, name) for field, spec in own.items()}
    return ids, rows


def _column(values: list[Any], spec: FeatureSpec, place: str) -> Values:
    """Return one field of all items; null and absent are missing."""
    for number, value in enumerate(values):
        where = f"{place}[{number}].{spec.name}"
        if value is None:
            continue
        if spec.kind == "numeric":
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or abs(value) > 1e30:
                raise RequestError(422, f"{where} must be a finite number, not {_shown(value)}.")
        elif not isinstance(value, str) and (isinstance(value, bool) or not isinstance(value, (int, float))):
            raise RequestError(422, f"{where} must be a string or a number, not {_shown(value)}.")
    if spec.kind == "numeric":
        return np.array([np.nan if value is None else float(value) for value in values], np.float64)
    return np.array([value if value is None or isinstance(value, str) else _plain(value) for value in values], dtype=object)


def _plain(value: float) -> str:
    return str(int(value)) if value == int(value) else str(value)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}…"


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
        if not listed or not all(isinstance(value, (str, int)) and not isinstance(value, bool) for value in listed):
            raise RequestError(422, f"Filter {name!r} must be a string, an integer, or a list of them.")
        found[name] = listed
    return found


def _context(values: Any, endpoint: EndpointSpec) -> dict[str, Any]:
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise RequestError(422, "'context' must be an object.")
    specs = {spec.name: spec for spec in endpoint.context}
    for name, value in values.items():
        if name not in specs:
            raise RequestError(422, f"Unknown context field {name!r}; known: {', '.join(specs) or 'none'}.")
        spec = specs[name]
        if spec.dtype in _LISTS:
            fits = isinstance(value, list) and len(value) <= _MAX_LIST
            if value is not None and not (fits and all(type(one) is _LISTS[spec.dtype] for one in value)):
                raise RequestError(422, f"Context field {name!r} must be a list of {spec.dtype}, at most {_MAX_LIST}.")
            continue
        if value is not None and (not isinstance(value, _KINDS[spec.dtype]) or isinstance(value, bool)):
            raise RequestError(422, f"Context field {name!r} must be of type {spec.dtype}.")
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise RequestError(422, f"Context field {name!r} is beyond 64 bits.")
        if isinstance(value, str) and len(value.encode()) > spec.max_bytes:
            raise RequestError(
                422, f"Context field {name!r} has {len(value.encode())} bytes; at most {spec.max_bytes} are read."
            )
    for spec in endpoint.context:
        value = values.get(spec.name)
        if spec.required and (value is None or (isinstance(value, str) and not value.strip())):
            raise RequestError(422, f"Context field {spec.name!r} is needed and must not be empty.")
    return values


def _is_id(value: Any) -> bool:
    if isinstance(value, bool):
        return False
    return (isinstance(value, int) and -(2**63) <= value < 2**63) or (isinstance(value, str) and bool(value))
