"""The OpenAPI description of the loaded tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from recstill import __version__
from recstill.serving.request import request_fields

if TYPE_CHECKING:
    from collections.abc import Iterable

    from recstill.api.task import FeatureSpec, TaskSpec

_ID: dict[str, Any] = {"oneOf": [{"type": "integer", "format": "int64"}, {"type": "string"}]}
_TYPES = {"int": "integer", "float": "number", "str": "string", "bool": "boolean"}
_LISTS = {"ints": "integer", "strs": "string"}


def openapi(tasks: Iterable[TaskSpec]) -> dict[str, Any]:
    """Return an OpenAPI 3.1 document."""
    paths = {task.endpoint.path: {"post": _operation(task)} for task in tasks}
    for path, summary in {
        "/healthz": "the process lives",
        "/readyz": "all models are loaded",
        "/metrics": "Prometheus",
    }.items():
        paths[path] = {"get": {"summary": summary, "responses": {"200": {"description": "ok"}}}}
    return {"openapi": "3.1.0", "info": {"title": "recstill", "version": __version__}, "paths": paths}


def _operation(task: TaskSpec) -> dict[str, Any]:
    endpoint = task.endpoint
    context = {c.name: {**_type_of(c.dtype), "description": c.description} for c in endpoint.context}
    own = {f.name: {**_own_type(f), "description": f.title} for f in task.features if f.view == "row"}
    item = {"type": "object", "required": [endpoint.item_key], "properties": {endpoint.item_key: _ID, **own}} if own else _ID
    fields = {
        endpoint.query_key: _ID,
        endpoint.items_field: {"type": "array", "items": item, "minItems": 1, "maxItems": endpoint.max_items},
        "k": {"type": "integer", "minimum": 1, "maximum": endpoint.max_items},
        "filters": {"type": "object", "properties": {name: {} for name in endpoint.filters}, "additionalProperties": False},
        "context": {"type": "object", "properties": context, "additionalProperties": False},
        "explain": {"type": "boolean", "description": "give the reasons of each decision too"},
    }
    needed = [endpoint.query_key] if endpoint.query_key and not endpoint.query_optional else []
    request = {
        "type": "object",
        "required": [*needed, *([] if endpoint.catalogue else [endpoint.items_field])],
        "additionalProperties": False,
        "properties": {name: fields[name] for name in request_fields(task)},
    }
    score = {
        endpoint.item_key: _ID,
        "rank": {"type": "integer"},
        **{label.name: {"type": "number"} for label in task.labels},
    }
    response = {
        "type": "object",
        "properties": {
            "model_version": {"type": "string"},
            "degraded": {"type": "boolean", "description": "some features were missing; see missing_views"},
            "unknown": {"type": "object", "description": "entities without any features"},
            "unseen": {"type": "object", "description": "entities that training did not learn; scored by hashed ids"},
            "missing_views": {"type": "object", "additionalProperties": {"type": "integer"}},
            **(
                {
                    "decisions": _decisions(task),
                    "explained_by": {
                        "enum": ["additive", "integrated-gradients"],
                        "description": "where the reasons come from",
                    },
                }
                if task.decision is not None
                else {
                    "scores": {"type": "array", "items": {"type": "object", "properties": score}},
                }
            ),
        },
    }
    errors = {code: {"description": text} for code, text in {"400": "not JSON", "413": "too large", "422": "invalid"}.items()}
    return {
        "summary": task.description,
        "requestBody": {"required": True, "content": {"application/json": {"schema": request}}},
        "responses": {
            "200": {"description": "ranked", "content": {"application/json": {"schema": response}}},
            **errors,
        },
    }


def _own_type(feature: FeatureSpec) -> dict[str, Any]:
    if feature.kind == "sequence":
        return {"type": ["array", "null"], "items": _ID}
    return {"type": ["number" if feature.kind == "numeric" else "string", "null"]}


def _decisions(task: TaskSpec) -> dict[str, Any]:
    decision = task.decision
    assert decision is not None
    reason = {"feature": {"type": "string"}, "effect": {"type": "number"}, "direction": {"enum": ["up", "down"]}}
    one = {
        task.endpoint.item_key: _ID,
        "score": {"type": "number", "description": task.primary.description},
        "band": {"type": "string"},
        "decision": {"enum": [decision.pass_, "review", decision.act]},
        "reasons": {"type": "array", "items": {"type": "object", "properties": {**reason, "text": {"type": "string"}}}},
    }
    return {"type": "array", "items": {"type": "object", "properties": one}}


def _type_of(dtype: str) -> dict[str, Any]:
    if dtype in _LISTS:
        return {"type": ["array", "null"], "items": {"type": _LISTS[dtype]}}
    return {"type": [_TYPES[dtype], "null"]}
