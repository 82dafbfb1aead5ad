"""YAML as recipes, sweeps, rules and `--set` are read: the core schema of YAML 1.2, and nothing by accident.

`1e-3` is a number; `no`, `on`, `2024-01-01`, `4_096` and `1:30` are texts; `010` and a key that comes twice are refused.
"""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING, Any, ClassVar

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode

from recstill.api.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator
    from pathlib import Path

_MOST_NODES, _MOST_BYTES = 100_000, 10_000_000
_WHOLE = re.compile(r"[-+]?(0|[1-9][0-9]*)\Z")
_LEADING_ZERO = re.compile(r"[-+]?0[0-9_]+\Z")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?\Z")
_TAGS = {
    "null": re.compile(r"(~|null|Null|NULL|)\Z"),
    "bool": re.compile(r"(true|True|TRUE|false|False|FALSE)\Z"),
    "int": re.compile(rf"({_WHOLE.pattern[:-2]}|{_LEADING_ZERO.pattern[:-2]}|0o[0-7]+|0x[0-9a-fA-F]+)\Z"),
    "float": re.compile(rf"({_FLOAT.pattern[:-2]}|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))\Z"),
    "merge": re.compile(r"<<\Z"),
}


class _Refused(yaml.YAMLError):
    """Something that YAML allows and recstill does not, with its line."""

    def __init__(self, node: Node, what: str) -> None:
        super().__init__(f"line {node.start_mark.line + 1}: {what}")


class _Loader(yaml.SafeLoader):
    """The core schema; see `load`."""

    yaml_implicit_resolvers = {}  # noqa: RUF012 - as PyYAML declares it
    yaml_constructors: ClassVar[dict[str | None, Any]] = {}

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        self.flatten_mapping(node)
        return super().construct_mapping(node, deep)


def _check_keys(node: MappingNode) -> None:
    """Before anything is merged: a merge puts keys of its own beside those that replace them."""
    seen: set[str] = set()
    for key, _ in node.value:
        name = _key_of(key)
        if name in seen:
            raise _Refused(key, f"the key {name!r} comes twice; leave one")
        seen.add(name)


def _check_tag(node: Node) -> None:
    """A tag that is written out must be one of the core schema, and say what the value is: `!!bool maybe` is not false."""
    kind = node.tag.removeprefix("tag:yaml.org,2002:")
    if isinstance(node, ScalarNode):
        fits = kind == "str" or (kind in _TAGS and _TAGS[kind].match(node.value) is not None)
    else:
        fits = kind == ("map" if isinstance(node, MappingNode) else "seq")
    if not fits:
        known = kind in (*_TAGS, "str", "map", "seq")
        what = f"the value is no {kind}, as its tag says" if known else f"unknown tag {node.tag!r}"
        raise _Refused(node, f"{what}; write plain values")


def _key_of(key: Node) -> str:
    if isinstance(key, ScalarNode) and key.tag in ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"):
        return _text(key)
    shown = repr(key.value) if isinstance(key, ScalarNode) else "a list or a mapping"
    raise _Refused(key, f"a key must be a text, not {shown}; put it in quotes")


def _text(node: ScalarNode) -> str:
    """JSON writes characters beyond the first plane as two halves, which PyYAML leaves apart; half of one is no text."""
    try:
        return str(node.value).encode("utf-16-le", "surrogatepass").decode("utf-16-le")
    except UnicodeDecodeError as error:
        raise _Refused(node, f"{node.value!r} has half of a character") from error


def _whole(_: _Loader, node: ScalarNode) -> int:
    text = str(node.value)
    if _LEADING_ZERO.match(text):
        plain = text.lstrip("+-0_") or "0"
        raise _Refused(node, f"{text}: a number with leading zeros; write {plain}, 0o{plain} for octal, or '{text}' for a text")
    if len(text) > 300:
        raise _Refused(node, f"a number of {len(text)} digits")
    return int(text, 0)


def _number(_: _Loader, node: ScalarNode) -> int | float:
    text = str(node.value).lower()
    if text.endswith((".inf", ".nan")):
        return float(text.replace(".", "", 1))
    value = float(text)
    if math.isinf(value):
        raise _Refused(node, f"{node.value}: a number too large")
    if value == 0 and re.search(r"[1-9]", text.partition("e")[0]):
        raise _Refused(node, f"{node.value}: a number so small that it would be 0")
    # 1e4 is as whole as 10000; 1e-3 and 4.0 are not.
    return int(value) if "." not in text and value.is_integer() and abs(value) < 2**53 else value


_SAFE = yaml.constructor.SafeConstructor
_Loader.yaml_constructors = {
    "tag:yaml.org,2002:null": _SAFE.construct_yaml_null,
    "tag:yaml.org,2002:bool": lambda _, node: node.value.lower() == "true",
    "tag:yaml.org,2002:int": _whole,
    "tag:yaml.org,2002:float": _number,
    "tag:yaml.org,2002:str": lambda _, node: _text(node),
    "tag:yaml.org,2002:seq": _SAFE.construct_yaml_seq,
    "tag:yaml.org,2002:map": _SAFE.construct_yaml_map,
}
for _tag, _pattern in _TAGS.items():
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", _pattern, None)


def read_yaml(path: Path, subject: str) -> Any:
    """Return what a file holds. Raise ConfigError with a sentence for what cannot be read."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(subject, [f"{path} cannot be read: {error.strerror or error}"]) from error
    if len(content) > _MOST_BYTES:
        raise ConfigError(subject, [f"{path} has {len(content):,} bytes; a file of this kind has less than {_MOST_BYTES:,}"])
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        found = f"line {line}: byte 0x{content[error.start]:02x} is no UTF-8; save the file as UTF-8"
        raise ConfigError(subject, [found]) from error
    return load(text, subject)


def load(text: str, subject: str) -> Any:
    """Return what a YAML text says. Raise ConfigError, which names the line, for what is not YAML or is refused."""
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _check(node, {}, [])
            # Written and read once more: what an anchor stands for in two places must be two things to `--set`.
            return json.loads(json.dumps(loader.construct_document(node)))
        finally:
            loader.dispose()
    except _Refused as error:
        raise ConfigError(subject, [str(error)]) from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        said = ", ".join(part for part in (error.context, error.problem) if part)
        raise ConfigError(subject, [f"not YAML: {place}{said}"]) from error
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(subject, [f"not YAML: {' '.join(str(error).split())}"]) from error
    except RecursionError as error:
        raise ConfigError(subject, ["not YAML: it is nested too deeply"]) from error


def not_finite(value: Any, place: str = "") -> Iterator[str]:
    """Yield the place of every number that is NaN or infinite, such as `distil.strategies.0.weight`."""
    if isinstance(value, float) and not math.isfinite(value):
        yield place
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in parts:
        yield from not_finite(part, f"{place}.{key}" if place else str(key))


def _check(node: Node, sizes: dict[int, int], above: list[int]) -> int:
    """Refuse what is no plain value, and return the number of nodes below with every alias written out: a few lines can stand
    for millions, or for themselves."""
    if id(node) in above:
        raise _Refused(node, "an anchor that holds itself")
    if id(node) in sizes:
        return sizes[id(node)]
    _check_tag(node)
    parts = node.value if isinstance(node.value, list) else []
    if isinstance(node, MappingNode):
        _check_keys(node)
        parts = [part for pair in parts for part in pair]
    above.append(id(node))
    sizes[id(node)] = 1 + sum(_check(part, sizes, above) for part in parts)
    above.pop()
    if sizes[id(node)] > _MOST_NODES:
        raise _Refused(node, f"with its anchors written out it has more than {_MOST_NODES:,} values")
    return sizes[id(node)]
