"""The OpenAPI description of the loaded tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from recstill import __version__

if TYPE_CHECKING:
    from collections.abc import Iterable

    from recstill.api.task import TaskSpec

_ID: dict[str, Any] = {"oneOf": [{"type": "integer", "format": "int64"}, {"type": "string"}]}
_TYPES = {"int": "integer", "float": "number", "str": "string"}


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
    context = {c.name: {"type": [_TYPES[c.dtype], "null"], "description": c.description} for c in endpoint.context}
    request = {
        "type": "object",
        "required": [endpoint.query_key, endpoint.items_field],
        "additionalProperties": False,
        "properties": {
            endpoint.query_key: _ID,
            endpoint.items_field: {"type": "array", "items": _ID, "minItems": 1, "maxItems": endpoint.max_items},
            "context": {"type": "object", "properties": context, "additionalProperties": False},
        },
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
            "scores": {"type": "array", "items": {"type": "object", "properties": score}},
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
