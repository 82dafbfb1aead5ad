"""What of a repository recstill cannot serve, found before anything is applied."""

from __future__ import annotations

from typing import TYPE_CHECKING

from feast import FileSource
from feast.value_type import ValueType

from recstill.api.errors import FeatureError
from recstill.features.dtypes import SERVED, arrow_type

if TYPE_CHECKING:
    from collections.abc import Iterator

    from feast import FeatureView
    from feast.repo_contents import RepoContents

_KEYS = (ValueType.UNKNOWN, ValueType.INT32, ValueType.INT64, ValueType.STRING)


def check_definitions(contents: RepoContents) -> None:
    """Raise FeatureError with all problems at once: tags, types, names."""
    seen: dict[str, str] = {}
    problems: list[str] = []
    for view in contents.feature_views:
        problems += _problems(view)
        for field in view.features:
            if field.name in seen:
                problems.append(f"feature {field.name!r} is in both {seen[field.name]!r} and {view.name!r}")
            seen[field.name] = view.name
    for entity in contents.entities:
        if entity.value_type not in _KEYS:
            problems.append(
                f"entity {entity.name!r} has keys of type {entity.value_type.name}: an id is an integer or a string; cast it "
                f"in the source"
            )
    if problems:
        raise FeatureError("The feature definitions have problems:\n" + "\n".join(f"  - {p}" for p in problems))


def _problems(view: FeatureView) -> Iterator[str]:
    availability = view.tags.get("availability")
    yield from _name_problems(view)
    if availability not in ("request", "training"):
        yield f"view {view.name!r} needs the tag availability: request or training"
    if availability == "training" and view.online:
        yield f"view {view.name!r} is for training only: set online=False"
    if availability == "request" and not view.online:
        yield f"view {view.name!r} is for requests: leave online=False out"
    if availability == "training":
        return
    if not view.entities or [column.name for column in view.entity_columns] == ["__dummy_id"]:
        yield (
            f"view {view.name!r} has no entity, so a request cannot look it up: give it an entity, or send its values "
            f"as context of the request"
        )
    for field in view.features:
        if arrow_type(str(field.dtype)) is None:
            yield (
                f"view {view.name!r}, feature {field.name!r}: type {field.dtype} cannot be served; use one of "
                f"{', '.join(SERVED)}, or an Array of one of them ({_way_out(str(field.dtype))}), or tag the view "
                f"availability: training"
            )


def _name_problems(view: FeatureView) -> Iterator[str]:
    for name in (view.name, *(field.name for field in view.features)):
        if not name.isprintable() or {"#", "/"} & set(name):
            yield f"view {view.name!r}: {name!r} cannot name a file: leave out '#', '/' and control characters"
    moments = [view.batch_source.timestamp_field] if isinstance(view.batch_source, FileSource) else []
    for name in (*moments, *(field.name for field in view.features)):
        if name.endswith("_y"):
            yield (
                f"view {view.name!r}: Feast's joins of files lose columns whose names end in '_y', such as {name!r}: give it "
                f"another name in the source, or a feature one in its field_mapping"
            )


def _way_out(kind: str) -> str:
    if kind == "ZonedTimestamp":
        return "the moment, as UnixTimestamp"
    if kind.startswith(("Array", "Set")):
        return "one feature per element, or a summary such as a mean or the newest"
    if "ytes" in kind:
        return "text, for example in hex, as String"
    if kind in ("Uuid", "TimeUuid", "Decimal"):
        return "its text, as String"
    return "one feature per value"
