"""What decides a result: named parts, a key over their content, and the difference of two in words."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

_DIGEST = re.compile(r"[0-9a-f]{16,64}")
_MOST_WORDS = 4
_ABSENT = object()


@dataclass(frozen=True)
class Inputs:
    """Everything that a result depends on, by part; each part is plain data, files and code are in it by their sha256.

    `titles` say what people call a part where its name does not: the file that the rules were read from.
    """

    parts: Mapping[str, Any]
    titles: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def key(self) -> str:
        """The sha256 over all parts; titles do not count."""
        return hashlib.sha256(canonical(self.parts).encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {"key": self.key, "parts": plain(self.parts), "titles": dict(self.titles)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Inputs:
        """Rebuild it from `to_json`."""
        return cls(dict(data["parts"]), dict(data["titles"]))

    def changes_since(self, earlier: Inputs) -> list[str]:
        """Say in words what differs from earlier inputs; the same inputs give no words."""
        before, after = plain(earlier.parts), plain(self.parts)
        words: list[str] = []
        for name in sorted({*before, *after}):
            if name in before and name in after and canonical(before[name]) == canonical(after[name]):
                continue
            title = self.titles.get(name)
            found = [] if title else list(_differences(name, before.get(name, _ABSENT), after.get(name, _ABSENT)))
            words += found or [f"{title or name} changed"]
        return words


def in_short(words: Sequence[str]) -> str:
    """Join what changed into one phrase; of many changes, the first few and the number of the others."""
    shown = ", ".join(words[:_MOST_WORDS])
    others = len(words) - _MOST_WORDS
    return f"{shown} and {others} more" if others > 0 else shown


def canonical(value: Any) -> str:
    """Return JSON that is the same text for the same content."""
    return json.dumps(plain(value), sort_keys=True, separators=(",", ":"))


def plain(value: Any) -> Any:
    """Return a value as JSON has it. Raise TypeError for what is no plain data: it would have no stable text."""
    if isinstance(value, Mapping):
        return {_key(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"{value!r} of type {type(value).__name__} is no plain data")


def _key(key: Any) -> str:
    # YAML has keys that are numbers: 1 and "1" are two keys, and stay two.
    return key if isinstance(key, str) else f"{type(key).__name__} {key!r}"


def _differences(path: str, before: Any, after: Any) -> Iterator[str]:
    if before is not _ABSENT and after is not _ABSENT and canonical(before) == canonical(after):
        return
    before, after = _by_name(before), _by_name(after)
    if isinstance(before, dict) and isinstance(after, dict):
        for name in dict.fromkeys([*before, *after]):
            yield from _differences(f"{path}.{name}", before.get(name, _ABSENT), after.get(name, _ABSENT))
    elif before is _ABSENT or before is None:
        yield f"{path} is new"
    elif after is _ABSENT or after is None:
        yield f"{path} is gone"
    elif _is_long(before) or _is_long(after):
        yield f"{path} changed"
    else:
        yield f"{path} {before} → {after}"


def _by_name(value: Any) -> Any:
    """A list of named things is compared thing by thing, wherever each stands."""
    if not isinstance(value, list) or not value or not all(isinstance(item, dict) and "name" in item for item in value):
        return value
    named = {str(item["name"]): item for item in value}
    return named if len(named) == len(value) else value


def _is_long(value: Any) -> bool:
    if isinstance(value, str):
        return len(value) > 60 or _DIGEST.fullmatch(value) is not None
    return isinstance(value, (dict, list)) and len(canonical(value)) > 60
