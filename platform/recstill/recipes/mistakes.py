"""What pydantic finds wrong with a part of a recipe, in words that name the key and the way out."""

from __future__ import annotations

import difflib
import inspect
import json
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from recstill.recipes.strict_yaml import not_finite

if TYPE_CHECKING:
    from collections.abc import Sequence

T = TypeVar("T")
_WRITE = {"bool": "write true or false", "int": "write a whole number", "float": "write a plain number"}


def validated(kind: type[T], data: Any, root: str = "") -> tuple[T | None, list[str]]:
    """Return (the value, no mistakes), or (None, every mistake). Types are taken as they are written: '1' is no number, 0 is
    not false, and neither NaN nor infinity is a value of anything.

    kind: a pydantic model or any type that it knows. root: where in the recipe the data stands.
    """
    strange = [f"{root}.{place}".strip(".") for place in not_finite(data)]
    problems = [f"{place}: NaN and infinity train nothing; write a finite number" for place in strange]
    try:
        value: T = TypeAdapter(kind).validate_json(json.dumps(data), strict=True)
    except ValidationError as error:
        return None, problems + [text for text in explain(error, kind, root) if text.split(": ")[0] not in strange]
    return (None, problems) if problems else (value, [])


def explain(error: ValidationError, kind: Any = None, root: str = "") -> list[str]:
    """Return a line for each mistake: its place, what is wrong, what stands there."""
    problems = []
    details = error.errors()
    for detail in details:
        place = ".".join(str(part) for part in (root, *_keys(detail["loc"])) if part != "")
        if detail["type"] == "extra_forbidden":
            known = _keys_at(kind, detail["loc"][:-1])
            close = difflib.get_close_matches(str(detail["loc"][-1]), known, n=1)
            problems.append(f"{place}: unknown key" + (f"; did you mean {close[0]!r}?" if close else ""))
        elif detail["type"] == "missing":
            problems.append(f"{place}: this key is needed")
        elif detail["type"] == "too_short" and _has_inner(details, detail["loc"]):
            continue  # the items are there, and their own mistakes are named
        else:
            problems.append(_said(place, detail))
    return problems


def _said(place: str, detail: Any) -> str:
    said = detail["msg"].removeprefix("Value error, ").replace("Input", "it").replace("object", "mapping")
    said = said.replace("valid array", "list").replace("an mapping", "a mapping")
    said = f"{said[:1].lower()}{said[1:]}"
    if detail["type"] == "value_error":
        return f"{place}: {said}" if place else said
    shown = repr(detail["input"])
    shown = shown if len(shown) <= 80 else f"{shown[:77]}..."
    return f"{place}: {said}, not {shown}{_hint(detail)}"


def _hint(detail: Any) -> str:
    value, hint = detail["input"], _WRITE.get(detail["type"].removesuffix("_type"), "")
    if isinstance(value, float) and value.is_integer() and detail["type"] == "int_type":
        return f": write {int(value)}"
    return f": {hint}" if hint and isinstance(value, str) else ""


def _keys(place: Sequence[int | str]) -> list[int | str]:
    """The place without the names of the kinds that pydantic tried for it."""
    return [part for part in place if not (isinstance(part, str) and part.startswith("kind:"))]


def _has_inner(details: Sequence[Any], place: tuple[int | str, ...]) -> bool:
    return any(len(other["loc"]) > len(place) and other["loc"][: len(place)] == place for other in details)


def _keys_at(kind: Any, place: Sequence[int | str]) -> list[str]:
    """The keys that a pydantic model has at a place below it."""
    model = kind
    for part in place:
        fields = getattr(model, "model_fields", {})
        if isinstance(part, str) and part in fields:
            annotation = fields[part].annotation
            inner = [annotation, *getattr(annotation, "__args__", ())]
            model = next((one for one in inner if inspect.isclass(one) and issubclass(one, BaseModel)), model)
    return list(getattr(model, "model_fields", {}))
