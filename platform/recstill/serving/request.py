"""Requests: checked by hand on the hot path, described by the task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from recstill.api.errors import RequestError

if TYPE_CHECKING:
    from recstill.api.task import EndpointSpec
    from recstill.data.encoders import Values

_KINDS: dict[str, tuple[type, ...]] = {"int": (int,), "float": (int, float), "str": (str,)}


@dataclass(frozen=True)
class ScoreRequest:
    """One query entity, its candidates, the context."""

    entity: int | str
    items: Values
    context: dict[str, Any]


def parse_request(body: bytes, endpoint: EndpointSpec) -> ScoreRequest:
    """Read a request. Raise RequestError with 400 for broken JSON and 422 for a field that cannot be."""
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise RequestError(400, f"The body is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise RequestError(422, "The body must be a JSON object.")
    allowed = {endpoint.query_key, endpoint.items_field, "context"}
    if extra := set(data) - allowed:
        raise RequestError(422, f"Unknown field {sorted(extra)[0]!r}; allowed: {', '.join(sorted(allowed))}.")
    entity = data.get(endpoint.query_key)
    if entity is None or not _is_id(entity):
        raise RequestError(422, f"{endpoint.query_key!r} must be an integer or a string.")
    return ScoreRequest(entity, _items(data.get(endpoint.items_field), endpoint), _context(data.get("context"), endpoint))


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


def _context(values: Any, endpoint: EndpointSpec) -> dict[str, Any]:
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise RequestError(422, "'context' must be an object.")
    specs = {spec.name: spec for spec in endpoint.context}
    for name, value in values.items():
        if name not in specs:
            raise RequestError(422, f"Unknown context field {name!r}; known: {', '.join(specs) or 'none'}.")
        if value is not None and (not isinstance(value, _KINDS[specs[name].dtype]) or isinstance(value, bool)):
            raise RequestError(422, f"Context field {name!r} must be of type {specs[name].dtype}.")
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise RequestError(422, f"Context field {name!r} is beyond 64 bits.")
    return values


def _is_id(value: Any) -> bool:
    if isinstance(value, bool):
        return False
    return (isinstance(value, int) and -(2**63) <= value < 2**63) or (isinstance(value, str) and bool(value))
